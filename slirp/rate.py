"""A limit of bytes per second: a bucket that fills at that rate and holds a tenth of a second's.

One bucket is for all connections of a network and one direction. TCP waits for it, so nothing is
lost; a datagram that finds it empty is dropped, as by any queue that is full.
"""

from __future__ import annotations

from slirp.options import SlirpError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from slirp.loop import Loop

# The largest packet fits into the smallest bucket.
_LEAST_BURST = 65536
_LEAST_RATE = 8000
# A wait is for so much of the bucket at least, so that data goes in pieces that are worth it.
_PIECE = 16384
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}


def bits(text: str) -> int:
    """Bits per second, of `10M` for example. Raises SlirpError."""
    unit = text[-1:] if text[-1:] in _UNITS else ""
    digits = text[:len(text) - len(unit)]
    if not digits.isdigit() or not digits.isascii():
        raise SlirpError(f"rate {text}: must be a number of bits per second, as 500k, 10M or 1G")
    return check(int(digits) * _UNITS[unit])


def check(rate: int) -> int:
    """The rate, in bits per second. Raises SlirpError for one that nothing can pass."""
    if rate < _LEAST_RATE:
        raise SlirpError(f"rate {rate}: must be {_LEAST_RATE} bits per second at least")
    return rate


class Bucket:
    """`rate` is in bits per second."""

    def __init__(self, loop: Loop, rate: int) -> None:
        self._loop = loop
        self.rate = rate / 8
        self.burst = max(_LEAST_BURST, int(self.rate / 10))
        self._level = float(self.burst)
        self._at = loop.now
        self._waiting: list[Callable[[], None]] = []

    def room(self) -> int:
        """Bytes that may go now."""
        now = self._loop.now
        self._level = min(self.burst, self._level + (now - self._at) * self.rate)
        self._at = now
        return max(0, int(self._level))

    def spend(self, size: int) -> None:
        self._level -= size

    def wait(self, call: Callable[[], None]) -> None:
        """Call when there is room again; those who wait have their turn in order."""
        if not self._waiting:
            delay = max(0.001, (_PIECE - self._level) / self.rate)
            self._loop.at(self._loop.now + delay, self._over)
        self._waiting.append(call)

    def _over(self) -> None:
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call()
