"""A network's way out: a process turns packets of its TUN device into sockets of the machine.

The process is `slirp`, forked from the keeper, which keeps the device: when the process is killed,
another takes over with the same forwards. It runs in the machine's namespaces, gives up what it
does not need, and ends with the keeper. Ports are published through its control socket.
"""

from __future__ import annotations

import _socket
import os
import struct

from rootless import linux
from rootless.errors import Conflict, HostError, os_reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

    from rootless.network.loop import Loop

    Forward = tuple[str, str, int, str, int]        # proto, host ip, host port, ip, port

# Addresses behind tun0. The host, by the address it uses towards the world; and what stands in
# for clients of published ports whose own address means nothing to a container, as 127.0.0.1.
HOST4, HOST6 = "169.254.1.2", "fd00:6e73::2"
GATEWAY4, GATEWAY6 = "169.254.1.3", "fd00:6e73::3"
DNS4, DNS6 = "169.254.1.1", "fd00:6e73::1"
PATIENCE = 10       # seconds for an answer of the process
RESTARTS = 5        # in a minute


class Uplink:
    def __init__(self, loop: Loop, device: int, control: str, *, mtu: int, ipv6: bool,
                 inside: Sequence[str], rules: Sequence[str], deny: bool) -> None:
        """`device`: of slirp.device.open_tun; ours from now on. `control`: path of a socket in a
        directory that only the user can enter. `inside`: subnets of this and
        all other networks that are up: no address of theirs is ever looked for outside."""
        self.loop = loop
        self.device = device
        self.path = control
        self.mtu = mtu
        self.ipv6 = ipv6
        self.inside = inside
        self.rules = rules
        self.deny = deny
        self.forwards: dict[Forward, int] = {}
        self.ends: list[float] = []
        self.pid = self.pidfd = self.tie = -1
        self._start()

    def close(self) -> None:
        if self.pid > 0:
            self.loop.forget(self.pidfd)
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)
            os.close(self.pidfd)
            os.close(self.tie)
            self.pid = -1
        if self.device >= 0:
            os.close(self.device)
            self.device = -1
            self._unlink()

    def see(self, inside: Sequence[str]) -> None:
        """Other networks of ours have come or gone: their addresses are nobody's outside."""
        if list(inside) != list(self.inside):
            self.inside = inside
            try:
                self._ask("set_inside", {"subnets": list(inside)})
            except HostError as e:
                os.write(2, f"uplink: {e.message}\n".encode())

    def _start(self) -> None:
        self._unlink()
        control = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        control.bind(self.path)
        control.listen(8)
        until, self.tie = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._become(control, until)
            finally:
                os._exit(1)
        control.close()
        os.close(until)
        self.pidfd = os.pidfd_open(self.pid)
        self.loop.watch(self.pidfd, lambda _: self._ended())

    def _unlink(self) -> None:
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass

    def _become(self, control: _socket.socket, until: int) -> NoReturn:
        linux.set_name("rootless-uplink")
        linux.set_command_line("rootless network uplink")
        from slirp import process
        from slirp.options import Options, SlirpError

        v6 = self.ipv6
        options = Options(mtu=self.mtu, ipv6=v6, dns4=DNS4, dns6=DNS6 if v6 else None,
                          host4=HOST4, host6=HOST6 if v6 else None, gateway4=GATEWAY4,
                          gateway6=GATEWAY6 if v6 else None, inside=tuple(self.inside),
                          rules=tuple(self.rules), deny=self.deny)
        try:
            process.run(options, device=self.device, control=control.detach(), until=until)
        except (SlirpError, OSError) as e:
            os.write(2, f"uplink: {e}\n".encode())
        os._exit(1)

    def _ended(self) -> None:
        """Killed: another takes over, unless it keeps ending."""
        self.loop.forget(self.pidfd)
        os.close(self.pidfd)
        os.close(self.tie)
        os.waitpid(self.pid, 0)
        self.pid = -1
        now = self.loop.clock()
        self.ends = [t for t in self.ends if now - t < 60] + [now]
        if len(self.ends) > RESTARTS:
            os.write(2, b"uplink: it keeps ending; the network has no way out any more\n")
            return
        self._start()
        for forward in list(self.forwards):
            try:
                self.forwards[forward] = self._add(forward)[0]
            except (HostError, Conflict) as e:
                os.write(2, f"uplink: {e.message}\n".encode())
                del self.forwards[forward]

    def publish(self, proto: str, ip: str, port: int, to: str, to_port: int) -> int:
        """The host port, chosen by the kernel where `port` is 0. Raises Conflict when it is taken,
        HostError."""
        number, chosen = self._add((proto, ip, port, to, to_port))
        self.forwards[(proto, ip, chosen, to, to_port)] = number
        return chosen

    def withdraw(self, proto: str, ip: str, port: int, to: str, to_port: int) -> None:
        number = self.forwards.pop((proto, ip, port, to, to_port), None)
        if number is not None:
            try:
                self._ask("remove_hostfwd", {"id": number})
            except HostError as e:
                os.write(2, f"uplink: {e.message}\n".encode())

    def set_rules(self, rules: Sequence[str], *, deny: bool) -> None:
        """What they do not allow any more ends. Raises HostError."""
        self.rules, self.deny = rules, deny
        self._ask("set_rules", {"rules": list(rules), "default": "deny" if deny else "allow"})

    def log(self, since: int) -> list[dict[str, Any]]:
        """What was dialled after the entry of a number: see slirp/journal.py. Raises HostError."""
        found: list[dict[str, Any]] = self._ask("log", {"since": since})["return"]["entries"]
        return found

    def _add(self, forward: Forward) -> tuple[int, int]:
        proto, ip, port, to, to_port = forward
        answer = self._ask("add_hostfwd", {
            "proto": proto + ("6" if ":" in ip else ""), "host_addr": ip, "host_port": port,
            "guest_addr": to, "guest_port": to_port})
        if "error" in answer:
            raise _refused(ip, port, proto, answer["error"])
        made = answer["return"]
        return int(made["id"]), int(made.get("host_port", port))

    def _ask(self, execute: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """The answer of the process. Raises HostError when there is none."""
        from rootless import jsontext

        if self.pid < 0:
            raise HostError("cannot reach the network's uplink: it does not run")
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        try:
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO,
                            struct.pack("@ll", PATIENCE, 0))
            sock.connect(self.path)
            sock.sendall(jsontext.dumps({"execute": execute, "arguments": arguments}).encode())
            sock.shutdown(_socket.SHUT_WR)
            data = b""
            while True:
                part = sock.recv(65536)
                if not part:
                    break
                data += part
            answer = jsontext.loads(data)
            if isinstance(answer, dict):
                return answer
            raise ValueError
        except (OSError, ValueError) as e:
            why = os_reason(e) if isinstance(e, OSError) else "its answer makes no sense"
            raise HostError(f"cannot reach the network's uplink: {why}") from None
        finally:
            sock.close()


def _refused(ip: str, port: int, proto: str, error: dict[str, Any]) -> HostError | Conflict:
    where = f"{'[' + ip + ']' if ':' in ip else ip}:{port}/{proto}"
    code = int(error.get("errno") or 0)
    if code == 98:      # EADDRINUSE
        from rootless.network import holders

        who = holders.of_port(port, proto)
        why = f"{who} has it" if who else "it is in use"
        return Conflict(f"cannot publish port {where}: {why}",
                        hint="another host port, or none: a free one is chosen")
    if code == 13:      # EACCES
        return HostError(f"cannot publish port {where}: ports below those of "
                         "net.ipv4.ip_unprivileged_port_start are root's",
                         hint=f"another host port; or ask the administrator to run: sysctl -w "
                              f"net.ipv4.ip_unprivileged_port_start={port}")
    if code == 99:      # EADDRNOTAVAIL
        return HostError(f"cannot publish port {where}: this machine has no such address")
    return HostError(f"cannot publish port {where}: {error.get('desc', 'refused')}")
