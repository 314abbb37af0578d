"""Published ports: what arrives at a port of the host goes to a service inside, as from its client.

No socket is needed inside, and no translation of addresses: for a client 198.51.100.7:40000 we are
198.51.100.7:40000 towards the service, with our own TCP, or with UDP packets as they are; what the
service sends there comes to us by the network's default route. Where the client's address has no
meaning inside (loopback, link-local, the inside's own networks, the other version of IP), the
gateway's stands for it.

Answers to UDP leave from the address that the client had sent to (IP_PKTINFO), which matters where
the host has several.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from socket import SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, SOCK_STREAM

from slirp.connections import join
from slirp.loop import IN
from slirp.options import SlirpError
from slirp.reach import family, pack, show
from slirp.udp import ANSWERED, gathered
from slirp.wire import UDP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from slirp.stack import Stack

_BATCH = 32
_BACKLOG = 4096
_CLIENTS = 4096         # of one UDP port
_SWEEP = 30.0
_RESET = struct.pack("ii", 1, 0)
# Ports tried for a client whose own cannot be kept.
_TRIES = 64

# <linux/in.h>, <linux/in6.h>, <linux/udp.h>
_IP_PKTINFO, _IPV6_RECVPKTINFO, _IPV6_PKTINFO, _UDP_GRO = 8, 49, 50, 104
_PKTINFO, _PKTINFO6 = struct.Struct("=i4s4s"), struct.Struct("=16si")

PROTOCOLS = ("tcp", "udp")


class Forward:
    """One published port: `host` and `guest` are (address, port). Raises OSError."""

    kind = 0
    name = ""

    def __init__(self, forwards: Forwards, host: tuple[bytes, int],
                 guest: tuple[bytes, int]) -> None:
        self.forwards = forwards
        self.guest = guest
        version = family(host[0])
        self.socket = socket.socket(version, self.kind | SOCK_NONBLOCK | SOCK_CLOEXEC)
        try:
            if version == socket.AF_INET6:
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self.prepare(version)
            self.socket.bind((show(host[0]), host[1]))
            self.host = host[0], int(self.socket.getsockname()[1])
            self.begin()
        except OSError:
            self.socket.close()
            raise

    def prepare(self, version: int) -> None:
        """Options before bind(2)."""

    def begin(self) -> None:
        """After it."""
        self.forwards.loop.add(self.socket.fileno(), self.event, IN)

    def event(self, events: int) -> None:
        """The loop's handler of the socket."""

    def close(self) -> None:
        self.forwards.loop.close(self.socket)

    def faces(self, address: bytes, port: int) -> list[tuple[bytes, int]]:
        """What a client may be shown inside as, the best first."""
        reach = self.forwards.stack.reach
        found = []
        if len(address) == len(self.guest[0]) and reach.client(address):
            found.append((address, port))
        gateway = reach.gateways.get(len(self.guest[0]))
        if gateway is not None:
            found.append((gateway, port))
            random = os.urandom(2 * _TRIES)
            found += [(gateway, 1024 + int.from_bytes(random[i:i + 2], "big") % 64512)
                      for i in range(0, len(random), 2)]
        return found


class TcpForward(Forward):
    kind = SOCK_STREAM
    name = "tcp"

    def prepare(self, version: int) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

    def begin(self) -> None:
        self.socket.listen(_BACKLOG)
        super().begin()

    def event(self, events: int) -> None:
        for _ in range(_BATCH):
            try:
                one, address = self.socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._pause()
                    return
                continue                # that client has gone
            one.setblocking(False)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for face in self.faces(pack(address[0].partition("%")[0]), address[1]):
                if self.forwards.stack.tcp.accept(one, face, self.guest):
                    break
            else:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                one.close()

    def _pause(self) -> None:
        """There are no descriptors: look again in a while, not at once for ever."""
        loop = self.forwards.loop
        loop.forget(self.socket.fileno())
        loop.at(loop.now + 0.5, self._resume)

    def _resume(self) -> None:
        if self.socket.fileno() >= 0 and self in self.forwards.table.values():
            self.forwards.loop.add(self.socket.fileno(), self.event, IN)


