"""What a connection sends its peer: data, and again what was lost, no more than there is room for.

See `tcp.py` for the whole. `Sending` has the state of both directions, as every segment tells what
was received; `Connection` there adds what comes from the peer.

RFC 9293 (protocol), 5681 and 6582 (congestion, NewReno), 6298 (timers). The unit of loss is what
was written at once, up to 64 KiB, as a kernel drops it whole; so that is what is repeated at once.
"""

from __future__ import annotations

import struct
from collections import deque

from slirp.reassembly import Reassembly
from slirp.wire import (
    ACK,
    FIN,
    GSO_TCPV4,
    GSO_TCPV6,
    MSS_OPTION,
    PSH,
    RST,
    SACK,
    SACK_PERMITTED,
    SCALE_OPTION,
    SYN,
    TCP,
    TCP_HEADER,
    VNET,
    VNET_NEEDS_CSUM,
    fold,
    ip,
    pseudo,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from slirp.connections import Connections
    from slirp.reach import Address

CONNECTING, SYN_RECEIVED, SYN_SENT, OPEN, CLOSED = range(5)

MASK = 0xFFFFFFFF
MOST = 1 << 20          # in flight, whatever the peer offers
_LARGEST = 65535 - 80   # payload of a segment as it goes to the kernel
_SMALL = 16384          # data up to here is copied out of its buffer
_ROUNDS = 16            # reads before others have their turn

# Seconds. RFC 6298; 200 ms at least as Linux has it; the way is short, so 15 s at most.
RTO_FIRST, RTO_LEAST, RTO_MOST = 1.0, 0.2, 15.0
_SYN_TRIES = 6
_TRIES = 12             # about two minutes; RFC 9293 3.8.3 wants 100 s at least

_word = struct.Struct("!H").pack_into
_blocks = struct.Struct("!II").pack


class Segment:
    """Data in flight: its position, and a view of it, in a buffer of the pool or alone."""

    __slots__ = ("buffer", "data", "seq", "size")

    def __init__(self, seq: int, size: int, data: bytes | memoryview,
                 buffer: bytearray | None) -> None:
        self.seq = seq
        self.size = size
        self.data = data
        self.buffer = buffer


class Sending:
    """`peer` and `remote` are (address, port): the program inside, and whom it talks to."""

    __slots__ = tuple("""
        ack_due acked allowed attempts base began cwnd deadline due_at dups fin_at fin_first fin_in
        fin_out fixed head heard hung_up inbound ip_sum irs iss key late mss owner peer pending
        pending_size ports pseudo_sum rcv_edge rcv_nxt rcv_shift readable recover remote
        resend rto rtt rtt_var sack segments shut snd_nxt snd_shift snd_una snd_wl
        snd_wnd socket ssthresh state stops targets timed timed_at waits watches_out window
        """.split())

    def __init__(self, owner: Connections, key: bytes, socket: socket.socket,
                 peer: tuple[bytes, int], remote: tuple[bytes, int], state: int) -> None:
        self.owner = owner
        self.key = key
        self.socket = socket
        self.peer = peer
        self.remote = remote
        self.state = state
        self.heard = owner.loop.now
        self.began = 0.0
        self.inbound = False
        self.attempts = 0
        self.targets: list[Address] = []
        # inside to outside
        self.irs = self.rcv_nxt = self.rcv_edge = self.acked = 0
        self.rcv_shift = 0
        self.window = 65535
        self.pending: deque[bytes] = deque()
        self.pending_size = 0
        self.late: Reassembly | None = None
        self.fin_at = -1
        self.fin_in = self.shut = False
        self.ack_due = False
        self.sack = False
        # outside to inside
        self.iss = owner.initial(key)
        self.snd_una = self.snd_nxt = self.iss
        self.snd_wnd = self.snd_wl = 0
        self.snd_shift = 0
        self.segments: deque[Segment] = deque()
        self.fin_out = self.fin_first = False
        self.readable = self.hung_up = self.waits = self.watches_out = False
        self.stops = False
        self.mss = 536
        self.cwnd = 0
        self.ssthresh = MOST
        self.dups = 0
        self.recover = self.resend = -1
        # timers
        self.rtt = self.rtt_var = 0.0
        self.rto = RTO_FIRST
        self.timed = -1
        self.timed_at = 0.0
        self.deadline = self.due_at = 0.0
        self._template()

    def _template(self) -> None:
        """The header that all our segments begin with, and the sums of what is fixed in it."""
        (inside, inside_port), (outside, outside_port) = self.peer, self.remote
        prefix = self.owner.prefix(outside)
        header = ip(outside, inside, TCP, 20)
        self.base = len(prefix)
        self.fixed = len(header) + 20
        self.head = bytearray(prefix + header + bytes(20))
        self.ip_sum = -1
        if len(outside) == 4:
            self.ip_sum = int.from_bytes(header[:2] + header[4:10] + header[12:], "big") % 65535
        self.pseudo_sum = pseudo(outside, inside, TCP, 0)
        self.ports = outside_port, inside_port
        self.allowed = self.owner.mtu - self.fixed

    def emit(self, flags: int, seq: int, data: bytes | memoryview | None = None, size: int = 0,
             options: bytes = b"") -> None:
        """Write one segment, up to 64 KiB of it: the kernel cuts it by the MSS."""
        head = self.head
        # Never less than was offered before; and what is told, in units of 1 << shift, holds.
        edge = max(self.rcv_nxt + self.window - self.pending_size, self.rcv_edge)
        shift = self.rcv_shift if not flags & SYN else 0
        offered = min((edge - self.rcv_nxt + (1 << shift) - 1) >> shift, 65535)
        self.rcv_edge = self.rcv_nxt + (offered << shift)
        base, fixed = self.base, self.fixed
        below = fixed + base - 20
        length = 20 + len(options) + size
        if self.ip_sum >= 0:
            total = length + 20
            _word(head, base + 2, total)
            _word(head, base + 10, ~fold(self.ip_sum + total) & 0xFFFF)
            kind = GSO_TCPV4
        else:
            _word(head, base + 4, length)
            kind = GSO_TCPV6
        if size > self.mss:
            VNET.pack_into(head, 0, VNET_NEEDS_CSUM, kind, below + 10 + len(options), self.mss,
                           below - 10, 16)
        else:
            VNET.pack_into(head, 0, VNET_NEEDS_CSUM, 0, 0, 0, below - 10, 16)
        ports = self.ports
        TCP_HEADER.pack_into(head, below, ports[0], ports[1], seq & MASK, self.rcv_nxt & MASK,
                             (20 + len(options)) << 10 | flags, offered,
                             fold(self.pseudo_sum + length), 0)
        self.ack_due = False
        self.acked = self.rcv_nxt
        if data is not None:
            self.owner.send(head, data)
        elif options:
            self.owner.send(head, options)
        else:
            self.owner.send(head)

    def acknowledge(self) -> None:
        """An acknowledgment now, with what came early where the peer understands that."""
        options = b""
        if self.late and self.sack:
            ranges = self.late.blocks()
            options = bytes((1, 1, SACK, 2 + 8 * len(ranges))) + b"".join(
                _blocks(start & MASK, end & MASK) for start, end in ranges)
        self.emit(ACK, self.snd_nxt, options=options)

    def handshake(self) -> None:
        """Our SYN, or SYN ACK."""
        options = bytes((MSS_OPTION, 4)) + self.allowed.to_bytes(2, "big")
        if self.sack:
            options += bytes((SACK_PERMITTED, 2, 1, 1))
        if self.rcv_shift:
            options += bytes((SCALE_OPTION, 3, self.rcv_shift, 0))
        flags = SYN if self.state == SYN_SENT else SYN | ACK
        self.emit(flags, self.iss, options=options)
        self.snd_nxt = self.iss + 1
        self.alarm(self.rto)

    # ---- what was sent ---------------------------------------------------------------------------

    def _progress(self, una: int, new: int) -> None:
        """The peer has acknowledged everything before `una`, `new` bytes of it now."""
        self.snd_una = una
        segments = self.segments
        while segments and segments[0].seq + segments[0].size <= una:
            buffer = segments.popleft().buffer
            if buffer is not None:
                self.owner.give(buffer)
        now = self.owner.loop.now
        if 0 <= self.timed <= una:
            self._measured(now - self.timed_at)
            self.timed = -1
        elif self.attempts:
            self._set_rto()
        self.attempts = 0
        self.dups = 0
        if self.recover < 0:
            if self.cwnd < self.ssthresh:
                self.cwnd += new
            else:
                self.cwnd += max(1, self.mss * new // self.cwnd)
            self.cwnd = min(self.cwnd, MOST)
        elif una >= self.recover:
            self.cwnd = max(self.ssthresh, 2 * self.mss)
            self.recover = self.resend = -1
        elif self.resend >= 0:          # after a timeout: slow start over what was in flight
            self.cwnd += new
            self.resend = max(self.resend, una)
            self._repeat()
        else:                           # NewReno: the next is lost as well
            self.cwnd = max(self.cwnd - new + self.mss, self.mss)
            self._repeat_at(una, max(self.ssthresh, self.mss))
        if una == self.snd_nxt:
            self.deadline = 0.0
            if self.fin_out:
                self._finish()
        else:
            self.alarm(self.rto)

    def _duplicate(self) -> None:
        self.dups += 1
        if self.dups == 3 and self.recover < 0:
            flight = self.snd_nxt - self.snd_una
            self.ssthresh = max(flight // 2, 2 * self.mss)
            self.cwnd = self.ssthresh + 3 * self.mss
            self.recover = self.snd_nxt
            self.timed = -1
            self._repeat_at(self.snd_una, self.ssthresh)
            self.alarm(self.rto)
        elif self.dups > 3 and self.resend < 0:
            self.cwnd = min(self.cwnd + self.mss, MOST)

    def _repeat(self) -> None:
        """After a timeout, as far as the congestion window allows."""
        while self.resend < self.recover:
            room = self.cwnd - (self.resend - self.snd_una)
            if room <= 0:
                return
            self.resend += self._repeat_at(self.resend, max(room, self.mss))

    def _repeat_at(self, position: int, most: int) -> int:
        """Send again from `position`, at most the rest of one segment; how far that went."""
        for segment in self.segments:
            if segment.seq <= position < segment.seq + segment.size:
                skip = position - segment.seq
                size = min(segment.size - skip, most)
                self.emit(ACK | PSH, position, segment.data[skip:skip + size], size)
                return size
        self.emit(FIN | ACK, self.snd_nxt - 1)      # what is in flight beyond the data
        return self.snd_nxt - position

    def pull(self) -> None:
        """Read the socket and send, as much as peer and network take."""
        owner = self.owner
        for _ in range(_ROUNDS):
            if not self.readable or self.fin_out or self.state != OPEN:
                return
            flight = self.snd_nxt - self.snd_una
            room = min(self.cwnd, self.snd_wnd, MOST) - flight
            if room < self.mss and (flight or room <= 0):
                if not flight and not self.deadline:
                    self.alarm(self.rto)            # the window is shut: probe
                return
            asked = min(room, _LARGEST)
            if owner.down is not None:
                allowed = owner.down.room()
                if allowed < min(asked, self.mss):
                    self._pace()
                    return
                asked = min(asked, allowed)
            buffer = owner.take(self)
            if buffer is None:
                return
            try:
                size = self.socket.recv_into(buffer, asked)
            except BlockingIOError:
                owner.give(buffer)
                self.readable = False
                return
            except OSError:
                owner.give(buffer)
                self.abort()
                return
            if size == 0:
                owner.give(buffer)
                self._end()
                return
            if owner.down is not None:
                owner.down.spend(size)
            data: bytes | memoryview = memoryview(buffer)[:size]
            if size <= _SMALL:
                data = bytes(data)
                owner.give(buffer)
                self.segments.append(Segment(self.snd_nxt, size, data, None))
            else:
                self.segments.append(Segment(self.snd_nxt, size, data, buffer))
            self.emit(ACK | PSH, self.snd_nxt, data, size)
            self.snd_nxt += size
            self._sent()
            if size < asked and not self.hung_up:
                self.readable = False
                return
        owner.loop.soon(self.pull)

    def _pace(self) -> None:
        """Go on when the limit allows it."""
        if self.owner.down is not None and not self.waits:
            self.waits = True
            self.owner.down.wait(self._paced)

    def _paced(self) -> None:
        self.waits = False
        self.pull()

    def _sent(self) -> None:
        if self.timed < 0 and self.recover < 0:
            self.timed = self.snd_nxt
            self.timed_at = self.owner.loop.now
        if not self.deadline:
            self.alarm(self.rto)

    def _end(self) -> None:
        """The outside will send no more."""
        self.emit(FIN | ACK, self.snd_nxt)
        self.snd_nxt += 1
        self.fin_out = True
        self.fin_first = not self.fin_in
        self.readable = False
        self._sent()

    def _finish(self) -> None:
        if (self.fin_out and self.snd_una == self.snd_nxt and self.shut
                and self.state == OPEN):
            if self.ack_due:
                self.acknowledge()
            self.owner.ended(self)

    # ---- time ------------------------------------------------------------------------------------

    def alarm(self, delay: float) -> None:
        self.deadline = self.owner.loop.now + delay
        # An entry that is due no later asks for the next one when it finds it is too early.
        if not self.due_at or self.due_at > self.deadline:
            self.due_at = self.deadline
            self.owner.loop.at(self.deadline, self._due)

    def _due(self) -> None:
        now = self.owner.loop.now
        if self.due_at > now:
            return                      # a later alarm was set for earlier
        self.due_at = 0.0
        if self.state == CLOSED or not self.deadline:
            return
        if self.deadline > now:
            self.due_at = self.deadline
            self.owner.loop.at(self.deadline, self._due)
            return
        self.attempts += 1
        self.timed = -1
        self.rto = min(self.rto * 2, RTO_MOST)
        if self.state != OPEN:
            if self.attempts >= _SYN_TRIES:
                self.abort(tell_peer=self.state == SYN_RECEIVED)
            else:
                self.handshake()
        elif self.snd_nxt == self.snd_una:
            self.deadline = 0.0
            if self.readable and not self.fin_out and self.snd_wnd == 0:
                self.probe()
                self.alarm(self.rto)
            else:
                self.pull()
        elif self.attempts > _TRIES:
            self.abort()
        else:
            flight = self.snd_nxt - self.snd_una
            if self.attempts == 1:
                self.ssthresh = max(flight // 2, 2 * self.mss)
            self.cwnd = self.mss
            self.dups = 0
            self.recover = self.snd_nxt
            self.resend = self.snd_una
            self._repeat()
            self.alarm(self.rto)

    def probe(self) -> None:
        """Ask whether the peer is there and its window open: an old position, which it must
        answer (RFC 9293 3.8.4; no byte is needed, as Linux knows)."""
        self.emit(ACK, self.snd_una - 1)

    def _measured(self, seconds: float) -> None:
        """RFC 6298 2."""
        if not self.rtt:
            self.rtt, self.rtt_var = seconds, seconds / 2
        else:
            self.rtt_var += (abs(self.rtt - seconds) - self.rtt_var) / 4
            self.rtt += (seconds - self.rtt) / 8
        self._set_rto()

    def _set_rto(self) -> None:
        if self.rtt:
            self.rto = min(max(self.rtt + 4 * self.rtt_var, RTO_LEAST), RTO_MOST)

    def smaller(self, mtu: int) -> None:
        """A router inside lets only packets of `mtu` bytes through."""
        mss = max(mtu - self.fixed, 512)
        if mss < self.mss:
            self.mss = mss
            if self.segments:
                self._repeat_at(self.snd_una, self.cwnd)

    # ---- ends ------------------------------------------------------------------------------------

    def abort(self, *, tell_peer: bool = True) -> None:
        """Reset both sides, or only the outside where the peer has reset us."""
        if self.state == CLOSED:
            return
        if tell_peer and self.state in (OPEN, SYN_RECEIVED, SYN_SENT):
            self.emit(RST | ACK, self.snd_nxt)
        self.owner.broken(self)

    def account(self, now: float) -> tuple[tuple[bytes, int], tuple[bytes, int], int, int, float]:
        """Who opened it, to whom; bytes that left the inside and came to it; for how long."""
        source, destination = ((self.remote, self.peer) if self.inbound
                               else (self.peer, self.remote))
        left = self.rcv_nxt - self.irs - 1 - self.fin_in
        came = self.snd_una - self.iss - 1 - (self.fin_out and self.snd_una == self.snd_nxt)
        return source, destination, max(0, left), max(0, came), now - self.began

    def dead(self) -> None:
        """Free what is held; the owner has taken it out of its table."""
        self.state = CLOSED
        self.deadline = 0.0
        self.owner.held -= self.pending_size
        self.pending.clear()
        self.pending_size = 0
        if self.late is not None:
            self.owner.held -= self.late.size
            self.late = None
        for segment in self.segments:
            if segment.buffer is not None:
                self.owner.give(segment.buffer)
        self.segments.clear()
