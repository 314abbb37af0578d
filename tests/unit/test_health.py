"""Health checks: docker's rules of what the checks make of a container."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.container import health
from rootless.container.health import HEALTHY, STARTING, UNHEALTHY, Verdict


def rules(**more: Any) -> dict[str, Any]:
    return {**health.DEFAULTS, **more}


def test_one_success_makes_it_healthy_and_so_many_failures_unhealthy() -> None:
    verdict = Verdict(rules(retries=2))
    assert verdict.status == STARTING
    assert verdict.take(0, 1)
    assert (verdict.status, verdict.take(1, 2), verdict.streak) == (HEALTHY, False, 1)
    assert verdict.take(137, 3)
    assert (verdict.status, verdict.streak) == (UNHEALTHY, 2)
    assert verdict.take(0, 4)
    assert (verdict.status, verdict.streak) == (HEALTHY, 0)


def test_failures_in_the_start_period_do_not_count_until_a_success() -> None:
    verdict = Verdict(rules(retries=1, start_period=10.0))
    assert not verdict.take(1, 5)
    assert (verdict.status, verdict.streak) == (STARTING, 0)
    verdict.take(0, 6)
    assert verdict.take(1, 7), "it had been healthy"
    assert Verdict(rules(retries=1, start_period=10.0)).take(1, 10)


def test_checks_come_more_often_while_it_starts() -> None:
    verdict = Verdict(rules(interval=30.0, start_interval=2.0, start_period=60.0))
    assert verdict.pause(1) == 2.0
    assert verdict.pause(60) == 30.0
    verdict.take(0, 5)
    assert verdict.pause(6) == 30.0


@given(st.lists(st.integers(0, 255)), st.integers(1, 5))
def test_it_is_unhealthy_when_the_last_so_many_have_failed(codes: list[int], retries: int) -> None:
    verdict = Verdict(rules(retries=retries))
    for code in codes:
        verdict.take(code, 1)
    failed = len(codes) >= retries and all(codes[-retries:])
    assert (verdict.status == UNHEALTHY) == (failed or bool(
        codes and codes[-1] and _was_unhealthy(codes, retries)))


def _was_unhealthy(codes: list[int], retries: int) -> bool:
    """Since the last success."""
    since = codes[len(codes) - next((i for i, c in enumerate(reversed(codes)) if not c),
                                    len(codes)):]
    return len(since) >= retries


@pytest.mark.parametrize(("image", "wanted", "args"), [
    ({}, {}, None),
    ({"Healthcheck": {"Test": ["CMD", "true"]}}, {}, ["true"]),
    ({"Healthcheck": {"Test": ["CMD-SHELL", "exit 1"]}}, {}, ["/bin/sh", "-c", "exit 1"]),
    ({"Healthcheck": {"Test": ["CMD-SHELL", "x"]}, "Shell": ["/bin/ash", "-ec"]}, {},
     ["/bin/ash", "-ec", "x"]),
    ({"Healthcheck": {"Test": ["NONE"]}}, {}, None),
    ({"Healthcheck": {"Test": []}}, {}, None),
    ({"Healthcheck": {"Test": ["CMD", "true"]}}, {"test": ["NONE"]}, None),
    ({"Healthcheck": {"Test": ["CMD", "true"]}}, {"test": ["CMD", "false"]}, ["false"]),
])
def test_the_command_is_the_images_or_the_one_given(image: dict[str, Any], wanted: dict[str, Any],
                                                    args: list[str] | None) -> None:
    made = health.settings(image, wanted)
    assert (made and made["test"]) == args


def test_one_that_is_paused_is_not_asked(tmp_path: Path) -> None:
    told: list[str] = []
    checks = health.Health({"dir": str(tmp_path), "health": rules(test=["false"], interval=0.001)},
                           told.append, lambda: True)
    checks.start()
    for _ in range(5):
        time.sleep(0.002)
        checks.act()
        assert checks.fileno() == -1
    assert told == []


def test_times_are_the_given_ones_then_the_images_then_dockers() -> None:
    made = health.settings({"Healthcheck": {"Test": ["CMD", "x"], "Interval": 5_000_000_000,
                                            "Timeout": 2_000_000_000, "Retries": 7}},
                           {"timeout": 1.5})
    assert made is not None
    assert (made["interval"], made["timeout"], made["retries"], made["start_period"]) == (
        5.0, 1.5, 7, 0.0)
