"""rtnetlink: links, addresses and routes by messages that are declared as tables.

    struct nlmsghdr   struct ifinfomsg | ifaddrmsg | rtmsg   attributes...
    attribute: length (2 bytes, with these 4)  number (2 bytes)  value, padded to 4 bytes

netlink(7), rtnetlink(7), <linux/rtnetlink.h>, <linux/if_link.h>, <linux/if_addr.h>. `pack` and
`unpack` are each other's inverse over a table. Nothing here imports more than `struct` and
`_socket`: building a container's network takes a millisecond, importing pyroute2 a hundred.

A request is checked against the credentials of the process that sends it, and it acts in the
network namespace that the socket was made in (net/netlink/af_netlink.c, netlink_net_capable). The
user who made a user namespace holds all capabilities over it and those below it. So a socket that
a short-lived child made inside is all that an ordinary process needs.
"""

from __future__ import annotations

import _socket
import os
import struct

from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Kind = Any      # U8 U16 U32 BE32 TEXT BYTES, a table, or a `Framed` table
    Table = dict[str, tuple[int, Kind]]
    Values = dict[str, Any]

# <linux/netlink.h>
NETLINK_ROUTE = 0
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x001, 0x004, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLA_TYPE_MASK = 0x3FFF
NLA_F_NESTED = 0x8000

# <linux/rtnetlink.h>
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWQDISC, RTM_GETQDISC = 36, 38
RT_TABLE_MAIN, RTPROT_STATIC, RTN_UNICAST = 254, 4, 1
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253

AF_UNSPEC, AF_INET, AF_INET6 = 0, 2, 10
IFF_UP = 1
IFA_F_NODAD = 0x02

HEADER = struct.Struct("=IHHII")        # struct nlmsghdr: len, type, flags, seq, pid
IFINFO = struct.Struct("=BxHiII")       # struct ifinfomsg: family, type, index, flags, change
IFADDR = struct.Struct("=BBBBI")        # struct ifaddrmsg: family, prefixlen, flags, scope, index
# struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
RTMSG = struct.Struct("=BBBBBBBBI")
TCMSG = struct.Struct("=BxxxiIII")      # struct tcmsg: family, ifindex, handle, parent, info
# struct tc_tbf_qopt: rate and peakrate (struct tc_ratespec: cell_log, linklayer, overhead,
# cell_align, mpu, rate), limit, buffer, mtu
TBF_PARMS = struct.Struct("=BBHhHIBBHhHIIII")
_ATTRIBUTE = struct.Struct("=HH")

U8, U16, U32 = struct.Struct("=B"), struct.Struct("=H"), struct.Struct("=I")
U64 = struct.Struct("=Q")
TEXT, BYTES = "text", "bytes"


@record(frozen=True)
class Framed:
    """A nested table behind a struct of its own; the struct's fields are under `header`."""

    header: struct.Struct
    table: Table


# IFLA_BR_*: what a bridge is made with.
BRIDGE: Table = {"forward_delay": (1, U32), "stp_state": (5, U32), "mcast_snooping": (23, U8)}
# IFLA_*. A peer of a veth is described by a whole message of its own.
LINK: Table = {"address": (1, BYTES), "ifname": (3, TEXT), "mtu": (4, U32), "master": (10, U32),
               "net_ns_pid": (19, U32), "net_ns_fd": (28, U32)}
VETH: Table = {"peer": (1, Framed(IFINFO, LINK))}
# IFLA_INFO_*: the data's table is the one named by the kind.
LINKINFO: Table = {"kind": (1, TEXT), "bridge": (2, BRIDGE), "veth": (2, VETH)}
LINK["linkinfo"] = (18, LINKINFO)
# IFA_*
ADDRESS: Table = {"address": (1, BYTES), "local": (2, BYTES), "broadcast": (4, BYTES),
                  "flags": (8, U32)}
# RTA_*
ROUTE: Table = {"dst": (1, BYTES), "oif": (4, U32), "gateway": (5, BYTES), "priority": (6, U32),
                "prefsrc": (7, BYTES), "table": (15, U32)}
# TCA_TBF_*: rate64 and burst, for which the parameters have no room.
TBF: Table = {"parms": (1, BYTES), "rate64": (4, U64), "burst": (6, U32)}
# TCA_*: the options' table is the one named by the kind.
QDISC: Table = {"kind": (1, TEXT), "tbf": (2, TBF)}


