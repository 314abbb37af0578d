"""Links and races by which a container would reach the machine's files through `cp`, a volume or a
mount target. Each stays inside: what the link names is looked for in the container, whatever the
machine has under that name.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.support import filled
from tests.integration.support.box import Box
from tests.integration.support.cli import Cli
from tests.integration.support.debian import base_tar
from tests.integration.support.filled import tiny_image
from tests.integration.support.images import Image, Layer, Tar, docker_archive

WORD = "secret of the machine"


@pytest.fixture
def victim(ground: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory of the machine that the engine could write, and that must stay as it is."""
    path = ground / f"victim-{os.urandom(4).hex()}"
    path.mkdir()
    path.chmod(0o777)
    (path / "secret").write_text(WORD)
    yield path
    assert os.listdir(path) == ["secret"], f"reached from inside: {os.listdir(path)}"
    assert (path / "secret").read_text() == WORD
    assert stat.S_IMODE(path.stat().st_mode) == 0o777


def loaded(cli: Cli, tar: Tar, config: dict[str, object]) -> str:
    layers = [*tiny_image(filled._busybox(base_tar())).layers, Layer(tar.bytes())]
    cli.ok("load", stdin=docker_archive(Image(layers, {"Env": ["PATH=/bin"], **config}), "evil:1"))
    return "evil:1"


@contextlib.contextmanager
def swapping(box: Box, target: Path) -> Iterator[str]:
    """A container in which /r/t is, by turns, a directory, nothing, and a link to `target`."""
    script = (f"mkdir -p /r/d {target}; echo inside >{target}/secret; echo inside >/r/d/secret; "
              f"ln -s {target} /r/l; "
              "while :; do mv /r/d /r/t; mv /r/t /r/d; mv /r/l /r/t; mv /r/t /r/l; done")
    with box.running(then=("sh", "-c", script)) as name:
        yield name


# ---- cp ----------------------------------------------------------------------------------------

def test_a_directory_that_becomes_a_link_while_cp_runs_leads_nowhere(
        box: Box, victim: Path, tmp_path: Path) -> None:
    """CVE-2018-15664: resolved first, used later, with a link put there in between."""
    (tmp_path / "pwn").write_text("x")
    reached = 0
    with swapping(box, victim) as name:
        for number in range(25):
            done = box.cli("cp", str(tmp_path / "pwn"), f"{name}:/r/t/pwn")
            reached += done.rc == 0
            out = tmp_path / f"out{number}"
            if box.cli("cp", "-L", f"{name}:/r/t/secret", str(out)).rc == 0 and out.exists():
                assert out.read_text() == "inside\n"
                reached += 1
    assert reached, "nothing was copied at all"


def test_links_at_both_ends_of_cp_are_the_containers(box: Box, victim: Path,
                                                     tmp_path: Path) -> None:
    (tmp_path / "pwn").write_text("x")
    for running in (True, False):
        box.cli.ok("run", "-d", "--name", "links", box.image, "sh", "-c",
                   f"ln -s {victim} /abs; ln -s ../../../../../../..{victim} /up; "
                   f"ln -s {victim}/secret /file; ln -s /proc/1/root{victim} /magic; sleep 1000")
        try:
            box.cli.ok("exec", "links", "sh", "-c", "until test -L /magic; do sleep 0.01; done")
            if not running:
                box.cli.ok("stop", "-t", "0", "links")
            for link in ("abs", "up", "magic"):
                box.cli.fails(1, "cp", str(tmp_path / "pwn"), f"links:/{link}/pwn")
                box.cli.fails(1, "cp", f"links:/{link}/secret", str(tmp_path / "x"))
            box.cli.fails(1, "cp", "-L", "links:/file", str(tmp_path / "x"), says="no such file")
            # A link that dangles, as it does inside, is made to lead somewhere inside.
            box.cli("cp", str(tmp_path / "pwn"), "links:/abs")
            assert not (tmp_path / "x").exists()
        finally:
            box.cli.ok("rm", "-f", "links")


