"""The command's side of an attached container: terminal, standard streams, signals.

One loop over the monitor's socket, standard input and arriving signals. Neither direction ever
waits for the other, so a container that fills its output while we fill its input cannot stall us.
"""

from __future__ import annotations

import errno
import os
import select
from _signal import SIG_DFL, SIG_IGN, getsignal, set_wakeup_fd, signal

from rootless.container import frames
from rootless.container.frames import frame
from rootless.errors import StartError, StorageError, UsageError, os_reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    Kill = Callable[[int], object]

CHUNK = 1 << 16
HUP, WINCH = 1, 28
# Everything that asks something of a process and can be caught, save CHLD, PIPE, TSTP, TTIN, TTOU.
PROXIED = (1, 2, 3, 10, 12, 14, 15, 18)
ENDING = (1, 2, 3, 15)


class Detached(Exception):
    """The detach keys were typed; the container runs on."""


class Killed(Exception):
    """A signal came that ends us, once our terminal is as it was."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def die(number: int) -> NoReturn:
    """By the signal, so that who started us sees it."""
    signal(number, SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)


def catch(numbers: tuple[int, ...]) -> dict[int, Any]:
    """Have them told by the wake-up descriptor; what was before. A hangup that nohup had us ignore
    stays ignored."""
    return {n: signal(n, note) for n in numbers if n != HUP or getsignal(n) != SIG_IGN}


def unread(error: OSError) -> bool:
    """Nobody reads us any more: a pipe without a reader, a terminal whose window is closed."""
    return error.errno in (errno.EPIPE, errno.EIO)


def output_lost(error: OSError, code: int) -> StorageError:
    told = StorageError(f"cannot write the container's output: {os_reason(error)}")
    told.exit_code = code or 1
    return told


def detach_sequence(text: str) -> bytes:
    """`ctrl-p,ctrl-q` or `a,ctrl-]` as the bytes a terminal sends. Raises UsageError."""
    out = bytearray()
    for key in text.split(",") if text else []:
        if len(key) == 1 and key.isascii():
            out += key.encode()
        elif key.startswith("ctrl-") and len(key) == 6 and (
                "a" <= key[5].lower() <= "z" or key[5] in "@[\\]^_"):
            out.append(ord(key[5].upper()) & 0x1F)
        else:
            raise UsageError(f"invalid detach keys: {text}", hint="for example ctrl-p,ctrl-q")
    return bytes(out)


def terminal_size(fd: int) -> tuple[int, int] | None:
    """(rows, columns) of a terminal; None when it is none or says nothing."""
    try:
        columns, rows = os.get_terminal_size(fd)
    except OSError:
        return None
    return (rows, columns) if rows and columns else None


class Terminal:
    """Our own terminal in raw mode, restored at the end."""

    def __init__(self, fd: int) -> None:
        import termios

        self._fd = fd
        self._termios = termios
        self._saved = termios.tcgetattr(fd)
        raw = termios.tcgetattr(fd)
        raw[0] &= ~(termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP
                    | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON)
        raw[1] &= ~termios.OPOST
        raw[2] = raw[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        raw[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        raw[6][termios.VMIN], raw[6][termios.VTIME] = 1, 0
        termios.tcsetattr(fd, termios.TCSANOW, raw)

    def restore(self) -> None:
        try:
            self._termios.tcsetattr(self._fd, self._termios.TCSANOW, self._saved)
        except self._termios.error:
            pass        # its window was closed


class Attached:
    """A connection to a monitor."""

    def __init__(self, sock: int, *, stdin: bool, tty: bool, detach_keys: str,
                 kill: Kill | None) -> None:
        """`kill` sends a signal to the container's first process; None: signals end us."""
        self.sock = sock
        self.tty = tty
        self.stdin = stdin
        self.keys = detach_sequence(detach_keys)
        self.kill = kill
        self.matched = 0
        self.waiting = bytearray()
        self.reader = frames.Reader()
        self.pending: list[tuple[bytes, bytes]] = []
        self.silent: set[int] = set()
        self.lost: OSError | None = None

    def wait_started(self) -> bytes:
        """Block until the monitor said S (returns b"S"), or F: its payload. Raises StartError."""
        while True:
            for i, (kind, payload) in enumerate(self.pending):
                if kind == frames.STARTED:
                    del self.pending[i]
                    return b"S"
                if kind == frames.FAILED:
                    return payload
            data = os.read(self.sock, CHUNK)
            if not data:
                raise StartError("the container's monitor was killed while starting it")
            self.pending += self.reader.feed(data)

    def until_end(self) -> int:
        """Pass bytes until the container ends; its exit code. Raises Detached, StartError, and
        StorageError when its output could not be written."""
        try:
            code = self._until_end()
        except Killed as e:
            die(e.number)
        if self.lost is not None:
            raise output_lost(self.lost, code)
        return code

    def _until_end(self) -> int:
        terminal = Terminal(0) if self.tty and self.stdin and os.isatty(0) else None
        wake_r, wake_w = os.pipe()
        os.set_blocking(wake_w, False)
        previous: dict[int, Any] = {}
        if self.kill is not None:
            previous |= catch(PROXIED)
        elif terminal is not None:
            previous |= catch(ENDING)
        if self.tty:
            previous |= catch((WINCH,))
        set_wakeup_fd(wake_w)
        os.set_blocking(self.sock, False)
        try:
            if self.tty:
                self.send_size()        # it may have changed since the container was given it
            for kind, payload in self.pending:
                code = self._take(kind, payload)
                if code is not None:
                    return code
            return self._loop(wake_r)
        finally:
            set_wakeup_fd(-1)
            for number, handler in previous.items():
                signal(number, handler if handler is not None else SIG_DFL)
            if terminal is not None:
                terminal.restore()
            os.close(wake_r)
            os.close(wake_w)

    def _loop(self, wake: int) -> int:
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        reading = self.stdin
        while True:
            poll.register(self.sock, select.POLLIN | (select.POLLOUT if self.waiting else 0))
            if reading and not self.waiting:
                poll.register(0, select.POLLIN)
            elif self.stdin:
                try:
                    poll.unregister(0)
                except KeyError:
                    pass
            for fd, events in poll.poll():
                if fd == wake:
                    self._signals(os.read(wake, 64))
                elif fd == 0:
                    reading = self._type()
                    self._flush()
                else:
                    if events & select.POLLOUT:
                        self._flush()
                    if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                        code = self._receive()
                        if code is not None:
                            return code

    def _receive(self) -> int | None:
        try:
            data = os.read(self.sock, 4 * CHUNK)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            data = b""
        if not data:
            raise StartError("the container's monitor was killed, so its exit code is not known")
        for kind, payload in self.reader.feed(data):
            code = self._take(kind, payload)
            if code is not None:
                return code
        return None

    def _take(self, kind: bytes, payload: bytes) -> int | None:
        if kind == frames.OUT:
            self._show(1, kind, payload)
        elif kind == frames.ERR:
            self._show(2, kind, payload)
        elif kind == frames.EXITED:
            return int(payload)
        elif kind == frames.FAILED:
            from rootless.container.start import failure

            raise failure(payload)
        return None

    def _show(self, fd: int, kind: bytes, data: bytes) -> None:
        if fd in self.silent:
            return
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(fd, view):]
            except BlockingIOError:
                # Somebody made our output non-blocking; wait for it.
                select.select([], [fd], [])
            except OSError as e:
                # Tell the container, as a pipe would.
                if not unread(e):
                    self.lost = e
                self.silent.add(fd)
                self.waiting += frame(frames.CLOSED, kind)
                self._flush()
                return

    def _type(self) -> bool:
        """Read standard input; False at its end."""
        try:
            data = os.read(0, CHUNK)
        except OSError:
            data = b""
        if not data:
            if self.matched:
                self.waiting += frame(frames.INPUT, self.keys[:self.matched])
            self.waiting += frame(frames.INPUT_END)
            return False
        if self.tty and self.keys:
            data = self._watch(data)
        if data:
            self.waiting += frame(frames.INPUT, data)
        return True

    def _watch(self, data: bytes) -> bytes:
        """Hold back what may become the detach keys. Raises Detached."""
        out = bytearray()
        for byte in data:
            if byte == self.keys[self.matched]:
                self.matched += 1
                if self.matched == len(self.keys):
                    frames_left = bytes(self.waiting) + frame(frames.INPUT, bytes(out))
                    os.set_blocking(self.sock, True)
                    frames.send(self.sock, frames_left + frame(frames.DETACH))
                    raise Detached
                continue
            out += self.keys[:self.matched]
            self.matched = 0
            if byte == self.keys[0]:
                self.matched = 1
            else:
                out.append(byte)
        return bytes(out)

    def _flush(self) -> None:
        try:
            while self.waiting:
                sent = os.write(self.sock, self.waiting)
                del self.waiting[:sent]
        except BlockingIOError:
            pass
        except OSError:
            # The monitor ended; what it said last is still to be read.
            self.waiting.clear()
            self.stdin = False

    def _signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number == WINCH:
                self.send_size()
            elif self.kill is not None:
                self.kill(number)
            else:
                raise Killed(number)

    def send_size(self) -> None:
        size = terminal_size(0) or terminal_size(1)
        if size:
            self.waiting += frame(frames.RESIZE, b"%d %d" % size)
            self._flush()


def note(number: int, stack: Any) -> None:
    """The number arrives through the wake-up descriptor."""
