"""Volumes: named and nameless ones, what an image puts into them, and when they go."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path

from tests.integration.support import filled
from tests.integration.support.box import Box, eventually
from tests.integration.support.cli import Cli, Result
from tests.integration.support.debian import base_tar
from tests.integration.support.filled import tiny_image
from tests.integration.support.images import Image, Layer, Tar, docker_archive

CONTENT = (Tar().dir("data", 0o750, uid=5, gid=6)
           .file("data/f", b"of the image\n", uid=1000, gid=50, mode=0o4640)
           .hardlink("data/same", "data/f").symlink("data/l", "f").dir("data/sub", 0o700)
           .file("data/sub/deep", b"deep\n").fifo("data/pipe").dir("empty", 0o711, uid=7, gid=8)
           .symlink("link", "/data/sub"))


def with_volumes(fresh: Cli, *paths: str) -> str:
    """An image whose VOLUMEs are `paths`."""
    layers = [*tiny_image(filled._busybox(base_tar())).layers, Layer(CONTENT.bytes())]
    one = Image(layers, {"Cmd": ["sh"], "Env": ["PATH=/bin"],
                         **({"Volumes": {p: {} for p in paths}} if paths else {})})
    fresh.ok("load", stdin=docker_archive(one, "v:1"))
    return "v:1"


def sh(cli: Cli, image: str, script: str, *options: str) -> str:
    return cli.ok("run", "--rm", *options, image, "sh", "-ec", script).text


def names(cli: Cli) -> list[str]:
    return cli.ok("volume", "ls", "-q").text.split()


SHOWN = "cd /data; stat -c '%n %u:%g %a %h' . f l sub pipe; cat f sub/deep; readlink l"


def test_an_empty_volume_gets_what_the_image_has_with_owners_modes_and_links(fresh: Cli) -> None:
    image = with_volumes(fresh)
    wanted = sh(fresh, image, SHOWN)
    assert sh(fresh, image, SHOWN, "-v", "new:/data") == wanted
    assert sh(fresh, image, SHOWN, "-v", "new:/elsewhere", "--volume", "new:/data") == wanted
    assert sh(fresh, image, "stat -c '%u:%g %a' /empty", "-v", "other:/empty") == "7:8 711"
    fresh.ok("volume", "create", "made")
    assert sh(fresh, image, SHOWN, "--mount", "source=made,target=/data") == wanted


def test_a_volume_at_a_link_of_the_image_gets_what_the_link_leads_to(fresh: Cli) -> None:
    image = with_volumes(fresh)
    assert sh(fresh, image, "cat /data/sub/deep; ls /link/", "-v", "n:/link").split() == [
        "deep", "deep"]
    assert sh(fresh, image, "ls /n", "-v", "n:/n") == "deep"


def test_a_volume_that_holds_something_and_one_with_nocopy_are_left_alone(fresh: Cli) -> None:
    image = with_volumes(fresh)
    sh(fresh, image, "echo mine > /x/own", "-v", "v:/x")
    assert sh(fresh, image, "ls /data", "-v", "v:/data") == "own"
    assert sh(fresh, image, "ls /data", "-v", "n:/data:nocopy") == ""
    assert sh(fresh, image, "ls /data", "--mount", "src=m,dst=/data,volume-nocopy") == ""


def test_what_is_written_stays_for_the_next_container_with_its_owner(box: Box) -> None:
    box.sh("echo kept > /v/f; chown 1000:1000 /v/f; chmod 600 /v/f", "-v", "stays:/v")
    try:
        assert box.sh("stat -c '%u %a' /v/f; cat /v/f", "-v", "stays:/v",
                      "--user", "1000").split() == ["1000", "600", "kept"]
        assert box.sh("touch /v/no 2>&1 || echo refused", "-v", "stays:/v:ro").endswith("refused")
    finally:
        box.cli.ok("volume", "rm", "stays")


def test_volumes_of_an_image_have_no_name_and_go_with_rm(fresh: Cli) -> None:
    image = with_volumes(fresh, "/data", "/fresh/")
    assert sh(fresh, image, "cat /data/f; mount | grep -c ' /data \\| /fresh '").split()[-1] == "2"
    eventually(lambda: not names(fresh), "--rm removes them")
    fresh.ok("create", "--name", "c", image)
    assert len(names(fresh)) == 2
    fresh.ok("rm", "c")
    assert len(names(fresh)) == 2
    fresh.ok("create", "--name", "c", "-v", "named:/data", image)
    fresh.ok("rm", "-v", "c")
    assert len(names(fresh)) == 3 and "named" in names(fresh)
    assert "Deleted Volumes" in fresh.ok("volume", "prune", "-f").text
    assert names(fresh) == ["named"]
    assert "named" in fresh.ok("volume", "prune", "-af").text
    assert names(fresh) == []


def test_a_container_that_cannot_be_made_leaves_no_volume_without_a_name(box: Box) -> None:
    before = names(box.cli)
    with box.running() as name:
        box.refuses("--name", name, "-v", "/v", says="in use")
    box.refuses("-v", "/v", "-v", "/v", says="duplicate")
    assert names(box.cli) == before


def test_a_killed_monitor_leaves_volumes_to_rm(box: Box) -> None:
    before = names(box.cli)
    box.cli.ok("run", "-d", "--rm", "--name", "lost", "-v", "/v", box.image, "sleep", "1000")
    record = (box.cli.store / "names/lost").readlink().name
    state = (box.cli.store / "containers" / record / "state.json").read_text()
    os.kill(int(state.partition('"monitor":')[2].partition(",")[0]), signal.SIGKILL)
    box.cli.ok("rm", "-f", "lost")
    assert names(box.cli) == before


def test_a_volume_in_use_is_not_removed(box: Box) -> None:
    with box.running("-v", "used:/v"):
        box.cli.fails(1, "volume", "rm", "used", says="in use")
        box.cli.fails(1, "volume", "rm", "-f", "used", says="in use")
        box.cli.ok("volume", "prune", "-af")
        assert "used" in names(box.cli)
    box.cli.ok("volume", "rm", "used")
    box.cli.fails(1, "volume", "rm", "used", says="no such volume")
    box.cli.ok("volume", "rm", "-f", "used")


def test_volumes_from_another_container_and_read_only(box: Box) -> None:
    with box.running("-v", "/a", "-v", "shared:/b") as name:
        box.cli.ok("exec", name, "sh", "-c", "echo 1 > /a/f; echo 2 > /b/f")
        assert box.sh("cat /a/f /b/f", "--volumes-from", name) == "1\n2"
        assert "Read-only" in box("--volumes-from", f"{name}:ro",
                                  then=("touch", "/b/x")).error
        box.refuses("--volumes-from", f"{name}:nonsense", says="volumes-from")
        box.refuses("--volumes-from", "nobody", says="no such container")
        assert "shared" in names(box.cli)
    box.cli.ok("volume", "rm", "shared")
    box.cli.ok("volume", "prune", "-f")


def test_containers_made_at_once_fill_a_volume_once(fresh: Cli) -> None:
    image = with_volumes(fresh)
    done: list[Result] = []

    def one() -> None:
        done.append(fresh("run", "--rm", "-v", "a:/data", "-v", "b:/empty", image, "sh", "-ec",
                          "cat /data/f /data/sub/deep; stat -c %u:%g /empty"))

    threads = [threading.Thread(target=one) for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert {(r.rc, r.text) for r in done} == {(0, "of the image\ndeep\n7:8")}


def test_a_filling_that_was_killed_is_finished_by_the_next(fresh: Cli) -> None:
    big = Tar().dir("data").file("data/0", b"x" * (30 << 20))
    for n in range(300):
        big.file(f"data/f{n}", b"y")
    layers = [*tiny_image(filled._busybox(base_tar())).layers, Layer(big.bytes())]
    fresh.ok("load", stdin=docker_archive(Image(layers, {"Cmd": ["sh"]}), "big:1"))
    fresh.ok("run", "--rm", "big:1", "true")
    for wait in (0.03, 0.06, 0.09, 0.12, 0.16, 0.2):
        name = f"v{int(wait * 100)}"
        with fresh.popen("create", "-v", f"{name}:/data", "big:1", start_new_session=True,
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                process.wait(wait)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        told = sh(fresh, "big:1", "ls /data | wc -l; wc -c < /data/0", "-v", f"{name}:/data")
        assert told.split() == ["301", str(30 << 20)]
        assert not (fresh.store / "volumes" / name / "filling").exists()


def test_create_is_idempotent_and_inspect_and_ls_are_dockers(fresh: Cli) -> None:
    assert fresh.ok("volume", "create", "v", "--label", "a=b", "--label", "c").text == "v"
    assert fresh.ok("volume", "create", "v").text == "v"
    (one,) = fresh.ok("volume", "inspect", "v").json
    where = f"{fresh.store}/volumes/v/_data"
    assert (one["Name"], one["Driver"], one["Scope"], one["Labels"], one["Mountpoint"]) == (
        "v", "local", "local", {"a": "b", "c": ""}, where)
    assert fresh.ok("volume", "inspect", "-f", "{{.Mountpoint}}", "v").text == where
    bad = fresh.fails(1, "volume", "inspect", "nope", says="no such volume")
    assert bad.out.strip() == b"[]"
    nameless = fresh.ok("volume", "create").text
    assert len(nameless) == 64
    assert fresh.ok("volume", "ls").text.splitlines()[0].split() == ["DRIVER", "VOLUME", "NAME"]
    for wanted, found in (("label=a", ["v"]), ("label=a=x", []), ("name=v", ["v"]),
                          ("dangling=false", []), ("driver=nfs", [])):
        assert [n for n in fresh.ok("volume", "ls", "-q", "-f", wanted).text.split()
                if n != nameless] == found
    assert fresh.ok("volume", "ls", "--format", "{{.Driver}}:{{.Labels}}",
                    "-f", "name=v").text.splitlines() == ["local:a=b,c="]
    fresh.fails(125, "volume", "ls", "-f", "colour=red", says="filter")
    for name in ("a/b", "-x", "a b", ""):
        fresh.fails(125, "run", "-v", f"{name}:/x", "host", "true", says="invalid")
    fresh.fails(125, "volume", "create", "../out", says="name")
    assert fresh("volume", "exists", "v").rc == 0 and fresh("volume", "exists", "w").rc == 1
    assert fresh.ok("volume", "remove", "v").text == "v"


def test_a_volume_may_stand_for_a_directory_and_nothing_that_takes_root(
        fresh: Cli, ground: Path) -> None:
    directory = ground / "stood-for"
    directory.mkdir()
    (directory / "f").write_text("on the host\n")
    image = with_volumes(fresh)
    fresh.ok("volume", "create", "v", "-o", "type=none", "-o", "o=bind", "-o",
             f"device={directory}")
    assert sh(fresh, image, "cat /data/f", "-v", "v:/data") == "on the host"
    fresh.ok("volume", "rm", "v")
    assert (directory / "f").exists()
    fresh.fails(125, "volume", "create", "t", "-o", "type=tmpfs", "-o", "device=tmpfs",
                says="root")
    fresh.fails(125, "volume", "create", "-d", "nfs", says="driver")


def test_an_image_cannot_put_a_volume_over_the_kernels_files(fresh: Cli) -> None:
    for path in ("/proc", "/proc/sys", "/sys/x", "/"):
        with_volumes(fresh, path)
        fresh.fails(125, "run", "--rm", "v:1", "true", says="no volume")


def test_inspect_names_the_volumes_of_a_container(box: Box) -> None:
    with box.running("-v", "shown:/v:ro", "-v", "/w") as name:
        (one,) = box.cli.ok("inspect", name).json
        mounts = {m["Destination"]: m for m in one["Mounts"]}
        assert mounts["/v"]["Type"] == "volume" and mounts["/v"]["Name"] == "shown"
        assert mounts["/v"]["Driver"] == "local" and mounts["/v"]["RW"] is False
        assert mounts["/v"]["Source"].endswith("/volumes/shown/_data")
        assert (mounts["/v"]["Mode"], one["Config"]["Volumes"]) == ("ro", {"/w": {}})
        assert one["HostConfig"]["Binds"] == ["shown:/v:ro"]
        assert box.cli.ok("ps", "--format", "{{.Mounts}}", "-f", f"name={name}").text.startswith(
            "shown,")
        (volume,) = box.cli.ok("inspect", "--type", "volume", "shown").json
        assert volume["Name"] == "shown"
    box.cli.ok("volume", "rm", "shown")
    box.cli.ok("volume", "prune", "-f")
