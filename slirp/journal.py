"""What was dialled, and what became of it: the latest entries, in memory.

`closed` is a connection or flow that was open, with the bytes that left the inside (`sent`) and
came to it (`received`); `refused`, `unreachable` and `denied` never were: by the outside, on the
way, by our rules. `name` is what our DNS was asked for when it gave the address. Entries have
numbers without gaps, so that a reader sees whether it missed some.
"""

from __future__ import annotations

import time
from collections import deque

from slirp.reach import show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    End = tuple[bytes, int]

_MOST = 4096
# In one answer.
_PAGE = 500


class Journal:
    """`names` gives those of an address, `clock` the time since the epoch."""

    def __init__(self, names: Callable[[bytes], list[str]],
                 clock: Callable[[], float] = time.time) -> None:
        self._names = names
        self._clock = clock
        self._entries: deque[tuple[Any, ...]] = deque(maxlen=_MOST)
        self._count = 0

    def add(self, what: str, proto: str, source: End, destination: End, sent: int = 0,
            received: int = 0, seconds: float = 0.0) -> None:
        names = self._names(destination[0])
        self._count += 1
        self._entries.append((self._count, self._clock(), what, proto, source, destination,
                              names[-1] if names else "", sent, received, seconds))

    def since(self, number: int) -> list[dict[str, Any]]:
        """The first entries after a number."""
        first = self._count - len(self._entries)
        entries = list(self._entries)[max(0, number - first):]
        return [{"number": entry[0], "time": entry[1], "what": entry[2],
                 **described(*entry[3:])} for entry in entries[:_PAGE]]


def described(proto: str, source: End, destination: End, name: str, sent: int, received: int,
              seconds: float) -> dict[str, Any]:
    return {"proto": proto, "from": end(source), "to": end(destination), "name": name,
            "sent": sent, "received": received, "seconds": round(seconds, 3)}


def end(one: End) -> str:
    text = show(one[0])
    return f"[{text}]:{one[1]}" if ":" in text else f"{text}:{one[1]}"
