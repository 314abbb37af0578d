"""Containers on networks: addresses, names, isolation, ways out and in, a keeper that is killed.

What is "the world" here is this machine: servers on its loopback and on the address it has.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.support import leftovers
from tests.integration.support.box import Box, eventually
from tests.integration.support.cli import Cli, Process

HOST4 = "169.254.1.2"


@contextmanager
def network(cli: Cli, name: str, *options: str) -> Iterator[str]:
    cli.ok("network", "create", *options, name)
    try:
        yield name
    finally:
        cli.ok("network", "rm", name)


def keepers(cli: Cli) -> list[int]:
    """Network keepers of this command line's store, found by the socket they listen on."""
    st = cli.store.stat()
    name = re.compile(rf"/net-{st.st_dev:x}\.{st.st_ino:x}\.[0-9a-f]+$")
    inodes = {line.split()[6] for line in Path("/proc/net/unix").read_text().splitlines()
              if name.search(line)}
    found = []
    for pid, line in leftovers.descendants().items():
        if line == "rootless network keeper":
            for fd in os.listdir(f"/proc/{pid}/fd"):
                try:
                    held = os.readlink(f"/proc/{pid}/fd/{fd}")
                except OSError:
                    continue
                if held.partition("[")[2].rstrip("]") in inodes:
                    found.append(pid)
                    break
    return found


def place(cli: Cli, container: str, name: str = "bridge") -> dict[str, Any]:
    networks = json.loads(cli.ok("inspect", "--format", "{{json .NetworkSettings.Networks}}",
                                 container).text)
    found: dict[str, Any] = networks[name]
    return found


class Server:
    """Says to each who connects the address it is seen to come from, and what was asked."""

    def __init__(self, at: str, *, kind: socket.SocketKind = socket.SOCK_STREAM) -> None:
        family = socket.AF_INET6 if ":" in at else socket.AF_INET
        self.sock = socket.socket(family, kind)
        self.sock.bind((at, 0))
        self.port = int(self.sock.getsockname()[1])
        self.running = True
        self.sock.settimeout(0.1)
        if kind == socket.SOCK_STREAM:
            self.sock.listen(128)
        self.thread = threading.Thread(
            target=self._streams if kind == socket.SOCK_STREAM else self._datagrams)
        self.thread.start()

    def _streams(self) -> None:
        while self.running:
            try:
                peer, _ = self.sock.accept()
            except TimeoutError:
                continue
            with peer:
                peer.settimeout(20)
                peer.sendall(b"from the world\n")

    def _datagrams(self) -> None:
        while self.running:
            try:
                data, who = self.sock.recvfrom(65536)
            except TimeoutError:
                continue
            self.sock.sendto(b"heard " + data, who)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.running = False
        self.thread.join()
        self.sock.close()


# ---- the default network -----------------------------------------------------------------------

def test_a_container_is_on_the_network_bridge(box: Box) -> None:
    with box.running() as name:
        told = place(box.cli, name)
        assert told["IPAddress"].startswith("10.88.") and told["IPPrefixLen"] == 16
        inside = box.cli.ok("exec", name, "sh", "-c",
                            "ip -o -4 addr show eth0; ip route; cat /etc/hosts").text
        assert f"inet {told['IPAddress']}/16" in inside
        assert f"default via {told['Gateway']} dev eth0" in inside
        assert f"{told['IPAddress']}\t" in inside
        assert told["MacAddress"] in box.cli.ok("exec", name, "ip", "link").text


def test_the_host_is_reached_by_its_name(box: Box) -> None:
    with Server("0.0.0.0") as server:
        for name in ("host.containers.internal", "host.docker.internal", "box"):
            told = box.sh(f"nc {name} {server.port} </dev/null", "--add-host", "box:host-gateway")
            assert told == "from the world"


def test_the_hosts_loopback_is_not_reached(box: Box) -> None:
    with Server("127.0.0.1") as server:
        for at in (HOST4, "10.88.0.1", "127.0.0.1", "169.254.1.3"):
            assert box.sh(f"nc -w 2 {at} {server.port} </dev/null && echo in || echo no") == "no"


def test_a_port_that_nobody_serves_is_refused_at_once(box: Box) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        begin = time.monotonic()
        told = box.sh(f"nc -w 20 {HOST4} {taken.getsockname()[1]} </dev/null 2>&1 || true")
    assert "refused" in told and time.monotonic() - begin < 15


ASK = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(float(sys.argv[3]))
if len(sys.argv) > 4:
    sock.bind((sys.argv[4], 0))
sock.connect((sys.argv[1], int(sys.argv[2])))
try:
    sock.send(b"hello")
    print(sock.recv(100).decode())
except TimeoutError:
    print("nothing")
