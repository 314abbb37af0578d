"""UDP: a socket outside for each pair of ends inside.

Each flow's socket is connected, so that only the one who was asked can answer, and an ICMP error
from outside comes back to the sender. Batches cross whole where both kernels can: a packet of
datagrams of one size (USO) leaves by one sendmsg with UDP_SEGMENT, and what UDP_GRO gathers outside
enters by one write.

A flow without an answer is kept for UNANSWERED seconds, else for ANSWERED; when there are too many,
those that were silent for longest go.
"""

from __future__ import annotations

import errno
import socket
import struct
from socket import SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK

from slirp import wire
from slirp.connections import ends
from slirp.loop import IN
from slirp.wire import UDP, Packet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from slirp.rate import Bucket
    from slirp.stack import Stack

UNANSWERED, ANSWERED = 30.0, 180.0
_SWEEP = 10.0
_BATCH = 32

# <linux/udp.h>
_UDP_SEGMENT, _UDP_GRO = 103, 104
_SEGMENTS = 64          # UDP_MAX_SEGMENTS of the oldest kernels
_DATAGRAM = SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC

_WHY = {errno.ECONNREFUSED: "port", errno.EHOSTUNREACH: "host", errno.ENETUNREACH: "net",
        errno.EACCES: "prohibited", errno.EPERM: "prohibited", errno.ENETDOWN: "net",
        errno.EHOSTDOWN: "host", errno.EINVAL: "host"}


class Flow:
    __slots__ = ("answered", "began", "key", "peer", "received", "remote", "seen", "sent", "socket",
                 "table")

    def __init__(self, table: Datagrams, key: bytes, one: socket.socket, now: float) -> None:
        self.table = table
        self.key = key
        self.socket = one
        self.peer, self.remote = ends(key)
        self.began = self.seen = now
        self.answered = False
        self.sent = self.received = 0

    def event(self, _events: int) -> None:
        """The loop's handler of the socket."""
        for _ in range(_BATCH):
            try:
                data, ancillary, _, _ = self.socket.recvmsg(65535, 32)
            except BlockingIOError:
                return
            except OSError as error:
                self.table.failed(self, error)
                return
            self.seen = self.table.loop.now
            self.answered = True
            self.received += len(data)
            self.table.send(self.remote, self.peer, data, gathered(ancillary))


