"""IP fragments: put together when they come, made when a datagram is larger than the MTU.

What may lie here incomplete is bounded in number, bytes and time. Fragments that overlap make the
whole datagram void, for both versions of IP (RFC 5722 wants it for IPv6).
"""

from __future__ import annotations

from slirp import wire
from slirp.wire import FRAGMENT, FRAGMENTED, IPV4_MF, Malformed, Packet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST = 64              # datagrams at one time
_LARGEST = 65535
_SECONDS = 30.0


class _Partial:
    __slots__ = ("began", "pieces", "total")

    def __init__(self, began: float) -> None:
        self.began = began
        self.pieces: dict[int, bytes] = {}
        self.total = -1


class Fragments:
    """Those of datagrams that are not complete yet."""

    def __init__(self) -> None:
        self._partial: dict[tuple[bytes, bytes, int, int], _Partial] = {}

    def add(self, packet: Packet, now: float) -> Packet | None:
        """The whole datagram, when this was its last missing piece. Raises Malformed."""
        key = (packet.src, packet.dst, packet.proto, packet.ident)
        partial = self._partial.get(key)
        if partial is not None and now - partial.began > _SECONDS:
            del self._partial[key]
            partial = None
        if partial is None:
            while len(self._partial) >= _MOST:
                del self._partial[next(iter(self._partial))]
            partial = self._partial[key] = _Partial(now)
        try:
            payload = bytes(packet.payload)
            end = packet.offset + len(payload)
            if end > _LARGEST or not payload or (packet.more and len(payload) % 8):
                raise Malformed("fragment")
            if partial.pieces.get(packet.offset) == payload:
                return None             # the same once more
            for start, piece in partial.pieces.items():
                if start < end and packet.offset < start + len(piece):
                    raise Malformed("fragments overlap")
            partial.pieces[packet.offset] = payload
            if not packet.more:
                partial.total = end
            if partial.total >= 0 and max(partial.pieces) >= partial.total:
                raise Malformed("fragment beyond the last")
        except Malformed:
            del self._partial[key]
            raise
        if sum(map(len, partial.pieces.values())) != partial.total:
            return None
        del self._partial[key]
        whole = b"".join(partial.pieces[start] for start in sorted(partial.pieces))
        return Packet(whole, 0, packet.src, packet.dst, packet.proto, 0, len(whole))


def cut(src: bytes, dst: bytes, proto: int, payload: bytes, mtu: int,
        ident: int) -> Iterator[bytes]:
    """The packets, none larger than `mtu`, that carry `payload`."""
    v6 = len(src) == 16
    room = (mtu - (48 if v6 else 20)) & ~7
    for offset in range(0, len(payload), room):
        piece = payload[offset:offset + room]
        more = offset + room < len(payload)
        if v6:
            yield (wire.ip(src, dst, FRAGMENTED, 8 + len(piece))
                   + FRAGMENT.pack(proto, 0, offset | more, ident) + piece)
        else:
            place = offset // 8 | (IPV4_MF if more else 0)
            yield wire.ip(src, dst, proto, len(piece), ident=ident & 0xFFFF, place=place) + piece
