"""A stream is known by its first bytes, and one that is damaged or cut off never passes."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
from typing import Callable

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from rootless.errors import ImageError
from rootless.image.decompress import FEED, OUT, inflate


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


WRITERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress, "zstd": zstd, "bzip2": bz2.compress, "xz": lzma.compress}

# Text that compresses and noise that does not; larger than any buffer on the way.
DATA = (b"line %d\n" * 1000) * 500 + random.Random(1).randbytes(300_000)


def source(data: bytes, size: int = 1 << 16) -> Callable[[], bytes]:
    stream = io.BytesIO(data)
    return lambda: stream.read(size)


def inflated(data: bytes, size: int = 1 << 16) -> bytes:
    return b"".join(inflate(source(data, size)))


def refused(data: bytes, says: str) -> None:
    with pytest.raises(ImageError, match=says):
        inflated(data)


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_every_form_is_recognised(form: str, size: int) -> None:
    data = DATA if size > 7 else DATA[:1000] + DATA[-3000:]
    assert inflated(WRITERS[form](data), size) == data


def test_what_is_not_compressed_passes_as_it_is() -> None:
    assert inflated(DATA, 1000) == DATA
    assert inflated(b"") == b""
    assert inflated(b"abc") == b"abc"


@pytest.mark.parametrize("form", WRITERS)
def test_members_and_frames_follow_each_other(form: str) -> None:
    write = WRITERS[form]
    whole = write(b"one") + write(b"") + write(DATA) + write(b"two")
    assert inflated(whole, 5000) == b"one" + DATA + b"two"


@pytest.mark.parametrize("form", WRITERS)
def test_a_stream_that_is_cut_off_is_refused(form: str) -> None:
    whole = WRITERS[form](DATA[-5000:])
    for end in (7, len(whole) // 2, len(whole) - 1):
        refused(whole[:end], "cut off|damaged")


@pytest.mark.parametrize("form", WRITERS)
def test_a_damaged_stream_is_refused(form: str) -> None:
    whole = bytearray(WRITERS[form](DATA))
    whole[len(whole) // 2] ^= 0xFF
    refused(bytes(whole), "damaged")


@pytest.mark.parametrize("at", [-8, -5, -4, -1])
def test_checksum_and_length_of_gzip_are_verified(at: int) -> None:
    whole = bytearray(gzip.compress(b"hello"))
    whole[at] ^= 1
    refused(bytes(whole), "damaged")


def test_zeros_behind_a_gzip_stream_are_padding_and_nothing_else_is() -> None:
    whole = gzip.compress(b"hello")
    assert inflated(whole + bytes(100_000), 999) == b"hello"
    refused(whole + b"garbage", "something follows")
    refused(whole + b"\x1f", "something follows")
    refused(zstd(b"hello") + b"garbage", "something follows")
    refused(zstd(b"hello") + b"g", "something follows")


def test_skippable_frames_hold_no_data() -> None:
    frame = b"\x53\x2a\x4d\x18" + (10000).to_bytes(4, "little") + os.urandom(10000)
    assert inflated(frame + zstd(b"a") + frame + zstd(b"b") + frame, 100) == b"ab"


@pytest.mark.parametrize("form", WRITERS)
def test_a_bomb_comes_out_in_small_pieces(form: str) -> None:
    bomb = WRITERS[form](bytes(50 << 20))
    largest = total = 0
    for chunk in inflate(source(bomb)):
        largest, total = max(largest, len(chunk)), total + len(chunk)
    assert total == 50 << 20
    assert largest <= (FEED // 4 * 131072 if form == "zstd" else OUT)


@settings(deadline=None)
@given(st.sampled_from(sorted(WRITERS)), st.binary(max_size=2000),
       st.lists(st.tuples(st.integers(0, 4000), st.integers(1, 255)), max_size=3))
def test_no_damage_ends_in_another_error(form: str, data: bytes,
                                         edits: list[tuple[int, int]]) -> None:
    whole = bytearray(WRITERS[form](data))
    for at, change in edits:
        whole[at % len(whole)] ^= change
    try:
        inflated(bytes(whole), 64)
    except ImageError as e:
        assert e.message.startswith("cannot decompress: ")
