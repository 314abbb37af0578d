"""Headers: what is built is parsed back, bytes of real packets are understood, and nothing that
arrives can do more than be dropped."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slirp import wire
from slirp.connections import ends, join
from slirp.options import SlirpError
from slirp.reach import Network, pack, resolvers, show
from slirp.wire import Malformed
from tests.unit.slirp_inside import ME4, ME6, Inside

addresses = st.one_of(st.tuples(*[st.binary(min_size=4, max_size=4)] * 2),
                      st.tuples(*[st.binary(min_size=16, max_size=16)] * 2))
ports = st.integers(0, 65535)


def slow_checksum(data: bytes) -> int:
    """RFC 1071, word by word."""
    data += bytes(len(data) % 2)
    total = 0
    for i in range(0, len(data), 2):
        total += data[i] << 8 | data[i + 1]
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@given(st.binary(max_size=300))
def test_the_checksum_is_that_of_rfc_1071(data: bytes) -> None:
    assert wire.checksum(data) == slow_checksum(data)


@given(addresses, ports, ports, st.binary(max_size=200))
def test_datagrams_are_parsed_as_they_were_built(pair: tuple[bytes, bytes], sport: int, dport: int,
                                                 data: bytes) -> None:
    src, dst = pair
    body = wire.udp(src, dst, sport, dport, data) + data
    packet = wire.parse(wire.ip(src, dst, wire.UDP, len(body)) + body, 0,
                        len(body) + (20 if len(src) == 4 else 40))
    assert (packet.src, packet.dst, packet.proto) == (src, dst, wire.UDP)
    assert packet.ports == (sport, dport)
    assert bytes(packet.payload[8:]) == data
    assert wire.whole(packet)


@given(addresses, ports, st.binary(min_size=1, max_size=60), st.integers(0, 10**6))
def test_a_bit_that_flips_is_noticed(pair: tuple[bytes, bytes], word: int, data: bytes,
                                     bit: int) -> None:
    src, dst = pair
    body = bytearray(wire.icmp(src, dst, 8, 0, word, word, data))
    proto = wire.ICMP if len(src) == 4 else wire.ICMPV6
    raw = bytearray(wire.ip(src, dst, proto, len(body)) + body)
    packet = wire.parse(raw, 0, len(raw))
    assert wire.whole(packet)
    raw[packet.start + bit // 8 % len(body)] ^= 1 << bit % 8
    assert not wire.whole(packet)


def test_a_real_packet_is_understood() -> None:
    """A SYN of Linux 6.1 to 10.0.2.2:80."""
    raw = bytes.fromhex("4500003c1c4640004006fe100a00026a0a0002028e1c00501a2b3c4d00000000a002"
                        "faf0000000000204 05b40402080a12345678000000000103 0307".replace(" ", ""))
    raw = raw[:10] + wire.checksum(raw[:10] + raw[12:20]).to_bytes(2, "big") + raw[12:]
    packet = wire.parse(raw, 0, len(raw))
    assert (show(packet.src), show(packet.dst)) == ("10.0.2.106", "10.0.2.2")
    assert packet.ports == (36380, 80)
    options = wire.tcp_options(raw[40:60])
    assert options[wire.MSS_OPTION] == b"\x05\xb4"
    assert options[wire.SCALE_OPTION] == b"\x07"
    assert wire.SACK_PERMITTED in options


@given(st.binary(max_size=80))
def test_options_never_fail(raw: bytes) -> None:
    for kind, value in wire.tcp_options(raw).items():
        assert kind > 1
        assert value in raw or not value


@given(st.binary(max_size=120), st.sampled_from([4, 6]))
def test_whatever_arrives_is_parsed_or_dropped(raw: bytes, version: int) -> None:
    raw = bytes([version << 4 | (raw[0] & 15 if raw else 5)]) + raw[1:]
    try:
        packet = wire.parse(raw, 0, len(raw))
    except Malformed:
        return
    assert 0 <= packet.start <= packet.end <= len(raw)


def shaped(v6: bool) -> st.SearchStrategy[bytes]:
    """Packets that get past the first checks: right version, lengths and addresses."""
    me, host = (ME6, bytes.fromhex("fd000000000000000000000000000002")) if v6 else (
        ME4, socket.inet_aton("10.0.2.2"))
    return st.builds(
        lambda proto, body, place: wire.ip(me, host, proto, len(body), place=place) + body,
        st.sampled_from([1, 6, 17, 58, 0, 43, 44, 60, 2]), st.binary(max_size=100),
        st.sampled_from([0, 0x4000, 0x2000, 0x2001, 7]))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.one_of(shaped(False), shaped(True),
                                                   st.binary(max_size=100))), max_size=20))
def test_no_packet_stops_the_loop(packets: list[tuple[bool, bytes]]) -> None:
    inside = Inside(listen=False)
    try:
        for trusted, packet in packets:
            inside.put(packet, trusted=trusted)
        inside.loop.turn(0)
        inside.pass_time(100)
    finally:
        inside.close()


@given(addresses, ports, ports)
def test_keys_hold_both_ends(pair: tuple[bytes, bytes], sport: int, dport: int) -> None:
    source, destination = (pair[0], sport), (pair[1], dport)
    assert ends(join(source, destination)) == (source, destination)


def test_networks() -> None:
    network = Network("10.0.2.0/24")
    assert pack("10.0.2.255") in network
    assert pack("10.0.3.0") not in network
    assert pack("fd00::1") not in network
    assert pack("fd00::1") in Network("fd00::/8")
    assert pack("1.2.3.4") in Network("0.0.0.0/0")


@pytest.mark.parametrize("text", ["", "10.0.2.0", "10.0.2.0/33", "10.0.2/24", "x/1", "::/129",
                                  "10.0.2.0/-1", "10.0.2.0/"])
def test_what_is_no_network_is_said(text: str) -> None:
    with pytest.raises(SlirpError, match="not a"):
        Network(text)


def test_resolvers_are_those_of_the_file_now(tmp_path: object) -> None:
    path = f"{tmp_path}/resolv.conf"
    with open(path, "w") as file:
        file.write("# nameserver 9.9.9.9\nsearch example.org\nnameserver 192.0.2.53\n"
                   "nameserver ::1\nnameserver nonsense\nnameserver fe80::1%lo\n"
                   "nameserver 192.0.2.54\n")
    assert resolvers(path) == [("192.0.2.53", 53), ("::1", 53, 0, 0), ("fe80::1", 53, 0, 1)]
    with open(path, "w") as file:
        file.write("nameserver 192.0.2.9\n")
    assert resolvers(path) == [("192.0.2.9", 53)]
    assert resolvers(f"{tmp_path}/absent") == [("127.0.0.1", 53)]
