"""The tar reader agrees with the standard library's, and an archive cannot make it misbehave."""

from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rootless.errors import ImageError
from rootless.image.tar import (
    BLOCK,
    DIRECTORY,
    FILE,
    GATHERED,
    LINK,
    LONGEST,
    SYMLINK,
    Entry,
    Reader,
)


def chunked(data: bytes, size: int = 65536) -> Iterator[bytes]:
    return (data[i:i + size] for i in range(0, len(data), size))


def read(data: bytes, size: int = 65536) -> list[tuple[Entry, bytes]]:
    reader = Reader(chunked(data, size))
    return [(entry, b"".join(reader.body())) for entry in reader]


def refused(data: bytes, says: str) -> None:
    with pytest.raises(ImageError) as caught:
        read(data)
    assert says in caught.value.message, caught.value.message


def header(name: bytes = b"f", kind: bytes = b"0", size: bytes = b"00000000000\0", *,
           mode: bytes = b"0000644\0", uid: bytes = b"0000000\0", mtime: bytes = b"00000000000\0",
           link: bytes = b"", magic: bytes = b"ustar\00000", prefix: bytes = b"") -> bytes:
    """One block, its checksum right."""
    block = (name.ljust(100, b"\0") + mode + uid + b"0000000\0" + size + mtime + b" " * 8 + kind
             + link.ljust(100, b"\0") + magic + bytes(80) + prefix.ljust(155, b"\0") + bytes(12))
    assert len(block) == BLOCK
    return with_checksum(block)


def with_checksum(block: bytes) -> bytes:
    block = block[:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def octal(number: int) -> bytes:
    return b"%011o\0" % number


def record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return str(length).encode() + rest


def pax(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    data = b"".join(record(k, v) for k, v in records)
    return header(b"PaxHeader", kind, octal(len(data))) + padded(data)


END = bytes(2 * BLOCK)

# ---- agreement with the standard library -------------------------------------------------------

names = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=120)
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
members = st.fixed_dictionaries({
    "name": paths,
    "type": st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE,
                             tarfile.FIFOTYPE, tarfile.CHRTYPE]),
    "mode": st.integers(0, 0o7777), "uid": st.integers(0, 2**21 - 1) | st.integers(0, 2**32 - 2),
    "gid": st.integers(0, 2**21 - 1), "mtime": st.integers(0, 2**34),
    "link": paths, "data": st.binary(max_size=1500),
    "xattr": st.binary(max_size=40),
})


def written_by_stdlib(drawn: list[dict[str, object]], form: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, encoding="utf-8",
                      errors="surrogateescape") as archive:
        for member in drawn:
            info = tarfile.TarInfo()
            for field in ("name", "type", "mode", "uid", "gid", "mtime"):
                setattr(info, field, member[field])
            data = member["data"] if info.isreg() else b""
            assert isinstance(data, bytes)
            info.size = len(data)
            info.linkname = str(member["link"]) if info.issym() or info.islnk() else ""
            xattr = member["xattr"]
            assert isinstance(xattr, bytes)
            if form == tarfile.PAX_FORMAT and xattr:
                info.pax_headers = {"SCHILY.xattr.user.x": xattr.decode("utf-8",
                                                                        "surrogateescape")}
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@settings(deadline=None)
@given(st.lists(members, max_size=5), st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
       st.integers(1, 3000))
def test_what_the_standard_library_writes_is_read_back(drawn: list[dict[str, object]], form: int,
                                                       size: int) -> None:
    found = read(written_by_stdlib(drawn, form), size)
    assert len(found) == len(drawn)
    for (entry, body), member in zip(found, drawn):
        # A slash marks a directory in the header; which the reader hands on.
        assert entry.name.rstrip(b"/") == str(member["name"]).encode().rstrip(b"/")
        assert (entry.mode, entry.uid, entry.gid) == (member["mode"], member["uid"], member["gid"])
        mtime = member["mtime"]
        assert isinstance(mtime, int)
        assert entry.mtime == mtime * 10**9
        assert entry.kind == member["type"]
        if entry.kind in (SYMLINK, LINK):
            assert entry.link == str(member["link"]).encode()
        assert body == (member["data"] if entry.kind == FILE else b"")
        if form == tarfile.PAX_FORMAT and member["xattr"]:
            assert entry.xattrs == {b"user.x": member["xattr"]}


