"""The monitor: one small process for each running container.

Goal: whatever happens to the command that started it, a container keeps its output flowing into
the log, can be attached to, and its end is recorded. The monitor is forked before the command
imports anything, imports only built-in C modules itself, and holds the container's standard
streams, its exit status, and a socket on which commands attach or wait. It carries out the restart
policy, the health checks and --timeout.

Order at the start: plan received -> launcher forked -> first process alive -> `state.json` says
starting -> exec done (the status pipe closes) -> it says running -> the container's lock is given
back -> "started" is told.
Order at the end: first process reaped -> output drained -> `state.json` says exited, or with
--rm the container's directory has left the store by one rename -> "ended" is told -> files gone.
So a command that was told something can rely on the disk saying the same.
Where it is started again, `state.json` says restarting -> "ended" is told -> a wait, in which it
can be stopped -> a child of the monitor makes the plan as `start` does -> as above, without the
lock: nobody else changes a container whose monitor lives.

It runs as the user in the host's namespaces and never enters the container's. When it is killed,
the kernel kills the container's first process with it (PR_SET_PDEATHSIG), unless the command has
changed its user itself, which makes the kernel forget that; such a container runs on, and is shown
and stopped by its process.
"""

from __future__ import annotations

import marshal
import os
import select
import time

from rootless import events as journal
from rootless.clock import now
from rootless.container import frames, restart, statefile
from rootless.container.birth import Born, bear
from rootless.container.clients import BACKLOG, CHUNK, Client, Clients, started
from rootless.container.frames import frame
from rootless.container.logfile import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.container.birth import Failure
    from rootless.container.health import Health
    from rootless.network.client import Attachment

DRAIN_SECONDS = 5.0
REJOIN_SECONDS = 5.0
_FAILED = {"CommandNotFound": 127, "CommandNotExecutable": 126}


