"""Rates of a container's network."""

from __future__ import annotations

import pytest

from rootless.errors import UsageError
from rootless.network import rate


@pytest.mark.parametrize("text, rates", [
    ("10mbit", (1_250_000, 1_250_000)), ("10mbit/50mbit", (1_250_000, 6_250_000)),
    ("8kbit", (1000, 1000)), ("1.5Mbit/0", (187_500, 0)), ("0/1gbit", (0, 125_000_000)),
    ("8000bit", (1000, 1000)), ("0", (0, 0))])
def test_a_rate_is_bits_a_second_as_tc_has_them(text: str, rates: tuple[int, int]) -> None:
    assert rate.parse(text) == rates


@pytest.mark.parametrize("text", ["", "fast", "10", "10mb", "-1mbit", "1mbit/", "/1mbit", "7kbit",
                                  "1e3mbit", "nanmbit", "1mbit/1mbit/1mbit", "2000gbit", "1..2mbit",
                                  "infbit", "0.0", "٣mbit/x"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        rate.parse(text)
    assert "--network-rate" in str(caught.value)


def test_a_burst_holds_a_packet_and_no_rate_is_no_queue() -> None:
    assert rate.limit(3, 0, 1500) == []
    (slow,), (fast,) = rate.limit(3, 1000, 1500), rate.limit(3, 10**8, 1500)
    assert slow.what == "qdisc add dev 3 root tbf rate 8000bit"
    assert (1518).to_bytes(4, "little") in slow.body
    assert (2_000_000).to_bytes(4, "little") in fast.body


def test_a_missing_module_is_told_with_what_loads_it() -> None:
    assert "modprobe sch_tbf" in (rate.hint(OSError(2, "x", "qdisc add dev 3 root tbf")) or "")
    assert rate.hint(OSError(1, "x", "qdisc add dev 3 root tbf")) is None
    assert rate.hint(OSError(2, "x", "link add eth0")) is None
