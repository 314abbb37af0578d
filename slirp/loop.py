"""Waiting: descriptors by epoll, moments by a heap, one thread.

Handlers are called with epoll's event bits, timers with nothing. Sockets of flows are registered
edge-triggered, for what comes (COMING), and when one blocks for EVERY event from then on, so hardly
a call is spent on changing one's mind; a handler takes events as hints and finds the truth by
trying. An event may come too many: a descriptor that
is closed while its event waits in the batch could lend its number to another. Hence `close`, which
closes at the end of the turn.

A timer cannot be taken back; the one who set it looks whether it still applies. That costs nothing
where most are never due, as with retransmission.
"""

from __future__ import annotations

import errno
import select
import time
from heapq import heappop, heappush

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Closable(Protocol):
        def fileno(self) -> int: ...
        def close(self) -> None: ...

IN, OUT, ERR, HUP = select.EPOLLIN, select.EPOLLOUT, select.EPOLLERR, select.EPOLLHUP
RDHUP = select.EPOLLRDHUP
COMING = IN | RDHUP | select.EPOLLET
EVERY = COMING | OUT

# Events taken at once; what is ready beyond comes in the next turn.
_BATCH = 256


class Loop:
    """`now` is the time of this turn in seconds, of the injected clock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._closing: list[Closable] = []
        self._soon: list[Callable[[], None]] = []
        self._running = True
        self.now = clock()

    def add(self, fd: int, handler: Callable[[int], None], events: int = IN) -> None:
        """Watch a descriptor. Raises OSError."""
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def change(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Stop watching a descriptor that stays open."""
        if self._handlers.pop(fd, None):
            self._epoll.unregister(fd)

    def close(self, thing: Closable) -> None:
        """Close at the end of the turn, which ends the watching as well."""
        self._handlers.pop(thing.fileno(), None)
        self._closing.append(thing)

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Call at `when`, in terms of `now`."""
        self._number += 1
        heappush(self._timers, (when, self._number, call))

    def soon(self, call: Callable[[], None]) -> None:
        """Call in the next turn, after what is ready then."""
        self._soon.append(call)

    def stop(self) -> None:
        self._running = False

    def run(self) -> None:
        """Turn until `stop`."""
        while self._running:
            self.turn()

    def turn(self, longest: float = -1) -> None:
        """Wait for something, `longest` seconds at most, and handle it."""
        if self._soon:
            longest = 0
        elif self._timers:
            left = max(0.0, self._timers[0][0] - self._clock())
            longest = left if longest < 0 else min(left, longest)
        try:
            events = self._epoll.poll(longest, _BATCH)
        except OSError as error:
            if error.errno != errno.EINTR:
                raise
            events = []
        soon, self._soon = self._soon, []
        self.now = self._clock()
        handlers = self._handlers
        for fd, event in events:
            handler = handlers.get(fd)
            if handler is not None:
                handler(event)
        for call in soon:
            call()
        timers = self._timers
        while timers and timers[0][0] <= self.now:
            heappop(timers)[2]()
        if self._closing:
            for thing in self._closing:
                thing.close()
            self._closing.clear()
