"""Put blobs and manifests into a repository: the upload half of OCI distribution 1.1.

    HEAD  /blobs/DIGEST                      there already: nothing to do
    POST  /blobs/uploads/?mount=&from=       another repository has it: 201, nothing to send
    POST  /blobs/uploads/                    a session; its Location changes with every answer
    PATCH LOCATION                           the bytes; a small blob goes with the PUT at once
    PUT   LOCATION?digest=DIGEST             the registry checks them and keeps the blob

A large blob is one PATCH, as docker sends it. When the connection breaks, the session is asked
how far it has come (Range), and the rest is sent; a session that is lost begins anew. A proxy
that takes no such large body (413) gets smaller ones. A session that does not come to its end,
Ctrl-C included, is given back with DELETE.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from urllib.parse import quote, urlencode, urljoin, urlsplit

from rootless.errors import AuthError, RegistryError, StorageError, os_reason
from rootless.image.network import drain
from rootless.image.registry import PAUSES, Passing
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from urllib3 import BaseHTTPResponse as Answer

    from rootless.image.registry import Registry

    Progress = Callable[[int], None]

AT_ONCE = 4 << 20               # up to this size a blob goes with the request that ends it
BLOCK = 1 << 17
SMALLER = (64 << 20, 8 << 20, 1 << 20)      # bodies, where a larger one was refused
MOST_ORIGINS = 3
_BYTES = "application/octet-stream"

EXISTS = "Layer already exists"
PUSHED = "Pushed"


@record(frozen=True)
class Blob:
    """A file that holds the bytes of this digest."""

    digest: str
    size: int
    path: str


def exists(registry: Registry, digest: str, what: str) -> bool:
    answer = registry.request(f"/blobs/{digest}", what, method="HEAD", stranger=True)
    drain(answer)
    return answer.status == 200


def put_blob(registry: Registry, blob: Blob, what: str, *, origins: Sequence[str] = (),
             progress: Progress = lambda done: None) -> str:
    """How it came there, in docker's words. `origins`: repositories of the same registry that
    may have it. Raises RegistryError, AuthError, NotFound, StorageError."""
    if exists(registry, blob.digest, what):
        return EXISTS
    with _Session(registry, blob, what, progress) as session:
        for origin in origins[:MOST_ORIGINS]:
            if session.mount(origin):
                return f"Mounted from {origin}"
        try:
            session.send()
        except AuthError:
            raise
        except RegistryError:
            # "Not what its digest says" is one of a registry's words for 400.
            check(blob)
            raise
    return PUSHED


def mount(registry: Registry, digest: str, origin: str, what: str) -> bool:
    """Take a blob from another repository of the registry, if that has it and lets us."""
    with _Session(registry, Blob(digest, 0, ""), what, lambda done: None) as session:
        return session.mount(origin)


def check(blob: Blob) -> None:
    """Raises StorageError when the file is not what its name says."""
    found = hashlib.sha256()
    try:
        with open(blob.path, "rb", buffering=0) as f:
            while data := f.read(BLOCK):
                found.update(data)
    except OSError as e:
        raise StorageError(f"cannot read {blob.path}: {os_reason(e)}") from None
    if "sha256:" + found.hexdigest() != blob.digest:
        raise StorageError(f"blob {blob.digest} is damaged: {blob.path}",
                           hint="rootless system check --repair")


def put_bytes(registry: Registry, data: bytes, digest: str, what: str) -> None:
    """A small blob from memory."""
    if not exists(registry, digest, what):
        location = _location(registry, registry.request("/blobs/uploads/", what, method="POST"),
                             what)
        answer = registry.request(_with_digest(location, digest), what, method="PUT",
                                  body=lambda: data, headers={"Content-Type": _BYTES})
        drain(answer)


def put_manifest(registry: Registry, data: bytes, media_type: str, digest: str, what: str, *,
                 tag: str = "") -> None:
    """Under its digest, and as `tag` where one is given. All it names is there already."""
    answer = registry.request(f"/manifests/{tag or digest}", what, method="PUT",
                              body=lambda: data, headers={"Content-Type": media_type})
    drain(answer)
    stored = answer.headers.get("Docker-Content-Digest") or digest
    if stored != digest:
        raise RegistryError(f"cannot push {what}: {registry.host} has changed its manifest: it "
                            f"says {stored[:80]}, not {digest}")


class _Session:
    """One upload. Use it in a `with`."""

    def __init__(self, registry: Registry, blob: Blob, what: str, progress: Progress) -> None:
        self._registry = registry
        self._blob = blob
        self._what = what
        self._progress = progress
        self._location = ""
        self._done = 0
        self._sizes = [0, *SMALLER]     # 0: all that is left

    def __enter__(self) -> _Session:
        return self

    def __exit__(self, *_: object) -> None:
        if self._location:
            self._give_back()

    def mount(self, origin: str) -> bool:
        """Whoever does not mount begins a session, which serves as well."""
        if self._location:
            self._give_back()
        query = f"mount={self._blob.digest}&from={quote(origin, safe='/')}"
        try:
            answer = self._registry.request(f"/blobs/uploads/?{query}", self._what,
                                            method="POST", answers=frozenset((400, 404, 405)))
        except AuthError:
            # We may not read there, or the registry has no word for it.
            return False
        drain(answer)
        if answer.status == 202:
            self._location = _location(self._registry, answer, self._what)
        return answer.status == 201

    def send(self) -> None:
        tries = 0
        while True:
            before = self._done
            try:
                self._send()
                self._location = ""
                return
            except Passing:
                if tries == len(PAUSES):
                    raise
                time.sleep(PAUSES[tries])
                tries += 1
                # The answer to the last request may be all that was lost.
                if exists(self._registry, self._blob.digest, self._what):
                    self._location = ""
                    return
                self._take_up()
                if self._done > before:
                    tries = 0

    def _send(self) -> None:
        if not self._location:
            self._begin()
        blob = self._blob
        if blob.size > AT_ONCE:
            while self._done < blob.size:
                self._patch()
        start = self._done
        answer = self._request("PUT", _with_digest(self._location, blob.digest), start,
                               blob.size - start)
        drain(answer)

    def _begin(self) -> None:
        answer = self._registry.request("/blobs/uploads/", self._what, method="POST")
        drain(answer)
        self._location = _location(self._registry, answer, self._what)
        self._done = 0

    def _patch(self) -> None:
        start = self._done
        length = self._blob.size - start
        if self._sizes[0]:
            length = min(length, self._sizes[0])
        answer = self._request("PATCH", self._location, start, length,
                               answers=frozenset((413, 416)))
        drain(answer)
        if answer.status == 413:
            del self._sizes[0]
            if not self._sizes:
                raise RegistryError(f"cannot push {self._what}: {self._registry.host} takes no "
                                    "bodies of a reasonable size (413)")
            return
        if answer.status == 416:
            raise Passing(f"cannot push {self._what}: {self._registry.host} has another part of "
                          "it than was sent")
        self._location = _location(self._registry, answer, self._what)
        self._done = start + length

    def _request(self, method: str, url: str, start: int, length: int, *,
                 answers: frozenset[int] = frozenset()) -> Answer:
        headers = {"Content-Type": _BYTES, "Content-Length": str(length)}
        whole = length == self._blob.size
        if length and not whole:
            headers["Content-Range"] = f"{start}-{start + length - 1}"
        return self._registry.request(
            url, self._what, method=method, headers=headers, again=False, answers=answers,
            body=lambda: self._blocks(start, length) if length else b"")

    def _blocks(self, start: int, length: int) -> Iterator[bytes]:
        path = self._blob.path
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as e:
            raise StorageError(f"cannot read {path}: {os_reason(e)}",
                               hint="rootless system check --repair") from None
        try:
            end = start + length
            while start < end:
                try:
                    data = os.pread(fd, min(BLOCK, end - start), start)
                except OSError as e:
                    raise StorageError(f"cannot read {path}: {os_reason(e)}") from None
                if not data:
                    raise StorageError(f"blob {self._blob.digest} is damaged: it has {start} "
                                       f"bytes, not {self._blob.size}",
                                       hint="rootless system check --repair")
                yield data
                start += len(data)
                self._progress(start)
        finally:
            os.close(fd)

    def _take_up(self) -> None:
        """Learn from the registry how far the session has come."""
        if not self._location or self._blob.size <= AT_ONCE:
            self._give_back()
            return
        answer = self._registry.request(self._location, self._what,
                                        answers=frozenset((400, 404, 405)))
        drain(answer)
        first, _, last = (answer.headers.get("Range") or "").rpartition("=")[2].partition("-")
        # 0-0 is said of one byte and of none.
        if answer.status in (200, 204) and first == "0" and last.isdigit() and last != "0" \
                and int(last) < self._blob.size:
            self._location = _location(self._registry, answer, self._what,
                                       default=self._location)
            self._done = int(last) + 1
        else:
            self._give_back()

    def _give_back(self) -> None:
        """The registry would drop it some day anyway: nothing that goes wrong here matters, and
        no signal may keep us from it."""
        url, self._location, self._done = self._location, "", 0
        if url:
            kept = [(s, signal.signal(s, signal.SIG_IGN)) for s in (signal.SIGINT, signal.SIGTERM)]
            self._registry.forget(url)
            for number, handler in kept:
                signal.signal(number, handler)


def _with_digest(location: str, digest: str) -> str:
    return location + ("&" if urlsplit(location).query else "?") + urlencode({"digest": digest})


def _location(registry: Registry, answer: Answer, what: str, *, default: str = "") -> str:
    """Where the session goes on. Some registries behind a proxy do not know that it speaks TLS:
    their own name with the other scheme means themselves."""
    told = answer.headers.get("Location") or default
    if not told:
        raise RegistryError(f"cannot push {what}: {registry.host} begins an upload and does not "
                            "say where")
    target = urljoin(registry.base + "/", told)
    parts = urlsplit(target)
    own = urlsplit(registry.base)
    if parts.scheme == "http" and parts.hostname == own.hostname \
            and parts.port in (None, own.port):
        parts = parts._replace(scheme=own.scheme, netloc=own.netloc)
    elif parts.scheme not in ("http", "https") or not parts.hostname or (
            parts.scheme == "http" and own.scheme == "https"):
        raise RegistryError(f"cannot push {what}: {registry.host} wants it sent to "
                            f"{parts.scheme or 'nothing'}://{parts.hostname or ''}: refused")
    return parts.geturl()