def test_what_comes_out_follows_no_link_that_came_out_before(box: Box, victim: Path,
                                                             tmp_path: Path) -> None:
    with box.running(then=("sh", "-c", f"mkdir /s; ln -s {victim} /s/d; ln -s {victim}/secret /s/f;"
                                       " sleep 1000")) as name:
        box.cli.ok("exec", name, "sh", "-c", "until test -L /s/f; do sleep 0.01; done")
        out = tmp_path / "out"
        box.cli.ok("cp", f"{name}:/s", str(out))
        assert (out / "d").is_symlink()
        box.cli.ok("exec", name, "sh", "-c", "rm /s/d /s/f; echo new >/s/f; chmod 700 /s/f")
        box.cli.ok("cp", f"{name}:/s/.", str(out))
        assert not (out / "f").is_symlink() and (out / "f").read_text() == "new\n"
        box.cli.ok("exec", name, "sh", "-c", "mkdir -m 700 /s/d; echo x >/s/d/secret; rm /s/f")
        box.cli.fails(1, "cp", f"{name}:/s/.", str(out), says="cannot overwrite")


def test_a_hostile_tar_on_standard_input_stays_inside(box: Box, victim: Path) -> None:
    def tar(*members: tuple[str, bytes, str]) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as out:
            for name, kind, link in members:
                info = tarfile.TarInfo(name)
                info.type, info.linkname, info.mode = kind, link, 0o777
                out.addfile(info)
        return buffer.getvalue()

    file, link, hard = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
    with box.running() as name:
        for refused in (tar((f"../../../../..{victim}/pwn", file, "")),
                        tar(("h", hard, f"../../../../..{victim}/secret"))):
            box.cli.fails(1, "cp", "-", f"{name}:/tmp", stdin=refused)
        for tried in (tar((f"{victim}/pwn", file, "")),
                      tar(("l", link, str(victim)), ("l/pwn", file, "")),
                      tar(("l", link, f"../../../..{victim}"), ("l/pwn", file, "")),
                      tar(("h", hard, f"{victim}/secret"))):
            box.cli("cp", "-", f"{name}:/tmp", stdin=tried)
        assert box.cli.ok("exec", name, "ls", f"{victim}/pwn").rc == 0      # in there


# ---- volumes and mount targets -----------------------------------------------------------------

def test_a_link_in_a_volume_leads_no_other_mount_astray(box: Box, victim: Path,
                                                        tmp_path: Path) -> None:
    """CVE-2021-30465: the first mount brings the link that the second one's target goes through."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b/f").write_text("of b")
    try:
        box.sh(f"ln -s {victim} /v/abs; ln -s ../../../../../../../..{victim} /v/up; "
               f"ln -s /proc /v/proc; ln -s {victim}/new /v/dangling", "-v", "trap:/v")
        for link in ("abs", "up", "dangling", "abs/sub", "up/deep/er"):
            told = box("-v", "trap:/a", "-v", f"{tmp_path}/b:/a/{link}",
                       then=("sh", "-c", f"cat /a/{link}/f"))
            assert told.rc != 0 or told.text == "of b"
        # On the container's own /proc, seen by that container alone.
        told = box("-v", "trap:/a", "-v", f"{tmp_path}/b:/a/proc", then=("cat", "/a/proc/f"))
        assert told.text in ("of b", "")
    finally:
        box.cli.ok("volume", "rm", "trap")


def test_a_target_that_is_swapped_while_containers_start_stays_inside(
        box: Box, victim: Path, tmp_path: Path) -> None:
    """CVE-2021-30465 as a race: another container swaps what lies in the shared volume."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b/f").write_text("of b")
    try:
        with box.running("-v", "race:/v", then=(
                "sh", "-c", f"mkdir /v/d; ln -s {victim} /v/l; while :; do mv /v/d /v/t; "
                            "mv /v/t /v/d; mv /v/l /v/t; mv /v/t /v/l; done")):
            seen = [box("-v", "race:/a", "-v", f"{tmp_path}/b:/a/t/x",
                        then=("sh", "-c", "cat /a/t/x/f /proc/self/mountinfo | grep -c ' /a '"))
                    for _ in range(12)]
        assert any(r.rc == 0 for r in seen), seen
    finally:
        box.cli.ok("volume", "rm", "race")