def pack(table: Table, values: Values) -> bytes:
    """Attributes in the order of `values`. Raises KeyError for one that the table has not."""
    out = []
    for name, value in values.items():
        number, kind = table[name]
        if isinstance(kind, struct.Struct):
            data = kind.pack(value)
        elif kind == TEXT:
            data = value.encode() + b"\0"
        elif kind == BYTES:
            data = value
        else:
            number |= NLA_F_NESTED
            if isinstance(kind, Framed):
                rest = dict(value)
                data = kind.header.pack(*rest.pop("header")) + pack(kind.table, rest)
            else:
                data = pack(kind, value)
        out.append(_ATTRIBUTE.pack(4 + len(data), number) + data + bytes(-len(data) % 4))
    return b"".join(out)


def unpack(table: Table, data: bytes) -> Values:
    """Those attributes that the table knows. Raises ValueError where the lengths are nonsense."""
    found: Values = {}
    at = 0
    while at + 4 <= len(data):
        length, number = _ATTRIBUTE.unpack_from(data, at)
        if length < 4 or at + length > len(data):
            raise ValueError("an attribute is longer than its message")
        names = [n for n, (known, _) in table.items() if known == number & NLA_TYPE_MASK]
        if len(names) > 1:
            names = [n for n in names if n == found.get("kind")]
        if names:
            found[names[0]] = _value(table[names[0]][1], data[at + 4:at + length])
        at += length + -length % 4
    return found


def _value(kind: Kind, data: bytes) -> Any:
    if isinstance(kind, struct.Struct):
        if len(data) != kind.size:
            raise ValueError("an attribute of a wrong length")
        return kind.unpack(data)[0]
    if kind == TEXT:
        return data.rstrip(b"\0").decode("utf-8", "surrogateescape")
    if kind == BYTES:
        return data
    if isinstance(kind, Framed):
        if len(data) < kind.header.size:
            raise ValueError("an attribute of a wrong length")
        return {"header": kind.header.unpack_from(data),
                **unpack(kind.table, data[kind.header.size:])}
    return unpack(kind, data)


@record(frozen=True)
class Message:
    """A request. `what` says it to a person, as ip(8) would have been told."""

    what: str
    kind: int
    flags: int
    body: bytes


def new_link(what: str, **values: Any) -> Message:
    return Message(what, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL,
                   IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0) + pack(LINK, values))


def new_bridge(name: str, address: bytes, mtu: int) -> Message:
    """A bridge that forwards at once, without spanning tree or snooping for multicast."""
    data = {"forward_delay": 0, "stp_state": 0, "mcast_snooping": 0}
    return new_link(f"link add {name} type bridge", ifname=name, address=address, mtu=mtu,
                    linkinfo={"kind": "bridge", "bridge": data})


def new_veth(name: str, address: bytes, mtu: int, peer: str, peer_ns: int) -> Message:
    """A pair of devices: `name` here, `peer` in the namespace of a descriptor."""
    there = {"header": (AF_UNSPEC, 0, 0, 0, 0), "ifname": peer, "mtu": mtu, "net_ns_fd": peer_ns}
    return new_link(f"link add {name} type veth peer {peer}", ifname=name, address=address,
                    mtu=mtu, linkinfo={"kind": "veth", "veth": {"peer": there}})


def set_link(index: int, *, up: bool | None = None, **values: Any) -> Message:
    change = 0 if up is None else IFF_UP
    return Message(f"link set {index}", RTM_NEWLINK, 0,
                   IFINFO.pack(AF_UNSPEC, 0, index, IFF_UP if up else 0, change)
                   + pack(LINK, values))


def delete_link(index: int) -> Message:
    return Message(f"link delete {index}", RTM_DELLINK, 0, IFINFO.pack(AF_UNSPEC, 0, index, 0, 0))


def get_link(name: str) -> Message:
    return Message(f"link show {name}", RTM_GETLINK, 0,
                   IFINFO.pack(AF_UNSPEC, 0, 0, 0, 0) + pack(LINK, {"ifname": name}))


def family(address: bytes) -> int:
    """Of 4 or 16 bytes."""
    return AF_INET if len(address) == 4 else AF_INET6


def text(address: bytes) -> str:
    return _socket.inet_ntop(family(address), address)


def new_address(index: int, address: bytes, prefix: int) -> Message:
    """Usable at once: nobody else on the link can have it (IFA_F_NODAD)."""
    values: Values = {"local": address, "address": address}
    if len(address) == 4:
        host = (1 << 32 - prefix) - 1
        values["broadcast"] = (int.from_bytes(address, "big") | host).to_bytes(4, "big")
        if prefix > 30:
            del values["broadcast"]
    else:
        values["flags"] = IFA_F_NODAD
    return Message(f"address add {text(address)}/{prefix} dev {index}", RTM_NEWADDR,
                   NLM_F_CREATE | NLM_F_EXCL,
                   IFADDR.pack(family(address), prefix, 0, RT_SCOPE_UNIVERSE, index)
                   + pack(ADDRESS, values))


