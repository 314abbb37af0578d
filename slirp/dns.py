"""DNS at an address of ours: each query goes to the host's resolvers as they are configured now.

resolv.conf is read for every query, so a VPN that comes up is followed at once. A query goes to the
first resolver; to the next when that one refuses, fails (SERVFAIL) or is silent for PATIENCE
seconds; when none is left, the answer is SERVFAIL. The last SERVFAIL that a resolver gave is passed
on as it is. Over TCP a query is a connection like any other, to the first resolver that accepts.
"""

from __future__ import annotations

import socket
from functools import partial
from socket import SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK

from slirp.connections import ends
from slirp.loop import IN
from slirp.wire import Packet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slirp.reach import Address
    from slirp.stack import Stack

PATIENCE = 2.5
_MOST = 1024            # queries without an answer
_SERVFAIL = 2


class Query:
    """One query on its way."""

    __slots__ = ("answer", "data", "key", "socket", "table", "targets", "tries")

    def __init__(self, table: Names, key: bytes, data: bytes, targets: list[Address]) -> None:
        self.table = table
        self.key = key
        self.data = data
        self.targets = targets
        self.socket: socket.socket | None = None
        self.answer = b""
        self.tries = 0

    def ask(self) -> None:
        """The next resolver."""
        loop = self.table.loop
        if self.socket is not None:
            loop.close(self.socket)
            self.socket = None
        while self.targets:
            target = self.targets.pop(0)
            one = None
            try:
                one = socket.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET,
                                    SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC)
                one.connect(target)
                one.send(self.data)
                loop.add(one.fileno(), self.event, IN)
            except OSError:
                if one is not None:
                    one.close()
                continue
            self.socket = one
            self.tries += 1
            loop.at(loop.now + PATIENCE, partial(self._late, self.tries))
            return
        self.table.done(self, self.answer or _failure(self.data))

    def event(self, _events: int) -> None:
        """The loop's handler of the socket."""
        if self.socket is None:
            return
        try:
            data = self.socket.recv(65535)
        except BlockingIOError:
            return
        except OSError:
            self.ask()                  # refused
            return
        if len(data) < 12 or data[:2] != self.data[:2] or not data[2] & 0x80:
            return                      # of nothing that was asked
        if data[3] & 15 == _SERVFAIL and self.targets:
            self.answer = data
            self.ask()
            return
        self.table.done(self, data)

    def _late(self, tries: int) -> None:
        if self.tries == tries and self.socket is not None:
            self.ask()


class Names:
    def __init__(self, stack: Stack) -> None:
        self.loop = stack.loop
        self._stack = stack
        self._queries: dict[bytes, Query] = {}

    def receive(self, packet: Packet) -> None:
        """A query from inside."""
        data = bytes(packet.payload[8:])
        if len(data) < 12:
            return
        address, port = packet.dst, packet.ports[1]
        key = packet.src + address + bytes(packet.payload[:4]) + data[:2]
        if key in self._queries:
            return                      # impatient; the answer is on its way
        if len(self._queries) >= _MOST:
            self._drop(next(iter(self._queries.values())))
        query = self._queries[key] = Query(self, key, data,
                                           self._stack.reach.targets(address, port))
        query.ask()

    def done(self, query: Query, answer: bytes) -> None:
        peer, us = ends(query.key[:-2])
        self._drop(query)
        self._stack.learned.learn(answer)
        self._stack.udp.send(us, peer, answer)

    def _drop(self, query: Query) -> None:
        del self._queries[query.key]
        if query.socket is not None:
            self.loop.close(query.socket)
            query.socket = None


def _failure(query: bytes) -> bytes:
    """SERVFAIL, without records but the question (RFC 1035 4.1.1)."""
    flags = 0x8000 | (int.from_bytes(query[2:4], "big") & 0x7910) | 0x0080 | _SERVFAIL
    return (query[:2] + flags.to_bytes(2, "big") + query[4:6] + bytes(6)
            + _question(query))


def _question(query: bytes) -> bytes:
    """The first question, as it was asked; nothing where it is malformed."""
    at = 12
    while at < len(query) and query[at]:
        if query[at] > 63:
            return b""
        at += 1 + query[at]
    return query[12:at + 5] if at + 5 <= len(query) else b""
