"""Much at once, much output, and what outlives a reboot."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.support import leftovers
from tests.integration.support.box import Box, eventually
from tests.integration.support.cli import Cli


@pytest.fixture
def name(cli: Cli) -> Iterator[str]:
    yield "enduring"
    cli("rm", "-f", "enduring")


def monitor_of(cli: Cli, name: str) -> int:
    path = Path(cli.ok("inspect", "-f", "{{.LogPath}}", name).text).with_name("state.json")
    return int(json.loads(path.read_text())["monitor"])


def weight(pid: int) -> tuple[int, int]:
    """(descriptors, resident kB)."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return len(os.listdir(f"/proc/{pid}/fd")), next(
        int(line.split()[1]) for line in text.splitlines() if line.startswith("Rss:"))


def test_a_hundred_that_are_removed_at_their_end_sixteen_at_a_time(box: Box) -> None:
    waiting, failed = list(range(100)), []
    running: dict[int, subprocess.Popen[bytes]] = {}
    while waiting or running:
        while waiting and len(running) < 16:
            n = waiting.pop()
            running[n] = box.popen(then=("sh", "-c", f"echo {n}; exit {n}"),
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        n, process = next(iter(running.items()))
        out, err = process.communicate(timeout=120)
        if (process.returncode, out, err) != (n, f"{n}\n".encode(), b""):
            failed.append((n, process.returncode, out, err))
        del running[n]
    assert not failed
    assert box.cli.ok("ps", "-aq", "--filter", f"ancestor={box.image}").text == ""
    eventually(lambda: not os.listdir(box.cli.store / "trash"), "their files are gone")


def test_a_gigabyte_of_output_leaves_the_monitor_as_it_was(box: Box, name: str) -> None:
    """Neither memory nor descriptors grow, and the log keeps its size."""
    box.cli.ok("run", "-di", "--name", name, "--log-opt", "max-size=4m", "--log-opt", "max-file=2",
               box.image, "sh", "-c",
               "head -c 50000000 /dev/zero | tr '\\0' 'y' | fold -w 99; echo; echo first; read x; "
               "head -c 1000000000 /dev/zero | tr '\\0' 'n'; echo; echo last; sleep 1000")
    pid = monitor_of(box.cli, name)
    eventually(lambda: "first" in box.cli.ok("logs", "-n", "1", name).text, "it has begun", 120)
    before = weight(pid)
    with box.cli.popen("attach", name, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as feeder:
        assert feeder.stdin is not None
        feeder.stdin.write(b"go\n")
        feeder.stdin.close()
        eventually(lambda: "last" in box.cli.ok("logs", "-n", "1", name).text, "all came", 300)
        feeder.kill()
    after = weight(pid)
    assert after[0] <= before[0] + 1
    assert after[1] <= before[1] + 2048     # what is on its way at one time
    log = Path(box.cli.ok("inspect", "-f", "{{.LogPath}}", name).text)
    assert all(f.stat().st_size <= 4 << 20 for f in log.parent.glob("log*"))


def test_what_left_the_session_ends_with_the_container(box: Box, name: str) -> None:
    box.cli.ok("run", "-d", "--name", name, box.image, "sh", "-c",
               "setsid sh -c 'setsid sleep 1012 & exit' & sleep 0.3; exit 4")
    assert box.cli.ok("wait", name).text == "4"
    assert not [line for line in leftovers.descendants().values() if "sleep 1012" in line]


def test_after_a_reboot_those_come_back_that_shall(box: Box) -> None:
    """The run directory is gone, no process is left, another boot id: `start --all` with podman's
    filter is what the unit of the boot runs."""
    cli, names = box.cli, ("boot-always", "boot-unless", "boot-stopped", "boot-no", "boot-failure")
    try:
        for name, policy in zip(names, ("always", "unless-stopped", "unless-stopped", "no",
                                        "on-failure")):
            cli.ok("run", "-d", "--name", name, "--restart", policy, box.image, "sleep", "1000")
        cli.ok("stop", "-t", "0", "boot-stopped")
        for name in names:
            if name == "boot-stopped":
                continue
            monitor = monitor_of(cli, name)
            state = Path(cli.ok("inspect", "-f", "{{.LogPath}}", name).text).with_name("state.json")
            first = json.loads(state.read_text())["pid"]
            for pid in (monitor, first):
                os.kill(pid, signal.SIGKILL)
            while leftovers.alive(first):
                time.sleep(0.02)
            text = json.loads(state.read_text())
            state.write_text(json.dumps({**text, "boot": "00000000-0000-0000-0000-000000000000"}))
        assert cli.ok("ps", "-q", "--filter", "name=^boot-").text == ""
        cli.ok("start", "--all", "--filter", "should-start-on-boot=true", "--filter", "name=^boot-")
        running = cli.ok("ps", "--filter", "name=^boot-", "--format", "{{.Names}}").text.split()
        assert sorted(running) == ["boot-always", "boot-unless"]
    finally:
        cli("rm", "-f", *names)


def test_times_that_jump_do_no_harm(box: Box, name: str) -> None:
    """A clock set back: what is written lies in the future."""
    box.cli.ok("run", "-d", "--name", name, box.image, "sh", "-c", "exit 2")
    box.cli.ok("wait", name)
    record = Path(box.cli.ok("inspect", "-f", "{{.LogPath}}", name).text).with_name("state.json")
    state = json.loads(record.read_text())
    record.write_text(json.dumps({**state, "started": "2100-01-01T00:00:00.000000000Z",
                                  "finished": "2100-01-01T00:00:01.000000000Z"}))
    assert "Exited (2) Less than a second ago" in box.cli.ok("ps", "-a").text
    box.cli.ok("start", name)
    assert box.cli.ok("wait", name).text == "2"
    assert box.cli.ok("logs", "--since", "2100-01-01", name).out == b""
