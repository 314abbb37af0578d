"""Subnets and addresses, as bytes in network order: 4 for IPv4, 16 for IPv6.

`ipaddress` of the standard library would do, at 5 ms of every start and a megabyte of the
keeper's memory.
"""

from __future__ import annotations

import _socket

from rootless.errors import UsageError
from rootless.record import record


def parse(text: str) -> bytes | None:
    """None for what is no address."""
    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            return _socket.inet_pton(family, text)
        except (OSError, ValueError):
            continue
    return None


def show(address: bytes) -> str:
    return _socket.inet_ntop(_socket.AF_INET if len(address) == 4 else _socket.AF_INET6, address)


@record(frozen=True)
class Subnet:
    """`base` has no bit set beyond `prefix`."""

    base: bytes
    prefix: int

    @property
    def bits(self) -> int:
        return len(self.base) * 8

    @property
    def first(self) -> int:
        return int.from_bytes(self.base, "big")

    @property
    def last(self) -> int:
        return self.first | (1 << self.bits - self.prefix) - 1

    def has(self, address: bytes) -> bool:
        return (len(address) == len(self.base)
                and self.first <= int.from_bytes(address, "big") <= self.last)

    def overlaps(self, other: Subnet) -> bool:
        return (len(self.base) == len(other.base)
                and self.first <= other.last and other.first <= self.last)

    def address(self, number: int) -> bytes:
        """The address of a number, such as `first + 1`."""
        return number.to_bytes(len(self.base), "big")

    def hosts(self) -> tuple[int, int]:
        """First and last number that a host can have: the first of a subnet means itself
        and, in IPv4, the last means all (RFC 919); not in subnets of one or two (RFC 3021)."""
        if self.bits - self.prefix <= 1:
            return self.first, self.last
        return self.first + 1, self.last - (1 if self.bits == 32 else 0)

    def __str__(self) -> str:
        return f"{show(self.base)}/{self.prefix}"


def subnet(text: str) -> Subnet:
    """`10.89.3.0/24`; bits beyond the prefix are cleared, as docker does. Raises UsageError."""
    where, slash, length = text.partition("/")
    base = parse(where)
    if base is None or not slash or not length.isdecimal() or not length.isascii():
        raise UsageError(f"invalid subnet: {text}", hint="ADDRESS/BITS, as 10.89.3.0/24")
    prefix, bits = int(length), len(base) * 8
    if not 1 <= prefix <= bits:
        raise UsageError(f"invalid subnet: {text}: its length is from 1 to {bits}")
    keep = ~((1 << bits - prefix) - 1) & (1 << bits) - 1
    return Subnet((int.from_bytes(base, "big") & keep).to_bytes(len(base), "big"), prefix)


def choose(within: Subnet, pool: Subnet, taken: set[bytes], after: bytes) -> bytes | None:
    """The next free address of `pool` that a host of `within` can have; None when there is none.

    The search goes on behind `after` and comes round, so that what has just been given back is
    given out last: neighbours may still hold its old MAC.
    """
    low, high = within.hosts()
    low, high = max(low, pool.first), min(high, pool.last)
    if low > high:
        return None
    start = int.from_bytes(after, "big") + 1 if len(after) == len(within.base) else low
    if not low <= start <= high:
        start = low
    number = start
    # Of n taken ones and one more, one is free.
    for _ in range(min(high - low + 1, len(taken) + 1)):
        found = within.address(number)
        if found not in taken:
            return found
        number = number + 1 if number < high else low
    return None


def mac_of(address: bytes) -> bytes:
    """A locally administered MAC that tells the IPv4 address, as docker makes it; of an IPv6
    address its last bytes."""
    return b"\x02\x42" + address[-4:]


def mac(text: str) -> bytes:
    """`02:42:0a:58:00:02`. Raises UsageError."""
    parts = text.replace("-", ":").split(":")
    try:
        found = bytes(int(p, 16) for p in parts if 1 <= len(p) <= 2)
    except ValueError:
        found = b""
    if len(found) != 6 or len(parts) != 6:
        raise UsageError(f"invalid MAC address: {text}", hint="--mac-address 02:42:0a:58:00:02")
    if found[0] & 1:
        raise UsageError(f"invalid MAC address: {text}: it is a group's",
                         hint="the first byte must be even")
    return found


def show_mac(raw: bytes) -> str:
    return raw.hex(":")
