"""Published ports and the control socket."""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slirp import api, wire
from slirp.api import Api
from slirp.connections import join
from slirp.forward import Forwards
from slirp.options import SlirpError
from slirp.reach import Reach, pack, show
from slirp.udp import ANSWERED
from slirp.wire import ACK, FIN, RST, SYN, TCP, UDP
from tests.unit.slirp_inside import Inside

GUEST4, GUEST6 = "10.0.2.100", "fd00::100"


class Open(Reach):
    """Loopback counts as a client's address like any other, as tests have no others."""

    def client(self, address: bytes) -> bool:
        return True


class Published:
    """A port of the host's loopback that leads to port 80 inside."""

    def __init__(self, *, v6: bool = False, proto: str = "tcp", preserve: bool = True) -> None:
        self.inside = Inside(v6=v6, listen=False, reach=Open if preserve else Reach)
        self.forwards = Forwards(self.inside.stack)
        self.host = "::1" if v6 else "127.0.0.1"
        self.guest = GUEST6 if v6 else GUEST4
        self.number = self.forwards.add(proto, (self.host, 0), (self.guest, 80))
        self.port = self.forwards.table[self.number].host[1]
        self.kind = socket.AF_INET6 if v6 else socket.AF_INET

    def client(self, kind: int = socket.SOCK_STREAM) -> socket.socket:
        one = socket.socket(self.kind, kind)
        one.settimeout(5)
        try:
            one.connect((self.host, self.port))
        except OSError:
            one.close()
            raise
        return one

    def syn(self) -> tuple[wire.Packet, int]:
        """The SYN that goes inside, and its sequence number; the peer takes it as its own."""
        inside = self.inside
        inside.until(lambda: inside.device.sent, "a SYN")
        packet, = inside.packets()
        assert packet.proto == TCP
        sport, dport, seq, _, word, _, _, _ = wire.TCP_HEADER.unpack_from(packet.buffer,
                                                                          packet.start)
        assert (word & 0x3F, dport) == (SYN, 80)
        inside.host, inside.port = packet.src, sport
        inside.seq, inside.ack = 5000, seq + 1
        return packet, seq

    def answer(self) -> None:
        """As the service does that listens."""
        self.inside.send(SYN | ACK, seq=4999, sport=80, options=bytes((2, 4, 5, 180, 1, 3, 3, 0)))

    def close(self) -> None:
        for number in list(self.forwards.table):
            self.forwards.remove(number)
        self.inside.close()


