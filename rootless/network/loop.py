"""The network keeper's loop: descriptors with what to do when they are ready, and timers."""

from __future__ import annotations

import heapq
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Ready = Callable[[int], None]

READ, WRITE = select.EPOLLIN, select.EPOLLOUT


class Timer:
    """What shall be done at a time; `cancel` forgets it."""

    def __init__(self, when: float, act: Callable[[], None]) -> None:
        self.when = when
        self.act: Callable[[], None] | None = act

    def cancel(self) -> None:
        self.act = None


class Loop:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._poll = select.epoll()
        self._ready: dict[int, Ready] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._count = 0
        self.clock = clock

    def watch(self, fd: int, ready: Ready, events: int = READ) -> None:
        """`ready` gets the events. A descriptor is watched once."""
        self._poll.register(fd, events)
        self._ready[fd] = ready

    def change(self, fd: int, events: int) -> None:
        self._poll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Before it is closed."""
        if self._ready.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def after(self, seconds: float, act: Callable[[], None]) -> Timer:
        timer = Timer(self.clock() + seconds, act)
        self._count += 1
        heapq.heappush(self._timers, (timer.when, self._count, timer))
        return timer

    def turn(self, patience: float | None = None) -> None:
        """Wait for the next thing, at most so long, and do it."""
        while self._timers and self._timers[0][2].act is None:
            heapq.heappop(self._timers)
        if self._timers:
            left = max(self._timers[0][0] - self.clock(), 0)
            patience = left if patience is None else min(left, patience)
        for fd, events in self._poll.poll(-1 if patience is None else patience):
            ready = self._ready.get(fd)
            if ready is not None:       # else forgotten by one before it in this turn
                ready(events)
        while self._timers and self._timers[0][0] <= self.clock():
            act = heapq.heappop(self._timers)[2].act
            if act is not None:
                act()
