"""RUN --mount made real: what a command sees beside its root, and no layer keeps.

    bind    from the context, a stage or an image: what is selected is copied aside and mounted;
            a command's changes of it are thrown away
    cache   a directory in the store that outlives the build, found by its id
    tmpfs
    secret  a file in the run directory for the time of the step, or a variable
    ssh     the socket of an agent
"""

from __future__ import annotations

import fcntl
import os

from rootless.build import context, copying
from rootless.build.context import Tree
from rootless.build.mounts import SSH_AGENT, MountError
from rootless.build.state import digest
from rootless.container.wanted import Mount
from rootless.errors import BuildError, os_reason
from rootless.files import read_bytes, write_atomic
from rootless.storage import merged, trash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Union

    from rootless.build import instructions as ins
    from rootless.build import mounts
    from rootless.build.context import Found
    from rootless.build.stage import StageRun
    from rootless.build.state import State

    Source = Union[Tree, State]

CACHE_PREFIX = "mount-"
LARGEST_SECRET = 500 << 10      # as BuildKit's


class RunMounts:
    """Of one RUN. `key` is of what the result may depend on: content that is read, and of caches,
    secrets and agents only where they are. As a context manager it makes `mounts` and `env`, and
    takes away what must not stay."""

    def __init__(self, run: StageRun, wish: ins.Run) -> None:
        self._run = run
        self._wish = wish
        self._workdir = run.settings.workdir
        self.mounts: list[Mount] = []
        self.env: list[tuple[str, str]] = []
        self._places: list[str] = []
        self._private: list[str] = []
        self._locks: list[int] = []
        self._sources = [self._source(m) if m.type == "bind" else None for m in wish.mounts]

    def _source(self, mount: mounts.Mount) -> Source:
        if not mount.from_:
            return self._run.build.context()
        named = self._run.build.context_named(mount.from_)
        return named if named is not None else self._run.source(mount.from_)

    def _select(self, tree: Tree, mount: mounts.Mount) -> list[Found]:
        return tree.select((mount.source or "/",), where=self._wish.where)

    def _target(self, mount: mounts.Mount) -> str:
        try:
            return mount.path(self._workdir)
        except MountError as e:
            raise self._wish.where.error(str(e)) from None

    def key(self) -> str:
        parts = []
        for mount, source in zip(self._wish.mounts, self._sources):
            parts.append(repr(mount))
            if isinstance(source, Tree):
                parts.append(context.digest(source, self._select(source, mount)))
            elif source is not None:
                parts.append(source.key())
        script = self._wish.script
        if script is not None:
            parts.append(script[1].decode("utf-8", "surrogateescape"))
        return digest("mounts", *parts)

    def __enter__(self) -> RunMounts:
        entered = False
        try:
            for mount, source in zip(self._wish.mounts, self._sources):
                if source is not None:
                    self._bind(mount, source)
                elif mount.type == "cache":
                    self._cache(mount)
                elif mount.type == "tmpfs":
                    size = () if mount.size is None else (f"size={mount.size}",)
                    self.mounts.append(Mount("tmpfs", "tmpfs", self._target(mount),
                                             ("nosuid", "nodev", *size)))
                elif mount.type == "secret":
                    self._secret(mount)
                else:
                    self._ssh(mount)
            self._script()
            entered = True
        finally:
            if not entered:
                self.__exit__()
        return self

    def __exit__(self, *_: object) -> None:
        for place in self._places:
            self._run.build.workspace.discard(place)
        for path in self._private:
            os.unlink(path)
        for fd in self._locks:
            os.close(fd)
        self._places, self._private, self._locks = [], [], []

    def _place(self) -> str:
        place = self._run.build.workspace.fresh()
        self._places.append(place)
        return place

    # ---- kinds ---------------------------------------------------------------------------------

    def _script(self) -> None:
        """A here-document that is a program."""
        if self._wish.script is None:
            return
        path, data = self._wish.script
        place = f"{self._place()}/script"
        write_atomic(place, data)
        os.chmod(place, 0o755)
        if os.geteuid() == 0:
            self._run.build.own(place)
        self.mounts.append(Mount("bind", place, path, ("bind", "ro")))

    def _bind(self, mount: mounts.Mount, source: Source) -> None:
        build, place = self._run.build, self._place()
        layers = [] if isinstance(source, Tree) else [source.directories(build.paths)]

        def work(roots: list[int]) -> None:
            tree = source if isinstance(source, Tree) else Tree(roots[0])
            copying.copy(tree, self._select(tree, mount), "/it",
                         copying.Owner("", None, keep=not isinstance(source, Tree)))

        copying.write(build.paths, build.userns, place, [], work, layers)
        self.mounts.append(Mount("bind", f"{place}/upper/it", self._target(mount),
                                 ("rbind", "ro") if mount.readonly else ("rbind",)))

    def _cache(self, mount: mounts.Mount) -> None:
        if mount.from_:
            raise self._wish.where.error("a cache mount cannot begin with files of an image or "
                                         "stage here", token=mount.from_,
                                         hint="leave out from=, and copy them in the command")
        build = self._run.build
        name = f"{build.paths.cache}/{CACHE_PREFIX}{digest(mount.id)}"
        path, number = name, 0
        while not self._lock(path, mount.sharing):
            number += 1
            path = f"{name}.{number}"
        if not os.path.isdir(path):
            self._make_cache(path, mount)
        self.mounts.append(Mount("bind", path, self._target(mount),
                                 ("rbind", "ro") if mount.readonly else ("rbind",)))

    def _lock(self, path: str, sharing: str) -> bool:
        """False when it is private to another step."""
        fd = os.open(path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._locks.append(fd)
        try:
            fcntl.flock(fd, {"private": fcntl.LOCK_EX | fcntl.LOCK_NB,
                             "locked": fcntl.LOCK_EX}.get(sharing, fcntl.LOCK_SH))
            return True
        except BlockingIOError:
            return False

    def _make_cache(self, path: str, mount: mounts.Mount) -> None:
        build = self._run.build
        fresh = build.workspace.fresh()
        where = os.path.relpath(fresh, build.paths.data)

        def give() -> None:
            os.chown(where, mount.uid or 0, mount.gid or 0)
            os.chmod(where, 0o755 if mount.mode is None else mount.mode)
            os.rename(where, os.path.relpath(path, build.paths.data))

        try:
            merged.inside(build.paths, build.userns, give)
        finally:
            if os.path.isdir(fresh):
                trash.discard(build.paths, fresh)

    def _secret(self, mount: mounts.Mount) -> None:
        build = self._run.build
        data = build.options.secrets.get(mount.id)
        if data is None:
            if mount.required:
                raise self._wish.where.error(f"the secret {mount.id} is needed and not given",
                                             token=mount.id,
                                             hint=f"rootless build --secret id={mount.id},src=FILE")
            return
        if mount.env:
            self.env.append((mount.env, data.decode("utf-8", "surrogateescape")))
        if not mount.target:
            return
        path = f"{build.paths.run}/secret-{os.urandom(12).hex()}"
        write_atomic(path, data)
        self._private.append(path)
        os.chmod(path, 0o400 if mount.mode is None else mount.mode)
        if mount.uid or mount.gid or os.geteuid() == 0:
            build.own(path, mount.uid or 0, mount.gid or 0)
        self.mounts.append(Mount("bind", path, self._target(mount), ("bind", "ro")))

    def _ssh(self, mount: mounts.Mount) -> None:
        name = mount.id or "default"
        socket = self._run.build.options.ssh.get(name)
        if not socket:
            if mount.required:
                raise self._wish.where.error(f"the ssh agent {name} is needed and not given",
                                             hint=f"rootless build --ssh {name}")
            return
        target = self._target(mount) if mount.target else SSH_AGENT
        self.mounts.append(Mount("bind", socket, target, ("bind",)))
        if all(name != "SSH_AUTH_SOCK" for name, _ in self.env):
            self.env.append(("SSH_AUTH_SOCK", target))


def secret(text: str, env: Mapping[str, str]) -> tuple[str, bytes]:
    """`id=NAME[,src=FILE|env=VARIABLE]` as (name, content). Without a source it is the variable of
    its name, else the file. Raises BuildError."""
    words = dict(w.partition("=")[::2] for w in text.split(","))
    name = words.get("id", "")
    if not name or set(words) - {"id", "src", "source", "env", "type"}:
        raise BuildError(f"invalid secret: {text}", hint="id=NAME,src=FILE or id=NAME,env=VARIABLE")
    source = words.get("src") or words.get("source") or ""
    variable = words.get("env") or ("" if source else name)
    if variable in env:
        return name, os.fsencode(env[variable])
    if words.get("env"):
        raise BuildError(f"cannot find secret {name}: the variable {variable} is not set")
    try:
        return name, read_bytes(os.path.expanduser(source or name), LARGEST_SECRET)
    except OSError as e:
        raise BuildError(f"cannot read secret {name}: {source or name}: {os_reason(e)}",
                         hint=f"--secret id={name},src=FILE") from None
