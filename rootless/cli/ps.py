"""`rootless ps`."""

from __future__ import annotations

import sys
import time

from rootless import paths as places
from rootless.cli.command import FLAG, LIST, VALUE, Command, Option, Options
from rootless.clock import seconds_of
from rootless.container import cgroups, filters, store
from rootless.container.store import Container, State
from rootless.errors import StorageError
from rootless.network import endpoints, ports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.paths import Paths

COLUMNS = ("CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES")


def run(options: Options) -> int:
    paths = places.of_this_user()
    wanted = filters.parse(options.list("filter"))
    last = options.integer("last")
    if options.flag("latest"):
        last = 1
    if last is not None and last < 0:
        last = None
    show_all = options.flag("all") or last is not None or filters.wants_all(wanted)
    listed = filters.select(paths, [(c, c.state()) for c in store.every(paths)], wanted)
    listed = [(c, s) for c, s in listed if show_all or s.running]
    if last is not None:
        listed = listed[:last]
    cut = not options.flag("no-trunc")
    out: list[str] = []
    template = options.value("format")
    sized = options.flag("size") or (template is not None and ".Size" in template)
    sizes = _sizes(paths, [c for c, _ in listed]) if sized and listed else {}
    if options.flag("quiet"):
        out = [c.id[:12] if cut else c.id for c, _ in listed]
    elif template is not None:
        from rootless.cli.template import render_rows

        rows = [_fields(c, s, cut=cut, size=sizes.get(c.id, "")) for c, s in listed]
        out = render_rows(template, rows)
    else:
        found = [_fields(c, s, cut=cut, size=sizes.get(c.id, "")) for c, s in listed]
        columns = COLUMNS if not sized else (*COLUMNS, "SIZE")
        out = table([columns, *(_row(f, sized=sized) for f in found)])
    sys.stdout.write("".join(line + "\n" for line in out))
    return 0


def _sizes(paths: Paths, containers: list[Container]) -> dict[str, str]:
    """`12kB (virtual 80MB)`: what each has written, and that with its image."""
    from rootless.container.size import written
    from rootless.image.progress import human
    from rootless.image.usage import layer_sizes
    from rootless.userns import keeper

    own = written(paths, keeper.open_userns(paths), containers)
    below = layer_sizes(paths)
    return {c.id: f"{human(own[c.id])} (virtual "
                  f"{human(own[c.id] + sum(below.get(d, 0) for d in c.data['layers']))})"
            for c in containers}


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns as docker's: three spaces apart, the last one ragged."""
    widths = [max(len(r[i]) for r in rows) + 3 for i in range(len(rows[0]))]
    return ["".join(cell.ljust(w) for cell, w in zip(r, widths)).rstrip() for r in rows]


def _row(f: dict[str, str], *, sized: bool) -> tuple[str, ...]:
    row = (f["ID"], f["Image"], f["Command"], f["RunningFor"], f["Status"], f["Ports"], f["Names"])
    return (*row, f["Size"]) if sized else row


def _fields(c: Container, s: State, *, cut: bool, size: str = "") -> dict[str, str]:
    """The names of docker's `ps --format`."""
    words = " ".join(map(str, c.data["command"]))
    if cut and len(words) > 20:
        words = words[:19] + "…"
    return {
        "ID": c.id[:12] if cut else c.id,
        "Image": str(c.data["image"]),
        "Command": f'"{words}"',
        "CreatedAt": f"{c.data['created'][:19].replace('T', ' ')} +0000 UTC",
        "RunningFor": f"{age(str(c.data['created']))} ago",
        "State": filters.word(s),
        "Status": status(s, c.health(s)),
        "Ports": _ports(c) if s.running else "",
        "Names": c.name,
        "Labels": ",".join(f"{k}={v}" for k, v in c.data["labels"].items()),
        "Size": size,
        "Mounts": ",".join(m.get("volume") or m["source"] for m in c.data.get("mounts", ())),
        "Networks": ",".join(_networks(c)),
    }


def _ports(c: Container) -> str:
    if not endpoints.joins(str(c.data.get("network", "none"))):
        return ""
    lease = endpoints.lease(c.dir)
    return ports.summary(lease["ports"]) if lease is not None else ""


def _networks(c: Container) -> list[str]:
    mode = str(c.data.get("network", ""))
    if not endpoints.joins(mode):
        return [mode]
    try:
        return list(endpoints.wish(c.dir)["networks"])
    except (FileNotFoundError, StorageError):
        return [mode]


def status(s: State, health: str = "") -> str:
    if s.elsewhere:
        return f"On {s.elsewhere}"
    if s.status == "restarting":
        return f"Restarting ({s.code}) {age(s.finished)} ago"
    if s.running:
        shown = {"": "", "starting": " (health: starting)"}.get(health, f" ({health})")
        return f"Up {age(s.started)}" + (" (Paused)" if cgroups.paused(s) else shown)
    if s.status == "created":
        return "Created"
    return f"Exited ({s.code}) {age(s.finished)} ago" if s.finished else f"Exited ({s.code})"


def age(stamp: str) -> str:
    """How long ago an RFC 3339 time was, in docker's words (go-units HumanDuration)."""
    seconds = time.time() - seconds_of(stamp)
    if seconds < 1:
        return "Less than a second"
    if seconds < 60:
        return f"{int(seconds)} second{'s' if int(seconds) != 1 else ''}"
    minutes = int(seconds / 60)
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 14:
        return f"{hours // 24} days"
    if hours < 24 * 60:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{hours // 24 // 365} years"


COMMANDS = {
    "ps": Command("ps", "", "List containers.", run, (
        Option("all", FLAG, "Also those that are not running", "a"),
        Option("filter", LIST, "Only those that match", "f", "KEY=VALUE"),
        Option("format", VALUE, "Go template, or json", metavar="FORMAT"),
        Option("last", VALUE, "The last N created", "n", "N"),
        Option("latest", FLAG, "The last created", "l"),
        Option("no-trunc", FLAG, "Nothing shortened"),
        Option("quiet", FLAG, "Ids only", "q"),
        Option("size", FLAG, "What each has written, and that with its image", "s"),
    ), most=0),
}