@pytest.fixture(params=[False, True], ids=["ipv4", "ipv6"])
def v6(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def tcp(v6: bool) -> Iterator[Published]:
    one = Published(v6=v6)
    yield one
    one.close()


@pytest.fixture
def udp(v6: bool) -> Iterator[Published]:
    one = Published(v6=v6, proto="udp")
    yield one
    one.close()


def test_the_service_sees_the_client(tcp: Published) -> None:
    with tcp.client() as client:
        packet, _ = tcp.syn()
        address, port = client.getsockname()[:2]
        assert (show(packet.src), packet.ports[0]) == (address, port)
        assert show(packet.dst) == tcp.guest


def test_a_client_without_a_meaning_inside_is_the_gateway(v6: bool) -> None:
    one = Published(v6=v6, preserve=False)
    with one.client() as client:
        packet, _ = one.syn()
        assert show(packet.src) == ("fd00::1" if v6 else "10.0.2.1")
        assert packet.ports[0] == client.getsockname()[1], "its port is kept"
    one.close()


def test_bytes_go_both_ways_from_outside(tcp: Published) -> None:
    with tcp.client() as client:
        client.sendall(b"request")
        tcp.syn()
        tcp.answer()
        inside = tcp.inside
        got = inside.got()
        assert (got[0].flags, got[0].ack) == (ACK, 5000)
        assert got[1].data == b"request"
        inside.ack += 7
        inside.send(ACK | FIN, b"response", sport=80)
        assert client.recv(99) == b"response"
        assert client.recv(99) == b""
        client.close()
        inside.until(lambda: any(s.flags & FIN for s in inside.got()), "a FIN")
        inside.seq += 9
        inside.ack += 1
        inside.send(ACK, sport=80)
        assert not inside.stack.tcp.table


def test_a_service_that_refuses_resets_the_client(tcp: Published) -> None:
    with tcp.client() as client:
        _, seq = tcp.syn()
        tcp.inside.send(RST | ACK, seq=0, ack=seq + 1, sport=80)
        tcp.inside.loop.turn(0)
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_guess_does_not_open_or_refuse(tcp: Published) -> None:
    with tcp.client():
        _, seq = tcp.syn()
        tcp.inside.send(RST | ACK, seq=0, ack=seq + 2, sport=80)
        assert tcp.inside.got() == []
        tcp.inside.send(SYN | ACK, seq=0, ack=seq + 2, sport=80)
        assert tcp.inside.got()[0][:2] == (RST, seq + 2)
        assert len(tcp.inside.stack.tcp.table) == 1


def test_what_the_service_remembers_of_a_connection_before_is_reset(tcp: Published) -> None:
    """A peer in TIME_WAIT answers a SYN that it takes for an old one with an ACK."""
    with tcp.client() as client:
        _, seq = tcp.syn()
        tcp.inside.send(ACK, seq=77, ack=seq - 1000, sport=80)
        reset, again = tcp.inside.got()
        assert reset[:2] == (RST, (seq - 1000) & 0xFFFFFFFF)
        assert again[:2] == (SYN, seq)
        tcp.answer()
        tcp.inside.send(ACK, b"hello", sport=80)
        assert client.recv(9) == b"hello"


def test_of_the_same_ends_each_connection_begins_beyond_the_last(tcp: Published) -> None:
    table = tcp.inside.stack.tcp
    key = join((pack(tcp.guest), 80), (pack(tcp.host), 4000))
    first = table.initial(key)
    tcp.inside.pass_time(1)
    later = table.initial(key)
    assert 0 < (later - first) & 0xFFFFFFFF < 1 << 31
    other = join((pack(tcp.guest), 80), (pack(tcp.host), 4001))
    assert table.initial(other) != later


def test_a_service_that_is_not_there_ends_the_client(tcp: Published) -> None:
    with tcp.client() as client:
        tcp.syn()
        tcp.inside.pass_time(120)
        assert len(tcp.inside.packets()) >= 3, "more than one try"
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_an_unreachable_service_resets_the_client_at_once(tcp: Published) -> None:
    inside = tcp.inside
    with tcp.client() as client:
        packet, _ = tcp.syn()
        v6 = len(packet.src) == 16
        quoted = bytes(packet.buffer[packet.at:packet.end])
        message = wire.icmp(inside.me, packet.src, 1 if v6 else 3, 3 if v6 else 1, 0, 0, quoted)
        inside.put(wire.ip(inside.me, packet.src, wire.ICMPV6 if v6 else wire.ICMP, len(message))
                   + message)
        inside.loop.turn(0)
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_datagrams_come_from_their_client_and_go_back(udp: Published) -> None:
    inside = udp.inside
    with udp.client(socket.SOCK_DGRAM) as one, udp.client(socket.SOCK_DGRAM) as two:
        for client in (one, two):
            client.send(b"question")
            inside.until(lambda: inside.device.sent, "a datagram")
            packet, = inside.packets()
            assert (show(packet.src), packet.ports) == (client.getsockname()[0],
                                                        (client.getsockname()[1], 80))
            body = wire.udp(inside.me, packet.src, 80, packet.ports[0], b"answer") + b"answer"
            inside.put(wire.ip(inside.me, packet.src, UDP, len(body)) + body)
            assert client.recv(99) == b"answer"
        assert not inside.stack.udp.table, "no flow of the inside's own was made"
        inside.pass_time(ANSWERED + 60)
        assert not inside.stack.udp.inbound


def test_a_port_that_is_taken_is_said(v6: bool) -> None:
    one = Published(v6=v6)
    with pytest.raises(OSError) as caught:
        one.forwards.add("tcp", (one.host, one.port), (one.guest, 80))
    assert caught.value.errno == errno.EADDRINUSE
    assert str(one.port) in caught.value.filename
    one.close()


@pytest.mark.parametrize("words, says", [
    (("sctp", ("127.0.0.1", 0), (GUEST4, 80)), "protocol sctp"),
    (("tcp", ("127.0.0.1", 65536), (GUEST4, 80)), "port 65536"),
    (("tcp", ("127.0.0.1", 0), (GUEST4, 0)), "port 0"),
    (("tcp", ("localhost", 0), (GUEST4, 80)), "localhost"),
    (("tcp", ("127.0.0.1", 0), ("guest", 80)), "guest"),
])
def test_what_makes_no_sense_is_said(words: tuple[Any, ...], says: str) -> None:
    inside = Inside(listen=False)
    with pytest.raises(SlirpError, match=says):
        Forwards(inside.stack).add(*words)
    inside.close()


def test_after_removal_nobody_listens(tcp: Published) -> None:
    tcp.forwards.remove(tcp.number)
    tcp.inside.loop.turn(0)
    with pytest.raises(ConnectionRefusedError):
        tcp.client()
    with pytest.raises(SlirpError, match="no published port"):
        tcp.forwards.remove(tcp.number)


# ---- the control socket -------------------------------------------------------------------------

class Control:
    def __init__(self, path: Path) -> None:
        self.path = str(path / "api.sock")
        self.inside = Inside(listen=False)
        self.forwards = Forwards(self.inside.stack)
        self.listener = api.listen(self.path)
        self.api = Api(self.inside.stack, self.forwards, self.listener, guest4=GUEST4,
                       guest6=GUEST6)

    def raw(self, *parts: bytes, shut: bool = True) -> bytes:
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(self.path)
            for part in parts:
                one.sendall(part)
                self.inside.settle()
            if shut:
                one.shutdown(socket.SHUT_WR)
            one.setblocking(False)
            got: list[bytes] = []

            def more() -> bool:
                try:
                    got.append(one.recv(65536))
                except BlockingIOError:
                    return False
                return not got[-1]

            self.inside.until(more, "an answer")
            return b"".join(got)

    def ask(self, execute: str, **arguments: object) -> Any:
        return json.loads(self.raw(json.dumps(
            {"execute": execute, "arguments": arguments}).encode()))


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    one = Control(tmp_path)
    yield one
    for number in list(one.forwards.table):
        one.forwards.remove(number)
    one.listener.close()
    one.inside.close()


def test_a_port_is_published_listed_and_removed(control: Control) -> None:
    made = control.ask("add_hostfwd", proto="tcp", host_addr="127.0.0.1", host_port=0,
                       guest_port=80)["return"]
    wanted = {"id": made["id"], "proto": "tcp", "host_addr": "127.0.0.1",
              "host_port": made["host_port"], "guest_addr": GUEST4, "guest_port": 80}
    assert made["host_port"] > 0
    assert control.ask("list_hostfwd") == {"return": {"entries": [wanted]}}
    assert control.ask("remove_hostfwd", id=made["id"]) == {"return": {}}
    assert control.ask("list_hostfwd") == {"return": {"entries": []}}


def test_ipv6_by_protocol_or_by_address(control: Control) -> None:
    for words in ({"proto": "udp6"}, {"proto": "udp", "host_addr": "::1"}):
        made = control.ask("add_hostfwd", host_port=0, guest_port=80, **words)
        found = control.forwards.table[made["return"]["id"]]
        assert show(found.guest[0]) == GUEST6


@pytest.mark.parametrize("execute, arguments, says", [
    ("no_such", {}, "no such command"),
    ("add_hostfwd", {"proto": "tcp", "guest_port": 80}, "host_port"),
    ("add_hostfwd", {"proto": "tcp", "host_port": "80", "guest_port": 80}, "number"),
    ("add_hostfwd", {"proto": "tcp9", "host_port": 80, "guest_port": 80}, "tcp9"),
    ("add_hostfwd", {"host_port": 80, "guest_port": 80}, "proto"),
    ("add_hostfwd", {"proto": "tcp4", "host_addr": "::", "host_port": 0, "guest_port": 8}, "IPv4"),
    ("remove_hostfwd", {"id": 77}, "77"),
    ("set_inside", {"subnets": ["nonsense"]}, "nonsense"),
    ("set_inside", {"subnets": 7}, "list"),
    ("set_rules", {"rules": ["allow"]}, "allow"),
    ("set_rules", {"rules": [], "default": "maybe"}, "default"),
    ("set_rates", {"up": 5}, "rate 5"),
    ("set_rates", {"down": "1M"}, "number"),
    ("log", {"since": "0"}, "number"),
    ("learn", {"name": "a.b", "addresses": ["nonsense"], "ttl": 1}, "nonsense"),
    ("learn", {"name": "a.b", "addresses": ["1.2.3.4"]}, "ttl"),
    ("learn", {"addresses": [], "ttl": 1}, "name"),
])
def test_a_request_that_makes_no_sense_is_answered(control: Control, execute: str,
                                                   arguments: dict[str, Any], says: str) -> None:
    answer = control.ask(execute, **arguments)
    assert says in answer["error"]["desc"]


def test_a_port_that_is_taken_answers_with_the_errno(control: Control) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        answer = control.ask("add_hostfwd", proto="tcp", host_addr="127.0.0.1",
                             host_port=taken.getsockname()[1], guest_port=80)["error"]
    assert answer["errno"] == errno.EADDRINUSE
    assert "Address already in use" in answer["desc"]


def test_a_request_may_come_in_pieces_and_without_an_end(control: Control) -> None:
    assert b"entries" in control.raw(b'{"execute": "list', b'_hostfwd"}', shut=False)


@settings(max_examples=50, deadline=None)
@given(raw=st.one_of(st.binary(max_size=60), st.sampled_from([
    b"[" * 5000, b"{}", b"[]", b"7", b'{"execute": 7}', b'{"execute": "info", "arguments": 7}'])))
def test_no_request_stops_the_loop(raw: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    one = Control(tmp_path_factory.mktemp("api"))
    answer = one.raw(raw)
    assert not answer or "error" in json.loads(answer)
    one.listener.close()
    one.inside.close()


def test_the_insides_networks_can_change(control: Control) -> None:
    stack = control.inside.stack
    assert stack.reach.targets(pack("10.99.0.1"), 80)
    control.ask("set_inside", subnets=["10.99.0.0/24"])
    assert not stack.reach.targets(pack("10.99.0.1"), 80)


def test_rules_can_change(control: Control) -> None:
    answer = control.ask("set_rules", rules=["allow 192.0.2.0/24"], default="deny")
    assert answer == {"return": {}}
    stack = control.inside.stack
    assert stack.allows("tcp", (pack("192.0.2.7"), 80))
    assert not stack.allows("tcp", (pack("198.51.100.7"), 80))
    control.ask("set_rules", rules=["allow *.example.org"], default="deny")
    control.ask("learn", name="A.example.org.", addresses=["198.51.100.7", "2001:db8::7"], ttl=60)
    assert stack.allows("tcp", (pack("198.51.100.7"), 80))
    assert stack.allows("tcp", (pack("2001:db8::7"), 80))
    assert control.ask("log") == {"return": {"entries": []}}
    assert control.ask("connections") == {"return": {"entries": []}}


def test_info_counts(control: Control) -> None:
    assert control.ask("info") == {"return": {"tcp": 0, "udp": 0, "lost": 0}}


def test_the_socket_of_one_that_is_dead_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    api.listen(path).close()
    with api.listen(path), pytest.raises(OSError):
        api.listen(path)


