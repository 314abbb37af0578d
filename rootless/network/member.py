"""A running container on its networks, as the network keeper knows it."""

from __future__ import annotations

import os

from rootless.errors import HostError, os_reason
from rootless.files import write_all
from rootless.linux import netlink
from rootless.linux.netlink import Netlink
from rootless.network import address, endpoints, rate, uplink
from rootless.network.gateway import Gateway
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rootless.network.address import Subnet
    from rootless.network.loop import Loop

    Port = tuple[str, int, int, str]        # host ip, host port, container port, protocol

HOST_LINE = "host.containers.internal host.docker.internal"


def started(pid: int) -> str:
    """Field 22 of /proc/PID/stat, with the boot: it names a process for ever. "" for none, and
    for one that has ended but was not buried."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            fields = f.read().rpartition(b")")[2].split()
        with open("/proc/sys/kernel/random/boot_id", "rb") as f:
            boot = f.read().strip().decode()
    except OSError:
        return ""
    return "" if fields[0] in (b"Z", b"X") else f"{boot}.{fields[19].decode()}"


@record(frozen=True)
class Held:
    """The lease of a container that a keeper before this one had attached."""

    id: str
    name: str
    pid: int
    started: str
    networks: dict[str, dict[str, Any]]
    ports: tuple[Port, ...]

    @classmethod
    def of(cls, cid: str, lease: dict[str, Any]) -> Held | None:
        try:
            return cls(cid, str(lease["name"]), int(lease["pid"]), str(lease["started"]),
                       dict(lease["networks"]),
                       tuple((str(i), int(h), int(c), str(p)) for i, h, c, p in lease["ports"]))
        except (KeyError, TypeError, ValueError):
            return None

    def lives(self) -> bool:
        return bool(self.started) and started(self.pid) == self.started

    def addresses_on(self, network: str) -> list[bytes]:
        found = self.networks.get(network, {})
        return [a for a in (address.parse(found.get(k, "")) for k in ("ip", "ip6")) if a]


class Joined:
    """A container's place on one network."""

    def __init__(self, gateway: Gateway, device: str, port: str, mac: bytes,
                 mine: list[bytes]) -> None:
        """`port`: the bridge's end of its device, out of the container's reach."""
        self.gateway = gateway
        self.device = device
        self.port = port
        self.mac = mac
        self.mine = mine
        self.names: frozenset[str] = frozenset()        # by which the others find it


