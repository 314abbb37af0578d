"""A tree of files as entries of a tar: the way back from what `rootless.image.layer` writes.

Runs where the owners can be read, in the user's namespace. What a namespace of the user could not
hold, and `user.rootless.stat` remembers, is given back: owners beyond the map, devices. What was
changed since counts, though: an owner is taken from there only where the file belongs to root now,
as it did when its owner was put there.

The order is that of the names, so the same tree gives the same archive.
"""

from __future__ import annotations

import errno
import os
import stat

from rootless.errors import StorageError
from rootless.image.layer import OPAQUE, STAT
from rootless.image.tar import CHAR, DEVICE, DIRECTORY, FIFO, FILE, LINK, SYMLINK, Entry, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from rootless.image.pax import Writer

_READ = 1 << 20
_OURS = ("user.rootless.", "user.overlay.", "user.fuseoverlayfs.")
_KINDS = {stat.S_IFREG: FILE, stat.S_IFDIR: DIRECTORY, stat.S_IFLNK: SYMLINK, stat.S_IFIFO: FIFO,
          stat.S_IFCHR: CHAR, stat.S_IFBLK: DEVICE}


def pack(root: int, tar: Writer, prefix: bytes = b"", *, layer: bool = False,
         avoid: frozenset[int] = frozenset(), only: frozenset[bytes] | None = None) -> None:
    """Everything below the directory `root`, without itself, as docker's export has it.
    `prefix` comes before every name. `avoid`: as `walk` has it. `layer`: the tree is an overlay's
    upper directory, and what it hides is told in OCI's words (image-spec, layer.md: whiteouts).
    `only`: paths that count; None for all.

    Raises OSError, StorageError.
    """
    links: dict[tuple[int, int], bytes] = {}
    for parent, name, path in walk(root, avoid):
        if only is not None and path not in only:
            continue
        path = prefix + path
        try:
            st = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            continue            # a container runs there, and removed it
        if stat.S_ISSOCK(st.st_mode):
            continue            # no tar can hold one
        first = links.get((st.st_dev, st.st_ino))
        if first is not None and not stat.S_ISDIR(st.st_mode):
            entry = Entry(path, LINK, 0)
            entry.link = first
            _owner(entry, st)
            tar.entry(entry)
            continue
        if layer and stat.S_ISCHR(st.st_mode) and st.st_rdev == 0:
            tar.entry(_mark(path[:-len(name)] + b".wh." + name))
            continue
        if st.st_nlink > 1 and not stat.S_ISDIR(st.st_mode):
            links[st.st_dev, st.st_ino] = path
        _add(parent, name, path, st, tar)
        if layer and stat.S_ISDIR(st.st_mode) and hides(parent, name):
            tar.entry(_mark(path + b"/.wh..wh..opq"))


def _mark(path: bytes) -> Entry:
    entry = Entry(path, FILE, 0)
    entry.mode = 0o644
    return entry


def hides(parent: int, name: bytes) -> bool:
    """Is the directory opaque?"""
    try:
        return os.getxattr(b"/proc/self/fd/%d/%s" % (parent, name), OPAQUE) == b"y"
    except OSError:
        return False


def pack_one(parent: int, name: bytes, path: bytes, tar: Writer,
             avoid: frozenset[int] = frozenset()) -> None:
    """What has the name in the directory `parent`, as `path`, with all that is below it."""
    st = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if stat.S_ISSOCK(st.st_mode):
        raise StorageError(f"cannot copy {show(name)}: it is a socket")
    _add(parent, name, path, st, tar)
    if stat.S_ISDIR(st.st_mode):
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC,
                     dir_fd=parent)
        try:
            pack(fd, tar, path + b"/", avoid=avoid)
        finally:
            os.close(fd)


