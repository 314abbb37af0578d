"""Who has a port of this machine, for an error that says so (proc(5), /proc/net/tcp)."""

from __future__ import annotations

import os

from rootless.files import read_bytes

LISTEN = "0A"


def of_port(port: int, proto: str, proc: str = "/proc") -> str:
    """`python3 (process 77)`, `a process of root`, or "" when nobody is found.

    Of other users' processes the kernel tells the owner only.
    """
    for table in (proto, proto + "6"):
        for inode, uid in _sockets(f"{proc}/net/{table}", port, proto):
            return _process(proc, inode) or f"a process of {_user(uid)}"
    return ""


def _sockets(path: str, port: int, proto: str) -> list[tuple[str, int]]:
    """(inode, owner) of the sockets that have a port."""
    try:
        lines = read_bytes(path).decode().splitlines()[1:]
    except OSError:
        return []       # without IPv6 there is none
    found = []
    for line in lines:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) == port and (proto == "udp"
                                                             or fields[3] == LISTEN):
            found.append((fields[9], int(fields[7])))
    return found


def _process(proc: str, inode: str) -> str:
    wanted = f"socket:[{inode}]"
    for pid in filter(str.isdigit, os.listdir(proc)):
        try:
            held = any(os.readlink(f"{proc}/{pid}/fd/{fd}") == wanted
                       for fd in os.listdir(f"{proc}/{pid}/fd"))
            if held:
                name = read_bytes(f"{proc}/{pid}/comm").decode("utf-8", "replace").strip()
                return f"{name} (process {pid})"
        except OSError:
            continue    # another's, or ended
    return ""


def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
