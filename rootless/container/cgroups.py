"""A container's cgroup, for the commands that read, stop and change it, and for its end."""

from __future__ import annotations

import errno
import os

from rootless.cgroup import tree
from rootless.container import store
from rootless.container.store import Container, State
from rootless.errors import Conflict, HostError, StartError, os_reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.cgroup.dbus import Connection
    from rootless.cgroup.where import Machine, Place
    from rootless.paths import Paths


def machine(paths: Paths) -> Machine:
    """What of this machine decides about cgroups."""
    from rootless import linux
    from rootless.cgroup import where

    try:
        fstype = linux.statfs_type(tree.ROOT)
    except OSError:
        fstype = 0
    return where.look(paths.uid, os.environ.get("XDG_RUNTIME_DIR") or "", fstype)


def place(paths: Paths, parent: str) -> Place:
    """Where a container's cgroup goes. Raises UsageError; HostError, where it was asked to be in
    `parent` and cannot be."""
    from rootless import config
    from rootless.cgroup import where

    policy = config.load(paths, os.environ).choice("cgroups", where.POLICIES)
    found = where.find(machine(paths), policy, parent)
    if parent and not found.how:
        raise HostError(f"cannot use --cgroup-parent {parent}: {found.why}", hint=found.hint)
    return found


def plan(container: Container, config: dict[str, Any], owner: tuple[int, int] | None) -> \
        dict[str, Any]:
    """See rootless.cgroup.make. Raises HostError when a limit that was asked for cannot be held."""
    data = container.data
    parent = config["annotations"].get("org.rootless.cgroup-parent", "")
    there = place(container.paths, parent)
    settings, properties = [], []
    resources = config["linux"].get("resources")
    if resources:
        from rootless.cgroup import limits, where

        settings, properties = limits.settings(resources), limits.properties(resources)
        where.require(there, settings)
    if there.how == "systemd":
        # systemd's patience with it, as when the machine goes down, is that of `stop`.
        from rootless.container.life import DEFAULT_STOP_SECONDS

        patience = data["stop_timeout"]
        properties.append(("TimeoutStopUSec", ("t", _microseconds(
            DEFAULT_STOP_SECONDS if patience is None else patience))))
    path = ""
    if there.how == "direct":
        path = f"{there.parent.rstrip('/')}/{tree.PREFIX}{container.id}"
    return {"how": there.how, "parent": there.parent, "socket": there.socket, "path": path,
            "id": container.id, "name": container.name, "owner": owner, "asked": bool(parent),
            "settings": [(s.file, s.value, s.option) for s in settings],
            "properties": properties, "writable": there.guarded or data["privileged"]}


def describe(made: dict[str, Any]) -> str:
    """The plan for a person."""
    if not made["how"]:
        return "cgroup: none of its own\n"
    lines = [f"cgroup: {made['how']}, in {made['parent']}"]
    lines += [f"    {name}={value[1]} on the scope" for name, value in made["properties"]]
    lines += [f"    {file}: {value}" for file, value, _ in made["settings"]]
    return "\n".join(lines) + "\n"


def _microseconds(seconds: int) -> int:
    """Below zero: for ever."""
    return (1 << 64) - 1 if seconds < 0 else seconds * 10**6


def of(container: Container) -> tuple[State, str]:
    """The state of a running container, and the directory of its cgroup.

    Raises Conflict when it is not running, HostError when it has no cgroup, and why.
    """
    state = container.state()
    if state.elsewhere:
        raise HostError(f"container {container.name} runs on {state.elsewhere}, not here",
                        hint=f"run this command on {state.elsewhere}")
    if not state.running:
        raise Conflict(f"container {container.name or container.id[:12]} is not running",
                       hint=f"rootless start {container.name}")
    if state.cgroup:
        return state, tree.directory(state.cgroup)
    now = place(container.paths, "")
    why, hint = now.why, now.hint
    if now.how:
        why = "it was started without one"
        hint = f"rootless stop {container.name} && rootless start {container.name}"
    raise HostError(f"container {container.name} has no cgroup: {why}", hint=hint)


def paused(state: State) -> bool:
    return bool(state.cgroup) and state.running and tree.frozen(tree.directory(state.cgroup))


def pause(container: Container) -> None:
    """Stop all its processes where they are. Raises Conflict, HostError."""
    _, where = of(container)
    if tree.frozen(where):
        raise Conflict(f"container {container.name} is already paused")
    _freeze(container, where, True)
    container.event("pause")


