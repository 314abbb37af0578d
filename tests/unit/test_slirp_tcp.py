"""TCP, segment by segment: what RFC 9293 promises a peer."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from slirp import wire
from slirp.reach import Reach
from slirp.tcp import RECEIVE
from slirp.wire import ACK, FIN, PSH, RST, SYN
from tests.unit.slirp_inside import ISS, PORT, Inside

if TYPE_CHECKING:
    from slirp.reach import Address

Make = Callable[..., Inside]


@pytest.fixture(params=[False, True], ids=["ipv4", "ipv6"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    made: list[Inside] = []

    def inside(**options: object) -> Inside:
        made.append(Inside(v6=request.param, **options))    # type: ignore[arg-type]
        return made[-1]

    yield inside
    for one in made:
        one.close()
        assert one.stack.tcp.held == 0, "bytes that nobody waits for"
        assert one.stack.tcp._lent == 0, "buffers that were not given back"


def test_the_syn_is_answered_when_the_outside_has_answered(make: Make) -> None:
    inside = make(listen=True)
    inside.send(SYN, options=bytes((2, 4, 5, 180, 1, 3, 3, 7, 4, 2)))
    inside.until(lambda: inside.device.sent, "an answer")
    answer = inside.one()
    assert answer.flags == SYN | ACK
    assert answer.ack == ISS + 1
    assert wire.SACK_PERMITTED in answer.options
    assert wire.SCALE_OPTION in answer.options
    overhead = 60 if len(inside.me) == 16 else 40
    assert int.from_bytes(answer.options[wire.MSS_OPTION], "big") == 1500 - overhead


def test_options_that_the_peer_did_not_offer_are_not_used(make: Make) -> None:
    inside = make()
    inside.send(SYN)
    inside.until(lambda: inside.device.sent, "an answer")
    assert set(inside.one().options) == {wire.MSS_OPTION}


def test_refused_is_refused(make: Make) -> None:
    inside = make(listen=False)
    inside.send(SYN)
    inside.until(lambda: inside.device.sent, "an answer")
    answer = inside.one()
    assert (answer.flags, answer.ack) == (RST | ACK, ISS + 1)
    assert not inside.stack.tcp.table


class Second(Reach):
    """Every destination is the host's second loopback address."""

    def targets(self, address: bytes, port: int) -> list[Address]:
        return [("127.0.0.2", port)]


@pytest.mark.parametrize("reach", [Reach, Second])
def test_a_connection_that_the_outside_takes_back_at_once_does_not_wait(make: Make,
                                                                        reach: type[Reach]) -> None:
    """It is refused where the reset came before we looked, else opened and reset."""
    inside = make(reach=reach)
    if reach is Second:
        inside.server.close()
        inside.server = socket.create_server(("127.0.0.2", 0))
        inside.port = inside.server.getsockname()[1]
    body = wire.tcp(inside.me, inside.host, PORT, inside.port, ISS, 0, SYN, 65535)
    inside.put(wire.ip(inside.me, inside.host, wire.TCP, len(body)) + body)
    early, _ = inside.server.accept()
    early.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    early.close()
    inside.until(lambda: inside.device.sent, "an answer")
    answer = inside.one()
    if answer.flags & SYN:
        inside.settle()
        inside.send(ACK, seq=ISS + 1, ack=answer.seq + 1)
        answer = inside.got()[-1]
    assert answer.flags & RST
    assert not inside.stack.tcp.table


class Nowhere(Reach):
    """Every destination is one that the kernel refuses to dial: loopback's broadcast address."""

    def targets(self, address: bytes, port: int) -> list[Address]:
        return [("127.255.255.255", port)]


def test_unreachable_is_told_by_icmp(make: Make) -> None:
    inside = make(reach=Nowhere)
    inside.send(SYN)
    inside.until(lambda: inside.device.sent, "an answer")
    packet, = inside.packets()
    kind, code = packet.payload[0], packet.payload[1]
    assert (kind, code) == ((1, 0) if packet.proto == wire.ICMPV6 else (3, 0))
    quoted = wire.parse(packet.buffer, packet.start + 8, packet.end)
    assert (quoted.src, quoted.dst, quoted.ports) == (inside.me, inside.host, (PORT, inside.port))
    seq = int.from_bytes(quoted.payload[4:8], "big")
    assert seq == ISS, "a kernel believes it only with the right sequence number"