"""


def test_datagrams_go_out_and_come_back(cli: Cli) -> None:
    with Server("0.0.0.0", kind=socket.SOCK_DGRAM) as server:
        told = cli.ok("run", "--rm", "host", "python3", "-c", ASK, HOST4, str(server.port), "20")
        assert told.text == "heard hello"


def test_many_connections_at_once(box: Box) -> None:
    with Server("0.0.0.0") as server:
        told = box.sh(f"for n in $(seq 100); do nc -w 20 {HOST4} {server.port} </dev/null & done; "
                      "wait", timeout=120)
    assert told.splitlines() == ["from the world"] * 100


def test_names_are_asked_of_the_network(box: Box) -> None:
    assert "nameserver 10.88.0.1" in box.sh("cat /etc/resolv.conf")
    told = box.sh("cat /etc/resolv.conf", "--dns-search", "a.example", "--dns-option", "ndots:2")
    assert told.splitlines() == ["nameserver 10.88.0.1", "search a.example", "options ndots:2"]


class WithoutTun(Cli):
    """In namespaces where /dev/net/tun is not there."""

    def popen(self, *args: str, before: tuple[str, ...] = (), **more: Any) -> Process:
        words = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c",
                 'mount -t tmpfs none /dev/net && exec "$@"', "sh")
        return super().popen(*args, before=words, **more)


def test_without_a_tun_device_the_error_says_what_to_type(box: Box) -> None:
    cli = WithoutTun(box.cli.home, box.cli.runtime, ROOTLESS_ROOT=str(box.cli.store))
    result = cli.fails(125, "run", "--rm", box.image, "true",
                       says="cannot connect containers to the network: /dev/net/tun")
    assert "--network none" in result.error and "modprobe tun" in result.error
    assert cli.ok("run", "--rm", "--network", "none", box.image, "echo", "in").text == "in"


# ---- between containers ------------------------------------------------------------------------

def test_containers_reach_each_other_by_address_and_by_every_name(box: Box) -> None:
    with network(box.cli, "net-a"), \
            box.running("--network", "net-a:alias=second", "--network-alias", "first") as name:
        cid = box.cli.ok("inspect", "--format", "{{.Id}}", name).text
        told = place(box.cli, name, "net-a")
        for word in (told["IPAddress"], name, name.upper(), "first", "second", cid[:12]):
            assert box.cli.ok("run", "--rm", "--network", "net-a", box.image,
                              "ping", "-c", "1", "-W", "5", word).rc == 0
        back = box.sh(f"busybox nslookup {told['IPAddress']}", "--network", "net-a")
        assert f"name = {name}.net-a" in back


def test_a_link_is_a_name_of_ones_own(box: Box) -> None:
    with network(box.cli, "net-l"), box.running("--network", "net-l") as name:
        told = box.sh("ping -c 1 -W 5 Database | head -1", "--network", "net-l", "--link",
                      f"{name}:database")
        assert place(box.cli, name, "net-l")["IPAddress"] in told
        assert box("--network", "net-l", then=("ping", "-c", "1", "-W", "1", "database")).rc != 0
    box.refuses("--link", "nobody:x", says="no such container: nobody")
    box.refuses("--link", "nobody:x", "--network", "none", says="links")


def test_a_renamed_container_is_found_by_its_new_name_only(box: Box) -> None:
    with network(box.cli, "net-o"):
        box.cli.ok("run", "-d", "--name", "older", "--network", "net-o", box.image, "sleep", "99")
        box.cli.ok("rename", "older", "newer")
        try:
            assert box("--network", "net-o", then=("ping", "-c", "1", "-W", "5", "newer")).rc == 0
            assert box("--network", "net-o", then=("ping", "-c", "1", "-W", "1", "older")).rc != 0
        finally:
            box.cli.ok("rm", "-f", "newer")


def test_inspect_tells_what_was_asked_of_networks(box: Box) -> None:
    with box.running("-p", "127.0.0.1::80", "--dns", "192.0.2.53", "--dns-search", "a.example",
                     "--dns-option", "ndots:2", "--add-host", "db:192.0.2.7") as name:
        host = json.loads(box.cli.ok("inspect", "--format", "{{json .HostConfig}}", name).text)
        assert host["PortBindings"] == {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}
        assert (host["Dns"], host["DnsSearch"], host["DnsOptions"], host["ExtraHosts"]) == (
            ["192.0.2.53"], ["a.example"], ["ndots:2"], ["db:192.0.2.7"])
        settings = json.loads(box.cli.ok("inspect", "--format", "{{json .NetworkSettings}}",
                                         name).text)
        assert settings["Ports"] == {"80/tcp": [
            {"HostIp": "127.0.0.1", "HostPort": str(published(box.cli, name))}]}
        exposed = json.loads(box.cli.ok("inspect", "--format", "{{json .Config}}", name).text)
        assert exposed["ExposedPorts"] == {"80/tcp": {}}
        assert settings["IPAddress"] == settings["Networks"]["bridge"]["IPAddress"] != ""


def test_one_name_of_several_containers_is_all_their_addresses(box: Box) -> None:
    with network(box.cli, "net-s"), \
            box.running("--network", "net-s", "--network-alias", "web") as one, \
            box.running("--network", "net-s", "--network-alias", "web") as two:
        told = box.sh("busybox nslookup web | grep Address: | tail -n +2", "--network", "net-s")
        assert {line.split()[1] for line in told.splitlines()} == {
            place(box.cli, c, "net-s")["IPAddress"] for c in (one, two)}


def test_networks_do_not_reach_each_other(box: Box) -> None:
    with network(box.cli, "net-x"), network(box.cli, "net-y"), \
            box.running("--network", "net-x", then=("nc", "-ll", "-p", "80", "-e", "cat")) as name:
        address = place(box.cli, name, "net-x")["IPAddress"]
        assert box.sh(f"ping -c 1 -W 5 {name} >/dev/null && echo in", "--network", "net-x") == "in"
        for try_ in (f"ping -c 1 -W 1 {name}", f"ping -c 1 -W 1 {address}",
                     f"nc -w 1 {address} 80 </dev/null"):
            assert box.sh(f"{try_} >/dev/null 2>&1 && echo in || echo no",
                          "--network", "net-y") == "no"


def test_a_foreign_address_does_not_pass_the_bridge(cli: Cli) -> None:
    """A container that takes an address of nobody's does not get out with it."""
    with Server("0.0.0.0", kind=socket.SOCK_DGRAM) as server:
        script = ("import subprocess\nsubprocess.run('ip addr add 203.0.113.9/32 dev lo'.split(), "
                  f"check=True){ASK}")
        told = cli.ok("run", "--rm", "--cap-add", "NET_ADMIN", "host", "python3", "-c", script,
                      HOST4, str(server.port), "1", "203.0.113.9")
        assert told.text == "nothing"


