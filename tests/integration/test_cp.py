"""`cp`: into containers and out of them, running or not, by docker's rules."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.support.box import Box
from tests.integration.support.cli import Cli
from tests.integration.test_volumes import with_volumes


@pytest.fixture(params=["running", "created"])
def target(box: Box, request: pytest.FixtureRequest) -> Iterator[str]:
    """A container that runs, and one that never did."""
    name = f"cp-{request.param}"
    box.cli.ok("create", "--name", name, "-v", "cp-volume:/vol", "-v", "cp-volume:/ro:ro",
               box.image, "sleep", "1000")
    if request.param == "running":
        box.cli.ok("start", name)
    yield name
    box.cli.ok("rm", "-f", name)
    box.cli.ok("volume", "rm", "cp-volume")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "src"
    (top / "sub").mkdir(parents=True)
    (top / "a").write_text("one\n")
    (top / "sub/b").write_bytes(b"two" * 100_000)
    (top / "l").symlink_to("a")
    (top / "away").symlink_to("/etc/passwd")
    os.link(top / "a", top / "same")
    os.mkfifo(top / "pipe")
    os.truncate(top / "sub/b", 50 << 20)
    (top / "sub/b").chmod(0o4751)
    os.utime(top / "a", (1_600_000_000, 1_600_000_000))
    return top


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {m.name: m for m in tar.getmembers()}


def inside(cli: Cli, name: str, path: str) -> dict[str, tarfile.TarInfo]:
    """What is in the container, told without running anything there."""
    return members(cli.ok("cp", f"{name}:{path}", "-").out)


def test_a_tree_goes_in_and_comes_out_as_it_was(box: Box, target: str, tree: Path,
                                                 tmp_path: Path) -> None:
    told = box.cli.ok("cp", str(tree), f"{target}:/tmp")
    assert told.error.startswith("Successfully copied") and told.out == b""
    found = inside(box.cli, target, "/tmp/src")
    assert set(found) == {"src", "src/a", "src/l", "src/away", "src/same", "src/pipe", "src/sub",
                          "src/sub/b"}
    assert {(m.uid, m.gid) for m in found.values()} == {(0, 0)}
    assert found["src/a"].mtime == 1_600_000_000 and found["src/same"].islnk()
    box.cli.ok("cp", "-q", f"{target}:/tmp/src", str(tmp_path / "back"))
    back = tmp_path / "back"
    assert (back / "sub/b").read_bytes() == (tree / "sub/b").read_bytes()
    assert (back / "sub/b").stat().st_blocks < 10_000
    assert (back / "sub/b").stat().st_mode & 0o7777 == 0o4751
    assert os.readlink(back / "l") == "a" and os.readlink(back / "away") == "/etc/passwd"
    assert (back / "a").stat().st_nlink == 2 and (back / "pipe").is_fifo()
    assert (back / "a").stat().st_uid == os.getuid()


def test_destinations_are_dockers(box: Box, target: str, tree: Path, tmp_path: Path) -> None:
    def put(source: str, destination: str) -> set[str]:
        box.cli.ok("cp", source, f"{target}:{destination}")
        return set(inside(box.cli, target, "/t"))

    box.cli.ok("cp", str(tree / "sub"), f"{target}:/t")
    assert set(inside(box.cli, target, "/t")) == {"t", "t/b"}
    assert "t/sub/b" in put(str(tree / "sub"), "/t")
    assert "t/a" in put(str(tree / "a"), "t/")
    assert "t/new" in put(str(tree / "a"), "/t/new")
    assert "t/sub/a" in put(f"{tree}/.", "/t/sub")
    assert inside(box.cli, target, "/t")["t/sub/l"].issym()
    put(str(tree / "l"), "/t/link")
    assert inside(box.cli, target, "/t/link")["link"].issym()
    box.cli.ok("cp", "-L", str(tree / "l"), f"{target}:/t/real")
    assert inside(box.cli, target, "/t/real")["real"].isreg()
    fails = box.cli.fails
    fails(1, "cp", str(tree), f"{target}:/t/new", says="it is a file")
    fails(1, "cp", str(tree / "a"), f"{target}:/none/", says="no such directory")
    fails(1, "cp", str(tree / "a"), f"{target}:/none/x", says="/none")
    fails(1, "cp", f"{tree}/a/", f"{target}:/t", says="no directory")
    fails(1, "cp", f"{tree}/gone", f"{target}:/t", says="no such file")
    fails(1, "cp", f"{target}:/gone", str(tmp_path), says="no such file")
    fails(1, "cp", f"{target}:/t/new/", str(tmp_path), says="no directory")
    (tree / "new").mkdir()
    fails(1, "cp", f"{tree}/.", f"{target}:/t", says="cannot overwrite")
    assert inside(box.cli, target, "/t/new")["new"].isreg()


def test_destinations_on_the_host_are_too(box: Box, target: str, tree: Path,
                                          tmp_path: Path) -> None:
    box.cli.ok("cp", str(tree), f"{target}:/t")
    out = tmp_path / "out"
    for source, destination, expected in (
            ("/t", "out", "out/a"), ("/t/", "out", "out/t/a"), ("/t/sub/.", "out", "out/b"),
            ("/t/a", "out/x", "out/x"), ("/t/a", "out/", "out/a"), ("/t/l", ".", "l")):
        box.cli.ok("cp", f"{target}:{source}", destination, cwd=tmp_path)
        assert os.path.lexists(tmp_path / expected), expected
    assert (tmp_path / "l").is_symlink()
    box.cli.ok("cp", "-L", f"{target}:/t/l", str(out / "followed"))
    assert (out / "followed").read_text() == "one\n"
    (out / "d").mkdir()
    (tmp_path / "d").write_text("")
    box.cli.fails(1, "cp", f"{target}:/t", str(tmp_path / "d"), says="it is a file")
    box.cli.ok("cp", f"{target}:/t/a", str(tmp_path / "d"))
    box.cli.fails(1, "cp", f"{target}:/t/a", str(tmp_path / "no/x"), says="no such directory")
    link = tmp_path / "to-out"
    link.symlink_to("out")
    box.cli.ok("cp", f"{target}:/t/pipe", str(link))
    assert (out / "pipe").is_fifo()


def test_volumes_and_what_may_not_be_written(box: Box, target: str, tree: Path) -> None:
    box.cli.ok("cp", str(tree / "a"), f"{target}:/vol/x")
    assert box.sh("cat /v/x", "-v", "cp-volume:/v") == "one"
    box.cli.fails(1, "cp", str(tree / "a"), f"{target}:/ro/y", says="read-only")
    assert set(inside(box.cli, target, "/ro")) == {"ro", "ro/x"}


def test_a_root_that_is_read_only_stays_so(box: Box, tree: Path) -> None:
    for running in (False, True):
        box.cli.ok("create", "--name", "ro", "--read-only", "-v", "/v", box.image, "sleep", "1000")
        if running:
            box.cli.ok("start", "ro")
        box.cli.fails(1, "cp", str(tree / "a"), "ro:/tmp/x", says="read-only")
        box.cli.ok("cp", str(tree / "a"), "ro:/v/x")
        box.cli.ok("cp", "ro:/v/x", str(tree / "back"))
        box.cli.ok("rm", "-fv", "ro")


def test_tars_on_standard_input_and_output(box: Box, target: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, uid, kind in ((".", 9, tarfile.DIRTYPE), ("d", 5, tarfile.DIRTYPE),
                                ("d/f", 1000, tarfile.REGTYPE), (".wh.f", 0, tarfile.REGTYPE)):
            info = tarfile.TarInfo(name)
            info.uid = info.gid = uid
            info.type, info.mode, info.size = kind, 0o750, 3 * (kind == tarfile.REGTYPE)
            tar.addfile(info, io.BytesIO(b"abc"))
    box.cli.ok("cp", "-", f"{target}:/home", stdin=buffer.getvalue())
    found = inside(box.cli, target, "/home")
    assert (found["home/d"].uid, found["home/d/f"].gid) == (5, 1000)
    assert found["home/.wh.f"].isreg() and found["home"].uid == 0
    assert set(inside(box.cli, target, "/home/d/.")) == {".", "./f"}
    assert set(inside(box.cli, target, "/home/d/f")) == {"f"}
    whole = inside(box.cli, target, "/")
    assert "./home/d/f" in whole and "./proc" in whole
    assert not [n for n in whole if n.startswith(("./proc/", "./sys/"))]
    box.cli.fails(1, "cp", "-", f"{target}:/gone", stdin=buffer.getvalue(), says="no such")
    box.cli.fails(1, "cp", "-", f"{target}:/home", stdin=b"x" * 1024, says="tar")
    box.cli.fails(1, "cp", f"{target}:/gone", "-", says="no such file")


def test_archive_keeps_owners_as_the_container_sees_them(box: Box, target: str, tree: Path,
                                                         tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("owned")
        info.uid, info.gid = 33, 44
        tar.addfile(info)
    box.cli.ok("cp", "-", f"{target}:/tmp", stdin=buffer.getvalue())
    box.cli.ok("cp", "-a", f"{target}:/tmp/owned", str(tmp_path / "owned"))
    assert (tmp_path / "owned").stat().st_uid not in (os.getuid(), 33)
    for flag, owner in (("-a", (33, 44)), ("-q", (0, 0))):
        box.cli.ok("cp", flag, str(tmp_path / "owned"), f"{target}:/tmp/again")
        again = inside(box.cli, target, "/tmp/again")["again"]
        assert (again.uid, again.gid) == owner
    box.cli.ok("cp", "-a", str(tree), f"{target}:/tmp/mine")
    assert inside(box.cli, target, "/tmp/mine")["mine/a"].uid == 0
    box.cli.ok("unshare", "rm", str(tmp_path / "owned"))


def test_files_that_are_mounted_are_written_in_place(box: Box, tmp_path: Path) -> None:
    with box.running() as name:
        box.cli.ok("cp", f"{name}:/etc/hosts", str(tmp_path / "hosts"))
        (tmp_path / "hosts").write_text((tmp_path / "hosts").read_text() + "192.0.2.1 added\n")
        box.cli.ok("cp", str(tmp_path / "hosts"), f"{name}:/etc/hosts")
        assert "192.0.2.1 added" in box.cli.ok("exec", name, "cat", "/etc/hosts").text


def test_a_container_made_with_rm_and_copied_into_starts_with_it(box: Box, tree: Path) -> None:
    box.cli.ok("create", "--rm", "--name", "early", box.image, "cat", "/tmp/a")
    box.cli.ok("cp", str(tree / "a"), "early:/tmp/a")
    assert box.cli.ok("start", "-a", "early").text == "one"


def test_a_container_with_an_init_and_one_of_this_machine(box: Box, tree: Path,
                                                          tmp_path: Path) -> None:
    with box.running("--init") as name:
        box.cli.ok("cp", str(tree / "a"), f"{name}:/tmp/a")
        assert box.cli.ok("exec", name, "cat", "/tmp/a").text == "one"
    box.cli.ok("create", "--name", "here", "host", "true")
    try:
        box.cli.ok("cp", "here:/etc/passwd", str(tmp_path / "p"))
        assert (tmp_path / "p").read_bytes() == Path("/etc/passwd").read_bytes()
        box.cli.ok("cp", str(tree / "a"), "here:/etc/new")
        assert not os.path.exists("/etc/new")
        assert "etc/new" in " ".join(inside(box.cli, "here", "/etc/"))
    finally:
        box.cli.ok("rm", "here")


def test_devices_of_an_image_are_left_out_and_told(fresh: Cli, tmp_path: Path) -> None:
    from tests.integration.support.images import Image, Layer, Tar, docker_archive

    one = Image([Layer(Tar().dir("d").file("d/a").device("d/null", 1, 3).file("d/z").bytes())],
                {"Cmd": ["/x"]})
    fresh.ok("load", stdin=docker_archive(one, "dev:1"))
    fresh.ok("create", "--name", "c", "dev:1")
    fresh.fails(1, "cp", "c:/d", str(tmp_path / "out"), says="devices")
    assert set(os.listdir(tmp_path / "out")) == {"a", "z"}


def test_what_cannot_be_meant(box: Box) -> None:
    box.cli.fails(125, "cp", "a", "b", says="no container")
    box.cli.fails(125, "cp", "a:/x", "b:/y", says="another")
    box.cli.fails(1, "cp", "nobody:/x", ".", says="no such container")
    box.cli.fails(125, "cp", "nobody:", ".", says="empty")


def test_an_image_volume_is_copied_from_before_the_first_start(fresh: Cli, tmp_path: Path) -> None:
    image = with_volumes(fresh, "/data")
    fresh.ok("create", "--name", "c", image)
    fresh.ok("cp", "c:/data/f", str(tmp_path / "f"))
    assert (tmp_path / "f").read_text() == "of the image\n"
    fresh.ok("rm", "-v", "c")
