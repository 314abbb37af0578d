"""A container's files as its processes see them, for one process of ours.

A child becomes root of the user's namespace and stands in the container's root directory:

- of one that runs, by its first process's /proc/PID/root, with everything that is mounted there;
- of one that does not, in a mount namespace of its own, where the layers are mounted as at a start,
  with the volumes and directories that the container will have. The container stays locked
  meanwhile, as two overlays must not share an upper directory.

No path is trusted to the kernel alone: who looks for one inside uses `resolve` or `canonical`,
which take symbolic links as the container would, so none leads out (CVE-2018-15664).
"""

from __future__ import annotations

import errno
import os

from rootless import linux
from rootless.errors import Conflict, HostError, StorageError, os_reason
from rootless.runtime import init, launch, plan, squash
from rootless.storage import merged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rootless.container.store import Container
    from rootless.userns.keeper import Userns

_INSIDE = linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_MAGICLINKS
# Of the kernel and of ours: what a stopped container has there are empty directories.
NOT_SHOWN = ("/proc", "/sys", "/dev")


class View:
    """`work` gets a descriptor of the root directory. Call `wait` or `abandon`."""

    def __init__(self, container: Container, userns: Userns, work: Callable[[int], None]) -> None:
        """Raises NotFound, HostError."""
        self._lock = -1
        begun = False
        try:
            self._child = self._begin(container, userns, work)
            begun = True
        finally:
            if not begun:
                self._release()

    def _begin(self, container: Container, userns: Userns,
               work: Callable[[int], None]) -> merged.Child:
        state = container.state()
        if not state.running:
            # Who starts or removes it holds the lock; afterwards it may be running.
            self._lock = container.lock()
            state = container.state()
            if state.running:
                self._release()
        if state.elsewhere:
            raise HostError(f"container {container.name} runs on {state.elsewhere}, not here",
                            hint=f"run this command on {state.elsewhere}")
        if state.running:
            pid = _visible(container, state.pid)

            def running() -> None:
                try:
                    os.chdir(f"/proc/{pid}/root")
                except FileNotFoundError:
                    raise _ended(container) from None
                root = _here()
                if container.state().pid != state.pid:
                    raise _ended(container)
                work(root)

            return merged.Child(container.paths, userns, running)
        return stopped(container, userns, work, steps(container.config()),
                       readonly=container.config()["root"]["readonly"])

    def wait(self) -> None:
        try:
            self._child.wait()
        finally:
            self._release()

    def abandon(self) -> None:
        self._child.abandon()
        self._release()

    def _release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def stopped(container: Container, userns: Userns, work: Callable[[int], None],
            mounts: list[tuple[Any, ...]], *, readonly: bool = False) -> merged.Child:
    """Of a container that the caller has locked. `mounts`: steps of a plan."""
    from rootless.container import start

    root: dict[str, Any] = {
        "mounts": start.root_mounts(container, userns), "target": container.dir + "/rootfs",
        "store": container.paths.data, "volatile": False}
    flat = start.flat_file(container)
    served: list[tuple[int, int]] = []

    def before() -> None:
        if flat is not None:
            served.append(squash.serve(*flat[:2]))

    def mounted() -> None:
        if flat is not None:
            squash.mount(*served[0], flat[2], flat[1])
        launch.mount_root(root)
        here = _here()
        for step in mounts:
            init.take(here, step)
        for at, _, _, _, _ in root["mounts"] if readonly else ():
            linux.mount_setattr(here, at, 0 if at else linux.AT_EMPTY_PATH,
                                attr_set=linux.MOUNT_ATTR_RDONLY)
        work(here)

    return merged.Child(container.paths, userns, mounted, before)


def steps(config: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What of the host's is mounted into it; a source that is gone is passed over."""
    found = []
    for mount in config["mounts"]:
        at = mount["destination"]
        if mount["type"] == "bind" and not any(at == p or at.startswith(p + "/")
                                               for p in NOT_SHOWN):
            kind, source, where, attrs, recursive, _, spread = plan.mount_step(mount)
            found.append((kind, source, where, attrs, recursive, "optional", spread))
    return found


def _here() -> int:
    return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _ended(container: Container) -> Conflict:
    return Conflict(f"container {container.name} has just ended", hint="try again")


def _visible(container: Container, pid: int) -> int:
    """A process whose /proc directory can be entered: --init's own is closed to everybody."""
    if not container.config()["annotations"]["org.rootless.init"]:
        return pid
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as f:
            return int(f.read().split()[0])
    except (OSError, IndexError):
        raise _ended(container) from None


def resolve(root: int, path: bytes, flags: int) -> int:
    """Open a path inside, links and all; O_CLOEXEC is added. Raises OSError."""
    return linux.openat2(root, path.lstrip(b"/") or b".", flags, resolve=_INSIDE)


def engines_own(root: int, parts: list[bytes]) -> frozenset[int]:
    """Devices of the kernel's filesystems in a container that runs, which nobody means who asks
    for a directory (`parts`, from the root) that only contains them."""
    found = set()
    for name in NOT_SHOWN:
        try:
            found.add(os.stat(name[1:], dir_fd=root, follow_symlinks=False).st_dev)
        except FileNotFoundError:
            continue
    here = resolve(root, b"/".join(parts), os.O_PATH | os.O_NOFOLLOW)
    asked = os.fstat(here).st_dev
    os.close(here)
    found -= {os.fstat(root).st_dev}
    return frozenset() if asked in found else frozenset(found)


def canonical(root: int, path: bytes, *, follow: bool) -> list[bytes]:
    """The names from the root to what `path` means there, none of which is a symbolic link now,
    except with `follow` false the last. What is missing counts as what it says.

    Raises StorageError for links that lead in circles, OSError.
    """
    done: list[bytes] = []
    todo = [n for n in reversed(path.split(b"/")) if n not in (b"", b".")]
    links = 0
    while todo:
        name = todo.pop()
        if name == b"..":
            del done[-1:]
            continue
        target = _target(root, done, name) if todo or follow else None
        if target is None:
            done.append(name)
            continue
        links += 1
        if links > init.LINKS:
            raise StorageError(f"cannot find {os.fsdecode(path)}: {os.strerror(errno.ELOOP)}")
        if target.startswith(b"/"):
            done = []
        todo += [n for n in reversed(target.split(b"/")) if n not in (b"", b".")]
    return done


def _target(root: int, directory: list[bytes], name: bytes) -> bytes | None:
    """Where a link leads; None for anything else."""
    try:
        parent = resolve(root, b"/".join(directory), os.O_PATH | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return os.readlink(name, dir_fd=parent)
    except OSError as e:
        if e.errno in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR):
            return None
        raise StorageError(f"cannot read {os.fsdecode(name)}: {os_reason(e)}") from None
    finally:
        os.close(parent)