def test_an_internal_network_has_no_way_out(box: Box) -> None:
    with network(box.cli, "net-i", "--internal"), Server("0.0.0.0") as server, \
            box.running("--network", "net-i") as name:
        assert box.sh(f"ping -c 1 -W 5 {name} >/dev/null && echo in", "--network", "net-i") == "in"
        told = box.sh(f"ip route; nc -w 1 {HOST4} {server.port} </dev/null 2>/dev/null || echo no; "
                      "busybox nslookup name.example | grep -o NXDOMAIN | head -1",
                      "--network", "net-i")
        assert "default" not in told and told.split()[-2:] == ["no", "NXDOMAIN"]


def test_a_container_on_two_networks_sees_both(box: Box) -> None:
    with network(box.cli, "net-1"), network(box.cli, "net-2"), \
            box.running("--network", "net-1") as one, box.running("--network", "net-2") as two:
        told = box.sh(f"for n in {one} {two}; do ping -c 1 -W 5 $n >/dev/null && echo in; done; "
                      "ls /sys/class/net; ip route | grep -c default",
                      "--network", "net-1", "--network", "net-2")
        assert told.split() == ["in", "in", "eth0", "eth1", "lo", "1"]


def test_ipv6_all_along(box: Box) -> None:
    with network(box.cli, "net-6", "--ipv6", "--subnet", "fd66::/64"), \
            box.running("--network", "net-6:ip6=fd66::99", then=("nc", "-ll", "-p", "80", "-e",
                                                                 "cat")) as name:
        told = place(box.cli, name, "net-6")
        assert told["GlobalIPv6Address"] == "fd66::99" and told["GlobalIPv6PrefixLen"] == 64
        told6 = box.sh(f"ip -6 route | grep default; busybox nslookup {name}; "
                       f"ping -6 -c 1 -W 5 {name} >/dev/null && echo in", "--network", "net-6")
        assert "default via fd66::1 dev eth0" in told6
        assert "Address: fd66::99" in told6 and told6.endswith("in")


def test_the_network_of_a_container_is_shared(box: Box) -> None:
    with box.running("--init") as name:
        told = box.sh("ip -o -4 addr show eth0 | wc -l; hostname; "
                      "(nc -l -p 80 -e echo served &); sleep 0.2; nc 127.0.0.1 80 </dev/null",
                      "--network", f"container:{name}")
        assert told.split() == ["1", box.cli.ok("exec", name, "hostname").text, "served"]
        for userns in ("private", "host"):
            with box.running("--userns", userns) as one, \
                    box.running("--network", f"container:{one}") as two:
                # What joins later is in the same network, not in the machine's.
                inside = {box.cli.ok("exec", c, "readlink", "/proc/self/ns/net").text
                          for c in (one, two)}
                assert len(inside) == 1 and os.readlink("/proc/self/ns/net") not in inside
        box.refuses("--network", f"container:{name}", "--hostname", "x", says="host name")
        box.refuses("--network", f"container:{name}", "-p", "80", says="publish")
    box.refuses("--network", f"container:{name}", says="no such container")
    box.cli.ok("create", "--name", "stopped", box.image)
    box.refuses("--network", "container:stopped", says="not running")
    box.cli.ok("rm", "stopped")


