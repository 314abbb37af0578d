"""Remove directories that hold files of the subordinate ids.

Two steps, so that a kill in between loses nothing: one rename takes the directory out of the
store (`trash/`), then its files are deleted by the namespace's root, who may enter and change
everything below whatever its mode says. What a killed removal left is finished by the next.
"""

from __future__ import annotations

import errno
import os
import stat

from rootless.errors import StorageError, os_reason
from rootless.userns import keeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.paths import Paths


def discard(paths: Paths, path: str) -> None:
    """Take `path` out of the store and delete it. Raises StorageError when it cannot be taken."""
    if take(paths, path):
        empty(paths)


def take(paths: Paths, path: str) -> bool:
    """Only out of the store, for `empty` to delete later. False when there is nothing."""
    doomed = f"{paths.trash}/{path.rsplit('/', 1)[1]}.{os.getpid()}.{os.urandom(3).hex()}"
    try:
        os.makedirs(paths.trash, 0o711, exist_ok=True)
        try:
            os.rename(path, doomed)
        except PermissionError:
            # To move a directory is to write its `..`: only its owner may, or the namespace's root.
            _rename_inside(paths, path, doomed)
    except FileNotFoundError:
        return False
    except OSError as e:
        raise StorageError(f"cannot remove {path}: {os_reason(e)}") from None
    return True


def _rename_inside(paths: Paths, path: str, doomed: str) -> None:
    userns = keeper.open_userns(paths)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            keeper.enter(userns)
            os.rename(path, doomed)
            code = 0
        except OSError as e:
            code = e.errno or errno.EIO
        finally:
            os._exit(code)
    os.close(userns.fd)
    code = os.WEXITSTATUS(os.waitpid(child, 0)[1])
    if code:
        raise OSError(code, os.strerror(code), path)


def empty(paths: Paths) -> None:
    """Delete all that is in the trash. What cannot be deleted stays for the next time."""
    try:
        here = os.open(paths.trash, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        # The cheap way does when nothing belongs to another id.
        if _empty(here):
            return
        userns = keeper.open_userns(paths)
        child = os.fork()
        if child == 0:
            try:
                keeper.enter(userns)
                _empty(here)
            finally:
                os._exit(0)
        os.close(userns.fd)
        os.waitpid(child, 0)
    finally:
        os.close(here)


def _empty(trash: int) -> bool:
    """Rounds over the trash, as deep trees come back to its top, until one makes no progress."""
    before: set[str] = set()
    while True:
        names = set(os.listdir(trash))
        if not names or names == before:
            return not names
        for name in names:
            delete(trash, name, trash, 0)
        before = names


# Far below what the stack and the number of open files allow.
DEEPEST = 100


def delete(parent: int, name: str, trash: int, depth: int) -> bool:
    """rm -rf by descriptors: no path is walked, so no link is followed. True when it is gone."""
    try:
        os.unlink(name, dir_fd=parent)
        return True
    except FileNotFoundError:
        return True
    except OSError as e:
        if e.errno not in (errno.EISDIR, errno.EPERM, errno.EACCES):
            return False
    try:
        if depth == DEEPEST:
            os.rename(name, f"deep.{os.urandom(8).hex()}", src_dir_fd=parent, dst_dir_fd=trash)
            return True
        fd = _open_directory(parent, name)
        try:
            whole = True
            for entry in os.listdir(fd):
                whole = delete(fd, entry, trash, depth + 1) and whole
        finally:
            os.close(fd)
        if whole:
            os.rmdir(name, dir_fd=parent)
        return whole
    except FileNotFoundError:
        # Another empties the trash, too. Were this a failure, each could leave the rest to the
        # other.
        return True
    except OSError:
        return False


def _open_directory(parent: int, name: str) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, dir_fd=parent)
        mode = os.fstat(fd).st_mode
        if mode & 0o300 == 0o300:
            return fd
        os.fchmod(fd, stat.S_IMODE(mode) | 0o700)
        return fd
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=parent)
        return os.open(name, flags, dir_fd=parent)
