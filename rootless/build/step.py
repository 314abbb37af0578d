"""RUN: a command in a container of the engine's own runtime, without a monitor.

The build itself waits for the first process, which the kernel kills when the build dies. There is
no record, no name and no log: what the command prints is handed on as it comes, and all that is
left is the overlay's upper directory.
"""

from __future__ import annotations

import marshal
import os

from rootless import errors
from rootless.container import create, spec
from rootless.container.frames import pair, receive_with_fds
from rootless.errors import HostError, RootlessError, StartError, os_reason
from rootless.image.seal import Stubs
from rootless.network.endpoints import joins
from rootless.runtime import capabilities, launch, plan, seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rootless.container.wanted import Wanted
    from rootless.paths import Paths
    from rootless.userns.keeper import Userns

HOSTNAME = "buildkitsandbox"        # as every other builder's
_CHUNK = 1 << 16


class Step:
    """One command. `place`: a new directory; `upper` in it is what the command changed.
    `below`: directories of the layers, top first."""

    def __init__(self, paths: Paths, userns: Userns, place: str, below: list[str],
                 wanted: Wanted, image_config: dict[str, Any]) -> None:
        self._paths = paths
        self._userns = userns
        self._place = place
        self.upper = place + "/upper"
        self._below = below
        self._id = os.urandom(32).hex()
        self._config = spec.build(wanted, image_config, place, self._id,
                                  create.host_facts(paths, wanted))
        self._networks = joins(wanted.network)
        create.lay_out(place, userns, wanted, self._config)
        if below:
            from rootless.storage import rootdir

            rootdir.dress(paths, userns, below, self.upper)
        if self._networks:
            from rootless.container import connect

            connect.first_wish(place, "", wanted, self._config, image_config)

    @property
    def stubs(self) -> Stubs:
        """What was mounted on in there."""
        return Stubs(("/dev/console", *(m["destination"] for m in self._config["mounts"])),
                     tuple(self._below))

    def run(self, hear: Callable[[bytes], None]) -> int:
        """Exit code, 128 + n for signal n. Raises StartError and its kinds, HostError."""
        status_r, status_w = os.pipe()
        ready_r, ready_w = os.pipe()
        out_r, out_w = os.pipe()
        net_ours, net_theirs = pair() if self._networks else (-1, -1)
        joined_r, joined_w = os.pipe() if self._networks else (-1, -1)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        made = self._plan()
        launcher = os.fork()
        if launcher == 0:
            try:
                os.close(status_r)
                for n, fd in enumerate((null, out_w, out_w)):
                    os.dup2(fd, n)
                if joined_w >= 0:
                    os.close(joined_w)
                launch.launch(made, self._userns.fd, status_w, ready_w, -1,
                              (net_theirs, joined_r) if self._networks else None, [])
            finally:
                os._exit(1)
        for fd in (status_w, ready_w, out_w, net_theirs, joined_r, null):
            if fd >= 0:
                os.close(fd)
        told = os.read(ready_r, 32)
        os.close(ready_r)
        pid = int(told.split()[0]) if told else 0
        ended = False
        network = None
        try:
            if self._networks:
                network = self._join(net_ours, joined_w, pid)
            problem = b""
            while part := os.read(status_r, _CHUNK):
                problem += part
            os.waitpid(launcher, 0)
            launcher = 0
            if problem:
                kind, message, hint = marshal.loads(problem)
                raise getattr(errors, kind)(message, hint=hint)
            if not pid:
                raise StartError("the process that starts the command was killed")
            while data := os.read(out_r, _CHUNK):
                hear(data)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            ended = True
            return code if code >= 0 else 128 - code
        finally:
            os.close(status_r)
            os.close(out_r)
            if launcher:
                os.waitpid(launcher, 0)
            if pid and not ended:
                os.kill(pid, 9)
                os.waitpid(pid, 0)
            if network is not None:
                network.release()

    def _plan(self) -> dict[str, Any]:
        layers = self._below
        if not layers:
            os.mkdir(self._place + "/empty", 0o755)
            layers = [self._place + "/empty"]
        caps = frozenset(capabilities.names(capabilities.mask(
            self._config["process"]["capabilities"]["bounding"])))
        return plan.build(
            self._config, [("", layers, self.upper, self._place + "/work", False)],
            self._place + "/rootfs", self._paths.data, self._userns, volatile=True, size=None,
            cgroup={"how": "", "path": ""},
            seccomp=seccomp.default_filter(self._paths.cache, caps=caps,
                                           fake_ids=self._userns.single))

    def _join(self, sock: int, joined: int, pid: int) -> Any:
        """Have the container joined to its network, as a monitor does."""
        from rootless.network.client import Attachment

        try:
            _, fds = receive_with_fds(sock, 1)
            if not fds:
                return None             # it failed before; the status pipe tells
            network = Attachment(self._paths.run, self._paths.data,
                                 {"id": self._id, "dir": self._place, "pid": pid,
                                  "single": self._userns.single}, [fds[0], os.dup(self._userns.fd)])
            network.renew()
            os.write(joined, b"n")
            return network
        except RootlessError:
            raise
        except OSError as e:
            raise HostError(f"cannot join the network: {os_reason(e)}") from None
        finally:
            os.close(sock)
            os.close(joined)
