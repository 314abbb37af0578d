"""What may be dialled from inside: rules of egress, and the names they are about.

A rule is a line of words, the first that matches decides, and after the last comes the default:

    allow deb.debian.org 80,443 tcp
    allow *.example.org                     any port, any protocol; not example.org itself
    deny 10.0.0.0/8
    allow any 53,1024-2047 udp

Destinations are addresses, networks, names, or `any`. Packets bear no names, so a name stands for
the addresses that our own DNS has given for it lately (`Learned`): a program inside that found an
address elsewhere does not match. With the default `deny` that is what one wants; a name after
`deny` keeps out only those who ask us. An address belongs to the name that was asked for, never to
an alias in the answer, of which the owner of the name could have written anything.
"""

from __future__ import annotations

from slirp.options import SlirpError
from slirp.reach import Network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

PROTOCOLS = ("tcp", "udp", "icmp")
# Addresses of which names are remembered, and names of each.
_ADDRESSES, _NAMES = 4096, 16
# A program may keep an address for longer than its record's time.
_LEAST_TTL, _MOST_TTL = 300.0, 86400.0
_RECORD_SIZES = {1: 4, 28: 16}          # types A, AAAA
_CNAME = 5


class Rule:
    """One line. Raises SlirpError for a line that makes no sense."""

    __slots__ = ("allow", "name", "network", "ports", "proto", "text")

    def __init__(self, text: str) -> None:
        words = text.split()
        if not 2 <= len(words) <= 4 or words[0] not in ("allow", "deny"):
            raise SlirpError(f"rule {text!r}: must be `allow|deny DESTINATION [PORTS] [PROTOCOL]`")
        self.text = " ".join(words)
        self.allow = words[0] == "allow"
        self.proto = words.pop() if words[-1] in PROTOCOLS else ""
        self.ports = _ports(words.pop(), text) if len(words) == 3 else []
        if len(words) != 2:
            raise SlirpError(f"rule {text!r}: {words[-1]} is not a protocol: "
                             f"{', '.join(PROTOCOLS)}")
        self.network: Network | None = None
        self.name = ""
        destination = words[1]
        if destination == "any":
            return
        if "/" in destination or ":" in destination or destination[-1].isdigit():
            bits = "" if "/" in destination else "/128" if ":" in destination else "/32"
            self.network = Network(destination + bits)
        else:
            self.name = _name(destination, text)

    def matches(self, address: bytes, port: int, proto: str, names: Iterable[str]) -> bool:
        if self.proto and self.proto != proto:
            return False
        if self.ports and not any(low <= port <= high for low, high in self.ports):
            return False
        if self.network is not None:
            return address in self.network
        if self.name.startswith("*."):
            return any(name.endswith(self.name[1:]) for name in names)
        return not self.name or self.name in names


def _ports(text: str, rule: str) -> list[tuple[int, int]]:
    found = []
    for part in text.split(","):
        low, _, high = part.partition("-")
        if not low.isdigit() or not (high or low).isdigit():
            raise SlirpError(f"rule {rule!r}: {text} are no ports")
        pair = int(low), int(high or low)
        if not 0 < pair[0] <= pair[1] <= 65535:
            raise SlirpError(f"rule {rule!r}: {part} are no ports")
        found.append(pair)
    return found


def _name(text: str, rule: str) -> str:
    name = text.lower().rstrip(".")
    labels = (name[2:] if name.startswith("*.") else name).split(".")
    if not all(label and len(label) < 64 and label.replace("-", "").replace("_", "").isalnum()
               for label in labels):
        raise SlirpError(f"rule {rule!r}: {text} is neither an address nor a name")
    return name


class Rules:
    """Lines and a default. Raises SlirpError."""

    def __init__(self, lines: Sequence[str] = (), *, allow: bool = True) -> None:
        self.lines = [Rule(line) for line in lines]
        self.allow = allow

    def allows(self, address: bytes, port: int, proto: str, names: Iterable[str]) -> bool:
        for rule in self.lines:
            if rule.matches(address, port, proto, names):
                return rule.allow
        return self.allow


class Learned:
    """The names of addresses, from the answers that our DNS gave."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._names: dict[bytes, dict[str, float]] = {}

    def names(self, address: bytes) -> list[str]:
        """Those that are not too old."""
        found = self._names.get(address)
        now = self._now()
        return [name for name, until in found.items() if until > now] if found else []

    def learn(self, answer: bytes) -> None:
        """Take the addresses of an answer; nothing of one that is malformed."""
        try:
            name, addresses = _read(answer)
        except (IndexError, ValueError):
            return
        self.add(name, addresses)

    def add(self, name: str, addresses: Sequence[tuple[bytes, int]]) -> None:
        """A name, in small letters, has these addresses for so many seconds."""
        now = self._now()
        for address, ttl in addresses:
            known = self._names.pop(address, {})
            while len(self._names) >= _ADDRESSES:
                del self._names[next(iter(self._names))]
            self._names[address] = known        # now the newest
            until = now + min(max(float(ttl), _LEAST_TTL), _MOST_TTL)
            known[name] = max(until, known.pop(name, 0.0))
            while len(known) > _NAMES:
                del known[next(iter(known))]


def _read(answer: bytes) -> tuple[str, list[tuple[bytes, int]]]:
    """RFC 1035 4.1: the name that was asked for, and the addresses, also by its aliases, with their
    times. Raises IndexError, ValueError."""
    if len(answer) < 12 or answer[3] & 15 or answer[4:6] != b"\0\1":
        raise ValueError("no answer to one question")
    count = answer[6] << 8 | answer[7]
    name, at = _dotted(answer, 12)
    at += 4
    names, addresses = {name}, []
    for _ in range(min(count, 256)):
        owner, at = _dotted(answer, at)
        kind, ttl = int.from_bytes(answer[at:at + 2], "big"), int.from_bytes(
            answer[at + 4:at + 8], "big")
        size = answer[at + 8] << 8 | answer[at + 9]
        at += 10
        if at + size > len(answer):
            raise ValueError("a record beyond the end")
        if owner in names:
            if kind == _CNAME:
                names.add(_dotted(answer, at)[0])
            elif _RECORD_SIZES.get(kind) == size:
                addresses.append((answer[at:at + size], ttl))
        at += size
    return name, addresses


def _dotted(message: bytes, at: int) -> tuple[str, int]:
    """The name at a place, and the place after it. Raises IndexError, ValueError."""
    labels: list[str] = []
    after = -1
    for _ in range(128):
        size = message[at]
        if size >= 0xC0:
            after = at + 2 if after < 0 else after
            at = (size & 0x3F) << 8 | message[at + 1]
            continue
        if size > 63:
            raise ValueError("label")
        at += 1
        if not size:
            return ".".join(labels).lower(), at if after < 0 else after
        if at + size > len(message):
            raise IndexError("label")
        labels.append(message[at:at + size].decode("latin-1"))
        at += size
    raise ValueError("a name without an end")
