"""Ask a registry what a tag stands for, with next to nothing loaded.

A pull of what is there asks this one question and is done. To load a whole HTTP client for it
(urllib3, 42 ms) took longer than all the rest together (23 ms), so the plain case is done here, by
one HEAD on a socket; `ssl` is imported for https only. All that is not plain has no answer here:
a proxy, a challenge, a redirect, an error, a slow server. Then the client (`registry`) begins
anew, and it is the client that tells the person what is wrong.

Nothing secret is sent, and the answer is believed for one thing only: to be, or not to be, the
digest that we have.
"""

from __future__ import annotations

import _socket
import time

from rootless.errors import RegistryError
from rootless.image.manifest import ACCEPT
from rootless.image.reference import DEFAULT_DOMAIN, is_digest
from rootless.image.tls import is_loopback, tls_context

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping
    from typing import Protocol

    from rootless.image.registries import Place

    class Connection(Protocol):
        def settimeout(self, value: float, /) -> None: ...
        def sendall(self, data: bytes, /) -> None: ...
        def recv(self, size: int, /) -> bytes: ...
        def close(self) -> None: ...

SECONDS = 4.0                   # for all of it
LONGEST = 64 << 10              # headers
USER_AGENT = "rootless/0.1"


def digest(place: Place, tls_verify: bool | None, env: Mapping[str, str], home: str) -> str:
    """What the registry says the tag stands for; "" where the client must ask.

    `tls_verify`: as in `registries.connect`.
    """
    name = place.reference.domain
    # Docker's own gives nothing without a token.
    if name == DEFAULT_DOMAIN or any(env.get(variable) for variable in (
            "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy")):
        return ""
    if tls_verify is None and place.trust.insecure:
        tls_verify = False
    end = time.monotonic() + SECONDS
    answer = b""
    try:
        # As the client: on loopback plainly first, and a TLS server says 400 to that.
        if is_loopback(split(name)[0]) and tls_verify is not True:
            answer = _head(place, None, end)
        if not answer or _status(answer) == b"400":
            context = tls_context(name, env, home, verify=tls_verify is not False,
                                  trust=place.trust, bundle=False)
            answer = _head(place, context, end)
    except (OSError, RegistryError):
        return ""
    return read(answer)


def read(answer: bytes) -> str:
    """The digest in the head of an answer (RFC 9112), "" for any answer that is not plain."""
    if _status(answer) != b"200":
        return ""
    for field in answer.split(b"\r\n")[1:]:
        name, _, value = field.partition(b":")
        if name.lower() == b"docker-content-digest":
            found = value.strip().decode("ascii", "replace")
            return found if is_digest(found) else ""
    return ""


def _status(answer: bytes) -> bytes:
    version, _, rest = answer.partition(b" ")
    return rest[:3] if version.startswith(b"HTTP/1.") else b""


def _head(place: Place, context: ssl.SSLContext | None, end: float) -> bytes:
    """All before the body of an answer. Raises OSError."""
    at = place.reference
    host, port = split(at.domain)
    request = (f"HEAD /v2/{at.path}/manifests/{at.tag} HTTP/1.1\r\nHost: {at.domain}\r\n"
               f"User-Agent: {USER_AGENT}\r\nAccept: {ACCEPT}\r\n"
               "Accept-Encoding: identity\r\nConnection: close\r\n\r\n").encode("ascii")
    raw = _connect(host, port or (80 if context is None else 443), end)
    connection: Connection = raw
    try:
        if context is not None:
            connection = _secure(raw, host, end, context)
        connection.settimeout(_left(end))
        connection.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            connection.settimeout(_left(end))
            part = connection.recv(LONGEST)
            answer += part
            if not part or len(answer) > LONGEST:
                raise OSError("no whole head")
        return answer.partition(b"\r\n\r\n")[0]
    finally:
        connection.close()
        raw.close()


def split(netloc: str) -> tuple[str, int]:
    """(host, port or 0) of `host:port`, `[::1]:port`."""
    host, colon, port = netloc.rpartition(":")
    if not colon or netloc.endswith("]"):
        host, port = netloc, "0"
    return host.strip("[]"), int(port)


def _left(end: float) -> float:
    return max(0.001, end - time.monotonic())


def _connect(host: str, port: int, end: float) -> _socket.socket:
    """To the first address that takes it; time runs for all of them together."""
    error = OSError(f"{host} has no address")
    # As bytes, so that nobody looks for letters beyond ASCII: that takes a module.
    for family, kind, protocol, _, address in _socket.getaddrinfo(
            host.encode(), port, 0, _socket.SOCK_STREAM):
        sock = _socket.socket(family, kind | _socket.SOCK_CLOEXEC, protocol)
        try:
            sock.settimeout(_left(end))
            sock.connect(address)
            # The end of a TLS greeting and the question are two writes, which the other side would
            # be let to acknowledge first: 40 ms.
            sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
            return sock
        except OSError as e:
            error = e
            sock.close()
    raise error


def _secure(raw: _socket.socket, host: str, end: float, context: ssl.SSLContext) -> Connection:
    import socket

    sock = socket.socket(fileno=raw.detach())
    sock.settimeout(_left(end))
    try:
        return context.wrap_socket(sock, server_hostname=host)
    finally:
        sock.close()
