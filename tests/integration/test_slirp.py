"""A network of our own stack, with the kernel on both sides of it."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from slirp.options import Options
from slirp.process import open_files
from tests.integration.support.box import eventually
from tests.integration.support.slirp_net import HOST4, HOST6, Net

LOOPBACK = {4: ("127.0.0.1", socket.AF_INET, HOST4), 6: ("::1", socket.AF_INET6, HOST6)}


def options(**more: object) -> Options:
    return Options(**{"gateway4": "10.0.2.1", "gateway6": "fd00::1", "loopback4": HOST4,
                      "loopback6": HOST6, "inside": ("10.0.2.0/24", "fd00::/64"),
                      **more})      # type: ignore[arg-type]


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    one = Net(options())
    yield one
    assert one.stop() == 0
    one.close()


class Server:
    """Listens on loopback; each client gets `serve(connection)` in a thread."""

    def __init__(self, version: int, serve: object) -> None:
        address, kind, self.host = LOOPBACK[version]
        self.socket = socket.socket(kind, socket.SOCK_STREAM)
        self.socket.bind((address, 0))
        self.socket.listen(1024)
        self.port = str(self.socket.getsockname()[1])
        self._serve = serve
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,),    # type: ignore[arg-type]
                             daemon=True).start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def echo(connection: socket.socket) -> None:
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data)


def digest(connection: socket.socket) -> None:
    """Answers with the sha256 of everything up to the client's end of file."""
    found = hashlib.sha256()
    with connection:
        while data := connection.recv(1 << 20):
            found.update(data)
        connection.sendall(found.hexdigest().encode())


BLOCK = bytes(range(256)) * 256


def source(connection: socket.socket) -> None:
    with connection:
        for _ in range(512):
            connection.sendall(BLOCK)


UPLOAD = """
import socket, sys, hashlib
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)
block, h = bytes(range(256)) * 256, hashlib.sha256()
for _ in range(512):
    s.sendall(block); h.update(block)
s.shutdown(1)
print(s.makefile().read() == h.hexdigest())
"""
DOWNLOAD = """
import socket, sys, hashlib
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)
h = hashlib.sha256()
while d := s.recv(1 << 20): h.update(d)
print(h.hexdigest())
"""
CONNECT = """
import errno, socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
s.settimeout(10)
print(errno.errorcode.get(s.connect_ex((sys.argv[1], int(sys.argv[2]))), "connected"))
"""


@pytest.mark.parametrize("version", [4, 6])
def test_an_upload_arrives_and_its_end_is_seen(net: Net, version: int) -> None:
    with Server(version, digest) as server:
        assert net.python(UPLOAD, server.host, server.port) == "True"


@pytest.mark.parametrize("version", [4, 6])
def test_a_download_arrives(net: Net, version: int) -> None:
    with Server(version, source) as server:
        wanted = hashlib.sha256(BLOCK * 512).hexdigest()
        assert net.python(DOWNLOAD, server.host, server.port) == wanted


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("rarity", [20, 200])
def test_lost_repeated_and_reordered_packets_change_no_byte(version: int, rarity: int) -> None:
    one = Net(options(), faults=rarity)
    try:
        with Server(version, digest) as server:
            assert one.python(UPLOAD, server.host, server.port, timeout=120) == "True"
        with Server(version, source) as server:
            wanted = hashlib.sha256(BLOCK * 512).hexdigest()
            assert one.python(DOWNLOAD, server.host, server.port, timeout=120) == wanted
    finally:
        one.close()


@pytest.mark.parametrize("version", [4, 6])
def test_refused_is_refused(net: Net, version: int) -> None:
    address, kind, host = LOOPBACK[version]
    with socket.socket(kind) as closed:
        closed.bind((address, 0))
        assert net.python(CONNECT, host, str(closed.getsockname()[1])) == "ECONNREFUSED"


@pytest.mark.parametrize("address", ["127.0.0.2", "0.0.0.1", "::ffff:127.0.0.1", "fd00::77",
                                     "10.0.2.77"])
def test_what_must_not_be_reached_is_unreachable(net: Net, address: str) -> None:
    with Server(4, echo) as server:
        net.exec("ip", "route", "add", "127.0.0.2/32", "dev", "tun0")
        assert net.python(CONNECT, address, server.port) in ("EHOSTUNREACH", "ENETUNREACH",
                                                              "EACCES", "EINVAL", "ECONNREFUSED")


def test_the_hosts_loopback_is_closed_unless_an_address_was_given_for_it() -> None:
    one = Net(options(loopback4=None, loopback6=None))
    try:
        for version in (4, 6):
            with Server(version, echo) as server:
                found = one.python(CONNECT, server.host, server.port)
                assert found in ("EHOSTUNREACH", "EACCES")
    finally:
        one.close()


MANY = """
import socket, sys
socks = [socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) for _ in range(1000)]
for i, s in enumerate(socks): s.sendall(b"%06d" % i)
print(all(s.recv(6) == b"%06d" % i for i, s in enumerate(socks)))
"""


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.parametrize("version", [4, 6])
def test_a_thousand_connections_at_once_and_none_is_left(net: Net, version: int) -> None:
    assert open_files(4096) == 4096, "the servers of this test need them"
    before = descriptors(net.pid)
    with Server(version, echo) as server:
        assert net.python(MANY, server.host, server.port, timeout=60) == "True"
        net.python(CONNECT, server.host, server.port)
    eventually(lambda: descriptors(net.pid) <= before, "all their descriptors are closed")


