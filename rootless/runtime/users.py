"""`--user` and an image's USER, looked up in the container's own passwd(5) and group(5).

Read inside the container's root by its own root, with a bound on size; a device or pipe in their
place is not waited for.
"""

from __future__ import annotations

import os

from rootless.errors import StartError
from rootless.record import record

LIMIT = 16 << 20


@record(frozen=True)
class User:
    uid: int
    gid: int
    groups: list[int]
    home: str


def resolve(text: str, extra: list[str], root: str = "") -> User:
    """`text`: "", user, uid, user:group, uid:gid and mixtures; `extra`: of --group-add.

    Rules are docker's: a number needs no entry; a name must have one; without a group the one of
    the entry and its supplementary groups are taken. Raises StartError.
    """
    user, _, group = text.partition(":")
    user = user or "0"
    passwd = _table(root + "/etc/passwd")
    groups = _table(root + "/etc/group")
    entry = next((p for p in passwd if len(p) > 5 and p[0] == user), None)
    if entry is None and user.isdigit():
        entry = next((p for p in passwd if len(p) > 5 and p[2] == user), None)
    if entry is None and not user.isdigit():
        raise StartError(f"unable to find user {user}: no matching entries in the container's "
                         "/etc/passwd", hint="give a number, which needs no entry")
    uid = _number(entry[2] if entry else user, f"user {user}")
    home = (entry[5] if entry else "") or "/"
    supplementary: list[int] = []
    if group:
        gid = _group(group, groups)
    else:
        gid = _number(entry[3], f"the group of user {user}") if entry else 0
        if entry:
            supplementary = [int(g[2]) for g in groups
                             if len(g) > 3 and g[2].isdigit() and entry[0] in g[3].split(",")]
    supplementary += [_group(name, groups) for name in extra]
    return User(uid, gid, sorted({*supplementary} - {gid}), home)


def _group(name: str, groups: list[list[str]]) -> int:
    for g in groups:
        if len(g) > 2 and g[0] == name:
            return _number(g[2], f"group {name}")
    if name.isdigit():
        return _number(name, f"group {name}")
    raise StartError(f"unable to find group {name}: no matching entries in the container's "
                     "/etc/group", hint="give a number, which needs no entry")


def _number(text: str, what: str) -> int:
    if not text.isdigit() or int(text) > 0x7FFFFFFF:
        raise StartError(f"the number of {what} is not valid: {text}")
    return int(text)


def _table(path: str) -> list[list[str]]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return []
    try:
        st = os.fstat(fd)
        if st.st_mode & 0o170000 != 0o100000 or st.st_size > LIMIT:
            return []
        data = b""
        while len(data) <= LIMIT:
            part = os.read(fd, 1 << 16)
            if not part:
                break
            data += part
    except OSError:
        return []
    finally:
        os.close(fd)
    return [line.split(":") for line in data.decode("utf-8", "replace").splitlines()]
