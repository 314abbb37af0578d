"""A network that is up: its namespace with the bridge, its way out, its name server.

    container ── veth ── bridge ── (routing) ── tun0 ── uplink process ── the machine's sockets
                           │
                       name server, on the gateway's addresses

Each network has a namespace of its own, so nothing leads from one to another. It belongs to the
user's namespace, out of the containers' reach. An internal network has no tun0 and no routing.
"""

from __future__ import annotations

import _socket
import errno
import os

from rootless.errors import HostError, os_reason
from rootless.linux import netlink
from rootless.linux.netlink import Netlink
from rootless.network import address, inside, rate, resolver
from rootless.network.address import Subnet
from rootless.network.uplink import Uplink
from rootless.network.ways import PORT, Within

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.linux.netlink import Message
    from rootless.network.loop import Loop
    from rootless.network.networks import Network

BRIDGE = "br0"
# Of tun0 itself; the uplink's own addresses are in `rootless.network.uplink`.
TUN4 = address.parse("169.254.1.4") or b""
TUN6 = address.parse("fd00:6e73::4") or b""


def addresses(network: Network, bridge: int, *, ipv6: bool) -> list[Message]:
    """What makes a bridge the gateway. On a machine without IPv6 that half stays away."""
    found = [netlink.new_address(bridge, r.gateway, r.subnet.prefix) for r in network.ranges
             if ipv6 or len(r.gateway) == 4]
    return [*found, netlink.set_link(bridge, up=True)]


def way_out(network: Network, tun: int, *, ipv6: bool) -> list[Message]:
    steps = [netlink.set_link(tun, up=True, mtu=network.mtu), netlink.new_address(tun, TUN4, 32),
             netlink.new_default_route(tun)]
    if ipv6:
        steps += [netlink.new_address(tun, TUN6, 128),
                  netlink.new_default_route(tun, version=netlink.AF_INET6)]
    return steps


class Gateway:
    def __init__(self, network: Network, loop: Loop, answers: resolver.Answers, userns: int,
                 control: str, others: list[Gateway], *, single: bool) -> None:
        """`control`: see Uplink. `others`: gateways of all networks that are up; they learn of
        this one. Raises HostError when the machine does not allow it."""
        self.network = network
        self.uplink: Uplink | None = None
        self.resolver: resolver.Resolver | None = None
        # Who was given an address last, of each version.
        self.last: dict[int, bytes] = {}
        made = inside.make(userns, single=single, uplink=not network.internal)
        self.namespace = made.namespace
        self.ipv6 = made.ipv6
        self.netlink = Netlink(made.netlink)
        self.bridge = 0
        # Ours until the uplink and the resolver have them.
        self._device = made.device
        self._sockets = [_socket.socket(fileno=fd) for fd in (*made.datagrams, *made.streams)]
        ready = False
        try:
            if not made.ipv6 and network.range_of(6) is not None:
                raise HostError(f"cannot make network {network.name}: it has IPv6, which this "
                                "machine has not")
            up = [str(r.subnet) for g in (self, *others) for r in g.network.ranges]
            self._build(loop, answers, control, up)
            ready = True
        except OSError as e:
            raise HostError(f"cannot make network {network.name}: "
                            f"{e.filename or 'its namespace'}: {os_reason(e)}") from None
        finally:
            if not ready:
                self.close()
        for other in others:
            if other.uplink is not None:
                other.uplink.see(up)

    def _build(self, loop: Loop, answers: resolver.Answers, control: str,
               up: list[str]) -> None:
        link = self.netlink
        mac = address.mac_of(self.network.ranges[0].gateway)
        link.do(netlink.new_bridge(BRIDGE, mac, self.network.mtu))
        self.bridge = link.index(BRIDGE)
        link.do(netlink.set_link(1, up=True), *addresses(self.network, self.bridge,
                                                         ipv6=self.ipv6))
        if self._device >= 0:
            link.do(*way_out(self.network, link.index(inside.TUN), ipv6=self.ipv6))
            self.uplink = Uplink(loop, self._device, control, mtu=self.network.mtu,
                                 ipv6=self.ipv6, inside=up, rules=self.network.egress,
                                 deny=self.network.deny)
            self._device = -1
        bound: dict[int, list[_socket.socket]] = {_socket.SOCK_DGRAM: [], _socket.SOCK_STREAM: []}
        for sock in self._sockets:
            found = self.network.range_of(4 if sock.family == _socket.AF_INET else 6)
            if found is None:
                sock.close()
                continue
            sock.bind((address.show(found.gateway), PORT))
            if sock.type == _socket.SOCK_STREAM:
                sock.listen(16)
            bound[sock.type].append(sock)
        self._sockets = []
        self.resolver = resolver.Resolver(loop, answers, bound[_socket.SOCK_DGRAM],
                                          bound[_socket.SOCK_STREAM], Within(self.namespace))

    def close(self) -> None:
        """The namespace goes, with the bridge and all that is on it."""
        if self.resolver is not None:
            self.resolver.close()
        if self.uplink is not None:
            self.uplink.close()
        if self._device >= 0:
            os.close(self._device)
        for sock in self._sockets:
            sock.close()
        self.netlink.close()
        os.close(self.namespace)

    def pick(self, version: int, taken: set[bytes]) -> bytes | None:
        """A free address; None where there is none, or the network has none of the version."""
        found = self.network.range_of(version)
        if found is None or (version == 6 and not self.ipv6):
            return None
        chosen = address.choose(found.subnet, found.pool, taken | {found.gateway},
                                self.last.get(version, b""))
        if chosen is not None:
            self.last[version] = chosen
        return chosen

    def join(self, container: Netlink, device: str, port: str, mac: bytes,
             mine: list[tuple[bytes, Subnet]], rates: tuple[int, int]) -> None:
        """Give a container a device on the bridge. `port`: the bridge's end of it. `rates`: bytes a
        second that it may send and receive, 0 for any. Raises OSError that names the step; then
        there is nothing of it left."""
        pair = netlink.new_veth(device, mac, self.network.mtu, port, self.namespace)
        try:
            container.do(pair)
        except FileExistsError:
            # Of the container's process before this one, or of a gateway whose keeper was killed:
            # the kernel is still clearing it away.
            for link, name in ((self.netlink, port), (container, device)):
                try:
                    link.do(netlink.delete_link(link.index(name)))
                except OSError as e:
                    if e.errno != errno.ENODEV:
                        raise
            container.do(pair)
        done = False
        here = 0
        try:
            here = container.index(device)
            there = self.netlink.index(port)
            self.netlink.do(*rate.limit(there, rates[1], self.network.mtu),
                            netlink.set_link(there, master=self.bridge, up=True))
            container.do(*rate.limit(here, rates[0], self.network.mtu),
                         netlink.set_link(here, up=True),
                         *(netlink.new_address(here, a, subnet.prefix) for a, subnet in mine))
            done = True
        finally:
            if not done and here:
                container.do(netlink.delete_link(here))
