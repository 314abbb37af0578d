"""What a container uses, from the files of its cgroup (cgroup-v2.rst, "Core Interface Files")."""

from __future__ import annotations

from rootless.cgroup import tree
from rootless.record import record

RESOURCES = ("cpu", "memory", "io")


@record(frozen=True)
class Usage:
    """None where the controller is missing. In bytes; `cpu` in microseconds, `pids` a number.

    `memory` is without page cache that is given back when it is wanted, as docker counts.
    `limit`: of the nearest cgroup that has one, else the machine's memory. `pressure`: percent of
    the last ten seconds in which some process waited for cpu, memory, io (PSI).
    """

    cpu: int | None
    memory: int | None
    limit: int
    pids: int | None
    pids_limit: int | None
    read: int | None
    written: int | None
    received: int
    sent: int
    pressure: tuple[float | None, float | None, float | None]


def usage(path: str, pid: int, root: str = tree.ROOT, proc: str = "/proc") -> Usage:
    """Of the cgroup `path`, whose container's first process is `pid`."""
    where = tree.directory(path, root)
    blocks = io_bytes(tree.read(where, "io.stat"))
    have_io = "io" in tree.read(where, "cgroup.controllers").split()
    received, sent = network(_text(f"{proc}/{pid}/net/dev"))
    some = [pressure(tree.read(where, f"{name}.pressure")) for name in RESOURCES]
    return Usage(
        cpu=tree.keyed(tree.read(where, "cpu.stat")).get("usage_usec"),
        memory=_memory(where), limit=_limit(path, root, proc),
        pids=_number(tree.read(where, "pids.current")),
        pids_limit=_number(tree.read(where, "pids.max")),
        read=blocks[0] if have_io else None, written=blocks[1] if have_io else None,
        received=received, sent=sent, pressure=(some[0], some[1], some[2]))


def _text(path: str) -> str:
    where, _, name = path.rpartition("/")
    return tree.read(where, name)


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdecimal() else None


def _memory(where: str) -> int | None:
    current = _number(tree.read(where, "memory.current"))
    if current is None:
        return None
    cache = tree.keyed(tree.read(where, "memory.stat")).get("inactive_file", 0)
    return current - cache if cache < current else current


def _limit(path: str, root: str, proc: str) -> int:
    total = next((line.split()[1] for line in _text(f"{proc}/meminfo").splitlines()
                  if line.startswith("MemTotal:")), "0")
    least = int(total) << 10
    while path not in ("", "/"):
        own = _number(tree.read(tree.directory(path, root), "memory.max"))
        least = least if own is None else min(own, least)
        path = path.rpartition("/")[0]
    return least


def io_bytes(text: str) -> tuple[int, int]:
    """(read, written) from io.stat: `8:0 rbytes=1 wbytes=2 …` for each device."""
    sums = {"rbytes": 0, "wbytes": 0}
    for line in text.splitlines():
        for word in line.split()[1:]:
            key, _, value = word.partition("=")
            if key in sums and value.isdecimal():
                sums[key] += int(value)
    return sums["rbytes"], sums["wbytes"]


def network(text: str) -> tuple[int, int]:
    """(received, sent) from /proc/PID/net/dev, of all devices but the loopback."""
    received = sent = 0
    for line in text.splitlines():
        name, colon, rest = line.partition(":")
        words = rest.split()
        if colon and name.strip() != "lo" and len(words) >= 9:
            received += int(words[0])
            sent += int(words[8])
    return received, sent


def pressure(text: str) -> float | None:
    """avg10 of the line `some avg10=1.23 avg60=… avg300=… total=…`."""
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["some"] and len(words) > 1 and words[1].startswith("avg10="):
            return float(words[1][len("avg10="):])
    return None