def _route(kind: int, flags: int, verb: str, index: int, gateway: bytes,
           version: int) -> Message:
    scope = RT_SCOPE_UNIVERSE if gateway else RT_SCOPE_LINK
    values: Values = {"oif": index}
    if gateway:
        values["gateway"] = gateway
    via = f" via {text(gateway)}" if gateway else ""
    return Message(f"route {verb} default{via} dev {index}", kind, flags,
                   RTMSG.pack(version, 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC,
                              RT_SCOPE_UNIVERSE if version == AF_INET6 else scope,
                              RTN_UNICAST, 0) + pack(ROUTE, values))


def new_default_route(index: int, gateway: bytes = b"", version: int = AF_INET) -> Message:
    """Through a gateway or, without one, straight into the device."""
    return _route(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, "replace", index, gateway,
                  family(gateway) if gateway else version)


def new_tbf(index: int, rate: int, burst: int, limit: int) -> Message:
    """A token bucket for what a link sends. `rate`: bytes a second; `burst` bytes may go at once,
    `limit` may wait."""
    TC_LINKLAYER_ETHERNET, TC_H_ROOT = 1, 0xFFFFFFFF
    parms = TBF_PARMS.pack(0, TC_LINKLAYER_ETHERNET, 0, 0, 0, min(rate, 0xFFFFFFFF),
                           0, 0, 0, 0, 0, 0, limit, 0, 0)
    return Message(f"qdisc add dev {index} root tbf rate {rate * 8}bit",
                   RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE,
                   TCMSG.pack(AF_UNSPEC, index, 0, TC_H_ROOT, 0)
                   + pack(QDISC, {"kind": "tbf", "tbf": {"parms": parms, "rate64": rate,
                                                         "burst": burst}}))


def open_socket() -> int:
    """Descriptor of an rtnetlink socket of the namespace this process is in."""
    return _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC,
                          NETLINK_ROUTE).detach()


class Netlink:
    """Requests and their answers on a socket, which is closed with it."""

    def __init__(self, fd: int) -> None:
        self._socket = _socket.socket(fileno=fd)
        self._sequence = 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def do(self, *messages: Message) -> None:
        """Each in turn, until one fails: OSError that names it."""
        for message in messages:
            self._ask(message, NLM_F_ACK)

    def index(self, name: str) -> int:
        """Of a link. Raises OSError: ENODEV."""
        for kind, body in self._ask(get_link(name), 0):
            if kind == RTM_NEWLINK:
                return int(IFINFO.unpack_from(body)[2])
        raise OSError(19, os.strerror(19), name)

    def dump(self, kind: int, header: struct.Struct, table: Table,
             version: int = AF_UNSPEC) -> list[tuple[tuple[int, ...], Values]]:
        """(fields of the struct, attributes) of all links, addresses or routes."""
        first = header.pack(version, *[0] * (len(header.unpack(bytes(header.size))) - 1))
        return [(header.unpack_from(body), unpack(table, body[header.size:]))
                for _, body in self._ask(Message("list", kind, 0, first), NLM_F_DUMP)]

    def _ask(self, message: Message, how: int) -> list[tuple[int, bytes]]:
        self._sequence += 1
        flags = NLM_F_REQUEST | how | message.flags
        head = HEADER.pack(HEADER.size + len(message.body), message.kind, flags,
                           self._sequence, 0)
        # To an address that is given, the kernel's: then only the sender's credentials count,
        # not those of who opened the socket.
        self._socket.sendto(head + message.body, (0, 0))
        found: list[tuple[int, bytes]] = []
        while True:
            data = self._socket.recv(1 << 17)
            at = 0
            while at + HEADER.size <= len(data):
                length, kind, _, sequence, _ = HEADER.unpack_from(data, at)
                body = data[at + HEADER.size:at + length]
                at += length + -length % 4
                if sequence != self._sequence:
                    continue        # of an earlier request that failed half-way
                if kind == NLMSG_ERROR:
                    code = -int.from_bytes(body[:4], "little", signed=True)
                    if code:
                        raise OSError(code, os.strerror(code), message.what)
                    return found
                if kind == NLMSG_DONE:
                    return found
                found.append((kind, body))
                if not how:
                    return found
