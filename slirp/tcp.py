"""One TCP connection: a socket outside on the one hand, segments inside on the other.

Goal: the inside's kernel speaks TCP with us, the outside's with the host's kernel; bytes go between
in order, and whatever ends one side (FIN, RST, silence) ends the other in the same way.

Actors. `peer` is the program inside, `socket` the host's towards the program outside.

    peer opens                                      outside opens (a published port)
    SYN ->          CONNECTING   connect()          accept()    SYN_SENT    -> SYN
                    the outside answers                                     <- SYN ACK
    <- SYN ACK      SYN_RECEIVED                                OPEN
    ACK ->          OPEN

The SYN is answered when the outside has answered, so a port that is closed is seen closed, and a
host that cannot be reached is seen unreachable. From OPEN on the two directions are independent:

    inside to outside   segment -> socket.send; what the socket does not take waits in `pending`.
        FIN arrived (fin_in), all sent -> shutdown(SHUT_WR)
    outside to inside   socket.recv -> a Segment, kept until it is acknowledged
        end of file -> FIN (fin_out)

Both ends seen and acknowledged: the connection is over; if our FIN was first, its key stays in
TIME_WAIT (`connections.py`).

Invariants.
- Positions in the streams are unbounded integers; the wire has their lowest 32 bits.
- The right edge that was offered (`rcv_edge`) never moves back.
- What is in flight is at most what the peer offered, what the congestion window allows, and MOST.
- `readable` says that reading the socket may give something. It is registered edge-triggered, so it
  is only cleared by a read that gave less than was asked for, and never after the end was announced
  (`hung_up`), which has no second edge.
- There is a deadline whenever something is in flight or the peer's window is shut.

RFC 9293 (protocol), 7323 (scaling), 2018 (SACK, of what we received), 5681 and 6582 (congestion,
NewReno), 6298 (timers), 5961 (resets and SYNs that are guessed). Half of the code is in
`sending.py`.
"""

from __future__ import annotations

from itertools import islice

from slirp.loop import ERR, EVERY, HUP, IN, OUT, RDHUP
from slirp.reassembly import Reassembly
from slirp.sending import (
    CLOSED,
    CONNECTING,
    MASK,
    OPEN,
    RTO_FIRST,
    SYN_RECEIVED,
    SYN_SENT,
    Sending,
)
from slirp.wire import ACK, FIN, MSS_OPTION, RST, SACK_PERMITTED, SCALE_OPTION, SYN, tcp_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slirp.rate import Bucket

RECEIVE = 1 << 20       # what may wait for a slow socket; the window we offer
SCALE = 7
_HALF = 0x80000000


