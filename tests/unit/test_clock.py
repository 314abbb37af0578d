"""Times and durations as docker's options take them."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless import clock

NOW = 1_800_000_000.0


@given(st.integers(0, 4_102_444_800_000_000_000))
def test_a_stamp_is_read_back(ns: int) -> None:
    text = clock.stamp(ns)
    assert abs(clock.seconds_of(text) - ns / 1e9) < 1e-5
    assert abs(clock.moment(text, NOW) - ns / 1e9) < 1e-5


@pytest.mark.parametrize(("text", "seconds"), [
    ("10s", 10), ("1m30s", 90), ("1.5h", 5400), ("100ms", 0.1), ("2d", 172800), ("0", 0),
    ("1h1m1s1ms", 3661.001), ("-5s", -5)])
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert clock.duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "10", "1x", "1h-2m", "ten", "1..2s", "-"])
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        clock.duration(text)


@pytest.mark.parametrize(("text", "at"), [
    ("10m", NOW - 600), ("1700000000", 1.7e9), ("1700000000.5", 1700000000.5),
    ("2026-01-31T12:00:00Z", 1769860800), ("2026-01-31T13:00:00+01:00", 1769860800),
    ("2026-01-31T06:30:00.25-05:30", 1769860800.25), ("2026-01-31T12:00Z", 1769860800)])
def test_a_moment_is_read(text: str, at: float) -> None:
    assert clock.moment(text, NOW) == pytest.approx(at)


@given(st.datetimes(datetime.datetime(1990, 1, 1), datetime.datetime(2090, 1, 1)))
def test_without_a_zone_it_is_the_local_one(at: datetime.datetime) -> None:
    at = at.replace(microsecond=0)
    assert clock.moment(at.isoformat(), NOW) == at.timestamp()
    assert clock.moment(f"{at:%Y-%m-%d}", NOW) == datetime.datetime(
        at.year, at.month, at.day).timestamp()


@pytest.mark.parametrize("text", ["yesterday", "2026-13", "2026-01-31T25", "12:00", "2026-01-xx"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        clock.moment(text, NOW)
