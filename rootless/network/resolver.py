"""The name server of a network: names of containers, and the machine's resolvers for the rest.

A container asks the address of its gateway. Who asks is told by the address that the question
comes from; the bridge drops packets with another's (rp_filter). Answered are the names of
containers that share a network with the one that asks; `host.containers.internal` and
`host.docker.internal`; and their addresses in reverse. Every other question is passed on, from
within the network's namespace (`ways`): to the uplink, which asks the machine's resolvers of that
moment and learns which names the addresses belong to, or to those that the container was given by
`--dns`. Networks without a way out pass nothing on.

The answer to a question that was passed on must come from the server that was asked and repeat the
question.
"""

from __future__ import annotations

import _socket

from rootless.network import address, dns
from rootless.network.loop import READ, WRITE, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rootless.network.loop import Timer
    from rootless.network.ways import Direct

    Reply = Callable[[bytes], None]

HOST_NAMES = frozenset(("host.containers.internal", "host.docker.internal"))
PATIENCE = 4.0          # seconds for one server, before the next is asked
ROUNDS = 2
MOST = 512              # questions under way at once
MOST_STREAMS = 64
STREAM_PATIENCE = 20.0


class Answers:
    """What is known: asked for each question, as containers come and go."""

    def __init__(self, find: Callable[[bytes, str], list[bytes] | None],
                 name_of: Callable[[bytes, bytes], str | None],
                 servers: Callable[[bytes], list[str]]) -> None:
        """`find(who, name)`: the addresses of a name of ours, None for another's. `name_of(who,
        address)`: its name, "" for an address of ours without one, None for another's.
        `servers(who)`: who is asked for the rest."""
        self.find = find
        self.name_of = name_of
        self.servers = servers

    def local(self, query: dns.Query, who: bytes, limit: int) -> bytes | None:
        """The answer; None where others must be asked."""
        if query.flags & dns.OPCODE:
            return dns.answer(query, dns.NOTIMP, [])
        found = self.find(who, query.name)
        if found is not None:
            size = {dns.A: 4, dns.AAAA: 16}.get(query.kind, 0)
            kind = query.kind
            return dns.answer(query, dns.NOERROR,
                              [(kind, a) for a in found if len(a) == size], limit=limit)
        back = dns.reverse(query.name)
        if back is not None:
            name = self.name_of(who, back)
            if name is not None:
                records = [(dns.PTR, dns.name_data(name))] if name and query.kind == dns.PTR else []
                return dns.answer(query, dns.NOERROR if name else dns.NXDOMAIN, records)
        if not self.servers(who):
            return dns.answer(query, dns.NXDOMAIN, [])
        return None


class Resolver:
    """Serves on sockets that the caller has bound in the network's namespace."""

    def __init__(self, loop: Loop, answers: Answers, datagrams: list[_socket.socket],
                 listeners: list[_socket.socket], ways: Direct) -> None:
        """`ways`: to those who are asked for the rest."""
        self.loop = loop
        self.ways = ways
        self.answers = answers
        self.sockets = [*datagrams, *listeners]
        self.asked: set[_Asked] = set()
        self.streams: set[_Stream] = set()
        for sock in datagrams:
            sock.setblocking(False)
            loop.watch(sock.fileno(), self._receiver(sock))
        for sock in listeners:
            sock.setblocking(False)
            loop.watch(sock.fileno(), self._accepter(sock))

    def close(self) -> None:
        for sock in self.sockets:
            self.loop.forget(sock.fileno())
            sock.close()
        for asked in list(self.asked):
            asked.end(b"")
        for stream in list(self.streams):
            stream.close()
        self.ways.close()

    def _receiver(self, sock: _socket.socket) -> Callable[[int], None]:
        def ready(_: int) -> None:
            for _turn in range(64):
                try:
                    data, peer = sock.recvfrom(4096)
                except OSError:
                    return
                who = address.parse(peer[0].partition("%")[0])
                if who is not None:
                    self.ask(data, who, _sender(sock, peer), dns.LARGEST_UDP)
        return ready

    def ask(self, data: bytes, who: bytes, reply: Reply, limit: int) -> None:
        try:
            query = dns.parse(data)
        except ValueError:
            return
        known = self.answers.local(query, who, limit)
        if known is not None:
            reply(known)
        elif limit == dns.LARGEST:
            _Relay(self, query, data, self.answers.servers(who), reply).next()
        elif len(self.asked) < MOST:
            _Asked(self, query, data, self.answers.servers(who), reply).next()
        else:
            reply(dns.answer(query, dns.SERVFAIL, []))

    def _accepter(self, sock: _socket.socket) -> Callable[[int], None]:
        def ready(_: int) -> None:
            try:
                fd, peer = sock._accept()  # type: ignore[attr-defined]
            except OSError:
                return
            client = _socket.socket(fileno=fd)
            who = address.parse(peer[0].partition("%")[0])
            if who is None or len(self.streams) >= MOST_STREAMS:
                client.close()
                return
            _Stream(self, client, who)
        return ready


