"""ICMP and ICMPv6: echo, and errors from inside.

Our own addresses answer an echo themselves. Others are asked through a ping socket, which the
host's administrator may not allow (net.ipv4.ping_group_range); then the sender is told that it
is prohibited, which is better than silence.
"""

from __future__ import annotations

import errno
import socket
from socket import SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK

from slirp import wire
from slirp.connections import join
from slirp.loop import IN
from slirp.reach import family
from slirp.wire import ICMP, ICMP_HEADER, ICMPV6, TCP, Malformed, Packet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slirp.stack import Stack

_MOST = 256             # pings at one time
_SECONDS = 30.0


class Ping:
    """Echoes of one program inside to one address."""

    __slots__ = ("dst", "ident", "seen", "socket", "src", "table")

    def __init__(self, table: Echoes, src: bytes, dst: bytes, ident: int) -> None:
        """Raises OSError."""
        self.table = table
        self.src, self.dst, self.ident = src, dst, ident
        self.seen = table.loop.now
        kind = family(dst)
        self.socket = socket.socket(kind, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC,
                                    ICMP if kind == socket.AF_INET else ICMPV6)
        try:
            self.socket.connect(table.target(dst))
            table.loop.add(self.socket.fileno(), self.event, IN)
        except OSError:
            self.socket.close()
            raise

    def event(self, _events: int) -> None:
        """The loop's handler of the socket."""
        try:
            data = self.socket.recv(65535)
        except BlockingIOError:
            return
        except OSError as error:
            why = "net" if error.errno == errno.ENETUNREACH else "host"
            self.table.tell(why, self.src, self.dst, b"")
            return
        if len(data) < 8:
            return
        sequence = int.from_bytes(data[6:8], "big")
        self.table.answer(self.dst, self.src, self.ident, sequence, data[8:])


class Echoes:
    def __init__(self, stack: Stack) -> None:
        self.loop = stack.loop
        self._stack = stack
        self._pings: dict[tuple[bytes, bytes, int], Ping] = {}

    def receive(self, packet: Packet) -> None:
        """A message from inside. Raises Malformed."""
        payload = packet.payload
        if len(payload) < 8:
            raise Malformed("ICMP")
        kind, code, _, first, second = ICMP_HEADER.unpack_from(payload)
        v6 = packet.proto == ICMPV6
        if v6 != (len(packet.src) == 16):
            raise Malformed("ICMP of another version")
        if kind == (wire.ECHO6 if v6 else wire.ECHO):
            self._echo(packet, first, second, bytes(payload[8:]))
        elif kind == (wire.TOO_BIG6 if v6 else wire.UNREACHABLE):
            mtu = (first << 16 | second) if v6 else second
            big = v6 or code == wire.TOO_BIG
            self._about(packet, "too big" if big else "unreachable", mtu)
        elif v6 and kind == wire.UNREACHABLE6:
            self._about(packet, "unreachable", 0)

    def _about(self, packet: Packet, what: str, mtu: int) -> None:
        """An error about something of ours that did not get on, inside."""
        at, end = packet.start + 8, packet.end
        size = 40 if packet.proto == ICMPV6 else 20
        if end - at < size + 8:
            raise Malformed("nothing is quoted")
        buffer = packet.buffer
        if packet.proto == ICMPV6:
            _, _, proto, _, ours, theirs = wire.IPV6.unpack_from(buffer, at)
        else:
            first, _, _, _, _, _, proto, _, ours, theirs = wire.IPV4.unpack_from(buffer, at)
            size = (first & 15) * 4
        if proto == TCP and end - at >= size + 8:
            sport = buffer[at + size] << 8 | buffer[at + size + 1]
            dport = buffer[at + size + 2] << 8 | buffer[at + size + 3]
            self._stack.tcp.told(join((theirs, dport), (ours, sport)), what, mtu)

    def _echo(self, packet: Packet, ident: int, sequence: int, data: bytes) -> None:
        if packet.dst in self._stack.reach.ours:
            self.answer(packet.dst, packet.src, ident, sequence, data)
            return
        key = (packet.src, packet.dst, ident)
        ping = self._pings.get(key)
        if ping is None:
            if not self._stack.targets("icmp", (packet.src, 0), (packet.dst, 0)):
                self._refuse("prohibited", packet)
                return
            self._sweep()
            try:
                ping = self._pings[key] = Ping(self, packet.src, packet.dst, ident)
            except OSError as error:
                self._refuse("net" if error.errno == errno.ENETUNREACH else "prohibited", packet)
                return
        ping.seen = self.loop.now
        kind = wire.ECHO6 if packet.proto == ICMPV6 else wire.ECHO
        try:
            ping.socket.send(ICMP_HEADER.pack(kind, 0, 0, ident, sequence) + data)
        except OSError:
            self._refuse("host", packet)

    def target(self, address: bytes) -> tuple[str, int] | tuple[str, int, int, int]:
        return self._stack.reach.targets(address, 0)[0]

    def answer(self, source: bytes, destination: bytes, ident: int, sequence: int,
               data: bytes) -> None:
        v6 = len(source) == 16
        message = wire.icmp(source, destination, wire.ECHO_REPLY6 if v6 else wire.ECHO_REPLY, 0,
                            ident, sequence, data)
        self._stack.send_ip(source, destination, ICMPV6 if v6 else ICMP, message)

    def tell(self, why: str, src: bytes, dst: bytes, payload: bytes) -> None:
        """Tell `src` about its message to `dst`, which began with `payload`."""
        proto = ICMPV6 if len(src) == 16 else ICMP
        self._stack.unreachable(why, dst, src, wire.ip(src, dst, proto, len(payload)) + payload)

    def _refuse(self, why: str, packet: Packet) -> None:
        self.tell(why, packet.src, packet.dst, bytes(packet.payload[:64]))

    def _sweep(self) -> None:
        """Forget pings that have ended, and the oldest where there are too many."""
        now = self.loop.now
        for key, ping in list(self._pings.items()):
            if now - ping.seen > _SECONDS or len(self._pings) >= _MOST:
                del self._pings[key]
                self.loop.close(ping.socket)
