"""Jobs that several processes do at once.

    the command                      up to three workers, made by fork
      numbers of jobs   --pipe-->     take a number, do that job, take the next
      what they tell    <--pipe--     one JSON line per event

Workers are processes, not threads: some fork again, and a process with threads cannot do that
safely. The first that fails ends all. The kernel tells a worker when its parent is gone, and it
ends; whatever it must undo it does in a `finally`, as `Ended` is raised where it stands.
"""

from __future__ import annotations

import json
import os
import signal

from rootless import errors, linux
from rootless.errors import RootlessError, StorageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn, Protocol

    class Tell(Protocol):
        def __call__(self, **event: Any) -> None: ...

WORKERS = 3     # as docker and podman have it


class Ended(KeyboardInterrupt):
    """Our parent wants no more, or is gone."""


def spread(count: int, begin: Callable[[Tell], Callable[[int], None]],
           hear: Callable[[dict[str, Any]], None], what: str) -> None:
    """Do the jobs 0 to `count` - 1, at most a few thousand.

    `begin` is called once in each worker and gives the function that does a job; the events it
    tells are heard here. Raises what a worker failed with. `what`: "pull tiny:latest".
    """
    numbers_r, numbers_w = os.pipe()
    events_r, events_w = os.pipe()
    workers: list[int] = []
    try:
        os.write(numbers_w, b"".join(n.to_bytes(4, "big") for n in range(count)))
        os.close(numbers_w)
        numbers_w = -1
        for _ in range(min(WORKERS, count)):
            pid = os.fork()
            if pid == 0:
                try:
                    os.close(events_r)
                    _Worker(begin, numbers_r, events_w, what).run()
                finally:
                    os._exit(1)
            workers.append(pid)
        os.close(events_w)
        events_w = -1
        _follow(events_r, hear)
        _reap(workers, what)
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGTERM)
        for fd in (numbers_r, numbers_w, events_r, events_w):
            if fd >= 0:
                os.close(fd)
        for pid in workers:
            os.waitpid(pid, 0)


def _follow(events: int, hear: Callable[[dict[str, Any]], None]) -> None:
    """To the end of all workers."""
    rest = b""
    while data := os.read(events, 65536):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            event = json.loads(line)
            if "error" in event:
                kind = getattr(errors, event["error"])
                raise kind(event["message"], hint=event["hint"])
            hear(event)


def _reap(workers: list[int], what: str) -> None:
    failed = ""
    while workers:
        code = os.waitstatus_to_exitcode(os.waitpid(workers.pop(), 0)[1])
        if code:
            failed = f"signal {-code}" if code < 0 else f"exit code {code}"
    if failed:
        raise StorageError(f"cannot {what}: a process that does it ended with {failed}",
                           hint="look for the out-of-memory killer in the kernel's log")


class _Worker:
    def __init__(self, begin: Callable[[Tell], Callable[[int], None]], numbers: int, events: int,
                 what: str) -> None:
        self._begin = begin
        self._numbers = numbers
        self._events = events
        self._what = what

    def run(self) -> NoReturn:
        code = 1
        try:
            signal.signal(signal.SIGTERM, _end)
            linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGTERM)
            job = self._begin(self._tell)
            while word := os.read(self._numbers, 4):
                job(int.from_bytes(word, "big"))
            code = 0
        except RootlessError as e:
            self._fail(e)
        except OSError as e:
            self._fail(StorageError(f"cannot {self._what}: {errors.os_reason(e)}"))
        except KeyboardInterrupt:
            pass
        finally:
            os._exit(code)

    def _tell(self, **event: Any) -> None:
        # One write of at most PIPE_BUF bytes is never mixed with another's.
        try:
            os.write(self._events, json.dumps(event).encode() + b"\n")
        except BrokenPipeError:
            raise Ended from None

    def _fail(self, error: RootlessError) -> None:
        kind = next(k for k in type(error).__mro__ if hasattr(errors, k.__name__))
        try:
            self._tell(error=kind.__name__, message=error.message[:1500],
                       hint=error.hint[:500] if error.hint else None)
        except Ended:
            pass


def _end(number: int, frame: object) -> None:
    raise Ended