def test_loopback_is_not_reached_without_an_address_for_it(make: Make) -> None:
    inside = make(loopback4=None, loopback6=None)
    inside.send(SYN)
    packet, = inside.packets()
    assert packet.proto in (wire.ICMP, wire.ICMPV6)
    assert not inside.stack.tcp.table


def test_the_next_target_is_tried_where_the_first_refuses(make: Make) -> None:
    class Two(Reach):
        def targets(self, address: bytes, port: int) -> list[Address]:
            closed = socket.socket()
            closed.bind(("127.0.0.1", 0))
            number = closed.getsockname()[1]
            closed.close()
            return [("127.0.0.1", number), *super().targets(address, port)]

    inside = make(reach=Two)
    inside.connect()
    inside.write(b"hello")
    assert inside.outside.recv(9) == b"hello"


def test_a_syn_seen_twice_opens_one_connection(make: Make) -> None:
    inside = make()
    inside.send(SYN)
    inside.send(SYN)
    inside.until(lambda: inside.device.sent, "an answer")
    inside.send(SYN)
    answers = {segment[:3] for segment in inside.got()}
    assert len(answers) == 1, "the same, however often it is asked"
    assert len(inside.stack.tcp.table) == 1


def test_a_syn_ack_that_is_lost_comes_again(make: Make) -> None:
    inside = make()
    inside.send(SYN)
    inside.until(lambda: inside.device.sent, "an answer")
    first = inside.one()
    inside.pass_time(1.01)
    assert inside.one()[:3] == first[:3]
    inside.pass_time(60)
    assert not inside.stack.tcp.table, "given up"


def test_an_acknowledgment_of_something_else_does_not_open(make: Make) -> None:
    inside = make()
    inside.send(SYN)
    inside.until(lambda: inside.device.sent, "an answer")
    answer = inside.one()
    inside.send(ACK, seq=ISS + 1, ack=answer.seq + 77)
    reset = inside.one()
    assert (reset.flags, reset.seq) == (RST, answer.seq + 77)
    inside.send(ACK, seq=ISS + 1, ack=answer.seq + 1)
    inside.server.settimeout(5)
    inside.server.accept()[0].close()


def test_bytes_go_both_ways_in_order(make: Make) -> None:
    inside = make()
    inside.connect()
    inside.write(b"question")
    assert inside.outside.recv(99) == b"question"
    assert inside.one().ack == inside.seq & 0xFFFFFFFF
    inside.outside.sendall(b"answer")
    assert inside.read(6) == b"answer"


def test_data_with_the_last_ack_of_the_handshake_counts(make: Make) -> None:
    inside = make()
    inside.send(SYN)
    inside.until(lambda: inside.device.sent, "an answer")
    inside.ack, inside.seq = inside.one().seq + 1, ISS + 1
    inside.write(b"early")
    inside.outside, _ = inside.server.accept()
    assert inside.outside.recv(99) == b"early"


def test_segments_out_of_order_are_put_in_order(make: Make) -> None:
    inside = make()
    inside.connect(sack=True)
    start = inside.seq
    inside.send(ACK, b"ccc", seq=start + 6)
    late = inside.one()
    assert late.ack == start & 0xFFFFFFFF
    left, right = (int.from_bytes(late.options[wire.SACK][i:i + 4], "big") for i in (0, 4))
    assert (left, right) == ((start + 6) & 0xFFFFFFFF, (start + 9) & 0xFFFFFFFF)
    inside.send(ACK, b"bbbccc", seq=start + 3)
    inside.send(ACK, b"aaa", seq=start)
    assert inside.got()[-1].ack == (start + 9) & 0xFFFFFFFF
    assert inside.outside.recv(99) == b"aaabbbccc"


def test_repeated_segments_are_acknowledged_and_not_delivered_twice(make: Make) -> None:
    inside = make()
    inside.connect()
    inside.write(b"once")
    inside.got()
    inside.send(ACK, b"once", seq=inside.seq - 4)
    assert inside.one().ack == inside.seq & 0xFFFFFFFF
    inside.send(ACK, b"ncemore", seq=inside.seq - 3)
    inside.seq += 4
    assert inside.outside.recv(99) == b"oncemore"


def test_data_beyond_the_window_is_not_taken(make: Make) -> None:
    inside = make()
    inside.connect()
    inside.send(ACK, b"x", seq=inside.seq + RECEIVE + 200)
    assert inside.one().ack == inside.seq & 0xFFFFFFFF
    assert not inside.stack.tcp.held


