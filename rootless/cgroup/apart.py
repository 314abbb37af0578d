"""Helpers of all containers leave the scope of the one whose monitor has started them."""

from __future__ import annotations

import os

from rootless.cgroup import tree
from rootless.errors import RootlessError


def stand_apart(name: str) -> None:
    """Move this process into a scope of its own, `rootless-NAME-PID`: the scope of a container is
    gone only when nobody stands in it, and whoever stops it means that container.

    Where that cannot be, it stays: its work is the same.
    """
    above, _, leaf = tree.of_process("self").rpartition("/")
    scope = os.path.basename(above)
    if leaf != tree.MONITOR or not (scope.startswith(tree.PREFIX) and scope.endswith(".scope")):
        return
    from rootless.cgroup import unit, where

    socket = where.socket_of(os.getuid(), os.environ.get("XDG_RUNTIME_DIR") or "")
    try:
        unit.start_scope(socket, f"{tree.PREFIX}{name}-{os.getpid()}.scope", where.SLICE,
                         f"rootless {name}", [os.getpid()], [])
    except RootlessError:
        pass
