"""How a monitor makes its container's first process: by a launcher, with pipes or a terminal."""

from __future__ import annotations

import marshal
import os

from rootless.container import frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rootless.network.client import Attachment

    Failure = tuple[str, str, "str | None"]     # kind, message, hint

CHUNK = 1 << 16
SWEEPS = 100        # of processes that fork while they are killed


class Born:
    """A process that becomes the command: our ends of its streams, its cgroup, its networks."""

    def __init__(self, userns: int) -> None:
        """`userns`: descriptor of the user's namespace, ours from now on; -1 for none."""
        self.userns = userns
        self.pid = 0
        self.cgroup = ""        # path of its own
        self.inside = 0         # its mount namespace, where its end leaves processes behind
        self.single = False
        self.outputs: dict[int, bytes] = {}     # descriptor: frame kind
        self.input = -1
        self.master = -1
        self.networks: Attachment | None = None

    def close(self) -> bool:
        """It has ended, and there is nothing left to read or to write to. Did the kernel kill in it
        for want of memory?"""
        for fd in {*self.outputs, self.input} - {-1}:
            os.close(fd)
        self.outputs.clear()
        self.input = self.master = -1
        self.pid = 0
        if self.networks is not None:
            self.networks.release()
            self.networks = None
        oom = self.oom()
        if self.cgroup:
            from rootless.cgroup import tree

            tree.clear(tree.directory(self.cgroup), self.userns)
            self.cgroup = ""
        if self.inside:
            _end_scattered(self.inside, self.userns, single=self.single)
            self.inside = 0
        if self.userns >= 0:
            os.close(self.userns)
            self.userns = -1
        return oom

    def oom(self) -> bool:
        """Has the kernel killed in it for want of memory?"""
        if not self.cgroup:
            return False
        from rootless.cgroup import tree

        return tree.oom_kills(tree.directory(self.cgroup)) > 0

    def find_cgroup(self) -> None:
        from rootless.cgroup import tree

        found = tree.of_process(self.pid)
        if found:
            self.cgroup = found if found != tree.of_process("self") else ""


def _end_scattered(inside: int, userns: int, *, single: bool) -> None:
    """Kill what is left in a mount namespace: the pid namespace is not the container's own, whose
    end would do it. Only root of the user's namespace sees and reaches those of other ids."""
    child = os.fork()
    if child == 0:
        try:
            from rootless import linux
            from rootless.userns import keeper

            linux.setns(userns, linux.CLONE_NEWUSER)
            keeper.become_root(single=single)
            for _ in range(SWEEPS):
                if not _kill_all(inside):
                    break
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def _kill_all(inside: int) -> bool:
    """Was there any?"""
    found = False
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}/ns/mnt").st_ino == inside:
                    os.kill(int(name), 9)
                    found = True
            except OSError:
                continue        # gone, or none of ours
    return found


def bear(born: Born, plan: dict[str, Any], shared: list[int],
         record: Callable[[], Failure | None]) -> Failure | None:
    """`shared`: a pidfd, where it is in namespaces of another container; it is closed. `record`
    writes down that a process is about to become the command; unless it can, there is none."""
    born.cgroup = str(plan["start"]["cgroup"]["path"])
    status_r, status_w = os.pipe()
    ready_r, ready_w = os.pipe()
    tty_ours, tty_theirs = frames.pair() if plan["tty"] else (-1, -1)
    net_ours, net_theirs = frames.pair() if plan["networks"] else (-1, -1)
    joined_r, joined_w = os.pipe() if plan["networks"] else (-1, -1)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    stdio = [null, null, null]
    if not plan["tty"]:
        if plan["stdin"]:
            stdio[0], born.input = os.pipe()
        for n, kind in ((1, frames.OUT), (2, frames.ERR)):
            r, stdio[n] = os.pipe()
            born.outputs[r] = kind
    launcher = os.fork()
    if launcher == 0:
        try:
            # The reading end is the monitor's alone: that is how the first process learns
            # of the monitor's death (process.run).
            os.close(status_r)
            for n in (0, 1, 2):
                os.dup2(stdio[n], n)
            from rootless.runtime import launch

            if joined_w >= 0:
                os.close(joined_w)
            launch.launch(plan["start"], born.userns, status_w, ready_w, tty_theirs,
                          (net_theirs, joined_r) if plan["networks"] else None, shared)
        finally:
            os._exit(1)
    for fd in {status_w, ready_w, tty_theirs, net_theirs, joined_r, *stdio, *shared}:
        if fd >= 0:
            os.close(fd)
    told = os.read(ready_r, 32)
    os.close(ready_r)
    unrecorded = None
    if told:
        pid, inside = told.split()
        born.pid, born.inside = int(pid), int(inside)
        born.single = bool(plan["start"]["single"])
        if plan["start"]["cgroup"]["how"]:
            born.find_cgroup()
        unrecorded = record()
        if unrecorded:
            # A container that nobody can see or stop must not run.
            os.kill(born.pid, 9)
        if plan["tty"]:
            _take_master(born, tty_ours)
    unjoined = _join(born, plan, net_ours, joined_w) if plan["networks"] else None
    problem = b""
    while True:
        part = os.read(status_r, CHUNK)
        if not part:
            break
        problem += part
    os.close(status_r)
    os.waitpid(launcher, 0)
    failure: Failure
    if unrecorded:
        failure = unrecorded
    elif problem:
        failure = marshal.loads(problem)
    elif unjoined:
        failure = unjoined
    elif not told:
        failure = ("StartError", "the process that starts the container was killed", None)
    else:
        return None
    if told:
        os.waitpid(born.pid, 0)
    return failure


def _join(born: Born, plan: dict[str, Any], sock: int, joined: int) -> Failure | None:
    """Have the container joined to its networks."""
    _, fds = frames.receive_with_fds(sock, 1)
    os.close(sock)
    from rootless.errors import HostError, RootlessError, os_reason
    from rootless.network.client import Attachment

    failure: RootlessError | None = None
    try:
        if fds:
            born.networks = Attachment(
                plan["run"], plan["store"],
                {"id": plan["id"], "dir": plan["dir"], "pid": born.pid,
                 "single": plan["start"]["single"]}, [fds[0], os.dup(born.userns)])
            born.networks.renew()
            os.write(joined, b"n")
    except RootlessError as e:
        failure = e
    except OSError as e:
        failure = HostError(f"cannot join the container's networks: {os_reason(e)}")
    finally:
        os.close(joined)
    if failure is None:
        return None
    return type(failure).__name__, failure.message, failure.hint


def _take_master(born: Born, sock: int) -> None:
    _, fds = frames.receive_with_fds(sock, 1)
    os.close(sock)
    if fds:
        born.master = fds[0]
        born.outputs[born.master] = frames.OUT
        born.input = born.master
