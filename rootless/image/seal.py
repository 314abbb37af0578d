"""An overlay's upper directory becomes a layer: what a container or a step of a build changed.

    child, root of the user's namespace        the command
      walk the directory, tar     --pipe-->      sha256 (diffID), gzip, sha256 --> blob
                                                 move the directory to layers/<hex>

Nothing is copied and no lower layer is read: it costs what was changed. Directory and blob come
from one walk, so they agree. The caller holds `store.hold`: neither has a name yet.

What the engine itself left in the directory is no change. A mount point that had to be made is
taken away again (`Stubs`), and so are its parents where they are as below.
"""

from __future__ import annotations

import errno
import os
import stat

from rootless import linux
from rootless.errors import StorageError, os_reason
from rootless.files import Lock, space_hint, write_all, write_atomic
from rootless.image import compress, store
from rootless.image.layer import OPAQUE
from rootless.image.pax import Writer
from rootless.image.tree import pack, walk
from rootless.image.unpack import MAP, SIZE, layer_present, map_of
from rootless.record import record
from rootless.storage import merged, trash
from rootless.storage.rootdir import IMPLIED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Union

    from rootless.paths import Paths
    from rootless.userns.keeper import Userns

    Write = Callable[[Union[bytes, memoryview]], None]

_BLOCK = 1 << 18
_TAR = 1 << 16


@record(frozen=True)
class Sealed:
    """A layer: digest of its tar, digest and size of the compressed blob."""

    diff_id: str
    blob: str
    size: int


@record(frozen=True)
class Stubs:
    """Paths (absolute, in the container) that were mounted on; `below`: directories of the layers
    under the one to be sealed, top first."""

    paths: tuple[str, ...]
    below: tuple[str, ...]


def seal(paths: Paths, userns: Userns, upper: str, *, stubs: Stubs | None = None,
         latest: int | None = None) -> Sealed:
    """`upper`: the directory, in the store; it is gone afterwards. `latest`: no time stamp in the
    layer is after that second. Raises StorageError."""
    sealed = keep(paths, userns, lambda write: _pack(paths, userns, upper, write, stubs, latest))
    assert sealed is not None           # the end of an archive at the least
    _publish(paths, userns, upper, sealed.diff_id)
    write_atomic(store.note_path(paths, sealed.diff_id), sealed.blob.encode())
    return sealed


def keep(paths: Paths, userns: Userns, send: Callable[[Write], None]) -> Sealed | None:
    """The tar that `send` writes, in a child that is root of the user's namespace, as a compressed
    blob in the store; None when it writes nothing. Raises what `send` raises, StorageError."""
    import hashlib

    r, w = os.pipe()
    inner = hashlib.sha256()
    compressor = compress.stream("gzip")
    writer = store.BlobWriter(paths)
    child = None
    try:
        child = merged.Child(paths, userns, lambda: _gathered(w, r, send))
        os.close(w)
        w = -1
        empty = True
        while data := os.read(r, _BLOCK):
            empty = False
            inner.update(data)
            writer.write(compressor.compress(data))
        done, child = child, None
        done.wait()
        if empty:
            return None
        writer.write(compressor.flush())
        blob, size = writer.commit(None, None)
    finally:
        for fd in (r, w):
            if fd >= 0:
                os.close(fd)
        if child is not None:
            child.abandon()
        writer.abort()
    return Sealed("sha256:" + inner.hexdigest(), blob, size)


def _publish(paths: Paths, userns: Userns, upper: str, diff_id: str) -> None:
    place = paths.layer(diff_id)
    # As whoever unpacks a layer of this digest does it.
    with Lock(f"{paths.tmp}/unpack-{diff_id[7:]}.lock") as lock:
        if layer_present(paths, userns, diff_id):
            trash.discard(paths, upper)
        else:
            trash.discard(paths, place)
            try:
                os.rename(upper, place)
            except PermissionError:
                # To move a directory is to write its `..`, which takes its owner.
                merged.inside(paths, userns, lambda: os.rename(
                    os.path.relpath(upper, paths.data), os.path.relpath(place, paths.data)))
            except OSError as e:
                raise StorageError(f"cannot keep layer {diff_id}: {os_reason(e)}",
                                   hint=space_hint(e, paths.layers)) from None
        os.unlink(lock.path)


