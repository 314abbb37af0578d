"""Files on their way into a container, out of it, or into a volume, as a tar in a pipe.

One process sends: it walks by descriptors and names what it copies `.`, and what is below `./...`.
Another receives: it decides from what it finds at the destination where `.` shall lie, as docker
does (`place`), and writes by the rules of a layer (`rootless.image.layer.Writer`), so that nothing
it is sent can lead out of the directory it was given, whoever made the links there.

What differs from a layer: nothing is called a whiteout, a directory is never replaced by a file
nor a file by a directory, and owners are the receiver's to choose.
"""

from __future__ import annotations

import errno
import os

from rootless.errors import Conflict, NotFound
from rootless.files import write_all
from rootless.image.layer import Writer, clean
from rootless.image.tar import DIRECTORY, LINK, Entry, Reader, show
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from rootless.userns.keeper import Userns

READ = 1 << 20
SMALL = 1 << 16
TOP = b"."


@record(frozen=True)
class Source:
    """`contents`: what is in the directory, and not the directory itself."""

    name: bytes
    directory: bool
    contents: bool = False


@record(frozen=True)
class Place:
    """`into`: below the destination, by the source's name; else the destination itself. `top`: the
    directory sent counts too, not only what is in it."""

    into: bool
    top: bool


def place(source: Source, destination: str, kind: str, *, parent: bool) -> Place:
    """docker's rules (docker-container-cp(1)). `kind`: directory, file or "" for what is there.
    `parent`: its directory exists. Raises Conflict, NotFound."""
    slash = destination.endswith(("/", "/."))
    if kind == "directory":
        return Place(not source.contents, not source.contents)
    if kind == "file":
        if source.directory:
            raise Conflict(f"cannot copy a directory to {destination}: it is a file")
        if slash:
            raise Conflict(f"cannot copy to {destination}: it is no directory")
        return Place(False, True)
    if not parent:
        raise NotFound(f"cannot copy to {destination}: there is no such directory: "
                       f"{os.path.dirname(destination.rstrip('/')) or '/'}")
    if slash and not source.directory:
        raise NotFound(f"cannot copy to {destination}: there is no such directory")
    return Place(False, True)


class Chunks:
    """What comes through a pipe, and how much it was."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.total = 0

    def __iter__(self) -> Chunks:
        return self

    def __next__(self) -> bytes:
        data = os.read(self._fd, READ)
        if not data:
            raise StopIteration
        self.total += len(data)
        return data


class Gathered:
    """Writes into a pipe, headers together: a `write` of each would be thousands of calls."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._small = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        if len(data) < SMALL:
            self._small += data
            if len(self._small) < SMALL:
                return
            data = b""
        self.flush()
        write_all(self._fd, data)

    def flush(self) -> None:
        write_all(self._fd, self._small)
        self._small = bytearray()


def wide_pipe() -> tuple[int, int]:
    """With room for a whole piece, where the user's share of such memory allows it."""
    import fcntl

    r, w = os.pipe()
    try:
        fcntl.fcntl(w, 1031, READ)      # F_SETPIPE_SZ, known to Python 3.10
    except OSError:
        pass
    return r, w


class Placed(Reader):
    """Entries under the names they are to have. `top`: with the one that is called `.`."""

    def __init__(self, source: Iterator[bytes], prefix: list[bytes], *, top: bool) -> None:
        super().__init__(source)
        self.prefix = prefix
        self.top = top
        self.seen = False       # anything at all
        self._held: Entry | None = None

    def peek(self) -> Entry | None:
        """The first entry, as it came; None where there is none."""
        try:
            self._held = super().__next__()
        except StopIteration:
            pass
        return self._held

    def __next__(self) -> Entry:
        while True:
            entry, self._held = self._held or super().__next__(), None
            self.seen = True
            parts = clean(entry.name)
            if parts or (self.top and (self.prefix or entry.kind == DIRECTORY)):
                entry.name = b"/".join([*self.prefix, *parts])
                if entry.kind == LINK:
                    entry.link = b"/".join([*self.prefix, *clean(entry.link, "link's target")])
                return entry


class Copier(Writer):
    """`owner`: of everything; None for that of each entry. `root`: a directory, which is closed by
    nobody here."""

    def __init__(self, userns: Userns, root: int, owner: tuple[int, int] | None = None) -> None:
        super().__init__(userns.uids, userns.gids, root)
        self._owner = owner

    def _whiteout(self, entry: Entry, parts: tuple[bytes, ...]) -> bool:
        return False

    def _make_directory(self, parent: int, name: bytes) -> None:
        try:
            os.mkdir(name, 0o755, dir_fd=parent)
        except FileExistsError:
            try:
                os.close(os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC,
                                 dir_fd=parent))
            except NotADirectoryError:
                raise Conflict(f"cannot overwrite {show(name)} with a directory: it is none"
                               ) from None

    def _cleared(self, parts: tuple[bytes, ...]) -> int:
        parent = self._at(parts[:-1])
        try:
            os.unlink(parts[-1], dir_fd=parent)
        except IsADirectoryError:
            raise Conflict(f"cannot overwrite {show(parts[-1])} with a file: it is a directory"
                           ) from None
        return parent

    def _create(self, entry: Entry, parts: tuple[bytes, ...]) -> int:
        try:
            return super()._create(entry, parts)
        except OSError as e:
            if e.errno != errno.EBUSY:
                raise
        # A file that is mounted there, as /etc/hosts: it is written, it cannot be replaced.
        return os.open(parts[-1], os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
                       | os.O_NONBLOCK, dir_fd=self._at(parts[:-1]))

    def _attributes(self, fd: int, entry: Entry) -> None:
        if self._owner is not None:
            entry.uid, entry.gid = self._owner
        super()._attributes(fd, entry)

    def _special(self, parent: int, name: bytes, entry: Entry) -> None:
        if self._owner is not None:
            entry.uid, entry.gid = self._owner
        super()._special(parent, name, entry)


class HostCopier(Copier):
    """Files on the host belong to whoever copies. `left_out`: devices, which only root may make."""

    def __init__(self, userns: Userns, root: int) -> None:
        super().__init__(userns, root)
        self.left_out: list[bytes] = []

    def _device(self, entry: Entry, parts: tuple[bytes, ...], reader: Reader) -> None:
        self.left_out.append(entry.name)

    def _attributes(self, fd: int, entry: Entry) -> None:
        for name, value in entry.xattrs.items():
            if name.startswith(b"user."):
                try:
                    os.setxattr(fd, name, value)
                except OSError as e:
                    if e.errno not in (errno.ENOTSUP, errno.EPERM, errno.ENOSPC, errno.E2BIG):
                        raise
        if entry.mode & 0o7000 or entry.kind == DIRECTORY:
            os.fchmod(fd, entry.mode)
        os.utime(fd, ns=(entry.mtime, entry.mtime))

    def _special(self, parent: int, name: bytes, entry: Entry) -> None:
        os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)
