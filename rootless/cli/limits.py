"""The options that limit a container, of `run`, `create` and `update`."""

from __future__ import annotations

import os

from rootless.cli.command import FLAG, LIST, VALUE, Option, Options
from rootless.container.mounts import size
from rootless.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.cgroup.limits import Resources

CHANGEABLE = (
    Option("blkio-weight", VALUE, "Share of block I/O, 10 to 1000 (usual: 500)", metavar="NUMBER"),
    Option("cpu-period", VALUE, "Microseconds in which --cpu-quota counts", metavar="NUMBER"),
    Option("cpu-quota", VALUE, "Microseconds of CPU time in a period", metavar="NUMBER"),
    Option("cpu-shares", VALUE, "Share of CPU time when it is scarce (usual: 1024)", "c",
           "NUMBER"),
    Option("cpus", VALUE, "Number of CPUs, as 1.5", metavar="NUMBER"),
    Option("cpuset-cpus", VALUE, "CPUs that may be used, as 0-2,5", metavar="LIST"),
    Option("cpuset-mems", VALUE, "Memory nodes that may be used", metavar="LIST"),
    Option("memory", VALUE, "Memory limit", "m", "SIZE"),
    Option("memory-reservation", VALUE, "Memory that is left to it when memory is scarce",
           metavar="SIZE"),
    Option("memory-swap", VALUE, "Limit of memory and swap together; -1: any swap",
           metavar="SIZE"),
    Option("pids-limit", VALUE, "Number of processes; -1: any", metavar="NUMBER"),
)
OPTIONS = (
    *CHANGEABLE,
    Option("cgroup-conf", LIST, "Write a value into a file of the cgroup", metavar="FILE=VALUE"),
    Option("cgroup-parent", VALUE, "Slice of systemd, or cgroup, to put it in",
           metavar="NAME.slice|/PATH"),
    Option("cgroupns", VALUE, "private (default) or host", metavar="MODE"),
    Option("device-read-bps", LIST, "Bytes read from a device each second",
           metavar="DEVICE:SIZE"),
    Option("device-read-iops", LIST, "Reads from a device each second", metavar="DEVICE:NUMBER"),
    Option("device-write-bps", LIST, "Bytes written to a device each second",
           metavar="DEVICE:SIZE"),
    Option("device-write-iops", LIST, "Writes to a device each second", metavar="DEVICE:NUMBER"),
    Option("oom-kill-disable", FLAG, "Not with cgroup v2"),
)


def resources(options: Options) -> Resources:
    """What the options say, and only that. Raises UsageError."""
    found: dict[str, Any] = {"memory": _memory(options), "cpu": _cpu(options),
                             "pids": _pids(options), "blockIO": _io(options),
                             "unified": dict(_conf(c) for c in options.list("cgroup-conf"))}
    return {part: values for part, values in found.items() if values}


def of_new(options: Options) -> Resources:
    """For a container that is made: no limit is nothing. Raises UsageError."""
    if options.flag("oom-kill-disable"):
        raise UsageError("cannot use --oom-kill-disable: cgroup v2 has no way to keep processes "
                         "waiting for memory", hint="leave it out; --oom-score-adj makes a kill "
                                                    "less likely")
    if not any(options.given(o.name) for o in OPTIONS):
        return {}
    from rootless.cgroup import limits

    given = resources(options)
    given = {part: {k: v for k, v in values.items() if not _unlimited(part, k, v)}
             for part, values in given.items()}
    if not given.get("cpu", {}).get("quota") and not options.given("cpu-period"):
        given.get("cpu", {}).pop("period", None)
    given = {part: values for part, values in given.items() if values}
    limits.check(given)
    return given


def _unlimited(part: str, key: str, value: Any) -> bool:
    return value in (0, "") or (value == -1 and (part, key) != ("memory", "swap")) \
        or (part == "pids" and value < 0)


def parent(options: Options) -> str:
    return options.value("cgroup-parent") or ""


def namespace(options: Options) -> str:
    mode = options.value("cgroupns") or "private"
    if mode not in ("private", "host"):
        raise UsageError(f"invalid --cgroupns: {mode}", hint="private or host")
    return mode


def _number(options: Options, name: str, low: int, high: int) -> int | None:
    """0 stands for no limit."""
    value = options.integer(name)
    if value is not None and value != 0 and not low <= value <= high:
        raise UsageError(f"invalid argument for --{name}: {value}", hint=f"{low} to {high}")
    return value


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _size(options: Options, name: str) -> int | None:
    text = options.value(name)
    return None if text is None else size(text)


