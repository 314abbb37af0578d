"""Limits of bytes per second, in a time that only the test moves."""

from __future__ import annotations

import pytest

from slirp import rate, wire
from slirp.options import SlirpError
from slirp.wire import ACK, FIN, UDP
from tests.unit.slirp_inside import HOST4, ME4, Inside

MBIT = 1_000_000
BURST = 65536           # the least that a bucket holds


@pytest.mark.parametrize("text, value", [("8000", 8000), ("500k", 500_000), ("10M", 10_000_000),
                                         ("1G", 10**9)])
def test_rates_have_units(text: str, value: int) -> None:
    assert rate.bits(text) == value


@pytest.mark.parametrize("text", ["", "M", "10m", "-1", "1.5M", "10 M", "7999", "0"])
def test_a_rate_that_makes_no_sense_is_said(text: str) -> None:
    with pytest.raises(SlirpError, match="rate"):
        rate.bits(text)


def test_what_comes_in_is_slowed_and_arrives_whole() -> None:
    inside = Inside(rate_down=MBIT)
    inside.connect()
    stream = bytes(i % 251 for i in range(400_000))
    inside.outside.settimeout(5)
    inside.outside.setsockopt(1, 7, 1 << 20)        # SO_SNDBUF: it fits
    inside.outside.sendall(stream)
    inside.outside.shutdown(1)
    start, got, ended = inside.time, b"", False
    while not ended:
        for segment in inside.got():
            assert segment.seq == inside.ack & 0xFFFFFFFF, "nothing is lost, so nothing repeated"
            got += segment.data
            inside.ack += len(segment.data)
            ended = bool(segment.flags & FIN)
            inside.send(ACK)
        inside.settle()
        inside.pass_time(0.05)
        spent = inside.time - start
        assert len(got) <= BURST + spent * MBIT / 8 + 1
        assert spent < 20
    assert got == stream
    assert spent >= (len(stream) - BURST) / (MBIT / 8)
    assert spent < 1.3 * len(stream) / (MBIT / 8), "and the limit is used"
    inside.close()


def test_what_leaves_is_slowed_and_arrives_whole() -> None:
    inside = Inside(rate_up=MBIT)
    inside.connect()
    inside.outside.setblocking(False)
    stream = bytes(i % 251 for i in range(400_000))
    first, acked = inside.seq, 0
    start, got, window = inside.time, b"", 65535
    while len(got) < len(stream):
        while inside.seq - first < min(len(stream), acked + window):
            at = inside.seq - first
            inside.write(stream[at:min(at + 1400, acked + window)])
        for segment in inside.got():
            acked = (segment.ack - first) & 0xFFFFFFFF
            window = segment.window << 7
            assert acked + window <= len(got) + 2 * BURST + 10_000, "it does not pile up with us"
        try:
            got += inside.outside.recv(1 << 20)
        except BlockingIOError:
            pass
        spent = inside.time - start
        assert len(got) <= BURST + spent * MBIT / 8 + 1
        inside.pass_time(0.05)
        inside.settle()
        assert spent < 20
    assert got == stream
    assert spent >= (len(stream) - BURST) / (MBIT / 8)
    inside.close()


def test_datagrams_beyond_the_limit_are_dropped() -> None:
    inside = Inside(listen=False, rate_up=MBIT)
    body = wire.udp(ME4, HOST4, 4000, 9, bytes(1000)) + bytes(1000)
    for _ in range(100):
        inside.put(wire.ip(ME4, HOST4, UDP, len(body)) + body)
    flow, = inside.stack.udp.table.values()
    assert flow.sent == BURST // 1000 * 1000
    inside.pass_time(0.1)
    for _ in range(100):
        inside.put(wire.ip(ME4, HOST4, UDP, len(body)) + body)
    assert BURST < flow.sent <= BURST + MBIT // 80 + 1000
    inside.stack.udp._close(flow)
    inside.close()


def test_a_limit_that_is_lifted_holds_nothing_back() -> None:
    inside = Inside(rate_up=8000, rate_down=8000)
    inside.connect()
    inside.outside.sendall(bytes(200_000))
    inside.settle()
    for _ in range(60):
        inside.write(bytes(1400))
    inside.stack.set_rates(None, None)
    inside.pass_time(30)
    total, end = 0, 0
    while total < 60 * 1400:
        total += len(inside.outside.recv(1 << 20))
        inside.pass_time(0.01)
    while end < 200_000:
        for segment in inside.got():
            end += len(segment.data) if segment.seq == inside.ack & 0xFFFFFFFF else 0
            inside.ack += len(segment.data) if segment.seq == inside.ack & 0xFFFFFFFF else 0
            inside.send(ACK)
        inside.settle()
    inside.close()