def unpause(container: Container) -> None:
    _, where = of(container)
    if not tree.frozen(where):
        raise Conflict(f"container {container.name} is not paused")
    _freeze(container, where, False)
    container.event("unpause")


def _freeze(container: Container, where: str, on: bool) -> None:
    try:
        if tree.freeze(where, on):
            return
        why = "a process waits in the kernel"
        if on:
            tree.write(where, "cgroup.freeze", "0")
    except OSError as e:
        why = os_reason(e)
    raise HostError(f"cannot {'pause' if on else 'unpause'} container {container.name}: {why}")


def thaw(state: State) -> None:
    """Let a paused container see a signal."""
    if paused(state):
        try:
            tree.write(tree.directory(state.cgroup), "cgroup.freeze", "0")
        except OSError as e:
            if e.errno not in tree.GONE:
                raise


def update(container: Container, changes: dict[str, Any]) -> None:
    """Change the limits that are kept and, where it runs, those that hold.

    Raises UsageError, HostError, StartError; then nothing is kept.
    """
    from rootless.cgroup import limits

    lock = container.lock()
    try:
        config = container.config()
        before = config["linux"].get("resources", {})
        merged = limits.merge(before, changes)
        config["linux"]["resources"] = merged
        state = container.state()
        if not state.cgroup:
            require(container.paths, merged,
                    config["annotations"].get("org.rootless.cgroup-parent", ""))
        if state.running:
            _change(container, limits.settings(before), merged)
        store.reconfigure(container, config)
        container.event("update")
    finally:
        os.close(lock)


def require(paths: Paths, resources: dict[str, Any], parent: str) -> None:
    """Raises HostError when a container with these limits could not be started here and now."""
    from rootless.cgroup import limits, where

    where.require(place(paths, parent), limits.settings(resources))


def _change(container: Container, before: list[Any], resources: dict[str, Any]) -> None:
    from rootless.cgroup import limits, make, unit

    state, where = of(container)
    new = [s for s in limits.settings(resources) if s not in before]
    scope, _, leaf = state.cgroup.rpartition("/")
    try:
        make.apply(where, os.path.dirname(where), new)
    except StartError:
        # What was set before the one that failed.
        make.apply(where, os.path.dirname(where),
                   [s for s in before if s.file in {n.file for n in new}])
        raise
    properties = limits.properties(resources)
    if leaf == tree.INNER and scope.endswith(".scope") and properties:
        connection = _manager(container.paths)
        unit.set_properties(connection, os.path.basename(scope), properties)
        connection.close()


def _manager(paths: Paths) -> Connection:
    from rootless.cgroup import where
    from rootless.cgroup.dbus import Connection

    socket = where.socket_of(paths.uid, os.environ.get("XDG_RUNTIME_DIR") or "")
    if not socket:
        raise HostError("cannot reach the systemd manager that holds the container's cgroup",
                        hint="type the command where you started it")
    return Connection(socket)


def _may_move(path: str) -> bool:
    """May a process be moved from where we stand? For that the cgroup above both must be ours to
    write (cgroup-v2.rst, "Delegation Containment"), which that above a login session is not."""
    above = os.path.commonpath([path, tree.of_process("self") or "/"])
    return os.access(f"{tree.directory(above)}/cgroup.procs", os.W_OK)


class Door:
    """The way of another process into a container's cgroup.

    Opened before the container's namespaces are joined, in which neither the file nor systemd's
    socket can be reached by name.
    """

    def __init__(self, paths: Paths, path: str) -> None:
        """Raises HostError."""
        self.path = path
        self._fd = os.open(f"{tree.directory(path)}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        self._systemd: Connection | None = None
        scope = path.rpartition("/")[0]
        if scope.endswith(".scope") and not _may_move(path):
            self._systemd = _manager(paths)

    def bring(self, pid: int) -> None:
        """Raises HostError."""
        try:
            os.write(self._fd, str(pid).encode())
            return
        except OSError as e:
            if self._systemd is None or e.errno not in (errno.EACCES, errno.EPERM):
                raise HostError(
                    f"cannot enter the container's cgroup {self.path}: {os_reason(e)}",
                    hint="type the command in the job or session that started the container"
                ) from None
        from rootless.cgroup import unit

        scope, _, leaf = self.path.rpartition("/")
        unit.attach(self._systemd, os.path.basename(scope), "/" + leaf, pid)


def clear_left(paths: Paths, path: str) -> None:
    """What a killed monitor left."""
    if os.path.isdir(tree.directory(path)):
        from rootless.userns import keeper

        userns = keeper.open_userns(paths)
        tree.clear(tree.directory(path), userns.fd)
        os.close(userns.fd)
