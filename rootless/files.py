"""Files that survive a kill at any instant, and locks between processes."""

from __future__ import annotations

import errno
import fcntl
import os

from rootless.errors import StorageError, os_reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """write(2) until all is written."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]


def write_atomic(path: str, data: bytes, mode: int = 0o600, durable: bool = False,
                 new: bool = False) -> None:
    """Replace `path` by `data`: a reader sees the old or the new file, never a part.

    `durable` also survives a power cut (fsync of the file and its directory). `new`: it must not
    exist, even if another makes it at this very moment. Raises StorageError.
    """
    head, tail = os.path.split(path)
    temporary = f"{head}/.{tail}.{os.getpid()}.{os.urandom(4).hex()}"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            write_all(fd, data)
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        if new:
            os.link(temporary, path)
            os.unlink(temporary)
        else:
            os.rename(temporary, path)
        if durable:
            sync_dir(head)
    except OSError as e:
        try:
            os.unlink(temporary)
        except OSError:
            pass
        raise StorageError(f"cannot write {path}: {os_reason(e)}",
                           hint=space_hint(e, head)) from None


def sync_dir(path: str) -> None:
    """Make renames within the directory durable; a filesystem that cannot is left alone."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):
            raise
    finally:
        os.close(fd)


def space_hint(error: OSError, where: str) -> str | None:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (f"free some space on the filesystem of {where}: rootless rmi removes images, "
                "rootless rm removes containers")
    return None


def read_bytes(path: str, limit: int = 64 << 20) -> bytes:
    """The whole of a regular file of at most `limit` bytes. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        size = os.fstat(fd).st_size
        if size > limit:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
        parts: list[bytes] = []
        while True:
            part = os.read(fd, max(size, 4096) + 1)
            if not part:
                return b"".join(parts)
            parts.append(part)
    finally:
        os.close(fd)


def lock_directory(path: str) -> int:
    """Descriptor of a directory that we hold alone; -1 when it has gone, also while we waited."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1
    there = False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        there = os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        pass
    finally:
        if not there:
            os.close(fd)
    return fd if there else -1


class Lock:
    """An advisory lock on a file, held until `release()` or the end of the process.

    flock(2): bound to the open file, so it is never kept by a killed process. Readers of our
    state take none.
    """

    def __init__(self, path: str, *, shared: bool = False, wait: bool = True) -> None:
        """Raises BlockingIOError when `wait` is false and another holds it."""
        self.path = path
        while True:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            held = False
            try:
                fcntl.flock(self._fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
                            | (0 if wait else fcntl.LOCK_NB))
                # The file may have been removed, or replaced, while we waited.
                held = os.path.samestat(os.fstat(self._fd), os.stat(path))
            except FileNotFoundError:
                continue
            finally:
                if not held:
                    os.close(self._fd)
            if held:
                return

    def fileno(self) -> int:
        """For a child that shall keep the lock as long as it lives."""
        return self._fd

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.release()
