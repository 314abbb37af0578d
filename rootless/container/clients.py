"""Those who are connected to a monitor: commands that are attached, wait, or stop the container."""

from __future__ import annotations

import os
import select

from rootless.container import frames
from rootless.container.frames import frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = 1 << 16
# A slow reader holds its container back once this much is waiting for it.
BACKLOG = 1 << 20


class Client:
    """What it sends, and what still has to reach it."""

    def __init__(self, sock: int, reader: frames.Reader) -> None:
        os.set_blocking(sock, False)
        self.sock = sock
        self.reader = reader
        self.waiting = bytearray()
        self.quiet = False

    def push(self, data: bytes) -> None:
        """Raises OSError when it is gone."""
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


class Clients:
    """All of them, by their socket, and the socket on which more come.

    `obey(client, kind, payload)` is called for what one says, `left(client)` when one has gone.
    """

    def __init__(self, first: Client, obey: Callable[[Client, bytes, bytes], None],
                 left: Callable[[Client], None]) -> None:
        self.all = {first.sock: first}
        self.listener = -1
        self.greeting = b""         # what one who comes is told
        self._obey = obey
        self._left = left

    def listen(self, path: str) -> None:
        import _socket

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

    def held(self) -> bool:
        """Does one read too slowly for the container to go on writing?"""
        return any(len(c.waiting) > BACKLOG for c in self.all.values())

    def register(self, poll: select.poll, *, hear: bool) -> None:
        for fd, client in self.all.items():
            poll.register(fd, (select.POLLOUT if client.waiting else 0)
                          | (select.POLLIN if hear else 0))
        if self.listener >= 0:
            poll.register(self.listener, select.POLLIN)

    def serve(self, fd: int, events: int) -> bool:
        """False when the descriptor is none of ours."""
        if fd == self.listener:
            self._accept()
        elif fd in self.all:
            self._serve(self.all[fd], events)
        else:
            return False
        return True

    def tell(self, data: bytes, *, output: bool = False) -> None:
        for client in list(self.all.values()):
            if output and client.quiet:
                continue
            try:
                client.push(data)
            except OSError:
                self._gone(client)

    def dismiss(self, last: bytes) -> None:
        """The last word to everybody."""
        for client in list(self.all.values()):
            os.set_blocking(client.sock, True)
            try:
                client.push(last)
            except OSError:
                pass
            os.close(client.sock)
        self.all.clear()

    def _gone(self, client: Client) -> None:
        os.close(client.sock)
        del self.all[client.sock]
        self._left(client)

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
        self.all[fd] = client
        try:
            client.push(self.greeting)
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


def started(pid: int) -> bytes:
    return frame(frames.STARTED, str(pid).encode())
