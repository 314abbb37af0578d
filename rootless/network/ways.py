"""Sockets to the name servers that a network's own passes questions on to."""

from __future__ import annotations

import _socket

from rootless.errors import HostError
from rootless.network import inside

PORT = 53
# A child makes as many at a time: of datagram sockets, which are used again, and of others.
MADE, MADE_STREAMS = 16, 2


class Direct:
    """From where this process is."""

    def __init__(self, port: int = PORT) -> None:
        self._port = port

    def open(self, server: str, kind: int) -> _socket.socket:
        """A socket to a server, not yet connected where that takes time. Raises OSError."""
        family = _socket.AF_INET6 if ":" in server else _socket.AF_INET
        sock = self._socket(family, kind)
        try:
            sock.connect((server, self._port))
        except BlockingIOError:
            pass
        except OSError:
            self.give_back(sock)
            raise
        return sock

    def give_back(self, sock: _socket.socket) -> None:
        sock.close()

    def close(self) -> None:
        """Whatever is kept."""

    def _socket(self, family: int, kind: int) -> _socket.socket:
        sock = _socket.socket(family, kind | _socket.SOCK_CLOEXEC)
        sock.setblocking(False)
        return sock


class Within(Direct):
    """From a network's namespace, where a child has to make them."""

    def __init__(self, namespace: int) -> None:
        super().__init__()
        self._namespace = namespace
        self._free: dict[tuple[int, int], list[_socket.socket]] = {}

    def give_back(self, sock: _socket.socket) -> None:
        if sock.type != _socket.SOCK_DGRAM:
            sock.close()
            return
        try:
            while sock.recv(65536):
                pass        # what came too late for the question before
        except OSError:
            pass
        self._free[sock.family, sock.type].append(sock)

    def close(self) -> None:
        for socks in self._free.values():
            for sock in socks:
                sock.close()
        self._free.clear()

    def _socket(self, family: int, kind: int) -> _socket.socket:
        free = self._free.setdefault((family, kind), [])
        if not free:
            count = MADE if kind == _socket.SOCK_DGRAM else MADE_STREAMS
            try:
                made = inside.sockets(self._namespace, family, kind, count)
            except HostError as e:
                raise OSError(e.message) from None
            for fd in made:
                sock = _socket.socket(fileno=fd)
                sock.setblocking(False)
                free.append(sock)
        return free.pop()
