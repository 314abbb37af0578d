"""Packets in, to the protocol they belong to; packets out, as the device takes them."""

from __future__ import annotations

import os

from slirp import wire
from slirp.connections import Connections
from slirp.device import VNET_SIZE
from slirp.reach import Reach
from slirp.wire import ICMP, ICMPV6, TCP, UDP, VNET, VNET_NEEDS_CSUM, Malformed, Packet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from slirp.device import Device
    from slirp.loop import Loop
    from slirp.options import Options

# Packets taken before the acknowledgments they made due are sent, and others have their turn.
_BATCH = 32
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
        self.reach = reach or Reach(options)
        self._ipv6 = options.ipv6
        self._random = random
        self._view = memoryview(device.buffer)
        self.tcp = Connections(self, options.flows, random)

    def prefix(self, source: bytes) -> bytes:
        """What stands before an IP header from this address: a virtio header, and a TAP's."""
        return _NO_VNET

    def ready(self, _events: int) -> None:
        """The loop's handler of the device."""
        read = self.device.read
        for _ in range(_BATCH):
            length = read()
            if length <= 0:
                if length < 0:
                    self.loop.stop()
                break
            self.packet(length)
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
            self._slow(wire.parse(self._view[:length], base, length))
        except Malformed:
            return

    def _slow(self, packet: Packet) -> None:
        if packet.at != self.device.base or (len(packet.src) == 16 and not self._ipv6):
            return
        if not self.device.buffer[0] & _FLAGS_TRUSTED and not wire.whole(packet):
            raise Malformed("checksum of the payload")
        if packet.proto == TCP:
            ports = packet.payload[:4]
            self.tcp.receive(self._view, packet.src + packet.dst + bytes(ports), packet.start,
                             packet.end)

    def send_ip(self, src: bytes, dst: bytes, proto: int, payload: bytes) -> None:
        """One packet whose checksums are made."""
        self.device.send(self.prefix(src), wire.ip(src, dst, proto, len(payload)), payload)

    def unreachable(self, why: str, source: bytes, destination: bytes, quoted: bytes) -> None:
        """Tell `destination` that what it sent, `quoted`, did not arrive; `why` as in _CODES."""
        gateway = self.reach.gateways.get(len(source), source)
        code, code6 = _CODES[why]
        if len(source) == 4:
            message = wire.icmp(gateway, destination, wire.UNREACHABLE, code, 0, 0, quoted[:548])
            self.send_ip(gateway, destination, ICMP, message)
        else:
            message = wire.icmp(gateway, destination, wire.UNREACHABLE6, code6, 0, 0,
                                quoted[:1192])
            self.send_ip(gateway, destination, ICMPV6, message)


__all__ = ["ICMP", "ICMPV6", "UDP", "VNET", "VNET_NEEDS_CSUM", "Stack"]