class Datagrams:
    """All UDP of a network. `inbound` has the flows of published ports: key to what takes data."""

    def __init__(self, stack: Stack, most: int) -> None:
        self.loop = stack.loop
        self.table: dict[bytes, Flow] = {}
        self.inbound: dict[bytes, Callable[[memoryview], None]] = {}
        self._stack = stack
        self._most = most
        self.loop.at(self.loop.now + _SWEEP, self._sweep)

    def receive(self, packet: Packet, segment: int) -> None:
        """One packet from inside; `segment`: it holds datagrams of this size, 0: one."""
        if packet.end - packet.start < 8:
            return
        data = packet.payload[8:]
        if not _passes(self._stack.tcp.up, len(data)):
            return
        key = packet.src + packet.dst + bytes(packet.payload[:4])
        taker = self.inbound.get(key)
        if taker is not None:
            for at in range(0, len(data), segment or len(data) or 1):
                taker(data[at:at + segment] if segment else data)
            if not data:
                taker(data)
            return
        flow = self.table.get(key) or self._open(key)
        if flow is None:
            return
        flow.seen = self.loop.now
        flow.sent += len(data)
        if segment and len(data) > segment:
            self._batch(flow, data, segment)
        else:
            self._one(flow, data)

    def _one(self, flow: Flow, data: memoryview) -> None:
        try:
            flow.socket.send(data)
        except BlockingIOError:
            pass                        # as on any wire that is full
        except OSError as error:
            # What an earlier datagram met, and this one was not sent: it gets another try.
            self.failed(flow, error)
            try:
                flow.socket.send(data)
            except OSError:
                pass

    def _batch(self, flow: Flow, data: memoryview, segment: int) -> None:
        """Datagrams of one size, by one call where the way out takes that size."""
        size = segment * _SEGMENTS
        option = [(UDP, _UDP_SEGMENT, struct.pack("=H", segment))]
        for at in range(0, len(data), size):
            try:
                flow.socket.sendmsg([data[at:at + size]], option)
            except BlockingIOError:
                pass
            except OSError:
                for one in range(at, min(at + size, len(data)), segment):
                    self._one(flow, data[one:one + segment])

    def _open(self, key: bytes) -> Flow | None:
        peer, remote = ends(key)
        if remote[1] == 0:
            return None
        targets = self._stack.targets("udp", peer, remote)
        if not targets:
            self._tell("port" if remote[0] in self._stack.reach.ours else "prohibited", key)
            return None
        if len(self.table) >= self._most:
            self._make_room()
        target = targets[0]
        kind = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
        try:
            one = socket.socket(kind, _DATAGRAM)
        except OSError:
            self._make_room()           # no descriptors
            return None
        try:
            outbound = self._stack.reach.outbound.get(kind)
            if outbound:
                one.bind((outbound, 0))
            one.connect(target)
            if self._stack.device.segments:
                one.setsockopt(UDP, _UDP_GRO, 1)
            flow = Flow(self, key, one, self.loop.now)
            self.loop.add(one.fileno(), flow.event, IN)
        except OSError as error:
            one.close()
            self._tell(_WHY.get(error.errno or 0, "host"), key)
            return None
        self.table[key] = flow
        return flow

    def send(self, source: tuple[bytes, int], destination: tuple[bytes, int],
             data: bytes | memoryview, segment: int = 0) -> None:
        """Into the network; `segment`: the data is many datagrams of this size."""
        (src, sport), (dst, dport) = source, destination
        if not _passes(self._stack.tcp.down, len(data)):
            return
        if segment and len(data) > segment:
            if self._stack.device.segments and segment <= self._stack.largest(src) - 8:
                self._stack.send_udp(src, dst, sport, dport, data, segment)
                return
            for at in range(0, len(data), segment):
                self.send(source, destination, data[at:at + segment])
            return
        self._stack.send_udp(src, dst, sport, dport, data)

    def failed(self, flow: Flow, error: OSError) -> None:
        """Tell the sender what its datagram met."""
        why = _WHY.get(error.errno or 0)
        if why:
            self._tell(why, flow.key)

    def _tell(self, why: str, key: bytes) -> None:
        peer, remote = ends(key)
        quoted = (wire.ip(peer[0], remote[0], UDP, 8)
                  + wire.UDP_HEADER.pack(peer[1], remote[1], 8, 0))
        self._stack.unreachable(why, remote[0], peer[0], quoted)

    def _make_room(self) -> None:
        """Close the sixteenth part that was silent for longest."""
        oldest = sorted(self.table.values(), key=lambda flow: flow.seen)
        for flow in oldest[:len(oldest) // 16 + 1]:
            self._close(flow)

    def _close(self, flow: Flow) -> None:
        del self.table[flow.key]
        self._stack.journal.add("closed", "udp", flow.peer, flow.remote, flow.sent, flow.received,
                                flow.seen - flow.began)
        self.loop.close(flow.socket)

    def enforce(self) -> None:
        """Close what the rules allow no longer."""
        for flow in list(self.table.values()):
            if not self._stack.allows("udp", flow.remote):
                self._close(flow)

    def _sweep(self) -> None:
        now = self.loop.now
        for flow in list(self.table.values()):
            if now - flow.seen > (ANSWERED if flow.answered else UNANSWERED):
                self._close(flow)
        self.loop.at(now + _SWEEP, self._sweep)


def _passes(limit: Bucket | None, size: int) -> bool:
    """Is there room in the limit? Then it is taken."""
    if limit is None:
        return True
    if limit.room() < size:
        return False
    limit.spend(size)
    return True


def gathered(ancillary: list[tuple[int, int, bytes]]) -> int:
    """The size of each datagram where UDP_GRO gave several at once, else 0."""
    for level, kind, value in ancillary:
        if level == UDP and kind == _UDP_GRO:
            size: int = struct.unpack_from("=i", value)[0]
            return size
    return 0
