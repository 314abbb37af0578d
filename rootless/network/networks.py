"""Networks on disk: one file each, `networks/<name>.json`, written whole.

The network `bridge`, which containers join that ask for no other, is made by the first command
that needs it. A network is only a record: its bridge exists while containers are on it
(`rootless.network.keeper`).
"""

from __future__ import annotations

import os

from rootless import events, jsontext
from rootless.clock import now
from rootless.errors import Conflict, HostError, NotFound, StorageError, UsageError, os_reason
from rootless.files import Lock, read_bytes, space_hint, write_atomic
from rootless.network import address
from rootless.network.address import Subnet
from rootless.record import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.paths import Paths

DEFAULT = "bridge"
# Words for --network that are no networks of ours.
MODES = ("none", "host")
MTU = 1500
HEX = frozenset("0123456789abcdef")
NAME_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")

# Where subnets are taken from when none is asked for: (from, length of a subnet). The default
# network tries the first before the others, which are everybody's.
POOLS = (("10.88.0.0/16", 16), ("10.89.0.0/16", 24), ("10.90.0.0/15", 24),
         ("172.20.0.0/14", 24), ("192.168.128.0/17", 24))


@record(frozen=True)
class Range:
    """A subnet, its gateway, and the part of it that addresses are given out of."""

    subnet: Subnet
    gateway: bytes
    pool: Subnet

    def plain(self) -> dict[str, str]:
        return {"subnet": str(self.subnet), "gateway": address.show(self.gateway),
                "pool": str(self.pool)}


@record(frozen=True)
class Network:
    """`ranges`: at most one of IPv4 and one of IPv6, in this order. `egress`: rules of what may be
    reached outside (`slirp.rules`); `deny`: nothing but that."""

    name: str
    id: str
    created: str
    ranges: tuple[Range, ...]
    internal: bool
    labels: dict[str, str]
    options: dict[str, str]
    egress: tuple[str, ...] = ()
    deny: bool = False

    @property
    def mtu(self) -> int:
        return int(self.options.get("mtu", MTU))

    def range_of(self, version: int) -> Range | None:
        """`version`: 4 or 6."""
        size = 4 if version == 4 else 16
        return next((r for r in self.ranges if len(r.gateway) == size), None)


def valid_name(name: str) -> bool:
    return 1 <= len(name) <= 255 and NAME_CHARS.issuperset(name) and name[0] not in "_.-"


def _file(paths: Paths, name: str) -> str:
    return f"{paths.networks}/{name}.json"


def load(paths: Paths, name: str) -> Network:
    """By its name. Raises NotFound, StorageError."""
    if not valid_name(name):
        raise _missing(name)
    path = _file(paths, name)
    try:
        raw = jsontext.loads(read_bytes(path, 1 << 20))
        return _network(raw)
    except FileNotFoundError:
        raise _missing(name) from None
    except OSError as e:
        raise StorageError(f"cannot read network {name}: {path}: {os_reason(e)}") from None
    except (ValueError, KeyError, TypeError, AttributeError, UsageError):
        raise StorageError(f"network {name} is damaged: {path} is not valid",
                           hint=f"rootless network rm {name} removes it") from None


def _missing(name: str) -> NotFound:
    return NotFound(f"no such network: {name}", hint="rootless network ls lists those there are")


def _network(raw: dict[str, Any]) -> Network:
    ranges = []
    for r in raw["ranges"]:
        gateway = address.parse(r["gateway"])
        if gateway is None:
            raise ValueError(r["gateway"])
        ranges.append(Range(address.subnet(r["subnet"]), gateway, address.subnet(r["pool"])))
    return Network(str(raw["name"]), str(raw["id"]), str(raw["created"]), tuple(ranges),
                   bool(raw["internal"]), dict(raw["labels"]), dict(raw["options"]),
                   tuple(map(str, raw.get("egress", ()))), bool(raw.get("deny")))


