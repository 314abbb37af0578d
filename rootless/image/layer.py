"""Write the entries of a layer's tar into a directory, as overlayfs wants to find them.

Runs in a process whose root is that directory (`unpack` makes it so) and which is root in the
user's namespace. That the tree cannot be left is the kernel's guarantee; what an entry may touch
inside it is decided here, as docker and containerd decide it:

* A name is cleaned as text. One that would climb out is refused; a leading slash means nothing.
* Missing parents are made, and something else in their place gives way. A symbolic link in the
  middle of a name, made by this layer, leads to its target inside the layer: this module reads
  the link and walks on itself, the kernel is never asked to follow one.
* What stands at the very name is replaced; only a directory survives a directory.
* A hard link needs its target in the same layer.
* `.wh.NAME` says that the layers below lose NAME: a character device 0/0, unless this layer has
  a NAME of its own, before or after. A directory that comes together with its whiteout hides
  what is below (`user.overlay.opaque`), as `.wh..wh..opq` inside it would ask.

What a user's namespace cannot hold is kept in `user.rootless.stat` of the file as
`uid:gid:mode[:major:minor]` (mode is octal and has the type): owners that have no place in the
map, which become root, and devices, which become empty files. Linux has no such attributes on
symbolic links and fifos; the owner of those is lost.
Attributes that would command the engine's own filesystems are dropped, and so are all that are
neither `user.` nor `security.capability`: labels and the like belong to the host.
"""

from __future__ import annotations

import errno
import os
import stat

from rootless.errors import ImageError
from rootless.image.tar import (
    CHAR,
    DEVICE,
    DIRECTORY,
    FIFO,
    FILE,
    LINK,
    SYMLINK,
    Entry,
    Reader,
    show,
)
from rootless.storage.rootdir import IMPLIED
from rootless.storage.rootdir import OPAQUE as OPAQUE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.userns.subid import Extent

STAT = "user.rootless.stat"

_WHITEOUT = b".wh."
_META = b".wh..wh."
_OPAQUE_MARK = b".wh..wh..opq"
_NOT_OBEYED = (b"user.overlay.", b"user.fuseoverlayfs.", b"user.rootless.", b"user.containers.")
_CAPABILITY = b"security.capability"

# Open directories kept for the entries to come; far below any limit on open files.
_KEPT = 128
# As the kernel's own.
_MOST_LINKS = 40
# Attributes of directories wait in memory for the end.
_MOST_DIRECTORIES = 1 << 20

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_TYPES = {CHAR: stat.S_IFCHR, DEVICE: stat.S_IFBLK, DIRECTORY: stat.S_IFDIR, FILE: stat.S_IFREG}


def clean(name: bytes, what: str = "entry") -> tuple[bytes, ...]:
    """Components of a name, below the root of the layer. Raises ImageError for one that leaves."""
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if parts:
                parts.pop()
            elif name[:1] != b"/":
                raise ImageError(f"the layer is hostile: {show(name)}: this {what} is outside it")
        elif part and part != b".":
            parts.append(part)
    return tuple(parts)


class _Ids:
    """Which ids have a place in the namespace."""

    def __init__(self, extents: tuple[Extent, ...]) -> None:
        self._ranges = [(e.inside, e.inside + e.count) for e in extents]

    def __contains__(self, number: int) -> bool:
        return any(first <= number < end for first, end in self._ranges)


