"""Which ids may this user hand out? subuid(5), subgid(5), or NSS through getsubids(1)."""

from __future__ import annotations

import os

from rootless.record import record

FULL = 4294967295
# For root without a range of its own: above what systemd-nspawn allocates (524288-1879048191).
ROOT_RANGE = (0x70000000, 65536)


@record(frozen=True)
class Extent:
    """One line of uid_map: `count` ids from `inside` are `outside` and up in the parent."""

    inside: int
    outside: int
    count: int

    def line(self) -> str:
        return f"{self.inside} {self.outside} {self.count}"


def ranges(path: str, name: str, uid: int) -> list[tuple[int, int]]:
    """(start, count) lines of `path` for the user, by name or by number, in file order.

    Malformed lines are passed over, as newuidmap does.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            lines = f.read().splitlines()
    except OSError:
        return []
    found: list[tuple[int, int]] = []
    for line in lines:
        parts = line.strip().split(":")
        if len(parts) == 3 and parts[0] in (name, str(uid)) \
                and parts[1].isdigit() and parts[2].isdigit() and int(parts[2]) > 0:
            entry = (int(parts[1]), int(parts[2]))
            if entry not in found:
                found.append(entry)
    return found


def nss_ranges(name: str, *, groups: bool) -> list[tuple[int, int]]:
    """What getsubids(1) answers: the ranges that sssd, FreeIPA or AD keep (shadow >= 4.9)."""
    program = find_program("getsubids")
    if program is None:
        return []
    r, w = os.pipe()
    argv = [program, "-g", name] if groups else [program, name]
    pid = os.posix_spawn(program, argv, {"PATH": SEARCH}, file_actions=[
        (os.POSIX_SPAWN_DUP2, w, 1), (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0)])
    os.close(w)
    with os.fdopen(r, encoding="utf-8", errors="replace") as f:
        answer = f.read()
    os.waitpid(pid, 0)
    found = []
    for line in answer.splitlines():
        words = line.split()            # "0: alice 100000 65536"
        if len(words) >= 4 and words[-1].isdigit() and words[-2].isdigit():
            found.append((int(words[-2]), int(words[-1])))
    return found


SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def find_program(name: str, path: str = SEARCH) -> str | None:
    for directory in path.split(":"):
        candidate = f"{directory}/{name}"
        if directory and os.access(candidate, os.X_OK):
            return candidate
    return None


def own_extents(kind: str) -> list[Extent]:
    """The ids that exist in the namespace we stand in; `kind` is "uid" or "gid"."""
    with open(f"/proc/self/{kind}_map", encoding="ascii") as f:
        return [Extent(*map(int, line.split())) for line in f]


def extents_for(own_id: int, granted: list[tuple[int, int]]) -> list[Extent]:
    """Container root is the user; ids from 1 up are the granted ranges, one after the other."""
    extents = [Extent(0, own_id, 1)]
    inside = 1
    for start, count in granted:
        extents.append(Extent(inside, start, count))
        inside += count
    return extents


def extents_for_root(granted: list[tuple[int, int]], available: list[Extent]) -> list[Extent]:
    """Root's containers use none of root's own ids, except where 0 is the only one that exists."""
    def exists(start: int, count: int) -> bool:
        return any(e.inside <= start and start + count <= e.inside + e.count for e in available)

    for start, count in [*granted, ROOT_RANGE]:
        if exists(start, count):
            return [Extent(0, start, count)]
    best = (0, 0)
    for e in available:
        start = max(e.inside, 1)
        best = max(best, (e.inside + e.count - start, start))
    if best[0] > 0:
        return [Extent(0, best[1], min(best[0], 65536))]
    return [Extent(0, 0, 1)]
