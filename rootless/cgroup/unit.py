"""systemd's side of a container's cgroup: a transient scope (org.freedesktop.systemd1(5)).

The user's manager is reached at its own socket. Moving a process from a login session into the
manager's part of the tree takes more than the user's rights; the manager asks the system's manager
for it, so it is always systemd that is asked.
"""

from __future__ import annotations

import os
import time

from rootless.cgroup import tree
from rootless.cgroup.dbus import Connection, Refused
from rootless.errors import HostError, StartError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.cgroup.dbus import Message

    Property = tuple[str, tuple[str, Any]]

_NAME = "org.freedesktop.systemd1"
_PATH = "/org/freedesktop/systemd1"
_MANAGER = "org.freedesktop.systemd1.Manager"
# The scope of a run that has just ended may still be there.
PATIENCE = 5.0


def name_of(cid: str) -> str:
    return f"rootless-{cid}.scope"


def manager_cgroup(socket: str) -> str:
    """Path of the cgroup below which the manager makes units; "" where that cannot be seen.
    Raises HostError."""
    connection = Connection(socket)
    try:
        own = tree.of_process(connection.peer())
    finally:
        connection.close()
    # It stands in a leaf of it.
    head, slash, leaf = own.rpartition("/")
    return (head or "/") if slash and leaf == "init.scope" else own


def start_scope(socket: str, name: str, slice_: str, description: str, pids: list[int],
                properties: list[Property]) -> None:
    """A scope with these processes in it, which are there when this returns.

    Raises HostError, StartError.
    """
    connection = Connection(socket)
    try:
        given: list[Property] = [
            ("Description", ("s", description)), ("Slice", ("s", slice_)),
            ("PIDs", ("au", pids)), ("Delegate", ("b", True)),
            # A failed one would keep its name.
            ("CollectMode", ("s", "inactive-or-failed")), *properties]
        deadline = time.monotonic() + PATIENCE
        while True:
            signals: list[Message] = []
            try:
                job = connection.call(_NAME, _PATH, _MANAGER, "StartTransientUnit",
                                      "ssa(sv)a(sa(sv))", (name, "fail", given, []), signals)[0]
                break
            except Refused as e:
                if not e.name.endswith("UnitExists") or time.monotonic() > deadline:
                    raise StartError(f"cannot make a cgroup: systemd: {e.message}",
                                     hint=f"systemctl {_whose()}status {name}") from None
                time.sleep(0.02)
        result = _job_result(connection, str(job), signals)
        if result != "done":
            raise StartError(f"cannot make a cgroup: systemd: the scope {name}: {result}",
                             hint=f"systemctl {_whose()}status {name}")
    finally:
        connection.close()


def _whose() -> str:
    return "" if os.geteuid() == 0 else "--user "


def _job_result(connection: Connection, job: str, seen: list[Message]) -> str:
    """systemd tells of every job that ends to all that are connected to its own socket."""
    from rootless.cgroup.dbus import MEMBER

    while True:
        for got in seen:
            if got.fields.get(MEMBER) == "JobRemoved" and len(got.body) == 4 \
                    and got.body[1] == job:
                return str(got.body[3])
        seen = [connection.next()]


def attach(connection: Connection, name: str, below: str, pid: int) -> None:
    """Move a process into the part `below` ("/container") of a unit (systemd 238). Raises
    HostError."""
    _call(connection, "AttachProcessesToUnit", "ssau", (name, below, [pid]))


def set_properties(connection: Connection, name: str, properties: list[Property]) -> None:
    """Until the unit ends. Raises HostError."""
    _call(connection, "SetUnitProperties", "sba(sv)", (name, True, properties))


def _call(connection: Connection, member: str, signature: str, values: tuple[Any, ...]) -> None:
    try:
        connection.call(_NAME, _PATH, _MANAGER, member, signature, values)
    except Refused as e:
        raise HostError(f"systemd refuses: {member} {values[0]}: {e.message}") from None
