"""Read a tar as it streams by: ustar, GNU and PAX, and nothing trusted.

The standard library's reader seeks, builds an object of twenty fields per entry and costs more
than writing the file. This one walks blocks of the stream once and hands out views of them, so a
file's bytes are never copied in Python.

    name 100, mode 8, uid 8, gid 8, size 12, mtime 12, checksum 8, type 1, link 100, magic 6,
    version 2, uname 32, gname 32, major 8, minor 8, prefix 155          one block of 512 bytes

Before an entry may stand others that describe it: `x` (PAX records), `L` and `K` (GNU long name
and long link); `g` sets PAX records for all that follow. Names are bytes and stay bytes.
Whatever is wrong with an archive is an ImageError that names the entry; memory is bounded by
LONGEST for descriptions and EXTENTS for sparse maps, whatever the archive says of itself.
"""

from __future__ import annotations

import struct
from binascii import Error as Base64Error
from binascii import a2b_base64

from rootless.errors import ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 512
# What Go's reader, and so docker, allows for a PAX header or a long name.
LONGEST = 1 << 20
EXTENTS = 1 << 18
# Written at once.
GATHERED = 1 << 20

FILE, LINK, SYMLINK, CHAR, DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"

_FIELDS = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
# These have no body, whatever their size says: Go and GNU tar agree.
_BODILESS = frozenset((LINK, SYMLINK, CHAR, DEVICE, DIRECTORY, FIFO))
_REGULAR = frozenset((FILE, b"\0", b"7", b"S"))
_XATTR, _LIBARCHIVE = b"SCHILY.xattr.", b"LIBARCHIVE.xattr."
_GLOBAL = frozenset((b"uid", b"gid", b"mtime"))
# Far beyond any filesystem's, and safe to turn into nanoseconds of a 64-bit time_t.
_LATEST = 1 << 40


class Entry:
    """One member. `size` is that of the file; `extents` are its (offset, length) where it is
    sparse. Times are nanoseconds."""

    __slots__ = ("extents", "gid", "kind", "link", "major", "minor", "mode", "mtime", "name",
                 "size", "uid", "xattrs")

    def __init__(self, name: bytes, kind: bytes, size: int) -> None:
        self.name = name
        self.kind = kind
        self.size = size
        self.link = b""
        self.mode = 0
        self.uid = 0
        self.gid = 0
        self.mtime = 0
        self.major = 0
        self.minor = 0
        self.xattrs: dict[bytes, bytes] = {}
        self.extents: list[tuple[int, int]] | None = None


def show(name: bytes) -> str:
    """A name for a message: no control characters, no more than a line."""
    text = name[:300].decode("utf-8", "backslashreplace")
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= 200 else text[:200] + "..."


