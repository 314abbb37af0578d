"""`--init`: the first process stays, passes signals on and reaps whatever is orphaned.

What docker does with tini. The interpreter is already in memory, so no binary has to be brought
into the container; PR_SET_DUMPABLE 0, set before, keeps its memory and file out of reach.
"""

from __future__ import annotations

import os
from _signal import SIG_BLOCK, SIG_SETMASK, pthread_sigmask, sigwait

from rootless import linux

_CHLD = 17
_TTOU = 22
# Job control of the terminal reaches the child, which has a process group of its own, directly.
_PASSED = [n for n in range(1, 32) if n not in (4, 5, 7, 8, 9, 11, 17, 19, 20, 21, 22)]


def start() -> None:
    """Fork; returns in the child, which goes on to exec. The parent never returns."""
    # TTOU: the child may not yet be in the foreground when it takes the terminal.
    pthread_sigmask(SIG_BLOCK, [*_PASSED, _CHLD, _TTOU])
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        try:
            os.tcsetpgrp(0, os.getpid())
        except OSError:
            pass        # no terminal
        pthread_sigmask(SIG_SETMASK, [])
        return
    linux.set_name("init")
    # What was typed outside, secrets in it, is not the container's to read.
    linux.set_command_line("init")
    os.close(3)         # the status pipe: only the child's exec closes it otherwise
    code = -1
    try:
        while code < 0:
            number = sigwait([*_PASSED, _CHLD])
            if number == _CHLD:
                code = _reap(child)
                continue
            try:
                os.kill(child, number)
            except ProcessLookupError:
                pass
    finally:
        os._exit(code if code >= 0 else 1)


def _reap(child: int) -> int:
    """The child's exit code once it has ended, else -1."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return -1
        if pid == 0:
            return -1
        if pid == child:
            if os.WIFSIGNALED(status):
                return 128 + os.WTERMSIG(status)
            return os.WEXITSTATUS(status)
