"""The monitor: one small process for each running container.

Goal: whatever happens to the command that started it, a container keeps its output flowing into
the log, can be attached to, and its end is recorded. The monitor is forked before the command
imports anything, imports only built-in C modules itself, and holds the container's standard
streams, its exit status, and a socket on which commands attach or wait.

Order at the start: plan received -> launcher forked -> first process alive -> `state.json` says
starting -> exec done (the status pipe closes) -> it says running -> the container's lock is given
back -> "started" is told.
Order at the end: first process reaped -> output drained -> `state.json` says exited, or with
--rm the container's directory has left the store by one rename -> "ended" is told -> files gone.
So a command that was told something can rely on the disk saying the same.

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

from rootless.clock import now
from rootless.container import frames, statefile
from rootless.container.frames import frame
from rootless.container.logfile import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from rootless.network.client import Attachment

CHUNK = 1 << 16
# A slow reader holds its container back once this much is waiting for it.
BACKLOG = 1 << 20
DRAIN_SECONDS = 5.0
REJOIN_SECONDS = 5.0


def fork_early() -> int:
    """Fork a monitor while this process is still small; returns the socket to it.

    It waits for a plan, and ends without a trace when the socket closes before one comes.
    """
    ours, theirs = frames.pair()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ours)
            _stand_alone(theirs)
            _be_monitor(theirs)
        finally:
            os._exit(1)
    os.close(theirs)
    return ours


def _stand_alone(keep: int) -> None:
    """Leave the command's session, terminal, directory and descriptors."""
    from _signal import SIG_IGN, SIGTERM, signal

    os.setsid()
    os.chdir("/")
    # Asked of all processes of its scope by systemd: it has the container's end to write down.
    signal(SIGTERM, SIG_IGN)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        if fd != keep:
            os.dup2(null, fd)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != keep:
            try:
                os.close(int(name))
            except OSError:
                pass        # the descriptor of the listing itself


def _be_monitor(sock: int) -> NoReturn:
    reader = frames.Reader()
    given: list[int] = []
    while True:
        data, fds = frames.receive_with_fds(sock)
        given += fds
        if not data:
            os._exit(0)
        got = reader.feed(data)
        if got:
            break
    userns, lock, *shared = given
    Monitor(marshal.loads(got[0][1]), userns, lock, shared, Client(sock, reader)).live()
    os._exit(0)


class Client:
    """A command that is attached: what it sends, and what still has to reach it."""

    def __init__(self, sock: int, reader: frames.Reader) -> None:
        os.set_blocking(sock, False)
        self.sock = sock
        self.reader = reader
        self.waiting = bytearray()
        self.quiet = False

    def push(self, data: bytes) -> None:
        self.waiting += data
        self.flush()

    def flush(self) -> None:
        """Send what the socket takes. Raises OSError when the command is gone."""
        while self.waiting:
            try:
                sent = os.write(self.sock, self.waiting)
            except BlockingIOError:
                return
            del self.waiting[:sent]


