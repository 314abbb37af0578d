"""As much D-Bus as a conversation with systemd takes: calls, answers and signals over its socket.

D-Bus Specification 0.43, "Message Protocol" and "Authentication Protocol". systemd listens at
$XDG_RUNTIME_DIR/systemd/private (for root /run/systemd/private) as one peer without a bus in
between; it is where systemctl and systemd-run go too, and it works where no bus is installed.

Own code although jeepney does the same well: it is on the way of every start of a container, where
importing jeepney takes 13 ms of 38 (it brings enum, socket, selectors and contextlib), and this
module takes less than one.

A type is written as D-Bus writes it: y b n q i u x t h are numbers, s o g texts, v a variant
(type, value), a an array, (…) a structure, {…} an entry of a dictionary. Python values: int, str,
list, tuple. A d (double) is only read, as its eight bytes.
"""

from __future__ import annotations

import os

from rootless.errors import HostError, os_reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

METHOD_CALL, METHOD_RETURN, ERROR, SIGNAL = 1, 2, 3, 4
PATH, INTERFACE, MEMBER, ERROR_NAME, REPLY_SERIAL, DESTINATION, SENDER, SIGNATURE = range(1, 9)
LARGEST = 1 << 27       # bytes of a message; the specification's own limit
# type: (size and alignment, signed)
_FIXED = {"y": (1, False), "b": (4, False), "n": (2, True), "q": (2, False), "i": (4, True),
          "u": (4, False), "x": (8, True), "t": (8, False), "h": (4, False)}
_ALIGN = {"d": 8, "s": 4, "o": 4, "g": 1, "v": 1, "a": 4, "(": 8, "{": 8}


class Refused(HostError):
    """The other side answered with an error. `name`: the D-Bus name of it."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


def split(signature: str) -> list[str]:
    """The complete types in a row: `sa(sv)u` to s, a(sv), u. Raises ValueError."""
    found, at = [], 0
    while at < len(signature):
        end = _end_of_type(signature, at)
        found.append(signature[at:end])
        at = end
    return found


def _end_of_type(signature: str, at: int) -> int:
    if at >= len(signature):
        raise ValueError(f"a type is missing: {signature}")
    c = signature[at]
    if c == "a":
        return _end_of_type(signature, at + 1)
    if c in "({":
        close = ")" if c == "(" else "}"
        at += 1
        while signature[at:at + 1] != close:
            at = _end_of_type(signature, at)
        return at + 1
    if c in _FIXED or c in "dsogv":
        return at + 1
    raise ValueError(f"unknown type: {c}")


def _aligned(out: bytearray, size: int) -> None:
    out += bytes(-len(out) % size)


def write(out: bytearray, kind: str, value: Any) -> None:
    """Append a value of one complete type, aligned from the buffer's start."""
    c = kind[0]
    if c in _FIXED:
        size, signed = _FIXED[c]
        _aligned(out, size)
        out += int(value).to_bytes(size, "little", signed=signed)
    elif c in "so":
        data = value.encode()
        write(out, "u", len(data))
        out += data + b"\0"
    elif c == "g":
        data = value.encode()
        out += bytes([len(data)]) + data + b"\0"
    elif c == "v":
        write(out, "g", value[0])
        write(out, value[0], value[1])
    elif c == "a":
        write(out, "u", 0)
        start = len(out)
        _aligned(out, _alignment(kind[1:]))
        first = len(out)
        for item in value:
            write(out, kind[1:], item)
        out[start - 4:start] = (len(out) - first).to_bytes(4, "little")
    else:
        _aligned(out, 8)
        for inner, item in zip(split(kind[1:-1]), value):
            write(out, inner, item)


def _alignment(kind: str) -> int:
    return _FIXED[kind[0]][0] if kind[0] in _FIXED else _ALIGN[kind[0]]


