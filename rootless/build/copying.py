"""COPY, ADD and WORKDIR: files into a layer of their own, written through an overlay.

A child is root of the user's namespace, mounts the stage's layers with a new upper directory, and
makes that its root before it writes anything: no link in an image leads out of it. Sources are
reached by descriptors that were opened before. What overlayfs makes of it (parents copied up, what
is replaced whited out) is the layer.
"""

from __future__ import annotations

import os
import stat

from rootless import linux
from rootless.errors import StorageError, os_reason
from rootless.files import space_hint, write_all
from rootless.runtime import users
from rootless.storage import merged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rootless.build.context import Entry, Found, Tree
    from rootless.build.modes import Mode
    from rootless.paths import Paths
    from rootless.userns.keeper import Userns

_PIECE = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def write(paths: Paths, userns: Userns, place: str, below: list[str],
          work: Callable[[list[int]], None], sources: list[list[str]]) -> None:
    """Run `work` in such a child, over the layers `below` and `place`/upper. It is given the root
    of each tree in `sources` (lists of layers, top first). Raises what it raises."""
    for name in ("upper", "work", "empty"):
        os.mkdir(f"{place}/{name}", 0o755)

    def child() -> None:
        opened = _opened(paths, place, below)
        # Covers tmp/, for this process.
        roots = merged.mount(paths, sources) if sources else []
        _mount(*opened)
        os.umask(0)
        try:
            work(roots)
        except OSError as e:
            raise StorageError(f"cannot write the files: {_named(e)}{os_reason(e)}",
                               hint=space_hint(e, paths.tmp)) from None

    if below:
        from rootless.storage import rootdir

        rootdir.dress(paths, userns, below, place + "/upper")
    merged.inside(paths, userns, child)


def _named(error: OSError) -> str:
    return f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""


