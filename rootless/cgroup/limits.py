"""From what is wanted to what is written into the files of a cgroup. Pure.

`resources` are those of the OCI runtime specification (config-linux.md, "Control groups"), kept in
the container's config.json, with two words of ours: cpu.nanoCpus, which `--cpus` was, and the path
of a throttled device. They speak of cgroup v1; the table below is how v2 says it, in systemd's way
where there are several: weights are in proportion, and the old default is the new one (shares 1024
and blkio 500 are weight 100), so that 1:3 stays 1:3.

    memory.limit         memory.max
    memory.reservation   memory.low
    memory.swap          memory.swap.max, without the memory; as much again where not given
    cpu.shares           cpu.weight
    cpu.quota, period    cpu.max
    cpu.cpus, cpu.mems   cpuset.cpus, cpuset.mems
    pids.limit           pids.max
    blockIO.weight       io.weight, io.bfq.weight: which there is depends on the kernel
    blockIO.throttle…    io.max
    unified              the file itself
"""

from __future__ import annotations

from rootless.errors import UsageError
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Resources = dict[str, Any]

PERIOD = 100_000            # microseconds; the kernel's default
LEAST_MEMORY = 6 << 20      # docker's: less does not start a process
MAX = "max"
# OCI's name: (word in io.max, option)
THROTTLES = {
    "throttleReadBpsDevice": ("rbps", "--device-read-bps"),
    "throttleWriteBpsDevice": ("wbps", "--device-write-bps"),
    "throttleReadIOPSDevice": ("riops", "--device-read-iops"),
    "throttleWriteIOPSDevice": ("wiops", "--device-write-iops"),
}


@record(frozen=True)
class Setting:
    """One file and what is written. `option`: what asked for it, "" where nobody did: then the
    file may be missing. Of several with one option, one must be there."""

    file: str
    value: str
    option: str

    @property
    def controller(self) -> str:
        return self.file.partition(".")[0]


def settings(resources: Resources) -> list[Setting]:
    return [*_memory(resources.get("memory", {})), *_cpu(resources.get("cpu", {})),
            *_pids(resources.get("pids", {})), *_io(resources.get("blockIO", {})),
            *(Setting(file, value, "--cgroup-conf")
              for file, value in sorted(resources.get("unified", {}).items()))]


def _amount(number: int) -> str:
    return MAX if number < 0 else str(number)


def _memory(memory: Resources) -> list[Setting]:
    out = []
    limit, swap = memory.get("limit"), memory.get("swap")
    if limit is not None:
        out.append(Setting("memory.max", _amount(limit), "--memory"))
    if swap is not None:
        out.append(Setting("memory.swap.max", MAX if swap < 0 else str(swap - (limit or 0)),
                           "--memory-swap"))
    elif limit is not None:
        out.append(Setting("memory.swap.max", _amount(limit), ""))
    if memory.get("reservation") is not None:
        out.append(Setting("memory.low", str(memory["reservation"]), "--memory-reservation"))
    return out


def _cpu(cpu: Resources) -> list[Setting]:
    out = []
    if cpu.get("shares"):
        out.append(Setting("cpu.weight", str(weight(cpu["shares"], 1024)), "--cpu-shares"))
    quota, period = cpu.get("quota"), cpu.get("period")
    if quota or period:
        option = ("--cpus" if cpu.get("nanoCpus") else "--cpu-quota" if quota
                  else "--cpu-period")
        out.append(Setting("cpu.max", f"{_amount(quota or -1)} {period or PERIOD}", option))
    for name in ("cpus", "mems"):
        if cpu.get(name):
            out.append(Setting(f"cpuset.{name}", cpu[name], f"--cpuset-{name}"))
    return out


def _pids(pids: Resources) -> list[Setting]:
    if pids.get("limit") is None:
        return []
    return [Setting("pids.max", MAX if pids["limit"] <= 0 else str(pids["limit"]),
                    "--pids-limit")]


def _io(io: Resources) -> list[Setting]:
    out = []
    if io.get("weight"):
        out += [Setting("io.weight", f"default {weight(io['weight'], 500)}", "--blkio-weight"),
                Setting("io.bfq.weight", str(io["weight"]), "--blkio-weight")]
    for key, (word, option) in THROTTLES.items():
        out += [Setting("io.max", f"{d['major']}:{d['minor']} {word}={d['rate'] or MAX}", option)
                for d in io.get(key, ())]
    return out


