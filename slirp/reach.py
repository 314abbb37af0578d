"""Who may reach what: from an address that the inside names to the one to dial outside.

The rule is that nothing gets to the host's loopback unless an address was set aside for it, by
whatever spelling: 127/8, 0/8 (Linux connects 0.0.0.0 to itself), ::, ::1, and IPv4 inside IPv6.
Groups, link-local IPv6 and the inside's own networks have no meaning outside and are refused.
"""

from __future__ import annotations

import socket
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from slirp.options import Options, SlirpError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Union

    Address = Union[tuple[str, int], tuple[str, int, int, int]]

DNS_PORT = 53
RESOLV_CONF = "/etc/resolv.conf"

_REFUSED = ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32",
            "::/96", "::ffff:0:0/96", "fe80::/10", "ff00::/8")
# Remembered, of addresses asked for.
_VERDICTS = 4096
# For documentation (RFC 5737, RFC 3849): asking the routing table about them sends nothing.
_SOMEWHERE: dict[int, str] = {AF_INET: "192.0.2.1", AF_INET6: "2001:db8::1"}


def family(address: bytes) -> int:
    return AF_INET if len(address) == 4 else AF_INET6


def pack(text: str) -> bytes:
    """Raises SlirpError."""
    try:
        return inet_pton(AF_INET6 if ":" in text else AF_INET, text)
    except OSError:
        raise SlirpError(f"not an IP address: {text}") from None


def show(address: bytes) -> str:
    return inet_ntop(family(address), address)


class Network:
    """A range of addresses, from CIDR notation. Raises SlirpError."""

    __slots__ = ("first", "shift", "size")

    def __init__(self, text: str) -> None:
        address, slash, digits = text.partition("/")
        packed = pack(address)
        self.size = len(packed)
        bits = self.size * 8
        if not slash or not digits.isdigit() or int(digits) > bits:
            raise SlirpError(f"not a network: {text}")
        self.shift = bits - int(digits)
        self.first = int.from_bytes(packed, "big") >> self.shift

    def __contains__(self, address: bytes) -> bool:
        return (len(address) == self.size
                and int.from_bytes(address, "big") >> self.shift == self.first)


def resolvers(path: str = RESOLV_CONF) -> list[Address]:
    """The host's resolvers as resolv.conf(5) names them now; the host itself where it names none,
    or is not there."""
    found: list[Address] = []
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read(1 << 16).splitlines()
    except OSError:
        lines = []
    for line in lines:
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            address = _resolver(words[1])
            if address:
                found.append(address)
    return found[:3] or [("127.0.0.1", DNS_PORT)]


def _resolver(text: str) -> Address | None:
    text, _, scope = text.partition("%")
    try:
        if ":" not in text:
            inet_pton(AF_INET, text)
            return text, DNS_PORT
        inet_pton(AF_INET6, text)
        index = int(scope) if scope.isdigit() else socket.if_nametoindex(scope) if scope else 0
        return text, DNS_PORT, 0, index
    except OSError:
        return None


def own_address(kind: int) -> str | None:
    """The host's address towards the world; None without a route."""
    try:
        with socket.socket(kind, socket.SOCK_DGRAM) as one:
            one.connect((_SOMEWHERE[kind], DNS_PORT))
            return str(one.getsockname()[0])
    except OSError:
        return None


class Reach:
    """The addresses of one network. `resolvers` is asked anew for each query."""

    def __init__(self, options: Options, resolvers: Callable[[], list[Address]] = resolvers,
                 own_address: Callable[[int], str | None] = own_address) -> None:
        self._resolvers = resolvers
        self._own_address = own_address
        self._refused = [Network(text) for text in _REFUSED]
        self._dns = _addresses(options.dns4, options.dns6)
        self._host = _addresses(options.host4, options.host6)
        self._loopback = _addresses(options.loopback4, options.loopback6)
        gateways = _addresses(options.gateway4, options.gateway6)
        self.gateways = {len(address): address for address in gateways}
        self.ours = self._dns | self._host | self._loopback | gateways
        self.outbound = {family(pack(text)): text
                         for text in (options.outbound4, options.outbound6) if text}
        self.set_inside(options.inside)

    def set_inside(self, networks: Sequence[str]) -> None:
        """Raises SlirpError, and changes nothing then."""
        self._inside = [Network(text) for text in networks]
        self._verdicts: dict[bytes, bool] = {}

    def is_dns(self, address: bytes, port: int) -> bool:
        return port == DNS_PORT and address in self._dns

    def targets(self, address: bytes, port: int) -> list[Address]:
        """Where to go for this destination, the next where the one before fails; none: refused."""
        if address in self.ours:
            if self.is_dns(address, port):
                return self._resolvers()
            if address in self._loopback:
                return [("127.0.0.1" if len(address) == 4 else "::1", port)]
            own = self._own_address(family(address)) if address in self._host else None
            return [(own, port)] if own else []
        return [(show(address), port)] if self._allowed(address) else []

    def _allowed(self, address: bytes) -> bool:
        """Has the address a meaning outside?"""
        found = self._verdicts.get(address)
        if found is None:
            if len(self._verdicts) >= _VERDICTS:
                self._verdicts.clear()
            found = self._verdicts[address] = not any(
                address in network for network in self._refused + self._inside)
        return found

    def client(self, address: bytes) -> bool:
        """Can a client outside be shown inside by its own address?"""
        return address not in self.ours and self._allowed(address)


def _addresses(*texts: str | None) -> set[bytes]:
    return {pack(text) for text in texts if text}
