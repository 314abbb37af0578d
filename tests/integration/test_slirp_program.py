"""rootless-slirp in the place of slirp4netns: its command line, and Debian's podman on it."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.support import filled
from tests.integration.support.box import eventually
from tests.integration.support.registry import Registry
from tests.integration.support.slirp_net import CHECKOUT
from tests.integration.support.trees import Podman

START = ("import sys; sys.path[:0] = [{!r}, {!r}]; from slirp.__main__ import main; main()"
         .format(str(CHECKOUT), sysconfig.get_path("purelib")))
COMMAND = [sys.executable, "-I", "-S", "-c", START]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=20,
                          check=False)


@pytest.fixture
def namespace() -> Iterator[int]:
    """The process of an empty user and network namespace."""
    with subprocess.Popen(["unshare", "--user", "--map-root-user", "--net", "--", "sh", "-c",
                           "echo there; exec sleep 60"], stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"there\n"
        yield holder.pid
        holder.kill()


def inside(pid: int, *words: str) -> str:
    done = subprocess.run(["nsenter", f"--target={pid}", "--user", "--net",
                           "--preserve-credentials", "--", *words], capture_output=True, text=True,
                          timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ask(path: Path, execute: str) -> Any:
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(10)
        one.connect(str(path))
        one.sendall(json.dumps({"execute": execute}).encode())
        one.shutdown(socket.SHUT_WR)
        return json.loads(one.makefile().read())


class Program:
    """It, running; `close` ends it by the descriptor that -e named."""

    def __init__(self, *words: str) -> None:
        ready, write = os.pipe()
        until, self._alive = os.pipe()
        self._process = subprocess.Popen([*COMMAND, "-r", str(write), "-e", str(until), *words],
                                         pass_fds=[write, until])
        os.close(write)
        os.close(until)
        with os.fdopen(ready, "rb") as file:
            assert file.read() == b"1"

    def close(self) -> None:
        os.close(self._alive)
        assert self._process.wait(timeout=10) == 0


def test_it_configures_the_device_as_slirp4netns_does(namespace: int) -> None:
    program = Program("-c", "-6", "-m", "9000", "--macaddress", "52:54:00:12:34:56",
                      "--cidr", "192.168.77.0/24", str(namespace), "eth9")
    found = inside(namespace, "ip", "addr", "show", "eth9")
    for wanted in ("mtu 9000", "52:54:00:12:34:56", "inet 192.168.77.100/24", "inet6 fd00::100/64"):
        assert wanted in found
    assert "LOOPBACK,UP" in inside(namespace, "ip", "addr", "show", "lo")
    assert "default via 192.168.77.2 " in inside(namespace, "ip", "route")
    assert "default via fd00::2 " in inside(namespace, "ip", "-6", "route")
    for address in ("192.168.77.2", "192.168.77.3", "fd00::2"):
        inside(namespace, "ping", "-c1", "-W5", address)
    program.close()


def test_it_leaves_the_device_alone_without_c(namespace: int) -> None:
    program = Program(str(namespace), "tap0")
    assert "state DOWN" in inside(namespace, "ip", "addr", "show", "tap0")
    inside(namespace, "ip", "link", "set", "tap0", "up")
    inside(namespace, "ip", "addr", "add", "10.0.2.55/24", "dev", "tap0")
    inside(namespace, "ping", "-c1", "-W5", "10.0.2.2")
    program.close()


def test_a_namespace_by_its_path(namespace: int) -> None:
    program = Program("-c", "--netns-type=path", f"--userns-path=/proc/{namespace}/ns/user",
                      f"/proc/{namespace}/ns/net", "tap0")
    inside(namespace, "ping", "-c1", "-W5", "10.0.2.2")
    program.close()


DIAL = """
import errno, socket, sys
with socket.socket() as s:
    s.settimeout(10)
    print(errno.errorcode.get(s.connect_ex((sys.argv[1], int(sys.argv[2]))), "connected"))
