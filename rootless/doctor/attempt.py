"""Try something in a child process, for a limited time, and hear how it went.

An attempt is a generator that says what it is about to do before it does it, so a failure can be
told as `cannot <step>: <errno>`; what it returns is its finding. The child leads a process group
of its own: whatever it started is ended with it.
"""

from __future__ import annotations

import os
import select
import time

from rootless.doctor.facts import Tried
from rootless.errors import RootlessError, os_reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    Attempt = Generator[str, None, str]

SECONDS = 3.0
_SEPARATOR = "\0"


class Running:
    """An attempt under way; several run side by side."""

    def __init__(self, work: Callable[[], Attempt], seconds: float = SECONDS) -> None:
        self._end = time.monotonic() + seconds
        self._seconds = seconds
        self._answer, w = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            _carry_out(work, w)
        os.close(w)

    def result(self) -> Tried:
        data = b""
        poll = select.poll()
        poll.register(self._answer, select.POLLIN | select.POLLHUP)
        while True:
            left = self._end - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                break
            part = os.read(self._answer, 65536)
            if not part:
                break
            data += part
        late = time.monotonic() >= self._end
        self._finish()
        *steps, last = data.decode(errors="replace").split(_SEPARATOR)
        kind, _, rest = last.partition(" ")
        if kind == "did":
            return Tried(told=rest)
        step = steps[-1] if steps else "begin"
        if kind == "failed":
            code, _, why = rest.partition(" ")
            return Tried(step, int(code), why)
        return Tried(step, 0, f"no answer within {self._seconds:g} seconds" if late
                     else "the attempt was killed")

    def _finish(self) -> None:
        os.close(self._answer)
        try:
            os.killpg(self._pid, 9)
        except (ProcessLookupError, PermissionError):
            # It has not come to lead a group yet.
            try:
                os.kill(self._pid, 9)
            except ProcessLookupError:
                pass
        # A process that hangs in the kernel, on a dead file server, cannot be waited for.
        for _ in range(200):
            if os.waitpid(self._pid, os.WNOHANG)[0]:
                return
            time.sleep(0.001)


def _carry_out(work: Callable[[], Attempt], answer: int) -> None:
    last = "failed 0 it ended without a word"
    try:
        os.setpgid(0, 0)
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        steps = work()
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                last = f"did {end.value}"
                break
            os.write(answer, (step + _SEPARATOR).encode())
    except OSError as e:
        last = f"failed {e.errno or 0} {os_reason(e)}"
    except (RootlessError, ValueError) as e:
        last = f"failed 0 {e}"
    finally:
        os.write(answer, last.encode())
        os._exit(0)
