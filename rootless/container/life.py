"""Signal, stop, wait for and remove containers."""

from __future__ import annotations

import os
import select
import time

from rootless import linux
from rootless.container import frames, signals, store
from rootless.container.store import Container, State
from rootless.errors import Conflict, HostError, NotFound, os_reason

DEFAULT_STOP_SECONDS = 10


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


class Ending:
    """Waits for the end of a running container as its monitor tells it: after the record is on
    disk, or with --rm after the container has left the store."""

    def __init__(self, container: Container, state: State) -> None:
        self.container = container
        self.state = state
        self.sock = -1
        self.reader = frames.Reader()
        if state.socket:
            try:
                self.sock = frames.connect(state.socket)
                frames.send(self.sock, frames.frame(frames.QUIET))
            except OSError:
                pass

    def wait(self, seconds: float | None) -> int | None:
        """The exit code, or None when the time is over (None: no limit)."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while self.sock >= 0:
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            ready, _, _ = select.select([self.sock], [], [], left)
            if not ready:
                return None
            try:
                data = os.read(self.sock, 1 << 16)
            except ConnectionResetError:
                data = b""
            for kind, payload in self.reader.feed(data):
                if kind == frames.EXITED:
                    self.close()
                    return int(payload)
            if not data:
                self.close()
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
    if not state.running:
        return
    name = signal or container.data["stop_signal"] or "TERM"
    given = container.data["stop_timeout"] if seconds is None else seconds
    patience = DEFAULT_STOP_SECONDS if given is None else given
    ending = Ending(container, state)
    try:
        if not send_signal(container, state, signals.number(name)):
            ending.wait(5)
            return
        if state.cgroup:
            from rootless.container import cgroups

            cgroups.thaw(state)     # one that is paused gets to see it
        if ending.wait(None if patience < 0 else patience) is None:
            send_signal(container, container.state(), signals.KILL)
            ending.wait(30)
    finally:
        ending.close()


def kill(container: Container, number: int) -> None:
    """Raises Conflict when the container is not running."""
    state = container.state()
    if not state.running or not send_signal(container, state, number):
        raise Conflict(f"container {container.name or container.id[:12]} is not running",
                       hint="rootless ps lists those that are")


def wait(container: Container) -> int:
    """Block until it is not running; its exit code."""
    state = container.state()
    if state.elsewhere:
        raise HostError(f"container {container.name} runs on {state.elsewhere}, not here",
                        hint=f"run this command on {state.elsewhere}")
    if not state.running:
        return state.code
    code = Ending(container, state).wait(None)
    return 0 if code is None else code


def remove(container: Container, *, force: bool, volumes: bool = False) -> None:
    """With `volumes`, or where it was made with --rm, its nameless volumes too. Raises Conflict
    for a running container, unless `force`: it is killed first."""
    while True:
        state = container.state()
        if state.running:
            if not force:
                raise Conflict(
                    f"cannot remove container {container.name or container.id[:12]}: it is "
                    "running", hint=f"rootless stop {container.name} first, or rootless rm -f "
                                    f"{container.name}")
            ending = Ending(container, state)
            send_signal(container, state, signals.KILL)
            ended = ending.wait(30)
            ending.close()
            if ended is None:
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
