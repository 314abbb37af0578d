"""How monitors and commands speak to the network keeper: one request, one answer.

A Unix socket that keeps messages apart (SOCK_SEQPACKET); each is a dict by marshal, descriptors go
along. The socket is named by the store it serves, as several can share a run directory, and by the
user namespace it is in, beyond which it has no power over containers. Whoever needs the keeper and
finds nobody listening makes the socket and forks one.

A monitor keeps its connection as long as its container runs. That is how it learns that the keeper
was killed: it asks a new one to join the container to its networks again, with the same addresses.
"""

from __future__ import annotations

import _socket
import errno
import marshal
import os
import struct
import sys

from rootless import errors
from rootless.errors import HostError, RootlessError, StorageError, os_reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

    Request = dict[str, Any]

LARGEST = 1 << 18
PATIENCE = 30       # seconds for an answer


def socket_path(run: str, store: str) -> str:
    """Raises StorageError when there is no store."""
    try:
        st = os.stat(store)
    except OSError as e:
        raise StorageError(f"cannot find the store: {store}: {os_reason(e)}") from None
    within = os.stat("/proc/self/ns/user").st_ino
    return f"{run}/net-{st.st_dev:x}.{st.st_ino:x}.{within & 0xFFFFFF:x}"


def send(sock: _socket.socket, message: Request, fds: Sequence[int] = ()) -> None:
    """Raises OSError."""
    rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS,
               b"".join(fd.to_bytes(4, sys.byteorder) for fd in fds))] if fds else []
    sock.sendmsg([marshal.dumps(message)], rights)


def receive(sock: _socket.socket) -> tuple[Request | None, list[int]]:
    """(message, descriptors); None at the end. Raises OSError."""
    data, control, _, _ = sock.recvmsg(LARGEST, _socket.CMSG_SPACE(128), _socket.MSG_CMSG_CLOEXEC)
    fds = [int.from_bytes(value[at:at + 4], sys.byteorder) for level, kind, value in control
           if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS)
           for at in range(0, len(value) - 3, 4)]
    return (marshal.loads(data) if data else None), fds


def failure(error: RootlessError) -> Request:
    """The answer that says so."""
    return {"error": (type(error).__name__, error.message, error.hint)}


def connect(path: str) -> _socket.socket | None:
    """None when nobody listens."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, struct.pack("@ll", PATIENCE, 0))
        sock.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        return None
    except OSError as e:
        sock.close()
        raise HostError(f"cannot reach the network keeper: {path}: {os_reason(e)}") from None
    return sock


def ask(sock: _socket.socket, message: Request, fds: Sequence[int] = ()) -> Request:
    """The answer. Raises the error that the keeper tells, HostError when it tells nothing,
    ConnectionError when it has ended."""
    try:
        send(sock, message, fds)
        answer, _ = receive(sock)
    except BlockingIOError:
        raise HostError(f"the network keeper has not answered for {PATIENCE} seconds",
                        hint="rootless system stop ends it; containers get another") from None
    except BrokenPipeError:
        answer = None
    if answer is None:
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
    if "error" in answer:
        kind, text, hint = answer["error"]
        known: type[RootlessError] = getattr(errors, kind, HostError)
        raise known(text, hint=hint)
    return answer


def ask_if_there(run: str, store: str, message: Request) -> Request | None:
    """For what is nobody's business when there is no keeper."""
    sock = connect(socket_path(run, store))
    if sock is None:
        return None
    try:
        return ask(sock, message)
    except ConnectionError:
        return None
    finally:
        sock.close()


def reach(run: str, store: str) -> _socket.socket:
    """A connection to the keeper, which is started where there is none. Raises HostError."""
    path = socket_path(run, store)
    sock = connect(path)
    if sock is not None:
        return sock
    from rootless.files import Lock

    try:
        with Lock(path + ".lock"):
            sock = connect(path)
            if sock is None:
                _start(path, run, store)
                sock = connect(path)
    except OSError as e:
        raise HostError(f"cannot start the network keeper: {os_reason(e)}") from None
    if sock is None:
        raise HostError("cannot start the network keeper: it ended at once")
    return sock


def _start(path: str, run: str, store: str) -> None:
    """Make the socket, so that it takes connections from now on, and fork who will serve it."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    listener.bind(path)
    listener.listen(128)
    child = os.fork()
    if child == 0:
        try:
            # A grandchild is nobody's to wait for.
            if os.fork() == 0:
                _become(listener.detach(), path, run, store)
        finally:
            os._exit(0)
    listener.close()
    os.waitpid(child, 0)


def _become(listener: int, path: str, run: str, store: str) -> NoReturn:
    from rootless import linux
    from rootless.cgroup.apart import stand_apart

    try:
        os.setsid()
        stand_apart("network")
        os.chdir("/")
        os.umask(0o022)
        null = os.open("/dev/null", os.O_RDWR)
        log = os.open(path + ".log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.dup2(log, 2)
        os.dup2(listener, 3, inheritable=False)
        linux.close_range(4)
        linux.set_name("rootless-net")
        linux.set_command_line("rootless network keeper")
        from _signal import SIG_DFL, SIG_IGN, SIG_SETMASK, pthread_sigmask, signal

        for number in (1, 2, 15):
            signal(number, SIG_IGN if number == 2 else SIG_DFL)
        pthread_sigmask(SIG_SETMASK, [])
        from rootless.network.keeper import Keeper

        Keeper(3, path, run, store).serve()
    finally:
        if sys.exc_info()[0] is not None:
            sys.excepthook(*sys.exc_info())     # into the log
            sys.stderr.flush()
        os._exit(0)


class Attachment:
    """A container's tie to its networks, held by its monitor."""

    def __init__(self, run: str, store: str, request: Request, fds: Sequence[int]) -> None:
        """`request`: of the container, see Keeper.attach. `fds`: an rtnetlink socket of its network
        namespace, and the user namespace that gateways are made in. They are ours from now on."""
        self._where = run, store
        self._request = {"do": "attach", **request}
        self._fds = list(fds)
        self._sock: _socket.socket | None = None

    def fileno(self) -> int:
        """Readable when the keeper is gone; -1 when there is none."""
        return self._sock.fileno() if self._sock is not None else -1

    def renew(self) -> None:
        """Join the networks, or join them again. Raises RootlessError."""
        for _ in range(3):
            self._drop()
            self._sock = reach(*self._where)
            try:
                ask(self._sock, self._request, self._fds)
                return
            except ConnectionError:
                continue        # it was about to end, or was killed this instant
            except RootlessError:
                self._drop()
                raise
        raise HostError("the network keeper ends as soon as it is started",
                        hint=f"{socket_path(*self._where)}.log may tell why")

    def release(self) -> None:
        """Leave the networks; addresses and ports are free when this returns."""
        if self._sock is not None:
            try:
                ask(self._sock, {"do": "detach", "id": self._request["id"]})
            except (OSError, RootlessError):
                pass        # with the keeper all of it has gone
        self._drop()
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    def _drop(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None