def _opened(paths: Paths, place: str, below: list[str]) -> tuple[list[int], int, int, int]:
    """Descriptors of the layers, top first, upper, work and the mount point. The working directory
    is the store, as parents of it may be closed to the namespace."""
    def opened(path: str) -> int:
        return os.open(os.path.relpath(path, paths.data),
                       os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    target = opened(place + "/empty")
    return ([opened(p) for p in dict.fromkeys(below)] or [target], opened(place + "/upper"),
            opened(place + "/work"), target)


def _mount(layers: list[int], upper: int, work: int, target: int) -> None:
    """The overlay, as the root of this process, where it stands."""
    os.chdir("/proc/self/fd")
    linux.mount("overlay", str(target), "overlay", 0,
                f"lowerdir={':'.join(map(str, layers))},upperdir={upper},workdir={work},"
                "userxattr,volatile")
    os.fchdir(target)
    os.chdir("../empty")            # the descriptor is of what lies below the mount
    os.chroot(".")


# ---- in the child: our root is the stage's ------------------------------------------------------

class Owner:
    """Whose the copies are, and their mode. `uid` None: as in the source. `chosen`: what --chown
    says, as numbers."""

    def __init__(self, chown: str, mode: Mode | None, *, keep: bool) -> None:
        self.mode = mode
        self.uid: int | None = None
        self.gid: int | None = None
        self.chosen: tuple[int, int] | None = None
        if chown:
            user = users.resolve(chown, [])
            # A lone number is both (Dockerfile reference, COPY --chown).
            self.chosen = user.uid, user.uid if chown.isdigit() else user.gid
            self.uid, self.gid = self.chosen
        elif not keep:
            self.uid = self.gid = 0

    def bits(self, mode: int) -> int:
        """The permissions of something that has `mode`, with its type."""
        if self.mode is None:
            return stat.S_IMODE(mode)
        return self.mode.apply(stat.S_IMODE(mode), stat.S_ISDIR(mode))

    def give(self, fd: int, st: os.stat_result) -> None:
        uid = st.st_uid if self.uid is None else self.uid
        gid = st.st_gid if self.gid is None else self.gid
        os.fchown(fd, uid, gid)
        os.fchmod(fd, self.bits(st.st_mode))
        os.utime(fd, ns=(st.st_mtime_ns, st.st_mtime_ns))


def make_directories(path: str, owner: Owner | None = None, links: int = 40) -> None:
    """With the parents that are missing. A link that leads nowhere gets what it leads to."""
    done = ""
    for part in path.split("/"):
        if part in ("", "."):
            continue
        done += "/" + part
        try:
            os.mkdir(done, 0o755)
        except FileExistsError:
            if os.path.isdir(done):
                continue
            if not links or not os.path.islink(done):
                raise
            target = os.path.join(os.path.dirname(done), os.readlink(done))
            make_directories(os.path.normpath(target), owner, links - 1)
            continue
        if owner is not None and owner.uid is not None:
            os.chown(done, owner.uid, -1 if owner.gid is None else owner.gid)


def copy(tree: Tree, found: list[Found], dest: str, owner: Owner) -> None:
    """`dest` is absolute; a slash at its end, or several sources, make it a directory."""
    into = dest.endswith("/") or len(found) > 1 or os.path.isdir(dest)
    if not found:
        make_directories(dest, owner)       # a wildcard that matches nothing
    for one in found:
        target = dest if one.directory or not into else f"{dest.rstrip('/')}/{one.name}"
        make_directories(os.path.dirname(target.rstrip("/")) or "/", owner)
        _copy_one(tree, one, target.rstrip("/") or "/", owner)


def _copy_one(tree: Tree, found: Found, target: str, owner: Owner) -> None:
    made: list[tuple[str, os.stat_result]] = []
    for entry in tree.entries(found):
        path = f"{target.rstrip('/')}/{entry.name}" if entry.name else target
        if stat.S_ISDIR(entry.st.st_mode):
            if _directory(path) and entry.path:
                made.append((path, entry.st))
        else:
            _replace(path)
            _other(tree, entry, path, owner)
    # Their times last: writing into them changes those.
    for path, st in reversed(made):
        fd = os.open(path, _DIRECTORY)
        try:
            owner.give(fd, st)
        finally:
            os.close(fd)


def _directory(path: str) -> bool:
    """False when it was there before: then it stays as it is."""
    try:
        os.mkdir(path, 0o755)
        return True
    except FileExistsError:
        if os.path.isdir(path):
            return False
    os.unlink(path)
    os.mkdir(path, 0o755)
    return True


def _replace(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        raise StorageError(f"cannot copy to {path}: it is a directory") from None


def _other(tree: Tree, entry: Entry, path: str, owner: Owner) -> None:
    st = entry.st
    if stat.S_ISREG(st.st_mode):
        source = tree.open(entry.path)
        try:
            target = os.open(path, _NEW, 0o600)
            try:
                _bytes(source, target)
                _attributes(source, target)
                owner.give(target, st)
            finally:
                os.close(target)
        finally:
            os.close(source)
        return
    if stat.S_ISLNK(st.st_mode):
        os.symlink(entry.link, path)
    elif stat.S_ISFIFO(st.st_mode):
        os.mkfifo(path, 0o600)
        os.chmod(path, owner.bits(st.st_mode))
    else:
        raise StorageError(f"cannot copy {entry.path}: it is no file, directory or link")
    os.chown(path, st.st_uid if owner.uid is None else owner.uid,
             st.st_gid if owner.gid is None else owner.gid, follow_symlinks=False)
    os.utime(path, ns=(st.st_mtime_ns, st.st_mtime_ns), follow_symlinks=False)


def _bytes(source: int, target: int) -> None:
    # copy_file_range(2) goes from an overlay to nothing but an overlay, since Linux 5.19.
    while data := os.read(source, _PIECE):
        write_all(target, data)
        if len(data) < _PIECE:
            return


def _attributes(source: int, target: int) -> None:
    for name in os.listxattr(source):
        if name == "security.capability" or (name.startswith("user.") and not name.startswith(
                ("user.overlay.", "user.rootless.", "user.fuseoverlayfs."))):
            os.setxattr(target, name, os.getxattr(source, name))


def fetched_file(path: str, source: int, owner: Owner) -> None:
    """From an open file, with its mode and time."""
    _replace(path)
    os.lseek(source, 0, os.SEEK_SET)
    target = os.open(path, _NEW, 0o600)
    try:
        _bytes(source, target)
        owner.give(target, os.fstat(source))
    finally:
        os.close(target)


def text_file(path: str, data: bytes, owner: Owner, mode: int, time: int) -> None:
    """A file that a Dockerfile holds itself. `time`: of its change, in seconds."""
    _replace(path)
    fd = os.open(path, _NEW, 0o600)
    try:
        write_all(fd, data)
        os.fchown(fd, owner.uid or 0, owner.gid or 0)
        os.fchmod(fd, owner.bits(stat.S_IFREG | mode))
        os.utime(fd, (time, time))
    finally:
        os.close(fd)