class Reader:
    """Entries of a stream of uncompressed chunks.

        for entry in reader:
            for view in reader.body(): ...      # may be left unread
    """

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._view = memoryview(b"")
        self._at = 0
        self._name = b""
        # Of the current entry: bytes of the body and of its padding still in the stream.
        self._left = 0
        self._padding = 0
        self._defaults: dict[bytes, bytes] = {}

    def __iter__(self) -> Iterator[Entry]:
        return self

    def __next__(self) -> Entry:
        pax: list[tuple[bytes, bytes]] = []
        long_name: bytes | None = None
        long_link: bytes | None = None
        described = False
        while True:
            header = self._header()
            if header is None:
                if described:
                    raise self._wrong("the archive ends where an entry should follow")
                raise StopIteration
            kind = header[156:157]
            if kind in b"xgLK":
                described = True
                described_by = self._description(header)
                if kind == b"x":
                    pax = self._records(described_by)
                elif kind == b"g":
                    described = False
                    self._defaults.update((k, v) for k, v in self._records(described_by)
                                          if k in _GLOBAL)
                elif kind == b"L":
                    long_name = described_by.partition(b"\0")[0]
                else:
                    long_link = described_by.partition(b"\0")[0]
                continue
            return self._entry(header, pax, long_name, long_link)

    def body(self) -> Iterator[memoryview]:
        """What is left of the current entry's data, in views of the stream."""
        while found := self.pieces(1):
            yield found[0]

    def pieces(self, most: int = 512) -> list[memoryview]:
        """The next views of the body, at most `most` and about GATHERED bytes, for writev(2);
        empty at its end. A view keeps the whole chunk it is of in memory."""
        found: list[memoryview] = []
        end = max(0, self._left - GATHERED)
        while self._left > end and len(found) < most:
            if self._at == len(self._view):
                self._refill()
            piece = self._view[self._at:self._at + self._left]
            self._at += len(piece)
            self._left -= len(piece)
            found.append(piece)
        return found

    def drain(self) -> None:
        """Read the stream to its end: what follows the archive belongs to its digest."""
        self._view = memoryview(b"")
        self._at = 0
        for _ in self._chunks:
            pass

    # ---- the stream ----------------------------------------------------------------------------

    def _refill(self) -> None:
        for chunk in self._chunks:
            if chunk:
                self._view = memoryview(chunk)
                self._at = 0
                return
        raise self._wrong("the archive is cut off")

    def _take(self, count: int) -> bytes:
        """Exactly that many bytes. For descriptions only: callers bound `count`."""
        at = self._at
        if at + count <= len(self._view):
            self._at = at + count
            return bytes(self._view[at:at + count])
        parts: list[memoryview] = []
        while count:
            if self._at == len(self._view):
                self._refill()
            part = self._view[self._at:self._at + count]
            self._at += len(part)
            count -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _skip(self, count: int) -> None:
        while count:
            if self._at == len(self._view):
                self._refill()
            step = min(count, len(self._view) - self._at)
            self._at += step
            count -= step

    def _header(self) -> bytes | None:
        """The next header block, verified; None at the end of the archive."""
        if self._left or self._padding:
            self._skip(self._left + self._padding)
            self._left = self._padding = 0
        while self._at == len(self._view):
            # An archive may end without its blocks of zeros, as GNU tar and Go accept.
            chunk = next(self._chunks, None)
            if chunk is None:
                return None
            self._view = memoryview(chunk)
            self._at = 0
        header = self._take(BLOCK)
        stored = header[148:156]
        total = sum(header) - sum(stored) + 8 * 32
        try:
            wanted = int(stored.partition(b"\0")[0], 8)
        except ValueError:
            if not any(header):
                return None
            raise self._wrong("what follows it is no tar header") from None
        # Some old writers added the bytes up as signed.
        if wanted not in (total, total - 256 * sum(b > 127 for b in header[:148] + header[156:])):
            raise self._wrong("the checksum of the header that follows is wrong")
        return header

    def _description(self, header: bytes) -> bytes:
        size = self._number(header[124:136])
        if not 0 <= size <= LONGEST:
            raise self._wrong(f"a description of {size} bytes follows it")
        data = self._take(size)
        self._skip(-size % BLOCK)
        return data

    def _wrong(self, why: str) -> ImageError:
        where = f"after {show(self._name)}" if self._name else "at its start"
        return ImageError(f"cannot read the tar archive: {where}: {why}")

    # ---- fields --------------------------------------------------------------------------------

    def _number(self, field: bytes) -> int:
        first = field[0]
        if first & 0x80:            # base 256, of GNU; all ones in front: negative
            value = int.from_bytes(field, "big")
            if first == 0xFF:
                return value - (1 << 8 * len(field))
            return value & ~(0x80 << 8 * (len(field) - 1))
        try:
            return int(field.partition(b"\0")[0].strip() or b"0", 8)
        except ValueError:
            raise self._wrong(f"a field holds {show(field)} for a number") from None

    def _decimal(self, key: bytes, text: bytes) -> int:
        if not text.isdigit() or len(text) > 20:
            raise self._wrong(f"{show(key)} is no number: {show(text)}")
        return int(text)

    def _time(self, text: bytes) -> int:
        """Nanoseconds of PAX's `-12.0345`, exactly: a float would lose the last digits."""
        negative = text[:1] == b"-"
        whole, _, fraction = text[negative:].partition(b".")
        if not (whole or b"0").isdigit() or not (fraction or b"0").isdigit():
            raise self._wrong(f"mtime is no time: {show(text)}")
        seconds = int(whole[:20] or b"0")
        nanoseconds = seconds * 10**9 + int(fraction[:9].ljust(9, b"0"))
        return _bounded(-nanoseconds if negative else nanoseconds)

    def _records(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """`LENGTH KEY=VALUE\\n`, LENGTH being that of the whole record."""
        found = []
        at = 0
        while at < len(data):
            space = data.find(b" ", at, at + 12)
            digits = data[at:space] if space > 0 else b""
            end = at + int(digits) if digits.isdigit() else 0
            equals = data.find(b"=", space, end)
            if end <= space or end > len(data) or equals < 0 or data[end - 1] != 0x0A:
                if not any(data[at:]):      # zeros where the records should end: seen in the wild
                    break
                raise self._wrong("a PAX record that follows it is malformed")
            found.append((data[space + 1:equals], data[equals + 1:end - 1]))
            at = end
        return found

    def _entry(self, header: bytes, pax: list[tuple[bytes, bytes]], long_name: bytes | None,
               long_link: bytes | None) -> Entry:
        (name, mode, uid, gid, size_field, mtime, _, kind, link, magic, _, _, major, minor,
         prefix) = _FIELDS.unpack(header)
        name = name.partition(b"\0")[0]
        # GNU's magic has spaces, and other things in the place of the prefix.
        if prefix[0] and magic[:6] == b"ustar\0":
            name = prefix.partition(b"\0")[0] + b"/" + name
        if long_name is not None:
            name = long_name
        records = {**self._defaults, **dict(pax)} if pax or self._defaults else {}
        name = records.get(b"GNU.sparse.name") or records.get(b"path") or name
        if b"\0" in name:
            raise self._wrong(f"a name holds a zero byte: {show(name)}")
        self._name = name
        size = self._number(size_field)
        if records.get(b"size"):
            size = self._decimal(b"size", records[b"size"])
        if kind in _REGULAR:
            # Before there was a type for directories they were files with a slash.
            if kind == b"\0" and name[-1:] == b"/":
                kind = DIRECTORY
            elif kind != b"S":
                kind = FILE
        if kind in _BODILESS:
            size = 0
        if not 0 <= size < 1 << 62:
            raise ImageError(f"cannot read the tar archive: {show(name)}: its size is {size}")
        self._left, self._padding = size, -size % BLOCK
        entry = Entry(name, kind, size)
        if kind == b"S":
            entry.kind = FILE
            self._old_sparse(entry, header)
        entry.mode = self._number(mode) & 0o7777
        entry.uid = self._id(uid, records.get(b"uid"), b"uid")
        entry.gid = self._id(gid, records.get(b"gid"), b"gid")
        text = records.get(b"mtime")
        entry.mtime = self._time(text) if text else _bounded(self._number(mtime) * 10**9)
        if kind in (LINK, SYMLINK):
            entry.link = (records.get(b"linkpath") or long_link
                          or (link.partition(b"\0")[0] if long_link is None else b""))
            if b"\0" in entry.link:
                raise self._wrong("the target of the link holds a zero byte")
        elif kind in (CHAR, DEVICE):
            entry.major, entry.minor = self._number(major), self._number(minor)
        if pax:
            self._extended(entry, pax, records)
        return entry

    def _id(self, field: bytes, text: bytes | None, key: bytes) -> int:
        value = self._decimal(key, text) if text else self._number(field)
        if not 0 <= value < 0xFFFFFFFF:
            raise ImageError(f"cannot read the tar archive: {show(self._name)}: its {key.decode()} "
                             f"is {value}")
        return value

    def _extended(self, entry: Entry, pax: list[tuple[bytes, bytes]],
                  records: dict[bytes, bytes]) -> None:
        for key, value in pax:
            if key.startswith(_XATTR):
                entry.xattrs[key[len(_XATTR):]] = value
            elif key.startswith(_LIBARCHIVE):
                try:
                    decoded = a2b_base64(value)
                except Base64Error:
                    raise self._wrong(f"{show(key)} is not base64") from None
                entry.xattrs.setdefault(_unquote(key[len(_LIBARCHIVE):]), decoded)
        if entry.kind != FILE:
            return
        if b"GNU.sparse.major" in records:
            version = records[b"GNU.sparse.major"], records.get(b"GNU.sparse.minor")
            if version != (b"1", b"0"):
                raise self._wrong("it is sparse in a format of the future")
            self._sparse(entry, records, self._map_in_body())
        elif b"GNU.sparse.map" in records:
            text = records[b"GNU.sparse.map"]
            self._sparse(entry, records, text.split(b",") if text else [])
        elif b"GNU.sparse.numblocks" in records or b"GNU.sparse.size" in records:
            self._sparse(entry, records, [v for k, v in pax if k in (b"GNU.sparse.offset",
                                                                     b"GNU.sparse.numbytes")])

    # ---- sparse files --------------------------------------------------------------------------

    def _sparse(self, entry: Entry, records: dict[bytes, bytes], numbers: list[bytes]) -> None:
        key = b"GNU.sparse.realsize" if b"GNU.sparse.realsize" in records else b"GNU.sparse.size"
        real = self._decimal(key, records.get(key, b""))
        values = [self._decimal(b"GNU.sparse.map", n) for n in numbers[:2 * EXTENTS + 1]]
        if len(values) % 2 or len(values) > 2 * EXTENTS:
            raise self._wrong("its map of holes is malformed")
        self._set_extents(entry, list(zip(values[::2], values[1::2])), real)

    def _map_in_body(self) -> list[bytes]:
        """Format 1.0: the map is text in front of the data, filled up to whole blocks."""
        lines: list[bytes] = []
        rest = b""
        wanted = 1
        while len(lines) < wanted:
            if self._left < BLOCK:
                raise self._wrong("its map of holes is cut off")
            block = self._take(BLOCK)
            self._left -= BLOCK
            parts = (rest + block).split(b"\n")
            rest = parts.pop()
            if len(rest) > BLOCK:
                raise self._wrong("its map of holes is malformed")
            lines += parts
            if wanted == 1 and lines:
                wanted = 1 + 2 * self._decimal(b"GNU.sparse.map", lines[0])
                if wanted > 2 * EXTENTS:
                    raise self._wrong("it has too many holes")
        return lines[1:wanted]

    def _old_sparse(self, entry: Entry, header: bytes) -> None:
        """GNU's own: four extents in the header, 21 in each block that follows."""
        real = self._number(header[483:495])
        table, more = header[386:482], header[482]
        extents: list[tuple[int, int]] = []
        while True:
            for at in range(0, len(table) - 23, 24):
                if table[at]:
                    extents.append((self._number(table[at:at + 12]),
                                    self._number(table[at + 12:at + 24])))
            if not more:
                break
            if len(extents) > EXTENTS:
                raise self._wrong("it has too many holes")
            block = self._take(BLOCK)
            table, more = block[:504], block[504]
        self._set_extents(entry, extents, real)

    def _set_extents(self, entry: Entry, extents: list[tuple[int, int]], real: int) -> None:
        end = stored = 0
        for offset, length in extents:
            if offset < end or length < 0 or offset + length > real:
                raise self._wrong("its map of holes makes no sense")
            end = offset + length
            stored += length
        if stored != self._left or not 0 <= real < 1 << 62:
            raise self._wrong("its map of holes does not fit its size")
        entry.size = real
        entry.extents = extents


def _bounded(nanoseconds: int) -> int:
    return max(-_LATEST * 10**9, min(nanoseconds, _LATEST * 10**9))


def _unquote(name: bytes) -> bytes:
    """%XX of URLs, as libarchive writes names of attributes."""
    first, *rest = name.split(b"%")
    out = [first]
    for part in rest:
        try:
            out.append(bytes.fromhex(part[:2].decode("ascii")) + part[2:])
        except ValueError:
            out.append(b"%" + part)
    return b"".join(out)