class Input:
    """Reads values from a message. Raises ValueError on nonsense."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data = data
        self.at = at

    def _take(self, size: int) -> bytes:
        part = self.data[self.at:self.at + size]
        if len(part) < size:
            raise ValueError("the message is too short")
        self.at += size
        return part

    def align(self, size: int) -> None:
        self._take(-self.at % size)

    def read(self, kind: str, depth: int = 0) -> Any:
        if depth > 64:
            raise ValueError("nested too deeply")
        c = kind[0]
        if c in _FIXED:
            size, signed = _FIXED[c]
            self.align(size)
            return int.from_bytes(self._take(size), "little", signed=signed)
        if c == "d":
            self.align(8)
            return self._take(8)
        if c in "sog":
            size = self.read("y" if c == "g" else "u")
            return self._take(size + 1)[:-1].decode(errors="replace")
        if c == "v":
            inner = self.read("g")
            if len(split(inner)) != 1:
                raise ValueError(f"a variant of {inner}")
            return inner, self.read(inner, depth + 1)
        if c == "a":
            size = self.read("u")
            self.align(_alignment(kind[1:]))
            end = self.at + size
            if end > len(self.data):
                raise ValueError("an array is longer than its message")
            items = []
            while self.at < end:
                items.append(self.read(kind[1:], depth + 1))
            return items
        self.align(8)
        return tuple([self.read(inner, depth + 1) for inner in split(kind[1:-1])])


def message(kind: int, serial: int, fields: list[tuple[int, tuple[str, Any]]],
            signature: str = "", values: tuple[Any, ...] = ()) -> bytes:
    body = bytearray()
    for one, value in zip(split(signature), values):
        write(body, one, value)
    if signature:
        fields = [*fields, (SIGNATURE, ("g", signature))]
    head = bytearray(b"l")
    for c, value in (("y", kind), ("y", 0), ("y", 1), ("u", len(body)), ("u", serial),
                     ("a(yv)", fields)):
        write(head, c, value)
    _aligned(head, 8)
    return bytes(head + body)


class Message:
    def __init__(self, kind: int, fields: dict[int, Any], body: list[Any]) -> None:
        self.kind = kind
        self.fields = fields
        self.body = body


def parse(data: bytes) -> tuple[Message, int] | None:
    """The first message, and how long it is; None when it is not whole yet. Raises ValueError."""
    if len(data) < 16:
        return None
    if data[:1] != b"l" or data[3] != 1:
        raise ValueError("not a message of D-Bus 1 in little-endian order")
    source = Input(data, 4)
    size = source.read("u")
    head = 16 + int.from_bytes(data[12:16], "little")
    head += -head % 8
    if head + size > LARGEST:
        raise ValueError("a message is too large")
    if len(data) < head + size:
        return None
    source = Input(data[:head], 12)
    fields = {code: value for code, (_, value) in source.read("a(yv)")}
    source = Input(data[head:head + size])
    body = [source.read(one) for one in split(str(fields.get(SIGNATURE, "")))]
    return Message(data[1], fields, body), head + size


class Connection:
    """To one peer, as ourselves. Raises HostError when it cannot be reached or is silent."""

    def __init__(self, path: str, *, seconds: int = 30) -> None:
        import _socket

        self.path = path
        self._serial = 0
        self._buffer = b""
        self._sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        try:
            for option in (_socket.SO_RCVTIMEO, _socket.SO_SNDTIMEO):
                # struct timeval, whose parts are longs.
                self._sock.setsockopt(_socket.SOL_SOCKET, option,
                                      seconds.to_bytes(8, "little") + bytes(8))
            self._sock.connect(path)
            self._authenticate()
        except OSError as e:
            self._sock.close()
            raise self._lost(os_reason(e)) from None
        except HostError:
            self._sock.close()
            raise

    def _lost(self, why: str) -> HostError:
        return HostError(f"cannot talk to systemd: {self.path}: {why}",
                         hint='cgroups = "disabled" in config.toml does without')

    def close(self) -> None:
        self._sock.close()

    def peer(self) -> int:
        """The process that listens (unix(7), SO_PEERCRED)."""
        import _socket

        raw = self._sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
        return int.from_bytes(raw[:4], "little")

    def _authenticate(self) -> None:
        who = str(os.getuid()).encode().hex().encode()
        self._sock.sendall(b"\0AUTH EXTERNAL " + who + b"\r\n")
        while b"\r\n" not in self._buffer:
            self._receive()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        if not line.startswith(b"OK "):
            raise self._lost("it does not accept us")
        self._sock.sendall(b"BEGIN\r\n")

    def _receive(self) -> None:
        try:
            part = self._sock.recv(1 << 16)
        except BlockingIOError:
            raise self._lost("no answer") from None
        except OSError as e:
            raise self._lost(os_reason(e)) from None
        if not part:
            raise self._lost("it hung up")
        self._buffer += part

    def next(self) -> Message:
        while True:
            try:
                found = parse(self._buffer)
            except ValueError as e:
                raise self._lost(str(e)) from None
            if found is not None:
                self._buffer = self._buffer[found[1]:]
                return found[0]
            self._receive()

    def call(self, destination: str, path: str, interface: str, member: str, signature: str = "",
             values: tuple[Any, ...] = (), signals: list[Message] | None = None) -> list[Any]:
        """What the method returns; signals that come before it are added to `signals`.

        Raises Refused when it answers with an error.
        """
        self._serial += 1
        try:
            self._sock.sendall(message(METHOD_CALL, self._serial, [
                (PATH, ("o", path)), (DESTINATION, ("s", destination)),
                (INTERFACE, ("s", interface)), (MEMBER, ("s", member))], signature, values))
        except OSError as e:
            raise self._lost(os_reason(e)) from None
        while True:
            got = self.next()
            if got.kind == SIGNAL and signals is not None:
                signals.append(got)
            if got.fields.get(REPLY_SERIAL) != self._serial:
                continue
            if got.kind == ERROR:
                raise Refused(str(got.fields.get(ERROR_NAME, "")),
                              str(got.body[0]) if got.body else "no reason given")
            return got.body