# ---- damage ------------------------------------------------------------------------------------

def harmless(data: bytes) -> None:
    try:
        read(data)
    except ImageError as e:
        assert e.message.isprintable()


@settings(deadline=None)
@given(st.binary(max_size=4096))
def test_arbitrary_bytes_are_an_image_error_or_an_archive(data: bytes) -> None:
    harmless(data)


@settings(deadline=None, max_examples=300)
@given(st.lists(members, min_size=1, max_size=3),
       st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(min_size=1, max_size=12)), max_size=4),
       st.booleans(), st.integers(0, 1 << 16))
def test_damaged_archives_are_an_image_error_or_an_archive(
        drawn: list[dict[str, object]], edits: list[tuple[int, bytes]], mend: bool,
        cut: int) -> None:
    """With the checksums made right again, so that the damage reaches the fields behind them."""
    data = bytearray(written_by_stdlib(drawn, tarfile.PAX_FORMAT))
    for at, value in edits:
        at %= len(data)
        data[at:at + len(value)] = value[:len(data) - at]
        if mend:
            start = at - at % BLOCK
            data[start:start + BLOCK] = with_checksum(bytes(data[start:start + BLOCK]))
    harmless(bytes(data[:max(1, cut % len(data))] if cut % 3 == 0 else data))


@pytest.mark.parametrize("length", [1, 511, 512, 700, 1023])
def test_an_archive_that_is_cut_off_is_refused_by_the_name_of_the_entry(length: int) -> None:
    whole = header(b"some/file", size=octal(600)) + padded(b"x" * 600)
    refused(whole[:length], "cut off")
    if length > 512:
        refused(whole[:length], "some/file")


def test_an_archive_may_end_without_its_zeros() -> None:
    assert [e.name for e, _ in read(header(b"a") + header(b"b"))] == [b"a", b"b"]


def test_a_wrong_checksum_is_refused() -> None:
    block = bytearray(header())
    block[0] ^= 1
    refused(bytes(block) + END, "checksum")


def test_a_checksum_of_signed_bytes_is_accepted() -> None:
    block = header(b"caf\xe9")
    signed = sum(struct.unpack("512b", block[:148] + b" " * 8 + block[156:]))
    block = block[:148] + b"%06o\0 " % signed + block[156:]
    assert read(block + END)[0][0].name == b"caf\xe9"


@pytest.mark.parametrize("size, says", [
    (b"-0000000001\0", "size is -1"), (b"\xff" * 12, "size is -1"),
    (b"\x80" + b"\xff" * 11, "its size is"), (b"zzz\0" + bytes(8), "for a number"),
    (octal(1 << 32), "cut off")])
def test_absurd_sizes_are_refused(size: bytes, says: str) -> None:
    refused(header(b"liar", size=size) + END, says)


@pytest.mark.parametrize("data", [
    b"99 path=x\n", b"5 path=x\n", b"-1 path=x\n", b"path=x\n", b"9 path=x!", b"0 =\n",
    b"99999999999999999999 a=b\n", b"7 path\n", b" 8 a=bc\n"])
def test_malformed_pax_records_are_refused(data: bytes) -> None:
    refused(header(kind=b"x", size=octal(len(data))) + padded(data) + header() + END, "PAX")


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_endless_descriptions_are_refused_unread(kind: bytes) -> None:
    refused(header(kind=kind, size=octal(LONGEST + 1)) + END, f"{LONGEST + 1} bytes")


def test_a_description_of_nothing_is_refused() -> None:
    refused(pax((b"path", b"x")) + END, "where an entry should follow")


