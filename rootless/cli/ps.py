"""`rootless ps`."""

from __future__ import annotations

import sys
import time

from rootless import paths as places
from rootless.cli.command import FLAG, LIST, VALUE, Command, Option, Options
from rootless.container import cgroups, store
from rootless.container.store import Container, State
from rootless.errors import StorageError, UsageError
from rootless.network import endpoints, ports

COLUMNS = ("CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES")
FILTERS = ("id", "name", "status", "ancestor", "label", "exited", "before", "since")


def run(options: Options) -> int:
    paths = places.of_this_user()
    wanted = _filters(options)
    by_status = any(key in ("status", "exited") for key, _ in wanted)
    last = options.integer("last")
    if options.flag("latest"):
        last = 1
    show_all = options.flag("all") or by_status or last is not None
    listed = [(c, c.state()) for c in store.every(paths)]
    listed = [(c, s) for c, s in listed if (show_all or s.running) and _matches(c, s, wanted,
                                                                                listed)]
    if last is not None:
        listed = listed[:last]
    cut = not options.flag("no-trunc")
    out: list[str] = []
    template = options.value("format")
    if options.flag("quiet"):
        out = [c.id[:12] if cut else c.id for c, _ in listed]
    elif template is not None:
        from rootless.cli.template import render_rows

        out = render_rows(template, [_fields(c, s, cut=cut) for c, s in listed])
    else:
        rows = [_row(_fields(c, s, cut=cut)) for c, s in listed]
        out = table([COLUMNS, *rows])
    sys.stdout.write("".join(line + "\n" for line in out))
    return 0


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Columns as docker's: three spaces apart, the last one ragged."""
    widths = [max(len(r[i]) for r in rows) + 3 for i in range(len(rows[0]))]
    return ["".join(cell.ljust(w) for cell, w in zip(r, widths)).rstrip() for r in rows]


def _row(f: dict[str, str]) -> tuple[str, ...]:
    return (f["ID"], f["Image"], f["Command"], f["RunningFor"], f["Status"], f["Ports"],
            f["Names"])


def _fields(c: Container, s: State, *, cut: bool) -> dict[str, str]:
    """The names of docker's `ps --format`."""
    words = " ".join(map(str, c.data["command"]))
    if cut and len(words) > 20:
        words = words[:19] + "…"
    return {
        "ID": c.id[:12] if cut else c.id,
        "Image": str(c.data["image"]),
        "Command": f'"{words}"',
        "CreatedAt": str(c.data["created"]),
        "RunningFor": f"{age(str(c.data['created']))} ago",
        "State": _word(s),
        "Status": status(s),
        "Ports": _ports(c) if s.running else "",
        "Names": c.name,
        "Labels": ",".join(f"{k}={v}" for k, v in c.data["labels"].items()),
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


def _word(s: State) -> str:
    return "paused" if cgroups.paused(s) else s.status


def status(s: State) -> str:
    if s.elsewhere:
        return f"On {s.elsewhere}"
    if s.running:
        return f"Up {age(s.started)}" + (" (Paused)" if cgroups.paused(s) else "")
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


def seconds_of(stamp: str) -> float:
    """Seconds since 1970 of an RFC 3339 time in UTC; 0 for none."""
    try:
        year, month, rest = stamp.split("-", 2)
        day, clock = rest[:2], rest[3:].rstrip("Z")
        hour, minute, second = clock.split(":")
        days = _days(int(year), int(month), int(day))
        return days * 86400.0 + int(hour) * 3600 + int(minute) * 60 + float(second[:9])
    except (ValueError, IndexError):
        return 0.0


def _days(y: int, m: int, d: int) -> int:
    """Days from 1970-01-01 of a civil date: years counted from March (Hinnant's algorithm)."""
    y -= m <= 2
    era = y // 400
    of_era = y - era * 400
    of_year = (153 * (m + (-3 if m > 2 else 9)) + 2) // 5 + d - 1
    return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468


def _filters(options: Options) -> list[tuple[str, str]]:
    found = []
    for text in options.list("filter"):
        key, eq, value = text.partition("=")
        if not eq or key not in FILTERS:
            raise UsageError(f"invalid filter: {text}", hint=", ".join(FILTERS))
        if key == "status" and value not in ("created", "running", "paused", "exited"):
            raise UsageError(f"invalid filter: {text}", hint="created, running, paused or exited")
        found.append((key, value))
    return found


def _matches(c: Container, s: State, wanted: list[tuple[str, str]],
             everyone: list[tuple[Container, State]]) -> bool:
    """Filters of different keys must all hold, of one key any; labels must all hold."""
    by_key: dict[str, list[bool]] = {}
    for key, value in wanted:
        by_key.setdefault(key, []).append(_holds(c, s, key, value, everyone))
    return all(all(v) if k == "label" else any(v) for k, v in by_key.items())


def _holds(c: Container, s: State, key: str, value: str,
           everyone: list[tuple[Container, State]]) -> bool:
    if key == "id":
        return c.id.startswith(value)
    if key == "name":
        return value.lstrip("/") in c.name
    if key == "status":
        return _word(s) == value
    if key == "exited":
        return s.status == "exited" and str(s.code) == value
    if key == "ancestor":
        image = str(c.data["image"])
        digest = str(c.data["image_id"]).rpartition(":")[2]
        return value in (image, image.rpartition(":")[0]) or digest.startswith(value)
    if key == "label":
        name, eq, text = value.partition("=")
        return name in c.data["labels"] and (not eq or c.data["labels"][name] == text)
    other = next((o for o, _ in everyone if o.name == value or o.id.startswith(value)), None)
    if other is None:
        raise UsageError(f"invalid filter: {key}={value}: no such container")
    mine, theirs = str(c.data["created"]), str(other.data["created"])
    return mine < theirs if key == "before" else mine > theirs


COMMANDS = {
    "ps": Command("ps", "", "List containers.", run, (
        Option("all", FLAG, "Also those that are not running", "a"),
        Option("filter", LIST, "Only those that match", "f", "KEY=VALUE"),
        Option("format", VALUE, "Go template, or json", metavar="FORMAT"),
        Option("last", VALUE, "The last N created", "n", "N"),
        Option("latest", FLAG, "The last created", "l"),
        Option("no-trunc", FLAG, "Nothing shortened"),
        Option("quiet", FLAG, "Ids only", "q"),
    ), most=0),
}