class Connection(Sending):
    """What comes from the peer, and from the socket."""

    __slots__ = ()

    def agree(self, options: bytes | memoryview) -> None:
        """Take the peer's options, of its SYN. Without one of ours, the feature stays off."""
        found = tcp_options(options)
        offered = int.from_bytes(found.get(MSS_OPTION, b"\x02\x18"), "big")
        self.mss = max(64, min(offered, self.allowed))
        self.sack = SACK_PERMITTED in found
        scale = found.get(SCALE_OPTION, b"")
        self.rcv_shift, self.window = 0, 65535
        if len(scale) == 1:
            self.snd_shift = min(scale[0], 14)
            self.rcv_shift, self.window = SCALE, self.most_waiting()
        self.cwnd = 10 * self.mss       # RFC 6928, of a way that is no wire

    def most_waiting(self) -> int:
        """The window: with a limit, what it lets through in a quarter of a second."""
        up = self.owner.up
        return RECEIVE if up is None else min(RECEIVE, max(65535, int(up.rate / 4)))

    def segment(self, seq: int, ack: int, flags: int, window: int, data: memoryview,
                options: memoryview) -> None:
        """One segment of the peer's, as its header says, with payload and options."""
        self.heard = self.owner.loop.now
        if self.state != OPEN and not self._opened(seq, ack, flags, window, options):
            return
        ahead = ((seq - self.rcv_nxt + _HALF) & MASK) - _HALF
        size = len(data)
        end = ahead + size + (flags & FIN)
        offered = self.rcv_edge - self.rcv_nxt
        if ahead > offered or (ahead < 0 and end <= 0):
            if not flags & RST:
                self.acknowledge()      # old, or a keepalive probe: say where we are
            return
        if flags & (RST | SYN):
            if flags & RST and ahead == 0:
                self.abort(tell_peer=False)
            else:
                self.acknowledge()      # RFC 5961: guessed, or the peer has started anew
            return
        if not flags & ACK or not self._acknowledged(ack, window, ahead, size):
            return
        if size:
            self._received(ahead, data, offered)
        if flags & FIN and end - 1 <= offered and self.state == OPEN:
            self.fin_at = self.rcv_nxt + end - 1 if size == 0 else self._position(seq, size)
            self.owner.acknowledge_soon(self)
        if self.fin_at == self.rcv_nxt and not self.fin_in:
            self.rcv_nxt += 1
            self.fin_in = True
            self.owner.acknowledge_soon(self)
            self._shut_outside()
        if self.readable and self.state == OPEN:
            self.pull()

    def _position(self, seq: int, size: int) -> int:
        """Of the FIN after `size` bytes at `seq`; rcv_nxt may have moved over them already."""
        return self.rcv_nxt + ((seq + size - self.rcv_nxt + _HALF) & MASK) - _HALF

    def _opened(self, seq: int, ack: int, flags: int, window: int, options: memoryview) -> bool:
        """A segment before the connection is open. True: it opened it, and may hold more."""
        if self.state == SYN_SENT:
            if flags & ACK and ack != self.snd_nxt & MASK:
                if not flags & RST:
                    # Of a connection before, in its TIME_WAIT: a reset ends that, and we try again.
                    self.emit(RST, ack)
                    if not self.attempts:
                        self.attempts = 1
                        self.handshake()
                return False
            if flags & RST:
                if flags & ACK:
                    self.abort(tell_peer=False)
                return False
            if flags & (SYN | ACK) != SYN | ACK:
                return False
            self.agree(options)
            self.irs = seq
            self.rcv_nxt = self.rcv_edge = seq + 1
            self._begin(window, 0)
            self.acknowledge()
            self.pull()
            return False
        if flags & RST:
            if seq == self.rcv_nxt & MASK:
                self.abort(tell_peer=False)
            return False
        if flags & SYN:
            if self.state == SYN_RECEIVED and seq + 1 & MASK == self.rcv_nxt & MASK:
                self.handshake()
            return False
        if self.state == CONNECTING or not flags & ACK:
            return False
        if ack != self.snd_nxt & MASK:
            self.emit(RST, ack)
            return False
        self._begin(window, self.snd_shift)
        return True

    def _begin(self, window: int, shift: int) -> None:
        """Our SYN was acknowledged."""
        self.state = OPEN
        self.owner.opened(self)
        self.snd_una = self.snd_nxt
        self.snd_wnd = window << shift
        self.snd_wl = self.rcv_nxt
        self.deadline = 0.0
        self.attempts = 0
        self.rto = RTO_FIRST

    def _acknowledged(self, ack: int, window: int, ahead: int, size: int) -> bool:
        """Take in ACK and window. False: the ACK is of something never sent."""
        new = ((ack - self.snd_una + _HALF) & MASK) - _HALF
        if new < 0:
            return True
        una = self.snd_una + new
        if una > self.snd_nxt:
            self.acknowledge()
            return False
        position = self.rcv_nxt + ahead
        offered = window << self.snd_shift
        same = offered == self.snd_wnd
        if position >= self.snd_wl:
            self.snd_wl = position
            self.snd_wnd = offered
        if new:
            self._progress(una, new)
        elif self.snd_nxt > una:
            if not size and same:
                self._duplicate()
        elif offered and self.deadline:
            self.deadline = 0.0         # the window has opened
            self.attempts = 0
        return True

    def _received(self, ahead: int, data: memoryview, offered: int) -> None:
        if ahead < 0:
            data = data[-ahead:]
            ahead = 0
        if ahead + len(data) > offered:
            data = data[:max(0, offered - ahead)]
        if ahead:
            if self.late is None:
                self.late = Reassembly()
            if self.owner.room_for(len(data)):
                before = self.late.size
                self.late.add(self.rcv_nxt + ahead, bytes(data))
                self.owner.held += self.late.size - before
            self.acknowledge()
            return
        late = self.late
        if not self._deliver(data):
            return
        if late:
            before = late.size
            more = late.take(self.rcv_nxt)
            self.owner.held -= before - late.size
            if more:
                self._deliver(memoryview(more))
        self.owner.acknowledge_soon(self)

    def _deliver(self, data: memoryview) -> bool:
        """The next bytes of the stream, to the socket or into `pending`."""
        size = len(data)
        sent = 0
        up = self.owner.up
        allowed = size if up is None else min(size, up.room())
        if not self.pending and allowed:
            try:
                sent = self.socket.send(data if allowed == size else data[:allowed])
            except BlockingIOError:
                pass
            except OSError:
                self.abort()
                return False
            if up is not None:
                up.spend(sent)
        if sent < size:
            rest = size - sent
            if sent == allowed and up is not None and not self.pending:
                self._stop(up)
            elif not self.watches_out:
                self.watches_out = True
                self.owner.loop.change(self.socket.fileno(), EVERY)
            if self.owner.room_for(rest):
                self.pending.append(bytes(data[sent:]))
                self.pending_size += rest
                self.owner.held += rest
            else:
                size = sent             # as if it had been lost: the peer repeats it
        self.rcv_nxt += size
        return True

    def _stop(self, up: Bucket) -> None:
        """Send the rest when the limit allows it."""
        if not self.stops:
            self.stops = True
            up.wait(self._stopped)

    def _stopped(self) -> None:
        self.stops = False
        if self.state == OPEN:
            self._push()

    def _push(self) -> None:
        """The socket takes data again, or the limit allows it."""
        pending = self.pending
        up = self.owner.up
        while pending:
            if up is None:
                pieces: list[bytes | memoryview] = list(islice(pending, 64))
            else:
                allowed = up.room()
                if not allowed:
                    self._stop(up)
                    break
                pieces = [memoryview(pending[0])[:allowed]]
            try:
                sent = self.socket.sendmsg(pieces)
            except BlockingIOError:
                if not self.watches_out:
                    self.watches_out = True
                    self.owner.loop.change(self.socket.fileno(), EVERY)
                break
            except OSError:
                self.abort()
                return
            if up is not None:
                up.spend(sent)
            self.pending_size -= sent
            self.owner.held -= sent
            while sent:
                first = pending[0]
                if len(first) > sent:
                    pending[0] = first[sent:]
                    break
                sent -= len(first)
                pending.popleft()
        more = self.rcv_nxt + self.window - self.pending_size - self.rcv_edge
        if not self.fin_in and (more >= self.window // 4 or (not pending and more >= self.mss)):
            self.acknowledge()
        self._shut_outside()

    def _shut_outside(self) -> None:
        if self.fin_in and not self.pending and not self.shut:
            self.shut = True
            try:
                self.socket.shutdown(1)
            except OSError:
                self.abort()
                return
            self._finish()

    # ---- events of the socket --------------------------------------------------------------------

    def event(self, events: int) -> None:
        """The loop's handler of the socket."""
        if self.state == OPEN:
            if events & (RDHUP | HUP | ERR):
                self.hung_up = True
            if events & OUT and self.pending:
                self._push()
            if events & (IN | RDHUP | HUP | ERR) and self.state == OPEN:
                if self.fin_out:
                    self._broken()
                else:
                    self.readable = True
                    self.pull()
            return
        # For later: it is told once.
        self.hung_up = self.hung_up or bool(events & (RDHUP | HUP | ERR))
        self.readable = self.hung_up or bool(events & IN)
        if self.state == CONNECTING:
            if events & (OUT | HUP | ERR):
                self.owner.connected(self)
        elif self.state == SYN_SENT and events & (HUP | ERR):
            self.abort()                # the client has gone before the service answered

    def _broken(self) -> None:
        """After its end the outside can still be reset: everything we send would be lost."""
        if self.socket.getsockopt(1, 4):        # SOL_SOCKET, SO_ERROR
            self.abort()


__all__ = ["CLOSED", "CONNECTING", "MASK", "OPEN", "RECEIVE", "SCALE", "SYN_RECEIVED", "SYN_SENT",
           "Connection"]
