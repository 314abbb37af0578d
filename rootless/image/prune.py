"""`image prune`: images that nobody needs, by docker's rules."""

from __future__ import annotations

from rootless.errors import UsageError
from rootless.image import gc, remove, store, usage
from rootless.image.store import Image
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rootless.paths import Paths

    Match = Callable[[str, dict[str, str]], bool]


@record(frozen=True)
class Pruned:
    """What was done, as docker says it, and the bytes it brought."""

    said: tuple[str, ...]
    reclaimed: int


def candidates(paths: Paths, used: set[str], *, everything: bool,
               tests: list[Match]) -> list[Image]:
    """Every name of the images that would go. `used`: ids of images containers were made from.
    Without `everything` only those that have no tag."""
    images = store.every(paths)
    tagged = {i.id for i in images if i.tag}
    return [i for i in images if i.id not in used and (everything or i.id not in tagged)
            and all(_holds(test, i) for test in tests)]


def _holds(test: Match, image: Image) -> bool:
    labels = (image.config.get("config") or {}).get("Labels") or {}
    return test(str(image.config.get("created") or ""), labels)


def prune(paths: Paths, gone: list[Image]) -> Pruned:
    """Raises StorageError."""
    before = usage.total(paths)
    said = []
    for identity in dict.fromkeys(i.id for i in gone):
        same = [i for i in gone if i.id == identity]
        said += [*remove.untagged(same, []), f"Deleted: {identity}"]
    store.drop(paths, gone)
    said += [f"Deleted: {diff_id}" for diff_id in gc.sweep(paths) or ()]
    return Pruned(tuple(s[0].lower() + s[1:] for s in said),
                  max(0, before - usage.total(paths)))


def parse_filter(text: str, seconds: Callable[[str], float], now: float) -> Match:
    """`until=TIME|DURATION`, `label=KEY[=VALUE]`, `label!=KEY[=VALUE]`, as a function of when a
    thing was made and its labels. `seconds` reads a time.

    Raises UsageError.
    """
    key, eq, value = text.partition("=")
    negated = key.endswith("!")
    if not eq or key.rstrip("!") not in ("until", "label") or (negated and key != "label!"):
        raise UsageError(f"invalid filter: {text}",
                         hint="until=24h, until=2026-01-31, label=KEY, label!=KEY=VALUE")
    if key == "until":
        limit = moment(value, seconds, now)
        return lambda created, _: 0 < seconds(created) < limit
    name, has_value, wanted = value.partition("=")

    def holds(_: str, labels: dict[str, str]) -> bool:
        found = name in labels and (not has_value or labels[name] == wanted)
        return found != negated
    return holds


_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


def moment(text: str, seconds: Callable[[str], float], now: float) -> float:
    """A point in time: a duration before now as Go writes it, a time stamp, or Unix seconds."""
    try:
        return float(text)
    except ValueError:
        pass
    total, number = 0.0, ""
    for char in text:
        if char in _UNITS and number:
            total += float(number) * _UNITS[char]
            number = ""
        elif char.isdigit() or (char == "." and "." not in number):
            number += char
        else:
            break
    else:
        if total and not number:
            return now - total
    for form in (text, text + "Z", text + "T00:00:00Z", text + ":00Z"):
        found = seconds(form)
        if found > 0:
            return found
    raise UsageError(f"invalid filter: until={text}", hint="until=24h or until=2026-01-31T12:00:00")
