"""A further process in a running container.

The command forks a child that joins all the container's namespaces by the first process's pidfd
(setns(2), Linux 5.8), forks once more to be inside the pid namespace, and execs. Standard streams
go through pipes or a terminal of the container's own devpts, never by handing the caller's
terminal in: a process could read what is typed there.
"""

from __future__ import annotations

import os

from rootless import linux
from rootless.container import cgroups, frames
from rootless.container.store import Container
from rootless.errors import Conflict, HostError, RootlessError, StartError, os_reason
from rootless.runtime import init, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn


class Exec:
    """A started process: its streams, and its end."""

    def __init__(self, waiter: int, stdin: int, outputs: dict[int, int], master: int) -> None:
        """`outputs`: descriptor to ours (1 or 2). `waiter`: the process that waits for it."""
        self.waiter = waiter
        self.stdin = stdin
        self.outputs = outputs
        self.master = master

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.waiter, 0)[1])


def start(container: Container, plan: dict[str, Any], namespaces: int, *, tty: bool, stdin: bool,
          detach: bool) -> Exec:
    """Run `plan` (see rootless.runtime.plan.process) in the container, whose own `namespaces`
    (CLONE_NEW*) are joined.

    Raises Conflict when it is not running, StartError, CommandNotFound, CommandNotExecutable.
    """
    pidfd, _ = entrance(container)
    state = container.state()
    if cgroups.paused(state):
        raise Conflict(f"container {container.name} is paused",
                       hint=f"rootless unpause {container.name}")
    status_r, status_w = os.pipe()
    tty_ours, tty_theirs = frames.pair() if tty else (-1, -1)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    stdio, ours = [null, null, null], -1
    outputs: dict[int, int] = {}
    if not tty and not detach:
        if stdin:
            stdio[0], ours = os.pipe()
        for n in (1, 2):
            r, stdio[n] = os.pipe()
            outputs[r] = n
    child = os.fork()
    if child == 0:
        try:
            os.close(status_r)      # only ours tells that we live (process.run)
            if detach:
                os.setsid()
            for n in (0, 1, 2):
                os.dup2(stdio[n], n)
            door = cgroups.Door(container.paths, state.cgroup) if state.cgroup else None
            _join(plan, pidfd, namespaces, status_w, tty_theirs, door)
        except RootlessError as e:
            process.report(status_w, e)
        except OSError as e:
            process.report(status_w, StartError(f"cannot enter the container: {os_reason(e)}"))
        finally:
            process.give_up(status_w)
    for fd in {status_w, tty_theirs, pidfd, *stdio}:
        if fd >= 0:
            os.close(fd)
    master = process.receive_fd(tty_ours) if tty else -1
    if tty:
        os.close(tty_ours)
    problem = b""
    while True:
        part = os.read(status_r, 1 << 16)
        if not part:
            break
        problem += part
    os.close(status_r)
    if problem:
        os.waitpid(child, 0)
        from rootless.container.start import failure

        raise failure(problem)
    if master >= 0:
        outputs[master] = 1
    return Exec(child, ours, outputs, master)


def entrance(container: Container) -> tuple[int, int]:
    """A process whose namespaces can be joined, by pidfd and pid. Raises Conflict when the
    container is not running, HostError when it runs elsewhere."""
    state = container.state()
    if state.elsewhere:
        raise HostError(f"container {container.name} runs on {state.elsewhere}, not here",
                        hint=f"run this command on {state.elsewhere}")
    if not state.pid:
        raise Conflict(f"container {container.name or container.id[:12]} is not running",
                       hint=f"rootless start {container.name}")
    try:
        pidfd = os.pidfd_open(state.pid)
    except ProcessLookupError:
        raise Conflict(f"container {container.name} has just ended") from None
    if container.state().pid != state.pid:
        os.close(pidfd)
        raise Conflict(f"container {container.name} has just ended")
    if not container.config()["annotations"]["org.rootless.init"]:
        return pidfd, state.pid
    os.close(pidfd)
    return _below_init(container, state.pid)


def _below_init(container: Container, init_pid: int) -> tuple[int, int]:
    """The command below --init, which is in the same namespaces.

    The init itself is closed to everybody (PR_SET_DUMPABLE 0), and so are its namespaces.
    """
    try:
        with open(f"/proc/{init_pid}/task/{init_pid}/children", "rb") as f:
            first = int(f.read().split()[0])
        pidfd = os.pidfd_open(first)
        with open(f"/proc/{first}/stat", "rb") as f:
            parent = int(f.read().rpartition(b")")[2].split()[1])
        if parent == init_pid:
            return pidfd, first
    except (OSError, IndexError):
        pass
    raise Conflict(f"container {container.name} has just ended")


def _join(plan: dict[str, Any], pidfd: int, namespaces: int, status: int, tty: int,
          door: cgroups.Door | None) -> NoReturn:
    """Enter, fork into the pid namespace, pass the exit code up.

    Only the process itself goes into the container's cgroup: it waits until it is there.
    """
    process.oom_score(plan)
    process.preload(plan)
    # Before the first step inside: the container's processes must not trace or open us.
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    linux.setns(pidfd, namespaces | linux.CLONE_NEWUSER)
    os.close(pidfd)
    process.become_mapped_root(single=plan["single"])
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    if plan["die_with_parent"]:
        linux.prctl(linux.PR_SET_PDEATHSIG, 9)
    go_r, go_w = os.pipe()
    inner = os.fork()
    if inner:
        if door is not None:
            door.bring(inner)
        os.write(go_w, b"g")
        # All: the other ends of the pipes too, which would keep the process from ever seeing
        # the end of its input, or that nobody reads its output.
        linux.close_range(0)
        code = os.waitpid(inner, 0)[1]
        os._exit(os.WEXITSTATUS(code) if os.WIFEXITED(code) else 128 + os.WTERMSIG(code))
    try:
        os.close(go_w)
        if os.read(go_r, 1) != b"g":
            os._exit(1)
        os.setsid()
        os.umask(0o022)
        try:
            linux.join_session_keyring()
        except OSError:
            pass        # as at the container's start: no keyrings, or the quota is used up
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        slave = init.open_terminal(root, tty, plan, console=False) if tty >= 0 else -1
        os.close(root)
        process.run(plan, status, slave)
    except RootlessError as e:
        process.report(status, e)
    except OSError as e:
        process.report(status, StartError(f"cannot run in the container: {os_reason(e)}"))
    finally:
        process.give_up(status)


