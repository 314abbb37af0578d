"""The monitor's first moments: forked before the command has imported anything."""

from __future__ import annotations

import os

from rootless.container import frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def fork_early() -> int:
    """Fork a monitor while this process is still small; returns the socket to it.

    It loads its own modules while the command loads others, waits for a plan, and ends without a
    trace when the socket closes before one comes.
    """
    ours, theirs = frames.pair()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ours)
            _stand_alone(theirs)
            _be_monitor(theirs)
        finally:
            os._exit(1)
    os.close(theirs)
    return ours


def _stand_alone(keep: int) -> None:
    """Leave the command's session, terminal, directory and descriptors."""
    from _signal import SIG_IGN, SIGTERM, signal

    os.setsid()
    os.chdir("/")
    # Asked of all processes of its scope by systemd: it has the container's end to write down.
    signal(SIGTERM, SIG_IGN)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        if fd != keep:
            os.dup2(null, fd)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != keep:
            try:
                os.close(int(name))
            except OSError:
                pass        # the descriptor of the listing itself


def _be_monitor(sock: int) -> NoReturn:
    from rootless.container.clients import Client
    from rootless.container.monitor import Monitor

    reader = frames.Reader()
    plan, fds = frames.receive_plan(sock, reader)
    if plan is not None:
        userns, lock, *shared = fds
        Monitor(plan, userns, lock, shared, Client(sock, reader)).live()
    os._exit(0)