class Member:
    def __init__(self, cid: str, directory: str, pid: int, link: int,
                 wish: dict[str, Any]) -> None:
        """`link`: an rtnetlink socket of its namespace, which is ours from now on."""
        self.id = cid
        self.dir = directory
        self.pid = pid
        self.started = started(pid)
        self.wish = wish
        self.link = Netlink(link)
        self.joined: dict[str, Joined] = {}
        self.ports: list[Port] = []
        self.door: Joined | None = None             # where the default route leads
        self.published: Joined | None = None        # where its ports are
        self.userns = -1
        self.single = False
        self._pidfd = -1
        self._loop: Loop | None = None

    @property
    def name(self) -> str:
        return str(self.wish["name"])

    def watch(self, loop: Loop, ended: Callable[[str], None]) -> None:
        """Be told of the end of its process."""
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            loop.after(0, lambda: ended(self.id))
            return
        self._loop = loop
        loop.watch(self._pidfd, lambda _: ended(self.id))

    def close(self) -> None:
        if self._loop is not None:
            self._loop.forget(self._pidfd)
            os.close(self._pidfd)
            self._loop = None
        if self.userns >= 0:
            os.close(self.userns)
            self.userns = -1
        # With the last socket of its namespace the kernel takes the devices away.
        self.link.close()

    # -- networks ------------------------------------------------------------------------------

    def join(self, gateway: Gateway, mine: list[bytes], mac: str) -> None:
        """Raises HostError, with nothing of it left."""
        network = gateway.network
        taken = {j.device for j in self.joined.values()}
        number = next(n for n in range(len(taken) + 1) if f"eth{n}" not in taken)
        raw = address.mac(mac) if mac else address.mac_of(mine[0])
        subnets: list[tuple[bytes, Subnet]] = []
        for a in mine:
            found = network.range_of(4 if len(a) == 4 else 6)
            if found is not None:
                subnets.append((a, found.subnet))
        try:
            port = f"{self.id[:11]}.{number}"
            up, down = self.wish.get("rate") or (0, 0)
            gateway.join(self.link, f"eth{number}", port, raw, subnets, (up, down))
        except OSError as e:
            raise HostError(f"cannot connect container {self.name} to network {network.name}: "
                            f"{e.filename}: {os_reason(e)}", hint=rate.hint(e)) from None
        self.joined[network.name] = Joined(gateway, f"eth{number}", port, raw, mine)
        self.be_named()

    def be_named(self) -> None:
        """By its wish, which may have changed."""
        for network, joined in self.joined.items():
            aliases = self.wish["networks"].get(network, {}).get("aliases", ())
            joined.names = frozenset(n.lower() for n in (self.name, self.id[:12], *aliases))

    def leave(self, name: str) -> None:
        """Its device goes too: the container runs on."""
        gone = self.joined.pop(name, None)
        if gone is not None:
            if self.published is gone:
                self.withdraw()
            self._delete(gone)

    def _delete(self, gone: Joined) -> None:
        """By the bridge's end: root inside may have given the other another name."""
        bridge = gone.gateway.netlink
        try:
            bridge.do(netlink.delete_link(bridge.index(gone.port)))
        except OSError:
            pass        # or has deleted it

    def leave_all(self) -> None:
        """At the container's end. Its devices are left to the kernel, which takes them with the
        namespace and needs ten milliseconds for it; but not where an address was asked for, as
        the next who asks for it may come at once."""
        self.withdraw()
        for name, joined in list(self.joined.items()):
            wanted = self.wish["networks"].get(name, {})
            if wanted.get("ip") or wanted.get("ip6") or wanted.get("mac"):
                self._delete(joined)
        self.joined.clear()
        self.door = None

    def delete_all(self) -> None:
        """Its devices go at once."""
        for joined in self.joined.values():
            self._delete(joined)

    def route(self) -> None:
        """Lead what goes outside through the first network that has a way out."""
        door = next((j for n in self.wish["networks"] if (j := self.joined.get(n)) is not None
                     and j.gateway.uplink is not None), None)
        if door is self.door:
            return
        self.door = door
        if door is None:
            return
        try:
            here = self.link.index(door.device)
            self.link.do(*(netlink.new_default_route(here, r.gateway)
                           for r in door.gateway.network.ranges
                           if any(len(a) == len(r.gateway) for a in door.mine)))
        except OSError as e:
            raise HostError(f"cannot lead container {self.name} outside by network "
                            f"{door.gateway.network.name}: {e.filename}: {os_reason(e)}"
                            ) from None

    def addresses(self) -> list[str]:
        return [address.show(a) for j in self.joined.values() for a in j.mine]

    def addresses_on(self, network: str) -> list[bytes]:
        found = self.joined.get(network)
        return found.mine if found is not None else []

    def names_on(self, network: str) -> frozenset[str]:
        found = self.joined.get(network)
        return found.names if found is not None else frozenset()

    def host_addresses(self) -> list[bytes]:
        """Of the machine, as the container reaches it."""
        door = self.door
        if door is None:
            return []
        both = ((4, uplink.HOST4), (16, uplink.HOST6))
        return [raw for size, text in both if any(len(a) == size for a in door.mine)
                and (raw := address.parse(text)) is not None]

    # -- ports ---------------------------------------------------------------------------------

    def door_changed(self) -> bool:
        return bool(self.wish["ports"]) and self.published is not self.door

    def everywhere(self) -> list[str]:
        """The host addresses of a port that is published on all of them."""
        door = self.door
        if door is None:
            return ["0.0.0.0"]
        both = ((4, "0.0.0.0"), (16, "::"))
        return [text for size, text in both if any(len(a) == size for a in door.mine)]

    def publish(self, ip: str, host: int, port: int, proto: str) -> None:
        """Raises Conflict when the port is taken, HostError."""
        door = self.door
        if door is None or door.gateway.uplink is None:
            return      # an internal network has no outside, as docker has it
        size = 16 if ":" in ip else 4
        to = next((a for a in door.mine if len(a) == size), None)
        if to is None:
            raise HostError(f"cannot publish port {port}/{proto} on {ip}: network "
                            f"{door.gateway.network.name} has no IPv6",
                            hint="rootless network create --ipv6")
        self.published = door
        chosen = door.gateway.uplink.publish(proto, ip, host, address.show(to), port)
        self.ports.append((ip, chosen, port, proto))

    def withdraw(self) -> None:
        door, self.published = self.published, None
        if door is not None and door.gateway.uplink is not None:
            for ip, host, port, proto in self.ports:
                to = next(a for a in door.mine if len(a) == (16 if ":" in ip else 4))
                door.gateway.uplink.withdraw(proto, ip, host, address.show(to), port)
        self.ports = []

    # -- files ---------------------------------------------------------------------------------

    def write_lease(self) -> None:
        plain: dict[str, dict[str, Any]] = {}
        for name, j in self.joined.items():
            plain[name] = {"id": j.gateway.network.id, "device": j.device,
                           "mac": address.show_mac(j.mac), "ip": "", "ip6": ""}
            for a in j.mine:
                found = j.gateway.network.range_of(4 if len(a) == 4 else 6)
                six = "" if len(a) == 4 else "6"
                if found is not None:
                    plain[name].update({f"ip{six}": address.show(a),
                                        f"prefix{six}": found.subnet.prefix,
                                        f"gateway{six}": address.show(found.gateway)
                                        if j.gateway.uplink is not None else ""})
        endpoints.write_lease(self.dir, {
            "name": self.name, "pid": self.pid, "started": self.started, "networks": plain,
            "ports": [list(p) for p in self.ports]})

    def write_files(self, *, fresh: bool, old: list[str] | None = None) -> None:
        """/etc/hosts and /etc/resolv.conf, in place: they are mounted in the container. What a
        running container has written into its hosts stays, but for the lines of `old` addresses."""
        mine = self._hosts_lines()
        if fresh:
            text = self.wish["hosts"]
        else:
            text = ""
            gone = {*(old or self.addresses()), *(line.split()[0] for line in mine)}
            for line in _read(self.dir + "/hosts").splitlines(keepends=True):
                if line.split()[:1] and line.split()[0] in gone:
                    continue
                text += line
        _write(self.dir + "/hosts", text + "".join(line + "\n" for line in mine))
        _write(self.dir + "/resolv.conf", "".join(
            f"nameserver {a}\n" for a in self._name_servers()) + self.wish["resolv"])

    def _hosts_lines(self) -> list[str]:
        lines = [f"{text}\t{HOST_LINE}" for text in map(address.show, self.host_addresses())]
        host = self.wish["hostname"]
        names = host if host == self.name else f"{host} {self.name}"
        return lines + [f"{text}\t{names}" for text in self.addresses()]

    def _name_servers(self) -> list[str]:
        """Ours on each network, as many as a resolver asks."""
        return [address.show(r.gateway) for j in self.joined.values()
                for r in j.gateway.network.ranges if len(r.gateway) == 4][:3]


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as f:
            return f.read(1 << 20)
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        write_all(fd, text.encode("utf-8", "surrogateescape"))
    finally:
        os.close(fd)
