"""EXPOSE: [[HOST:]HOSTPORT:]PORT[-PORT][/tcp|udp|sctp]. Only the container's port counts."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

PROTOCOLS = ("tcp", "udp", "sctp")


class PortError(ValueError):
    def __init__(self, given: str, why: str) -> None:
        super().__init__(f"invalid port: {given}: {why}")
        self.given = given


def exposed(given: Iterable[str]) -> tuple[str, ...]:
    """`80/tcp`, one for each port, in the order of numbers. Raises PortError."""
    found: set[tuple[int, str]] = set()
    for text in given:
        ports, slash, protocol = text.partition("/")
        protocol = protocol.lower() if slash else "tcp"
        if protocol not in PROTOCOLS:
            raise PortError(text, f"the protocol is one of {', '.join(PROTOCOLS)}")
        first, dash, last = ports.rpartition(":")[2].partition("-")
        low = _number(text, first)
        high = _number(text, last) if dash else low
        if high < low:
            raise PortError(text, "the range ends before it begins")
        found.update((port, protocol) for port in range(low, high + 1))
    return tuple(f"{port}/{protocol}" for port, protocol in sorted(found))


def _number(given: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise PortError(given, "a port is a number up to 65535")
    return int(text)