def _memory(options: Options) -> dict[str, Any]:
    limit, swap = _size(options, "memory"), options.value("memory-swap")
    return _given(limit=-1 if limit == 0 else limit,
                  swap=None if not swap or swap == "0" else -1 if swap == "-1" else size(swap),
                  reservation=_size(options, "memory-reservation"))


def _cpu(options: Options) -> dict[str, Any]:
    cpu = _given(shares=_number(options, "cpu-shares", 2, 262144),
                 quota=_number(options, "cpu-quota", -1, 1 << 44),
                 period=_number(options, "cpu-period", 1000, 1_000_000),
                 cpus=_list(options, "cpuset-cpus"), mems=_list(options, "cpuset-mems"))
    text = options.value("cpus")
    if text is None:
        return cpu
    for other in ("cpu-quota", "cpu-period"):
        if options.given(other):
            raise UsageError(f"cannot use --cpus and --{other} together")
    return {**cpu, **_cpus(text)}


def _cpus(text: str) -> dict[str, Any]:
    from rootless.cgroup import limits

    whole, _, part = text.partition(".")
    if not (whole + part).isdecimal() or len(part) > 9:
        raise UsageError(f"invalid argument for --cpus: {text}", hint="a number of CPUs, as 1.5")
    nano = int(whole or "0") * 10**9 + int(part.ljust(9, "0"))
    there = os.cpu_count() or 1
    if nano and not 10**7 <= nano <= there * 10**9:
        raise UsageError(f"invalid argument for --cpus: {text}: there are {there} CPUs",
                         hint=f"0.01 to {there}")
    return limits.cpus(nano) if nano else {"nanoCpus": 0, "quota": -1, "period": limits.PERIOD}


def _list(options: Options, name: str) -> str | None:
    text = options.value(name)
    if text:
        from rootless.cgroup import limits

        try:
            limits.numbers(text)
        except ValueError:
            raise UsageError(f"invalid argument for --{name}: {text}",
                             hint="a list of numbers and ranges, as 0-2,5") from None
    return text


def _pids(options: Options) -> dict[str, Any]:
    limit = options.integer("pids-limit")
    return {} if limit is None else {"limit": limit if limit > 0 else -1}


def _io(options: Options) -> dict[str, Any]:
    from rootless.cgroup import limits

    io = _given(weight=_number(options, "blkio-weight", 10, 1000))
    for key, (_, option) in limits.THROTTLES.items():
        given = [_throttle(text, option) for text in options.list(option[2:])]
        if given:
            io[key] = given
    return io


def _throttle(text: str, option: str) -> dict[str, Any]:
    """DEVICE:AMOUNT; a partition is its disk, as the kernel limits whole disks only."""
    path, colon, amount = text.rpartition(":")
    if not colon or not path.startswith("/dev/"):
        raise UsageError(f"invalid argument for {option}: {text}",
                         hint=f"{option} /dev/sda:1m" if option.endswith("bps")
                         else f"{option} /dev/sda:1000")
    if option.endswith("bps"):
        rate = size(amount)
    elif amount.isdecimal():
        rate = int(amount)
    else:
        raise UsageError(f"invalid argument for {option}: {text}: not a number")
    try:
        found = os.stat(path)
    except OSError:
        raise UsageError(f"invalid argument for {option}: no such device: {path}") from None
    if found.st_mode & 0o170000 != 0o060000:
        raise UsageError(f"invalid argument for {option}: not a block device: {path}")
    major, minor = disk(os.major(found.st_rdev), os.minor(found.st_rdev))
    return {"major": major, "minor": minor, "rate": rate, "path": path}


def disk(major: int, minor: int, sys: str = "/sys") -> tuple[int, int]:
    """The whole disk of a partition; itself where it is none (sysfs, dev/block)."""
    where = f"{sys}/dev/block/{major}:{minor}"
    if not os.path.exists(where + "/partition"):
        return major, minor
    with open(where + "/../dev") as f:
        above, _, below = f.read().strip().partition(":")
    return int(above), int(below)


def _conf(text: str) -> tuple[str, str]:
    """A file of a controller: those of the cgroup itself (cgroup.*) are the engine's."""
    file, eq, value = text.partition("=")
    if not eq or not value or "/" in file or "." not in file[1:-1] \
            or file.startswith("cgroup.") or "\n" in value or not file.isprintable():
        raise UsageError(f"invalid argument for --cgroup-conf: {text}",
                         hint="--cgroup-conf memory.high=1073741824")
    return file, value
