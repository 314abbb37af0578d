"""What holds for a container's limits, however its cgroup was made."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.integration.support.cli import Cli

CGROUP = Path("/sys/fs/cgroup")
# Python is on the machine, a compiler is not.
SPIN = "while :; do :; done"
FORK = ("import os, time\nfor _ in range(15):\n  try:\n    os.fork() or time.sleep(100)\n"
        "  except OSError:\n    pass\ntime.sleep(100)")
EAT = "import sys\nkept = []\nwhile True: kept.append(b'x' * (1 << 20))"


def eventually(holds: Callable[[], bool], what: str, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"it never came to be that {what}"
        time.sleep(0.05)


def inspect(cli: Cli, name: str) -> dict[str, Any]:
    found: dict[str, Any] = cli.ok("inspect", name).json[0]
    return found


def events(cli: Cli, name: str) -> list[str]:
    """What has happened to it."""
    return cli.ok("events", "--stream=false", "--filter", f"container={name}", "--format",
                  "{{.Action}}").text.splitlines()


def cgroup_of(cli: Cli, name: str) -> Path:
    """Directory of the cgroup that its first process is in."""
    pid = inspect(cli, name)["State"]["Pid"]
    line = Path(f"/proc/{pid}/cgroup").read_text().strip()
    assert line.startswith("0::/"), line
    return CGROUP / line[len("0::/"):]


def number(where: Path, key: str) -> int:
    """A key of cpu.stat, memory.events …: `FILE KEY`."""
    file, word = key.split()
    return int(dict(line.split() for line in (where / file).read_text().splitlines())[word])


def hog_is_killed(cli: Cli, name: str) -> None:
    done = cli("run", "--name", name, "--memory", "32m", "host", "python3", "-c", EAT)
    assert done.rc == 137, done
    state = inspect(cli, name)["State"]
    assert state["OOMKilled"] is True
    assert events(cli, name)[-2:] == ["oom", "die"]
    assert state["ExitCode"] == 137



def used(where: Path, seconds: float) -> float:
    """Processors that a cgroup takes on average."""
    begin, at = number(where, "cpu.stat usage_usec"), time.monotonic()
    time.sleep(seconds)
    return (number(where, "cpu.stat usage_usec") - begin) / 1e6 / (time.monotonic() - at)


def half_a_processor(cli: Cli, name: str) -> None:
    cli.ok("run", "-d", "--name", name, "--cpus", "0.5", "host", "sh", "-c", SPIN)
    where = cgroup_of(cli, name)
    # A machine whose host is busy may not get as much; more it must never get.
    for _ in range(6):
        got = used(where, 2)
        assert got <= 0.55
        if got >= 0.45:
            return
    raise AssertionError(f"it never got its half of a processor, but {got}")


def fork_bomb(cli: Cli, name: str) -> None:
    cli.ok("run", "-d", "--name", name, "--pids-limit", "8", "host", "python3", "-c",
           FORK)
    where = cgroup_of(cli, name)
    eventually(lambda: number(where, "pids.events max") > 0, "the limit was met")
    assert int((where / "pids.current").read_text()) <= 8


def shares(cli: Cli, *more: str) -> None:
    """On one processor: both are pinned to it by taskset, as cpuset may not be delegated."""
    try:
        for name, number_ in (("one", "512"), ("three", "1536")):
            cli.ok("run", "-d", "--name", name, "--cpu-shares", number_, "host", "taskset", "1",
                   "sh", "-c", SPIN)
        wheres = [cgroup_of(cli, name) for name in ("one", "three")]
        begin = [number(w, "cpu.stat usage_usec") for w in wheres]
        time.sleep(3)
        one, three = (number(w, "cpu.stat usage_usec") - b for w, b in zip(wheres, begin))
        assert 2.5 <= three / one <= 3.5, (one, three)
    finally:
        cli("rm", "-f", "one", "three")


def update(cli: Cli, name: str) -> None:
    cli.ok("run", "-d", "--name", name, "--memory", "64m", "--pids-limit", "50", "host", "sleep",
           "100")
    where = cgroup_of(cli, name)
    assert (where / "memory.swap.max").read_text() == f"{64 << 20}\n"
    assert cli.ok("update", "--memory", "96m", "--cpus", "0.5", "--pids-limit", "-1", name).text \
        == name
    assert (where / "memory.max").read_text() == f"{96 << 20}\n"
    assert (where / "cpu.max").read_text() == "50000 100000\n"
    assert (where / "pids.max").read_text() == "max\n"
    host = inspect(cli, name)["HostConfig"]
    assert [host[key] for key in ("Memory", "MemorySwap", "NanoCpus", "PidsLimit")] == \
        [96 << 20, 192 << 20, 500_000_000, -1]
    cli.fails(1, "update", "--memory", "64m", "--memory-swap", "32m", name, says="--memory-swap")
    assert (where / "memory.max").read_text() == f"{96 << 20}\n"


def pause(cli: Cli, name: str, tmp_path: Path) -> None:
    cli.ok("run", "-d", "--name", name, "-v", f"{tmp_path}:/mine", "host", "sh", "-c",
           "trap 'exit 6' TERM; while sleep 0.1; do echo x >>/mine/ticks; done")
    ticks = tmp_path / "ticks"
    eventually(ticks.exists, "it ticks")
    assert cli.ok("pause", name).text == name
    size = ticks.stat().st_size
    time.sleep(0.5)
    assert ticks.stat().st_size == size
    assert cli.ok("ps", "--format", "{{.Status}} {{.State}}").text.endswith("(Paused) paused")
    for verb in (("exec", name, "true"), ("pause", name), ("start", name)):
        cli.fails(1, *verb, says="paused")
    assert cli.ok("unpause", "--all").text == name
    eventually(lambda: ticks.stat().st_size > size, "it ticks again")
    cli.ok("pause", name)
    cli.ok("stop", name)
    assert inspect(cli, name)["State"]["ExitCode"] == 6
    assert [e for e in events(cli, name) if "pause" in e] == ["pause", "unpause", "pause"]


def stats(cli: Cli, name: str) -> None:
    """A container that holds 20 MiB, has written files of 40 MiB, and does nothing."""
    hold = ("import time; kept = bytearray(b'x' * (20 << 20)); open('/f', 'wb').write("
            "bytes(40 << 20)); print('ready', flush=True); time.sleep(100)")
    cli.ok("run", "-d", "--name", name, "--memory", "128m", "host", "python3", "-c", hold)
    eventually(lambda: cli.ok("logs", name).text == "ready", "it holds its memory")
    (one,) = (json.loads(line) for line in cli.ok(
        "stats", "--no-stream", "--format", "json", name).text.splitlines())
    assert one["Name"] == name
    assert float(one["CPUPerc"].rstrip("%")) < 10
    usage, limit = one["MemUsage"].split(" / ")
    assert usage.endswith("MiB")
    assert 20 <= float(usage[:-3]) <= 45, "page cache is not counted"
    assert limit == "128MiB"
    assert one["PIDs"] == "1"
    assert one["MemPressure"].endswith("%")
    cli.ok("stop", "-t", "0", name)
    head, row = cli.ok("stats", "--no-stream", "-a").text.splitlines()
    assert [word.strip() for word in head.split("  ") if word] == [
        "CONTAINER ID", "NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "NET I/O", "BLOCK I/O",
        "PIDS"]
    assert row.split()[1:] == [name, *["--"] * 6]


def inside(cli: Cli, name: str) -> None:
    """The limit is where programs look for it; a part can be divided, as engines inside do."""
    script = """
        cat /sys/fs/cgroup/memory.max
        echo max >/sys/fs/cgroup/memory.max && exit 1
        mkdir /sys/fs/cgroup/inner /sys/fs/cgroup/leaf
        echo 0 >/sys/fs/cgroup/leaf/cgroup.procs
        echo $$ >/sys/fs/cgroup/leaf/cgroup.procs
        echo +memory +pids >/sys/fs/cgroup/cgroup.subtree_control
        echo 8388608 >/sys/fs/cgroup/inner/memory.max
        cat /sys/fs/cgroup/inner/memory.max"""
    done = cli("run", "--name", name, "--memory", "64m", "host", "sh", "-c", script)
    assert done.rc == 0, done
    assert done.text.split() == [str(64 << 20), str(8 << 20)]
