"""ADD of an address: one file over http or https.

The file gets mode 0600 and the server's Last-Modified, as in BuildKit.
"""

from __future__ import annotations

import os
from email.utils import parsedate_to_datetime
from urllib.parse import unquote, urlsplit

from rootless.errors import BuildError, os_reason
from rootless.files import write_all
from rootless.image.network import reason
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.build.instructions import Add

_PIECE = 1 << 18
_SECONDS = 60.0


@record(frozen=True)
class Fetched:
    """`fd`: open at the start. `digest` of the content, sha256:<hex>."""

    fd: int
    name: str
    digest: str


def download(address: str, wish: Add, place: str) -> Fetched:
    """Into the directory `place`. Raises BuildError."""
    import hashlib

    import urllib3

    where = f"{wish.where.source.name}:{wish.where.first}"
    if not address.startswith(("http://", "https://")):
        raise BuildError(f"{where}: cannot add {address}: only files over http and https can be "
                         "fetched", hint="RUN git clone it, or COPY a checkout")
    name = unquote(os.path.basename(urlsplit(address).path))
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        if wish.dest.endswith("/"):
            raise BuildError(f"{where}: cannot add {address}: the address names no file",
                             hint="give the destination a file name")
        name = "file"
    found = hashlib.sha256()
    fd = os.open(f"{place}/file", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with urllib3.PoolManager(timeout=_SECONDS, retries=3).request(
                "GET", address, preload_content=False) as answer:
            if answer.status != 200:
                raise BuildError(f"{where}: cannot add {address}: the server answered "
                                 f"{answer.status}")
            for data in answer.stream(_PIECE):
                found.update(data)
                write_all(fd, data)
            changed = answer.headers.get("Last-Modified")
    except urllib3.exceptions.HTTPError as e:
        raise BuildError(f"{where}: cannot add {address}: {reason(e)}") from None
    except OSError as e:
        raise BuildError(f"{where}: cannot add {address}: {os_reason(e)}") from None
    digest = "sha256:" + found.hexdigest()
    if wish.checksum and wish.checksum != digest:
        raise BuildError(f"{where}: cannot add {address}: its digest is {digest}, not "
                         f"{wish.checksum}")
    seconds = _seconds(changed)
    os.utime(fd, (seconds, seconds))
    return Fetched(fd, name, digest)


def _seconds(text: str | None) -> float:
    """Of an HTTP date; 0 where there is none that can be read."""
    try:
        return parsedate_to_datetime(text).timestamp() if text else 0.0
    except (ValueError, TypeError, OverflowError):
        return 0.0
