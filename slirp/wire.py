"""Headers on the wire: where their fields are, and the Internet checksum.

A header is a `struct` with its fields named in the order of its RFC's diagram. Addresses are bytes,
4 or 16 of them, everywhere in this package; ports and sequence numbers are integers. Hot paths
unpack by these structs in place; what is rare goes through `parse` and the builders below, which
are each other's inverse.

The checksum of RFC 1071 is the remainder by 65535 of the bytes taken as one big number, as 2^16
is 1 modulo 65535; the interpreter computes that in C.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Union

    Buffer = Union[bytes, bytearray, memoryview]

# <linux/virtio_net.h> struct virtio_net_hdr, in the host's byte order:
#   flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
VNET = struct.Struct("=BBHHHH")
VNET_NEEDS_CSUM, VNET_DATA_VALID = 1, 2
GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4 = 0, 1, 4, 5
GSO_ECN = 0x80

# IEEE 802.3: destination, source, type
ETHERNET = struct.Struct("!6s6sH")
ETH_IPV4, ETH_ARP, ETH_IPV6 = 0x0800, 0x0806, 0x86DD

# RFC 826 for Ethernet and IPv4: hardware, protocol, lengths, operation, sender's MAC and address,
# target's MAC and address
ARP = struct.Struct("!HHBBH6s4s6s4s")

# RFC 791: version and header length, service, total length, identification, flags and fragment
# offset, time to live, protocol, checksum, source, destination
IPV4 = struct.Struct("!BBHHHBBH4s4s")
IPV4_DF, IPV4_MF, IPV4_OFFSET = 0x4000, 0x2000, 0x1FFF

# RFC 8200: version, class and flow, payload length, next header, hop limit, source, destination
IPV6 = struct.Struct("!IHBB16s16s")
# RFC 8200 4.5: next header, reserved, offset and more, identification
FRAGMENT = struct.Struct("!BBHI")

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
HOP_BY_HOP, ROUTING, FRAGMENTED, DESTINATION_OPTIONS = 0, 43, 44, 60

# RFC 9293: ports, sequence, acknowledgment, data offset and flags, window, checksum, urgent
TCP_HEADER = struct.Struct("!HHIIHHHH")
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16

# RFC 768: ports, length, checksum
UDP_HEADER = struct.Struct("!HHHH")

# RFC 792, RFC 4443: type, code, checksum, and four bytes that depend on the type
ICMP_HEADER = struct.Struct("!BBHHH")
ECHO_REPLY, UNREACHABLE, ECHO, TIME_EXCEEDED = 0, 3, 8, 11
NET_UNREACHABLE, HOST_UNREACHABLE, PORT_UNREACHABLE, TOO_BIG, PROHIBITED = 0, 1, 3, 4, 13
ECHO6, ECHO_REPLY6, UNREACHABLE6, TOO_BIG6, TIME_EXCEEDED6 = 128, 129, 1, 2, 3
NO_ROUTE6, PROHIBITED6, ADDRESS6, PORT6 = 0, 1, 3, 4
ROUTER_SOLICIT, ROUTER_ADVERT, NEIGHBOUR_SOLICIT, NEIGHBOUR_ADVERT = 133, 134, 135, 136

HOP_LIMIT = 64

_PORTS = struct.Struct("!HH")


class Malformed(Exception):
    """A packet that is not what its headers say; it is dropped."""


class Packet:
    """An IP packet in a buffer: its addresses, and the payload's protocol and place.

    `start` and `end` bound the payload in `buffer`, `at` is where the IP header begins. `offset`,
    `more` and `ident` are those of a fragment, else 0, False and 0.
    """

    __slots__ = ("at", "buffer", "dst", "end", "ident", "more", "offset", "proto", "src", "start",
                 "ttl")

    def __init__(self, buffer: Buffer, at: int, src: bytes, dst: bytes, proto: int, start: int,
                 end: int, *, ttl: int = HOP_LIMIT, offset: int = 0, more: bool = False,
                 ident: int = 0) -> None:
        self.buffer = buffer
        self.at = at
        self.src = src
        self.dst = dst
        self.proto = proto
        self.start = start
        self.end = end
        self.ttl = ttl
        self.offset = offset
        self.more = more
        self.ident = ident

    @property
    def payload(self) -> memoryview:
        return memoryview(self.buffer)[self.start:self.end]

    @property
    def ports(self) -> tuple[int, int]:
        """Source and destination port, of UDP or TCP."""
        if self.end - self.start < 8:
            raise Malformed("no room for ports")
        source, destination = _PORTS.unpack_from(self.buffer, self.start)
        return source, destination


def checksum(*parts: Buffer, start: int = 0) -> int:
    """RFC 1071 over the parts, of which all but the last have an even length; the complement, as it
    stands in a header. `start` is a sum to add, of a pseudo-header for example."""
    total = start
    for part in parts:
        value = int.from_bytes(part, "big")
        total += value << 8 if len(part) & 1 else value
    # A sum of all zeros only comes from zeros; any other multiple of 65535 is the other zero.
    rest = total % 65535
    return 0xFFFF - (rest if rest or not total else 0xFFFF)


def fold(value: int) -> int:
    """A sum of 16-bit words, below 2^32, as one of 16 bits."""
    value = (value & 0xFFFF) + (value >> 16)
    return (value & 0xFFFF) + (value >> 16)


def pseudo(src: bytes, dst: bytes, proto: int, length: int) -> int:
    """The sum of the pseudo-header (RFC 9293 3.1, RFC 8200 8.1), of any size."""
    return int.from_bytes(src + dst, "big") % 65535 + proto + length


def parse(buffer: Buffer, at: int, end: int) -> Packet:
    """The IP packet in buffer[at:end].

    Raises Malformed; never anything else, whatever the bytes are.
    """
    if end - at < 20:
        raise Malformed("shorter than a header")
    version = buffer[at] >> 4
    if version == 4:
        return _parse4(buffer, at, end)
    if version == 6:
        return _parse6(buffer, at, end)
    raise Malformed(f"IP version {version}")


def _parse4(buffer: Buffer, at: int, end: int) -> Packet:
    first, _, total, ident, fragment, ttl, proto, _, src, dst = IPV4.unpack_from(buffer, at)
    size = (first & 15) * 4
    if size < 20 or total < size or at + total > end:
        raise Malformed("lengths")
    if checksum(memoryview(buffer)[at:at + size]):
        raise Malformed("checksum of the header")
    return Packet(buffer, at, src, dst, proto, at + size, at + total, ttl=ttl,
                  offset=(fragment & IPV4_OFFSET) * 8, more=bool(fragment & IPV4_MF), ident=ident)


def _parse6(buffer: Buffer, at: int, end: int) -> Packet:
    if end - at < 40:
        raise Malformed("shorter than a header")
    _, length, proto, ttl, src, dst = IPV6.unpack_from(buffer, at)
    start, stop = at + 40, at + 40 + length
    if stop > end:
        raise Malformed("lengths")
    packet = Packet(buffer, at, src, dst, proto, start, stop, ttl=ttl)
    while proto in (HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS, FRAGMENTED):
        if stop - start < 8:
            raise Malformed("extension header")
        if proto == FRAGMENTED:
            if packet.ident or packet.more or packet.offset:
                raise Malformed("two fragment headers")
            proto, _, place, packet.ident = FRAGMENT.unpack_from(buffer, start)
            packet.offset, packet.more = place & 0xFFF8, bool(place & 1)
            start += 8
            if packet.offset or packet.more:
                break       # what follows is not a header yet
            packet.ident = 0
            continue
        proto = buffer[start]
        start += 8 + buffer[start + 1] * 8
        if start > stop:
            raise Malformed("extension header")
    packet.proto, packet.start = proto, start
    return packet


def whole(packet: Packet) -> bool:
    """Is the checksum of the payload right? UDP over IPv4 may have none (RFC 768)."""
    proto, payload = packet.proto, packet.payload
    if proto == ICMP:
        return checksum(payload) == 0
    if proto == UDP and len(payload) >= 8 and len(packet.src) == 4 and not any(payload[6:8]):
        return True
    return checksum(payload, start=pseudo(packet.src, packet.dst, proto, len(payload))) == 0


def ip(src: bytes, dst: bytes, proto: int, length: int, *, ident: int = 0, place: int = IPV4_DF,
       ttl: int = HOP_LIMIT) -> bytes:
    """The IP header before `length` bytes of payload. `place` is IPv4's word of flags and
    fragment offset."""
    if len(src) == 16:
        return IPV6.pack(6 << 28, length, proto, ttl, src, dst)
    head = bytearray(IPV4.pack(0x45, 0, 20 + length, ident, place, ttl, proto, 0, src, dst))
    head[10:12] = checksum(head).to_bytes(2, "big")
    return bytes(head)


def udp(src: bytes, dst: bytes, sport: int, dport: int, payload: Buffer) -> bytes:
    """A UDP header with its checksum."""
    length = 8 + len(payload)
    head = UDP_HEADER.pack(sport, dport, length, 0)
    found = checksum(head, payload, start=pseudo(src, dst, UDP, length))
    return UDP_HEADER.pack(sport, dport, length, found or 0xFFFF)


def icmp(src: bytes, dst: bytes, kind: int, code: int, first: int, second: int,
         body: Buffer) -> bytes:
    """A whole ICMP or ICMPv6 message; `first` and `second` are the words that the type defines."""
    head = ICMP_HEADER.pack(kind, code, 0, first, second)
    start = pseudo(src, dst, ICMPV6, 8 + len(body)) if len(src) == 16 else 0
    return ICMP_HEADER.pack(kind, code, checksum(head, body, start=start), first, second) + body


def tcp(src: bytes, dst: bytes, sport: int, dport: int, seq: int, ack: int, flags: int,
        window: int, options: bytes = b"", payload: Buffer = b"", urgent: int = 0) -> bytes:
    """A whole TCP segment. `options` is padded to four bytes."""
    options += bytes(-len(options) % 4)
    word = (20 + len(options)) << 10 | flags
    head = bytearray(TCP_HEADER.pack(sport, dport, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, word, window,
                                     0, urgent) + options + payload)
    found = checksum(head, start=pseudo(src, dst, TCP, len(head)))
    head[16:18] = found.to_bytes(2, "big")
    return bytes(head)


# RFC 9293 3.2, RFC 7323, RFC 2018
MSS_OPTION, SCALE_OPTION, SACK_PERMITTED, SACK = 2, 3, 4, 5


def tcp_options(raw: Buffer) -> dict[int, bytes]:
    """Kind to value. What comes after an option that is malformed is not looked at."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(raw):
        kind = raw[at]
        if kind == 0:
            break
        if kind == 1:
            at += 1
            continue
        size = raw[at + 1] if at + 1 < len(raw) else 0
        if size < 2 or at + size > len(raw):
            break
        found[kind] = bytes(raw[at + 2:at + size])
        at += size
    return found
