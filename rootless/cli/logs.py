"""`rootless logs`."""

from __future__ import annotations

from rootless import paths as places
from rootless.cli.command import FLAG, VALUE, Command, Option, Options
from rootless.container import logs, store
from rootless.errors import UsageError


def run(options: Options) -> int:
    container = store.find(places.of_this_user(), options.args[0])
    text = options.value("tail")
    if text is not None and text != "all" and not text.isdigit():
        raise UsageError(f"invalid argument for --tail: {text}", hint="a number, or all")
    tail = None if text is None or text == "all" else int(text)
    since, until = (_moment(options.value(name)) for name in ("since", "until"))
    stamped = options.flag("timestamps")
    begins = {b"stdout": True, b"stderr": True}
    waiting: dict[int, list[bytes]] = {1: [], 2: []}
    size = 0
    for stamp, stream, line in logs.read(container, follow=options.flag("follow"), tail=tail):
        if since and stamp < since:
            continue
        if until and stamp > until:
            break
        ours = 2 if stream == b"stderr" else 1
        if waiting[3 - ours]:
            # The two streams keep their order where they meet on one terminal.
            _flush(waiting)
        if stamped and begins[stream]:
            waiting[ours].append(stamp + b" ")
        begins[stream] = line.endswith(b"\n")
        waiting[ours].append(line)
        size += len(line)
        if size > 1 << 16 or options.flag("follow"):
            _flush(waiting)
            size = 0
    _flush(waiting)
    return 0


def _flush(waiting: dict[int, list[bytes]]) -> None:
    from rootless.files import write_all

    for fd, parts in waiting.items():
        if parts:
            write_all(fd, b"".join(parts))
            parts.clear()


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _moment(text: str | None) -> bytes:
    """`10m`, `1h30m`, a Unix time or an RFC 3339 time as the log writes it; b"" for none."""
    if not text:
        return b""
    import time

    if text.replace(".", "", 1).isdigit():
        at = float(text)
    elif text[-1] in _UNITS and text[0].isdigit():
        at, number = time.time(), ""
        for c in text:
            if c.isdigit() or c == ".":
                number += c
            elif c in _UNITS and number:
                at -= float(number) * _UNITS[c]
                number = ""
            else:
                raise UsageError(f"invalid time: {text}", hint="10m, 1h30m, or 2026-01-31T12:00:00")
    else:
        from rootless.cli.ps import seconds_of

        at = seconds_of(text if "T" in text else text + "T00:00:00")
        if not at:
            raise UsageError(f"invalid time: {text}", hint="10m, 1h30m, or 2026-01-31T12:00:00")
    whole = int(at)
    return (time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
            + f".{int((at - whole) * 1e9):09d}Z").encode()


COMMANDS = {
    "logs": Command("logs", "CONTAINER", "Show what a container wrote.", run, (
        Option("follow", FLAG, "Go on as more is written", "f"),
        Option("since", VALUE, "Only from this time on", metavar="TIME"),
        Option("tail", VALUE, "Only the last N lines", "n", "N"),
        Option("timestamps", FLAG, "With the time of each line", "t"),
        Option("until", VALUE, "Only up to this time", metavar="TIME"),
    ), least=1, most=1),
}