def find(paths: Paths, text: str) -> Network:
    """By name, id or unique prefix of an id; the default network is made where it is missing.

    Raises NotFound, Conflict.
    """
    name = DEFAULT if text == "default" else text
    try:
        return load(paths, name)
    except NotFound:
        if name == DEFAULT:
            return default(paths)
    matches = []
    if text and HEX.issuperset(text):
        matches = [n for n in every(paths) if n.id.startswith(text)]
    if len(matches) > 1:
        raise Conflict(f"several networks have an id that starts with {text}",
                       hint="type more of the id")
    if matches:
        return matches[0]
    raise _missing(text)


def names(paths: Paths) -> list[str]:
    try:
        return sorted(n[:-5] for n in os.listdir(paths.networks)
                      if n.endswith(".json") and not n.startswith("."))
    except FileNotFoundError:
        return []


def every(paths: Paths) -> list[Network]:
    """All that can be read, by name."""
    found = []
    for name in names(paths):
        try:
            found.append(load(paths, name))
        except (NotFound, StorageError):
            continue
    return found


def default(paths: Paths) -> Network:
    """The network `bridge`, made where it is missing."""
    try:
        return load(paths, DEFAULT)
    except NotFound:
        pass
    try:
        return create(paths, DEFAULT)
    except Conflict:
        return load(paths, DEFAULT)     # another command was quicker


def create(paths: Paths, name: str, *, subnets: list[tuple[str, str, str]] | None = None,
           ipv6: bool = False, internal: bool = False, labels: dict[str, str] | None = None,
           options: dict[str, str] | None = None, egress: tuple[str, ...] = (),
           deny: bool = False, ipv6_sysctls: str = "/proc/sys/net/ipv6") -> Network:
    """`subnets`: (subnet, gateway or "", ip-range or "") each; what is not asked for is chosen.

    Raises UsageError, Conflict, StorageError, and HostError for IPv6 on a machine without.
    """
    check_name(name)
    _check_rules(name, egress, deny=deny, internal=internal)
    ranges = [plan_range(*wanted) for wanted in subnets or []]
    for size, version in ((4, 4), (16, 6)):
        if sum(len(r.gateway) == size for r in ranges) > 1:
            raise UsageError(f"cannot make network {name}: it has several subnets of "
                             f"IPv{version}", hint="one --subnet of each")
    if (ipv6 or any(len(r.gateway) == 16 for r in ranges)) and not os.path.isdir(ipv6_sysctls):
        raise HostError(f"cannot make network {name}: this machine has no IPv6",
                        hint="leave out --ipv6, and subnets of IPv6")
    try:
        os.makedirs(paths.networks, mode=0o711, exist_ok=True)
    except OSError as e:
        raise StorageError(f"cannot make {paths.networks}: {os_reason(e)}",
                           hint=space_hint(e, paths.data)) from None
    with Lock(paths.networks + "/.lock"):
        if os.path.lexists(_file(paths, name)):
            raise Conflict(f"network {name} already exists",
                           hint=f"rootless network rm {name}; or choose another name")
        used = {r.subnet: n.name for n in every(paths) for r in n.ranges}
        for r in ranges:
            for theirs, other in used.items():
                if theirs.overlaps(r.subnet):
                    raise Conflict(f"cannot make network {name}: {r.subnet} overlaps with "
                                   f"{theirs} of network {other}", hint="another --subnet, or "
                                   "none: a free one is chosen")
        if not any(len(r.gateway) == 4 for r in ranges):
            ranges.append(free4(list(used), host_routes(), default=name == DEFAULT))
        if ipv6 and not any(len(r.gateway) == 16 for r in ranges):
            # A subnet of one's own (RFC 4193): 40 random bits meet no other.
            ranges.append(plan_range(f"fd{os.urandom(1).hex()}:{os.urandom(2).hex()}:"
                                     f"{os.urandom(2).hex()}::/64", "", ""))
        ranges.sort(key=lambda r: len(r.gateway))
        made = Network(name, os.urandom(32).hex(), now(), tuple(ranges), internal,
                       labels or {}, options or {}, egress, deny)
        _write(paths, made)
    events.emit(paths.data, "network", "create", made.id, {"name": name, "type": "bridge"})
    return made


