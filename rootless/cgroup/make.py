"""Make a container's cgroup and step into it: the launcher's first deed.

A plan is plain data, made by the command and carried to the launcher:

    how, parent, socket     of the `Place`
    id, name                of the container
    path                    of the cgroup; "" where systemd chooses it
    asked                   somebody said where it must be
    settings                [(file, value, option), …]
    properties              of the scope
    writable                the container may divide it
    owner                   (uid, gid) of the container's root outside, or None where that is the
                            user
"""

from __future__ import annotations

import errno
import fcntl
import os

from rootless.cgroup import tree
from rootless.cgroup.tree import INNER, LEAF, MONITOR, PREFIX
from rootless.errors import HostError, RootlessError, StartError, os_reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.cgroup.limits import Setting

    Plan = dict[str, Any]

CONTROLLERS = ("cpu", "cpuset", "io", "memory", "pids")
# What whoever is given a cgroup must own (cgroup-v2.rst, "Model of Delegation").
DELEGATED = ("", "/cgroup.procs", "/cgroup.threads", "/cgroup.subtree_control")
TRIES = 20


def enter(plan: Plan, monitor: int) -> bool:
    """Make the cgroup, set the limits, move this process into it. True: it is the container's own
    and writable for it.

    Where neither a limit nor a place was asked for, a container starts without a cgroup if none
    can be made. Raises StartError, HostError.
    """
    asked = plan["asked"] or any(option for _, _, option in plan["settings"])
    try:
        if plan["how"] == "systemd":
            _enter_scope(plan, monitor)
        else:
            _enter_child(plan)
        return bool(plan["writable"])
    except OSError as e:
        name = f"{os.fsdecode(e.filename)}: " if e.filename is not None else ""
        failure: RootlessError = StartError(
            f"cannot make the container's cgroup: {name}{os_reason(e)}",
            hint='cgroups = "disabled" in config.toml does without')
    except RootlessError as e:
        failure = e
    if asked:
        raise failure
    return False


def _enter_scope(plan: Plan, monitor: int) -> None:
    from rootless.cgroup import unit

    here = tree.of_process("self")
    moved = [(INNER, os.getpid())]
    if here.endswith(f"/{unit.name_of(plan['id'])}/{MONITOR}"):
        here = here[:-len(MONITOR) - 1]     # it is started again, the monitor has stayed
    else:
        unit.start_scope(plan["socket"], unit.name_of(plan["id"]), plan["parent"],
                         f"container {plan['name']}", [monitor, os.getpid()], plan["properties"])
        here = tree.of_process("self")
        moved.insert(0, (MONITOR, monitor))
    scope = tree.directory(here)
    for leaf, pid in moved:
        os.mkdir(f"{scope}/{leaf}")
        tree.write(f"{scope}/{leaf}", "cgroup.procs", str(pid))
    enable(scope)
    _furnish(f"{scope}/{INNER}", scope, plan)


def _enter_child(plan: Plan) -> None:
    parent = tree.directory(plan["parent"])
    lock = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sweep(parent, lock)
        fcntl.flock(lock, fcntl.LOCK_SH)
        enable(parent)
        child = tree.directory(plan["path"])
        tree.remove(child)      # of a run whose monitor was killed
        os.mkdir(child)
        try:
            _furnish(child, parent, plan)
            tree.write(child, "cgroup.procs", "0")
        except (OSError, RootlessError):
            os.rmdir(child)
            raise
    finally:
        os.close(lock)


def sweep(parent: str, lock: int) -> None:
    """Remove what killed monitors left beside us, if nobody is making one just now: a cgroup with
    a process in it or below is not removed by the kernel."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    for name in os.listdir(parent):
        if name.startswith(PREFIX) and name != LEAF:
            try:
                tree.remove(f"{parent}/{name}")
            except OSError:
                pass        # it is in use


def enable(parent: str) -> None:
    """Hand out every controller that there is; those that do not go are missed by who needs them.

    Processes that stand in `parent` are moved to its leaf first: with them the kernel refuses
    some controllers, and the others would make it the root of a threaded part of the tree, where
    no container can be. The root of the hierarchy is spared that. Raises OSError.
    """
    there = set(tree.read(parent, "cgroup.controllers").split())
    on = set(tree.read(parent, "cgroup.subtree_control").split())
    for controller in CONTROLLERS:
        if controller not in there or controller in on:
            continue
        for _ in range(TRIES):
            if os.path.exists(parent + "/cgroup.type"):
                _clear(parent)
            try:
                tree.write(parent, "cgroup.subtree_control", f"+{controller}")
                break
            except OSError as e:
                if e.errno != errno.EBUSY:      # one was forked meanwhile
                    break


def _clear(parent: str) -> None:
    leaf = f"{parent}/{LEAF}"
    for pid in tree.read(parent, "cgroup.procs").split():
        try:
            os.mkdir(leaf)
        except FileExistsError:
            pass
        try:
            tree.write(leaf, "cgroup.procs", pid)
        except ProcessLookupError:
            pass


def _furnish(own: str, above: str, plan: Plan) -> None:
    for name in DELEGATED if plan["owner"] else ():
        os.chown(own + name, *plan["owner"])
    if plan["settings"]:
        from rootless.cgroup.limits import Setting

        apply(own, above, [Setting(*s) for s in plan["settings"]])


def apply(own: str, above: str, settings: list[Setting]) -> None:
    """Write the limits. `above`: the cgroup that hands out the controllers.

    Raises StartError, naming the option, for one that the kernel does not take.
    """
    held: set[str] = set()
    for setting in settings:
        if setting.controller == "cpuset":
            _within(above, setting)
        try:
            tree.write(own, setting.file, setting.value)
            held.add(setting.option)
        except FileNotFoundError:
            continue
        except OSError as e:
            raise StartError(f"cannot set {setting.option or setting.file}: {setting.file}: "
                             f"the kernel does not take {setting.value!r}: {os_reason(e)}",
                             hint=_why(e)) from None
    for setting in settings:
        if setting.option and setting.option not in held:
            raise _missing(own, above, setting)


def _within(above: str, setting: Setting) -> None:
    """The kernel takes any list, and uses all processors where none of it is there."""
    from rootless.cgroup.limits import numbers

    there = tree.read(above, f"{setting.file}.effective").strip()
    if there and not numbers(setting.value) <= numbers(there):
        raise StartError(f"cannot set {setting.option} to {setting.value}: there are {there}")


def _why(error: OSError) -> str | None:
    if error.errno in (errno.ENODEV, errno.ENXIO):
        return "limits of a device are for a whole disk, not a partition or a loop without one"
    return None


def _missing(own: str, above: str, setting: Setting) -> RootlessError:
    have = tree.read(own, "cgroup.controllers").split()
    if setting.controller in have or setting.controller == "cgroup":
        return StartError(f"cannot set {setting.option}: this kernel has no {setting.file}")
    return HostError(f"cannot set {setting.option}: the {setting.controller} controller is not "
                     f"delegated: {above} has {' '.join(have) or 'none'}",
                     hint="rootless doctor says the line that mends it")
