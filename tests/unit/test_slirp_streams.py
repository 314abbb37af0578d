"""Whatever happens to segments on the way, the bytes arrive in order or the connection is reset."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from slirp.reassembly import Reassembly
from slirp.wire import ACK, FIN, RST
from tests.unit.slirp_inside import Inside

STREAM = bytes(i * 7 % 251 for i in range(4000))


@given(st.lists(st.tuples(st.integers(0, 120), st.integers(1, 40)), max_size=30))
def test_pieces_come_together(pieces: list[tuple[int, int]]) -> None:
    late = Reassembly()
    there: set[int] = set()
    for start, size in pieces:
        late.add(start, STREAM[start:start + size])
        there.update(range(start, start + size))
        assert late.size == len(there)
    for start, end in late.blocks():
        assert set(range(start, end)) <= there
        assert start - 1 not in there or start == 0
        assert end not in there
    position = min(there, default=0)
    taken = late.take(position)
    assert taken == STREAM[position:position + len(taken)]
    assert position + len(taken) not in there
    assert late.size == len(there) - len(taken)


segments = st.lists(st.tuples(st.integers(0, len(STREAM)), st.integers(0, 700)), max_size=40)


@settings(max_examples=60, deadline=None)
@given(segments, st.booleans())
def test_any_segments_deliver_the_stream_in_order(pieces: list[tuple[int, int]],
                                                  v6: bool) -> None:
    """Cut, repeated, overlapping, out of order; then once in order, as senders do in the end."""
    inside = Inside(v6=v6)
    try:
        inside.connect(sack=True)
        first = inside.seq
        for start, size in pieces:
            data = STREAM[start:start + size]
            end = FIN if start + len(data) == len(STREAM) else 0
            inside.send(ACK | end, data, seq=first + start)
        for start in range(0, len(STREAM), 1000):
            end = FIN if start == 3000 else 0
            inside.send(ACK | end, STREAM[start:start + 1000], seq=first + start)
        got = b""
        while part := inside.outside.recv(65536):
            got += part
        assert got == STREAM
        assert inside.got()[-1].ack == (first + len(STREAM) + 1) & 0xFFFFFFFF
    finally:
        inside.close()
        assert inside.stack.tcp.held == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), max_size=60), st.sampled_from([300, 1460, 4000, 65535]),
       st.sampled_from([100, 536, 1460]))
def test_any_losses_deliver_the_stream_in_order(fate: list[bool], window: int, mss: int) -> None:
    """`fate`: does the next segment of the stack's arrive? After that all do."""
    inside = Inside()
    try:
        inside.connect(window=window, mss=mss)
        inside.outside.sendall(STREAM)
        inside.outside.shutdown(1)
        first, got, ended = inside.ack, b"", False
        for _ in range(400):
            inside.settle() if not inside.device.sent else None
            arrived = [s for s in inside.got() if not fate or fate.pop(0)]
            for segment in arrived:
                assert not segment.flags & RST
                at = (segment.seq - first) & 0xFFFFFFFF
                assert segment.data == STREAM[at:at + len(segment.data)] or not segment.data
                if at == len(got):
                    got += segment.data
                    ended = bool(segment.flags & FIN) and len(got) == len(STREAM)
                inside.ack = first + len(got) + ended
                inside.send(ACK, window=window)
            if ended:
                break
            if not inside.device.sent:
                inside.pass_time(2)
        assert got == STREAM
        assert ended
    finally:
        inside.close()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 31), st.integers(-3, 3), st.integers(-3, 3),
                          st.integers(0, 65535), st.binary(max_size=5)), max_size=25))
def test_hostile_segments_end_in_order_or_in_a_reset(
        script: list[tuple[int, int, int, int, bytes]]) -> None:
    """Flags, positions and windows at random around what is right."""
    inside = Inside()
    try:
        inside.connect()
        inside.outside.sendall(b"0123456789")
        for flags, ahead, behind, window, data in script:
            inside.send(flags, data, seq=inside.seq + ahead, ack=inside.ack + behind,
                        window=window)
            inside.loop.turn(0)
            inside.pass_time(0.3)
        inside.pass_time(2000)
        assert not inside.stack.tcp.table, "nobody answers the probes"
    finally:
        inside.close()
        assert inside.stack.tcp.held == inside.stack.tcp._lent == 0
