"""Subordinate ids that nobody has yet, and giving them to somebody."""

from __future__ import annotations

import os

from rootless.errors import HostError, os_reason
from rootless.userns import subid

COUNT = 65536
FIRST = 100000              # SUB_UID_MIN of login.defs(5) as every distribution ships it
LAST = 4294967295           # (uid_t) -1 is no id


def free(root: str = "") -> int:
    """Start of the lowest range of which subuid, subgid, passwd and group name no id."""
    taken = [subid.ROOT_RANGE]
    for name in ("subuid", "subgid"):
        taken += [(int(start), int(count)) for _, start, count in _lines(f"{root}/etc/{name}", 3)
                  if start.isdigit() and count.isdigit()]
    for name, fields in (("passwd", 7), ("group", 4)):
        taken += [(int(line[2]), 1) for line in _lines(f"{root}/etc/{name}", fields)
                  if line[2].isdigit()]
    start = FIRST
    for first, count in sorted(taken):
        if first < start + COUNT and first + count > start:
            start = first + count
    if start + COUNT > LAST:
        raise HostError("there is no free range of 65536 subordinate ids",
                        hint="remove lines of users who are gone from /etc/subuid and /etc/subgid")
    return start


def _lines(path: str, fields: int) -> list[list[str]]:
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return [parts for line in f if len(parts := line.strip().split(":")) == fields]
    except OSError:
        return []


def command(user: str, start: int) -> str:
    span = f"{start}-{start + COUNT - 1}"
    return f"usermod --add-subuids {span} --add-subgids {span} {user}"


def grant(user: str) -> str:
    """Give `user` a range in the files where it has none, and say which. For root."""
    import pwd

    uid = pwd.getpwnam(user).pw_uid
    missing = [kind for kind in ("uid", "gid") if not subid.ranges(f"/etc/sub{kind}", user, uid)]
    if not missing:
        return "has subordinate ids already"
    start = free()
    span = f"{start}-{start + COUNT - 1}"
    program = subid.find_program("usermod")
    if program is not None:
        argv = ["usermod", *(w for kind in missing for w in (f"--add-sub{kind}s", span)), user]
        status = os.waitpid(os.posix_spawn(program, argv, {"PATH": subid.SEARCH}), 0)[1]
        if status != 0:
            raise HostError(f"usermod gave {user} no subordinate ids")
    else:
        # Busybox systems have no usermod; one write of a whole line is all it would do.
        for kind in missing:
            path = f"/etc/sub{kind}"
            try:
                fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
                os.write(fd, f"{user}:{start}:{COUNT}\n".encode())
                os.close(fd)
            except OSError as e:
                raise HostError(f"cannot write {path}: {os_reason(e)}") from None
    return f"has the subordinate ids {span} now"
