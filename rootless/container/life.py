"""Signal, stop, restart, wait for and remove containers."""

from __future__ import annotations

import os
import select
import time

from rootless import linux
from rootless.container import frames, signals, store
from rootless.container.store import Container, State
from rootless.errors import Conflict, HostError, NotFound, os_reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT_STOP_SECONDS = 10
KILL_SECONDS = 30


def send_signal(container: Container, state: State, number: int) -> bool:
    """Signal the first process; False when it is gone. Raises HostError."""
    if state.elsewhere:
        raise HostError(f"container {container.name} runs on {state.elsewhere}, not here",
                        hint=f"run this command on {state.elsewhere}")
    if not state.pid:
        return False
    try:
        pidfd = os.pidfd_open(state.pid)
    except ProcessLookupError:
        return False
    try:
        # The descriptor is of this very process, so now is the time to see that it is the right.
        if container.state().pid != state.pid:
            return False
        return _pidfd_signal(container, pidfd, number)
    finally:
        os.close(pidfd)


def _pidfd_signal(container: Container, pidfd: int, number: int) -> bool:
    try:
        linux.pidfd_send_signal(pidfd, number)
        return True
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    # It runs as another id of the container's: only root of our namespace may signal that.
    from rootless.userns import keeper

    userns = keeper.open_userns(container.paths)
    child = os.fork()
    if child == 0:
        try:
            keeper.enter(userns)
            linux.pidfd_send_signal(pidfd, number)
            os._exit(0)
        except ProcessLookupError:
            os._exit(3)
        except OSError as e:
            os.write(2, f"rootless: cannot signal the container: {os_reason(e)}\n".encode())
        finally:
            os._exit(1)
    os.close(userns.fd)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == 1:
        raise HostError(f"cannot signal container {container.name}")
    return code == 0


def signal_from_monitor(plan: dict[str, Any], number: int) -> None:
    """In a child of the monitor, whose own signals the container's first process is not sent."""
    from rootless import paths as places

    os.environ["ROOTLESS_ROOT"] = plan["store"]
    container = store.load(places.of_this_user(), plan["id"])
    if container is not None:
        send_signal(container, container.state(), number)


class Ending:
    """Waits for the end of a running container as its monitor tells it: after the record is on
    disk, or with --rm after the container has left the store."""

    def __init__(self, container: Container, state: State) -> None:
        self.container = container
        self.state = state
        self.sock = -1
        self.reader = frames.Reader()
        self.heard: list[tuple[bytes, bytes]] = []
        if state.socket:
            try:
                self.sock = frames.connect(state.socket)
                frames.send(self.sock, frames.frame(frames.QUIET))
            except OSError:
                pass

    def ask(self, kind: bytes) -> bool:
        """STAY or AGAIN: once it has returned, the monitor does so at the container's end. Is
        there a process to end?"""
        if self.sock < 0:
            return True
        try:
            frames.send(self.sock, frames.frame(kind))
        except OSError:
            return True
        told = self.listen((kind,), time.monotonic() + KILL_SECONDS)
        return told is None or told[1] == b"p"

    def listen(self, kinds: tuple[bytes, ...],
               deadline: float | None) -> tuple[bytes, bytes] | None:
        """The next frame of one of these kinds; None when the monitor is gone or the time over."""
        while self.sock >= 0:
            for i, (kind, payload) in enumerate(self.heard):
                if kind in kinds:
                    del self.heard[:i + 1]
                    return kind, payload
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            ready, _, _ = select.select([self.sock], [], [], left)
            if not ready:
                return None
            try:
                data = os.read(self.sock, 1 << 16)
            except ConnectionResetError:
                data = b""
            self.heard += self.reader.feed(data)
            if not data:
                self.close()
        return None

    def wait(self, seconds: float | None) -> int | None:
        """The exit code, or None when the time is over (None: no limit)."""
        deadline = None if seconds is None else time.monotonic() + seconds
        told = self.listen((frames.EXITED,), deadline)
        if told is not None:
            return int(told[1])
        if self.sock >= 0:
            return None
        # No monitor to ask: watch the process itself.
        while True:
            state = self.container.state()
            if not state.running or state.elsewhere:
                return state.code
            if deadline is not None and time.monotonic() >= deadline:
                return None
            time.sleep(0.02)

    def close(self) -> None:
        if self.sock >= 0:
            os.close(self.sock)
            self.sock = -1


def stop(container: Container, *, seconds: int | None, signal: str) -> None:
    """The stop signal, and SIGKILL when it did not end the container in time (-1: never)."""
    state = container.state()
    if state.running:
        ending = Ending(container, state)
        try:
            ending.ask(frames.STAY)
            _end(container, ending, seconds=seconds, signal=signal)
        finally:
            ending.close()
        container.event("stop")


