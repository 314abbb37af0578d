"""All TCP connections of a network: who gets a new one, what they share, and how they end.

What an attacker inside can make us hold is bounded by the constants below, for all connections
together: connections, those not open yet (the oldest gives way, so a flood does not keep others
out), buffers of data in flight, bytes that wait for a slow socket, remains in TIME_WAIT.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from socket import SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM

from slirp.loop import COMING, EVERY
from slirp.tcp import (
    CLOSED,
    CONNECTING,
    MASK,
    OPEN,
    SCALE,
    SYN_RECEIVED,
    SYN_SENT,
    Connection,
)
from slirp.wire import ACK, FIN, RST, SYN, TCP, ip, tcp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from slirp.rate import Bucket
    from slirp.reach import Address
    from slirp.sending import Sending
    from slirp.stack import Stack

# Not open yet, at one time.
_OPENING = 1024
# Bytes for sockets that are slow, of all connections.
_HELD = 64 << 20
# Buffers of 64 KiB: with data in flight, and kept for the next.
_BUFFERS, _KEPT = 1024, 16
BUFFER = 65536
# RFC 9293 3.4.1 has four minutes for a network in which packets stray; here they cannot.
_TIME_WAIT, _WAITING = 30.0, 8192
_SWEEP = 30.0
_PATIENCE = 0.001
# Without a word from inside: ask from IDLE on, at each sweep, until DEAD.
IDLE, DEAD = 300.0, 480.0

_head = struct.Struct("!HHIIHH").unpack_from
_RESET = struct.pack("ii", 1, 0)        # SO_LINGER: close(2) sends a RST

_HERE = ("127.0.0.1", "::1")
_STREAM = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC
# What the peer is told: by ICMP, or by silence where its next try may succeed.
_UNREACHABLE = {errno.ENETUNREACH: "net", errno.EHOSTUNREACH: "host", errno.EINVAL: "host",
                errno.EACCES: "prohibited", errno.EPERM: "prohibited", errno.ENETDOWN: "net",
                errno.EHOSTDOWN: "host", errno.EAFNOSUPPORT: "net"}


class Connections:
    """`random` gives bytes that nobody can guess."""

    def __init__(self, stack: Stack, most: int,
                 random: Callable[[int], bytes] = os.urandom) -> None:
        self.loop = stack.loop
        self.mtu = stack.mtu
        self.send = stack.device.send
        self.prefix = stack.prefix
        self._secret = random(16)
        self.held = 0
        # Limits of what leaves the inside and of what comes to it.
        self.up: Bucket | None = None
        self.down: Bucket | None = None
        self.table: dict[bytes, Connection] = {}
        self._stack = stack
        self._most = most
        self._opening: dict[bytes, Connection] = {}
        self._touched: list[Connection] = []
        self._patient: list[Connection] = []
        self._patience_set = False
        self._waiting: dict[bytes, tuple[int, int, float]] = {}
        self._buffers: list[bytearray] = []
        self._lent = 0
        self._hungry: list[Sending] = []
        self.loop.at(self.loop.now + _SWEEP, self._sweep)

    # ---- segments in ----------------------------------------------------------------------------

    def receive(self, view: memoryview, key: bytes, at: int, end: int) -> None:
        """A segment in view[at:end]; `key` is source and destination address, then both ports."""
        if end - at < 20:
            return
        _, _, seq, ack, word, window = _head(view, at)
        start = at + (word >> 10 & 0x3C)
        if start < at + 20 or start > end:
            return
        connection = self.table.get(key)
        if connection is None:
            self._stranger(key, seq, ack, word & 0x1F, window, view[at + 20:start], end - start)
            return
        if (word & (SYN | ACK) == SYN and connection.state != OPEN
                and seq + 1 & MASK != connection.rcv_nxt & MASK):
            self.broken(connection)     # the peer has given up, and begins anew
            self._open(key, seq, window, view[at + 20:start])
            return
        connection.segment(seq, ack, word & 0x1F, window, view[start:end], view[at + 20:start])

    def flush(self) -> None:
        """Send the acknowledgments that the packets of this turn made due; that of less than two
        segments after a moment, as an answer may come that carries it (RFC 9293 3.8.6.3)."""
        for connection in self._touched:
            if connection.ack_due and connection.state != CLOSED:
                if connection.rcv_nxt - connection.acked < 2 * connection.mss:
                    self._patient.append(connection)
                else:
                    connection.acknowledge()
        self._touched.clear()
        if self._patient and not self._patience_set:
            self._patience_set = True
            self.loop.at(self.loop.now + _PATIENCE, self._patience_over)

    def _patience_over(self) -> None:
        self._patience_set = False
        patient, self._patient = self._patient, []
        for connection in patient:
            if connection.ack_due and connection.state != CLOSED:
                connection.acknowledge()

    def acknowledge_soon(self, connection: Connection) -> None:
        if not connection.ack_due:
            connection.ack_due = True
            self._touched.append(connection)

    def _stranger(self, key: bytes, seq: int, ack: int, flags: int, window: int,
                  options: memoryview, size: int) -> None:
        """A segment of no connection."""
        if flags & RST:
            return
        remains = self._waiting.get(key)
        opens = flags & (SYN | ACK | FIN) == SYN
        if remains is not None:
            rcv_nxt, snd_nxt, _ = remains
            newer = (seq - rcv_nxt) & MASK < 0x80000000
            if not (opens and newer):           # RFC 9293 3.10.7.4, TIME-WAIT
                self._answer(key, ACK, snd_nxt, rcv_nxt)
                return
            del self._waiting[key]
        if opens:
            self._open(key, seq, window, options)
        elif flags & ACK:
            self._answer(key, RST, ack, 0)
        else:
            self._answer(key, RST | ACK, 0, seq + size + (flags & FIN) + (flags >> 1 & 1))

    def _answer(self, key: bytes, flags: int, seq: int, ack: int) -> None:
        (src, sport), (dst, dport) = ends(key)
        self._stack.send_ip(dst, src, TCP, tcp(dst, src, dport, sport, seq, ack, flags, 0))

    def initial(self, key: bytes) -> int:
        """The first sequence number of a connection (RFC 6528): none outside can guess it, and of
        the same ends each is beyond the last, so that the peer's TIME_WAIT takes it for a new
        one. The interpreter's hash of bytes is SipHash."""
        ticks = int(self.loop.now * 15_625_000)         # of 64 ns, as Linux has it
        return (hash(self._secret + key) + ticks) & MASK

    # ---- opening --------------------------------------------------------------------------------

    def _open(self, key: bytes, seq: int, window: int, options: memoryview) -> None:
        """A SYN: dial outside."""
        if len(self.table) >= self._most:
            return                      # the peer tries again
        peer, remote = ends(key)
        targets = self._stack.targets("tcp", peer, remote)
        if not targets:
            if remote[0] in self._stack.reach.ours:
                self._answer(key, RST | ACK, 0, seq + 1)
            else:
                self._stack.unreachable("prohibited", remote[0], peer[0],
                                        _quoted(peer, remote, seq))
            return
        if len(self._opening) >= _OPENING:
            self.broken(next(iter(self._opening.values())))
        try:
            one, done = self._dial(targets)
        except OSError as error:
            self._failed(error.errno or 0, key, seq)
            return
        connection = Connection(self, key, one, peer, remote, CONNECTING)
        connection.targets = targets
        connection.irs = seq
        connection.rcv_nxt = connection.rcv_edge = seq + 1
        connection.agree(options)
        connection.snd_wnd = window
        self.table[key] = self._opening[key] = connection
        self._watch(connection, done)

    def _dial(self, targets: list[Address]) -> tuple[socket.socket, bool]:
        """A socket on its way to the first of the targets that does not fail at once, or, True,
        there already; what is left in the list are those after it. Raises the last OSError."""
        while True:
            target = targets.pop(0)
            kind = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
            one = socket.socket(kind, _STREAM)
            try:
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                outbound = self._stack.reach.outbound.get(kind)
                if outbound:
                    one.bind((outbound, 0))
                code = one.connect_ex(target)
                if code == errno.EINPROGRESS and target[0] in _HERE:
                    # The answer came while the call held the socket: asked again, it says so.
                    code = one.connect_ex(target)
                    code = errno.EINPROGRESS if code == errno.EALREADY else code
                if code not in (0, errno.EINPROGRESS):
                    raise OSError(code, os.strerror(code))
                return one, not code
            except OSError:
                one.close()
                if not targets:
                    raise

    def connected(self, connection: Connection) -> None:
        """The outside has answered."""
        code = connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not code:
            self._answered(connection)
            return
        seq = connection.rcv_nxt - 1
        if not connection.targets:
            self.broken(connection)
            self._failed(code, connection.key, seq)
            return
        self.loop.close(connection.socket)
        try:
            connection.readable = connection.hung_up = False
            connection.socket, done = self._dial(connection.targets)
        except OSError as error:
            self.broken(connection)
            self._failed(error.errno or 0, connection.key, seq)
            return
        self._watch(connection, done)

    def _watch(self, connection: Connection, done: bool) -> None:
        """The connection's new socket; `done`: the outside has answered already."""
        connection.watches_out = not done
        self.loop.add(connection.socket.fileno(), connection.event, COMING if done else EVERY)
        if done:
            self._answered(connection)

    def _answered(self, connection: Connection) -> None:
        connection.state = SYN_RECEIVED
        connection.handshake()

    def _failed(self, code: int, key: bytes, seq: int) -> None:
        """Tell the peer why nobody answers."""
        peer, remote = ends(key)
        # A reset: it was accepted, and that at once taken back, before we could look.
        refused = code in (errno.ECONNREFUSED, errno.ECONNRESET)
        self._stack.journal.add("refused" if refused else "unreachable", "tcp", peer, remote)
        if refused:
            self._answer(key, RST | ACK, 0, seq + 1)
        elif code in _UNREACHABLE:
            self._stack.unreachable(_UNREACHABLE[code], remote[0], peer[0],
                                    _quoted(peer, remote, seq))

    def accept(self, one: socket.socket, client: tuple[bytes, int],
               service: tuple[bytes, int]) -> bool:
        """A client of a published port, whose socket this is: connect to the service inside, as the
        client. False where that is not possible; the socket is the caller's then."""
        key = join(service, client)
        if len(self.table) >= self._most or key in self.table:
            return False
        self._waiting.pop(key, None)
        connection = Connection(self, key, one, service, client, SYN_SENT)
        connection.inbound = connection.sack = True
        connection.rcv_shift, connection.window = SCALE, connection.most_waiting()
        self.table[key] = self._opening[key] = connection
        self.loop.add(one.fileno(), connection.event, COMING)
        connection.handshake()
        return True

    def opened(self, connection: Connection) -> None:
        self._opening.pop(connection.key, None)
        connection.began = self.loop.now

    def enforce(self) -> None:
        """Reset what the rules allow no longer. Published ports are no concern of theirs."""
        for connection in list(self.table.values()):
            if not connection.inbound and not self._stack.allows("tcp", connection.remote):
                connection.abort()

    def told(self, key: bytes, code: str, mtu: int) -> None:
        """An ICMP error from inside about a segment of ours; `key` is the connection's."""
        connection = self.table.get(key)
        if connection is None:
            return
        if code == "too big":
            connection.smaller(mtu)
        elif connection.state == SYN_SENT:
            connection.abort(tell_peer=False)

    # ---- ends -----------------------------------------------------------------------------------

    def ended(self, connection: Sending) -> None:
        """Both directions were closed and acknowledged."""
        if connection.fin_first:
            while len(self._waiting) >= _WAITING:
                del self._waiting[next(iter(self._waiting))]
            self._waiting[connection.key] = (connection.rcv_nxt & MASK, connection.snd_nxt & MASK,
                                             self.loop.now + _TIME_WAIT)
        self._remove(connection)

    def broken(self, connection: Sending) -> None:
        """Reset the outside, and forget the connection."""
        try:
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        except OSError:
            pass
        self._remove(connection)

    def _remove(self, connection: Sending) -> None:
        self.table.pop(connection.key, None)
        self._opening.pop(connection.key, None)
        if connection.began:
            self._stack.journal.add("closed", "tcp", *connection.account(self.loop.now))
        connection.dead()
        self.loop.close(connection.socket)

    def _sweep(self) -> None:
        now = self.loop.now
        for connection in list(self.table.values()):
            silent = now - connection.heard
            if connection.state == OPEN and silent > IDLE:
                if silent > DEAD:
                    connection.abort()
                    continue
                # The peer's own probes are answered by us, so we watch the outside for it.
                connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                connection.probe()
        while self._waiting:
            key = next(iter(self._waiting))
            if self._waiting[key][2] > now:
                break
            del self._waiting[key]
        self.loop.at(now + _SWEEP, self._sweep)

    # ---- memory ---------------------------------------------------------------------------------

    def room_for(self, size: int) -> bool:
        return self.held + size <= _HELD

    def take(self, connection: Sending) -> bytearray | None:
        """A buffer for data in flight. None: the connection is called when there is one."""
        if self._lent >= _BUFFERS:
            if not connection.waits:
                connection.waits = True
                self._hungry.append(connection)
            return None
        self._lent += 1
        return self._buffers.pop() if self._buffers else bytearray(BUFFER)

    def give(self, buffer: bytearray) -> None:
        self._lent -= 1
        if len(self._buffers) < _KEPT:
            self._buffers.append(buffer)
        if self._hungry:
            hungry, self._hungry = self._hungry, []
            for connection in hungry:
                connection.waits = False
                self.loop.soon(connection.pull)


def ends(key: bytes) -> tuple[tuple[bytes, int], tuple[bytes, int]]:
    """Source and destination of a key."""
    size = (len(key) - 4) // 2
    ports = 2 * size
    return ((key[:size], key[ports] << 8 | key[ports + 1]),
            (key[size:ports], key[ports + 2] << 8 | key[ports + 3]))


def join(source: tuple[bytes, int], destination: tuple[bytes, int]) -> bytes:
    return (source[0] + destination[0] + source[1].to_bytes(2, "big")
            + destination[1].to_bytes(2, "big"))


def _quoted(peer: tuple[bytes, int], remote: tuple[bytes, int], seq: int) -> bytes:
    """The beginning of the peer's SYN, for an ICMP error about it."""
    segment = tcp(peer[0], remote[0], peer[1], remote[1], seq, 0, SYN, 0)
    return ip(peer[0], remote[0], TCP, len(segment)) + segment