def test_the_window_shuts_while_the_outside_does_not_read_and_opens_again(make: Make) -> None:
    inside = make()
    inside.outside = inside.server
    inside.connect()
    chunk, sent = bytes(range(256)) * 200, 0
    window = RECEIVE
    while window >= len(chunk):
        inside.write(chunk)
        sent += len(chunk)
        window = inside.got()[-1].window << 7
        assert sent < 64 << 20, "no end to what is taken"
    # What was offered is taken to the last byte, though it is no multiple of its unit.
    inside.write((chunk * 2)[:window - 77])
    sent += window - 77
    answer = inside.got()[-1]
    assert answer.ack == inside.seq & 0xFFFFFFFF
    inside.write(chunk[:answer.window << 7])
    sent += answer.window << 7
    answer = inside.got()[-1]
    assert (answer.ack, answer.window) == (inside.seq & 0xFFFFFFFF, 0)
    assert inside.stack.tcp.held <= RECEIVE + 256
    # A byte into a window that is shut is answered, not taken (a probe).
    received = 0
    while received < sent:
        received += len(inside.outside.recv(1 << 20))
        inside.loop.turn(0)
    inside.settle()
    updates = inside.got()
    assert updates, "the peer hears that the window is open"
    assert updates[-1].window << 7 >= RECEIVE // 2
    assert received == sent


def test_no_more_is_sent_than_the_peer_has_room_for(make: Make) -> None:
    inside = make()
    inside.connect(window=1000)
    inside.outside.sendall(bytes(5000))
    inside.settle()
    assert sum(len(s.data) for s in inside.got()) == 1000
    inside.ack += 1000
    inside.send(ACK, window=0)
    inside.settle()
    assert inside.got() == []


def test_a_window_that_is_shut_is_probed_until_it_opens(make: Make) -> None:
    inside = make()
    inside.connect(window=1000)
    inside.outside.sendall(bytes(1500))
    assert len(inside.read(1000, window=0)) == 1000
    inside.settle()
    probes = []
    for _ in range(3):
        inside.pass_time(10)
        found = inside.got()
        probes += found
        assert all(not s.data and s.seq == (inside.ack - 1) & 0xFFFFFFFF for s in found)
        if found:
            inside.send(ACK, window=0)
    assert len(probes) >= 3
    # However long it stays shut, it is not given up while the peer answers.
    for _ in range(40):
        inside.pass_time(15)
        inside.send(ACK, window=0)
    inside.got()
    inside.send(ACK, window=1000)
    assert len(inside.read(500)) == 500


def test_what_is_lost_is_sent_again_with_growing_pauses(make: Make) -> None:
    inside = make()
    inside.connect()
    inside.outside.sendall(b"lost")
    inside.until(lambda: inside.device.sent, "the first")
    first = inside.one()
    at = []
    for _ in range(80):
        inside.pass_time(0.25)
        if inside.got():
            at.append(inside.time)
    gaps = [b - a for a, b in zip(at, at[1:])]
    assert len(at) >= 3
    assert gaps == sorted(gaps), "each pause is at least as long as the last"
    inside.pass_time(15)
    again = inside.got()[-1]
    assert (again.seq, again.data) == (first.seq, b"lost")
    inside.ack += 4
    inside.send(ACK)
    inside.pass_time(60)
    assert inside.got() == []


def test_three_duplicates_bring_the_lost_segment_without_waiting(make: Make) -> None:
    inside = make()
    inside.connect()
    pieces = [bytes([65 + i]) * 100 for i in range(6)]
    for piece in pieces:
        inside.outside.sendall(piece)
        inside.until(lambda: inside.device.sent, "it")
        assert inside.one().data == piece
    for _ in range(3):
        inside.send(ACK)
    again = inside.one()
    assert (again.seq, again.data) == (inside.ack & 0xFFFFFFFF, pieces[0])
    # The second was lost as well: a partial acknowledgment brings it (RFC 6582).
    inside.ack += 100
    inside.send(ACK)
    again = inside.one()
    assert again.data == pieces[1]
    inside.ack += 500
    inside.send(ACK)
    inside.pass_time(60)
    assert inside.got() == []