def _end(container: Container, ending: Ending, *, seconds: int | None, signal: str) -> None:
    """By whatever process it has: it may just be started again, and get another."""
    number = signals.number(signal or container.data["stop_signal"] or "TERM")
    given = container.data["stop_timeout"] if seconds is None else seconds
    patience = DEFAULT_STOP_SECONDS if given is None else given
    deadline = None if patience < 0 else time.monotonic() + patience
    last = None if deadline is None else deadline + KILL_SECONDS
    sent = 0, 0
    while True:
        state = container.state()
        if not state.running:
            return
        now = time.monotonic()
        if deadline is not None and now >= deadline:
            number = signals.KILL
            if last is not None and now >= last:
                return
        if sent != (state.pid, number):
            if send_signal(container, state, number):
                container.event("kill", signal=str(number))
            sent = state.pid, number
            if state.cgroup:
                from rootless.container import cgroups

                cgroups.thaw(state)     # one that is paused gets to see it
        until = last if number == signals.KILL else deadline
        left = None if until is None else max(until - now, 0)
        # While it waits to be started again, or is being started, there is no process to signal.
        if ending.wait(left if state.pid else 0.1) is not None:
            return


def restart(container: Container, *, seconds: int | None, signal: str) -> bytes | None:
    """End it and have its monitor start it again; None where it has none that could, else empty,
    or what the monitor told of the failure. Raises Conflict, HostError."""
    state = container.state()
    if not state.running or not state.socket:
        return None
    ending = Ending(container, state)
    try:
        if ending.sock < 0:
            _end(container, ending, seconds=seconds, signal=signal)
            return None
        if ending.ask(frames.AGAIN):
            _end(container, ending, seconds=seconds, signal=signal)
        told = ending.listen((frames.STARTED, frames.FAILED), time.monotonic() + KILL_SECONDS)
        if told is None:
            raise Conflict(f"container {container.name} was not started again: somebody else "
                           "stopped it")
        if told[0] == frames.STARTED:
            container.event("restart")
        return told[1] if told[0] == frames.FAILED else b""
    finally:
        ending.close()


def kill(container: Container, number: int) -> None:
    """Raises Conflict when the container is not running."""
    state = container.state()
    if state.running and _stays(container) and number in (
            signals.KILL, signals.number(container.data["stop_signal"] or "TERM")):
        ending = Ending(container, state)
        ending.ask(frames.STAY)
        ending.close()
        state = container.state()
    if not state.running or not send_signal(container, state, number):
        raise Conflict(f"container {container.name or container.id[:12]} is not running",
                       hint="rootless ps lists those that are")
    container.event("kill", signal=str(number))


def _stays(container: Container) -> bool:
    """Would it be started again, if nobody said that it shall stay ended?"""
    return bool((container.data.get("restart") or ["no"])[0] != "no")


CONDITIONS = ("stopped", "exited", "not-running", "next-exit", "removed", "created", "running",
              "paused", "healthy", "unhealthy")
LOOK_SECONDS = 0.1


def wait(container: Container, condition: str = "stopped") -> int:
    """Block until it is so; the exit code, of one that runs -1. `stopped`, `exited` and
    `not-running` are the same."""
    if condition == "next-exit":
        while not container.state().running:
            if store.load(container.paths, container.id) is None:
                raise NotFound(f"no such container: {container.name}: it was removed meanwhile")
            time.sleep(LOOK_SECONDS)
        return _wait_end(container)
    if condition in ("stopped", "exited", "not-running"):
        return _wait_end(container)
    code = container.state().code
    while store.load(container.paths, container.id) is not None:
        state = container.state()
        code = state.code
        if _is(container, state, condition):
            return -1 if state.running else code
        if condition == "removed" and state.running:
            code = _wait_end(container)
        else:
            time.sleep(LOOK_SECONDS)
    if condition == "removed":
        return code
    raise NotFound(f"no such container: {container.name}: it was removed meanwhile")


def _is(container: Container, state: State, condition: str) -> bool:
    if condition == "paused":
        from rootless.container import cgroups

        return cgroups.paused(state)
    return condition in (state.status, container.health(state))


def _wait_end(container: Container) -> int:
    state = container.state()
    if state.elsewhere:
        raise HostError(f"container {container.name} runs on {state.elsewhere}, not here",
                        hint=f"run this command on {state.elsewhere}")
    if not state.running:
        return state.code
    code = Ending(container, state).wait(None)
    return 0 if code is None else code


def remove(container: Container, *, force: bool, volumes: bool = False,
           seconds: int = 0) -> None:
    """With `volumes`, or where it was made with --rm, its nameless volumes too. Raises Conflict
    for a running container, unless `force`: it is ended first, by SIGKILL or as `stop` does where
    it is given `seconds`."""
    while True:
        state = container.state()
        if state.running:
            if not force:
                raise Conflict(
                    f"cannot remove container {container.name or container.id[:12]}: it is "
                    f"{state.status}", hint=f"rootless stop {container.name} first, or rootless "
                                            f"rm -f {container.name}")
            ending = Ending(container, state)
            try:
                ending.ask(frames.STAY)
                _end(container, ending, seconds=seconds, signal="" if seconds else "KILL")
            finally:
                ending.close()
            if (left := container.state()).running and left.pid == state.pid:
                raise HostError(f"cannot remove container {container.name}: process {state.pid} "
                                "does not end, it waits in the kernel")
        try:
            lock = container.lock()
        except NotFound:
            if force or container.data["rm"]:
                return      # --rm was quicker
            raise
        try:
            # It may have been started again before we had the lock.
            if not container.state().running:
                store.remove(container, volumes=volumes or container.data["rm"])
                return
        finally:
            os.close(lock)