def weight(number: int, usual: int) -> int:
    """A share where `usual` is the default, as a weight where 100 is."""
    return min(max(number * 100 // usual, 1), 10000)


def properties(resources: Resources) -> list[tuple[str, tuple[str, Any]]]:
    """What counts between a container and its neighbours is set on its scope."""
    out: list[tuple[str, tuple[str, Any]]] = []
    cpu, io = resources.get("cpu", {}), resources.get("blockIO", {})
    if cpu.get("shares"):
        out.append(("CPUWeight", ("t", weight(cpu["shares"], 1024))))
    if io.get("weight"):
        out.append(("IOWeight", ("t", weight(io["weight"], 500))))
    if resources.get("memory", {}).get("reservation") is not None:
        out.append(("MemoryLow", ("t", resources["memory"]["reservation"])))
    return out


def cpus(nano: int) -> Resources:
    """`--cpus`: that many billionths of a processor."""
    return {"nanoCpus": nano, "quota": nano * PERIOD // 10**9, "period": PERIOD}


def merge(old: Resources, new: Resources) -> Resources:
    """`old` as `update` changes it. Raises UsageError where the two contradict."""
    have, want = old.get("cpu", {}), new.get("cpu", {})
    for nano, other in ((want, have), (have, want)):
        if nano.get("nanoCpus") and "nanoCpus" not in other \
                and (other.get("quota") or other.get("period")):
            raise UsageError("cannot combine --cpus with --cpu-quota or --cpu-period: one of them "
                             "was set before")
    memory, before = new.get("memory", {}), old.get("memory", {})
    swap = memory.get("swap", before.get("swap"))
    if "limit" in memory and swap is not None and 0 <= swap < memory["limit"]:
        raise UsageError(f"invalid memory limit: {memory['limit']}: it is above --memory-swap, "
                         f"which is {swap}", hint="--memory-swap, at the same time")
    merged = dict(old)
    for part, values in new.items():
        merged[part] = {**old.get(part, {}), **values}
    for key in THROTTLES:
        given = new.get("blockIO", {}).get(key, [])
        kept = [d for d in old.get("blockIO", {}).get(key, [])
                if all((d["major"], d["minor"]) != (g["major"], g["minor"]) for g in given)]
        if kept or given:
            merged["blockIO"][key] = kept + given
    check(merged)
    return merged


def check(resources: Resources) -> None:
    """What no cgroup can be asked for, in docker's bounds. Raises UsageError."""
    memory, cpu = resources.get("memory", {}), resources.get("cpu", {})
    limit, swap, low = memory.get("limit"), memory.get("swap"), memory.get("reservation")
    if limit is not None and 0 <= limit < LEAST_MEMORY:
        raise UsageError(f"invalid memory limit: {limit}: the least is 6m")
    if swap is not None and limit is None:
        raise UsageError("cannot set --memory-swap without --memory",
                         hint="--memory-swap is the sum of memory and swap")
    if swap is not None and limit is not None and 0 <= swap < limit:
        raise UsageError("invalid --memory-swap: it is the sum of memory and swap, so it cannot "
                         "be below --memory")
    if low is not None and limit is not None and 0 <= limit < low:
        raise UsageError("invalid --memory-reservation: it is above --memory")
    period, quota = cpu.get("period"), cpu.get("quota")
    if period and not 1000 <= period <= 1_000_000:
        raise UsageError(f"invalid --cpu-period: {period}", hint="1000 to 1000000 microseconds")
    if quota and 0 <= quota < 1000:
        raise UsageError(f"invalid --cpu-quota: {quota}", hint="at least 1000 microseconds")


def numbers(text: str) -> frozenset[int]:
    """A list of CPUs or memory nodes, `0-2,5` (cpuset(7), "List format"). Raises ValueError."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"not a list of numbers: {text}")
        low, high = int(first), int(last or first)
        if not low <= high < 65536:
            raise ValueError(f"not a range: {part}")
        found.update(range(low, high + 1))
    return frozenset(found)