class Client:
    """One client of a UDP port. `taker` gets what the service sends it."""

    __slots__ = ("ancillary", "face", "port", "seen", "sender")

    def __init__(self, port: UdpForward, sender: Any, face: tuple[bytes, int],
                 ancillary: list[tuple[int, int, bytes]]) -> None:
        self.port = port
        self.sender = sender
        self.face = face
        self.ancillary = ancillary
        self.seen = port.forwards.loop.now

    def taker(self, data: memoryview) -> None:
        self.seen = self.port.forwards.loop.now
        try:
            self.port.socket.sendmsg([data], self.ancillary, 0, self.sender)
        except OSError:
            pass                        # lost, as a datagram may be


class UdpForward(Forward):
    kind = SOCK_DGRAM
    name = "udp"

    def prepare(self, version: int) -> None:
        if version == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        else:
            self.socket.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        if self.forwards.stack.device.segments:
            self.socket.setsockopt(UDP, _UDP_GRO, 1)

    def begin(self) -> None:
        self.clients: dict[Any, Client] = {}
        super().begin()
        self.forwards.loop.at(self.forwards.loop.now + _SWEEP, self._sweep)

    def event(self, events: int) -> None:
        for _ in range(_BATCH):
            try:
                data, ancillary, _, sender = self.socket.recvmsg(65535, 128)
            except BlockingIOError:
                return
            except OSError:
                continue                # an ICMP error about an answer of ours
            client = self.clients.get(sender)
            answers = _from_where(ancillary)
            if client is None:
                client = self._open(sender, answers)
                if client is None:
                    continue
            client.seen = self.forwards.loop.now
            client.ancillary = answers
            self.forwards.stack.udp.send(client.face, self.guest, data, gathered(ancillary))

    def _open(self, sender: Any, answers: list[tuple[int, int, bytes]]) -> Client | None:
        inbound = self.forwards.stack.udp.inbound
        while len(self.clients) >= _CLIENTS:
            self._forget(next(iter(self.clients)))
        for face in self.faces(pack(sender[0].partition("%")[0]), sender[1]):
            key = join(self.guest, face)
            if key not in inbound:
                client = self.clients[sender] = Client(self, sender, face, answers)
                inbound[key] = client.taker
                return client
        return None

    def _forget(self, sender: Any) -> None:
        client = self.clients.pop(sender)
        del self.forwards.stack.udp.inbound[join(self.guest, client.face)]

    def _sweep(self) -> None:
        if self not in self.forwards.table.values():
            return
        now = self.forwards.loop.now
        for sender, client in list(self.clients.items()):
            if now - client.seen > ANSWERED:
                self._forget(sender)
        self.forwards.loop.at(now + _SWEEP, self._sweep)

    def close(self) -> None:
        for sender in list(self.clients):
            self._forget(sender)
        super().close()


class Forwards:
    """The published ports of a network, by number."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.loop = stack.loop
        self.table: dict[int, Forward] = {}
        self._number = 0

    def add(self, proto: str, host: tuple[str, int], guest: tuple[str, int]) -> int:
        """Publish; port 0 of the host is any that is free. Returns its number.

        Raises SlirpError for what makes no sense, OSError with the address where it is taken or
        not ours to take.
        """
        if proto not in PROTOCOLS:
            raise SlirpError(f"protocol {proto}: must be tcp or udp")
        for address, port in (host, guest):
            if not 0 <= port <= 65535:
                raise SlirpError(f"port {port} of {address}: must be from 0 to 65535")
        if not guest[1]:
            raise SlirpError(f"port 0 of {guest[0]}: a service has a number")
        kind = TcpForward if proto == "tcp" else UdpForward
        try:
            made = kind(self, (pack(host[0]), host[1]), (pack(guest[0]), guest[1]))
        except OSError as error:
            code = error.errno or 0
            raise OSError(code, os.strerror(code), f"{host[0]}:{host[1]}/{proto}") from None
        self._number += 1
        self.table[self._number] = made
        return self._number

    def remove(self, number: int) -> None:
        """Stop taking new clients; connections that are open stay. Raises SlirpError."""
        found = self.table.pop(number, None)
        if found is None:
            raise SlirpError(f"no published port has the number {number}")
        found.close()


def _from_where(ancillary: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """What makes an answer leave from the address that was sent to."""
    for level, kind, value in ancillary:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
            _, local, _ = _PKTINFO.unpack_from(value)
            return [(level, kind, _PKTINFO.pack(0, local, bytes(4)))]
        if level == socket.IPPROTO_IPV6 and kind == _IPV6_PKTINFO:
            return [(level, kind, value[:_PKTINFO6.size])]
    return []
