"""User-mode networks compared: `python -m tests.bench.slirp [CASE...]`, as an unprivileged user.

Needs iperf3, slirp4netns and pasta (Debian: iperf3 slirp4netns passt), and a quiet machine. Each
pair of figures is taken in turn, each in a namespace of its own; medians are shown, and the median
of the ratios pair by pair. Everything stays on loopback and in these namespaces.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).resolve().parents[2]
START = (f"import sys; sys.path.insert(0, {str(CHECKOUT)!r})\n"
         "from slirp.__main__ import main; main()")
OURS = [sys.executable, "-I", "-c", START]
HOST = "10.0.2.2"
ROUNDS, SECONDS = 5, 2
TICK = os.sysconf("SC_CLK_TCK")

CONNECTS = """
import socket, sys, time
end, n = time.perf_counter() + float(sys.argv[3]), 0
while time.perf_counter() < end:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) as s:
        s.sendall(b"x" * 64)
        s.recv(64)
    n += 1
print(n / float(sys.argv[3]))
"""
ECHO = """
import socket, sys, threading
s = socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=1024)
print("ready", flush=True)
while True:
    c, _ = s.accept()
    c.sendall(c.recv(64))
    c.close()
"""

IDLE = """
import resource, socket, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
ends = [socket.create_connection((sys.argv[1], int(sys.argv[2]))) for _ in range(int(sys.argv[3]))]
print("there", flush=True)
time.sleep(60)
"""


class Peer:
    """A network served by one of the programs, in a new namespace."""

    def __init__(self, kind: str, mtu: int, port: int = 0) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "--net", "--", "sh", "-c",
             "ip link set lo up; echo there; exec sleep 600"], stdout=subprocess.PIPE)
        assert self._holder.stdout
        self._holder.stdout.readline()
        pid = self._holder.pid
        self._directory = tempfile.TemporaryDirectory()
        api = f"{self._directory.name}/api"
        words = {
            "ours": [*OURS, "-c", "-m", str(mtu), "-a", api, str(pid), "tap0"],
            "slirp4netns": ["slirp4netns", "-c", "-m", str(mtu), "-a", api, str(pid), "tap0"],
            "pasta": ["pasta", "-f", "-q", "--config-net", "-m", str(mtu), "-a", "10.0.2.100",
                      "-n", "24", "-g", HOST, *(["-t", str(port)] if port else []),
                      "--userns", f"/proc/{pid}/ns/user", "--netns", f"/proc/{pid}/ns/net"],
        }[kind]
        self._program = subprocess.Popen(words, stdout=subprocess.DEVNULL,
                                         stderr=subprocess.DEVNULL)
        self._until(lambda: "default" in self.run("ip", "route"), f"{kind} configures its device")
        if port and kind != "pasta":
            self._until(lambda: os.path.exists(api), "the API socket")
            with socket.socket(socket.AF_UNIX) as one:
                one.connect(api)
                one.sendall(json.dumps({"execute": "add_hostfwd", "arguments": {
                    "proto": "tcp", "host_addr": "127.0.0.1", "host_port": port,
                    "guest_addr": "10.0.2.100", "guest_port": port}}).encode())
                one.shutdown(socket.SHUT_WR)
                answer = one.recv(4096)
                assert b"return" in answer, answer

    def _until(self, done: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + 10
        while not done():
            if time.monotonic() > end:
                raise SystemExit(f"never: {what}")
            time.sleep(0.02)

    def words(self, *command: str) -> list[str]:
        return ["nsenter", f"--target={self._holder.pid}", "--user", "--net",
                "--preserve-credentials", "--", *command]

    def run(self, *command: str) -> str:
        return subprocess.run(self.words(*command), capture_output=True, text=True,
                              check=True).stdout

    def cpu(self) -> float:
        """Seconds that the program has computed so far."""
        fields = Path(f"/proc/{self._program.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return sum(int(field) for field in fields[11:13]) / TICK

    def memory(self) -> float:
        """Proportional set size in MB."""
        text = Path(f"/proc/{self._program.pid}/smaps_rollup").read_text()
        return next(int(line.split()[1]) for line in text.splitlines()
                    if line.startswith("Pss:")) / 1024

    def close(self) -> None:
        for process in (self._program, self._holder):
            process.kill()
            process.wait()
        self._directory.cleanup()


class Figure(NamedTuple):
    """`rate` in Gbit/s or connections per second; `cost` in CPU-seconds per GiB or per 1,000."""

    rate: float
    cost: float


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def stream(kind: str, mtu: int, *, reverse: bool = False, inbound: bool = False) -> Figure:
    port = free_port()
    peer = Peer(kind, mtu, port if inbound else 0)
    try:
        server = ["iperf3", "-s", "-1", "-p", str(port)] + ([] if inbound else ["-B", "127.0.0.1"])
        with subprocess.Popen(peer.words(*server) if inbound else server,
                              stdout=subprocess.DEVNULL) as running:
            time.sleep(0.3)
            before = peer.cpu()
            client = ["iperf3", "-c", "127.0.0.1" if inbound else HOST, "-p", str(port), "-J", "-t",
                      str(SECONDS)] + (["-R"] if reverse else [])
            done = subprocess.run(client if inbound else peer.words(*client), capture_output=True,
                                  text=True, check=False, timeout=60)
            spent = peer.cpu() - before
            running.kill()
        found = json.loads(done.stdout)
        if "error" in found:
            raise SystemExit(f"{kind}: iperf3: {found['error']}")
        received = found["end"]["sum_received"]
        return Figure(received["bits_per_second"] / 1e9, spent / (received["bytes"] / 2**30))
    finally:
        peer.close()


def connects(kind: str, mtu: int, *, inbound: bool = False) -> Figure:
    port = free_port()
    peer = Peer(kind, mtu, port if inbound else 0)
    server = [sys.executable, "-c", ECHO, "0.0.0.0" if inbound else "127.0.0.1", str(port)]
    client = [sys.executable, "-c", CONNECTS, "127.0.0.1" if inbound else HOST, str(port),
              str(SECONDS)]
    try:
        with subprocess.Popen(peer.words(*server) if inbound else server,
                              stdout=subprocess.PIPE) as running:
            assert running.stdout
            running.stdout.readline()
            before = peer.cpu()
            done = subprocess.run(client if inbound else peer.words(*client), capture_output=True,
                                  text=True, check=False, timeout=60)
            spent = peer.cpu() - before
            running.kill()
        if done.returncode:
            raise SystemExit(f"{kind}: {done.stderr}")
        rate = float(done.stdout)
        return Figure(rate, spent / (rate * SECONDS) * 1000)
    finally:
        peer.close()


class Case(NamedTuple):
    """`goal`: our rate over theirs, at least; `cost`: our CPU over theirs, at most (0: none)."""

    title: str
    other: str
    goal: float
    cost: float
    measure: Callable[[str], Figure]


def _cases() -> dict[str, Case]:
    def up(mtu: int) -> Callable[[str], Figure]:
        return lambda kind: stream(kind, mtu)

    def down(mtu: int) -> Callable[[str], Figure]:
        return lambda kind: stream(kind, mtu, reverse=True)

    return {
        "up": Case("out, MTU 65520", "slirp4netns", 1.5, 0.5, up(65520)),
        "down": Case("in by our request, MTU 65520", "slirp4netns", 1.2, 0.5, down(65520)),
        "up-1500": Case("out, MTU 1500", "slirp4netns", 4.0, 0.5, up(1500)),
        "down-1500": Case("in by our request, MTU 1500", "slirp4netns", 1.0, 0.5, down(1500)),
        "connect": Case("connections per second", "slirp4netns", 1.0, 0,
                        lambda kind: connects(kind, 1500)),
        "pasta-up": Case("out, MTU 65520", "pasta", 1.1, 0, up(65520)),
        "pasta-down": Case("in by our request, MTU 65520", "pasta", 1.1, 0, down(65520)),
        "pasta-connect": Case("connections per second", "pasta", 0.9, 0,
                              lambda kind: connects(kind, 1500)),
        "port": Case("into a published port", "slirp4netns", 1.5, 0,
                     lambda kind: stream(kind, 65520, inbound=True)),
        "port-down": Case("out of a published port", "slirp4netns", 1.5, 0,
                          lambda kind: stream(kind, 65520, inbound=True, reverse=True)),
        "port-connect": Case("connections to a published port", "slirp4netns", 1.0, 0,
                             lambda kind: connects(kind, 1500, inbound=True)),
        "pasta-port": Case("into a published port", "pasta", 1.0, 0,
                           lambda kind: stream(kind, 65520, inbound=True)),
    }


CASES = _cases()
FLOWS = 2000


def memory() -> tuple[float, float]:
    """MB of our process without flows, and KB that each of FLOWS idle ones adds."""
    peer = Peer("ours", 1500)
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    try:
        with socket.create_server(("127.0.0.1", 0), backlog=4096) as server:
            kept: list[socket.socket] = []

            def accept() -> None:
                while len(kept) < FLOWS:
                    kept.append(server.accept()[0])

            threading.Thread(target=accept, daemon=True).start()
            before = peer.memory()
            with subprocess.Popen(peer.words(sys.executable, "-c", IDLE, HOST,
                                             str(server.getsockname()[1]), str(FLOWS)),
                                  stdout=subprocess.PIPE) as running:
                assert running.stdout
                running.stdout.readline()
                after = peer.memory()
                running.kill()
            for one in kept:
                one.close()
        return before, (after - before) * 1024 / FLOWS
    finally:
        peer.close()


def main() -> None:
    chosen = sys.argv[1:] or [*CASES, "memory"]
    unknown = set(chosen) - {*CASES, "memory"}
    if unknown:
        raise SystemExit(f"no such case: {', '.join(unknown)}; "
                         f"there are {', '.join(CASES)}, memory")
    print(f"{'':32} {'ours':>9} {'peer':>9} {'ratio':>6} {'goal':>6}  CPU ratio")
    for name in chosen:
        if name == "memory":
            base, each = memory()
            print(f"{'memory':32} {base:6.1f} MB + {each:.1f} KB per idle flow; goals 15 MB, 10 KB")
            continue
        case = CASES[name]
        pairs = [(case.measure("ours"), case.measure(case.other)) for _ in range(ROUNDS)]
        ours, theirs = (statistics.median(pair[i].rate for pair in pairs) for i in (0, 1))
        ratio = statistics.median(a.rate / b.rate for a, b in pairs)
        cost = statistics.median(a.cost / b.cost if b.cost else 0 for a, b in pairs)
        goal = f"(goal ≤ {case.cost})" if case.cost else ""
        print(f"{f'{case.title}, {case.other}':42.42} {ours:9.2f} {theirs:9.2f} {ratio:6.2f} "
              f"{f'≥ {case.goal}':>6}  {cost:.2f} {goal}", flush=True)


if __name__ == "__main__":
    main()