def test_after_a_timeout_everything_in_flight_comes_again(make: Make) -> None:
    inside = make()
    inside.connect()
    inside.outside.sendall(bytes(range(250)) * 40)
    inside.settle()
    assert sum(len(s.data) for s in inside.got()) == 10000
    inside.pass_time(1.1)
    assert inside.read(10000) == bytes(range(250)) * 40


def test_the_congestion_window_bounds_the_first_flight(make: Make) -> None:
    inside = make()
    inside.connect(window=65535, scale=7)
    inside.outside.setblocking(False)
    inside.outside.send(bytes(200_000))
    inside.settle()
    assert sum(len(s.data) for s in inside.got()) <= 10 * 1460


def test_the_outside_closes_first(make: Make) -> None:
    inside = make()
    inside.connect()
    inside.outside.shutdown(socket.SHUT_WR)
    inside.until(lambda: inside.device.sent, "a FIN")
    end = inside.one()
    assert end.flags & FIN
    inside.ack += 1
    inside.send(ACK)
    inside.write(b"still here")
    assert inside.outside.recv(99) == b"still here", "the other direction stays open"
    inside.got()
    inside.send(FIN | ACK)
    inside.seq += 1
    assert inside.got()[-1].ack == inside.seq & 0xFFFFFFFF
    assert inside.outside.recv(99) == b""
    assert not inside.stack.tcp.table
    # The last acknowledgment was lost: TIME_WAIT answers.
    inside.send(FIN | ACK, seq=inside.seq - 1)
    assert inside.one().flags == ACK
    inside.pass_time(120)
    inside.send(FIN | ACK, seq=inside.seq - 1)
    assert inside.one().flags & RST, "forgotten in the end"


def test_a_new_connection_may_follow_from_the_same_port(make: Make) -> None:
    inside = make()
    inside.connect()
    inside.outside.close()
    inside.until(lambda: inside.device.sent, "a FIN")
    inside.got()
    inside.ack += 1
    inside.send(FIN | ACK)
    inside.got()
    inside.send(SYN, seq=inside.seq + 100000)
    inside.until(lambda: inside.device.sent, "an answer")
    assert inside.one().flags == SYN | ACK


def test_the_inside_closes_first(make: Make) -> None:
    inside = make()
    inside.connect()
    inside.send(FIN | ACK, b"bye")
    inside.seq += 4
    assert inside.outside.recv(99) == b"bye"
    assert inside.outside.recv(99) == b""
    assert inside.one().ack == inside.seq & 0xFFFFFFFF
    inside.outside.sendall(b"last words")
    assert inside.read(10) == b"last words"
    inside.outside.close()
    inside.until(lambda: inside.device.sent, "a FIN")
    assert inside.one().flags & FIN
    inside.ack += 1
    inside.send(ACK)
    assert not inside.stack.tcp.table
    assert not inside.stack.tcp._waiting, "TIME_WAIT is the peer's"


def test_a_fin_before_its_turn_waits_for_the_data(make: Make) -> None:
    inside = make()
    inside.connect()
    inside.send(FIN | ACK, b"world", seq=inside.seq + 6)
    inside.send(ACK, b"hello ", seq=inside.seq)
    data = b""
    while part := inside.outside.recv(99):
        data += part
    assert data == b"hello world"
    assert inside.got()[-1].ack == (inside.seq + 12) & 0xFFFFFFFF


def test_both_close_at_once(make: Make) -> None:
    inside = make()
    inside.connect()
    inside.outside.shutdown(socket.SHUT_WR)
    inside.until(lambda: inside.device.sent, "a FIN")
    inside.got()
    inside.send(FIN | ACK)          # does not acknowledge theirs
    inside.seq += 1
    assert inside.one().ack == inside.seq & 0xFFFFFFFF
    inside.ack += 1
    inside.send(ACK)
    assert not inside.stack.tcp.table
    assert len(inside.stack.tcp._waiting) == 1


def test_a_fin_that_is_lost_comes_again(make: Make) -> None:
    inside = make()
    inside.connect()
    inside.outside.sendall(b"xyz")
    inside.outside.shutdown(socket.SHUT_WR)
    inside.settle()
    inside.got()
    inside.pass_time(5)
    flags = [s.flags for s in inside.got()]
    assert flags[0] == ACK | PSH
    inside.ack += 3
    inside.send(ACK)
    inside.pass_time(5)
    found = inside.got()
    assert found[-1].flags & FIN
    assert found[-1].seq == inside.ack & 0xFFFFFFFF