def _write(paths: Paths, network: Network) -> None:
    write_atomic(_file(paths, network.name), jsontext.dumps({
        "name": network.name, "id": network.id, "created": network.created,
        "ranges": [r.plain() for r in network.ranges], "internal": network.internal,
        "labels": network.labels, "options": network.options, "egress": list(network.egress),
        "deny": network.deny}).encode())


def set_rules(paths: Paths, name: str, egress: tuple[str, ...], *, deny: bool) -> Network:
    """With other rules from now on. Raises UsageError, NotFound, StorageError."""
    with Lock(paths.networks + "/.lock"):
        before = load(paths, name)
        _check_rules(name, egress, deny=deny, internal=before.internal)
        made = replace(before, egress=egress, deny=deny)
        _write(paths, made)
    return made


def check_name(name: str) -> None:
    if not valid_name(name) or name in (*MODES, "container", "default"):
        raise UsageError(f"invalid network name: {name}",
                         hint="letters, digits and _ . - after the first; none, host, container "
                              "and default mean something else")


def _check_rules(name: str, egress: tuple[str, ...], *, deny: bool, internal: bool) -> None:
    if internal and (egress or deny):
        raise UsageError(f"cannot give rules to network {name}: an internal one has no way out")
    from slirp.options import SlirpError
    from slirp.rules import Rules

    try:
        Rules(egress, allow=not deny)
    except SlirpError as e:
        raise UsageError(f"invalid egress {e}",
                         hint='--egress "allow deb.debian.org 80,443 tcp"') from None


def plan_range(subnet: str, gateway: str, pool: str) -> Range:
    """What is not given follows from the subnet. Raises UsageError."""
    whole = address.subnet(subnet)
    low, high = whole.hosts()
    if high - low < 1:
        raise UsageError(f"invalid subnet: {subnet}: there is no room for a gateway and a host")
    door = address.parse(gateway) if gateway else whole.address(low)
    if door is None:
        raise UsageError(f"invalid gateway: {gateway}")
    if not whole.has(door) or not low <= int.from_bytes(door, "big") <= high:
        raise UsageError(f"invalid gateway: {gateway}: it is no host of {whole}")
    part = address.subnet(pool) if pool else whole
    if len(part.base) != len(whole.base) or part.first < whole.first or part.last > whole.last:
        raise UsageError(f"invalid range: {pool}: it is not within {whole}")
    return Range(whole, door, part)


def free4(used: list[Subnet], routes: list[Subnet], *, default: bool) -> Range:
    """The first subnet of ours that no network has and that the machine does not reach itself."""
    for whole, length in POOLS[0 if default else 1:]:
        area = address.subnet(whole)
        for number in range(area.first, area.last + 1, 1 << 32 - length):
            found = Subnet(area.address(number), length)
            if not any(found.overlaps(other) for other in (*used, *routes)):
                return plan_range(str(found), "", "")
    raise Conflict("no subnet is free for another network", hint="--subnet ADDRESS/BITS")


def host_routes(file: str = "/proc/net/route") -> list[Subnet]:
    """The subnets that this machine has routes to, but for the default one (proc(5))."""
    found = []
    try:
        lines = read_bytes(file).decode().splitlines()[1:]
    except OSError:
        return []
    for line in lines:
        fields = line.split()
        mask = bin(int(fields[7], 16)).count("1")
        if mask:
            found.append(Subnet(int(fields[1], 16).to_bytes(4, "little"), mask))
    return found


def remove(paths: Paths, name: str) -> None:
    """The record only; that nobody is on it, the caller knows. Raises NotFound."""
    with Lock(paths.networks + "/.lock"):
        try:
            os.unlink(_file(paths, name))
        except FileNotFoundError:
            raise _missing(name) from None
    events.emit(paths.data, "network", "destroy", name, {"name": name, "type": "bridge"})
