"""What a test session leaves behind, found without asking the engine.

The test process becomes the subreaper of everything it starts: whoever is orphaned, a monitor or
a keeper, becomes its child, so nothing can hide by daemonising. As an init does, it buries those
that have ended: a zombie in a pid namespace keeps the namespace's first process from ending.
"""

from __future__ import annotations

import ctypes
import gc
import os
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    threading.Thread(target=_bury, daemon=True).start()


def _bury() -> None:
    """Reap zombies that nobody here waits for: dead at two looks, and of no Popen."""
    before: set[int] = set()
    while True:
        time.sleep(0.2)
        dead = {pid for pid, parent, state, _ in processes()
                if parent == os.getpid() and state == "Z"}
        if forgotten := dead & before:
            forgotten -= {p.pid for p in gc.get_objects() if isinstance(p, subprocess.Popen)}
        for pid in forgotten:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass
        before = dead


def processes() -> Iterator[tuple[int, int, str, str]]:
    """(pid, parent, state, name) of all that can be seen."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            text = Path(f"/proc/{name}/stat").read_text(errors="replace")
        except OSError:
            continue
        head, _, tail = text.rpartition(")")
        fields = tail.split()
        yield int(name), int(fields[1]), fields[0], head.partition("(")[2]


def descendants(top: int | None = None) -> dict[int, str]:
    """pid: command line of every living process below `top` or this one. Zombies are no
    processes."""
    top = top or os.getpid()
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for pid, parent, state, name in processes():
        parents[pid] = parent
        if state not in "ZX":
            names[pid] = name
    mine = {}
    for pid, name in names.items():
        above = pid
        while above > 1 and above != top:
            above = parents.get(above, 0)
        if above == top and pid != above:
            mine[pid] = command_line(pid) or name
    return mine


def command_line(pid: int) -> str:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return raw.replace(b"\0", b" ").decode(errors="replace").strip()


def alive(pid: int) -> bool:
    """Running, not merely unreaped."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def mounts() -> set[str]:
    return {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}


def strays(*, alone: bool = False) -> set[str]:
    """Files directly in the shared temporary places that this user or its ids own.

    Where the user is not the tests' own, others may write there as well: only our names count.
    """
    alone = alone or os.environ.get("ROOTLESS_TESTS_ALONE") == "1"
    owners = {os.getuid(), *_subordinate()}
    found = set()
    places = ["/tmp", "/var/tmp", "/dev/shm", f"/run/user/{os.getuid()}", os.path.expanduser("~")]
    for place in places:
        try:
            entries = list(os.scandir(place))
        except OSError:
            continue
        for entry in entries:
            try:
                st = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if entry.path == f"/run/user/{os.getuid()}/rootless":
                continue        # the run directory of commands without XDG_RUNTIME_DIR
            if entry.name.startswith("libpod_rootless_lock_") or entry.name == ".local":
                continue        # podman keeps its locks there, whatever its home; and its cache
            if st.st_uid in owners and (alone or "rootless" in entry.name):
                kind = "/" if stat.S_ISDIR(st.st_mode) else ""
                found.add(entry.path + kind)
    return found


def _subordinate() -> set[int]:
    import pwd

    me = pwd.getpwuid(os.getuid()).pw_name
    ids: set[int] = set()
    try:
        lines = Path("/etc/subuid").read_text().splitlines()
    except OSError:
        return ids
    for line in lines:
        name, _, rest = line.partition(":")
        first, _, count = rest.partition(":")
        if name in (me, str(os.getuid())) and first.isdigit() and count.isdigit():
            ids.update(range(int(first), int(first) + int(count)))
    return ids
