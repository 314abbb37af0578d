"""UDP, DNS, ICMP and fragments, packet by packet."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slirp import udp, wire
from slirp.dns import PATIENCE
from slirp.fragments import Fragments, cut
from slirp.options import Options
from slirp.reach import Reach
from slirp.wire import ICMP, ICMPV6, UDP, Malformed
from tests.unit.slirp_inside import ME4, ME6, Inside

if TYPE_CHECKING:
    from slirp.reach import Address

Make = Callable[..., Inside]
DNS4, DNS6 = "10.0.2.3", "fd00::3"


@pytest.fixture(params=[False, True], ids=["ipv4", "ipv6"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    made: list[Inside] = []

    def inside(**options: object) -> Inside:
        made.append(Inside(v6=request.param, **options))    # type: ignore[arg-type]
        return made[-1]

    yield inside
    for one in made:
        one.close()
        for flow in list(one.stack.udp.table.values()):
            one.stack.udp._close(flow)
        one.loop.turn(0)


def outside(inside: Inside) -> socket.socket:
    """A UDP socket on loopback, at `inside.port`."""
    inside.server.close()
    kind = socket.AF_INET6 if len(inside.me) == 16 else socket.AF_INET
    one = inside.server = socket.socket(kind, socket.SOCK_DGRAM)
    one.bind(("::1" if kind == socket.AF_INET6 else "127.0.0.1", 0))
    one.settimeout(5)
    inside.port = one.getsockname()[1]
    return one


def send(inside: Inside, data: bytes, *, sport: int = 4000, to: bytes | None = None,
         port: int | None = None) -> None:
    dst = to or inside.host
    body = wire.udp(inside.me, dst, sport, port or inside.port, data) + data
    if len(body) > 1400:
        for packet in cut(inside.me, dst, UDP, body, 1500, 7):
            inside.put(packet)
    else:
        inside.put(wire.ip(inside.me, dst, UDP, len(body)) + body)


def received(inside: Inside) -> list[wire.Packet]:
    inside.until(lambda: inside.device.sent, "a packet")
    return inside.packets()


def test_a_datagram_and_its_answer(make: Make) -> None:
    inside = make()
    server = outside(inside)
    send(inside, b"question")
    data, client = server.recvfrom(100)
    assert data == b"question"
    server.sendto(b"answer", client)
    packet, = received(inside)
    assert (packet.src, packet.dst, packet.ports) == (inside.host, inside.me, (inside.port, 4000))
    assert bytes(packet.payload[8:]) == b"answer"
    send(inside, b"")
    assert server.recvfrom(100) == (b"", client), "one flow, one socket"


def test_a_datagram_larger_than_the_mtu_goes_both_ways(make: Make) -> None:
    inside = make()
    server = outside(inside)
    big = bytes(i % 251 for i in range(9000))
    send(inside, big)
    data, client = server.recvfrom(65535)
    assert data == big
    server.sendto(data, client)
    together, whole = Fragments(), None
    for packet in received(inside):
        assert packet.end - packet.at <= 1500
        whole = together.add(packet, 0)
    assert whole is not None
    assert bytes(whole.payload[8:]) == big
    assert wire.whole(whole)


def test_nobody_there_is_told(make: Make) -> None:
    inside = make()
    outside(inside).close()
    send(inside, b"anybody?")
    packet, = received(inside)
    v6 = packet.proto == ICMPV6
    assert tuple(packet.payload[:2]) == ((1, 4) if v6 else (3, 3))
    quoted = wire.parse(packet.buffer, packet.start + 8, packet.end)
    assert (quoted.src, quoted.dst, quoted.ports) == (inside.me, inside.host, (4000, inside.port))


def test_only_who_was_asked_can_answer(make: Make) -> None:
    inside = make()
    server = outside(inside)
    send(inside, b"question")
    _, client = server.recvfrom(100)
    with socket.socket(server.family, socket.SOCK_DGRAM) as other:
        other.bind((server.getsockname()[0], 0))
        other.sendto(b"lies", client)
    server.sendto(b"truth", client)
    packet, = received(inside)
    assert bytes(packet.payload[8:]) == b"truth"


def test_a_batch_of_datagrams_stays_many(make: Make) -> None:
    """A packet of VIRTIO_NET_HDR_GSO_UDP_L4."""
    inside = make()
    server = outside(inside)
    data = b"".join(bytes([i]) * 1000 for i in range(5)) + b"tail"
    body = wire.udp(inside.me, inside.host, 4000, inside.port, data) + data
    packet = wire.ip(inside.me, inside.host, UDP, len(body)) + body
    frame = wire.VNET.pack(1, wire.GSO_UDP_L4, 0, 1000, 0, 0) + packet
    inside.device.buffer[:len(frame)] = frame
    inside.stack.packet(len(frame))
    assert [len(server.recv(2000)) for _ in range(6)] == [1000] * 5 + [4]


def test_flows_end_when_they_are_silent(make: Make) -> None:
    inside = make()
    server = outside(inside)
    send(inside, b"one", sport=1)
    send(inside, b"two", sport=2)
    server.recvfrom(9)
    _, client = server.recvfrom(9)
    server.sendto(b"yes", client)
    received(inside)
    inside.pass_time(udp.UNANSWERED + 15)
    assert len(inside.stack.udp.table) == 1
    inside.pass_time(udp.ANSWERED)
    assert not inside.stack.udp.table


def test_too_many_flows_make_room_for_the_new_one(make: Make) -> None:
    inside = make(flows=32)
    server = outside(inside)
    for port in range(1, 200):
        send(inside, b"x", sport=port)
        server.recvfrom(9)
    assert len(inside.stack.udp.table) <= 32


def test_what_must_not_be_reached_by_udp_is_told(make: Make) -> None:
    inside = make(loopback4=None, loopback6=None)
    server = outside(inside)
    send(inside, b"secret?")
    packet, = received(inside)
    assert tuple(packet.payload[:2]) == ((1, 1) if packet.proto == ICMPV6 else (3, 13))
    server.setblocking(False)
    with pytest.raises(BlockingIOError):
        server.recv(1)


# ---- DNS ----------------------------------------------------------------------------------------

QUERY = bytes.fromhex("abcd01000001000000000000") + b"\4name\7example\0\0\1\0\1"
ANSWER = bytes.fromhex("abcd81800001000000000000") + QUERY[12:]


class Resolver(socket.socket):
    """Answers on loopback, when a test says what."""

    def __init__(self) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_DGRAM)
        self.bind(("127.0.0.1", 0))
        self.settimeout(5)


def dns(make: Make, *resolvers: Address) -> Inside:
    def reach(options: Options) -> Reach:
        return Reach(options, resolvers=lambda: list(resolvers))

    return make(dns4=DNS4, dns6=DNS6, reach=reach)


def ask(inside: Inside, query: bytes = QUERY, sport: int = 5000) -> None:
    v6 = len(inside.me) == 16
    at = socket.inet_pton(socket.AF_INET6, DNS6) if v6 else socket.inet_aton(DNS4)
    send(inside, query, sport=sport, to=at, port=53)


def test_a_query_goes_to_the_resolver_and_back(make: Make) -> None:
    with Resolver() as resolver:
        inside = dns(make, resolver.getsockname())
        ask(inside)
        data, client = resolver.recvfrom(512)
        assert data == QUERY
        resolver.sendto(b"\0\0" + ANSWER[2:], client)       # of another query: a forgery
        resolver.sendto(ANSWER, client)
        packet, = received(inside)
        assert bytes(packet.payload[8:]) == ANSWER
        assert packet.ports == (53, 5000)
        assert not inside.stack.names._queries


@pytest.mark.parametrize("way", ["silent", "refuses", "fails"])
def test_the_next_resolver_is_asked_when_the_first(make: Make, way: str) -> None:
    with Resolver() as first, Resolver() as second:
        inside = dns(make, first.getsockname(), second.getsockname())
        if way == "refuses":
            first.close()
        ask(inside)
        if way == "silent":
            inside.pass_time(PATIENCE + 0.1)
        elif way == "fails":
            _, client = first.recvfrom(512)
            first.sendto(bytes.fromhex("abcd81820001000000000000") + QUERY[12:], client)
        for _ in range(3):
            inside.settle()
        _, client = second.recvfrom(512)
        second.sendto(ANSWER, client)
        assert bytes(received(inside)[0].payload[8:]) == ANSWER


def test_without_any_answer_the_answer_is_servfail(make: Make) -> None:
    with Resolver() as resolver:
        inside = dns(make, resolver.getsockname())
        ask(inside)
        inside.pass_time(PATIENCE + 0.1)
        data = bytes(received(inside)[0].payload[8:])
        assert data[:2] == QUERY[:2]
        assert data[2] & 0x80
        assert data[3] & 15 == 2
        assert data[12:] == QUERY[12:]


def test_names_by_tcp_go_to_the_first_resolver_that_accepts(make: Make) -> None:
    closed = Resolver()
    dead = closed.getsockname()
    closed.close()
    with socket.create_server(("127.0.0.1", 0)) as server:
        inside = dns(make, dead, server.getsockname())
        inside.host = socket.inet_pton(socket.AF_INET6, DNS6) if len(inside.me) == 16 \
            else socket.inet_aton(DNS4)
        inside.server.close()
        inside.server, inside.port = server, 53
        inside.connect()
        inside.write(b"\0\x1d" + QUERY)
        assert inside.outside.recv(99) == b"\0\x1d" + QUERY


# ---- ICMP ---------------------------------------------------------------------------------------

def ping(inside: Inside, to: bytes) -> None:
    v6 = len(inside.me) == 16
    body = wire.icmp(inside.me, to, 128 if v6 else 8, 0, 77, 1, b"payload")
    inside.put(wire.ip(inside.me, to, ICMPV6 if v6 else ICMP, len(body)) + body)


def test_our_own_addresses_answer_a_ping(make: Make) -> None:
    inside = make()
    ping(inside, inside.host)
    packet, = inside.packets()
    assert wire.whole(packet)
    v6 = packet.proto == ICMPV6
    assert bytes(packet.payload)[4:] == b"\0\x4d\0\1payload"
    assert packet.payload[0] == (129 if v6 else 0)


def test_a_ping_of_what_must_not_be_reached_is_told(make: Make) -> None:
    inside = make()
    v6 = len(inside.me) == 16
    ping(inside, socket.inet_pton(socket.AF_INET6, "::1") if v6 else socket.inet_aton("127.0.0.1"))
    packet, = inside.packets()
    assert tuple(packet.payload[:2]) == ((1, 1) if v6 else (3, 13))


def test_a_router_inside_that_takes_only_small_packets_gets_small_ones(make: Make) -> None:
    inside = make()
    inside.connect()
    inside.outside.sendall(bytes(1400))
    inside.settle()
    sent = inside.packets()[0]
    v6 = len(inside.me) == 16
    quoted = bytes(sent.buffer[sent.at:sent.end])[:600]
    message = wire.icmp(inside.me, inside.host, 2 if v6 else 3, 0 if v6 else 4, 0, 1280, quoted)
    inside.put(wire.ip(inside.me, inside.host, ICMPV6 if v6 else ICMP, len(message)) + message)
    again = wire.VNET.unpack_from(inside.device.sent[-1])
    assert again[1] & 0x7F in (wire.GSO_TCPV4, wire.GSO_TCPV6)
    assert again[3] == 1280 - (60 if v6 else 40), "the kernel is told to cut smaller"


# ---- fragments ----------------------------------------------------------------------------------

@given(st.binary(min_size=1, max_size=9000), st.booleans(), st.randoms(), st.integers(300, 1500))
def test_fragments_in_any_order_make_the_datagram(data: bytes, v6: bool, order: object,
                                                  mtu: int) -> None:
    me = ME6 if v6 else ME4
    packets = list(cut(me, me, UDP, data, mtu, 99))
    assert all(len(p) <= mtu for p in packets)
    order.shuffle(packets)      # type: ignore[attr-defined]
    together, found = Fragments(), []
    for raw in packets:
        packet = wire.parse(raw, 0, len(raw))
        done = together.add(packet, 0.0) if packet.offset or packet.more else packet
        if done is not None:
            found.append(bytes(done.payload))
    assert found == [data]
    assert not together._partial


def test_fragments_that_overlap_are_void() -> None:
    packets = list(cut(ME4, ME4, UDP, bytes(3000), 1500, 1))
    first = wire.parse(packets[0], 0, len(packets[0]))
    second = wire.parse(packets[1], 0, len(packets[1]))
    second.offset -= 8
    together = Fragments()
    assert together.add(first, 0) is None
    with pytest.raises(Malformed):
        together.add(second, 0)
    assert not together._partial


def test_fragments_without_an_end_are_bounded() -> None:
    together = Fragments()
    for ident in range(1000):
        raw = next(cut(ME4, ME4, UDP, bytes(3000), 1500, ident))
        together.add(wire.parse(raw, 0, len(raw)), 0)
    assert len(together._partial) <= 64