def walk(root: int, avoid: frozenset[int] = frozenset()) -> Iterator[tuple[int, bytes, bytes]]:
    """(descriptor of the directory, name in it, path) of everything, a directory before what is
    in it. The descriptor is good until the next step. What lies on the devices to `avoid` is left
    out, but for the directory they are mounted on."""
    stack = [(os.dup(root), sorted(map(os.fsencode, os.listdir(root)), reverse=True), b"")]
    try:
        while stack:
            here, names, prefix = stack[-1]
            if not names:
                os.close(stack.pop()[0])
                continue
            name = names.pop()
            path = prefix + name
            yield here, name, path
            try:
                fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                             | os.O_NONBLOCK, dir_fd=here)
            except OSError as e:
                if e.errno in (errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ENOENT):
                    continue
                if e.errno == errno.EMFILE:
                    raise StorageError(f"cannot walk {show(path)}: the directories are nested too "
                                       "deeply", hint="ulimit -n 65536") from None
                raise
            if avoid and os.fstat(fd).st_dev in avoid:
                os.close(fd)
                continue
            stack.append((fd, sorted(map(os.fsencode, os.listdir(fd)), reverse=True), path + b"/"))
    finally:
        for fd, _, _ in stack:
            os.close(fd)


def _owner(entry: Entry, st: os.stat_result) -> None:
    entry.mode, entry.uid, entry.gid = st.st_mode & 0o7777, st.st_uid, st.st_gid
    entry.mtime = st.st_mtime_ns


def attributes(parent: int, name: bytes) -> dict[str, bytes]:
    """Extended attributes of what has the name, which may be a symbolic link."""
    path = b"/proc/self/fd/%d/%s" % (parent, name)
    found = {}
    for key in os.listxattr(path, follow_symlinks=False):
        if key.startswith("user.") or key == "security.capability":
            found[key] = os.getxattr(path, key, follow_symlinks=False)
    return found


def remembered(st: os.stat_result, xattrs: dict[str, bytes]) -> tuple[int, int, int, int]:
    """(mode with type, uid, gid, device) as the image has them."""
    mode, uid, gid, device = st.st_mode, st.st_uid, st.st_gid, st.st_rdev
    fields = xattrs.get(STAT, b"").split(b":")
    try:
        numbers = [int(fields[0]), int(fields[1]), int(fields[2], 8), *map(int, fields[3:])]
    except (ValueError, IndexError):
        return mode, uid, gid, device
    uid = numbers[0] if uid == 0 else uid
    gid = numbers[1] if gid == 0 else gid
    if len(numbers) == 5 and stat.S_ISREG(mode) and st.st_size == 0:
        mode, device = stat.S_IFMT(numbers[2]) | mode & 0o7777, os.makedev(*numbers[3:])
    return mode, uid, gid, device


def _add(parent: int, name: bytes, path: bytes, st: os.stat_result, tar: Writer) -> None:
    xattrs = attributes(parent, name)
    mode, uid, gid, device = remembered(st, xattrs)
    kind = _KINDS[stat.S_IFMT(mode)]
    entry = Entry(path, kind, st.st_size if kind == FILE else 0)
    _owner(entry, st)
    entry.uid, entry.gid = uid, gid
    entry.xattrs = {os.fsencode(k): v for k, v in xattrs.items() if not k.startswith(_OURS)}
    if kind in (CHAR, DEVICE):
        entry.major, entry.minor = os.major(device), os.minor(device)
    elif kind == SYMLINK:
        entry.link = os.readlink(name, dir_fd=parent)
    if kind != FILE:
        tar.entry(entry)
        return
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=parent)
    try:
        if st.st_blocks * 512 < st.st_size:
            entry.extents = _extents(fd, st.st_size)
        tar.entry(entry)
        for offset, length in entry.extents if entry.extents is not None else [(0, st.st_size)]:
            _body(fd, offset, length, path, tar)
    finally:
        os.close(fd)


def _extents(fd: int, size: int) -> list[tuple[int, int]] | None:
    """Where the data is; None for a file without holes (small ones have no blocks at all)."""
    found: list[tuple[int, int]] = []
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as e:
            if e.errno != errno.ENXIO:
                raise
            break                                   # a hole up to the end
        at = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        if start < size:
            found.append((start, at - start))
    return None if found == [(0, size)] else found


def _body(fd: int, offset: int, length: int, path: bytes, tar: Writer) -> None:
    """Exactly that much: a file that a running container makes shorter meanwhile ends in zeros,
    as in GNU tar."""
    while length:
        data = os.pread(fd, min(length, _READ), offset)
        if not data:
            data = bytes(min(length, _READ))
        tar.body(data)
        offset += len(data)
        length -= len(data)
