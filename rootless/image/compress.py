"""Compress a layer anew: what is in it stays, byte for byte, and so does its diffID.

Stream to stream, with bounded memory. No header holds a time, so the same layer always gives the
same blob. gzip is isal's where that can be imported, at many times zlib's speed and nearly its
size; a level that was asked for is zlib's own.
"""

from __future__ import annotations

import hashlib
import os

from rootless.errors import StorageError, UsageError, os_reason
from rootless.image import store
from rootless.image.decompress import form_of, inflate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.image.upload import Blob
    from rootless.paths import Paths

LEVELS = {"gzip": range(1, 10), "zstd": range(1, 23)}
ZSTD_LEVEL = 3
READ = 1 << 20


def check(form: str, level: int | None) -> None:
    """Raises UsageError for what cannot be."""
    if form not in LEVELS:
        raise UsageError(f"invalid compression format: {form}", hint=", ".join(LEVELS))
    if level is not None and level not in LEVELS[form]:
        allowed = LEVELS[form]
        raise UsageError(f"invalid compression level: {level}",
                         hint=f"{form} has the levels {allowed[0]} to {allowed[-1]}")
    if form == "zstd":
        _zstd(level)


def form_of_blob(path: str) -> str:
    """By its first bytes: media types lie."""
    try:
        with open(path, "rb", buffering=0) as f:
            return form_of(f.read(6) or b"")
    except OSError as e:
        raise _unreadable(path, e) from None


def again(paths: Paths, blob: Blob, diff_id: str, form: str, level: int | None) -> Blob:
    """A new blob in the store, which nothing names yet. The caller holds `store.hold`.

    Raises StorageError, also when the old one is not the layer it should be; ImageError.
    """
    compressor = stream(form, level)
    writer = store.BlobWriter(paths)
    inner = hashlib.sha256()
    try:
        fd = os.open(blob.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as e:
        raise _unreadable(blob.path, e) from None
    try:
        for piece in inflate(lambda: os.read(fd, READ)):
            inner.update(piece)
            writer.write(compressor.compress(piece))
        writer.write(compressor.flush())
        if "sha256:" + inner.hexdigest() != diff_id:
            raise StorageError(f"blob {blob.digest} is damaged: it does not hold layer {diff_id}",
                               hint="rootless system check --repair")
        digest, size = writer.commit(None, None)
    finally:
        os.close(fd)
        writer.abort()
    # Here, as all of the network comes with it, and a build compresses without.
    from rootless.image.upload import Blob

    return Blob(digest, size, store.blob_path(paths, digest))


def stream(form: str, level: int | None = None) -> Any:
    """An object with `compress(bytes)` and `flush()`."""
    return _zstd(level) if form == "zstd" else _gzip(level)


def _unreadable(path: str, error: OSError) -> StorageError:
    return StorageError(f"cannot read {path}: {os_reason(error)}",
                        hint="rootless system check --repair")


def _gzip(level: int | None) -> Any:
    if level is None:
        try:
            from isal import isal_zlib

            return isal_zlib.compressobj(isal_zlib.ISAL_DEFAULT_COMPRESSION, wbits=31)
        except ImportError:
            level = 6
    import zlib

    return zlib.compressobj(level, wbits=31)


def _zstd(level: int | None) -> Any:
    try:
        import zstandard
    except ImportError:
        raise UsageError("cannot compress with zstd: the module zstandard is not installed",
                         hint="pip install zstandard") from None
    return zstandard.ZstdCompressor(level=level or ZSTD_LEVEL, write_checksum=True).compressobj()
