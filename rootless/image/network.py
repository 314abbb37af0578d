"""The network between us and a registry: proxies, failures in words, headers."""

from __future__ import annotations

import json
import ssl
import time
from urllib.parse import urlsplit

from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NewConnectionError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)

from rootless.errors import os_reason
from rootless.image.tls import is_loopback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from urllib3 import BaseHTTPResponse as Answer


def proxy_for(url: str, env: Mapping[str, str]) -> str:
    """The proxy's address, or "" for none: Go's rules, which docker's users know."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    name = f"{parts.scheme}_proxy"
    proxy = env.get(name.upper()) or env.get(name) or ""
    if not proxy or is_loopback(host):
        return ""
    for item in (env.get("NO_PROXY") or env.get("no_proxy") or "").lower().split(","):
        if _exempt(item.strip(), host, port):
            return ""
    return proxy if "://" in proxy else "http://" + proxy


def _exempt(item: str, host: str, port: int) -> bool:
    if item in ("", "*"):
        return item == "*"
    if "/" in item:
        import ipaddress

        try:
            return ipaddress.ip_address(host) in ipaddress.ip_network(item, strict=False)
        except ValueError:
            return False
    name, colon, number = item.rpartition(":")
    if colon and number.isdigit() and (":" not in name or name.endswith("]")):
        if int(number) != port:
            return False
        item = name
    item = item.strip("[]")
    if item.startswith("*."):
        item = item[1:]
    if item.startswith("."):
        return host.endswith(item)
    return host == item or host.endswith("." + item)


# ---- what went wrong ---------------------------------------------------------------------------

def may_pass(error: HTTPError | OSError, *, first: bool) -> bool:
    """Is it worth trying again? Not what was wrong from the first moment."""
    if isinstance(error, (SSLError, ProxyError)):
        return "EOF" in str(error)
    if isinstance(error, (NewConnectionError, ConnectTimeoutError)):
        return not first
    return True


def reason(error: BaseException) -> str:
    """The innermost cause that has words. Addresses are left out: they may hold secrets."""
    seen = 0
    cause: BaseException | None = error
    best = type(error).__name__
    while cause is not None and seen < 10:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            if cause.reason == "WRONG_VERSION_NUMBER":
                return "it does not speak TLS"
            return f"TLS: {(cause.reason or 'failed').replace('_', ' ').lower()}"
        if isinstance(cause, OSError) and cause.strerror:
            return os_reason(cause)
        # What urllib3 calls new is every connection that could not be made, not only a slow one.
        if isinstance(cause, (ReadTimeoutError, ConnectTimeoutError, TimeoutError)) \
                and not isinstance(cause, NewConnectionError):
            return "no answer in time"
        if type(cause).__name__ in ("IncompleteRead", "RemoteDisconnected", "InvalidChunkLength"):
            best = "the connection broke"
        inner = [a for a in cause.args if isinstance(a, BaseException)]
        cause = inner[0] if inner else getattr(cause, "reason", None) or cause.__cause__ \
            or cause.__context__
        if not isinstance(cause, BaseException):
            break
        seen += 1
    return best


def error_text(answer: Answer) -> str:
    """The registry's own words from the body of an error, one short printable line."""
    try:
        value = json.loads(answer.read(65536))
        first = value["errors"][0]
        text = str(first.get("message") or first.get("code") or "")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, HTTPError, OSError):
        return ""
    return "".join(c if c.isprintable() else " " for c in text)[:200].strip()


def drain(answer: Answer) -> None:
    """Be done with an answer: a short rest is read so that the connection can serve again."""
    try:
        answer.read(65536)
        if answer.read(1):
            answer.close()
    except (HTTPError, OSError):
        answer.close()


def retry_after(answer: Answer) -> int | None:
    """Seconds of a Retry-After header: a number or a date."""
    text = (answer.headers.get("Retry-After") or "").strip()
    if text.isascii() and text.isdigit():
        return int(text[:9])
    if text:
        from email.utils import parsedate_to_datetime

        try:
            return max(0, int(parsedate_to_datetime(text).timestamp() - time.time() + 0.5))
        except (TypeError, ValueError, IndexError):
            pass
    return None


def duration(seconds: int) -> str:
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min"


def challenges(headers: list[str]) -> dict[str, dict[str, str]]:
    """WWW-Authenticate (RFC 9110): scheme in lower case to its parameters."""
    found: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    for header in headers:
        rest = header.strip()
        while rest:
            word, rest = _word(rest)
            if not word:
                rest = rest[1:].lstrip()
            elif rest.startswith("="):
                value, rest = _value(rest[1:].lstrip())
                current[word.lower()] = value
            else:
                current = found.setdefault(word.lower(), {})
            rest = rest.lstrip(" ,\t")
    return found


def _word(text: str) -> tuple[str, str]:
    n = 0
    while n < len(text) and (text[n].isalnum() or text[n] in "!#$%&'*+-.^_`|~"):
        n += 1
    return text[:n], text[n:].lstrip()


def _value(text: str) -> tuple[str, str]:
    if not text.startswith('"'):
        n = 0
        while n < len(text) and text[n] not in " ,\t":
            n += 1
        return text[:n], text[n:]
    out, n = [], 1
    while n < len(text) and text[n] != '"':
        if text[n] == "\\" and n + 1 < len(text):
            n += 1
        out.append(text[n])
        n += 1
    return "".join(out), text[n + 1:]
