"""Bytes between our standard streams and a process started by `exec`."""

from __future__ import annotations

import os
import select
from _signal import SIG_DFL, set_wakeup_fd, signal

from rootless.container.attach import PROXIED, WINCH, Terminal, note, terminal_size
from rootless.runtime.process import winsize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.container.exec import Exec

CHUNK = 1 << 16
TIOCSWINSZ = 0x5414


def pump(running: Exec, *, stdin: bool) -> int:
    """Until the process has ended and its output is drained; its exit code."""
    return _Pump(running, stdin).run()


class _Pump:
    def __init__(self, running: Exec, stdin: bool) -> None:
        self.running = running
        self.sink = running.master if running.master >= 0 else running.stdin
        self.reading = stdin and self.sink >= 0
        self.waiting = bytearray()

    def run(self) -> int:
        running = self.running
        terminal = Terminal(0) if running.master >= 0 and self.reading and os.isatty(0) else None
        wake_r, wake_w = os.pipe()
        os.set_blocking(wake_w, False)
        caught = (*PROXIED, WINCH) if terminal is None else (WINCH,)
        for number in caught:
            signal(number, note)
        set_wakeup_fd(wake_w)
        for fd in {*running.outputs, self.sink} - {-1}:
            os.set_blocking(fd, False)
        ended = os.pidfd_open(running.waiter)
        try:
            while True:
                poll = select.poll()
                poll.register(wake_r, select.POLLIN)
                if not running.outputs:
                    poll.register(ended, select.POLLIN)
                for fd in running.outputs:
                    poll.register(fd, select.POLLIN)
                if self.reading and not self.waiting:
                    poll.register(0, select.POLLIN)
                if self.waiting and self.sink >= 0:
                    poll.register(self.sink, select.POLLOUT
                                  | (select.POLLIN if self.sink in running.outputs else 0))
                for fd, _ in poll.poll():
                    if fd == wake_r:
                        self._signals(os.read(wake_r, 64))
                    elif fd == ended:
                        return running.wait()
                    elif fd == 0:
                        self._type()
                    if fd in running.outputs:
                        self._show(fd)
                    if fd == self.sink and self.waiting:
                        self._feed()
        finally:
            set_wakeup_fd(-1)
            for number in caught:
                signal(number, SIG_DFL)
            if terminal is not None:
                terminal.restore()

    def _show(self, fd: int) -> None:
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""      # EIO: the terminal's other side is closed
        ours = self.running.outputs[fd]
        try:
            view = memoryview(data)
            while view:
                try:
                    view = view[os.write(ours, view):]
                except BlockingIOError:
                    select.select([], [ours], [])
        except OSError:
            data = b""      # nobody reads us: the process shall get EPIPE, as it would outside
        if not data:
            del self.running.outputs[fd]
            if fd == self.sink:
                self.sink = -1
            os.close(fd)

    def _type(self) -> None:
        try:
            data = os.read(0, CHUNK)
        except OSError:
            data = b""
        if not data:
            self.reading = False
            if self.sink == self.running.stdin and self.sink >= 0:
                os.close(self.sink)
                self.sink = -1
            return
        self.waiting += data
        self._feed()

    def _feed(self) -> None:
        try:
            while self.waiting and self.sink >= 0:
                sent = os.write(self.sink, self.waiting)
                del self.waiting[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self.waiting.clear()
            self.reading = False

    def _signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number == WINCH:
                size = terminal_size(0) or terminal_size(1)
                if size and self.running.master in self.running.outputs:
                    import fcntl

                    fcntl.ioctl(self.running.master, TIOCSWINSZ, winsize(*size))
            else:
                # The process dies with us (PR_SET_PDEATHSIG): nothing is left behind.
                signal(number, SIG_DFL)
                os.kill(os.getpid(), number)