def test_what_may_be_reached_outside_and_what_was_is_told(box: Box) -> None:
    cli = box.cli
    with Server("0.0.0.0") as open_, Server("0.0.0.0") as shut, network(
            cli, "net-g", "--egress", f"allow {HOST4} {open_.port} tcp", "--egress-default", "deny"
            ), box.running("--network", "net-g") as name:
        told = cli.ok("exec", name, "sh", "-c",
                      f"nc -w 20 {HOST4} {open_.port} </dev/null; "
                      f"nc -w 20 {HOST4} {shut.port} </dev/null 2>&1; true").text
        assert told.splitlines()[0] == "from the world"
        assert told.count("from the world") == 1
        eventually(lambda: len(cli.ok("network", "log", "net-g").text.splitlines()) == 2,
                   "both are in the log")
        log = [json.loads(line) for line in cli.ok("network", "log", "--format", "json", "net-g")
               .text.splitlines()]
        assert {(e["what"], e["container"], e["to"]) for e in log} == {
            ("closed", name, f"{HOST4}:{open_.port}"), ("denied", name, f"{HOST4}:{shut.port}")}
        with box.cli.popen("network", "log", "-f", "net-g", stdout=subprocess.PIPE) as follower:
            assert follower.stdout is not None
            for _ in range(2):
                follower.stdout.readline()
            cli.ok("exec", name, "nc", "-w", "20", HOST4, str(open_.port), stdin=b"")
            assert f"{name} -> {HOST4}:{open_.port}".encode() in follower.stdout.readline()
            follower.kill()
        told = cli.ok("network", "inspect", "net-g").json[0]["Egress"]
        assert told == {"Rules": [f"allow {HOST4} {open_.port} tcp"], "Default": "deny"}
        cli.ok("network", "update", "--egress", f"deny {HOST4} {open_.port}", "--egress-default",
               "allow", "net-g")
        reached = [cli("exec", name, "nc", "-w", "20", HOST4, str(s.port), stdin=b"").text
                   for s in (open_, shut)]
        assert reached == ["", "from the world"]


ANSWER = r"""
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("0.0.0.0", 53))
while True:
    data, who = sock.recvfrom(1000)
    question = data[12:data.index(b"\0", 12) + 5]
    found = b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4\xc0\0\2\x63"
    kind = question[-3]
    sock.sendto(data[:2] + b"\x81\x80\0\1\0" + (b"\1" if kind == 1 else b"\0")
                + bytes(4) + question + (found if kind == 1 else b""), who)
"""


def test_a_name_server_of_ones_own_may_be_a_container(box: Box) -> None:
    with network(box.cli, "net-v", "--subnet", "10.71.0.0/24"):
        box.cli.ok("run", "-d", "--name", "answers", "--network", "net-v", "--ip", "10.71.0.53",
                   "host", "python3", "-c", ANSWER)
        try:
            with box.running("--network", "net-v", "--dns", "10.71.0.53") as name:
                def answered(word: str, wanted: str) -> bool:
                    told = box.cli("exec", name, "busybox", "nslookup", word).text
                    return f"Address: {wanted}" in told
                eventually(lambda: answered("any.example", "192.0.2.99"), "the name is answered")
                assert answered("answers", "10.71.0.53")
        finally:
            box.cli.ok("rm", "-f", "answers")


# ---- addresses ---------------------------------------------------------------------------------

def test_an_address_and_a_mac_that_are_asked_for(box: Box) -> None:
    with network(box.cli, "net-f", "--subnet", "10.77.0.0/24"):
        for _ in range(3):      # each time anew, as soon as it is free
            told = box.sh("ip addr show eth0", "--network", "net-f", "--ip", "10.77.0.99",
                          "--mac-address", "02:00:00:00:00:99")
            assert "10.77.0.99/24" in told and "02:00:00:00:00:99" in told


def test_addresses_that_cannot_be_are_refused_and_nothing_is_left(box: Box) -> None:
    with network(box.cli, "net-e", "--subnet", "10.78.0.0/29"):
        box.refuses("--network", "net-e", "--ip", "10.79.0.1", says="not in network net-e")
        box.refuses("--network", "net-e", "--ip6", "fd00::1", says="not in network net-e")
        box.refuses("--network", "net-e", "--ip", "10.78.0.1", says="gateway")
        with box.running("--network", "net-e", "--ip", "10.78.0.3") as name:
            box.refuses("--network", "net-e", "--ip", "10.78.0.3", says=name)
        names = [f"full-{n}" for n in range(5)]
        for name in names:
            box.cli.ok("run", "-d", "--name", name, "--network", "net-e", box.image, "sleep",
                       "1000")
        assert len({place(box.cli, n, "net-e")["IPAddress"] for n in names}) == 5
        box.refuses("--network", "net-e", says="no address is free")
        box.cli.ok("rm", "-f", names[0])
        assert box.sh("echo in", "--network", "net-e") == "in"
        box.cli.ok("rm", "-f", *names)