DATAGRAMS = """
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
s.connect((sys.argv[1], int(sys.argv[2])))
for size in (0, 1, 1400, 9000, 60000):
    s.send(bytes(i % 251 for i in range(size)))
    assert s.recv(65535) == bytes(i % 251 for i in range(size)), size
s.setsockopt(17, 103, 1000)      # UDP_SEGMENT: the kernel makes ten of this
s.send(bytes(range(200)) * 50)
print([len(s.recv(2000)) for _ in range(10)] == [1000] * 10)
"""


@pytest.mark.parametrize("version", [4, 6])
def test_datagrams_of_all_sizes_and_in_batches(net: Net, version: int) -> None:
    address, kind, host = LOOPBACK[version]
    with socket.socket(kind, socket.SOCK_DGRAM) as server:
        server.bind((address, 0))

        def answer() -> None:
            for _ in range(15):
                server.sendto(*server.recvfrom(65535))

        thread = threading.Thread(target=answer)
        thread.start()
        assert net.python(DATAGRAMS, host, str(server.getsockname()[1])) == "True"
        thread.join()


REFUSED = """
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
s.connect((sys.argv[1], int(sys.argv[2])))
s.send(b"anybody?")
try: s.recv(1)
except ConnectionRefusedError: print("refused")
"""


@pytest.mark.parametrize("version", [4, 6])
def test_a_datagram_that_nobody_takes_is_refused(net: Net, version: int) -> None:
    address, kind, host = LOOPBACK[version]
    with socket.socket(kind, socket.SOCK_DGRAM) as closed:
        closed.bind((address, 0))
        port = str(closed.getsockname()[1])
    assert net.python(REFUSED, host, port) == "refused"


@pytest.mark.parametrize("address", ["10.0.2.1", HOST4, "fd00::1", HOST6])
def test_we_answer_pings(net: Net, address: str) -> None:
    done = net.exec("ping", "-c1", "-W5", "-s1000", address)
    assert done.returncode == 0, done.stdout + done.stderr


STORM = """
import random, socket, struct, sys
host, port, closed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
kind = socket.AF_INET6 if ":" in host else socket.AF_INET
rnd, kept = random.Random(7), []
for turn in range(800):
    s = socket.socket(kind)
    s.settimeout(20)
    try:
        s.connect((host, closed if turn % 10 == 9 else port))
        s.sendall(bytes(rnd.randrange(200000)))
        way = rnd.randrange(5)
        if way == 0: s.setsockopt(1, 13, struct.pack("ii", 1, 0))       # SO_LINGER: reset
        elif way == 1:
            s.shutdown(1)
            while s.recv(65536): pass
        elif way == 2: kept.append(s); continue
        elif way == 3: s.recv(1)
    except OSError: pass
    s.close()
    u = socket.socket(kind, socket.SOCK_DGRAM)
    u.sendto(bytes(rnd.randrange(3000)), (host, port))
print(len(kept) > 20)
"""


def moody(connection: socket.socket) -> None:
    """A server that now and then resets, closes early, or does not read."""
    with connection:
        try:
            mood = connection.getpeername()[1] % 7
            if mood == 0:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            elif mood == 1:
                connection.recv(1)
            elif mood == 2:
                connection.sendall(bytes(100_000))
            else:
                while data := connection.recv(65536):
                    connection.sendall(data)
        except OSError:
            pass


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("faults", [0, 100])
def test_after_a_storm_of_connections_nothing_is_left(version: int, faults: int,
                                                      tmp_path: Path) -> None:
    one = Net(options(), faults=faults, control=tmp_path / "api")
    try:
        before = descriptors(one.pid)
        address, kind, host = LOOPBACK[version]
        with Server(version, moody) as server, socket.socket(kind) as closed:
            closed.bind((address, 0))
            assert one.python(STORM, host, server.port, str(closed.getsockname()[1]),
                              timeout=200) == "True"
        # A reset that is lost is not repeated: only a keepalive, minutes later, finds these.
        lost = 20 if faults else 0
        eventually(lambda: one.ask("info")["return"]["tcp"] <= lost, "all connections end", 60)
        flows = one.ask("info")["return"]["udp"]
        assert descriptors(one.pid) <= before + flows + lost
    finally:
        one.close()


def test_the_process_can_do_nothing_but_serve(net: Net) -> None:
    with open(f"/proc/{net.pid}/status") as file:
        status = dict(line.split(":\t", 1) for line in file)
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"


def test_it_ends_with_the_one_who_started_it() -> None:
    """The device's descriptor keeps the namespace, so nothing else would end it."""
    one = Net(options())
    try:
        os.close(one.lifeline)
        _, status = os.waitpid(one.pid, 0)
        one.pid = 0
        assert status == 0
    finally:
        one.close()


def test_another_process_takes_over_the_device_of_one_that_was_killed() -> None:
    one = Net(options())
    try:
        with Server(4, echo) as server:
            assert one.python(CONNECT, server.host, server.port) == "connected"
            one.stop(signal.SIGKILL)
            os.close(one.lifeline)
            one.start()
            assert one.python(CONNECT, server.host, server.port) == "connected"
    finally:
        one.close()
