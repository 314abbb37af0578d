"""Times as docker writes and takes them."""

from __future__ import annotations

import time


def now() -> str:
    """RFC 3339 in UTC with nanoseconds."""
    return stamp(time.time_ns())


def stamp(ns: int) -> str:
    """The same of nanoseconds since 1970."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ns // 10**9)) + f".{ns % 10**9:09d}Z"


def seconds_of(text: str) -> float:
    """Seconds since 1970 of an RFC 3339 time in UTC; 0 for none."""
    try:
        return _civil(text[:-1] if text.endswith("Z") else text)
    except (ValueError, IndexError):
        return 0.0


def _civil(text: str) -> float:
    """`2026-01-31T12:00:00.5`, taken as UTC. Raises ValueError, IndexError."""
    year, month, rest = text.split("-", 2)
    day, clock = rest[:2], rest[3:]
    hour, minute, second = clock.split(":")
    if not (0 < int(month) < 13 and 0 < int(day) < 32 and int(hour) < 24 and int(minute) < 60):
        raise ValueError(f"not a time: {text}")
    days = _days(int(year), int(month), int(day))
    return days * 86400.0 + int(hour) * 3600 + int(minute) * 60 + float(second[:9])


def _days(y: int, m: int, d: int) -> int:
    """Days from 1970-01-01 of a civil date: years counted from March (Hinnant's algorithm)."""
    y -= m <= 2
    era = y // 400
    of_era = y - era * 400
    of_year = (153 * (m + (-3 if m > 2 else 9)) + 2) // 5 + d - 1
    return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468


_UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def duration(text: str) -> float:
    """Seconds of `1h30m`, `1.5s`, `100ms`: Go's time.ParseDuration, and days. Raises ValueError."""
    sign, rest = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.lstrip("+"))
    if rest == "0":
        return 0.0
    total, at = 0.0, 0
    while at < len(rest):
        begin = at
        while at < len(rest) and (rest[at].isdigit() or rest[at] == "."):
            at += 1
        number, begin = rest[begin:at], at
        while at < len(rest) and rest[at].isalpha():
            at += 1
        total += float(number) * _UNITS.get(rest[begin:at], float("nan"))
    if not rest or total != total:
        raise ValueError(f"not a duration: {text}")
    return sign * total


def moment(text: str, current: float) -> float:
    """Seconds since 1970 of what docker's --since and --until take: `10m` (so long ago), a Unix
    time, or a date with or without time and zone (without: the local one). Raises ValueError."""
    if text.replace(".", "", 1).isdigit():
        return float(text)
    if "-" not in text[1:]:
        return current - duration(text)
    date, _, clock = text.replace(" ", "T", 1).partition("T")
    zone: float | None = None
    if clock.endswith("Z"):
        clock, zone = clock[:-1], 0.0
    for sign in "+-":
        head, found, offset = clock.partition(sign)
        if found:
            hours, _, minutes = offset.partition(":")
            clock = head
            zone = float(sign + "1") * (int(hours) * 3600 + int(minutes or 0) * 60)
    while clock.count(":") < 2:
        clock += ":00" if clock else "00"
    try:
        at = _civil(f"{date}T{clock}")
    except IndexError:
        raise ValueError(f"not a time: {text}") from None
    if zone is not None:
        return at - zone
    # The local zone's distance at that time: the same clock, read as local.
    utc = time.gmtime(at)
    return time.mktime((*utc[:8], -1)) + at % 1
