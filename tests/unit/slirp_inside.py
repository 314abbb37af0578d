"""The other side of the device, by hand: a peer that sends what a test tells it, to a real stack
with real sockets on loopback, in a time that only the test moves."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import NamedTuple

from slirp import wire
from slirp.loop import Loop
from slirp.options import Options
from slirp.reach import Reach
from slirp.stack import Stack
from slirp.wire import ACK, FIN, PSH, RST, SYN, TCP

ME4, HOST4 = socket.inet_aton("10.0.2.100"), socket.inet_aton("10.0.2.2")
ME6, HOST6 = (socket.inet_pton(socket.AF_INET6, a) for a in ("fd00::100", "fd00::2"))
PORT = 40000
ISS = 0xFFFFFFF0        # the first bytes wrap around


class Segment(NamedTuple):
    flags: int
    seq: int
    ack: int
    window: int
    data: bytes
    options: dict[int, bytes]


class Device:
    """Stands for a TUN: what the stack sends lies in `sent`, in whole packets."""

    base = wire.VNET.size
    segments = True

    def __init__(self) -> None:
        self.buffer = bytearray(self.base + 65536)
        self.fd = -1
        self.lost = 0
        self.sent: list[bytes] = []

    def read(self) -> int:
        return 0

    def send(self, *parts: bytes | bytearray | memoryview) -> None:
        self.sent.append(b"".join(parts))


class Inside:
    """`port` is the service's, on the host's loopback; 0: there is none."""

    def __init__(self, *, v6: bool = False, listen: bool = True,
                 reach: Callable[[Options], Reach] = Reach, **options: object) -> None:
        self.time = 1000.0
        self.me, self.host = (ME6, HOST6) if v6 else (ME4, HOST4)
        self.device = Device()
        self.loop = Loop(clock=lambda: self.time)
        wanted = {"loopback4": "10.0.2.2", "loopback6": "fd00::2", "gateway4": "10.0.2.1",
                  "gateway6": "fd00::1", "inside": ("10.0.2.0/24", "fd00::/64"), **options}
        settings = Options(**wanted)        # type: ignore[arg-type]
        self.stack = Stack(self.loop, self.device, settings,    # type: ignore[arg-type]
                           reach=reach(settings))
        kind = socket.AF_INET6 if v6 else socket.AF_INET
        self.server = socket.socket(kind, socket.SOCK_STREAM)
        self.server.bind(("::1" if v6 else "127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        if listen:
            self.server.listen(16)
        else:
            self.server.close()
        self.seq, self.ack = ISS, 0
        self.outside = self.server

    def close(self) -> None:
        for connection in list(self.stack.tcp.table.values()):
            self.stack.tcp.broken(connection)
        self.loop.turn(0)
        self.server.close()
        self.outside.close()

    # ---- packets --------------------------------------------------------------------------------

    def put(self, packet: bytes, *, trusted: bool = False) -> None:
        """Give one IP packet to the stack, as the device would."""
        frame = bytes([trusted]) + bytes(self.device.base - 1) + packet
        self.device.buffer[:len(frame)] = frame
        self.loop.now = self.time
        self.stack.packet(len(frame))
        self.stack.tcp.flush()

    def send(self, flags: int = ACK, data: bytes = b"", *, seq: int | None = None,
             ack: int | None = None, window: int = 65535, options: bytes = b"",
             sport: int = PORT) -> None:
        seq = self.seq if seq is None else seq
        ack = self.ack if ack is None else ack
        body = wire.tcp(self.me, self.host, sport, self.port, seq, ack if flags & ACK else 0,
                        flags, window, options, data)
        self.put(wire.ip(self.me, self.host, TCP, len(body)) + body)
        self.pass_time(0.002)       # an acknowledgment may wait so long for company

    def packets(self) -> list[wire.Packet]:
        """What the stack has sent since the last look, cut as the kernel cuts it."""
        sent, self.device.sent = self.device.sent, []
        return [wire.parse(frame, self.device.base, len(frame)) for frame in sent]

    def got(self) -> list[Segment]:
        found = []
        for packet in self.packets():
            assert packet.proto == TCP, f"protocol {packet.proto}"
            _, _, seq, ack, word, window, _, _ = wire.TCP_HEADER.unpack_from(packet.buffer,
                                                                             packet.start)
            at = packet.start + (word >> 10 & 0x3C)
            found.append(Segment(word & 0x1F, seq, ack, window, bytes(packet.buffer[at:packet.end]),
                                 wire.tcp_options(packet.buffer[packet.start + 20:at])))
        return found

    def one(self) -> Segment:
        segments = self.got()
        assert len(segments) == 1, segments
        return segments[0]

    # ---- time -----------------------------------------------------------------------------------

    def pass_time(self, seconds: float) -> None:
        """Timers see each moment that they asked for."""
        end = self.time + seconds
        while self.loop._timers and self.loop._timers[0][0] <= end:
            self.time = max(self.time, self.loop._timers[0][0])
            self.loop.turn(0)
        self.time = end
        self.loop.turn(0)

    def until(self, done: Callable[[], object], what: str) -> None:
        """Turn the loop, in real time, until something outside has happened."""
        limit = time.monotonic() + 5
        while not done():
            assert time.monotonic() < limit, f"never: {what}"
            self.loop.turn(0)
            time.sleep(0.0005)

    def settle(self) -> None:
        """Let what is already on its way through the host's loopback arrive."""
        for _ in range(5):
            time.sleep(0.001)
            self.loop.turn(0)

    # ---- the usual beginning --------------------------------------------------------------------

    def connect(self, *, window: int = 65535, mss: int = 1460, scale: int | None = 0,
                sack: bool = False) -> None:
        """The whole handshake; `outside` is the service's socket afterwards."""
        options = bytes((2, 4)) + mss.to_bytes(2, "big")
        if scale is not None:
            options += bytes((1, 3, 3, scale))
        if sack:
            options += bytes((4, 2))
        self.send(SYN, window=window, options=options)
        self.until(lambda: self.device.sent, "the SYN is answered")
        answer = self.one()
        assert answer.flags == SYN | ACK
        assert answer.ack == (ISS + 1) & 0xFFFFFFFF
        self.seq, self.ack = ISS + 1, answer.seq + 1
        self.send(ACK, window=window)
        self.outside, _ = self.server.accept()
        self.outside.settimeout(5)

    def write(self, data: bytes) -> None:
        """In order, acknowledging what was seen."""
        self.send(ACK | PSH, data)
        self.seq += len(data)

    def read(self, size: int, *, window: int = 65535) -> bytes:
        """`size` bytes, acknowledging each segment."""
        data = b""
        while len(data) < size:
            self.until(lambda: self.device.sent, f"{size - len(data)} more bytes")
            for segment in self.got():
                if segment.data and segment.seq == self.ack & 0xFFFFFFFF:
                    data += segment.data
                    self.ack += len(segment.data)
                    self.send(ACK, window=window)
        return data


__all__ = ["ACK", "FIN", "ISS", "PORT", "PSH", "RST", "SYN", "Device", "Inside", "Segment"]
