"""The name server: what it knows it answers, the rest it asks others, and nonsense harms nobody."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.network import dns, resolver
from rootless.network.loop import Loop
from rootless.network.ways import Direct

WEB = bytes((10, 88, 0, 2))
WEB6 = bytes.fromhex("fd000000000000000000000000000002")
LABELS = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=63)


def question(name: str, kind: int = dns.A, number: int = 7, flags: int = 0x0100) -> bytes:
    labels = b"".join(bytes((len(p),)) + p.encode() for p in name.split(".") if p) + b"\0"
    return struct.pack("!HHHHHH", number, flags, 1, 0, 0, 0) + labels + struct.pack("!HH", kind, 1)


def read(data: bytes) -> tuple[int, int, list[bytes]]:
    """(code, flags, data of the answers), for answers that point to the question."""
    _, flags, _, count, _, _ = struct.unpack_from("!HHHHHH", data)
    query = dns.parse(data[:2] + b"\1\0" + data[4:6] + bytes(6) + data[12:])
    at = 12 + len(query.question)
    found = []
    for _ in range(count):
        length = struct.unpack_from("!H", data, at + 10)[0]
        found.append(data[at + 12:at + 12 + length])
        at += 12 + length
    assert at == len(data)
    return flags & 15, flags, found


# ---- messages ----------------------------------------------------------------------------------

@given(st.lists(LABELS, min_size=1, max_size=3), st.integers(0, 65535), st.integers(0, 65535))
def test_a_question_is_read_as_it_was_asked(labels: list[str], kind: int, number: int) -> None:
    name = ".".join(labels)
    found = dns.parse(question(name.upper(), kind, number))
    assert (found.name, found.kind, found.id) == (name, kind, number)
    assert found.question == question(name.upper(), kind, number)[12:]


@given(st.binary(max_size=300))
def test_no_bytes_make_the_reader_fail_otherwise(data: bytes) -> None:
    try:
        dns.parse(data)
    except ValueError:
        pass


@pytest.mark.parametrize("data", [
    b"", question("a")[:-1], question("a", flags=0x8100),
    question("a")[:4] + b"\0\2" + question("a")[6:],
    question("a")[:12] + b"\xc0\x0c\0\1\0\1", question("a")[:12] + b"\x40" + b"a" * 64])
def test_what_is_no_question_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        dns.parse(data)


def test_a_dot_within_a_label_makes_no_other_name() -> None:
    data = question("a")[:12] + b"\x03a.b\0" + struct.pack("!HH", 1, 1)
    assert dns.parse(data).name != "a.b"


def test_answers_that_do_not_fit_are_left_out_and_that_is_told() -> None:
    query = dns.parse(question("web"))
    many = [(dns.A, bytes((10, 0, n >> 8, n & 255))) for n in range(100)]
    data = dns.answer(query, dns.NOERROR, many, limit=512)
    assert len(data) <= 512
    _, flags, found = read(data)
    assert flags & dns.TRUNCATED and len(found) == 30
    _, flags, found = read(dns.answer(query, dns.NOERROR, many))
    assert not flags & dns.TRUNCATED and len(found) == 100


def test_a_response_belongs_to_one_question() -> None:
    query = dns.parse(question("web", number=9))
    assert dns.matches(query, dns.answer(query, 0, []))
    for other in (question("web", number=8), question("wab", number=9),
                  question("web", dns.AAAA, 9)):
        assert not dns.matches(query, dns.answer(dns.parse(other), 0, []))
    assert not dns.matches(query, question("web", number=9))
    assert not dns.matches(query, b"")


@pytest.mark.parametrize("name, address", [
    ("2.0.88.10.in-addr.arpa", WEB), ("0.88.10.in-addr.arpa", None), ("web", None),
    ("x.0.88.10.in-addr.arpa", None), ("2." + "0." * 28 + "d.f.ip6.arpa", None),
    ("2." + "0." * 29 + "d.f.ip6.arpa", WEB6), ("in-addr.arpa", None)])
def test_a_reverse_name_is_an_address(name: str, address: bytes | None) -> None:
    assert dns.reverse(name) == address


# ---- the server --------------------------------------------------------------------------------

class Upstream:
    """A server that is asked for the rest, over both protocols, and may be silent."""

    def __init__(self) -> None:
        # A port that is free for both, whatever other tests take meanwhile.
        while True:
            self.tcp = socket.create_server(("127.0.0.1", 0))
            self.port = self.tcp.getsockname()[1]
            self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                self.udp.bind(("127.0.0.1", self.port))
                break
            except OSError:
                self.tcp.close()
                self.udp.close()
        self.asked: list[str] = []
        self.reply: Callable[[dns.Query], list[bytes]] = lambda q: [
            dns.answer(q, dns.NOERROR, [(dns.A, bytes((192, 0, 2, 9)))])]
        self.running = True
        self.threads = [threading.Thread(target=t) for t in (self._datagrams, self._streams)]
        for thread in self.threads:
            thread.start()

    def _datagrams(self) -> None:
        self.udp.settimeout(0.1)
        while self.running:
            try:
                data, peer = self.udp.recvfrom(4096)
            except socket.timeout:      # TimeoutError itself since Python 3.10
                continue
            self.asked.append("udp")
            for answer in self.reply(dns.parse(data)):
                self.udp.sendto(answer, peer)

    def _streams(self) -> None:
        self.tcp.settimeout(0.1)
        while self.running:
            try:
                peer, _ = self.tcp.accept()
            except socket.timeout:      # TimeoutError itself since Python 3.10
                continue
            self.asked.append("tcp")
            with peer:
                peer.settimeout(10)
                length = int.from_bytes(peer.recv(2), "big")
                for answer in self.reply(dns.parse(peer.recv(length))):
                    peer.sendall(len(answer).to_bytes(2, "big") + answer)

    def close(self) -> None:
        self.running = False
        for thread in self.threads:
            thread.join()
        self.udp.close()
        self.tcp.close()


class Served:
    """The server on loopback, with one name of its own."""

    def __init__(self, port: int) -> None:
        self.servers: list[str] = ["127.0.0.1"]
        self.loop = Loop()
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        tcp = socket.create_server(("127.0.0.1", 0))
        self.at, self.stream = udp.getsockname(), tcp.getsockname()
        answers = resolver.Answers(
            lambda who, name: [WEB, WEB6] if name == "web" else None,
            lambda who, a: "web.net" if a == WEB else "" if a[:2] == WEB[:2] else None,
            lambda who: self.servers)
        self.resolver = resolver.Resolver(self.loop, answers, [udp], [tcp], Direct(port))
        self.running = True
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        while self.running:
            self.loop.turn(0.02)

    def ask(self, data: bytes, patience: float = 10) -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(patience)
            sock.sendto(data, self.at)
            return sock.recv(65536)

    def close(self) -> None:
        self.running = False
        self.thread.join()
        self.resolver.close()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    made = Upstream()
    yield made
    made.close()


@pytest.fixture
def served(upstream: Upstream) -> Iterator[Served]:
    made = Served(upstream.port)
    yield made
    made.close()


@pytest.mark.parametrize("name, kind, wanted", [
    ("web", dns.A, [WEB]), ("WEB", dns.AAAA, [WEB6]), ("web", 15, []),
    ("2.0.88.10.in-addr.arpa", dns.PTR, [b"\x03web\x03net\0"])])
def test_a_name_of_ours_is_answered_without_asking(served: Served, upstream: Upstream, name: str,
                                                   kind: int, wanted: list[bytes]) -> None:
    assert read(served.ask(question(name, kind)))[::2] == (dns.NOERROR, wanted)
    assert upstream.asked == []


def test_an_address_of_ours_without_a_name_has_none(served: Served, upstream: Upstream) -> None:
    found = served.ask(question("9.0.88.10.in-addr.arpa", dns.PTR))
    assert read(found)[0] == dns.NXDOMAIN and upstream.asked == []


def test_another_name_is_asked_for_and_its_answer_passed_on(served: Served,
                                                            upstream: Upstream) -> None:
    found = served.ask(question("elsewhere.example", number=77))
    assert found[:2] == b"\0M" and read(found)[2] == [bytes((192, 0, 2, 9))]
    assert upstream.asked == ["udp"]


def test_over_tcp_a_long_answer_comes_whole(served: Served, upstream: Upstream) -> None:
    many = [(dns.A, bytes((192, 0, n >> 8, n & 255))) for n in range(1000)]
    upstream.reply = lambda q: [dns.answer(q, 0, many)]
    with socket.create_connection(served.stream, 10) as sock:
        for name, count in (("big.example", 1000), ("web", 1)):
            asked = question(name)
            sock.sendall(len(asked).to_bytes(2, "big") + asked)
            data = b""
            while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
                data += sock.recv(65536)
            assert len(read(data[2:])[2]) == count
    assert upstream.asked == ["tcp"]


def test_the_next_server_is_asked_when_one_refuses(served: Served, upstream: Upstream) -> None:
    # Nobody listens on the upstream's port at this other address of the machine.
    served.servers = ["127.0.0.2", "127.0.0.1"]
    start = time.monotonic()
    assert read(served.ask(question("x.example")))[0] == dns.NOERROR
    assert time.monotonic() - start < resolver.PATIENCE


def test_a_forged_answer_is_not_taken(served: Served, upstream: Upstream) -> None:
    def forge(query: dns.Query) -> list[bytes]:
        wrong = dns.Query(query.id ^ 1, query.flags, query.name, query.kind, query.question)
        other = dns.parse(question("other.example", number=query.id))
        return [dns.answer(wrong, 0, [(dns.A, bytes(4))]), dns.answer(other, 0, []),
                dns.answer(query, 0, [(dns.A, b"\1\2\3\4")])]

    upstream.reply = forge
    assert read(served.ask(question("x.example")))[2] == [b"\1\2\3\4"]


def test_without_servers_another_name_does_not_exist(served: Served, upstream: Upstream) -> None:
    served.servers = []
    assert read(served.ask(question("x.example")))[0] == dns.NXDOMAIN
    assert upstream.asked == []


def test_when_no_server_answers_the_failure_is_told(served: Served) -> None:
    served.servers = ["127.0.0.2", "127.0.0.3"]
    assert read(served.ask(question("x.example")))[0] == dns.SERVFAIL


@given(st.binary(max_size=64))
def test_nonsense_does_not_end_the_server(data: bytes) -> None:
    loop = Loop()
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    answers = resolver.Answers(lambda w, n: None, lambda w, a: None, lambda w: [])
    server = resolver.Resolver(loop, answers, [udp], [], Direct())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(udp.getsockname())
        sock.send(data)
        sock.send(question("x"))
        loop.turn(1)
        sock.settimeout(5)
        assert read(sock.recv(4096))[0] == dns.NXDOMAIN
    server.close()
