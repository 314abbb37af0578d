"""Which files differ between two trees of layers.

Both are mounted side by side in one child and walked together, in the order of names. A file that
both have from the same layer is the same inode, as an overlay shows its layers' own numbers, and
is not read; only files of equal size that are not the same are compared byte by byte.

A change is what a program could notice: type, mode, owner, device, target of a link, extended
attributes, content. Times alone are none, as every build changes them. A directory in which
something differs counts as changed, as in `docker diff`; of what is gone only the top is named.
"""

from __future__ import annotations

import os
import stat

from rootless.errors import StorageError, os_reason
from rootless.files import write_all
from rootless.image.layer import STAT
from rootless.image.tree import attributes, remembered, walk
from rootless.record import record
from rootless.storage import merged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from rootless.paths import Paths
    from rootless.userns.keeper import Userns

ADDED, CHANGED, DELETED = "A", "C", "D"

_READ = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@record(frozen=True)
class Change:
    """`kind`: ADDED, CHANGED or DELETED."""

    kind: str
    path: bytes


def compare(paths: Paths, userns: Userns, old: list[str], new: list[str], *,
            raw: bool = False) -> list[Change]:
    """Changes from one list of layers (directories, top first) to another, by path.

    `raw`: each is one layer, to be looked at as it lies there, whiteouts and all, its root
    included. Raises StorageError.
    """
    try:
        out = os.open(paths.tmp, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise StorageError(f"cannot write in {paths.tmp}: {os_reason(e)}") from None

    def work() -> None:
        if raw:
            before, after = merged.bare(paths, old[0]), merged.bare(paths, new[0])
        else:
            before, after = merged.mount(paths, [old, new])
        lines: list[bytes] = []
        if raw and not _same(before, after, b".", os.fstat(before), os.fstat(after)):
            lines.append(CHANGED.encode() + b"/\0")
        for change in _changes(before, after):
            lines.append(change.kind.encode() + change.path + b"\0")
            if len(lines) > 1000:
                write_all(out, b"".join(lines))
                lines.clear()
        write_all(out, b"".join(lines))

    with os.fdopen(out, "rb") as f:
        merged.inside(paths, userns, work)
        f.seek(0)
        found = [Change(line[:1].decode(), line[1:]) for line in f.read().split(b"\0") if line]
    found.sort(key=lambda c: c.path)
    return found


def _changes(before: int, after: int) -> Iterator[Change]:
    todo = [b"/"]
    changed: set[bytes] = set()
    while todo:
        prefix = todo.pop()
        # By name, as a directory may have more subdirectories than we may have files open; on
        # trees that nobody can change no link can be slipped in.
        old = os.open(b"." + prefix, _DIRECTORY, dir_fd=before)
        new = os.open(b"." + prefix, _DIRECTORY, dir_fd=after)
        try:
            mine, theirs = set(os.listdir(old)), set(os.listdir(new))
            if mine != theirs:
                changed.add(prefix)
            for text in sorted(mine - theirs):
                yield Change(DELETED, prefix + os.fsencode(text))
            for text in sorted(theirs - mine):
                yield from _all(new, os.fsencode(text), prefix)
            for text in sorted(mine & theirs):
                name = os.fsencode(text)
                path = prefix + name
                here = os.stat(name, dir_fd=old, follow_symlinks=False)
                there = os.stat(name, dir_fd=new, follow_symlinks=False)
                if not _same(old, new, name, here, there):
                    changed.add(path + b"/" if stat.S_ISDIR(there.st_mode) else path)
                if stat.S_ISDIR(here.st_mode) and stat.S_ISDIR(there.st_mode):
                    todo.append(path + b"/")
                elif stat.S_ISDIR(there.st_mode):
                    yield from (c for c in _all(new, name, prefix) if c.path != path)
        finally:
            os.close(old)
            os.close(new)
    for path in _with_parents(changed):
        yield Change(CHANGED, path)


def _with_parents(changed: set[bytes]) -> set[bytes]:
    found: set[bytes] = set()
    for path in changed:
        path = path.rstrip(b"/")
        while path and path not in found:
            found.add(path)
            path = path.rpartition(b"/")[0]
    return found


def _all(parent: int, name: bytes, prefix: bytes) -> Iterator[Change]:
    """What is new, with everything below it."""
    yield Change(ADDED, prefix + name)
    if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        return
    fd = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        for _, _, path in walk(fd):
            yield Change(ADDED, prefix + name + b"/" + path)
    finally:
        os.close(fd)


def _noticed(parent: int, name: bytes) -> dict[str, bytes]:
    """Without what the engine notes on a layer for itself."""
    return {k: v for k, v in attributes(parent, name).items()
            if not k.startswith("user.rootless.") or k == STAT}


def _same(old: int, new: int, name: bytes, here: os.stat_result, there: os.stat_result) -> bool:
    mine, theirs = _noticed(old, name), _noticed(new, name)
    if remembered(here, mine) != remembered(there, theirs):
        return False
    if mine != theirs:
        return False
    if stat.S_ISLNK(here.st_mode):
        return os.readlink(name, dir_fd=old) == os.readlink(name, dir_fd=new)
    if not stat.S_ISREG(here.st_mode):
        return True
    if here.st_size != there.st_size:
        return False
    if (here.st_ino, here.st_mtime_ns, here.st_ctime_ns) == (
            there.st_ino, there.st_mtime_ns, there.st_ctime_ns):
        return True
    with open(os.open(name, _FILE, dir_fd=old), "rb", buffering=0) as a, \
            open(os.open(name, _FILE, dir_fd=new), "rb", buffering=0) as b:
        while data := a.read(_READ):
            if data != b.read(_READ):
                return False
    return True
