"""What a container has changed, read from its upper directory alone.

The overlay notes every change there: a file that is in the upper directory was made or written, a
character device 0/0 says that a name is gone, an opaque directory that nothing of those below
shows. Only the names that were touched are looked up in the layers below; what changed is what it
costs. Times alone are no change, and neither is what the engine left to mount on: an empty file or
directory at the place of a mount, and its parents where they hold nothing else.
"""

from __future__ import annotations

import os
import stat

from rootless.errors import UsageError
from rootless.files import write_all
from rootless.image.difference import ADDED, CHANGED, DELETED, Change
from rootless.image.tree import attributes, hides, walk
from rootless.storage import merged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.container.store import Container
    from rootless.userns.keeper import Userns

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def own_layers(container: Container, what: str) -> list[str]:
    """Directories of its image's layers, top first. `what` cannot be done where they are not in
    the store: raises UsageError."""
    data = container.data
    if data["host_root"]:
        raise UsageError(f"cannot {what} {container.name}: its root filesystem is this machine's "
                         "own")
    if data.get("flat"):
        raise UsageError(f"cannot {what} {container.name}: it stands on a squashfs file, "
                         f"{data['flat']}")
    return [container.paths.layer(d) for d in reversed(data["layers"])]


def diff(container: Container, userns: Userns) -> list[Change]:
    """By path. Raises UsageError, StorageError."""
    layers = own_layers(container, "compare")
    stubs = mount_points(container)
    out = os.memfd_create("changes")

    def work() -> None:
        upper, (lower,) = opened(container), merged.mount(container.paths, [layers])
        write_all(out, b"".join(c.kind.encode() + c.path + b"\0"
                                for c in changes(upper, lower, stubs)))

    with os.fdopen(out, "rb") as f:
        merged.inside(container.paths, userns, work)
        f.seek(0)
        return [Change(line[:1].decode(), line[1:]) for line in f.read().split(b"\0") if line]


def opened(container: Container) -> int:
    """In a child that stands in the store: the upper directory."""
    return os.open(f"containers/{container.id}/upper", _DIRECTORY)


def mount_points(container: Container) -> frozenset[bytes]:
    return frozenset(os.fsencode(os.path.normpath(m["destination"]))
                     for m in container.config()["mounts"])


def changes(upper: int, lower: int, stubs: frozenset[bytes]) -> list[Change]:
    """`upper`: an overlay's upper directory, `lower`: what it lies on, mounted. `stubs`: places of
    mounts. Sorted by path, with a slash in front."""
    found: dict[bytes, str] = {}
    held: set[bytes] = set()            # directories with a stub in them
    alike: set[bytes] = set()           # directories that are as below
    below = {b"": True}                 # directories of the upper tree: are they there below, too?
    for parent, name, plain in walk(upper):
        path = b"/" + plain
        above = path[:-len(name) - 1]
        try:
            st = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            continue                    # it runs, and removed it
        old = _stat(plain, lower) if below[above] else None
        is_directory = stat.S_ISDIR(st.st_mode)
        if is_directory:
            below[path] = old is not None and stat.S_ISDIR(old.st_mode)
        if stat.S_ISCHR(st.st_mode) and st.st_rdev == 0:
            if old is not None:
                found[path] = DELETED
        elif old is None and path in stubs and (is_directory or st.st_size == 0):
            if is_directory:
                found[path] = ADDED     # unless it is empty
                held.add(path)
            while above:
                held.add(above)
                above = above.rpartition(b"/")[0]
        elif old is None:
            found[path] = ADDED
        elif is_directory and below[path]:
            found[path] = CHANGED
            if hides(parent, name):
                found.update(_hidden(parent, name, plain, lower))
            elif _same_directory(parent, name, st, plain, old, lower):
                alike.add(path)
        else:
            found[path] = CHANGED
    _forget_stubs(found, held, alike)
    return [Change(found[path], path) for path in sorted(found)]


def _forget_stubs(found: dict[bytes, str], held: set[bytes], alike: set[bytes]) -> None:
    """Directories that are new because of a mount point, or as they were, and hold no change."""
    holds: dict[bytes, int] = {}
    for path in found:
        above = path.rpartition(b"/")[0]
        holds[above] = holds.get(above, 0) + 1
    for path in sorted(held | alike, key=len, reverse=True):
        kind = found.get(path)
        if holds.get(path) or kind is None or (kind == CHANGED and path not in alike):
            continue
        del found[path]
        holds[path.rpartition(b"/")[0]] -= 1


def _stat(path: bytes, root: int) -> os.stat_result | None:
    """The parents are known to be directories there: no link is followed on the way."""
    try:
        return os.stat(path, dir_fd=root, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _hidden(parent: int, name: bytes, plain: bytes, lower: int) -> dict[bytes, str]:
    """What an opaque directory has no more."""
    here, there = os.open(name, _DIRECTORY, dir_fd=parent), os.open(plain, _DIRECTORY, dir_fd=lower)
    try:
        gone = set(os.listdir(there)) - set(os.listdir(here))
        return {b"/" + plain + b"/" + os.fsencode(n): DELETED for n in gone}
    finally:
        os.close(here)
        os.close(there)


def _same_directory(parent: int, name: bytes, st: os.stat_result, plain: bytes,
                    old: os.stat_result, lower: int) -> bool:
    if (st.st_mode, st.st_uid, st.st_gid) != (old.st_mode, old.st_uid, old.st_gid):
        return False
    mine, theirs = attributes(parent, name), attributes(lower, plain)
    return _users(mine) == _users(theirs)


def _users(values: dict[str, bytes]) -> dict[str, bytes]:
    return {k: v for k, v in values.items() if not k.startswith("user.overlay.")}