class Monitor:
    def __init__(self, plan: dict[str, Any], userns: int, lock: int, shared: list[int],
                 first: Client) -> None:
        """`shared`: a pidfd, where the container is in namespaces of another."""
        self.plan = plan
        self.userns = userns
        self.lock = lock
        self.shared = shared
        self.clients = Clients(first, self._obey, self._left)
        self.first: int = first.sock
        self.log: Log | None = None
        self.born = Born(-1)
        self.oom = False            # the kernel killed in it for want of memory
        self.input_waiting = bytearray()
        self.input_ends = False
        self.rejoin_at = 0.0        # when to try again, after the network keeper was lost
        self.started = ""
        self.begun = 0.0            # the same by the monotonic clock
        self.kill_at = 0.0          # --timeout
        self.restarts = 0
        self.waited = 0.0           # before the last restart
        self.health: Health | None = None
        self.stay = False           # somebody wants it ended
        self.again = False          # somebody wants it started again

    # -- start ---------------------------------------------------------------------------------

    def live(self) -> None:
        failure = self._start("starting")
        if failure is not None:
            self._end(_FAILED.get(failure[0], 128), failure)
            return
        if self.plan["log"]:
            self.log = Log(*self.plan["log"])
        self._runs()
        self.clients.listen(self.plan["socket"])
        os.close(self.lock)
        self._tell_started()
        while True:
            status = self._loop()
            code = (os.WEXITSTATUS(status) if os.WIFEXITED(status)
                    else 128 + os.WTERMSIG(status))
            if not self._go_on(code):
                return

    def _runs(self) -> None:
        self.started = now()
        self.begun = time.monotonic()
        self.kill_at = 0.0
        if self.plan["timeout"]:
            self.kill_at = self.begun + self.plan["timeout"]
        if self.plan["health"]:
            from rootless.container.health import Health

            self.health = Health(self.plan, self._health_is, self._paused)
            self.health.start()
        self._record("running", pid=self.born.pid)
        self._event("start")

    def _paused(self) -> bool:
        if not self.born.cgroup:
            return False
        from rootless.cgroup import tree

        try:
            return tree.frozen(tree.directory(self.born.cgroup))
        except OSError:
            return False        # it is about to end

    def _event(self, action: str, **more: str) -> None:
        plan = self.plan
        journal.emit(plan["store"], "container", action, plan["id"], {**plan["actor"], **more})

    def _health_is(self, status: str) -> None:
        """--health-on-failure, podman's."""
        self._event(f"health_status: {status}")
        action = self.plan["health"]["on_failure"]
        if status != "unhealthy" or action == "none":
            return
        # One that was killed may be brought back by the restart policy.
        if action == "stop":
            self.stay = True
        elif action == "restart":
            self.again = not self.stay
        if action == "kill":
            self._signal(9)
            return
        data = self.plan["stop"]
        self._signal(data[0])
        if data[1] >= 0:
            self.kill_at = time.monotonic() + data[1]

    def _tell_started(self) -> None:
        self.clients.greeting = started(self.born.pid)
        self.clients.tell(self.clients.greeting)

    def _go_on(self, code: int) -> bool:
        """Start it again, where that is wanted; False when this was its end."""
        plan = self.plan
        if self.born.oom():
            self._event("oom")
        self._event("die", exitCode=str(code))
        failure: Failure | None = None
        lasted = time.monotonic() - self.begun
        if self.log is not None:
            self.log.end()
        while True:
            self._bury()
            asked, self.again = self.again, False
            if not asked and (self.stay or not restart.wanted(*plan["restart"], code=code,
                                                              restarts=self.restarts)):
                break
            self.clients.greeting = b""
            if not asked:
                self.restarts += 1
                self.waited = restart.delay(self.waited, lasted)
            self._record("restarting", pid=0, code=code)
            self.clients.tell(frame(frames.EXITED, str(code).encode()))
            if not asked and not self._pause(self.waited):
                break
            failure = self._plan_again() or self._start("restarting")
            if failure is None:
                self._runs()
                self._tell_started()
                return True
            code, lasted = _FAILED.get(failure[0], 128), 0.0
            if asked:
                break
        self._end(code, failure)
        return False

    def _pause(self, seconds: float) -> bool:
        """Wait to start it again; False when somebody wants it ended meanwhile."""
        end = time.monotonic() + seconds
        while not self.stay and not self.again and (left := end - time.monotonic()) > 0:
            poll = select.poll()
            self.clients.register(poll, hear=True)
            for fd, events in poll.poll(left * 1000):
                self.clients.serve(fd, events)
        return not self.stay

    def _plan_again(self) -> Failure | None:
        """Have the plan made anew by a child, with all that takes imports and locks."""
        ours, theirs = frames.pair()
        child = os.fork()
        if child == 0:
            try:
                os.close(ours)
                from rootless.container.start import start_again

                start_again(self.plan, theirs)
            finally:
                os._exit(0)
        os.close(theirs)
        reader = frames.Reader()
        plan, fds = frames.receive_plan(ours, reader)
        os.close(ours)
        os.waitpid(child, 0)
        if isinstance(plan, dict):
            self.plan = plan
            self.userns, *self.shared = fds
            return None
        return plan or ("StartError", "the process that plans the container was killed", None)

    def _start(self, status: str) -> Failure | None:
        """Make the container's first process; `status` is recorded of it until its exec."""
        self.born = Born(self.userns)
        self.oom = False
        return bear(self.born, self.plan, self.shared,
                    lambda: self._record(status, pid=self.born.pid))

    def _rejoin(self, networks: Attachment) -> None:
        """The network keeper is gone: have the container joined to its networks by another."""
        from rootless.errors import RootlessError

        try:
            networks.renew()
        except (RootlessError, OSError):
            self.rejoin_at = time.monotonic() + REJOIN_SECONDS

    # -- the loop ------------------------------------------------------------------------------

    def _loop(self) -> int:
        """Move bytes until the first process has ended and its output is drained; its status."""
        ended = os.pidfd_open(self.born.pid)
        if self.born.input >= 0:
            os.set_blocking(self.born.input, False)
        for fd in self.born.outputs:
            os.set_blocking(fd, False)
        status = -1
        deadline = 0.0
        try:
            while True:
                poll = select.poll()
                held = self.clients.held()
                if not held:
                    for fd in self.born.outputs:
                        poll.register(fd, select.POLLIN)
                self.clients.register(poll, hear=len(self.input_waiting) < BACKLOG)
                if self.born.input >= 0 and self.input_waiting:
                    poll.register(self.born.input, select.POLLOUT
                                  | (select.POLLIN if self.born.input in self.born.outputs else 0))
                timeout = None
                networks = self.born.networks
                if status < 0:
                    timeout = self._timers()        # first: it may start what is waited for below
                    poll.register(ended, select.POLLIN)
                    if networks is not None and networks.fileno() >= 0:
                        poll.register(networks.fileno(), select.POLLIN)
                    if self.health is not None and self.health.fileno() >= 0:
                        poll.register(self.health.fileno(), select.POLLIN)
                elif not self.born.outputs:
                    return status
                elif not held:
                    timeout = (deadline - time.monotonic()) * 1000
                    if timeout <= 0:
                        return status
                for fd, events in poll.poll(timeout):
                    if fd == ended:
                        _, status = os.waitpid(self.born.pid, 0)
                        deadline = time.monotonic() + DRAIN_SECONDS
                    elif networks is not None and fd == networks.fileno():
                        self._rejoin(networks)
                    elif self.health is not None and fd == self.health.fileno():
                        self.health.read()
                    elif not self.clients.serve(fd, events):
                        if fd in self.born.outputs and events & (select.POLLIN | select.POLLHUP
                                                            | select.POLLERR):
                            self._output(fd)
                        if fd == self.born.input and self.input_waiting:
                            self._feed()
        finally:
            os.close(ended)

    def _timers(self) -> float | None:
        """Do what is due; milliseconds until the next, None where nothing waits for its time."""
        now = time.monotonic()
        waiting = []
        if self.kill_at and self.kill_at <= now:
            self.kill_at = 0.0
            self._signal(9)
        elif self.kill_at:
            waiting.append(self.kill_at)
        if self.health is not None:
            if self.health.due() <= now:
                self.health.act()
            waiting.append(self.health.due())
        networks = self.born.networks
        if networks is not None and networks.fileno() < 0:
            if self.rejoin_at <= now:
                self._rejoin(networks)
            waiting.append(self.rejoin_at)
        return max((min(waiting) - time.monotonic()) * 1000, 0) if waiting else None

    def _signal(self, number: int) -> None:
        try:
            os.kill(self.born.pid, number)
        except ProcessLookupError:
            pass
        except PermissionError:
            # It runs as another id of the container's, which only root of the namespace may signal.
            child = os.fork()
            if child == 0:
                try:
                    from rootless.container.life import signal_from_monitor

                    signal_from_monitor(self.plan, number)
                finally:
                    os._exit(0)
            os.waitpid(child, 0)

    def _output(self, fd: int) -> None:
        kind = self.born.outputs[fd]
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""      # EIO: the last holder of the terminal's other side is gone
        if not data:
            del self.born.outputs[fd]
            if fd == self.born.input:
                self.born.input = -1
            os.close(fd)
            return
        if self.log is not None:
            self.log.write(b"stdout" if kind == frames.OUT else b"stderr", data)
        self.clients.tell(frame(kind, data), output=True)

    def _left(self, client: Client) -> None:
        if client.sock == self.first:
            self.first = -1
            if self.plan["stdin_once"] and self.born.input != self.born.master:
                self.input_ends = True
                self._feed()

    def _obey(self, client: Client, kind: bytes, payload: bytes) -> None:
        if kind == frames.INPUT and self.born.input >= 0:
            self.input_waiting += payload
            self._feed()
        elif kind == frames.INPUT_END and self.born.master < 0:
            self.input_ends = True
            self._feed()
        elif kind == frames.RESIZE and self.born.master in self.born.outputs:
            import fcntl

            rows, columns = (int(n) & 0xFFFF for n in payload.split())
            size = b"".join(n.to_bytes(2, "little") for n in (rows, columns, 0, 0))
            fcntl.ioctl(self.born.master, 0x5414, size)      # TIOCSWINSZ
        elif kind in (frames.STAY, frames.AGAIN):
            self.stay, self.again = kind == frames.STAY, kind == frames.AGAIN
            if self.again:
                self.restarts, self.waited = 0, 0.0
            client.push(frame(kind, b"p" if self.born.pid else b""))
        elif kind == frames.QUIET:
            client.quiet = True
        elif kind == frames.DETACH and client.sock == self.first:
            # Left on purpose: standard input stays open for the next one who attaches.
            self.first = -1
        elif kind == frames.CLOSED and client.sock == self.first and self.born.master < 0:
            # `rootless run … | head`: the container's writer shall learn it as it would outside.
            for fd, stream in list(self.born.outputs.items()):
                if stream == payload:
                    del self.born.outputs[fd]
                    os.close(fd)

    def _feed(self) -> None:
        """Give the container what was typed, as far as it takes it."""
        if self.born.input < 0:
            self.input_waiting.clear()
            return
        try:
            while self.input_waiting:
                sent = os.write(self.born.input, self.input_waiting)
                del self.input_waiting[:sent]
        except BlockingIOError:
            return
        except OSError:
            self.input_waiting.clear()
            self.input_ends = True
        if self.input_ends and self.born.input != self.born.master:
            os.close(self.born.input)
            self.born.input = -1

    def _bury(self) -> None:
        if self.health is not None:
            self.health.stop()
            self.health = None
        if self.born.close():
            self.oom = True
        self.input_waiting.clear()
        self.input_ends = False
        self.first = -1

    # -- the end -------------------------------------------------------------------------------

    def _record(self, status: str, *, pid: int, code: int = 0) -> Failure | None:
        """Write down what it does; `code`: of its last end."""
        plan = self.plan
        try:
            statefile.write_alive(plan, status, pid, self.started, cgroup=self.born.cgroup,
                                  code=code, restarts=self.restarts)
            return None
        except OSError as e:
            from rootless.errors import os_reason
            from rootless.files import space_hint

            return ("StorageError", f"cannot write {plan['dir']}/state.json: {os_reason(e)}",
                    space_hint(e, plan["dir"]))

    def _end(self, code: int, failure: Failure | None) -> None:
        plan = self.plan
        self._bury()
        if self.clients.listener >= 0:
            os.close(self.clients.listener)
            self.clients.listener = -1
            try:
                os.unlink(plan["socket"])
            except OSError:
                pass
        doomed = self._leave_store() if plan["rm"] else ""
        if not doomed:
            statefile.write_end(plan, code, self.started, failure[1] if failure else "",
                                oom=self.oom, restarts=self.restarts, stopped=self.stay)
        if failure is not None:
            last = frame(frames.FAILED, marshal.dumps(failure))
        else:
            last = frame(frames.EXITED, str(code).encode())
        self.clients.dismiss(last)
        if doomed:
            from rootless import paths
            from rootless.container import store
            from rootless.storage import trash

            os.environ["ROOTLESS_ROOT"] = plan["store"]
            places = paths.of_this_user()
            trash.empty(places)
            store.sweep(places)
            if plan["volumes"]:
                from rootless.container import volumes

                volumes.discard(places, plan["volumes"])

    def _leave_store(self) -> str:
        """--rm: one rename takes the container out of the store; its files go afterwards."""
        plan = self.plan
        doomed = f"{plan['store']}/trash/{plan['id']}.{os.getpid()}"
        try:
            os.rename(plan["dir"], doomed)
        except OSError:
            return ""
        from rootless import jsontext
        from rootless.files import Lock, read_bytes

        self._event("destroy")
        try:
            # It may have been renamed since it was started.
            name = jsontext.loads(read_bytes(doomed + "/container.json"))["name"]
        except (OSError, ValueError, KeyError, TypeError):
            name = plan["name"]
        link = f"{plan['store']}/names/{name}"
        try:
            # As store.release_name does it: by now the name may be another's.
            with Lock(f"{plan['store']}/names/.lock"):
                if os.readlink(link) == plan["id"]:
                    os.unlink(link)
        except OSError:
            pass
        return doomed
