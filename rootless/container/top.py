"""The processes of a container, as the machine's own ps shows them."""

from __future__ import annotations

import os

from rootless.container import exec as entering
from rootless.container.store import Container
from rootless.errors import Conflict, HostError, UsageError
from rootless.userns import keeper
from rootless.userns.subid import find_program


def pids(container: Container) -> set[int]:
    """Those in its mount namespace, which is always its own, and in its pid namespace where that
    is. Raises Conflict when it is not running, HostError.

    Only root of the user's namespace may look at those of other ids.
    """
    pidfd, first = entering.entrance(container)
    os.close(pidfd)
    shared = container.data.get("pid", "")
    userns = keeper.open_userns(container.paths)
    r, w = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(r)
            keeper.enter(userns)
            found = _with(first, ("mnt",) if shared else ("mnt", "pid"))
            os.write(w, " ".join(map(str, found)).encode())
        finally:
            os._exit(0)
    os.close(w)
    os.close(userns.fd)
    with os.fdopen(r, "rb") as f:
        text = f.read()
    os.waitpid(child, 0)
    if not text:
        raise Conflict(f"container {container.name} has just ended")
    return {int(word) for word in text.split()}


def _with(first: int, kinds: tuple[str, ...]) -> list[int]:
    wanted = {(kind, _namespace(first, kind)) for kind in kinds}
    return [int(name) for name in os.listdir("/proc") if name.isdigit()
            and any(inode and (kind, inode) in wanted
                    for kind in kinds for inode in (_namespace(int(name), kind),))]


def _namespace(pid: int, kind: str) -> int:
    """Its inode; 0 of a process that is gone, or none of ours."""
    try:
        return os.stat(f"/proc/{pid}/ns/{kind}").st_ino
    except OSError:
        return 0


def table(container: Container, options: list[str]) -> list[list[str]]:
    """The heading and a row for each process. Raises UsageError where there is no PID."""
    program = find_program("ps")
    if program is None:
        raise HostError("cannot list processes: ps is not installed",
                        hint="ask the administrator to run: apt-get install procps")
    found = pids(container)
    words = options or ["-ef"]
    # Some options, as f, cannot be had with a list of pids: then ps shows all, and we choose.
    lines, complaint = _ps(program, [*words, "-q" + ",".join(map(str, sorted(found)))])
    if not lines:
        lines, complaint = _ps(program, words)
    if not lines:
        raise UsageError(f"ps: {complaint}", hint="options of ps, as -o pid,user,args")
    return rows(lines, found)


def _ps(program: str, words: list[str]) -> tuple[list[str], str]:
    """(what it printed, what it complained of); nothing where it failed."""
    out_r, out_w = os.pipe()
    err_r, err_w = os.pipe()
    child = os.posix_spawn(program, ["ps", *words], os.environ, file_actions=[
        (os.POSIX_SPAWN_DUP2, out_w, 1), (os.POSIX_SPAWN_DUP2, err_w, 2)])
    os.close(out_w)
    os.close(err_w)
    with os.fdopen(out_r, encoding="utf-8", errors="replace") as f:
        lines = f.read().splitlines()
    with os.fdopen(err_r, encoding="utf-8", errors="replace") as f:
        complaint = next((line for line in f.read().splitlines() if line.strip()), "")
    status = os.waitpid(child, 0)[1]
    return ([] if status else lines), complaint.partition("error: ")[2] or complaint


def rows(lines: list[str], pids: set[int]) -> list[list[str]]:
    """Cells of what ps printed, of these processes. The last column may hold blanks."""
    heading = lines[0].split() if lines else []
    if "PID" not in heading:
        raise UsageError("cannot tell which of the processes are the container's: ps printed no "
                         "column PID", hint="-o pid,user,args")
    at, last = heading.index("PID"), len(heading) - 1
    out = [heading]
    for line in lines[1:]:
        cells = line.split(None, last)
        if len(cells) > at and cells[at].isdigit() and int(cells[at]) in pids:
            out.append(cells)
    return out
