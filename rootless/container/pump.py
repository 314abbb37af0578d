"""Bytes between our standard streams and a process started by `exec`."""

from __future__ import annotations

import os
import select
from _signal import SIG_DFL, set_wakeup_fd, signal

from rootless.container.attach import (
    ENDING,
    PROXIED,
    WINCH,
    Killed,
    Terminal,
    catch,
    die,
    output_lost,
    terminal_size,
    unread,
)
from rootless.runtime.process import winsize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.container.exec import Exec

CHUNK = 1 << 16
# How long the output must be silent once the process has ended. Processes that it left behind may
# keep it open for ever; a terminal passes on what was written a moment later.
SILENCE_MS = 100
# ... or go on writing: no more than a pipe holds of each stream can have been written before.
LATE = 2 << 20
TIOCSWINSZ = 0x5414


def pump(running: Exec, *, stdin: bool) -> int:
    """Until the process has ended and its output is drained; its exit code. Raises StorageError
    when that could not be written."""
    one = _Pump(running, stdin)
    try:
        code = one.run()
    except Killed as e:
        # The process dies with us (PR_SET_PDEATHSIG): nothing is left behind.
        die(e.number)
    if one.lost is not None:
        raise output_lost(one.lost, code)
    return code


class _Pump:
    def __init__(self, running: Exec, stdin: bool) -> None:
        self.running = running
        self.sink = running.master if running.master >= 0 else running.stdin
        self.reading = stdin and self.sink >= 0
        self.waiting = bytearray()
        self.lost: OSError | None = None
        self.late = 0

    def run(self) -> int:
        running = self.running
        terminal = Terminal(0) if running.master >= 0 and self.reading and os.isatty(0) else None
        wake_r, wake_w = os.pipe()
        os.set_blocking(wake_w, False)
        previous = catch((*(PROXIED if terminal is None else ENDING), WINCH))
        set_wakeup_fd(wake_w)
        for fd in {*running.outputs, self.sink} - {-1}:
            os.set_blocking(fd, False)
        ended = os.pidfd_open(running.waiter)
        code: int | None = None
        try:
            while code is None or running.outputs:
                poll = select.poll()
                poll.register(wake_r, select.POLLIN)
                if code is None:
                    poll.register(ended, select.POLLIN)
                for fd in running.outputs:
                    poll.register(fd, select.POLLIN)
                if self.reading and not self.waiting:
                    poll.register(0, select.POLLIN)
                if self.waiting and self.sink >= 0:
                    poll.register(self.sink, select.POLLOUT
                                  | (select.POLLIN if self.sink in running.outputs else 0))
                events = poll.poll(None if code is None else SILENCE_MS)
                if code is not None and (not events or self.late > LATE):
                    break
                before = code
                for fd, _ in events:
                    if fd == wake_r:
                        self._signals(os.read(wake_r, 64))
                    elif fd == ended:
                        code = running.wait()
                        self.reading = False
                    elif fd == 0:
                        self._type()
                    if fd in running.outputs:
                        shown = self._show(fd)
                        self.late += shown if before is not None else 0
                    if fd == self.sink and self.waiting:
                        self._feed()
            return code
        finally:
            set_wakeup_fd(-1)
            for number, handler in previous.items():
                signal(number, handler if handler is not None else SIG_DFL)
            if terminal is not None:
                terminal.restore()

    def _show(self, fd: int) -> int:
        """Pass on what there is; how much that was."""
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return 0
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
        except OSError as e:
            if not unread(e):
                self.lost = e
            data = b""      # the process shall get EPIPE, as it would outside
        if not data:
            del self.running.outputs[fd]
            if fd == self.sink:
                self.sink = -1
            os.close(fd)
        return len(data)

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
                raise Killed(number)