def test_a_stopped_container_has_no_address_and_gets_one_again(box: Box) -> None:
    with network(box.cli, "net-t", "--subnet", "10.76.0.0/30"), \
            box.running("--network", "net-t") as name:
        box.cli.ok("stop", "-t", "0", name)
        assert place(box.cli, name, "net-t")["IPAddress"] == ""
        assert box.sh("echo in", "--network", "net-t") == "in"      # the only address there is
        box.cli.ok("start", name)
        assert place(box.cli, name, "net-t")["IPAddress"] == "10.76.0.2"


# ---- the commands ------------------------------------------------------------------------------

def test_network_create_says_the_id_and_inspect_tells_all(box: Box) -> None:
    cli = box.cli
    made = cli.ok("network", "create", "--subnet", "10.75.0.0/24", "--gateway", "10.75.0.254",
                  "--ip-range", "10.75.0.128/25", "--label", "a=b", "-o", "mtu=1400", "net-n").text
    with box.running("--network", "net-n") as name:
        told = cli.ok("network", "inspect", "net-n").json[0]
        assert told["Id"] == made and told["Driver"] == "bridge" and told["Labels"] == {"a": "b"}
        assert told["IPAM"]["Config"] == [{"Subnet": "10.75.0.0/24", "Gateway": "10.75.0.254",
                                           "IPRange": "10.75.0.128/25"}]
        (there,) = told["Containers"].values()
        assert (there["Name"], there["IPv4Address"]) == (name, "10.75.0.128/24")
        assert "mtu 1400" in cli.ok("exec", name, "ip", "link", "show", "eth0").text
        assert "10.75.0.254" in cli.ok("exec", name, "ip", "route").text
        cli.fails(1, "network", "rm", "net-n", says=name)
        assert "net-n" not in cli.ok("network", "prune", "-f").text
    assert cli.ok("network", "ls", "--filter", "label=a=b", "--format", "{{.Name}}").text == "net-n"
    assert cli.ok("network", "prune", "-f", "--filter", "label!=a").out == b""
    assert cli.ok("network", "prune", "-f").text.split() == ["Deleted", "Networks:", "net-n"]
    cli.fails(1, "network", "inspect", "net-n", says="no such network: net-n")


def test_network_ls_as_docker(cli: Cli) -> None:
    rows = [line.split() for line in cli.ok("network", "ls").text.splitlines()]
    assert rows[0] == ["NETWORK", "ID", "NAME", "DRIVER", "SCOPE"]
    assert [r[1:] for r in rows[1:]] == [["bridge", "bridge", "local"], ["host", "host", "local"],
                                         ["none", "null", "local"]]
    ids = cli.ok("network", "ls", "-q").text.split()
    assert [len(i) for i in ids] == [12] * 3
    for words in (("network", "inspect", ids[0]), ("inspect", "bridge"),
                  ("inspect", "--type", "network", "default")):
        assert cli.ok(*words, "--format", "{{.Name}}").text == "bridge"
    cli.fails(1, "inspect", "--type", "network", "nosuch", says="no such network: nosuch")


@pytest.mark.parametrize("words, says", [
    (("create", "--subnet", "10.88.7.0/24", "x"), "overlaps with 10.88.0.0/16 of network bridge"),
    (("create", "--subnet", "10.88.7.0", "x"), "invalid subnet"),
    (("create", "--gateway", "10.1.1.1", "x"), "--subnet"),
    (("create", "-d", "macvlan", "x"), "driver macvlan"),
    (("create", "-o", "mtu=9", "x"), "1280"), (("create", "-o", "colour=blue", "x"), "colour"),
    (("create", "none"), "invalid network name"), (("create", "--label", "=x", "x"), "label"),
    (("create", "bridge"), "already exists"),
    (("rm", "bridge"), "always there"), (("rm", "host"), "always there"),
    (("rm", "nosuch"), "no such network"), (("ls", "--filter", "colour=blue"), "colour"),
    (("prune",), "--force"), (("prune", "-f", "--filter", "x"), "filter"),
    (("create", "--egress", "x", "x"), "egress rule"),
    (("update", "bridge"), "nothing to change"), (("update", "bridge", "--egress", "x"), "rule"),
    (("create", "--egress-default", "perhaps", "x"), "allow or deny"),
    (("create", "--egress", "deny any", "--internal", "x"), "internal"),
    (("log", "nosuch"), "no such network"),
    (("connect", "nosuch", "nobody"), "no such container"),
    (("disconnect", "bridge", "nobody"), "no such container")])
