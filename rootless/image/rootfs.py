"""An image of one layer, made from the archive of a filesystem (`import`)."""

from __future__ import annotations

import os
import time

from rootless import jsontext
from rootless.errors import ImageError, RegistryError, StorageError, UsageError, os_reason
from rootless.image import changes, store
from rootless.image.archive import LAYER_TYPES, Blob, put_manifest
from rootless.image.decompress import form_of, inflate
from rootless.image.manifest import parse_platform
from rootless.image.reference import parse
from rootless.image.unpack import Unpacker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from rootless.image.store import Image
    from rootless.paths import Paths
    from rootless.userns.keeper import Userns

_READ = 1 << 20


def make(paths: Paths, userns: Userns, source: Callable[[], bytes], *, name: str, origin: str,
         lines: list[str], message: str, platform: str) -> Image:
    """Read the tar, keep it as a blob and unpack it, in one pass. The caller holds `store.hold`.

    Raises UsageError, ImageError, StorageError.
    """
    settings: dict[str, Any] = {}
    for line in lines:
        changes.apply(settings, line)
    if name and parse(name).digest:
        raise UsageError(f"cannot import as {name}: a digest is not for us to give")
    system = parse_platform(platform)
    blob, diff_id = _take(paths, userns, source)
    now = time.time_ns()
    created = (time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 10**9))
               + f".{now % 10**9:09d}Z")
    config = {
        "created": created, "architecture": system.architecture, "os": system.os,
        **({"variant": system.variant} if system.variant else {}),
        "config": settings, "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": created, "comment": message or f"Imported from {origin}"}]}
    entry = put_manifest(paths, jsontext.dumps(config).encode(), [blob])
    return store.publish(paths, name, entry)


def _take(paths: Paths, userns: Userns, source: Callable[[], bytes]) -> tuple[Blob, str]:
    """(blob, diffID) of the layer. Forms that images do not know are kept uncompressed."""
    head = b""
    while len(head) < 6:
        more = source()
        if not more:
            break
        head += more
    if not head:
        raise ImageError("cannot import: the archive is empty")
    form = form_of(head)
    pieces = _rest(head, source)
    if form not in LAYER_TYPES:
        compressed = pieces
        pieces = inflate(lambda: next(compressed, b""))
        form = ""
    writer = store.BlobWriter(paths)
    unpacker = Unpacker(paths, userns, expected="", blob_size=None)
    try:
        for data in pieces:
            unpacker.write(data)
            writer.write(data)
        unpacker.finish()
        digest, size = writer.commit(None, None)
    finally:
        unpacker.abort()
        writer.abort()
    return Blob(digest, size, form), unpacker.diff_id


def _rest(head: bytes, source: Callable[[], bytes]) -> Iterator[bytes]:
    while head:
        yield head
        head = source()


class Download:
    """A file from the web, block by block."""

    def __init__(self, url: str, home: str) -> None:
        import urllib3
        from urllib3.exceptions import HTTPError

        from rootless.image.network import proxy_for, reason
        from rootless.image.tls import tls_context

        self._url = url
        host = urllib3.util.parse_url(url).host or ""
        proxy = proxy_for(url, os.environ)
        secure: dict[str, Any] = {}
        if url.startswith("https:"):
            secure["ssl_context"] = tls_context(host, os.environ, home, verify=True)
        pool: urllib3.PoolManager = (urllib3.ProxyManager(proxy, **secure) if proxy
                                     else urllib3.PoolManager(**secure))
        self._errors: tuple[type[Exception], ...] = (HTTPError, OSError)
        self._reason = reason
        try:
            self._answer = pool.request("GET", url, preload_content=False, timeout=60,
                                        retries=urllib3.Retry(3, backoff_factor=0.5),
                                        decode_content=False)
        except self._errors as e:
            raise self._failed(e) from None
        if self._answer.status != 200:
            raise RegistryError(f"cannot download {url}: the server answered "
                                f"{self._answer.status} {self._answer.reason or ''}".rstrip())

    def _failed(self, error: Exception) -> RegistryError:
        return RegistryError(f"cannot download {self._url}: {self._reason(error)}")

    def read(self) -> bytes:
        try:
            return self._answer.read(_READ)
        except self._errors as e:
            raise self._failed(e) from None


def read_from(fd: int, name: str) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            return os.read(fd, _READ)
        except OSError as e:
            raise StorageError(f"cannot read {name}: {os_reason(e)}") from None
    return read