def test_a_volume_is_filled_from_inside_the_image_only(fresh: Cli, victim: Path) -> None:
    """The image has a link to the machine's files where it declares a volume."""
    tar = (Tar().symlink("abs", str(victim)).symlink("up", f"../../../../../../..{victim}")
           .symlink("magic", "/proc/1/root"))
    image = loaded(fresh, tar, {"Volumes": {"/abs": {}, "/up": {}}})
    assert WORD not in fresh.ok("run", "--rm", image, "sh", "-c",
                                "cat /abs/* /up/* 2>/dev/null || true").text
    fresh("run", "--rm", "-v", "v:/abs", image, "sh", "-c", "touch /abs/pwn")
    fresh.fails(125, "run", "--rm", "-v", "/magic", image, "true", says="links")
    data = fresh.store / "volumes/v/_data"
    assert not data.is_symlink() and not (data / "secret").exists()


def test_removing_a_volume_follows_no_link_in_it(box: Box, victim: Path) -> None:
    box.sh(f"ln -s {victim} /v/d; ln -s {victim}/secret /v/f; mkdir -p /v/s/u; "
           f"ln -s ../../../../../../../../..{victim} /v/s/u/up; chmod 0 /v/s", "-v", "gone:/v")
    box.cli.ok("volume", "rm", "gone")
    assert not (box.cli.store / "volumes/gone").exists()


def test_a_name_of_a_volume_is_no_path(box: Box, victim: Path) -> None:
    for name in ("../victim", "a/../../x", ".", "..", ".hidden", "a\nb", "a\0b"):
        for words in (("volume", "create", name), ("volume", "rm", name),
                      ("volume", "inspect", name)):
            if "\0" not in name:
                assert box.cli(*words).rc != 0
    for mount in ("type=volume,src=../x,dst=/m", "type=volume,src=/etc,dst=/m"):
        box.refuses("--mount", mount, says="volume")


def test_a_null_device_or_console_of_the_image_is_not_the_one_that_is_used(
        fresh: Cli, victim: Path) -> None:
    """CVE-2025-31133, CVE-2025-52565: bind sources and targets that the image supplies as links."""
    tar = Tar()
    for name in ("null", "console", "ptmx", "pts", "shm", "mqueue", "zero"):
        tar.symlink(f"dev/{name}", str(victim / "secret"))
    image = loaded(fresh, tar, {})
    told = fresh.ok("run", "--rm", "-t", image, "sh", "-c",
                    "stat -c %F /dev/null /dev/console /dev/pts /dev/shm; echo x >/dev/null; "
                    "cat /proc/interrupts | wc -c").text.splitlines()
    assert told[:4] == ["character special file", "character special file", "directory",
                        "directory"]
    assert told[4].strip() == "0"


def test_the_kernels_switches_are_not_written_through_the_images_proc(
        fresh: Cli, victim: Path) -> None:
    """CVE-2025-52881: the engine's own writes to /proc led elsewhere by what the image or a shared
    volume has there."""
    tar = Tar().symlink("proc", str(victim)).symlink("sys", str(victim))
    image = loaded(fresh, tar, {})
    fresh.fails(125, "run", "--rm", image, "true", says="proc")
    plain = loaded(fresh, Tar().dir("x"), {})
    fresh.ok("run", "--rm", "-v", "p:/v", plain, "sh", "-c",
             "mkdir -p /v/sys/kernel /v/self/attr /v/net; ln -s /etc/passwd /v/sysrq-trigger; "
             "touch /v/sys/kernel/shmmax")
    fresh("run", "--rm", "--sysctl", "kernel.shmmax=12345", "--mount",
          f"type=bind,src={fresh.store}/volumes/p/_data,dst=/proc", plain, "true")
    assert (fresh.store / "volumes/p/_data/sys/kernel/shmmax").read_text() in ("", "12345")
    assert Path("/proc/sys/kernel/shmmax").read_text().strip() != "12345"
