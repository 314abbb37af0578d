"""What a user-mode network is to be: a record that a person or an engine fills in."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class SlirpError(Exception):
    """Something was asked for that cannot be; the message says what and why."""


class Options:
    """Addresses are text; None means that there is no such thing.

    mtu         of the device, 1280 to 65521
    ipv6        False: IPv6 packets are dropped
    dns4 dns6   where DNS is answered, by asking the host's resolvers
    host4 host6 the host, by the address it uses towards the world
    loopback4 loopback6   the host's 127.0.0.1 and ::1. Without, nothing reaches these.
    gateway4 gateway6     us: answers pings, sends ICMP errors, and is whom a published port's
                service sees where the client's own address has no meaning inside
    inside      networks of the other side, as CIDR: never dialled outside
    outbound4 outbound6   source address of what goes out
    rate_up rate_down     limits of what leaves and enters the inside, in bits per second
    rules       lines of `rules.py`: what may be dialled; `deny`: nothing but that
    flows       most connections at one time; of UDP flows as many again
    """

    __slots__ = ("deny", "dns4", "dns6", "flows", "gateway4", "gateway6", "host4", "host6",
                 "inside", "ipv6", "loopback4", "loopback6", "mtu", "outbound4", "outbound6",
                 "rate_down", "rate_up", "rules")

    def __init__(self, *, mtu: int = 1500, ipv6: bool = True, dns4: str | None = None,
                 dns6: str | None = None, host4: str | None = None, host6: str | None = None,
                 loopback4: str | None = None, loopback6: str | None = None,
                 gateway4: str | None = None, gateway6: str | None = None,
                 inside: Sequence[str] = (), outbound4: str | None = None,
                 outbound6: str | None = None, flows: int = 10000, rules: Sequence[str] = (),
                 deny: bool = False, rate_up: int | None = None,
                 rate_down: int | None = None) -> None:
        self.mtu = mtu
        self.ipv6 = ipv6
        self.dns4 = dns4
        self.dns6 = dns6
        self.host4 = host4
        self.host6 = host6
        self.loopback4 = loopback4
        self.loopback6 = loopback6
        self.gateway4 = gateway4
        self.gateway6 = gateway6
        self.inside = tuple(inside)
        self.outbound4 = outbound4
        self.outbound6 = outbound6
        self.flows = flows
        self.rules = tuple(rules)
        self.deny = deny
        self.rate_up = rate_up
        self.rate_down = rate_down