def test_names_with_a_zero_byte_are_refused() -> None:
    refused(pax((b"path", b"a\0b")) + header() + END, "zero byte")


# ---- formats -----------------------------------------------------------------------------------

def test_names_are_bytes() -> None:
    (entry, _), = read(header(b"latin-\xe9\xff") + END)
    assert entry.name == b"latin-\xe9\xff"
    (entry, _), = read(pax((b"hdrcharset", b"BINARY"), (b"path", b"\xe9\xff")) + header() + END)
    assert entry.name == b"\xe9\xff"


def test_the_prefix_of_ustar_leads_and_that_of_gnu_does_not() -> None:
    (entry, _), = read(header(b"name", prefix=b"dir/sub") + END)
    assert entry.name == b"dir/sub/name"
    (entry, _), = read(header(b"name", prefix=b"00000000000", magic=b"ustar  \0") + END)
    assert entry.name == b"name"


def test_old_directories_are_files_with_a_slash() -> None:
    (entry, _), = read(header(b"old/", kind=b"\0", magic=bytes(8)) + END)
    assert entry.kind == DIRECTORY


def test_pax_overrides_and_lasts_for_one_entry() -> None:
    first, second = read(
        pax((b"path", b"long"), (b"uid", b"3000000000"), (b"mtime", b"1700000000.123456789"),
            (b"size", b"3"), (b"SCHILY.xattr.user.a", b"\0=\n"))
        + header(b"short", size=octal(0)) + padded(b"abc") + header(b"other") + END)
    entry, body = first
    assert (entry.name, entry.uid, entry.size, body) == (b"long", 3000000000, 3, b"abc")
    assert entry.mtime == 1700000000_123456789
    assert entry.xattrs == {b"user.a": b"\0=\n"}
    assert second[0].name == b"other" and second[0].uid == 0 and not second[0].xattrs


@pytest.mark.parametrize("text, nanoseconds", [
    (b"-1.5", -1_500_000_000), (b"0.000000001", 1), (b"1.9999999999", 1_999_999_999),
    (b".5", 500_000_000), (b"7", 7_000_000_000)])
def test_times_are_exact(text: bytes, nanoseconds: int) -> None:
    (entry, _), = read(pax((b"mtime", text)) + header() + END)
    assert entry.mtime == nanoseconds


def test_global_records_are_defaults_and_rename_nothing() -> None:
    found = read(pax((b"uid", b"7"), (b"path", b"evil"), kind=b"g") + header(b"a")
                 + pax((b"uid", b"8")) + header(b"b") + header(b"c") + END)
    assert [(e.name, e.uid) for e, _ in found] == [(b"a", 7), (b"b", 8), (b"c", 7)]


def test_attributes_as_libarchive_writes_them() -> None:
    (entry, _), = read(pax((b"LIBARCHIVE.xattr.user.a%3Db", b"aGk=")) + header() + END)
    assert entry.xattrs == {b"user.a=b": b"hi"}


def test_links_have_no_body_whatever_they_say() -> None:
    found = read(header(b"l", kind=b"1", link=b"t", size=octal(999)) + header(b"next") + END)
    assert [e.name for e, _ in found] == [b"l", b"next"]


def test_base_256_numbers() -> None:
    mtime = b"\xff" * 11 + b"\xfe"
    (entry, _), = read(header(uid=b"\x80\0\0\0" + struct.pack(">I", 1 << 30), mtime=mtime) + END)
    assert (entry.uid, entry.mtime) == (1 << 30, -2_000_000_000)


def test_one_entry_may_be_left_unread() -> None:
    reader = Reader(chunked(header(b"a", size=octal(1000)) + padded(b"x" * 1000)
                            + header(b"b", size=octal(2)) + padded(b"hi") + END, 100))
    assert [e.name for e in reader] == [b"a", b"b"]


