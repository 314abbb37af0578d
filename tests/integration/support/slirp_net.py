"""A network namespace with a device in it, served by `slirp` from outside, and its faults."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

from slirp import process
from slirp.device import Device
from slirp.loop import Loop
from slirp.options import Options
from slirp.stack import Stack

CHECKOUT = Path(__file__).resolve().parents[3]
HOST4, HOST6 = "10.0.2.2", "fd00::2"

# Inside: make the device, hand it out, stay until told to go.
_HOLDER = """
import os, socket, subprocess, sys
sys.path.insert(0, sys.argv[1])
from slirp.device import open_tun
fd = open_tun("tun0")
for words in ("link set lo up", "link set tun0 mtu %s up" % sys.argv[2],
              "addr add 10.0.2.100/24 dev tun0", "route add default dev tun0",
              "-6 addr add fd00::100/64 dev tun0 nodad", "-6 route add default dev tun0"):
    subprocess.run(["ip", *words.split()], check=True)
out = socket.socket(fileno=int(sys.argv[3]))
socket.send_fds(out, [b"."], [fd])
os.close(fd)
out.recv(1)
"""


class Faulty(Device):
    """Loses, repeats and delays one packet of `rarity` each, both ways, the same in every run."""

    def __init__(self, fd: int, rarity: int) -> None:
        super().__init__(fd)
        self._random = random.Random(1)
        self._rarity = rarity
        self._late: list[bytes] = []

    def _fate(self) -> int:
        return self._random.randrange(3 * self._rarity)

    def read(self) -> int:
        length = super().read()
        return 1 if length > 0 and self._fate() == 0 else length     # 1: too short for a packet

    def send(self, *parts: bytes | bytearray | memoryview) -> None:
        fate = self._fate()
        if fate == 1:
            self._late.append(b"".join(parts))
            return
        if fate != 0:
            super().send(*parts)
        if fate == 2:
            super().send(*parts)
        while self._late:
            super().send(self._late.pop())


class Net:
    """`exec` runs a command inside; `pid` is that of the serving process. `faults`: how rare they
    are, 0 is never."""

    def __init__(self, options: Options, *, faults: int = 0) -> None:
        self.options = options
        self._faults = faults
        ours, theirs = socket.socketpair()
        self._ours = ours
        self._holder = subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "--net", "--", sys.executable, "-I", "-c",
             _HOLDER, str(CHECKOUT), str(options.mtu), str(theirs.fileno())],
            pass_fds=[theirs.fileno()])
        theirs.close()
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        assert fds, "the namespace could not be made"
        self.device = fds[0]
        self.control = ""
        self.pid = self.lifeline = 0
        self.start()

    def start(self) -> None:
        """Serve, in a child; returns when it does."""
        reader, writer = os.pipe()
        alive, self.lifeline = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                self._serve(writer, alive)
                code = 0
            finally:
                os._exit(code)
        os.close(writer)
        os.close(alive)
        assert os.read(reader, 1) == b"1", "the network did not start"
        os.close(reader)

    def _serve(self, ready: int, alive: int) -> None:
        if not self._faults:
            process.run(self.options, device=self.device, ready=ready, until=alive)
            return
        loop, device = Loop(), Faulty(self.device, self._faults)
        process.serve(loop, device, Stack(loop, device, self.options), ready=ready)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Its exit code."""
        os.kill(self.pid, number)
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def words(self, *command: str) -> list[str]:
        """The command, as one that runs it inside."""
        return ["nsenter", f"--target={self._holder.pid}", "--user", "--net",
                "--preserve-credentials", "--", *command]

    def exec(self, *command: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.words(*command), capture_output=True, text=True,
                              timeout=timeout, check=False)

    def python(self, code: str, *args: str, timeout: float = 30) -> str:
        """What the code prints inside; it must succeed."""
        done = self.exec(sys.executable, "-I", "-c", code, *args, timeout=timeout)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def close(self) -> None:
        """`stop` checks how the server ended; here it is only seen off."""
        if self.pid:
            self.stop(signal.SIGKILL)
        os.close(self.device)
        self._ours.close()
        self._holder.wait(timeout=10)