class Monitor:
    def __init__(self, plan: dict[str, Any], userns: int, lock: int, shared: list[int],
                 first: Client) -> None:
        """`shared`: a pidfd, where the container is in another's network."""
        self.plan = plan
        self.userns = userns
        self.lock = lock
        self.shared = shared
        self.clients = {first.sock: first}
        self.first: int = first.sock
        self.outputs: dict[int, bytes] = {}     # descriptor: frame kind
        self.input = -1
        self.input_waiting = bytearray()
        self.input_ends = False
        self.master = -1
        self.listener = -1
        self.pid = 0
        self.started = ""
        self.networks: Attachment | None = None
        self.rejoin_at = 0.0        # when to try again, after the network keeper was lost
        # Of its own: path, and whether the kernel killed in it for want of memory.
        self.cgroup = str(plan["start"]["cgroup"]["path"])
        self.oom = False

    # -- start ---------------------------------------------------------------------------------

    def live(self) -> None:
        failure = self._start()
        if failure is not None:
            code = {"CommandNotFound": 127, "CommandNotExecutable": 126}.get(failure[0], 128)
            self._end(code, failure)
            return
        self.started = now()
        self._record("running")
        self._listen()
        os.close(self.lock)
        self._tell(frame(frames.STARTED, str(self.pid).encode()))
        log = Log(self.plan["log"]) if self.plan["log"] else None
        status = self._loop(log)
        self._end(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status),
                  None)

    def _start(self) -> tuple[str, str, str | None] | None:
        """Make the container's first process. Returns (kind, message, hint) when it failed."""
        plan = self.plan
        status_r, status_w = os.pipe()
        ready_r, ready_w = os.pipe()
        tty_ours, tty_theirs = frames.pair() if plan["tty"] else (-1, -1)
        net_ours, net_theirs = frames.pair() if plan["networks"] else (-1, -1)
        joined_r, joined_w = os.pipe() if plan["networks"] else (-1, -1)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        stdio = [null, null, null]
        if not plan["tty"]:
            if plan["stdin"]:
                stdio[0], self.input = os.pipe()
            for n, kind in ((1, frames.OUT), (2, frames.ERR)):
                r, stdio[n] = os.pipe()
                self.outputs[r] = kind
        launcher = os.fork()
        if launcher == 0:
            try:
                # The reading end is the monitor's alone: that is how the first process learns
                # of the monitor's death (process.run).
                os.close(status_r)
                for n in (0, 1, 2):
                    os.dup2(stdio[n], n)
                from rootless.runtime import launch

                if joined_w >= 0:
                    os.close(joined_w)
                launch.launch(plan["start"], self.userns, status_w, ready_w, tty_theirs,
                              (net_theirs, joined_r) if plan["networks"] else None,
                              self.shared)
            finally:
                os._exit(1)
        for fd in {status_w, ready_w, tty_theirs, net_theirs, joined_r, *stdio, *self.shared}:
            if fd >= 0:
                os.close(fd)
        told = os.read(ready_r, 32)
        os.close(ready_r)
        unrecorded = None
        if told:
            self.pid = int(told)
            self._find_cgroup()
            unrecorded = self._record("starting")
            if unrecorded:
                # A container that nobody can see or stop must not run.
                os.kill(self.pid, 9)
            if plan["tty"]:
                self._take_master(tty_ours)
        unjoined = self._join(net_ours, joined_w) if plan["networks"] else None
        problem = b""
        while True:
            part = os.read(status_r, CHUNK)
            if not part:
                break
            problem += part
        os.close(status_r)
        os.waitpid(launcher, 0)
        failure: tuple[str, str, str | None]
        if unrecorded:
            failure = unrecorded
        elif problem:
            failure = marshal.loads(problem)
        elif unjoined:
            failure = unjoined
        elif not told:
            failure = ("StartError", "the process that starts the container was killed", None)
        else:
            return None
        if told:
            os.waitpid(self.pid, 0)
        return failure

    def _join(self, sock: int, joined: int) -> tuple[str, str, str | None] | None:
        """Have the container joined to its networks; (kind, message, hint) when it failed."""
        plan = self.plan
        _, fds = frames.receive_with_fds(sock, 1)
        os.close(sock)
        from rootless.errors import HostError, RootlessError, os_reason
        from rootless.network.client import Attachment

        failure: RootlessError | None = None
        try:
            if fds:
                self.networks = Attachment(
                    plan["run"], plan["store"],
                    {"id": plan["id"], "dir": plan["dir"], "pid": self.pid,
                     "single": plan["start"]["single"]}, [fds[0], self.userns])
                self.networks.renew()
                os.write(joined, b"n")
        except RootlessError as e:
            failure = e
        except OSError as e:
            failure = HostError(f"cannot join the container's networks: {os_reason(e)}")
        finally:
            os.close(joined)
        if failure is None:
            return None
        return type(failure).__name__, failure.message, failure.hint

    def _rejoin(self) -> None:
        """The network keeper is gone: have the container joined to its networks by another."""
        from rootless.errors import RootlessError

        if self.networks is not None:
            try:
                self.networks.renew()
            except (RootlessError, OSError):
                self.rejoin_at = time.monotonic() + REJOIN_SECONDS

    def _find_cgroup(self) -> None:
        if self.plan["start"]["cgroup"]["how"]:
            from rootless.cgroup import tree

            found = tree.of_process(self.pid)
            if found:
                self.cgroup = found if found != tree.of_process("self") else ""

    def _clear_cgroup(self) -> None:
        if self.cgroup:
            from rootless.cgroup import tree

            where = tree.directory(self.cgroup)
            self.oom = tree.oom_kills(where) > 0
            tree.clear(where, self.userns)

    def _take_master(self, sock: int) -> None:
        _, fds = frames.receive_with_fds(sock, 1)
        os.close(sock)
        if fds:
            self.master = fds[0]
            self.outputs[self.master] = frames.OUT
            self.input = self.master

    def _listen(self) -> None:
        import _socket

        path = self.plan["socket"]
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        try:
            sock.bind(path)
            sock.listen(16)
            sock.setblocking(False)
            self.listener = sock.detach()
        except OSError:
            # Without its socket the container runs all the same; only attach is missing.
            sock.close()

    # -- the loop ------------------------------------------------------------------------------

    def _loop(self, log: Log | None) -> int:
        """Move bytes until the first process has ended and its output is drained; its status."""
        ended = os.pidfd_open(self.pid)
        if self.input >= 0:
            os.set_blocking(self.input, False)
        for fd in self.outputs:
            os.set_blocking(fd, False)
        status = -1
        deadline = 0.0
        while True:
            poll = select.poll()
            held = any(len(c.waiting) > BACKLOG for c in self.clients.values())
            if not held:
                for fd in self.outputs:
                    poll.register(fd, select.POLLIN)
            for fd, client in self.clients.items():
                wanted = select.POLLOUT if client.waiting else 0
                if len(self.input_waiting) < BACKLOG:
                    wanted |= select.POLLIN
                poll.register(fd, wanted)
            if self.input >= 0 and self.input_waiting:
                poll.register(self.input, select.POLLOUT
                              | (select.POLLIN if self.input in self.outputs else 0))
            if self.listener >= 0:
                poll.register(self.listener, select.POLLIN)
            timeout = None
            keeper = self.networks.fileno() if self.networks is not None else -1
            if status < 0:
                poll.register(ended, select.POLLIN)
                if keeper >= 0:
                    poll.register(keeper, select.POLLIN)
                elif self.networks is not None:
                    timeout = max(self.rejoin_at - time.monotonic(), 0) * 1000
                    if timeout == 0:
                        self._rejoin()
                        continue
            elif not self.outputs:
                return status
            elif not held:
                timeout = (deadline - time.monotonic()) * 1000
                if timeout <= 0:
                    return status
            for fd, events in poll.poll(timeout):
                if fd == ended:
                    _, status = os.waitpid(self.pid, 0)
                    deadline = time.monotonic() + DRAIN_SECONDS
                elif fd == keeper:
                    self._rejoin()
                elif fd == self.listener:
                    self._accept()
                elif fd in self.clients:
                    self._serve(self.clients[fd], events)
                else:
                    if fd in self.outputs and events & (select.POLLIN | select.POLLHUP
                                                        | select.POLLERR):
                        self._output(fd, log)
                    if fd == self.input and self.input_waiting:
                        self._feed()

    def _output(self, fd: int, log: Log | None) -> None:
        kind = self.outputs[fd]
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""      # EIO: the last holder of the terminal's other side is gone
        if not data:
            del self.outputs[fd]
            if fd == self.input:
                self.input = -1
            os.close(fd)
            return
        if log is not None:
            log.write(b"stdout" if kind == frames.OUT else b"stderr", data)
        self._tell(frame(kind, data), output=True)

    def _tell(self, data: bytes, *, output: bool = False) -> None:
        for client in list(self.clients.values()):
            if output and client.quiet:
                continue
            try:
                client.push(data)
            except OSError:
                self._gone(client)

    def _gone(self, client: Client) -> None:
        os.close(client.sock)
        del self.clients[client.sock]
        if client.sock == self.first:
            self.first = -1
            if self.plan["stdin_once"] and self.input != self.master:
                self.input_ends = True
                self._feed()

    def _accept(self) -> None:
        import _socket

        listener = _socket.socket(fileno=self.listener)
        try:
            fd, _ = listener._accept()  # type: ignore[attr-defined]
        except OSError:
            return
        finally:
            listener.detach()
        sock = _socket.socket(fileno=fd)
        peer = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
        sock.detach()
        if int.from_bytes(peer[4:8], "little") != os.getuid():
            os.close(fd)
            return
        client = Client(fd, frames.Reader())
        self.clients[fd] = client
        try:
            client.push(frame(frames.STARTED, str(self.pid).encode()))
        except OSError:
            self._gone(client)      # killed since it connected

    def _serve(self, client: Client, events: int) -> None:
        try:
            if events & select.POLLOUT:
                client.flush()
            if not events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                return
            try:
                data = os.read(client.sock, CHUNK)
            except BlockingIOError:
                return
            if not data:
                raise ConnectionResetError
            for kind, payload in client.reader.feed(data):
                self._obey(client, kind, payload)
        except (OSError, ValueError):
            self._gone(client)

    def _obey(self, client: Client, kind: bytes, payload: bytes) -> None:
        if kind == frames.INPUT and self.input >= 0:
            self.input_waiting += payload
            self._feed()
        elif kind == frames.INPUT_END and self.master < 0:
            self.input_ends = True
            self._feed()
        elif kind == frames.RESIZE and self.master in self.outputs:
            import fcntl

            rows, columns = (int(n) & 0xFFFF for n in payload.split())
            size = b"".join(n.to_bytes(2, "little") for n in (rows, columns, 0, 0))
            fcntl.ioctl(self.master, 0x5414, size)      # TIOCSWINSZ
        elif kind == frames.QUIET:
            client.quiet = True
        elif kind == frames.DETACH and client.sock == self.first:
            # Left on purpose: standard input stays open for the next one who attaches.
            self.first = -1
        elif kind == frames.CLOSED and client.sock == self.first and self.master < 0:
            # `rootless run … | head`: the container's writer shall learn it as it would outside.
            for fd, stream in list(self.outputs.items()):
                if stream == payload:
                    del self.outputs[fd]
                    os.close(fd)

    def _feed(self) -> None:
        """Give the container what was typed, as far as it takes it."""
        if self.input < 0:
            self.input_waiting.clear()
            return
        try:
            while self.input_waiting:
                sent = os.write(self.input, self.input_waiting)
                del self.input_waiting[:sent]
        except BlockingIOError:
            return
        except OSError:
            self.input_waiting.clear()
            self.input_ends = True
        if self.input_ends and self.input != self.master:
            os.close(self.input)
            self.input = -1

    # -- the end -------------------------------------------------------------------------------

    def _record(self, status: str) -> tuple[str, str, str | None] | None:
        """Write that it is starting or running; (kind, message, hint) when that failed."""
        plan = self.plan
        try:
            statefile.write_alive(plan, status, self.pid, self.started, self.cgroup)
            return None
        except OSError as e:
            from rootless.errors import os_reason
            from rootless.files import space_hint

            return ("StorageError", f"cannot write {plan['dir']}/state.json: {os_reason(e)}",
                    space_hint(e, plan["dir"]))

    def _end(self, code: int, failure: tuple[str, str, str | None] | None) -> None:
        plan = self.plan
        if self.networks is not None:
            self.networks.release()
        self._clear_cgroup()
        if self.listener >= 0:
            os.close(self.listener)
            try:
                os.unlink(plan["socket"])
            except OSError:
                pass
        doomed = self._leave_store() if plan["rm"] else ""
        if not doomed:
            statefile.write_end(plan, code, self.started, failure[1] if failure else "",
                                oom=self.oom)
        if failure is not None:
            last = frame(frames.FAILED, marshal.dumps(failure))
        else:
            last = frame(frames.EXITED, str(code).encode())
        for client in list(self.clients.values()):
            os.set_blocking(client.sock, True)
            try:
                client.push(last)
            except OSError:
                pass
            os.close(client.sock)
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
        from rootless.files import Lock

        link = f"{plan['store']}/names/{plan['name']}"
        try:
            # As store.release_name does it: by now the name may be another's.
            with Lock(f"{plan['store']}/names/.lock"):
                if os.readlink(link) == plan["id"]:
                    os.unlink(link)
        except OSError:
            pass
        return doomed
