"""What entries of a layer become, and that none touches anything outside.

The writer runs here in this process, for an ordinary user with one id: what it does as root of a
namespace is in the integration tests.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from rootless.errors import ImageError
from rootless.image.layer import OPAQUE, STAT, Writer, clean
from rootless.image.tar import Reader
from rootless.userns.subid import Extent
from tests.integration.support.images import Tar

Step = Callable[[Tar], Tar]
ONE_ID = (Extent(0, os.getuid(), 1),)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty layer; around it are things that must stay as they are."""
    (tmp_path / "outside").write_text("safe")
    (tmp_path / "dir").mkdir()
    made = tmp_path / "layer"
    made.mkdir()
    monkeypatch.chdir(made)
    before = os.umask(0)
    yield made
    os.umask(before)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dir", "layer", "outside"]
    assert (tmp_path / "outside").read_text() == "safe"
    assert (tmp_path / "outside").stat().st_nlink == 1
    assert not list((tmp_path / "dir").iterdir())


def unpack(tar: Tar, size: int = 1 << 20) -> Writer:
    data = tar.bytes()
    writer = Writer(ONE_ID, ONE_ID)
    writer.write(Reader(data[i:i + size] for i in range(0, len(data), size)))
    writer.finish_root()
    return writer


def refused(tar: Tar, says: str) -> None:
    with pytest.raises(ImageError) as caught:
        unpack(tar)
    assert says in caught.value.message, caught.value.message


def is_whiteout(path: Path) -> bool:
    st = path.lstat()
    return stat.S_ISCHR(st.st_mode) and st.st_rdev == 0


def attribute(path: Path, name: str) -> bytes | None:
    try:
        return os.getxattr(path, name, follow_symlinks=False)
    except OSError:
        return None


# ---- what entries become -----------------------------------------------------------------------

def test_files_have_their_bytes_modes_and_times(root: Path) -> None:
    data = os.urandom(3_000_000)
    writer = unpack(Tar().dir("d", 0o2750, mtime=5).file("d/f", data, mode=0o4751, mtime=77,
                                                         pax={"mtime": "77.000000009"})
                    .file("d/none", b"x", mode=0), size=10_000)
    assert (root / "d/f").read_bytes() == data
    assert stat.S_IMODE((root / "d/f").stat().st_mode) == 0o4751
    assert (root / "d/f").stat().st_mtime_ns == 77_000_000_009
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o2750
    assert (root / "d").stat().st_mtime == 5
    assert stat.S_IMODE((root / "d/none").stat().st_mode) == 0
    assert writer.written == 3_000_001


def test_the_root_has_the_mode_the_archive_gives_or_the_usual(root: Path) -> None:
    unpack(Tar().file("f"))
    assert stat.S_IMODE(root.stat().st_mode) == 0o755
    unpack(Tar().dir("./", 0o1777, mtime=9))
    assert stat.S_IMODE(root.stat().st_mode) == 0o1777 and root.stat().st_mtime == 9


def test_missing_parents_are_made(root: Path) -> None:
    unpack(Tar().file("a/b/c", b"x"))
    assert (root / "a/b/c").read_bytes() == b"x"
    assert stat.S_IMODE((root / "a/b").stat().st_mode) == 0o755


def test_links_pipes_and_strange_names(root: Path) -> None:
    unpack(Tar().file(b"latin-\xe9", b"1").symlink("s", "/etc/passwd").fifo("p", mode=0o620)
           .hardlink("h", b"./latin-\xe9").file("new\nline", b"2"))
    assert os.readlink(root / "s") == "/etc/passwd"
    assert stat.S_ISFIFO((root / "p").stat().st_mode)
    assert stat.S_IMODE((root / "p").stat().st_mode) == 0o620
    assert os.stat(os.fsencode(root) + b"/latin-\xe9").st_ino == (root / "h").stat().st_ino
    assert (root / "new\nline").read_bytes() == b"2"


def test_sparse_files_keep_their_holes(root: Path) -> None:
    unpack(Tar().entry("s", b"0", data=b"headtail", pax={
        "GNU.sparse.size": "100000000", "GNU.sparse.map": "0,4,99999996,4"}), size=517)
    with open(root / "s", "rb") as f:
        assert f.read(4) == b"head" and not any(f.read(4096))
        f.seek(-4, 2)
        assert f.read() == b"tail" and f.tell() == 100_000_000
    assert (root / "s").stat().st_blocks < 1000


@pytest.mark.parametrize("second, check", [
    (lambda t: t.file("x", b"new"), lambda p: p.read_bytes() == b"new"),
    (lambda t: t.dir("x").file("x/in", b"in"), lambda p: (p / "in").read_bytes() == b"in"),
    (lambda t: t.symlink("x", "y"), lambda p: os.readlink(p) == "y"),
    (lambda t: t.fifo("x"), lambda p: stat.S_ISFIFO(p.lstat().st_mode)),
    (lambda t: t.hardlink("x", "other"), lambda p: p.read_bytes() == b"other"),
], ids=["file", "directory", "symlink", "fifo", "hardlink"])
@pytest.mark.parametrize("first", [
    lambda t: t.file("x", b"old"), lambda t: t.dir("x").dir("x/a").file("x/a/b").file("x/c"),
    lambda t: t.symlink("x", "../outside"), lambda t: t.fifo("x"),
    lambda t: t.hardlink("x", "other")],
    ids=["over-file", "over-directory", "over-symlink", "over-fifo", "over-hardlink"])
