"""The language between a command and a monitor: frames on a Unix stream socket.

    kind (1 byte)  length (4 bytes, little-endian)  payload

To the monitor:   P plan (marshal; with descriptors as SCM_RIGHTS: the user namespace, the
                    container's lock, and a process whose network is shared)
                  I bytes for standard input    E end of standard input
                  W rows columns (text)         Q I want no output
                  D detached on purpose         C nobody reads this stream (O or R) any more
                  N it shall stay ended         A it shall be started again when it has ended
                    (both are answered by themselves, with a `p` where there is a process
                    that a signal would end)
To the command:   S started (pid)               F failed (marshal: kind, message, hint)
                  O standard output             R standard error
                  X ended (exit code, text); another S follows where it is started again

Both ends are processes of one user: the socket's directory is private, and the monitor checks
SO_PEERCRED all the same.
"""

from __future__ import annotations

import _socket
import marshal
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PLAN, INPUT, INPUT_END, RESIZE, QUIET, DETACH = b"P", b"I", b"E", b"W", b"Q", b"D"
CLOSED, STAY, AGAIN = b"C", b"N", b"A"
STARTED, FAILED, OUT, ERR, EXITED = b"S", b"F", b"O", b"R", b"X"

HEADER = 5
LARGEST = 64 << 20


def frame(kind: bytes, payload: bytes = b"") -> bytes:
    return kind + len(payload).to_bytes(4, "little") + payload


class Reader:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """The frames that are now complete. Raises ValueError on nonsense."""
        buffer = self._buffer
        buffer += data
        found = []
        at = 0
        while len(buffer) - at >= HEADER:
            length = int.from_bytes(buffer[at + 1:at + HEADER], "little")
            if length > LARGEST:
                raise ValueError("a frame is too large")
            end = at + HEADER + length
            if len(buffer) < end:
                break
            found.append((bytes(buffer[at:at + 1]), bytes(buffer[at + HEADER:end])))
            at = end
        if at:
            del buffer[:at]
        return found


def pair() -> tuple[int, int]:
    a, b = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    return a.detach(), b.detach()


def send(fd: int, data: bytes) -> None:
    """All of it, on a blocking socket. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]


def send_with_fds(fd: int, data: bytes, passed: list[int]) -> None:
    """`data` with descriptors along with its first byte."""
    sock = _socket.socket(fileno=fd)
    try:
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS,
                   b"".join(n.to_bytes(4, sys.byteorder) for n in passed))]
        sent = sock.sendmsg([data], rights)
    finally:
        sock.detach()
    send(fd, data[sent:])


def receive_with_fds(fd: int, size: int = 1 << 16) -> tuple[bytes, list[int]]:
    """(bytes, the descriptors that came with them); no bytes at the end of the stream."""
    sock = _socket.socket(fileno=fd)
    try:
        data, control, _, _ = sock.recvmsg(size, _socket.CMSG_SPACE(12), _socket.MSG_CMSG_CLOEXEC)
    finally:
        sock.detach()
    return data, [int.from_bytes(value[at:at + 4], sys.byteorder)
                  for level, kind, value in control
                  if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS)
                  for at in range(0, len(value) - 3, 4)]


def receive_plan(sock: int, reader: Reader) -> tuple[Any, list[int]]:
    """(what was sent as a plan, the descriptors that came along); None at the end of the stream."""
    given: list[int] = []
    while True:
        data, fds = receive_with_fds(sock)
        given += fds
        if not data:
            return None, given
        for _, payload in reader.feed(data):
            return marshal.loads(payload), given


def connect(path: str) -> int:
    """A socket to a monitor. Raises OSError."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        sock.connect(path)
        return sock.detach()
    finally:
        sock.close()
