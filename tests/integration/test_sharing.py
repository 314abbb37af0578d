"""--pid, --ipc, and what several containers have in common by them."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.integration.support import leftovers
from tests.integration.support.box import Box, eventually


def namespace(box: Box, name: str, kind: str) -> str:
    return box.cli.ok("exec", name, "readlink", f"/proc/self/ns/{kind}").text


def test_processes_of_another_are_seen_and_signalled(box: Box) -> None:
    with box.running(then=("sh", "-c", "sleep 1007 & exec sleep 1011")) as one, box.running(
            "--pid", f"container:{one}") as two:
        shown = box.cli.ok("exec", two, "ps", "-o", "pid,args").text
        assert "sleep 1007" in shown
        assert shown.splitlines()[1].split()[0] == "1"
        for kind, same in (("pid", True), ("user", True), ("ipc", False), ("mnt", False),
                           ("uts", False)):
            assert (namespace(box, one, kind) == namespace(box, two, kind)) is same, kind
        box.cli.ok("exec", two, "sh", "-c", "kill -9 $(ps -o pid,args | awk '/[1]007/{print $1}')")
        eventually(lambda: "1007" not in box.cli.ok("top", one).text, "it was killed")
        assert "sleep 1000" in box.cli.ok("top", two).text
        assert len(box.cli.ok("top", two).text.splitlines()) == 2
        (found,) = box.cli.ok("inspect", two).json
        assert found["HostConfig"]["PidMode"].startswith("container:")


def test_the_end_of_the_other_is_its_end_too(box: Box) -> None:
    with box.running() as one, box.running("--pid", f"container:{one}") as two:
        box.cli.ok("kill", one)
        assert box.cli.ok("wait", two).text == "137"


def test_what_it_leaves_behind_in_another_ends_with_it(box: Box) -> None:
    with box.running() as one:
        for user in ("0", "1000"):
            box.cli.ok("run", "--rm", "-u", user, "--pid", f"container:{one}", box.image, "sh",
                       "-c", "setsid sleep 1008 >/dev/null 2>&1 & exit 0")
        assert "1008" not in box.cli.ok("exec", one, "ps", "-o", "args").text


def test_processes_of_the_machine_are_seen_but_not_entered(box: Box) -> None:
    with subprocess.Popen(["sleep", "1009"]) as outside:
        script = (f"cat /proc/{outside.pid}/cmdline; readlink /proc/{outside.pid}/root || "
                  "echo closed; setsid sleep 1010 > /dev/null 2>&1 & exit 0")
        result = box("--pid", "host", then=("sh", "-c", script))
        outside.kill()
    assert result.out == b"sleep\x001009\x00closed\n"
    assert os.readlink("/proc/self/ns/pid") == box.sh("readlink /proc/self/ns/pid", "--pid", "host")
    assert not [p for p in leftovers.descendants().values() if "sleep 1010" in p]
    assert box("--pid", "host", then=("sh", "-c", "echo 1 > /proc/sysrq-trigger")).rc != 0


def test_shared_memory_is_that_of_one_that_allows_it(box: Box) -> None:
    with box.running("--ipc", "shareable", "--shm-size", "3m") as one:
        with box.running("--ipc", f"container:{one}") as two:
            box.cli.ok("exec", one, "sh", "-c", "echo kept > /dev/shm/word")
            assert box.cli.ok("exec", two, "cat", "/dev/shm/word").text == "kept"
            assert namespace(box, one, "ipc") == namespace(box, two, "ipc")
            assert namespace(box, one, "pid") != namespace(box, two, "pid")
        assert box.cli.ok("exec", one, "cat", "/dev/shm/word").text == "kept"
    with box.running() as private:
        box.cli.fails(1, "create", "--ipc", f"container:{private}", box.image, "true",
                      says="shareable")


def test_ipc_none_and_host(box: Box) -> None:
    assert box.sh("grep -c /dev/shm /proc/mounts || true", "--ipc", "none") == "0"
    assert box.sh("readlink /proc/self/ns/ipc", "--ipc", "host") == os.readlink("/proc/self/ns/ipc")
    assert box.sh("readlink /proc/self/ns/ipc", "--ipc", "private") != os.readlink(
        "/proc/self/ns/ipc")


def test_all_three_of_one_container(box: Box) -> None:
    with box.running("--ipc", "shareable") as one:
        way = f"container:{one}"
        with box.running("--pid", way, "--ipc", way, "--network", way) as two:
            for kind in ("pid", "ipc", "net", "user"):
                assert namespace(box, one, kind) == namespace(box, two, kind), kind
            box.cli.ok("restart", "-t", "0", two)
            assert namespace(box, one, "pid") == namespace(box, two, "pid")


def test_what_cannot_be_shared_is_told(box: Box) -> None:
    with box.running("--ipc", "shareable") as one, box.running() as other:
        box.refuses("--pid", f"container:{other}", "--ipc", f"container:{one}", says="several")
        name = "later"
        box.cli.ok("create", "--name", name, "--pid", f"container:{other}", box.image, "true")
        try:
            box.cli.ok("stop", "-t", "0", other)
            box.cli.fails(1, "start", name, says="not running")
        finally:
            box.cli.ok("rm", name)


@pytest.mark.parametrize("options", [("--pid", "mine"), ("--ipc", "yours"), ("--pid", "container:"),
                                     ("--pid", "container:none-such")])
def test_what_makes_no_sense_is_refused(box: Box, options: tuple[str, ...]) -> None:
    box.refuses(*options)
