"""Write a tar as it streams by: ustar, with PAX records where a header's fields are too small.

The counterpart of `rootless.image.tar`, for the same `Entry`. What an entry says decides every
byte, so the same entries give the same archive. Readers of PAX are all that matter here: GNU tar,
bsdtar, Go's archive/tar and ours.
"""

from __future__ import annotations

from rootless.image.tar import BLOCK, CHAR, DEVICE, DIRECTORY, FILE, SYMLINK, Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_ZEROS = bytes(BLOCK)
# GNU tar and docker write whole records of twenty blocks; some readers want the two of zeros.
_END = bytes(2 * BLOCK)


class Writer:
    """`write` takes bytes in order. After `entry` of a file, its body follows by `body`, in
    pieces of any size, and is padded by the next call."""

    def __init__(self, write: Callable[[bytes | memoryview], None]) -> None:
        self._write = write
        self._padding = 0

    def entry(self, entry: Entry) -> None:
        """The header. A sparse file's body are its extents, one after another."""
        self._pad()
        self._write(header(entry))
        self._padding = -_body_size(entry) % BLOCK
        if entry.extents is not None:
            self._write(_sparse_map(entry.extents))

    def body(self, data: bytes | memoryview) -> None:
        self._write(data)

    def text(self, name: str, data: bytes) -> None:
        """A small file, of nobody in particular and of no time."""
        self.entry(plain(name, len(data)))
        self.body(data)

    def finish(self) -> None:
        self._pad()
        self._write(_END)

    def _pad(self) -> None:
        if self._padding:
            self._write(_ZEROS[:self._padding])
            self._padding = 0


def plain(name: str, size: int) -> Entry:
    entry = Entry(name.encode(), FILE, size)
    entry.mode = 0o644
    return entry


def header(entry: Entry) -> bytes:
    """Everything before the body: a PAX header of its own where it is needed, and the header."""
    records: list[tuple[bytes, bytes]] = []
    name, prefix = _split(entry.name + (b"/" if entry.kind == DIRECTORY else b""))
    if name is None:
        records.append((b"path", entry.name))
        name, prefix = entry.name[:100], b""
    link = entry.link
    if len(link) > 100 or not link.isascii():
        records.append((b"linkpath", link))
        link = link[:100]
    size = _body_size(entry) if entry.kind == FILE else 0
    uid, gid = entry.uid, entry.gid
    seconds, fraction = divmod(entry.mtime, 10**9)
    if fraction or not 0 <= seconds < 1 << 33:
        records.append((b"mtime", _decimal(entry.mtime)))
    for key, number, most in ((b"size", size, 1 << 33), (b"uid", uid, 1 << 21),
                              (b"gid", gid, 1 << 21)):
        if number >= most:
            records.append((key, b"%d" % number))
    if entry.extents is not None:
        records += [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"),
                    (b"GNU.sparse.name", entry.name),
                    (b"GNU.sparse.realsize", b"%d" % entry.size)]
    records += [(b"SCHILY.xattr." + key, value) for key, value in sorted(entry.xattrs.items())]
    small = _block(name, entry.kind, size if size < 1 << 33 else 0, link, prefix,
                   mode=entry.mode & 0o7777, uid=uid if uid < 1 << 21 else 0,
                   gid=gid if gid < 1 << 21 else 0,
                   mtime=seconds if 0 <= seconds < 1 << 33 else 0,
                   major=entry.major if entry.kind in (CHAR, DEVICE) else 0,
                   minor=entry.minor if entry.kind in (CHAR, DEVICE) else 0)
    if not records:
        return small
    text = b"".join(_record(key, value) for key, value in records)
    described = _block(b"PaxHeaders/" + entry.name.rpartition(b"/")[2][:80], b"x", len(text))
    return described + text + bytes(-len(text) % BLOCK) + small


def _body_size(entry: Entry) -> int:
    if entry.kind != FILE:
        return 0
    if entry.extents is None:
        return entry.size
    return len(_sparse_map(entry.extents)) + sum(length for _, length in entry.extents)


def _sparse_map(extents: list[tuple[int, int]]) -> bytes:
    """GNU's format 1.0: numbers, one a line, in whole blocks before the data."""
    text = b"".join(b"%d\n" % n for n in [len(extents), *(n for pair in extents for n in pair)])
    return text + bytes(-len(text) % BLOCK)


def _split(name: bytes) -> tuple[bytes | None, bytes]:
    """(name, prefix) as ustar keeps them; None where it cannot. ASCII only: what other bytes
    mean is known in PAX alone."""
    if not name.isascii():
        return None, b""
    if len(name) <= 100:
        return name, b""
    at = name.rfind(b"/", 0, 156)
    if at > 0 and 0 < len(name) - at - 1 <= 100:
        return name[at + 1:], name[:at]
    return None, b""


def _record(key: bytes, value: bytes) -> bytes:
    """`LENGTH KEY=VALUE\\n`, the length counting itself."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _decimal(nanoseconds: int) -> bytes:
    sign = b"-" if nanoseconds < 0 else b""
    seconds, fraction = divmod(abs(nanoseconds), 10**9)
    return b"%s%d%s" % (sign, seconds, (b".%09d" % fraction).rstrip(b"0") if fraction else b"")


def _block(name: bytes, kind: bytes, size: int, link: bytes = b"", prefix: bytes = b"", *,
           mode: int = 0o644, uid: int = 0, gid: int = 0, mtime: int = 0, major: int = 0,
           minor: int = 0) -> bytes:
    if kind == SYMLINK:
        mode = 0o777
    head = b"".join((
        name.ljust(100, b"\0"), b"%07o\0" % mode, b"%07o\0" % uid, b"%07o\0" % gid,
        b"%011o\0" % size, b"%011o\0" % mtime, b" " * 8, kind, link.ljust(100, b"\0"),
        b"ustar\00000", bytes(64), b"%07o\0" % major, b"%07o\0" % minor,
        prefix.ljust(155, b"\0"), bytes(12)))
    return head[:148] + b"%06o\0 " % sum(head) + head[156:]
