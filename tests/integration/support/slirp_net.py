"""A network namespace with a device in it, served by `slirp` from outside, and its faults."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from slirp import api, linux, process
from slirp.device import Device
from slirp.forward import Forwards
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
socket.send_fds(out, [b"%d" % os.getpid()], [fd])
os.close(fd)
out.recv(1)
"""


# Around it: a host of its own, with addresses that are nobody's (RFC 5737, RFC 3849).
_HOST = """
import subprocess, sys
for words in ("link set lo up", "addr add 192.0.2.1/32 dev lo", "addr add 198.51.100.7/32 dev lo",
              "-6 addr add 2001:db8::1/128 dev lo", "-6 addr add 2001:db8::7/128 dev lo"):
    subprocess.run(["ip", *words.split()], check=True)
sys.exit(subprocess.call(["unshare", "--net", "--", sys.executable, "-I", "-c", *sys.argv[2:]],
                         pass_fds=[int(sys.argv[1])]))
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
    """`exec` runs a command inside, `outside` is one where the stack's sockets are: here, or with
    `host` in a namespace that stands for one. `pid` is that of the serving process, `control` the
    path of its control socket. `faults`: how rare they are, 0 is never."""

    def __init__(self, options: Options, *, faults: int = 0, host: bool = False,
                 control: Path | None = None) -> None:
        self.options = options
        self.control = control
        self._faults = faults
        self._host = host
        ours, theirs = socket.socketpair()
        self._ours = ours
        number = str(theirs.fileno())
        inner = [_HOLDER, str(CHECKOUT), str(options.mtu), number]
        self._holder = subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "--net", "--", sys.executable, "-I", "-c",
             *([_HOST, number, *inner] if host else inner)], pass_fds=[theirs.fileno()])
        theirs.close()
        text, fds, _, _ = socket.recv_fds(ours, 16, 1)
        assert fds, "the namespace could not be made"
        self.inner = int(text)
        self.device = fds[0]
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
        if self._host:
            for name, kind in (("user", linux.CLONE_NEWUSER), ("net", linux.CLONE_NEWNET)):
                fd = os.open(f"/proc/{self._holder.pid}/ns/{name}", os.O_RDONLY)
                linux.setns(fd, kind)
        control = api.listen(str(self.control)) if self.control else None
        if not self._faults:
            process.run(self.options, device=self.device, ready=ready, until=alive,
                        control=control.detach() if control else -1)
            return
        process.prepare(self.options)
        loop, device = Loop(), Faulty(self.device, self._faults)
        stack = Stack(loop, device, self.options)
        if control:
            api.Api(stack, Forwards(stack), control)
        process.serve(loop, device, stack, ready=ready, until=alive)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Its exit code."""
        os.kill(self.pid, number)
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def words(self, *command: str, pid: int = 0) -> list[str]:
        """The command, as one that runs it inside."""
        return ["nsenter", f"--target={pid or self.inner}", "--user", "--net",
                "--preserve-credentials", "--", *command]

    def outside(self, *command: str) -> list[str]:
        """The command, as one that runs it on the host's side."""
        return self.words(*command, pid=self._holder.pid) if self._host else list(command)

    def ask(self, execute: str, **arguments: object) -> dict[str, Any]:
        """A request to the control socket, and its answer."""
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(10)
            one.connect(str(self.control))
            one.sendall(json.dumps({"execute": execute, "arguments": arguments}).encode())
            one.shutdown(socket.SHUT_WR)
            answer: dict[str, Any] = json.loads(one.makefile().read())
            return answer

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
