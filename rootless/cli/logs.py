"""`rootless logs`."""

from __future__ import annotations

import time

from rootless import clock
from rootless import paths as places
from rootless.cli.command import FLAG, VALUE, Command, Option, Options
from rootless.container import logs, store
from rootless.errors import UsageError


def run(options: Options) -> int:
    container = store.find(places.of_this_user(), options.args[0])
    text = options.value("tail")
    if text is not None and text not in ("all", "-1") and not text.isdigit():
        raise UsageError(f"invalid argument for --tail: {text}", hint="a number, or all")
    tail = int(text) if text is not None and text.isdigit() else None
    since, until = (_moment(options.value(name)) for name in ("since", "until"))
    stamped = options.flag("timestamps")
    driver = str(container.data["log_driver"])
    pieces = logs.read(container, follow=options.flag("follow"), tail=tail)
    if not (stamped or since or until):
        for data in pieces:
            _show(logs.plain(driver, data))
        return 0
    begins = {b"stdout": True, b"stderr": True}
    for data in pieces:
        shown: list[tuple[bytes, bytes]] = []
        over = False
        for stamp, stream, line in logs.entries(driver, data):
            if since and stamp < since:
                continue
            if until and stamp > until:
                over = True
                break
            shown.append((stream, stamp + b" " + line if stamped and begins[stream] else line))
            begins[stream] = line.endswith(b"\n")
        _show(shown)
        if over:
            break
    return 0


def _show(found: list[tuple[bytes, bytes]]) -> None:
    """The two streams keep their order where they meet on one terminal."""
    waiting: list[bytes] = []
    last = b""
    for stream, text in found:
        if stream != last:
            _flush(last, waiting)
        last = stream
        waiting.append(text)
    _flush(last, waiting)


def _flush(stream: bytes, waiting: list[bytes]) -> None:
    if waiting:
        from rootless.files import write_all

        write_all(2 if stream == b"stderr" else 1, b"".join(waiting))
        waiting.clear()


def _moment(text: str | None) -> bytes:
    """`10m`, `1h30m`, a Unix time or an RFC 3339 time as the log writes it; b"" for none."""
    if not text:
        return b""
    try:
        return clock.stamp(int(clock.moment(text, time.time()) * 1e9)).encode()
    except ValueError:
        raise UsageError(f"invalid time: {text}", hint="10m, 1h30m, or 2026-01-31T12:00:00"
                         ) from None


COMMANDS = {
    "logs": Command("logs", "CONTAINER", "Show what a container wrote.", run, (
        Option("follow", FLAG, "Go on as more is written", "f"),
        Option("since", VALUE, "Only from this time on", metavar="TIME"),
        Option("tail", VALUE, "Only the last N lines", "n", "N"),
        Option("timestamps", FLAG, "With the time of each line", "t"),
        Option("until", VALUE, "Only up to this time", metavar="TIME"),
    ), least=1, most=1),
}
