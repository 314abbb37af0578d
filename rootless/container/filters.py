"""`--filter` of what lists or acts on containers: docker's keys, and podman's for the boot."""

from __future__ import annotations

from rootless.clock import moment, seconds_of
from rootless.container import cgroups
from rootless.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rootless.container.store import Container, State
    from rootless.paths import Paths

    Wanted = list[tuple[str, str]]
    Listed = list[tuple[Container, State]]

STATUSES = ("created", "restarting", "running", "paused", "exited")
HEALTHS = ("starting", "healthy", "unhealthy", "none")


def parse(texts: list[str]) -> Wanted:
    """Raises UsageError."""
    found = []
    for text in texts:
        key, eq, value = text.partition("=")
        if not eq or key not in (*_HOLDS, "before", "since"):
            raise UsageError(f"invalid filter: {text}",
                             hint=", ".join(sorted((*_HOLDS, "before", "since"))))
        allowed = {"status": STATUSES, "health": HEALTHS,
                   "should-start-on-boot": ("true", "false")}.get(key)
        if allowed and value not in allowed:
            raise UsageError(f"invalid filter: {text}", hint=", ".join(allowed))
        if key == "exited" and not value.lstrip("-").isdigit():
            raise UsageError(f"invalid filter: {text}", hint="exited=1")
        if key == "until":
            try:
                moment(value, 0)
            except ValueError:
                raise UsageError(f"invalid filter: {text}", hint="until=24h") from None
        if key == "expose":
            _port_range(value)
        found.append((key, value))
    return found


def wants_all(wanted: Wanted) -> bool:
    """Do they speak of what does not run?"""
    return any(key in ("status", "exited", "health", "should-start-on-boot")
               for key, _ in wanted)


def select(paths: Paths, everyone: Listed, wanted: Wanted) -> Listed:
    """Filters of different keys must all hold, of one key any; labels must all hold."""
    if not wanted:
        return everyone
    keys = dict.fromkeys(key for key, _ in wanted)
    tests = [[_test(paths, everyone, key, v) for k, v in wanted if k == key] for key in keys]
    return [(c, s) for c, s in everyone
            if all((all if key.startswith("label") else any)(holds(c, s) for holds in group)
                   for key, group in zip(keys, tests))]


def _test(paths: Paths, everyone: Listed, key: str, value: str) -> Callable[
        [Container, State], bool]:
    if key in ("before", "since"):
        other = next((o for o, _ in everyone if value and (o.name == value
                                                           or o.id.startswith(value))), None)
        if other is None:
            raise UsageError(f"invalid filter: {key}={value}: no such container")
        theirs = str(other.data["created"])
        if key == "before":
            return lambda c, s: str(c.data["created"]) < theirs
        return lambda c, s: str(c.data["created"]) > theirs
    if key == "until":
        import time

        last = moment(value, time.time())
        return lambda c, s: seconds_of(str(c.data["created"])) < last
    if key == "name":
        return _name(value)
    holds = _HOLDS[key]
    return lambda c, s: holds(c, s, value)


def _name(value: str) -> Callable[[Container, State], bool]:
    """A part of it, or as docker has it a regular expression."""
    value = value.lstrip("/")
    if not set(value) & set("^$*+?()[]{}|\\"):
        return lambda c, s: value in c.name
    import re

    try:
        pattern = re.compile(value)
    except re.error as e:
        raise UsageError(f"invalid filter: name={value}: {e}") from None
    return lambda c, s: bool(pattern.search(c.name))


def word(s: State) -> str:
    """docker's for what it does."""
    return "paused" if cgroups.paused(s) else s.status


def _ancestor(c: Container, s: State, value: str) -> bool:
    image = str(c.data["image"])
    digest = str(c.data["image_id"]).rpartition(":")[2]
    return (value in (image, image.rpartition(":")[0])
            or (bool(value) and digest.startswith(value.rpartition(":")[2])))


def _label(c: Container, s: State, value: str) -> bool:
    name, eq, text = value.partition("=")
    labels = c.data["labels"]
    return name in labels and (not eq or labels[name] == text)


def _volume(c: Container, s: State, value: str) -> bool:
    return any(value in (m.get("name"), m["source"], m["destination"])
               for m in c.data.get("mounts", ()))


def _boots(c: Container, s: State, value: str) -> bool:
    """always; and unless-stopped, when it was not stopped on purpose."""
    policy = (c.data.get("restart") or ["no"])[0]
    boots = policy == "always" or (policy == "unless-stopped" and not s.stopped)
    return boots == (value == "true")


def _port_range(text: str) -> tuple[int, int, str]:
    """`80`, `80/udp`, `8000-8010`. Raises UsageError."""
    ports, _, proto = text.partition("/")
    low, dash, high = ports.partition("-")
    if (not low.isdigit() or (dash and not high.isdigit())
            or proto not in ("", "tcp", "udp", "sctp")):
        raise UsageError(f"invalid port: {text}", hint="80, 53/udp or 8000-8010")
    return int(low), int(high or low), proto or "tcp"


def _expose(c: Container, s: State, value: str) -> bool:
    low, high, proto = _port_range(value)
    return any(low <= first and last <= high and proto == p
               for first, last, p in map(_port_range, c.data.get("ports", ())))


_HOLDS: dict[str, Callable[[Container, State, str], bool]] = {
    "id": lambda c, s, value: c.id.startswith(value),
    "name": lambda c, s, value: value in c.name,
    "status": lambda c, s, value: word(s) == value,
    "exited": lambda c, s, value: s.status == "exited" and s.code == int(value),
    "ancestor": _ancestor,
    "label": _label,
    "label!": lambda c, s, value: not _label(c, s, value),
    "volume": _volume,
    "network": lambda c, s, value: str(c.data.get("network", "")) == value,
    "expose": _expose,
    "restart-policy": lambda c, s, value: (c.data.get("restart") or ["no"])[0] == value,
    "should-start-on-boot": _boots,
    "health": lambda c, s, value: (c.health(s) or "none") == value,
    "until": lambda c, s, value: False,
}
