"""One file over http or https: a source of ADD, a context, a Dockerfile.

What ADD fetches gets mode 0600 and the server's Last-Modified, as in BuildKit.
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
    """A source of ADD, into the directory `place`. Raises BuildError."""
    where = f"{wish.where.source.name}:{wish.where.first}"
    name = unquote(os.path.basename(urlsplit(address).path))
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        if wish.dest.endswith("/"):
            raise BuildError(f"{where}: cannot add {address}: the address names no file",
                             hint="give the destination a file name")
        name = "file"
    fd = os.open(f"{place}/file", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    done = False
    try:
        digest = fetch(address, fd, f"{where}: cannot add {address}")
        if wish.checksum and wish.checksum != digest:
            raise BuildError(f"{where}: cannot add {address}: its digest is {digest}, not "
                             f"{wish.checksum}")
        done = True
    finally:
        if not done:
            os.close(fd)
    return Fetched(fd, name, digest)


def fetch(address: str, fd: int, complaint: str) -> str:
    """Into an empty file, which is at its start again; its digest. Raises BuildError, whose
    message begins with `complaint`."""
    import hashlib

    import urllib3

    if not address.startswith(("http://", "https://")):
        raise BuildError(f"{complaint}: files are fetched over http and https, and repositories "
                         "of git", hint="the address of a repository ends in .git")
    found = hashlib.sha256()
    try:
        with urllib3.PoolManager(timeout=_SECONDS, retries=3).request(
                "GET", address, preload_content=False) as answer:
            if answer.status != 200:
                raise BuildError(f"{complaint}: the server answered {answer.status}")
            for data in answer.stream(_PIECE):
                found.update(data)
                write_all(fd, data)
            changed = answer.headers.get("Last-Modified")
        seconds = _seconds(changed)
        os.utime(fd, (seconds, seconds))
        os.lseek(fd, 0, os.SEEK_SET)
    except urllib3.exceptions.HTTPError as e:
        raise BuildError(f"{complaint}: {reason(e)}") from None
    except OSError as e:
        raise BuildError(f"{complaint}: {os_reason(e)}") from None
    return "sha256:" + found.hexdigest()


def text(address: str, directory: str, most: int) -> bytes:
    """A Dockerfile, by way of a nameless file in `directory`. Raises BuildError."""
    complaint = f"cannot fetch {address}"
    fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fetch(address, fd, complaint)
        if os.fstat(fd).st_size > most:
            raise BuildError(f"{complaint}: it is larger than {most >> 20} MiB")
        with open(fd, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(fd)


def _seconds(text: str | None) -> float:
    """Of an HTTP date; 0 where there is none that can be read."""
    try:
        return parsedate_to_datetime(text).timestamp() if text else 0.0
    except (ValueError, TypeError, OverflowError):
        return 0.0
