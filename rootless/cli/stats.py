"""`rootless stats`: what containers use, in docker's columns."""

from __future__ import annotations

import sys
import time

from rootless import paths as places
from rootless.cgroup import usage
from rootless.cli.command import FLAG, VALUE, Command, Option, Options
from rootless.cli.ps import table
from rootless.container import cgroups, store
from rootless.container.store import Container
from rootless.errors import Conflict, HostError, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.cgroup.usage import Usage
    from rootless.paths import Paths

    # When it was seen, in seconds, and what; None where it does not run.
    Seen = tuple[float, Usage] | None

COLUMNS = {"ID": "CONTAINER ID", "Name": "NAME", "CPUPerc": "CPU %", "MemUsage":
           "MEM USAGE / LIMIT", "MemPerc": "MEM %", "NetIO": "NET I/O", "BlockIO": "BLOCK I/O",
           "PIDs": "PIDS"}
PRESSURE = {"CPUPressure": "CPU PRESSURE", "MemPressure": "MEM PRESSURE",
            "IOPressure": "I/O PRESSURE"}
HEADERS = {**COLUMNS, **PRESSURE, "Container": "CONTAINER"}
SECONDS = 1.0
CLEAR = "\x1b[2J\x1b[H"
NOTHING = "--"


def stats(options: Options) -> int:
    paths = places.of_this_user()
    before: dict[str, Seen] = {}
    once = options.flag("no-stream")
    names = _names(paths, options)
    while True:
        containers = _chosen(paths, options, names)
        now = _look(containers, named=bool(names))
        if before or not containers:
            rows = [_row(c, before.get(c.id), now[c.id], options) for c in containers]
            _show(rows, options, clear=not once)
            if once:
                return 0
        before = now
        time.sleep(SECONDS)


def _names(paths: Paths, options: Options) -> list[str]:
    """Full ids of those that are named. Raises NotFound."""
    return [store.find(paths, name).id for name in options.args]


def _chosen(paths: Paths, options: Options, names: list[str]) -> list[Container]:
    """Those named, or all that run; with --all, or named, also those that do not."""
    if names:
        found = [c for c in (store.load(paths, cid) for cid in names) if c is not None]
        if not found:
            raise NotFound("all containers are gone", hint="rootless ps -a lists all")
        return found
    return [c for c in store.every(paths) if options.flag("all") or c.state().running]


def _look(containers: list[Container], *, named: bool) -> dict[str, Seen]:
    """Raises HostError where one that is named, or every one that runs, has no cgroup: there is
    nothing to look at."""
    seen: dict[str, Seen] = {}
    blind: HostError | None = None
    for container in containers:
        seen[container.id] = None
        try:
            state, _ = cgroups.of(container)
            seen[container.id] = time.monotonic(), usage.usage(state.cgroup, state.pid)
        except Conflict:
            pass
        except HostError as e:
            blind = e
            if named:
                break
    if blind is not None and (named or not any(seen.values())):
        raise blind
    return seen


def _row(container: Container, before: Seen, now: Seen, options: Options) -> dict[str, str]:
    cid = container.id if options.flag("no-trunc") else container.id[:12]
    row = dict.fromkeys(HEADERS, NOTHING)
    row.update(ID=cid, Name=container.name, Container=cid)
    if now is None:
        return row
    use = now[1]
    if before is not None and use.cpu is not None and before[1].cpu is not None:
        # A restart in between begins from nothing again.
        spent = max(use.cpu - before[1].cpu, 0) / 1e6
        row["CPUPerc"] = f"{100 * spent / max(now[0] - before[0], 1e-6):.2f}%"
    if use.memory is not None:
        row["MemUsage"] = f"{binary(use.memory)} / {binary(use.limit)}"
        row["MemPerc"] = f"{100 * use.memory / use.limit:.2f}%" if use.limit else NOTHING
    row["NetIO"] = f"{decimal(use.received)} / {decimal(use.sent)}"
    if use.read is not None and use.written is not None:
        row["BlockIO"] = f"{decimal(use.read)} / {decimal(use.written)}"
    if use.pids is not None:
        row["PIDs"] = str(use.pids)
    for name, part in zip(PRESSURE, use.pressure):
        if part is not None:
            row[name] = f"{part:.2f}%"
    return row


def _show(rows: list[dict[str, str]], options: Options, *, clear: bool) -> None:
    template = options.value("format")
    if template is not None and template != "table":
        from rootless.cli.template import render_rows

        lines = render_rows(template, rows, HEADERS)
    else:
        columns = {**COLUMNS, **(PRESSURE if options.flag("pressure") else {})}
        lines = table([tuple(columns.values()),
                       *(tuple(row[name] for name in columns) for row in rows)])
    sys.stdout.write((CLEAR if clear else "") + "".join(line + "\n" for line in lines))
    sys.stdout.flush()


def binary(number: float) -> str:
    """Bytes as docker writes memory (go-units BytesSize): `1.5MiB`."""
    return _human(number, 1024.0, ("B", "KiB", "MiB", "GiB", "TiB", "PiB"), 4)


def decimal(number: float) -> str:
    """Bytes as docker writes traffic (go-units HumanSizeWithPrecision 3): `1.5kB`."""
    return _human(number, 1000.0, ("B", "kB", "MB", "GB", "TB", "PB"), 3)


def _human(number: float, base: float, units: tuple[str, ...], digits: int) -> str:
    unit = 0
    while number >= base and unit < len(units) - 1:
        number /= base
        unit += 1
    return f"{number:.{digits}g}{units[unit]}"


COMMANDS = {
    "stats": Command("stats", "[CONTAINER...]",
                     "Show what containers use, again every second. Memory is without page cache "
                     "that can be given back.", stats, (
                         Option("all", FLAG, "Also containers that do not run", "a"),
                         Option("format", VALUE, "Go template, table, or json", metavar="FORMAT"),
                         Option("no-stream", FLAG, "Once, measured for a second"),
                         Option("no-trunc", FLAG, "Nothing shortened"),
                         Option("pressure", FLAG, "Also the share of time spent waiting for CPU, "
                                                  "memory and I/O (PSI)"))),
}
