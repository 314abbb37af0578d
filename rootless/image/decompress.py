"""Inflate a stream whose first bytes say how it was compressed.

Media types and file names lie, so nobody asks them. Each step gives at most about OUT bytes,
however well the stream was compressed, and so a bomb fills no memory; `bounded` sees to it that it
fills no disk. A stream that is cut off or damaged is an ImageError.
"""

from __future__ import annotations

import os

from rootless.errors import ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

OUT = 1 << 20
# zstd's decoder cannot be told to stop: a block of 4 bytes can stand for 128 KiB of one byte, so
# what is fed at once bounds what comes out (here 16 MiB at the very worst, and a copy of it).
FEED = 512

# What a stream may inflate to: gzip's honest best, of logs and tables of zeros, is near 100 times
# its size, its worst 1030. Below the floor nobody asks: larger layers than that are real.
MOST_TIMES = 200
FLOOR = 16 << 30

_READ = 1 << 18
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_BZIP2 = b"BZh"
_XZ = b"\xfd7zXZ\0"


def form_of(head: bytes) -> str:
    """How a stream with these first six bytes is compressed: gzip, zstd, bzip2, xz or ""."""
    for magic, name in ((_GZIP, "gzip"), (_ZSTD, "zstd"), (_BZIP2, "bzip2"), (_XZ, "xz")):
        if head.startswith(magic):
            return name
    return "zstd" if _is_skippable(head) else ""


def preload() -> None:
    """Import what layers are mostly compressed with: before a fork, once for all children."""
    _gzip_member()
    try:
        import zstandard  # noqa: F401
    except ImportError:
        pass


def inflate(source: Callable[[], bytes]) -> Iterator[bytes]:
    """Uncompressed chunks; `source` gives compressed bytes, b"" at their end.

    Reads the first bytes and imports what it needs before it returns: the iterator may be used
    where no module can be loaded any more.
    """
    head = b""
    while len(head) < 6:
        more = source()
        if not more:
            break
        head += more
    form = form_of(head)
    if form == "gzip":
        return _members(head, source, _gzip_member(), _GZIP, form)
    if form == "zstd":
        return _zstd(head, source)
    if form == "bzip2":
        from bz2 import BZ2Decompressor

        return _members(head, source, lambda: _Needy(BZ2Decompressor(), OSError), _BZIP2, form)
    if form == "xz":
        from lzma import LZMADecompressor, LZMAError

        return _members(head, source, lambda: _Needy(LZMADecompressor(memlimit=256 << 20),
                                                     LZMAError), _XZ, form)
    return _plain(head, source)


def bounded(fd: int, expected: int, what: str, floor: int = FLOOR) -> Iterator[bytes]:
    """`inflate` of a descriptor, as long as it stays in proportion. `expected`: the size that the
    stream should have. Raises ImageError."""
    read = 0

    def source() -> bytes:
        nonlocal read
        data = os.read(fd, _READ)
        read += len(data)
        return data

    def proportionate(chunks: Iterator[bytes]) -> Iterator[bytes]:
        total = 0
        for chunk in chunks:
            total += len(chunk)
            most = max(floor, MOST_TIMES * max(expected, read))
            if total > most:
                raise ImageError(f"{what} is refused: it unpacks to more than {most >> 20} MiB, "
                                 "which no honest one of its size does")
            yield chunk

    return proportionate(inflate(source))


def _plain(data: bytes, source: Callable[[], bytes]) -> Iterator[bytes]:
    while data:
        yield data
        data = source()


class _Zlib:
    """zlib's decoder object: what did not fit is handed back."""

    def __init__(self, module: Any) -> None:
        self._object = module.decompressobj(31)
        self.error = module.error

    def step(self, data: bytes) -> tuple[bytes, bytes]:
        out = self._object.decompress(data, OUT)
        return out, self._object.unconsumed_tail

    @property
    def eof(self) -> bool:
        return bool(self._object.eof)

    @property
    def unused(self) -> bytes:
        return bytes(self._object.unused_data)


class _Needy:
    """bz2's and lzma's: what did not fit is kept inside."""

    def __init__(self, decoder: Any, error: type[Exception]) -> None:
        self._object = decoder
        self.error = error

    def step(self, data: bytes) -> tuple[bytes, bytes]:
        return self._object.decompress(data, OUT), b""

    @property
    def eof(self) -> bool:
        return bool(self._object.eof)

    @property
    def unused(self) -> bytes:
        return bytes(self._object.unused_data)


def _gzip_member() -> Callable[[], _Zlib]:
    """isal inflates at more than twice zlib's speed; it does not exist for every machine."""
    module: Any
    try:
        from isal import isal_zlib

        module = isal_zlib
    except ImportError:
        import zlib

        module = zlib
    return lambda: _Zlib(module)


def _members(data: bytes, source: Callable[[], bytes], start: Callable[[], Any], magic: bytes,
             name: str) -> Iterator[bytes]:
    """One member after the other, which together are the stream (as pigz and bgzip write it).

    Zeros behind the last are padding, as gzip(1) has it; anything else is refused, as docker does.
    """
    while data:
        decoder = start()
        try:
            while not decoder.eof:
                out, rest = decoder.step(data)
                if out:
                    yield out
                if decoder.eof:
                    break
                if len(out) < OUT and not rest:
                    rest = source()
                    if not rest:
                        raise ImageError(f"cannot decompress: the {name} stream is cut off")
                data = rest
        except (decoder.error, EOFError) as e:
            raise ImageError(f"cannot decompress: the {name} stream is damaged: {e}") from None
        data = decoder.unused.lstrip(b"\0")
        while len(data) < len(magic):
            more = source()
            if not more:
                break
            data = (data + more).lstrip(b"\0") if not data else data + more
        if data and not data.startswith(magic):
            raise ImageError(f"cannot decompress: something follows the {name} stream")


def _is_skippable(head: bytes) -> bool:
    """A frame that holds no data; zstd:chunked keeps its table of contents in one."""
    return len(head) >= 4 and head[0] & 0xF0 == 0x50 and head[1:4] == b"\x2a\x4d\x18"


def _zstd(data: bytes, source: Callable[[], bytes]) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError:
        raise ImageError("cannot decompress: the stream is zstd's, and the module zstandard is "
                         "not installed", hint="pip install zstandard") from None
    return _frames(data, source, zstandard)


def _frames(data: bytes, source: Callable[[], bytes], zstandard: Any) -> Iterator[bytes]:
    decoder: Any = None
    parts: list[bytes] = []
    gathered = 0
    while data:
        view = memoryview(data)
        at = 0
        while at < len(view):
            if decoder is None:
                start = bytes(view[at:at + 4])
                if len(start) < 4:
                    break
                if start != _ZSTD and not _is_skippable(start):
                    raise ImageError("cannot decompress: something follows the zstd stream")
                decoder = zstandard.ZstdDecompressor().decompressobj()
            piece = view[at:at + FEED]
            try:
                out = decoder.decompress(piece)
            except zstandard.ZstdError as e:
                raise ImageError(f"cannot decompress: the zstd stream is damaged: {e}") from None
            at += len(piece)
            if decoder.eof:
                at -= len(decoder.unused_data)
                decoder = None
            if out:
                parts.append(out)
                gathered += len(out)
            if gathered >= OUT // 4:
                yield b"".join(parts)
                parts, gathered = [], 0
        rest = bytes(view[at:])
        more = source()
        if rest and not more:
            raise ImageError("cannot decompress: something follows the zstd stream")
        data = rest + more
    if decoder is not None:
        raise ImageError("cannot decompress: the zstd stream is cut off")
    if parts:
        yield b"".join(parts)