# ---- in the child ------------------------------------------------------------------------------

def _gathered(out: int, other: int, send: Callable[[Write], None]) -> None:
    os.close(other)
    held = bytearray()

    def write(data: bytes | memoryview) -> None:
        # A header is half a kilobyte; a write and a hash of each would be thousands of calls.
        held.extend(data)
        if len(held) >= _TAR:
            write_all(out, held)
            held.clear()

    send(write)
    write_all(out, held)


def _pack(paths: Paths, userns: Userns, upper: str, write: Write, stubs: Stubs | None,
          latest: int | None) -> None:
    root = os.open(os.path.relpath(upper, paths.data),
                   os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if stubs is not None and stubs.paths:
        (below,) = merged.mount(paths, [list(stubs.below)])
        for path in stubs.paths:
            _take_away(root, below, path.strip("/").split("/"))
    if latest is not None:
        _clamp(root, latest * 10**9)
    tar = Writer(write)
    pack(root, tar, layer=True)
    tar.finish()
    for name, value in ((SIZE, b"%d" % _bytes(root)), (MAP, map_of(userns)), (IMPLIED, b"")):
        os.setxattr(root, name, value)


def _bytes(root: int) -> int:
    """Of all files, a hard link counted once."""
    total = 0
    seen: set[int] = set()
    for parent, name, _ in walk(root):
        st = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISREG(st.st_mode) and st.st_ino not in seen:
            if st.st_nlink > 1:
                seen.add(st.st_ino)
            total += min(st.st_size, st.st_blocks * 512)
    return total


def _clamp(root: int, latest: int) -> None:
    for parent, name, _ in walk(root):
        st = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if st.st_mtime_ns > latest:
            os.utime(name, ns=(latest, latest), dir_fd=parent, follow_symlinks=False)


def _take_away(root: int, below: int, parts: list[str]) -> None:
    """A mount point, and its parents from the last upwards, where only the engine made them."""
    while parts:
        path = "/".join(parts)
        try:
            here = linux.openat2(root, path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC,
                                 resolve=linux.RESOLVE_NO_SYMLINKS | linux.RESOLVE_BENEATH)
        except OSError:
            return                      # the image has it, perhaps elsewhere by a link
        st = os.fstat(here)
        os.close(here)
        parent = linux.openat2(root, "/".join(parts[:-1]) or ".",
                               os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC,
                               resolve=linux.RESOLVE_NO_SYMLINKS | linux.RESOLVE_BENEATH)
        try:
            if not _as_below(below, path, st, parent, parts[-1]):
                return
            if stat.S_ISDIR(st.st_mode):
                os.rmdir(parts[-1], dir_fd=parent)
            elif st.st_size == 0:
                os.unlink(parts[-1], dir_fd=parent)
        except OSError as e:
            if e.errno == errno.ENOTEMPTY:
                return
            raise
        finally:
            os.close(parent)
        parts = parts[:-1]


def _as_below(below: int, path: str, st: os.stat_result, parent: int, name: str) -> bool:
    """Is it new and no more than a mount point, or a directory just as the layers below have it?
    It is empty, or cannot be removed."""
    try:
        fd = linux.openat2(below, path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC,
                           resolve=linux.RESOLVE_NO_SYMLINKS | linux.RESOLVE_BENEATH)
    except OSError:
        return (st.st_uid, st.st_gid) == (0, 0)
    try:
        old = os.fstat(fd)
    finally:
        os.close(fd)
    if not stat.S_ISDIR(st.st_mode) or not stat.S_ISDIR(old.st_mode):
        return False
    try:
        os.getxattr(f"/proc/self/fd/{parent}/{name}", OPAQUE)
        return False
    except OSError:
        pass
    return (old.st_mode, old.st_uid, old.st_gid) == (st.st_mode, st.st_uid, st.st_gid)
