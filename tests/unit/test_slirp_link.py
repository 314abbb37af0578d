"""Ethernet: who answers for which address, and frames that are nonsense."""

from __future__ import annotations

import socket

from hypothesis import given, settings
from hypothesis import strategies as st

from slirp import link, wire
from slirp.link import OURS, SIZE, Link
from slirp.wire import ARP, ETH_ARP, ETHERNET
from tests.unit.slirp_inside import HOST4, HOST6, ME4, ME6, Inside

GUEST = bytes.fromhex("525400123456")
NEW = bytes.fromhex("525400aabbcc")


def tap() -> Inside:
    inside = Inside(listen=False)
    inside.device.base = wire.VNET.size + SIZE
    inside.device.buffer = bytearray(inside.device.base + 65536)
    inside.stack._view = memoryview(inside.device.buffer)
    inside.stack.link = Link(GUEST, inside.stack.reach.ours)
    return inside


def put(inside: Inside, frame: bytes) -> list[bytes]:
    """One Ethernet frame; what is answered, without virtio headers."""
    frame = bytes(wire.VNET.size) + frame
    inside.device.buffer[:len(frame)] = frame
    inside.stack.packet(len(frame))
    sent, inside.device.sent = inside.device.sent, []
    return [answer[wire.VNET.size:] for answer in sent]


def request(target: bytes, mac: bytes = NEW, sender: bytes = ME4) -> bytes:
    return (ETHERNET.pack(b"\xff" * 6, mac, ETH_ARP)
            + ARP.pack(1, 0x0800, 6, 4, 1, mac, sender, bytes(6), target))


def test_an_arp_request_for_us_is_answered() -> None:
    inside = tap()
    answer, = put(inside, request(HOST4))
    assert ETHERNET.unpack_from(answer) == (NEW, OURS, ETH_ARP)
    assert ARP.unpack_from(answer, SIZE) == (1, 0x0800, 6, 4, 2, OURS, HOST4, NEW, ME4)
    assert inside.stack.prefix(HOST4)[wire.VNET.size:][:6] == NEW, "and its MAC address learned"
    inside.close()


def test_for_others_we_are_silent() -> None:
    inside = tap()
    assert put(inside, request(socket.inet_aton("10.0.2.77"))) == []
    assert put(inside, request(ME4, sender=bytes(4))) == [], "a probe for duplicates"
    inside.close()


def solicitation(target: bytes, source: bytes = ME6) -> bytes:
    body = target + bytes((1, 1)) + GUEST
    message = wire.icmp(source, target, wire.NEIGHBOUR_SOLICIT, 0, 0, 0, body)
    return (ETHERNET.pack(OURS, GUEST, wire.ETH_IPV6)
            + wire.ip(source, target, wire.ICMPV6, len(message), ttl=255) + message)


def test_a_neighbour_solicitation_for_us_is_answered() -> None:
    inside = tap()
    answer, = put(inside, solicitation(HOST6))
    packet = wire.parse(answer, SIZE, len(answer))
    assert (packet.src, packet.dst, packet.ttl) == (HOST6, ME6, 255)
    assert wire.whole(packet)
    assert packet.payload[0] == wire.NEIGHBOUR_ADVERT
    assert bytes(packet.payload[8:]) == HOST6 + bytes((2, 1)) + OURS
    assert put(inside, solicitation(socket.inet_pton(socket.AF_INET6, "fd00::77"))) == []
    assert put(inside, solicitation(HOST6, source=bytes(16))) == [], "a probe for duplicates"
    inside.close()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.sampled_from([0x0806, 0x0800, 0x86DD, 0x1234]), st.booleans())
def test_no_frame_stops_the_loop(raw: bytes, kind: int, trusted: bool) -> None:
    inside = tap()
    put(inside, bytes([trusted]) + raw)
    put(inside, ETHERNET.pack(OURS, GUEST, kind) + raw)
    inside.close()


def test_the_header_follows_the_version() -> None:
    made = link.Link(GUEST, {HOST4})
    assert made.header(HOST4)[12:] == b"\x08\x00"
    assert made.header(HOST6)[12:] == b"\x86\xdd"