def test_what_cannot_be_is_told_in_one_line(cli: Cli, tiny: str, words: tuple[str, ...],
                                            says: str) -> None:
    cli.ok("run", "--rm", tiny, "true")     # the default network is there
    before = sorted(os.listdir(cli.store / "networks"))
    result = cli("network", *words)
    assert result.rc in (1, 125), result
    assert result.out == b"" and says in result.error, result
    assert sorted(os.listdir(cli.store / "networks")) == before


def test_an_unknown_network_makes_no_container(box: Box) -> None:
    box.refuses("--network", "nosuch", says="no such network: nosuch")


# ---- connect and disconnect --------------------------------------------------------------------

def test_a_running_container_joins_and_leaves(box: Box) -> None:
    cli = box.cli
    with network(cli, "net-j", "--subnet", "10.74.0.0/24"), \
            box.running("--network", "net-j") as other, box.running() as name:
        assert cli("exec", name, "ping", "-c", "1", "-W", "1", other).rc != 0
        cli.ok("network", "connect", "--ip", "10.74.0.50", "--alias", "guest", "net-j", name)
        assert cli.ok("exec", name, "ping", "-c", "1", "-W", "5", other).rc == 0
        assert cli.ok("exec", other, "ping", "-c", "1", "-W", "5", "guest").rc == 0
        assert place(cli, name, "net-j")["IPAddress"] == "10.74.0.50"
        assert "10.74.0.50\t" in cli.ok("exec", name, "cat", "/etc/hosts").text
        cli.fails(1, "network", "connect", "net-j", name, says="already")
        cli.ok("network", "disconnect", "bridge", name)
        assert cli.ok("exec", name, "ls", "/sys/class/net").text.split() == ["eth1", "lo"]
        assert "default via 10.74.0.1 dev eth1" in cli.ok("exec", name, "ip", "route").text
        assert cli.ok("exec", name, "cat", "/etc/resolv.conf").text.split()[:2] == [
            "nameserver", "10.74.0.1"]
        with Server("0.0.0.0") as server:
            told = cli.ok("exec", name, "nc", HOST4, str(server.port), stdin=b"")
            assert told.text == "from the world"
        cli.fails(1, "network", "disconnect", "bridge", name, says="not on network bridge")
        cli.ok("stop", "-t", "0", name)
        cli.ok("start", name)
        assert place(cli, name, "net-j")["IPAddress"] == "10.74.0.50"


def test_root_inside_cannot_keep_what_is_taken_away(box: Box) -> None:
    with network(box.cli, "net-h"), \
            box.running("--network", "net-h", "--cap-add", "NET_ADMIN") as name:
        box.cli.ok("exec", name, "sh", "-c", "ip link set eth0 down; ip link set eth0 name mine")
        box.cli.ok("network", "disconnect", "net-h", name)
        assert box.cli.ok("exec", name, "ls", "/sys/class/net").text == "lo"


def test_containers_of_two_user_namespaces_are_on_one_network(box: Box) -> None:
    """What keeps the user namespace ends after a while; the next command makes another."""
    with network(box.cli, "net-u"), box.running("--network", "net-u") as one:
        keeper = int((box.cli.runtime / "rootless/keeper").read_text().split()[0])
        os.kill(keeper, signal.SIGKILL)
        eventually(lambda: not leftovers.alive(keeper), "the user namespace's keeper has ended")
        with box.running("--network", "net-u") as two:
            spaces = {os.stat(f"/proc/{pid}/ns/user").st_ino for pid in (
                int(box.cli.ok("inspect", "--format", "{{.State.Pid}}", c).text)
                for c in (one, two))}
            assert len(spaces) == 2
            assert box.cli.ok("exec", two, "ping", "-c", "1", "-W", "5", one).rc == 0
            assert box.sh("hostname", "--network", f"container:{one}") == box.cli.ok(
                "exec", one, "hostname").text
            assert box.cli.ok("network", "disconnect", "net-u", one).rc == 0


def test_a_connection_that_cannot_be_leaves_all_as_it_was(box: Box) -> None:
    cli = box.cli
    with network(cli, "net-k", "--subnet", "10.73.0.0/24"), \
            box.running("--network", "net-k", "--ip", "10.73.0.9") as holder, \
            box.running() as name:
        cli.fails(1, "network", "connect", "--ip", "10.73.0.9", "net-k", name, says=holder)
        assert cli.ok("exec", name, "ls", "/sys/class/net").text.split() == ["eth0", "lo"]
        assert list(json.loads(cli.ok("inspect", "--format", "{{json .NetworkSettings.Networks}}",
                                      name).text)) == ["bridge"]
    with box.running("--network", "none") as name:
        cli.fails(1, "network", "connect", "bridge", name, says="--network none")


# ---- published ports ---------------------------------------------------------------------------

ECHO = ("nc", "-ll", "-p", "80", "-e", "sh", "-c", "echo inside; cat")


def fetch(host: str, port: int, family: int = socket.AF_INET) -> bytes:
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(20)
        sock.connect((host, port))
        sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(4096), b""))