def test_the_last_entry_of_a_name_wins(root: Path, first: Step, second: Step,
                                       check: Callable[[Path], bool]) -> None:
    unpack(second(first(Tar().file("other", b"other"))))
    assert check(root / "x")
    assert (root / "other").read_bytes() == b"other"


def test_a_directory_that_comes_again_keeps_its_files(root: Path) -> None:
    unpack(Tar().dir("d", 0o700).file("d/f", b"x").dir("d", 0o711))
    assert (root / "d/f").exists() and stat.S_IMODE((root / "d").stat().st_mode) == 0o711


def test_a_deep_tree_is_replaced_by_a_file(root: Path) -> None:
    deep = "x/" + "d/" * 1500
    unpack(Tar().file(deep + "f").file("x", b"file"))
    assert (root / "x").read_bytes() == b"file"


def test_more_directories_than_are_kept_open(root: Path) -> None:
    tar = Tar()
    for i in range(400):
        tar.dir(f"d{i}", 0o700 + i % 8, mtime=i)
    for i in range(400):
        tar.file(f"d{i}/f", b"%d" % i).hardlink(f"d{(i + 7) % 400}/h{i}", f"d{i}/f")
    unpack(tar)
    for i in range(400):
        assert (root / f"d{i}/f").read_bytes() == b"%d" % i
        assert (root / f"d{i}").stat().st_mtime == i


# ---- what a namespace cannot hold is remembered ------------------------------------------------

def test_owners_without_a_place_are_recorded(root: Path) -> None:
    unpack(Tar().file("f", uid=1000, gid=50, mode=0o640).dir("d", uid=7).file("mine"))
    assert attribute(root / "f", STAT) == b"1000:50:100640"
    assert attribute(root / "d", STAT) == b"7:0:40755"
    assert attribute(root / "mine", STAT) is None
    assert (root / "f").stat().st_uid == os.getuid()


def test_devices_are_recorded_and_never_made(root: Path) -> None:
    unpack(Tar().device("null", 1, 3, mode=0o666).device("disk", 8, 0, block=True)
           .device("zero", 0, 0))
    for name, recorded in (("null", b"0:0:20666:1:3"), ("disk", b"0:0:60644:8:0"),
                           ("zero", b"0:0:20644:0:0")):
        assert (root / name).is_file() and (root / name).stat().st_size == 0
        assert attribute(root / name, STAT) == recorded


def test_attributes_that_command_the_engine_are_stripped(root: Path) -> None:
    evil = dict.fromkeys((
        "user.overlay.opaque", "user.overlay.redirect", "trusted.overlay.opaque",
        "user.fuseoverlayfs.opaque", "user.rootless.stat", "user.rootless.map",
        "user.containers.override_stat", "security.selinux", "system.posix_acl_access"), b"y")
    unpack(Tar().file("f", xattrs={**evil, "user.note": b"\0hi"})
           .dir("d", xattrs={**evil, "user.note": b""}))
    assert set(os.listxattr(root / "f")) - {"security.selinux"} == {"user.note"}
    assert set(os.listxattr(root / "d")) - {"security.selinux"} == {"user.note"}
    assert attribute(root / "f", "user.note") == b"\0hi"


# ---- whiteouts ---------------------------------------------------------------------------------

def test_a_whiteout_is_a_device_of_zeros(root: Path) -> None:
    unpack(Tar().whiteout("a/gone").whiteout("top"))
    assert is_whiteout(root / "a/gone") and is_whiteout(root / "top")
    assert os.listdir(root / "a") == ["gone"]


def test_an_opaque_directory_is_marked(root: Path) -> None:
    unpack(Tar().opaque("d").file("d/f"))
    assert attribute(root / "d", OPAQUE) == b"y" and os.listdir(root / "d") == ["f"]


@pytest.mark.parametrize("mark", [".wh..wh..opq", "./.wh..wh..opq", "/.wh..wh..opq"])
def test_a_root_can_be_opaque(root: Path, mark: str) -> None:
    unpack(Tar().file("before").file(mark).file("after"))
    assert attribute(root, OPAQUE) == b"y" and sorted(os.listdir(root)) == ["after", "before"]