def test_what_is_held_of_a_body_at_once_is_bounded() -> None:
    data = bytes(8 << 20)
    archive = header(b"f", size=octal(len(data))) + padded(data) + END
    for step in (1000, 1 << 18, 1 << 21):
        reader = Reader(chunked(archive, step))
        next(reader)
        total = 0
        while pieces := reader.pieces():
            size = sum(map(len, pieces))
            assert size <= GATHERED + step and len(pieces) <= 512
            total += size
        assert total == len(data)


def test_a_body_may_be_read_in_parts() -> None:
    reader = Reader(chunked(header(b"a", size=octal(1000)) + padded(bytes(range(250)) * 4) + END,
                            100))
    next(reader)
    first = next(reader.body())
    assert bytes(first) + b"".join(reader.body()) == bytes(range(250)) * 4


# ---- sparse files ------------------------------------------------------------------------------

EXTENTS = [(0, 4), (1000, 6)]
BODY = b"headmiddle"
SPARSE = {
    "0.0": pax((b"GNU.sparse.size", b"5000"), (b"GNU.sparse.numblocks", b"2"),
               (b"GNU.sparse.offset", b"0"), (b"GNU.sparse.numbytes", b"4"),
               (b"GNU.sparse.offset", b"1000"), (b"GNU.sparse.numbytes", b"6"))
    + header(b"s", size=octal(10)) + padded(BODY) + END,
    "0.1": pax((b"GNU.sparse.size", b"5000"), (b"GNU.sparse.map", b"0,4,1000,6"),
               (b"GNU.sparse.name", b"s")) + header(b"x", size=octal(10)) + padded(BODY) + END,
    "1.0": pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"),
               (b"GNU.sparse.name", b"s"), (b"GNU.sparse.realsize", b"5000"))
    + header(b"x", size=octal(522)) + padded(b"2\n0\n4\n1000\n6\n") + padded(BODY) + END,
    "old": with_checksum(
        header(b"s", kind=b"S", size=octal(10), magic=b"ustar  \0")[:386]
        + octal(0) + octal(4) + octal(1000) + octal(6) + bytes(48) + b"\0" + octal(5000)
        + bytes(17)) + padded(BODY) + END,
}


@pytest.mark.parametrize("form", SPARSE)
def test_sparse_files_of_every_format(form: str) -> None:
    (entry, body), = read(SPARSE[form], 100)
    assert (entry.name, entry.kind, entry.size) == (b"s", FILE, 5000)
    assert (entry.extents, body) == (EXTENTS, BODY)


def test_old_sparse_maps_go_on_in_blocks_of_their_own() -> None:
    count = 30
    pairs = [octal(i * 100) + octal(1) for i in range(count)]
    first = with_checksum(header(b"s", kind=b"S", size=octal(count), magic=b"ustar  \0")[:386]
                          + b"".join(pairs[:4]) + b"\1" + octal(4000) + bytes(17))
    blocks = b"".join(pairs[4:25]) + b"\1" + bytes(7) + padded(b"".join(pairs[25:]))
    (entry, body), = read(first + blocks + padded(b"y" * count) + END)
    assert entry.extents == [(i * 100, 1) for i in range(count)]
    assert body == b"y" * count


@pytest.mark.parametrize("text", [b"10,4,0,6", b"0,4,2,6", b"0,4,4995,6", b"0,4", b"0,4,1000",
                                  b"0,-4,1000,14", b"a,b", b"0,10,99999999999999999999999,0"])
def test_sparse_maps_that_make_no_sense_are_refused(text: bytes) -> None:
    with pytest.raises(ImageError):
        read(pax((b"GNU.sparse.size", b"5000"), (b"GNU.sparse.map", text))
             + header(b"s", size=octal(10)) + padded(BODY) + END)


def test_endless_sparse_maps_are_refused() -> None:
    more = (octal(0) + octal(0)) * 21 + b"\1" + bytes(7)
    first = with_checksum(header(b"s", kind=b"S", magic=b"ustar  \0")[:386]
                          + bytes(96) + b"\1" + octal(0) + bytes(17))
    reader = Reader(iter([first, *[more * 100] * 200]))
    with pytest.raises(ImageError, match="too many holes"):
        next(reader)