def served(host: str, port: int) -> Callable[[], bool]:
    def holds() -> bool:
        try:
            return fetch(host, port) == b"inside\n"
        except OSError:
            return False
    return holds


def published(cli: Cli, name: str, port: str = "80") -> int:
    return int(cli.ok("port", name, port).text.splitlines()[0].rpartition(":")[2])


def own_address() -> str:
    """The address of this machine towards the world; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("192.0.2.77", 9))
        return str(sock.getsockname()[0])


def test_a_published_port_is_reached_from_the_host_and_from_containers(box: Box) -> None:
    with network(box.cli, "net-p"), box.running("-p", "80", then=ECHO) as name:
        port = published(box.cli, name)
        assert box.cli.ok("port", name).text == f"80/tcp -> 0.0.0.0:{port}"
        assert f"0.0.0.0:{port}->80/tcp" in box.cli.ok("ps").text
        eventually(served("127.0.0.1", port), "the port is served")
        assert fetch(own_address(), port) == b"inside\n"
        assert box.sh(f"nc {HOST4} {port} </dev/null", "--network", "net-p") == "inside"
        box.cli.fails(1, "port", name, "81", says="no public port")


def test_the_service_sees_the_address_of_its_client(box: Box) -> None:
    script = "nc -ll -p 80 -e sh -c 'busybox netstat -tn | grep :80'"
    with box.running("-p", "80", then=("sh", "-c", script)) as name:
        port = published(box.cli, name)
        mine = own_address()
        eventually(lambda: mine.encode() in fetch(mine, port), "the client's address is seen")


def test_ports_are_chosen_from_a_range_and_conflicts_name_the_holder(box: Box) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        first = int(free.getsockname()[1])
    low = min(first, 65000)
    with box.running("-p", f"{low}-{low + 30}:80", then=ECHO) as one, \
            box.running("-p", f"{low}-{low + 30}:80", then=ECHO) as two:
        a, b = published(box.cli, one), published(box.cli, two)
        assert a != b and {a, b} <= set(range(low, low + 31))
        box.refuses("-p", f"{a}:80", says=one)
        box.refuses("-p", f"127.0.0.1:{b}:80", says=two)
        box.refuses("--name", "itself", "-p", "127.0.0.1::80", "-p", f"{low + 40}:80", "-p",
                    f"{low + 40}:81", says="container itself has it")
        with box.running("-p", f"{a}:80/udp"):
            pass        # another protocol, another port
    with box.running("-p", f"{a}:80"):
        pass            # free again


def test_a_port_that_another_process_has_is_told(box: Box) -> None:
    comm = Path("/proc/self/comm").read_text().strip()
    with Server("0.0.0.0") as server:
        box.refuses("-p", f"{server.port}:80",
                    says=f"{server.port}/tcp: {comm} (process {os.getpid()}) has it")


def test_a_port_of_root_names_the_sysctl(box: Box) -> None:
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) > 81:
        box.refuses("-p", "81:80", says="sysctl -w net.ipv4.ip_unprivileged_port_start=81")
    box.refuses("-p", "192.0.2.222:8080:80", says="no such address")


def test_a_published_port_survives_a_stop_and_start(box: Box) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    with box.running("-p", f"127.0.0.1:{port}:80", then=ECHO) as name:
        for _ in range(2):
            eventually(served("127.0.0.1", port), "the port is served")
            with pytest.raises(ConnectionRefusedError):
                fetch(own_address(), port)
            box.cli.ok("stop", "-t", "0", name)
            assert box.cli.ok("port", name).out == b""
            with pytest.raises(ConnectionRefusedError):
                fetch("127.0.0.1", port)
            box.cli.ok("start", name)


def test_a_published_port_of_ipv6(box: Box) -> None:
    with network(box.cli, "net-q", "--ipv6"), \
            box.running("--network", "net-q", "-p", "[::1]::80", then=ECHO) as name:
        port = published(box.cli, name)
        eventually(lambda: fetch("::1", port, socket.AF_INET6) == b"inside\n" if _listens(port)
                   else False, "the port is served")
    box.refuses("-p", "[::1]::80", says="has no IPv6")


def _listens(port: int) -> bool:
    try:
        fetch("::1", port, socket.AF_INET6)
        return True
    except OSError:
        return False


ECHO_UDP = """
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("0.0.0.0", 80))
while True:
    data, who = sock.recvfrom(1000)
    sock.sendto(data + b" " + who[0].encode(), who)
