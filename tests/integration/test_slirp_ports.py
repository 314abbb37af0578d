"""Published ports on a host that is a namespace, so that clients have addresses of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from slirp.options import Options
from slirp.reach import resolvers
from tests.integration.support.slirp_net import Net

HOST = {4: "192.0.2.1", 6: "2001:db8::1"}
CLIENT = {4: "198.51.100.7", 6: "2001:db8::7"}
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
GUEST = {4: "10.0.2.100", 6: "fd00::100"}
DNS = {4: "10.0.2.3", 6: "fd00::3"}
GATEWAY = {4: "10.0.2.1", 6: "fd00::1"}

# Tells each client who it is for us. TCP: after the client's end of file, with the bytes' number.
SERVICE = """
import socket, sys
kind = socket.SOCK_STREAM if sys.argv[1] == "tcp" else socket.SOCK_DGRAM
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[2] else socket.AF_INET, kind)
s.setsockopt(1, 2, 1)
s.bind((sys.argv[2], 80))
if kind == socket.SOCK_DGRAM:
    print("ready", flush=True)
    while True:
        data, who = s.recvfrom(65535)
        s.sendto(("%s %d" % (who[0], len(data))).encode(), who)
s.listen(1024)
print("ready", flush=True)
while True:
    c, who = s.accept()
    n = 0
    while d := c.recv(1 << 20): n += len(d)
    c.sendall(("%s %d" % (who[0], n)).encode())
    c.close()
"""
CLIENT_CODE = """
import socket, sys
proto, source, host, port, size = sys.argv[1:]
kind = socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM
s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
s.settimeout(15)
s.bind((source, 0))
s.connect((host, int(port)))
if proto == "tcp":
    s.sendall(bytes(int(size)))
    s.shutdown(1)
    print(s.makefile().read())
else:
    s.send(bytes(int(size)))
    print(s.recv(65535).decode())
"""


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    options = Options(gateway4=GATEWAY[4], gateway6=GATEWAY[6], dns4=DNS[4], dns6=DNS[6],
                      inside=("10.0.2.0/24", "fd00::/64"))
    one = Net(options, host=True, control=tmp_path_factory.mktemp("slirp") / "api.sock")
    yield one
    assert one.stop() == 0
    one.close()


@pytest.fixture(params=[("tcp", 4), ("tcp", 6), ("udp", 4), ("udp", 6)],
                ids=["tcp4", "tcp6", "udp4", "udp6"])
def service(net: Net, request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    """A service on port 80 inside: its protocol, and the IP version."""
    proto, version = request.param
    with subprocess.Popen(net.words(sys.executable, "-I", "-c", SERVICE, proto, GUEST[version]),
                          stdout=subprocess.PIPE) as running:
        assert running.stdout
        assert running.stdout.readline() == b"ready\n"
        yield proto, version
        running.kill()


def publish(net: Net, proto: str, version: int, address: str = "") -> tuple[int, int]:
    """The number and the port."""
    answer = net.ask("add_hostfwd", proto=f"{proto}{version}", host_port=0, guest_port=80,
                     guest_addr=GUEST[version],
                     **({"host_addr": address} if address else {}))
    return answer["return"]["id"], answer["return"]["host_port"]


def ask(net: Net, proto: str, source: str, host: str, port: int, size: int) -> str:
    done = subprocess.run(
        net.outside(sys.executable, "-I", "-c", CLIENT_CODE, proto, source, host, str(port),
                    str(size)), capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_service_sees_the_clients_own_address(net: Net, service: tuple[str, int]) -> None:
    proto, version = service
    number, port = publish(net, proto, version)
    for size in (1, 1000, 30000 if proto == "udp" else 30_000_000):
        got = ask(net, proto, CLIENT[version], HOST[version], port, size)
        assert got == f"{CLIENT[version]} {size}"
    got = ask(net, proto, LOOPBACK[version], LOOPBACK[version], port, 5)
    assert got == f"{GATEWAY[version]} 5", "loopback has no meaning inside"
    assert net.ask("remove_hostfwd", id=number) == {"return": {}}


def test_only_the_published_address_is_open(net: Net, service: tuple[str, int]) -> None:
    proto, version = service
    number, port = publish(net, proto, version, HOST[version])
    assert ask(net, proto, CLIENT[version], HOST[version], port, 7).endswith(" 7")
    with pytest.raises(AssertionError, match="Refused"):
        ask(net, proto, CLIENT[version], CLIENT[version], port, 7)
    net.ask("remove_hostfwd", id=number)


def test_a_service_that_does_not_listen_resets_its_client(net: Net, tmp_path: Path) -> None:
    number, port = publish(net, "tcp", 4)
    with pytest.raises(AssertionError, match="Reset"):
        ask(net, "tcp", CLIENT[4], HOST[4], port, 7)
    net.ask("remove_hostfwd", id=number)


def test_others_are_pinged_where_the_host_allows_it(net: Net) -> None:
    """Ping sockets are for the groups in a range that is empty in a new namespace."""
    for version in (4, 6):
        done = net.exec("ping", "-c1", "-W5", HOST[version])
        assert done.returncode == 1
        assert "filtered" in done.stdout or "prohibited" in done.stdout, done.stdout
    allow = "echo 0 0 > /proc/sys/net/ipv4/ping_group_range"
    subprocess.run(net.outside("sh", "-c", allow), check=True, timeout=10)
    for version in (4, 6):
        for size in ("8", "1400"):
            done = net.exec("ping", "-c3", "-i0.2", "-W5", "-s", size, HOST[version])
            assert done.returncode == 0, done.stdout
            assert "3 received" in done.stdout


# Answers the id and the question, by UDP and TCP, at the address that the host's file names.
RESOLVER = """
import socket, sys, threading
kind = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
udp, tcp = socket.socket(kind, socket.SOCK_DGRAM), socket.socket(kind)
for s in (udp, tcp): s.bind((sys.argv[1], 53))
tcp.listen(9)
def serve():
    while True:
        c, _ = tcp.accept()
        data = c.recv(999)
        c.sendall(data[:4] + b"\\x81\\x80" + data[6:])
        c.close()
threading.Thread(target=serve, daemon=True).start()
print("ready", flush=True)
while True:
    data, who = udp.recvfrom(999)
    udp.sendto(data[:2] + b"\\x81\\x80" + data[4:], who)
"""
ASK = """
import socket, sys
query = b"\\1\\2\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\1a\\0\\0\\1\\0\\1"
kind = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
for way in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
    s = socket.socket(kind, way)
    s.settimeout(10)
    s.connect((sys.argv[1], 53))
    s.sendall(query if way == socket.SOCK_DGRAM else b"\\0\\x13" + query)
    print(s.recv(999)[0 if way == socket.SOCK_DGRAM else 2:].hex())
"""


def test_names_are_asked_of_the_resolver_that_the_hosts_file_names(net: Net) -> None:
    """By the process as it is, in its sandbox; the file is this machine's."""
    address = str(resolvers()[0][0])
    if not address.startswith("127."):
        subprocess.run(net.outside("ip", "addr", "add", address, "dev", "lo"), check=True,
                       timeout=10)
    with subprocess.Popen(net.outside(sys.executable, "-I", "-c", RESOLVER, address),
                          stdout=subprocess.PIPE) as running:
        assert running.stdout
        assert running.stdout.readline() == b"ready\n"
        for version in (4, 6):
            answers = net.python(ASK, DNS[version]).split()
            assert answers == ["010281800001000000000000016100" "00010001"] * 2
        running.kill()