def test_a_reset_from_inside_resets_the_outside(make: Make) -> None:
    inside = make()
    inside.connect()
    inside.send(RST)
    inside.loop.turn(0)
    with pytest.raises(ConnectionResetError):
        inside.outside.recv(1)


def test_a_reset_from_outside_resets_the_inside(make: Make) -> None:
    inside = make()
    inside.connect()
    inside.outside.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    inside.outside.close()
    inside.until(lambda: inside.device.sent, "a RST")
    assert inside.one().flags & RST
    assert not inside.stack.tcp.table


@pytest.mark.parametrize("flags", [RST, RST | ACK, SYN, SYN | ACK])
def test_a_guess_in_the_window_ends_nothing(make: Make, flags: int) -> None:
    """RFC 5961."""
    inside = make()
    inside.connect()
    inside.send(flags, seq=inside.seq + 5)
    assert inside.one().flags == ACK
    inside.write(b"alive")
    assert inside.outside.recv(9) == b"alive"


def test_an_acknowledgment_of_what_was_never_sent_is_refused(make: Make) -> None:
    inside = make()
    inside.connect()
    inside.send(ACK, b"evil", ack=inside.ack + 1000)
    assert inside.one().ack == inside.seq & 0xFFFFFFFF, "not taken in"


def test_a_segment_of_no_connection_is_reset(make: Make) -> None:
    inside = make()
    inside.send(ACK, ack=77)
    assert (inside.one()[:2]) == (RST, 77)
    inside.send(FIN, b"abc")
    answer = inside.one()
    assert (answer.flags, answer.ack) == (RST | ACK, (ISS + 4) & 0xFFFFFFFF)
    inside.send(RST, ack=77)
    assert inside.got() == []


def test_a_keepalive_of_the_peer_is_answered(make: Make) -> None:
    inside = make()
    inside.connect()
    inside.send(ACK, seq=inside.seq - 1)
    answer = inside.one()
    assert (answer.flags, answer.ack) == (ACK, inside.seq & 0xFFFFFFFF)


def test_a_peer_that_has_gone_without_a_word_is_noticed(make: Make) -> None:
    inside = make()
    inside.connect()
    inside.pass_time(1200)
    found = inside.got()
    assert not found[0].flags & RST, "first it is asked"
    assert found[-1].flags & RST
    assert not inside.stack.tcp.table
    with pytest.raises(ConnectionResetError):
        inside.outside.recv(1)


def test_a_peer_that_answers_may_be_idle_for_ever(make: Make) -> None:
    inside = make()
    inside.connect()
    for _ in range(100):
        inside.pass_time(60)
        for _ in inside.got():
            inside.send(ACK)
    inside.write(b"hello again")
    assert inside.outside.recv(99) == b"hello again"


def test_a_checksum_that_is_wrong_is_noticed(make: Make) -> None:
    inside = make()
    inside.connect()
    body = bytearray(wire.tcp(inside.me, inside.host, PORT, inside.port, inside.seq, inside.ack,
                              ACK, 999, payload=b"bits"))
    body[-1] ^= 1
    inside.put(wire.ip(inside.me, inside.host, wire.TCP, len(body)) + bytes(body))
    assert inside.got() == []
    inside.outside.setblocking(False)
    with pytest.raises(BlockingIOError):
        inside.outside.recv(1)


def test_a_flood_of_syns_takes_no_more_than_its_share(make: Make) -> None:
    inside = make(flows=50)
    for port in range(1000, 1200):
        inside.send(SYN, sport=port)
    assert len(inside.stack.tcp.table) == 50


def test_our_segments_carry_checksums_that_hold(make: Make) -> None:
    """The device completes them from the pseudo-header's sum (VIRTIO_NET_HDR_F_NEEDS_CSUM)."""
    inside = make()
    inside.connect()
    inside.outside.sendall(b"odd")
    inside.until(lambda: inside.device.sent, "data")
    frame = bytearray(inside.device.sent[-1])
    flags, _, _, _, start, offset = wire.VNET.unpack_from(frame)
    assert flags == wire.VNET_NEEDS_CSUM
    at = inside.device.base + start
    total = wire.checksum(frame[at:])
    frame[at + offset:at + offset + 2] = total.to_bytes(2, "big")
    assert wire.whole(wire.parse(frame, inside.device.base, len(frame)))
