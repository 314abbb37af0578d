"""--pid, --ipc, --network container: namespaces that a container has in common with others.

A container that is in a namespace of another one is in that one's user namespace as well: without
power over it the kernel lets nobody mount its /proc or its message queues, or bind a port below
1024. So it can share with one other container only.
"""

from __future__ import annotations

from rootless.container import store
from rootless.errors import Conflict, UsageError
from rootless.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.container.store import Container
    from rootless.container.wanted import Wanted
    from rootless.paths import Paths

WORD = "container:"


def settled(paths: Paths, wanted: Wanted) -> Wanted:
    """With the id of the container whose namespaces are shared. Raises NotFound, UsageError,
    Conflict."""
    if wanted.pid.startswith(WORD):
        wanted = replace(wanted, pid=WORD + store.find(paths, wanted.pid[len(WORD):]).id)
    if wanted.ipc.startswith(WORD):
        other = store.find(paths, wanted.ipc[len(WORD):])
        if other.data.get("ipc") != "shareable":
            raise Conflict(f"cannot share the ipc namespace of container {other.name}: it is "
                           "private", hint="make that one with --ipc shareable")
        wanted = replace(wanted, ipc=WORD + other.id)
    if len(_others(wanted.network, wanted.pid, wanted.ipc)) > 1:
        raise UsageError("cannot share namespaces with several containers",
                         hint="--pid, --ipc and --network container: the same one")
    return wanted


def _others(*modes: str) -> set[str]:
    return {mode[len(WORD):] for mode in modes if mode.startswith(WORD)}


def facts(paths: Paths, wanted: Wanted) -> dict[str, Any]:
    """For spec.build: `kinds` that are another container's, and whether that one has a user
    namespace of its own, or of a third."""
    modes = {"network": wanted.network, "pid": wanted.pid, "ipc": wanted.ipc}
    others = _others(*modes.values())
    if not others:
        return {"kinds": [], "user": False}
    config = store.find(paths, others.pop()).config()
    own = any(n["type"] == "user" for n in config["linux"]["namespaces"])
    return {"kinds": [kind for kind, mode in modes.items() if mode.startswith(WORD)],
            "user": own or config["annotations"].get("org.rootless.shared") == "user"}


def other_of(container: Container) -> Container | None:
    """The one whose namespaces it is in. Raises NotFound."""
    data = container.data
    others = _others(str(data["network"]), data.get("pid", ""), data.get("ipc", ""))
    return store.find(container.paths, others.pop()) if others else None
