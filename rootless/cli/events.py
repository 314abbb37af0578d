"""`rootless events`."""

from __future__ import annotations

import json
import sys
import time

from rootless import events as journal
from rootless import paths as places
from rootless.cli.command import LIST, OPTIONAL, VALUE, Command, Option, Options
from rootless.clock import moment, stamp
from rootless.container.logs import Files
from rootless.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Event = dict[str, Any]

KEYS = ("container", "image", "volume", "network", "type", "event", "label")
LOOK_SECONDS = 0.1


def run(options: Options) -> int:
    wanted = filters(options.list("filter"))
    since, until = (_moment(options.value(name)) for name in ("since", "until"))
    stream = options.boolean("stream") is not False
    if since is None and stream:
        since = time.time_ns()      # docker's: what has happened is shown when asked for
    template = options.value("format")
    files = Files(journal.path(places.of_this_user().data))
    try:
        while True:
            # Looked at before the file, so that nothing is missed at the end.
            over = not stream or (until is not None and time.time_ns() >= until)
            while data := files.read():
                for line in data.splitlines():
                    event = parse(line)
                    if event is not None and (since is None or event["timeNano"] >= since) \
                            and (until is None or event["timeNano"] <= until) \
                            and matches(event, wanted):
                        sys.stdout.write(show(event, template) + "\n")
            sys.stdout.flush()
            if over:
                return 0
            time.sleep(LOOK_SECONDS)
    finally:
        files.close()


def parse(line: bytes) -> Event | None:
    """docker's event, with what its older clients read; None for a line that a full disk cut."""
    try:
        event: Event = json.loads(line)
        attributes = event["Actor"]["Attributes"]
        at = int(event["timeNano"])
        event["time"] = at // 10**9
        if event["Type"] == "container":
            event |= {"status": event["Action"], "id": event["Actor"]["ID"],
                      "from": attributes.get("image", "")}
        return event
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def filters(texts: list[str]) -> dict[str, list[str]]:
    """Values by key. Raises UsageError."""
    found: dict[str, list[str]] = {}
    for text in texts:
        key, eq, value = text.partition("=")
        if not eq or key not in KEYS:
            raise UsageError(f"invalid filter: {text}", hint=", ".join(KEYS))
        found.setdefault(key, []).append(value)
    return found


def matches(event: Event, wanted: dict[str, list[str]]) -> bool:
    """Filters of different keys must all hold, of one key any."""
    return all(any(_holds(event, key, value) for value in values)
               for key, values in wanted.items())


def _holds(event: Event, key: str, value: str) -> bool:
    actor, kind = event["Actor"], event["Type"]
    attributes = actor["Attributes"]
    if key == "type":
        return bool(kind == value)
    if key == "event":
        # `health_status` stands for `health_status: healthy`, as docker has it.
        action = str(event["Action"])
        return action == value or action.partition(":")[0] == value
    if key == "label":
        name, eq, text = value.partition("=")
        return name in attributes and (not eq or attributes[name] == text)
    if key == "image" and kind == "container":
        image = str(attributes.get("image", ""))
        return value in (image, image.rpartition(":")[0])
    if kind != key:
        return key == "container" and str(attributes.get("container", "-")).startswith(value)
    return value == attributes.get("name") or str(actor["ID"]).startswith(value)


def show(event: Event, template: str | None) -> str:
    if template is not None:
        from rootless.cli.template import render

        return json.dumps(event) if template == "json" else render(template, event)
    actor = event["Actor"]
    told = ", ".join(f"{k}={v}" for k, v in sorted(actor["Attributes"].items()))
    return (f"{stamp(event['timeNano'])} {event['Type']} {event['Action']} {actor['ID']}"
            + (f" ({told})" if told else ""))


def _moment(text: str | None) -> int | None:
    if not text:
        return None
    try:
        return int(moment(text, time.time()) * 1e9)
    except ValueError:
        raise UsageError(f"invalid time: {text}", hint="10m, 1h30m, or 2026-01-31T12:00:00"
                         ) from None


COMMANDS = {
    "events": Command("events", "", "Show what happens to containers, images, volumes and "
                                    "networks, as it happens.", run, (
        Option("filter", LIST, ", ".join(KEYS), "f", "KEY=VALUE"),
        Option("format", VALUE, "Go template, or json", metavar="FORMAT"),
        Option("since", VALUE, "And what has happened since then", metavar="TIME"),
        Option("stream", OPTIONAL, "Go on until stopped (default true)", metavar="BOOL",
               default="true"),
        Option("until", VALUE, "Only up to this time", metavar="TIME"),
    ), most=0),
}