"""


def test_datagrams_of_a_published_port(cli: Cli) -> None:
    cli.ok("run", "-d", "--name", "udp", "-p", "80/udp", "host", "python3", "-c", ECHO_UDP)
    try:
        port, mine = published(cli, "udp", "80/udp"), own_address()

        def answered() -> bool:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(1)
                sock.connect((mine, port))
                try:
                    sock.send(b"ping")
                    return sock.recv(100) == b"ping " + mine.encode()
                except OSError:
                    return False
        eventually(answered, "a datagram comes back, and its sender was seen")
    finally:
        cli.ok("rm", "-f", "udp")


def test_without_a_network_published_ports_are_said_to_be_discarded(box: Box) -> None:
    with network(box.cli, "net-d", "--internal"):
        for name in ("none", "host", "net-d"):
            result = box("-p", "8080:80", "--network", name)
            assert result.rc == 0 and "discarded" in result.error


def test_all_that_the_image_exposes_is_published(cli: Cli, box: Box, tmp_path: Path) -> None:
    cli.ok("create", "--name", "bare", box.image)
    cli.ok("export", "-o", str(tmp_path / "bare.tar"), "bare")
    cli.ok("import", "-c", "EXPOSE 80 53/udp", str(tmp_path / "bare.tar"), "exposing")
    try:
        with Box(cli, "exposing").running("-P", "-p", "81", then=("sleep", "1000")) as name:
            told = cli.ok("port", name).text.splitlines()
            assert sorted(line.split(" -> ")[0] for line in told) == ["53/udp", "80/tcp", "81/tcp"]
            assert len({line.rpartition(":")[2] for line in told}) == 3
    finally:
        cli.ok("rm", "bare")
        cli.ok("rmi", "exposing")


# ---- the keeper --------------------------------------------------------------------------------

def test_a_killed_keeper_is_replaced_and_containers_have_their_networks_again(box: Box) -> None:
    cli = box.cli
    with network(cli, "net-r"), \
            box.running("--network", "net-r", "-p", "80", then=ECHO) as one, \
            box.running("--network", "net-r", "--network", "bridge") as two:
        before = place(cli, one, "net-r"), place(cli, two, "net-r"), published(cli, one)
        (pid,) = keepers(cli)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: [p for p in keepers(cli) if p != pid], "another keeper")
        # Whoever comes in between takes nothing away.
        box.sh("true", "--network", "net-r")
        eventually(lambda: cli("exec", two, "ping", "-c", "1", "-W", "1", one).rc == 0,
                   "the containers reach each other")
        eventually(served("127.0.0.1", before[2]), "the port is served again")
        assert (place(cli, one, "net-r"), place(cli, two, "net-r"), published(cli, one)) == before
        with Server("0.0.0.0") as server:
            told = cli.ok("exec", two, "nc", HOST4, str(server.port), stdin=b"")
            assert told.text == "from the world"


def test_a_transfer_between_containers_outlives_the_keeper(box: Box) -> None:
    """The connection is the kernels' of both; only the wire between them is renewed."""
    cli = box.cli
    with box.running(then=("nc", "-l", "-p", "80", "-e", "cat")) as name:
        address = place(cli, name)["IPAddress"]
        script = (f"(for n in $(seq 40); do echo $n; sleep 0.1; done) | nc -w 20 {address} 80 "
                  "| tail -1")
        told: list[str] = []
        reader = threading.Thread(target=lambda: told.append(box.sh(script, timeout=60)))
        reader.start()
        time.sleep(1)
        (pid,) = keepers(cli)
        os.kill(pid, signal.SIGKILL)
        reader.join()
    assert told == ["40"]


def test_a_killed_uplink_is_replaced(box: Box) -> None:
    with box.running("-p", "80", then=ECHO) as name:
        port = published(box.cli, name)
        eventually(served("127.0.0.1", port), "the port is served")
        (keeper,) = keepers(box.cli)
        ups = [pid for pid, line in leftovers.descendants(keeper).items()
               if line == "rootless network uplink"]
        assert ups
        for pid in ups:
            os.kill(pid, signal.SIGKILL)
        eventually(served("127.0.0.1", port), "the port is served again")


def test_a_container_whose_monitor_is_killed_gives_its_address_back(box: Box) -> None:
    with network(box.cli, "net-m", "--subnet", "10.72.0.0/30"):
        box.cli.ok("run", "-d", "--name", "doomed", "--network", "net-m", box.image, "sleep", "999")
        cid = box.cli.ok("inspect", "--format", "{{.Id}}", "doomed").text
        state = (box.cli.store / "containers" / cid / "state.json").read_text()
        os.kill(json.loads(state)["monitor"], signal.SIGKILL)
        eventually(lambda: box("--network", "net-m").rc == 0, "the only address is free")
        box.cli.ok("rm", "-f", "doomed")


def test_the_keeper_ends_on_request_and_running_containers_start_another(box: Box) -> None:
    with box.running() as name:
        (pid,) = keepers(box.cli)
        box.cli.ok("system", "stop")
        eventually(lambda: not leftovers.alive(pid), "the keeper has ended")
        eventually(lambda: keepers(box.cli), "another keeper")
        eventually(lambda: box("--network", "bridge", then=("ping", "-c", "1", "-W", "1", name)
                               ).rc == 0, "the container is reached")
    box.cli.ok("system", "stop")
    eventually(lambda: not keepers(box.cli), "no keeper without containers")
