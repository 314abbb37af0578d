"""Ethernet, where the device is a TAP: who has which address.

There is one kernel on the other end, whose MAC address is known from the beginning, as we made its
device, and learned again from what it says. We have one MAC address for all addresses of ours, and
answer for no other: whatever else the kernel wants to reach goes by its default route, to us.
"""

from __future__ import annotations

from slirp import wire
from slirp.wire import ARP, ETH_ARP, ETH_IPV4, ETH_IPV6, ETHERNET, Malformed, Packet

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Set

SIZE = ETHERNET.size
# Locally administered; the rest is that of slirp4netns's gateway, whose users may have noted it.
OURS = bytes.fromhex("525500000202")
_REQUEST, _REPLY = 1, 2
_TARGET_LINK = 2        # RFC 4861 4.6.1: option with the target's MAC address
# RFC 4861 4.4: solicited, override; the first word of what follows the checksum
_SOLICITED_OVERRIDE = 0x6000


class Link:
    """`guest` is the other kernel's MAC address; `addresses` are those that are ours."""

    def __init__(self, guest: bytes, addresses: Set[bytes]) -> None:
        self._addresses = addresses
        self._learn(guest)

    def _learn(self, guest: bytes) -> None:
        self._header4 = ETHERNET.pack(guest, OURS, ETH_IPV4)
        self._header6 = ETHERNET.pack(guest, OURS, ETH_IPV6)

    def header(self, source: bytes) -> bytes:
        """What stands before an IP packet from this address."""
        return self._header4 if len(source) == 4 else self._header6

    def arp(self, frame: memoryview) -> bytes | None:
        """The answer to an ARP frame, if it wants one of us. Raises Malformed."""
        if len(frame) < SIZE + ARP.size:
            raise Malformed("ARP")
        _, _, kind = ETHERNET.unpack_from(frame)
        if kind != ETH_ARP:
            raise Malformed("neither IP nor ARP")
        (hardware, proto, sizes, sub, operation, mac, sender, _,
         target) = ARP.unpack_from(frame, SIZE)
        if (hardware, proto, sizes, sub) != (1, ETH_IPV4, 6, 4):
            raise Malformed("ARP of something else")
        if any(sender):                 # a probe for duplicates has none
            self._learn(mac)
        if operation != _REQUEST or target not in self._addresses:
            return None
        return (ETHERNET.pack(mac, OURS, ETH_ARP)
                + ARP.pack(1, ETH_IPV4, 6, 4, _REPLY, OURS, target, mac, sender))

    def neighbour(self, packet: Packet) -> tuple[bytes, bytes] | None:
        """The source and the message that answer a neighbour solicitation (RFC 4861 7.2.4), if it
        asks for us. Raises Malformed."""
        payload = packet.payload
        if len(payload) < 24 or packet.ttl != 255:
            raise Malformed("neighbour solicitation")
        target = bytes(payload[8:24])
        if target not in self._addresses or not any(packet.src):
            return None
        body = target + bytes((_TARGET_LINK, 1)) + OURS
        return target, wire.icmp(target, packet.src, wire.NEIGHBOUR_ADVERT, 0,
                                 _SOLICITED_OVERRIDE, 0, body)


