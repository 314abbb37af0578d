"""`state.json`: what the monitor says of its container, for `container.store` to read.

Written by rename, so a reader sees the old or the new. While the container runs the file has room
to spare: on a full disk its end is still written down, in place.
"""

from __future__ import annotations

import os

from rootless.clock import now
from rootless.quoted import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# Bytes of the file while the container runs.
ROOM = 1024


def start_ticks(pid: int) -> str:
    """Field 22 of /proc/PID/stat: with the boot id it names a process for ever."""
    with open(f"/proc/{pid}/stat", "rb") as f:
        text = f.read()
    return text[text.rindex(b")") + 2:].split()[19].decode()


def _word(value: bool) -> str:
    return "true" if value else "false"


def write_alive(plan: dict[str, Any], status: str, pid: int, started: str, *, cgroup: str,
                code: int, restarts: int) -> None:
    """`status`: starting, running or restarting, with the `code` of the last end. `pid`: 0 while
    it waits to be started again. `cgroup`: path of its own, or "". Raises OSError."""
    ticks = start_ticks(pid) if pid else ""
    text = (f'{{"status":"{status}","pid":{pid},"ticks":"{ticks}","restarts":{restarts},'
            f'"code":{code},"finished":"{now() if status == "restarting" else ""}",'
            f'"monitor":{os.getpid()},"monitor_ticks":"{start_ticks(os.getpid())}",'
            f'"boot":{quote(plan["boot"])},"host":{quote(plan["host"])},'
            f'"socket":{quote(plan["socket"])},"cgroup":{quote(cgroup)},'
            f'"started":"{started}"}}')
    # Longer than what may have to be written over it.
    replace(plan["dir"], "state.json", text.ljust(ROOM))


def write_end(plan: dict[str, Any], code: int, started: str, error: str, *, oom: bool,
              restarts: int, stopped: bool) -> None:
    """As far as the disk allows. `oom`: the kernel killed in it for want of memory. `stopped`: on
    purpose."""
    text = (f'{{"status":"exited","code":{code},"started":"{started}",'
            f'"finished":"{now()}","oom":{_word(oom)},"error":{quote(error)},'
            f'"restarts":{restarts},"stopped":{_word(stopped)}}}')
    try:
        replace(plan["dir"], "state.json", text)
    except OSError:
        # The disk is full: in place of the old one there is room. One write within a page
        # is seen whole or not at all.
        try:
            fd = os.open(plan["dir"] + "/state.json", os.O_WRONLY | os.O_CLOEXEC)
            try:
                size = os.fstat(fd).st_size
                if len(text) <= size <= ROOM:
                    os.pwrite(fd, text.encode("utf-8", "surrogateescape").ljust(size), 0)
            finally:
                os.close(fd)
        except OSError:
            pass        # the directory was removed under us


def replace(directory: str, name: str, text: str) -> None:
    """Write a file as a whole. Raises OSError."""
    temporary = f"{directory}/.{name}.{os.getpid()}"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            data = text.encode("utf-8", "surrogateescape")
            if os.write(fd, data) < len(data):
                raise OSError(28, os.strerror(28))      # ENOSPC
        finally:
            os.close(fd)
        os.rename(temporary, f"{directory}/{name}")
    except OSError:
        try:
            os.unlink(temporary)
        except OSError:
            pass
        raise
