"""One blob from the registry, once through: socket, sha256, file and unpacking at the same time.

The file is tmp/partial-<hex>, locked while somebody works on it. It stays when the connection or
the process ends early, and whoever wants the blob next reads it again from the disk (the hash and
the unpacking need it) and asks the registry for the rest. It becomes the blob by rename when all
bytes are there and the digest is the one asked for; a wrong one is deleted.
"""

from __future__ import annotations

import hashlib
import os
import time

from urllib3.exceptions import HTTPError

from rootless.errors import ImageError, StorageError, os_reason
from rootless.files import Lock, space_hint, write_all
from rootless.image import store
from rootless.image.manifest import Descriptor
from rootless.image.registry import PAUSES, Registry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from urllib3 import BaseHTTPResponse as Answer

    from rootless.paths import Paths

    Sink = Callable[[bytes], None]

BLOCK = 1 << 18


class WrongFromDisk(Exception):
    """What an earlier download left was not the beginning of this blob, as after a power cut."""


class Partial:
    """The beginning of a blob. Waits while another process works on the same."""

    def __init__(self, paths: Paths, blob: Descriptor) -> None:
        self._paths = paths
        self._blob = blob
        self._hash = hashlib.sha256()
        self.size = 0
        self.found = 0
        try:
            self._file = Lock(_place(paths, blob))
        except OSError as e:
            raise self._failed(e) from None

    def _failed(self, error: OSError) -> StorageError:
        return StorageError(f"cannot download into {self._paths.tmp}: {os_reason(error)}",
                            hint=space_hint(error, self._paths.tmp))

    def replay(self, sink: Sink) -> None:
        """Hash and pass on what is there already."""
        fd = self._file.fileno()
        self.found = os.fstat(fd).st_size
        if self.found > self._blob.size:
            os.ftruncate(fd, 0)
            self.found = 0
        while data := os.read(fd, BLOCK):
            self._hash.update(data)
            self.size += len(data)
            sink(data)

    def write(self, data: bytes) -> None:
        try:
            write_all(self._file.fileno(), data)
        except OSError as e:
            raise self._failed(e) from None
        self._hash.update(data)
        self.size += len(data)

    def commit(self, host: str) -> None:
        """It is whole. Raises ImageError when it is not what was asked for."""
        digest = "sha256:" + self._hash.hexdigest()
        if digest != self._blob.digest:
            self.discard()
            if self.found:
                raise WrongFromDisk
            raise ImageError(f"blob {self._blob.digest} from {host} was altered on its way: what "
                             f"came has the digest {digest}",
                             hint="try again; if it stays so, the registry is damaged")
        store.keep_blob(self._paths, self._file, digest)

    def discard(self) -> None:
        try:
            os.unlink(self._file.path)
        except FileNotFoundError:
            pass
        self._file.release()

    def release(self) -> None:
        """Leave it for the next; nothing worth a file is left as none."""
        if self._file.fileno() >= 0:
            if self.size == 0 and self.found == 0:
                os.unlink(self._file.path)
            self._file.release()


def download(paths: Paths, registry: Registry, blob: Descriptor, what: str, sink: Sink,
             progress: Callable[[int], None]) -> None:
    """Put a blob into the store, and its bytes in order into `sink`.

    `progress` gets the number of bytes that are there. Raises RegistryError, ImageError,
    StorageError, WrongFromDisk (then call again with a fresh sink).
    """
    partial = Partial(paths, blob)
    try:
        if os.path.exists(store.blob_path(paths, blob.digest)):
            # Another process was faster while we waited.
            partial.discard()
            replay_blob(paths, blob.digest, sink)
            return
        partial.replay(sink)
        tries = 0
        while partial.size < blob.size:
            before = partial.size
            answer = registry.request(f"/blobs/{blob.digest}", what, start=before)
            try:
                _receive(answer, blob, partial, registry.host, sink, progress)
                continue
            except (HTTPError, ConnectionError, TimeoutError) as e:
                tries = 0 if partial.size > before else tries + 1
                if tries > len(PAUSES):
                    raise registry.failure(what, e) from None
            finally:
                answer.close()
            time.sleep(PAUSES[max(tries - 1, 0)])
        partial.commit(registry.host)
    except StorageError:
        # Most likely the disk is full: what cannot be used now should not fill it.
        partial.discard()
        raise
    finally:
        partial.release()


def forget(paths: Paths, blob: Descriptor) -> None:
    """Remove the beginning of a blob, unless another process works on it."""
    path = _place(paths, blob)
    if os.path.exists(path):
        try:
            with Lock(path, wait=False):
                os.unlink(path)
        except BlockingIOError:
            pass


def _place(paths: Paths, blob: Descriptor) -> str:
    return f"{paths.tmp}/{store.PARTIAL_PREFIX}{blob.digest[7:]}"


def _receive(answer: Answer, blob: Descriptor, partial: Partial, host: str, sink: Sink,
             progress: Callable[[int], None]) -> None:
    """Until the blob is whole. Raises HTTPError or ConnectionError when the connection ends."""
    skip = partial.size
    length = answer.headers.get("Content-Length") or ""
    if answer.status == 206:
        first, _, total = (answer.headers.get("Content-Range") or "").partition("/")
        if not first.startswith(f"bytes {skip}-"):
            raise ConnectionError("the server sent another part than was asked for")
        skip, length = 0, total
    if length.isdigit() and int(length) != blob.size:
        raise ImageError(f"blob {blob.digest}: {host} has {length} bytes of it, the manifest says "
                         f"{blob.size}")
    while partial.size < blob.size:
        data = answer.read(BLOCK)
        if not data:
            raise ConnectionError("the connection ended early")
        if skip:
            # It was not able to start in the middle.
            data, skip = data[skip:], max(0, skip - len(data))
        if partial.size + len(data) > blob.size:
            partial.write(data[:blob.size - partial.size])
            raise ImageError(f"blob {blob.digest}: {host} sends more than the {blob.size} bytes "
                             "that the manifest says")
        partial.write(data)
        sink(data)
        progress(partial.size)


def replay_blob(paths: Paths, digest: str, sink: Sink) -> None:
    path = store.blob_path(paths, digest)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while data := os.read(fd, BLOCK):
                sink(data)
        finally:
            os.close(fd)
    except OSError as e:
        raise StorageError(f"cannot read {path}: {os_reason(e)}") from None