def _sender(sock: _socket.socket, peer: tuple[str, int]) -> Reply:
    def send(data: bytes) -> None:
        try:
            if data:
                sock.sendto(data, peer)
        except OSError:
            pass        # the container has gone, or takes no more
    return send


class _Asked:
    """A question under way: its socket, and the servers still to be asked."""

    def __init__(self, owner: Resolver, query: dns.Query, data: bytes, servers: list[str],
                 reply: Reply) -> None:
        self.owner = owner
        self.query = query
        self.data = data
        self.left = servers * ROUNDS
        self.reply = reply
        self.sock: _socket.socket | None = None
        self.timer: Timer | None = None
        owner.asked.add(self)

    def next(self) -> None:
        """Ask the next server; with none left the answer is a failure."""
        self._drop()
        while self.left:
            server = self.left.pop(0)
            try:
                self.sock = self.owner.ways.open(server, _socket.SOCK_DGRAM)
                self.sock.send(self.data)
            except OSError:
                self._drop()
                continue
            self.owner.loop.watch(self.sock.fileno(), self._ready)
            self.timer = self.owner.loop.after(PATIENCE, self.next)
            return
        self.end(dns.answer(self.query, dns.SERVFAIL, []))

    def _ready(self, _: int) -> None:
        if self.sock is None:
            return
        try:
            data = self.sock.recv(dns.LARGEST)
        except BlockingIOError:
            return
        except OSError:
            self.next()         # refused: nobody listens there
            return
        if dns.matches(self.query, data):
            self.end(data)

    def end(self, data: bytes) -> None:
        self._drop()
        if self in self.owner.asked:
            self.owner.asked.discard(self)
            self.reply(data)

    def _drop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.sock is not None:
            self.owner.loop.forget(self.sock.fileno())
            self.owner.ways.give_back(self.sock)
            self.sock = None


class _Relay(_Asked):
    """The same over TCP, where the answer is long."""

    def next(self) -> None:
        self._drop()
        self.unsent = len(self.data).to_bytes(2, "big") + self.data
        self.got = b""
        while self.left:
            server = self.left.pop(0)
            try:
                self.sock = self.owner.ways.open(server, _socket.SOCK_STREAM)
            except OSError:
                self._drop()
                continue
            self.owner.loop.watch(self.sock.fileno(), self._ready, WRITE)
            self.timer = self.owner.loop.after(PATIENCE * 2, self.next)
            return
        self.end(dns.answer(self.query, dns.SERVFAIL, []))

    def _ready(self, _: int) -> None:
        if self.sock is None:
            return
        try:
            if self.unsent:
                self.unsent = self.unsent[self.sock.send(self.unsent):]
                if not self.unsent:
                    self.owner.loop.change(self.sock.fileno(), READ)
                return
            data = self.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            self.next()
            return
        self.got += data
        if len(self.got) >= 2 + int.from_bytes(self.got[:2], "big") and len(self.got) > 2:
            whole = self.got[2:2 + int.from_bytes(self.got[:2], "big")]
            if dns.matches(self.query, whole):
                self.end(whole)
                return
            data = b""
        if not data:
            self.next()


class _Stream:
    """A container that asks over TCP: one question after the other (RFC 7766)."""

    def __init__(self, owner: Resolver, sock: _socket.socket, who: bytes) -> None:
        sock.setblocking(False)
        self.owner = owner
        self.sock = sock
        self.who = who
        self.got = b""
        self.unsent = b""
        self.busy = False
        self.open = True
        owner.streams.add(self)
        owner.loop.watch(sock.fileno(), self._ready)
        self.timer = owner.loop.after(STREAM_PATIENCE, self.close)

    def close(self) -> None:
        if self.open:
            self.open = False
            self.timer.cancel()
            self.owner.streams.discard(self)
            self.owner.loop.forget(self.sock.fileno())
            self.sock.close()

    def _ready(self, events: int) -> None:
        try:
            if events & WRITE and self.unsent:
                self._flush()
                return
            data = self.sock.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or len(self.got) > 8192:
            self.close()
            return
        self.got += data
        self._next()

    def _next(self) -> None:
        length = int.from_bytes(self.got[:2], "big")
        if self.busy or len(self.got) < 2 + max(length, 1):
            return
        data, self.got = self.got[2:2 + length], self.got[2 + length:]
        self.busy = True
        self.owner.ask(data, self.who, self._reply, dns.LARGEST)

    def _reply(self, data: bytes) -> None:
        if self.open:
            self.busy = False
            self.unsent += len(data).to_bytes(2, "big") + data
            try:
                self._flush()
            except OSError:
                self.close()
            if self.open:
                self._next()

    def _flush(self) -> None:
        """Raises OSError when the other side is gone."""
        try:
            self.unsent = self.unsent[self.sock.send(self.unsent):]
        except BlockingIOError:
            pass
        self.owner.loop.change(self.sock.fileno(), READ | WRITE if self.unsent else READ)
