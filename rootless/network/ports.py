"""Published ports: `-p`, as docker reads and shows it."""

from __future__ import annotations

from rootless.errors import UsageError
from rootless.network import address
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROTOCOLS = ("tcp", "udp")


@record(frozen=True)
class Publish:
    """`host` 0: any free port. `last`: the first free one from `host` to it."""

    ip: str
    host: int
    last: int
    container: int
    proto: str

    def plain(self) -> list[Any]:
        return [self.ip, self.host, self.last, self.container, self.proto]

    def __str__(self) -> str:
        host = f"{self.host}-{self.last}" if self.last > self.host else f"{self.host or ''}"
        ip = f"[{self.ip}]" if ":" in self.ip else self.ip
        return f"{ip + ':' if ip else ''}{host}:{self.container}/{self.proto}"


def parse(text: str) -> list[Publish]:
    """`[ip:][host[-last]:]container[-last][/tcp|udp]`. Raises UsageError."""
    rest, slash, proto = text.partition("/")
    proto = proto.lower() if slash else "tcp"
    if proto not in PROTOCOLS:
        raise UsageError(f"invalid port: {text}: {proto} cannot be forwarded without root"
                         if proto == "sctp" else f"invalid port: {text}: unknown protocol {proto}",
                         hint="tcp or udp")
    ip = ""
    if rest.startswith("["):
        ip, bracket, rest = rest[1:].partition("]:")
        if not bracket:
            raise _wrong(text)
    parts = rest.split(":")
    if len(parts) == 3 and not ip:
        ip, parts = parts[0], parts[1:]
    if len(parts) > 2 or (ip and address.parse(ip) is None):
        raise _wrong(text)
    if ip and len(parts) < 2:
        raise _wrong(text)
    first, last = _range(parts[-1], text)
    if len(parts) == 1 or not parts[0]:
        return [Publish(ip, 0, 0, number, proto) for number in range(first, last + 1)]
    low, high = _range(parts[0], text)
    if first == last:
        return [Publish(ip, low, high, first, proto)]
    if high - low != last - first:
        raise UsageError(f"invalid port: {text}: the ranges differ in length")
    return [Publish(ip, low + n, low + n, first + n, proto) for n in range(last - first + 1)]


def _range(text: str, whole: str) -> tuple[int, int]:
    low, dash, high = text.partition("-")
    if not low.isdecimal() or not low.isascii() or (dash and not (high.isdecimal()
                                                                  and high.isascii())):
        raise _wrong(whole)
    first, last = int(low), int(high) if dash else int(low)
    if not 1 <= first <= last <= 65535:
        raise UsageError(f"invalid port: {whole}: ports are from 1 to 65535, the lower first")
    return first, last


def _wrong(text: str) -> UsageError:
    return UsageError(f"invalid port: {text}", hint="-p [IP:][HOST:]CONTAINER[/tcp|udp], "
                                                    "as 8080:80 or 127.0.0.1::53/udp")


def exposed(ports: list[str]) -> list[Publish]:
    """-P: each port that the image names, `80/tcp`, on any free one."""
    found = []
    for text in ports:
        found += parse(text)
    return found


def summary(published: list[list[Any]]) -> str:
    """As `ps` shows it; entries are [ip, host port, container port, protocol]."""
    return ", ".join(f"{show(ip, host)}->{container}/{proto}"
                     for ip, host, container, proto in published)


def show(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
