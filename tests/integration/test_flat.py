"""`image flatten` makes one file of an image, and `run` takes that file in an image's place."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.support import leftovers
from tests.integration.support.box import Box, eventually
from tests.integration.support.cli import Cli
from tests.integration.support.images import Image, Layer, Tar, docker_archive


@pytest.fixture(scope="module")
def flat(box: Box) -> Iterator[Path]:
    """The quick image in a file."""
    path = box.cli.home / "tiny.sqfs"
    box.cli.ok("image", "flatten", box.image, "-o", str(path))
    yield path
    path.unlink()


def servers() -> list[str]:
    return [line for line in leftovers.descendants().values() if "squashfuse" in line]


def test_a_container_runs_from_the_file_as_from_the_image(box: Box, flat: Path) -> None:
    script = "id -u; ls /; ls -ln /bin | wc -l; echo $PATH; cat /etc/passwd"
    assert box.cli.ok("run", "--rm", str(flat), "sh", "-c", script).text == box.sh(script)
    assert box.cli.ok("run", "--rm", f"sqfs:{flat}", "echo", "hello").text == "hello"
    assert box.cli.ok("run", "--rm", "./tiny.sqfs", "echo", "hello").text == "hello"


def test_the_file_is_inspected_as_the_image(box: Box, flat: Path) -> None:
    for template in ("{{.Id}}", "{{json .Config}}", "{{.Architecture}}"):
        assert box.cli.ok("image", "inspect", "-f", template, str(flat)).text == box.cli.ok(
            "image", "inspect", "-f", template, box.image).text
    assert "IMAGE" in box.cli.ok("history", "./tiny.sqfs").text
    box.cli.fails(1, "image", "inspect", "./none.sqfs", says="no such file")


def test_what_the_container_writes_is_its_own(box: Box, flat: Path) -> None:
    before = flat.read_bytes()
    box.cli.ok("run", "--name", "f", str(flat), "sh", "-c", "echo new > /new; rm -r /bin")
    assert box.cli.ok("ps", "-a", "--filter", "name=f", "--format", "{{.Image}}").text == str(flat)
    box.cli.ok("rm", "f")
    assert flat.read_bytes() == before
    assert box.cli("run", "--rm", str(flat), "test", "-e", "/new").rc == 1


def test_the_server_is_gone_with_the_container(box: Box, flat: Path) -> None:
    box.cli.ok("run", "-d", "--name", "f", str(flat), "sleep", "1000")
    assert len(servers()) == 1
    assert box.cli.ok("exec", "f", "echo", "in").text == "in"
    box.cli.ok("kill", "f")
    eventually(lambda: not servers(), "squashfuse has ended")
    box.cli.ok("start", "f")
    assert len(servers()) == 1
    box.cli.ok("rm", "-f", "f")
    eventually(lambda: not servers(), "squashfuse has ended")


ODD = Tar().dir("d", uid=5, gid=6).file("d/f", b"x" * 3000, uid=1000, gid=50, mode=0o4755) \
    .file("gone").file("far", b"y", uid=3_000_000, gid=4_000_000, mode=0o640) \
    .hardlink("link", "d/f").symlink("s", "d/f").fifo("pipe") \
    .device("null", 1, 3, mode=0o666).file('odd "name" \\', uid=3_000_000)


def test_owners_and_devices_are_the_images_own(fresh: Cli) -> None:
    one = Image([Layer(ODD.bytes()), Layer(Tar().whiteout("gone").bytes())])
    fresh.ok("load", stdin=docker_archive(one, "odd:1"))
    fresh.ok("image", "flatten", "odd:1", "--output", "odd.sqfs")
    listed = subprocess.run(["unsquashfs", "-lln", str(fresh.home / "odd.sqfs")], check=True,
                            capture_output=True).stdout.decode()
    rows = {line.split("squashfs-root", 1)[1]: line.split()[:3] for line in listed.splitlines()
            if "squashfs-root" in line}
    assert rows["/d"][:2] == ["drwxr-xr-x", "5/6"]
    assert rows["/d/f"] == rows["/link"] == ["-rwsr-xr-x", "1000/50", "3000"]
    assert rows["/far"] == ["-rw-r-----", "3000000/4000000", "1"]
    assert rows["/null"] == ["crw-rw-rw-", "0/0", "1,"]
    assert rows['/odd "name" \\'][1] == "3000000/0"
    assert "/gone" not in rows and "/s -> d/f" in rows and rows["/pipe"][0][0] == "p"


def test_a_file_that_is_none_is_refused(box: Box, flat: Path) -> None:
    cli = box.cli
    (cli.home / "text").write_text("no squashfs at all")
    (cli.home / "cut").write_bytes(flat.read_bytes()[:-1])
    (cli.home / "broken").write_bytes(b"hsqs" + b"\xff" * 4096 + flat.read_bytes()[-4096:])
    cli.fails(125, "run", "--rm", "./text", "true", says="no squashfs file")
    cli.fails(125, "run", "--rm", "./cut", "true", says="no configuration")
    cli.fails(125, "run", "--rm", "./broken", "true", says="cannot mount")
    cli.fails(125, "run", "--rm", "/no/such.sqfs", "true", says="no such file")
    cli.fails(125, "run", "--rm", "/", "true", says="/")
    for name in ("text", "cut", "broken"):
        (cli.home / name).unlink()
    eventually(lambda: not servers(), "squashfuse has ended")


def test_a_container_whose_file_is_gone_says_so(box: Box, flat: Path) -> None:
    copy = box.cli.home / "copy.sqfs"
    copy.write_bytes(flat.read_bytes())
    box.cli.ok("create", "--name", "f", str(copy), "true")
    copy.unlink()
    box.cli.fails(1, "start", "f", says="its image is gone")
    box.cli.fails(125, "export", "f", says="squashfs file")
    box.cli.ok("rm", "f")


def test_flatten_needs_a_file_and_an_image(box: Box) -> None:
    box.cli.fails(125, "image", "flatten", box.image, says="no file is named")
    box.cli.fails(1, "image", "flatten", "no:1", "-o", "x", says="no such image")
    box.cli.fails(125, "image", "flatten", box.image, "-o", "/dev/null", says="no regular file")


def without(cli: Cli, *args: str, programs: tuple[str, ...]) -> tuple[int, str]:
    """Where the programs are not installed: (exit code, what is said)."""
    hide = "".join(f"mount --bind /dev/null /usr/bin/{p} && " for p in programs) + 'exec "$@"'
    with cli.popen(*args, before=("unshare", "--user", "--map-current-user", "--keep-caps",
                                  "--mount", "sh", "-c", hide, "sh"),
                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        _, said = process.communicate(timeout=60)
    return process.returncode, said.decode()


def test_programs_that_are_missing_are_named_with_their_package(fresh: Cli) -> None:
    fresh.ok("load", stdin=docker_archive(Image([Layer(Tar().file("f").bytes())]), "a:1"))
    file = fresh.home / "a.sqfs"
    rc, said = without(fresh, "image", "flatten", "a:1", "-o", str(file), programs=("mksquashfs",))
    assert rc == 1
    assert said.splitlines()[-2:] == [
        "rootless: cannot make a squashfs file: mksquashfs is not installed",
        "  hint: ask the administrator to run: apt-get install squashfs-tools"]
    assert not file.exists()
    fresh.ok("image", "flatten", "a:1", "-o", str(file))
    rc, said = without(fresh, "run", str(file), "/f", programs=("squashfuse", "squashfuse_ll"))
    assert rc == 125
    assert said.splitlines()[-2:] == [
        f"rootless: cannot run {file}: squashfuse is not installed",
        "  hint: ask the administrator to run: apt-get install squashfuse"]