"""


def test_only_what_the_rules_allow_is_dialled_and_the_rest_noted(namespace: int,
                                                                 tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, \
            socket.create_server(("127.0.0.1", 0)) as two:
        allowed, denied = (str(s.getsockname()[1]) for s in (one, two))
        program = Program("-c", "-a", str(tmp_path / "api"), "--default-deny", "--rule",
                          f"allow 10.0.2.2 {allowed} tcp", str(namespace), "tap0")
        found = [inside(namespace, sys.executable, "-c", DIAL, "10.0.2.2", port).strip()
                 for port in (allowed, denied)]
        assert found == ["connected", "ECONNREFUSED"]
        noted = ask(tmp_path / "api", "log")["return"]["entries"]
        assert [(e["what"], e["to"]) for e in noted if e["what"] == "denied"] == [
            ("denied", f"10.0.2.2:{denied}")]
        program.close()


def test_help_names_the_options_that_engines_look_for() -> None:
    text = run("--help").stdout
    for option in ("--configure", "--exit-fd", "--ready-fd", "--mtu", "--enable-ipv6",
                   "--api-socket", "--cidr", "--disable-host-loopback", "--netns-type",
                   "--userns-path", "--enable-sandbox", "--enable-seccomp", "--outbound-addr",
                   "--outbound-addr6", "--disable-dns", "--macaddress", "--target-type"):
        assert option in text
    assert "rootless-slirp" in run("--version").stdout


@pytest.mark.parametrize("words, says", [
    (["--cidr", "10.0.2.0", "1", "t"], "10.0.2.0"),
    (["--cidr", "10.0.2.0/26", "1", "t"], "prefix length"),
    (["-m", "100", "1", "t"], "100"),
    (["notapid", "t"], "notapid"),
    (["1"], "TAP"),
    (["--macaddress", "1:2:3:4:5:6", "1", "t"], "-c"),
    (["-c", "--macaddress", "01:00:00:00:00:00", "1", "t"], "--macaddress"),
    (["--netns-type=path", "/nonexistent", "t"], "/nonexistent"),
    (["--outbound-addr", "nodevice0", "1", "t"], "nodevice0"),
    (["--target-type", "bess", "1", "t"], "bess"),
    (["--rule", "permit any", "1", "t"], "permit any"),
    (["-a", "/nonexistent/socket", "1", "t"], "/nonexistent/socket"),
    (["-a", "/tmp/" + "x" * 108, "1", "t"], "more than 107 bytes"),
])
def test_what_cannot_be_is_one_line_and_a_failure(words: list[str], says: str) -> None:
    done = run(*words)
    assert done.returncode != 0
    assert says in done.stderr
    assert "Traceback" not in done.stderr


# ---- podman -------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def podman(ground: Path, server: Registry) -> Iterator[Podman]:
    """With the tiny image, and our program for its network."""
    one = Podman(ground / "p")      # a socket's path has 107 bytes at most
    program = one.home / "rootless-slirp"
    program.write_text(f"#!{sys.executable} -IS\n{START}\n")
    program.chmod(0o755)
    config = one.home / ".config/containers/containers.conf"
    # crun refuses a hybrid hierarchy of cgroups, which runc takes.
    config.write_text(config.read_text() + f'runtime = "runc"\nnetwork_cmd_path = "{program}"\n')
    one.ok("pull", "-q", "--tls-verify=false", f"{server.address}/tiny:latest")
    yield one
    one.ok("system", "migrate")
    filled.remove_tree(one.home)


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"hello {self.client_address[0]}".encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(params=[("127.0.0.1", "10.0.2.2"), ("::1", "[fd00::2]")], ids=["ipv4", "ipv6"])
def page(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address inside of a page on the host's loopback."""
    address, name = request.param

    class HttpServer(http.server.ThreadingHTTPServer):
        address_family = 10 if ":" in address else 2

    with HttpServer((address, 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{name}:{server.server_address[1]}/"
        server.shutdown()


def test_a_container_of_podman_reaches_the_host(podman: Podman, server: Registry,
                                                page: str) -> None:
    image = f"{server.address}/tiny:latest"
    allowed = "slirp4netns:allow_host_loopback=true,enable_ipv6=true"
    got = podman.ok("run", "--rm", "--network", allowed, image, "wget", "-qO-", page)
    assert got.startswith("hello ")
    done = podman("run", "--rm", "--network", "slirp4netns:enable_ipv6=true", image, "wget", "-T5",
                  "-qO-", page)
    assert done.returncode != 0
    assert "hello" not in done.stdout


@pytest.mark.parametrize("handler", ["slirp4netns", "rootlesskit"])
def test_a_port_that_podman_publishes_is_served(podman: Podman, server: Registry,
                                                handler: str) -> None:
    image = f"{server.address}/tiny:latest"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    name = podman.ok("run", "-d", "--network", f"slirp4netns:port_handler={handler}",
                     "-p", f"127.0.0.1:{port}:8080", image, "sh", "-c",
                     "while true; do echo served | nc -l -p 8080; done")
    try:
        code = ("import socket, sys\n"
                "print(socket.create_connection(('127.0.0.1', int(sys.argv[1])), 5).recv(99))")
        found: list[str] = []

        def served() -> bool:
            done = subprocess.run([sys.executable, "-c", code, port], capture_output=True,
                                  text=True, check=False)
            found.append(done.stdout + done.stderr)
            return "served" in found[-1]

        eventually(served, f"the container answers; last: {found[-1:]}")
    finally:
        podman.ok("rm", "-f", "-t", "0", name)
