"""Packets in, to the protocol they belong to; packets out, as the device takes them."""

from __future__ import annotations

import os

from slirp import wire
from slirp.connections import Connections
from slirp.device import VNET_SIZE
from slirp.dns import Names
from slirp.fragments import Fragments, cut
from slirp.icmp import Echoes
from slirp.journal import Journal
from slirp.rate import Bucket
from slirp.reach import Reach
from slirp.rules import Learned, Rules
from slirp.udp import Datagrams
from slirp.wire import (
    GSO_UDP_L4,
    ICMP,
    ICMPV6,
    TCP,
    UDP,
    VNET,
    VNET_NEEDS_CSUM,
    Malformed,
    Packet,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from slirp.device import Device
    from slirp.link import Link
    from slirp.loop import Loop
    from slirp.options import Options
    from slirp.reach import Address

# Most packets taken before the acknowledgments they made due are sent, and others get their turn.
# It begins with one, and doubles while there are more: of a dialogue, each packet comes alone, and
# a second read for each would find nothing.
_BATCH = 32
_SOLICIT = bytes((wire.NEIGHBOUR_SOLICIT,))
_NO_VNET = bytes(VNET_SIZE)
_FLAGS_TRUSTED = wire.VNET_NEEDS_CSUM | wire.VNET_DATA_VALID

# ICMP and ICMPv6 codes of "destination unreachable" (RFC 792, RFC 1812, RFC 4443).
_CODES = {"net": (0, 0), "host": (1, 3), "port": (3, 4), "prohibited": (13, 1)}


class Stack:
    """One network's packets. `reach` says what may be dialled."""

    def __init__(self, loop: Loop, device: Device, options: Options, *, reach: Reach | None = None,
                 random: Callable[[int], bytes] = os.urandom) -> None:
        self.loop = loop
        self.device = device
        self.mtu = options.mtu
        self.link: Link | None = None
        self.reach = reach or Reach(options)
        self.rules = Rules(options.rules, allow=not options.deny)
        self.learned = Learned(lambda: loop.now)
        self.journal = Journal(self.learned.names)
        self._ipv6 = options.ipv6
        self._batch = 1
        self._view = memoryview(device.buffer)
        self._fragments = Fragments()
        self._ident = int.from_bytes(random(4), "big")
        self.tcp = Connections(self, options.flows, random)
        self.udp = Datagrams(self, options.flows)
        self.icmp = Echoes(self)
        self.names = Names(self)
        self.set_rates(options.rate_up, options.rate_down)

    def prefix(self, source: bytes) -> bytes:
        """What stands before an IP header from this address: a virtio header, and a TAP's."""
        return _NO_VNET + self.link.header(source) if self.link is not None else _NO_VNET

    def ready(self, _events: int) -> None:
        """The loop's handler of the device."""
        read = self.device.read
        for _ in range(self._batch):
            length = read()
            if length <= 0:
                if length < 0:
                    self.loop.stop()
                self._batch = 1
                break
            self.packet(length)
        else:
            self._batch = min(2 * self._batch, _BATCH)
        self.tcp.flush()

    def packet(self, length: int) -> None:
        """The packet of `length` bytes in the device's buffer."""
        buffer = self.device.buffer
        base = self.device.base
        if length < base + 20:
            return
        # TCP over IPv4 without options and not in fragments, and over IPv6 without extensions.
        if buffer[0] & _FLAGS_TRUSTED:
            if (buffer[base] == 0x45 and buffer[base + 9] == TCP
                    and not buffer[base + 6] & 0x3F and not buffer[base + 7]):
                end = base + (buffer[base + 2] << 8 | buffer[base + 3])
                if base + 40 <= end <= length:
                    key = bytes(self._view[base + 12:base + 24])
                    self.tcp.receive(self._view, key, base + 20, end)
                return
            if buffer[base] >> 4 == 6 and buffer[base + 6] == TCP and self._ipv6:
                end = base + 40 + (buffer[base + 4] << 8 | buffer[base + 5])
                if base + 60 <= end <= length:
                    key = bytes(self._view[base + 8:base + 44])
                    self.tcp.receive(self._view, key, base + 40, end)
                return
        try:
            if self.link is not None and buffer[base] >> 4 not in (4, 6):
                answer = self.link.arp(self._view[VNET_SIZE:length])
                if answer is not None:
                    self.device.send(_NO_VNET, answer)
                return
            _, gso, _, segment, _, _ = VNET.unpack_from(buffer)
            self._slow(wire.parse(self._view[:length], base, length), gso, segment)
        except Malformed:
            return

    def _slow(self, packet: Packet, gso: int, segment: int) -> None:
        if len(packet.src) == 16 and not self._ipv6:
            return
        if packet.offset or packet.more:
            whole = self._fragments.add(packet, self.loop.now)
            if whole is None:
                return
            packet, segment = whole, 0
            if not wire.whole(packet):
                raise Malformed("checksum of the payload")
        elif not self.device.buffer[0] & _FLAGS_TRUSTED and not wire.whole(packet):
            raise Malformed("checksum of the payload")
        if packet.proto == TCP:
            ports = bytes(packet.payload[:4])
            self.tcp.receive(memoryview(packet.buffer), packet.src + packet.dst + ports,
                             packet.start, packet.end)
        elif packet.proto == UDP:
            if packet.end - packet.start >= 8 and self.reach.is_dns(packet.dst, packet.ports[1]):
                self.names.receive(packet)
            else:
                self.udp.receive(packet, segment if gso & 0x7F == GSO_UDP_L4 else 0)
        elif packet.proto == ICMPV6 and packet.payload[:1] == _SOLICIT:
            self._solicited(packet)
        elif packet.proto in (ICMP, ICMPV6):
            self.icmp.receive(packet)

    def _solicited(self, packet: Packet) -> None:
        """A neighbour solicitation: only a TAP has neighbours."""
        found = self.link.neighbour(packet) if self.link is not None else None
        if found is not None:
            source, message = found
            head = wire.ip(source, packet.src, ICMPV6, len(message), ttl=255)
            self.device.send(self.prefix(source), head, message)

    # ---- what may be dialled --------------------------------------------------------------------

    def targets(self, proto: str, peer: tuple[bytes, int],
                remote: tuple[bytes, int]) -> list[Address]:
        """Where the peer is led that dials `remote`; nowhere, and that noted, where it must not."""
        found = self.reach.targets(*remote) if self.allows(proto, remote) else []
        if not found:
            self.journal.add("denied", proto, peer, remote)
        return found

    def allows(self, proto: str, remote: tuple[bytes, int]) -> bool:
        """What the rules say. Our DNS is no way out, so they are not asked about it."""
        rules = self.rules
        if not rules.lines and rules.allow:
            return True
        address, port = remote
        return self.reach.is_dns(address, port) or rules.allows(address, port, proto,
                                                                self.learned.names(address))

    def set_rules(self, rules: Rules) -> None:
        """For what is dialled from now on; what is open and no longer allowed ends."""
        self.rules = rules
        self.tcp.enforce()
        self.udp.enforce()

    def set_rates(self, up: int | None, down: int | None) -> None:
        """Limits in bits per second; None: no limit."""
        self.tcp.up = Bucket(self.loop, up) if up is not None else None
        self.tcp.down = Bucket(self.loop, down) if down is not None else None

    # ---- packets out ----------------------------------------------------------------------------

    def largest(self, source: bytes) -> int:
        """The payload that an IP packet from this address may have."""
        return self.mtu - (20 if len(source) == 4 else 40)

    def send_ip(self, src: bytes, dst: bytes, proto: int, payload: bytes) -> None:
        """A payload whose checksums are made, in fragments where it has to be."""
        if len(payload) <= self.largest(src):
            self.device.send(self.prefix(src), wire.ip(src, dst, proto, len(payload)), payload)
            return
        self._ident = (self._ident + 1) & 0xFFFFFFFF
        for packet in cut(src, dst, proto, payload, self.mtu, self._ident):
            self.device.send(self.prefix(src), packet)

    def send_udp(self, src: bytes, dst: bytes, sport: int, dport: int, data: bytes | memoryview,
                 segment: int = 0) -> None:
        """A datagram, its checksum left to the kernel; `segment`: many, each of this size."""
        length = 8 + len(data)
        if length > self.largest(src) and not segment:
            data = bytes(data)
            self.send_ip(src, dst, UDP, wire.udp(src, dst, sport, dport, data) + data)
            return
        prefix, head = self.prefix(src), wire.ip(src, dst, UDP, length)
        start = len(prefix) - VNET_SIZE + len(head)
        vnet = VNET.pack(VNET_NEEDS_CSUM, GSO_UDP_L4 if segment else 0, start + 8 if segment else 0,
                         segment, start, 6)
        partial = wire.fold(wire.pseudo(src, dst, UDP, length))
        self.device.send(vnet + prefix[VNET_SIZE:] + head
                         + wire.UDP_HEADER.pack(sport, dport, length, partial), data)

    def unreachable(self, why: str, source: bytes, destination: bytes, quoted: bytes) -> None:
        """Tell `destination` that what it sent, `quoted`, did not arrive; `why` as in _CODES.
        Never about what was sent to a group (RFC 1122 3.2.2, RFC 4443 2.4)."""
        if source[0] >= 224 if len(source) == 4 else source[0] == 255:
            return
        gateway = self.reach.gateways.get(len(source), source)
        code, code6 = _CODES[why]
        if len(source) == 4:
            message = wire.icmp(gateway, destination, wire.UNREACHABLE, code, 0, 0, quoted[:548])
            self.send_ip(gateway, destination, ICMP, message)
        else:
            message = wire.icmp(gateway, destination, wire.UNREACHABLE6, code6, 0, 0,
                                quoted[:1192])
            self.send_ip(gateway, destination, ICMPV6, message)
