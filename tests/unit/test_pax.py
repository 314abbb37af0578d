"""What the writer of tars says, the reader understands, and so does the standard library."""

from __future__ import annotations

import io
import tarfile

from hypothesis import given
from hypothesis import strategies as st

from rootless.image import pax
from rootless.image.tar import CHAR, DIRECTORY, FIFO, FILE, LINK, SYMLINK, Entry, Reader

NAMES = st.binary(min_size=1, max_size=300).map(
    lambda b: b.replace(b"\0", b"x").strip(b"/")).filter(
        lambda b: b and not b.endswith(b"/") and b"\n" not in b)
VALUES = st.binary(min_size=1, max_size=40).filter(lambda b: b"\0" not in b)


@st.composite
def entries(draw: st.DrawFn) -> tuple[Entry, bytes]:
    kind = draw(st.sampled_from([FILE, DIRECTORY, SYMLINK, LINK, FIFO, CHAR]))
    body = draw(st.binary(max_size=1500)) if kind == FILE else b""
    entry = Entry(draw(NAMES), kind, len(body))
    entry.mode = 0o777 if kind == SYMLINK else draw(st.integers(0, 0o7777))
    entry.uid, entry.gid = draw(st.integers(0, 0xFFFFFFFE)), draw(st.integers(0, 1 << 21))
    entry.mtime = draw(st.integers(-10**18, 10**19))
    entry.xattrs = draw(st.dictionaries(st.sampled_from([b"user.a", b"user.b c"]), VALUES))
    if kind in (SYMLINK, LINK):
        entry.link = draw(NAMES)
    if kind == CHAR:
        entry.major, entry.minor = draw(st.integers(0, 4095)), draw(st.integers(0, 1 << 20))
    return entry, body


def written(*members: tuple[Entry, bytes]) -> bytes:
    out = bytearray()
    writer = pax.Writer(out.extend)
    for entry, body in members:
        writer.entry(entry)
        writer.body(body)
    writer.finish()
    return bytes(out)


@given(st.lists(entries(), max_size=4), st.integers(1, 2000))
def test_the_reader_understands_every_entry(members: list[tuple[Entry, bytes]],
                                            step: int) -> None:
    data = written(*members)
    reader = Reader(data[i:i + step] for i in range(0, len(data), step))
    for entry, body in members:
        found = next(reader)
        assert found.name.rstrip(b"/") == entry.name
        for field in ("kind", "size", "mode", "uid", "gid", "mtime", "link", "major", "minor",
                      "xattrs", "extents"):
            assert getattr(found, field) == getattr(entry, field), field
        assert b"".join(reader.body()) == body
    assert next(reader, None) is None


@given(st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), min_size=1, max_size=400))
def test_a_sparse_file_comes_back_with_its_holes(gaps: list[tuple[int, int]]) -> None:
    entry, at = Entry(b"sparse", FILE, 0), 0
    entry.extents = []
    for gap, length in gaps:
        entry.extents.append((at + gap, length))
        at += gap + length
    entry.size = at + 77
    body = b"".join(bytes([n % 251 + 1]) * length for n, (_, length) in enumerate(entry.extents))
    data = written((entry, body))
    reader = Reader(iter([data]))
    found = next(reader)
    assert (found.name, found.size, found.extents) == (b"sparse", entry.size, entry.extents)
    assert b"".join(reader.body()) == body
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        (member,) = tar.getmembers()
        assert (member.name, member.size) == ("sparse", entry.size)
        whole = tar.extractfile(member)
        assert whole is not None
        content = whole.read()
    for (offset, length), number in zip(entry.extents, range(len(gaps))):
        assert content[offset:offset + length] == bytes([number % 251 + 1]) * length
    assert len(content) == entry.size


def test_a_file_beyond_eight_gigabytes_has_its_size() -> None:
    entry = Entry(b"large", FILE, 1 << 35)
    reader = Reader(iter([pax.header(entry)]))
    assert next(reader).size == 1 << 35


@given(st.lists(entries(), max_size=4))
def test_the_standard_library_reads_it(members: list[tuple[Entry, bytes]]) -> None:
    with tarfile.open(fileobj=io.BytesIO(written(*members)), encoding="utf-8",
                      errors="surrogateescape") as tar:
        for (entry, body), found in zip(members, tar.getmembers()):
            assert found.name.encode("utf-8", "surrogateescape").rstrip(b"/") == entry.name
            assert (found.uid, found.mode & 0o7777) == (entry.uid, entry.mode)
            if entry.kind == FILE:
                file = tar.extractfile(found)
                assert file is not None and file.read() == body