@pytest.mark.parametrize("first", [True, False], ids=["whiteout-first", "entry-first"])
def test_a_real_entry_stays_beside_its_whiteout(root: Path, first: bool) -> None:
    tar = Tar()
    if first:
        tar.whiteout("f").whiteout("d").whiteout("implied")
    tar.file("f", b"real").dir("d").file("d/x", b"x").file("implied/x", b"x")
    if not first:
        tar.whiteout("f").whiteout("d").whiteout("implied")
    unpack(tar)
    assert (root / "f").read_bytes() == b"real"
    for name in ("d", "implied"):
        assert os.listdir(root / name) == ["x"]
        assert attribute(root / name, OPAQUE) == b"y", "what is below must be hidden"


def test_what_aufs_left_is_ignored(root: Path) -> None:
    unpack(Tar().dir(".wh..wh.plnk").file(".wh..wh.plnk/1.2").file("d/.wh..wh.aufs").file("f"))
    assert sorted(os.listdir(root)) == ["f"]


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "d/.wh...", ".wh.x/y", "a/.wh.b/c"])
def test_impossible_whiteouts_are_refused(root: Path, name: str) -> None:
    refused(Tar().dir("d").file(name), "whiteout")


def test_a_hard_link_to_a_whiteout_is_refused(root: Path) -> None:
    refused(Tar().whiteout("x").hardlink("y", "x"), "hard link")


# ---- hostile layers ----------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["../outside", "a/../../outside", "..", "./../dir/x",
                                  "a/b/../../.."])
def test_names_that_climb_out_are_refused(root: Path, name: str) -> None:
    refused(Tar().file(name, b"evil"), "outside it")


def test_absolute_names_are_names_in_the_layer(root: Path) -> None:
    unpack(Tar().file("/etc/x", b"1").file("//y", b"2").file("/../z", b"3")
           .file("a/./b/../c", b"4"))
    assert (root / "etc/x").read_bytes() == b"1" and (root / "y").read_bytes() == b"2"
    assert (root / "z").read_bytes() == b"3" and (root / "a/c").read_bytes() == b"4"


@pytest.mark.parametrize("target", ["../dir", "../../../../../../..", "/tmp", "missing/sub"])
def test_writing_through_a_link_stays_in_the_layer(root: Path, target: str) -> None:
    unpack(Tar().symlink("l", target).file("l/evil", b"x").dir("l/d"))
    assert os.readlink(root / "l") == target
    inside = clean(b"/" + os.fsencode(target))
    where = root / os.fsdecode(b"/".join(inside))
    assert (where / "evil").read_bytes() == b"x" and (where / "d").is_dir()


def test_a_link_to_the_file_outside_is_replaced_not_followed(root: Path) -> None:
    unpack(Tar().symlink("l", "../outside").file("l", b"evil"))
    assert (root / "l").read_bytes() == b"evil" and not (root / "l").is_symlink()


def test_a_file_in_the_way_of_a_directory_gives_way(root: Path) -> None:
    unpack(Tar().file("a", b"file").file("a/b", b"x"))
    assert (root / "a/b").read_bytes() == b"x"


def test_links_in_a_circle_are_refused(root: Path) -> None:
    refused(Tar().symlink("a", "b").symlink("b", "a").file("a/x"), "too many symbolic links")


@pytest.mark.parametrize("target", ["../outside", "/../../outside", "missing", "d", "", "f/x",
                                    "l/outside"])
def test_hard_links_reach_only_files_of_the_layer(root: Path, target: str) -> None:
    with pytest.raises(ImageError):
        unpack(Tar().dir("d").file("f").symlink("l", "..").hardlink("h", target))


def test_a_hard_link_to_itself_changes_nothing(root: Path) -> None:
    unpack(Tar().file("f", b"x").hardlink("f", "f"))
    assert (root / "f").read_bytes() == b"x"


@pytest.mark.parametrize("size", [20_000, 1 << 40])
def test_a_size_that_lies_is_refused(root: Path, size: int) -> None:
    refused(Tar().entry("liar", b"0", data=b"few", size=size), "liar")


@pytest.mark.parametrize("name", ["n" * 256, "d/" + "n" * 300 + "/x"])
def test_names_too_long_for_the_filesystem_are_refused(root: Path, name: str) -> None:
    refused(Tar().file(name), "File name too long")


def test_a_path_longer_than_the_kernel_takes_is_no_problem(root: Path) -> None:
    unpack(Tar().file("/".join(["d" * 200] * 40) + "/f", b"deep"))
    here = os.open(root, os.O_RDONLY)
    for _ in range(40):
        deeper = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    assert os.listdir(here) == ["f"]
    os.close(here)


def test_unknown_types_are_refused_and_labels_are_not(root: Path) -> None:
    unpack(Tar().entry("label", b"V").file("f"))
    assert os.listdir(root) == ["f"]
    refused(Tar().entry("what", b"Z"), "unknown type")


@pytest.mark.parametrize("kind", ["file", "symlink", "fifo"])
def test_the_root_can_only_be_a_directory(root: Path, kind: str) -> None:
    tar = Tar()
    if kind == "symlink":
        tar.symlink("./", "x")
    else:
        getattr(tar, kind)("/")
    refused(tar, "root")