class Writer:
    """Writes into the current directory, or one that is open as `root`: names cannot lead out of
    it. What they do when something else is there already a subclass may decide.

    The umask must be 0.
    """

    def __init__(self, uids: tuple[Extent, ...], gids: tuple[Extent, ...], root: int = -1) -> None:
        self._uids, self._gids = _Ids(uids), _Ids(gids)
        self._root = root if root >= 0 else os.open(".", _DIRECTORY_FLAGS)
        self._open: dict[tuple[bytes, ...], int] = {}
        self._directories: dict[tuple[bytes, ...], Entry] = {}
        self.written = 0        # bytes of files, without holes

    def write(self, reader: Reader) -> None:
        """Everything. Raises ImageError, or OSError of the filesystem."""
        makers = {FILE: self._file, DIRECTORY: self._directory, SYMLINK: self._symlink,
                  LINK: self._link, FIFO: self._fifo, CHAR: self._device, DEVICE: self._device}
        for entry in reader:
            make = makers.get(entry.kind)
            if make is None:
                if entry.kind in b"VNs":    # a label, an index of names, a socket: no files
                    continue
                raise ImageError(f"cannot unpack {show(entry.name)}: unknown type {entry.kind!r}")
            parts = clean(entry.name)
            if not parts:
                if entry.kind != DIRECTORY:
                    raise ImageError("the layer is hostile: its root is not a directory")
                self._directories[()] = entry
                continue
            try:
                if _WHITEOUT in entry.name and self._whiteout(entry, parts):
                    continue
                make(entry, parts, reader)
            except OSError as e:
                if e.errno in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL):
                    raise ImageError(f"cannot unpack {show(entry.name)}: "
                                     f"{os.strerror(e.errno)}") from None
                raise
        self._finish()

    # ---- the walk ------------------------------------------------------------------------------

    def _at(self, parts: tuple[bytes, ...]) -> int:
        """A descriptor of the directory, which is made where it is missing. Good until the next
        call."""
        if not parts:
            return self._root
        found = self._open.get(parts)
        if found is not None:
            return found
        return self._walk(parts)[0]

    def _walk(self, parts: tuple[bytes, ...]) -> tuple[int, tuple[bytes, ...]]:
        """(descriptor, where it really is): each symbolic link is read, its target walked."""
        here: tuple[bytes, ...] = ()
        fd = self._root
        todo = list(reversed(parts))
        links = 0
        while todo:
            name = todo.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                here = here[:-1]
                fd = self._step(here)
                continue
            child = (*here, name)
            known = self._open.get(child)
            if known is None:
                target = self._enter(fd, name, child)
                if target is not None:
                    links += 1
                    if links > _MOST_LINKS:
                        raise ImageError(f"cannot unpack {show(b'/'.join(parts))}: "
                                         "too many symbolic links on the way")
                    if target.startswith(b"/"):
                        here, fd = (), self._root
                    todo += reversed(target.split(b"/"))
                    continue
                known = self._open[child]
            here, fd = child, known
        return fd, here

    def _step(self, parts: tuple[bytes, ...]) -> int:
        """A directory that was just walked through: no link on the way."""
        fd = self._root
        for depth in range(1, len(parts) + 1):
            known = self._open.get(parts[:depth])
            if known is None:
                known = os.open(parts[depth - 1], _DIRECTORY_FLAGS, dir_fd=fd)
                self._keep(parts[:depth], known)
            fd = known
        return fd

    def _enter(self, parent: int, name: bytes, parts: tuple[bytes, ...]) -> bytes | None:
        """Open the directory `name` into the cache; or the target when it is a symbolic link."""
        try:
            fd = os.open(name, _DIRECTORY_FLAGS, dir_fd=parent)
        except FileNotFoundError:
            os.mkdir(name, 0o755, dir_fd=parent)
            fd = os.open(name, _DIRECTORY_FLAGS, dir_fd=parent)
        except OSError as e:
            if e.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            try:
                return os.readlink(name, dir_fd=parent)
            except OSError as not_link:
                if not_link.errno != errno.EINVAL:
                    raise
            self._make_directory(parent, name)
            fd = os.open(name, _DIRECTORY_FLAGS, dir_fd=parent)
        self._keep(parts, fd)
        return None

    def _keep(self, parts: tuple[bytes, ...], fd: int) -> None:
        if len(self._open) >= _KEPT:
            for old in list(self._open)[:_KEPT // 2]:
                os.close(self._open.pop(old))
        self._open[parts] = fd

    def _forget(self) -> None:
        """After a directory was removed: what is open may be gone."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def _make_directory(self, parent: int, name: bytes) -> None:
        """Make it or find it; whatever else is there gives way."""
        try:
            os.mkdir(name, 0o755, dir_fd=parent)
            return
        except FileExistsError:
            pass
        st = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(st.st_mode):
            return
        os.unlink(name, dir_fd=parent)
        os.mkdir(name, 0o755, dir_fd=parent)
        if _is_whiteout(st):
            fd = os.open(name, _DIRECTORY_FLAGS, dir_fd=parent)
            try:
                os.setxattr(fd, OPAQUE, b"y")
            finally:
                os.close(fd)

    def _cleared(self, parts: tuple[bytes, ...]) -> int:
        """Remove what an earlier entry of the same name made; the parent's descriptor."""
        parent, real = self._walk(parts[:-1])
        try:
            os.unlink(parts[-1], dir_fd=parent)
            return parent
        except IsADirectoryError:
            _remove_tree(parent, parts[-1])
        gone = (*real, parts[-1])
        for known in [p for p in self._directories if p[:len(gone)] == gone]:
            del self._directories[known]
        for fd in self._open.values():      # some of these may be gone
            os.close(fd)
        self._open.clear()
        return self._at(parts[:-1])

    # ---- kinds of entries ----------------------------------------------------------------------

    def _directory(self, entry: Entry, parts: tuple[bytes, ...], reader: Reader) -> None:
        if len(self._directories) >= _MOST_DIRECTORIES:
            raise ImageError(f"cannot unpack {show(entry.name)}: the layer has more than "
                             f"{_MOST_DIRECTORIES} directories")
        parent, real = self._walk(parts[:-1])
        self._make_directory(parent, parts[-1])
        self._directories[real + parts[-1:]] = entry

    def _file(self, entry: Entry, parts: tuple[bytes, ...], reader: Reader) -> None:
        fd = self._create(entry, parts)
        try:
            if entry.extents is None:
                while True:
                    pieces = reader.pieces()
                    if not pieces:
                        break
                    _write_pieces(fd, pieces)
            else:
                self._write_sparse(fd, entry, reader)
            self.written += entry.size
            self._attributes(fd, entry)
        finally:
            os.close(fd)

    def _create(self, entry: Entry, parts: tuple[bytes, ...]) -> int:
        parent = self._at(parts[:-1])
        try:
            return os.open(parts[-1], _NEW_FILE, entry.mode & 0o777, dir_fd=parent)
        except FileExistsError:
            parent = self._cleared(parts)
            return os.open(parts[-1], _NEW_FILE, entry.mode & 0o777, dir_fd=parent)

    def _write_sparse(self, fd: int, entry: Entry, reader: Reader) -> None:
        extents = entry.extents or []
        spare: list[memoryview] = []
        for offset, length in extents:
            os.lseek(fd, offset, os.SEEK_SET)
            while length:
                if not spare:
                    spare = reader.pieces(1)
                piece = spare.pop()
                if len(piece) > length:
                    spare = [piece[length:]]
                    piece = piece[:length]
                _write_pieces(fd, [piece])
                length -= len(piece)
        os.ftruncate(fd, entry.size)

    def _symlink(self, entry: Entry, parts: tuple[bytes, ...], reader: Reader) -> None:
        if not entry.link:
            raise ImageError(f"cannot unpack {show(entry.name)}: a symbolic link to nothing")
        parent = self._at(parts[:-1])
        try:
            os.symlink(entry.link, parts[-1], dir_fd=parent)
        except FileExistsError:
            parent = self._cleared(parts)
            os.symlink(entry.link, parts[-1], dir_fd=parent)
        self._special(parent, parts[-1], entry)

    def _fifo(self, entry: Entry, parts: tuple[bytes, ...], reader: Reader) -> None:
        parent = self._at(parts[:-1])
        try:
            os.mkfifo(parts[-1], entry.mode & 0o777, dir_fd=parent)
        except FileExistsError:
            parent = self._cleared(parts)
            os.mkfifo(parts[-1], entry.mode & 0o777, dir_fd=parent)
        self._special(parent, parts[-1], entry)
        if entry.mode & 0o7000:
            os.chmod(parts[-1], entry.mode, dir_fd=parent)

    def _link(self, entry: Entry, parts: tuple[bytes, ...], reader: Reader) -> None:
        target = clean(entry.link, "link's target")
        missing = ImageError(f"cannot unpack {show(entry.name)}: it is a hard link to "
                             f"{show(entry.link)}, which is no file of this layer")
        if not target:
            raise missing
        # Another call may close what this one opened.
        source = os.dup(self._at(target[:-1]))
        try:
            st = os.stat(target[-1], dir_fd=source, follow_symlinks=False)
            if stat.S_ISDIR(st.st_mode) or _is_whiteout(st):
                raise missing
            parent = self._at(parts[:-1])
            try:
                there = os.stat(parts[-1], dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                pass
            else:
                if os.path.samestat(there, st):
                    return
                parent = self._cleared(parts)
            os.link(target[-1], parts[-1], src_dir_fd=source, dst_dir_fd=parent,
                    follow_symlinks=False)
        except FileNotFoundError:
            raise missing from None
        finally:
            os.close(source)

    def _device(self, entry: Entry, parts: tuple[bytes, ...], reader: Reader) -> None:
        """No namespace of a user may have one; podman leaves them out, here they are remembered.

        A device 0/0 is no exception: a whiteout is only what the layer format calls one.
        """
        fd = self._create(entry, parts)
        try:
            self._attributes(fd, entry)
        finally:
            os.close(fd)

    def _whiteout(self, entry: Entry, parts: tuple[bytes, ...]) -> bool:
        """True when the entry is none to be written."""
        name = parts[-1]
        if name == _OPAQUE_MARK and not any(p.startswith(_WHITEOUT) for p in parts[:-1]):
            os.setxattr(self._at(parts[:-1]), OPAQUE, b"y")
            return True
        if any(p.startswith(_META) for p in parts):     # what aufs kept for itself
            return True
        hidden = name[len(_WHITEOUT):]
        if any(p.startswith(_WHITEOUT) for p in parts[:-1]) or hidden in (b"", b".", b".."):
            raise ImageError(f"the layer is malformed: {show(entry.name)}: no such whiteout is "
                             "possible")
        parent = self._at(parts[:-1])
        try:
            os.mknod(hidden, stat.S_IFCHR, 0, dir_fd=parent)
        except FileExistsError:
            st = os.stat(hidden, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(st.st_mode):
                os.setxattr(self._at((*parts[:-1], hidden)), OPAQUE, b"y")
        return True

    # ---- attributes ----------------------------------------------------------------------------

    def _attributes(self, fd: int, entry: Entry) -> None:
        """Of an open file or directory. The order matters: a new owner clears set-id bits and
        capabilities, and any change sets times."""
        uid = entry.uid if entry.uid in self._uids else 0
        gid = entry.gid if entry.gid in self._gids else 0
        if uid or gid:
            os.fchown(fd, uid, gid)
        device = entry.kind in (CHAR, DEVICE)
        if uid != entry.uid or gid != entry.gid or device:
            mode = entry.mode | _TYPES[entry.kind]
            numbers = f":{entry.major}:{entry.minor}" if device else ""
            os.setxattr(fd, STAT, f"{entry.uid}:{entry.gid}:{mode:o}{numbers}".encode())
        for name, value in entry.xattrs.items():
            if name == _CAPABILITY or (name.startswith(b"user.")
                                       and not name.startswith(_NOT_OBEYED)):
                _set_xattr(fd, name, value, entry)
        if entry.mode & 0o7000 or entry.kind == DIRECTORY:
            os.fchmod(fd, entry.mode)
        os.utime(fd, ns=(entry.mtime, entry.mtime))

    def _special(self, parent: int, name: bytes, entry: Entry) -> None:
        """Owner and time of what cannot be opened."""
        uid = entry.uid if entry.uid in self._uids else 0
        gid = entry.gid if entry.gid in self._gids else 0
        if uid or gid:
            os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
        os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)

    def _finish(self) -> None:
        """Directories, now that nothing is written into them any more. The root is left to
        `finish_root`: its owner may shut others out."""
        for parts, entry in self._directories.items():
            if parts:
                self._attributes(self._at(parts), entry)

    def finish_root(self) -> None:
        entry = self._directories.get(())
        if entry is None:
            os.fchmod(self._root, 0o755)
            os.setxattr(self._root, IMPLIED, b"y")
        else:
            self._attributes(self._root, entry)


def _remove_tree(parent: int, name: bytes) -> None:
    """No recursion, as the depth is the tar's to choose: down, and up again through `..`."""
    here = os.open(name, _DIRECTORY_FLAGS, dir_fd=parent)
    trail = [name]
    waiting = [[os.fsencode(n) for n in os.listdir(here)]]
    try:
        while trail:
            if waiting[-1]:
                below = waiting[-1].pop()
                try:
                    os.unlink(below, dir_fd=here)
                    continue
                except IsADirectoryError:
                    step = os.open(below, _DIRECTORY_FLAGS, dir_fd=here)
                trail.append(below)
                waiting.append([os.fsencode(n) for n in os.listdir(step)])
            else:
                waiting.pop()
                step = os.open("..", _DIRECTORY_FLAGS, dir_fd=here)
                os.rmdir(trail.pop(), dir_fd=step)
            os.close(here)
            here = step
    finally:
        os.close(here)


def _is_whiteout(st: os.stat_result) -> bool:
    return stat.S_ISCHR(st.st_mode) and st.st_rdev == 0


def _write_pieces(fd: int, pieces: list[memoryview]) -> None:
    total = sum(map(len, pieces))
    written = os.writev(fd, pieces)
    while written < total:
        # A full disk or a limit cuts a write short before it fails.
        total -= written
        while pieces and written >= len(pieces[0]):
            written -= len(pieces.pop(0))
        pieces[0] = pieces[0][written:]
        written = os.writev(fd, pieces)


def _set_xattr(fd: int, name: bytes, value: bytes, entry: Entry) -> None:
    try:
        os.setxattr(fd, name, value)
    except OSError as e:
        # A namespace of one id may be refused capabilities; the file is there without them.
        if name == _CAPABILITY and e.errno in (errno.EPERM, errno.EINVAL):
            return
        if e.errno in (errno.E2BIG, errno.ERANGE, errno.EINVAL):
            raise ImageError(f"cannot unpack {show(entry.name)}: attribute {show(name)}: "
                             f"{os.strerror(e.errno)}") from None
        raise
