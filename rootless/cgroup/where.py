"""Where a container's cgroup will be, decided without touching anything.

`cgroups` in config.toml: auto, systemd, direct or disabled. auto takes, in this order,

1. the cgroup we stand in, where it is given to this user outside of a systemd manager of their
   own: a batch system's step. A user manager would lead out of the job and its accounting;
2. the systemd manager of this user;
3. the cgroup we stand in, where it can be divided all the same: root without systemd, or inside
   of a container.

--cgroup-parent says it for one container: NAME.slice is systemd's, /PATH is a cgroup.
"""

from __future__ import annotations

import os

from rootless.cgroup import tree
from rootless.errors import HostError, UsageError
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from rootless.cgroup.limits import Setting

POLICIES = ("auto", "systemd", "direct", "disabled")
SLICE = "rootless.slice"
CGROUP2_SUPER_MAGIC = 0x63677270


@record(frozen=True)
class Place:
    """`how`: systemd, direct, or "" for none, `why` and with the `hint` that mends it.
    `parent`: a slice's name, or the path of a cgroup. `guarded`: see `nsdelegate`."""

    how: str
    parent: str = ""
    socket: str = ""
    guarded: bool = False
    why: str = ""
    hint: str = ""


@record(frozen=True)
class Machine:
    """What is looked at. `own`: path of the cgroup we stand in, "" where there is none."""

    uid: int
    v2: bool
    own: str
    socket: str
    guarded: bool
    root: str = tree.ROOT


def look(uid: int, runtime: str, fstype: int) -> Machine:
    """`fstype`: of /sys/fs/cgroup (statfs(2)). `runtime`: XDG_RUNTIME_DIR."""
    if fstype != CGROUP2_SUPER_MAGIC:
        return Machine(uid, False, "", "", False)
    return Machine(uid, True, tree.of_process("self"), socket_of(uid, runtime),
                   nsdelegate())


def socket_of(uid: int, runtime: str) -> str:
    """Where the systemd manager of this user listens, "" where none runs."""
    import _socket

    for place in ["/run"] if uid == 0 else [runtime, f"/run/user/{uid}"]:
        path = f"{place}/systemd/private"
        if not place.startswith("/") or not os.access(path, os.W_OK):
            continue
        # One that has ended leaves its socket.
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        try:
            sock.connect(path)
            return path
        except OSError:
            pass
        finally:
            sock.close()
    return ""


def nsdelegate(mountinfo: str = "/proc/self/mountinfo") -> bool:
    """Does the kernel keep a cgroup namespace's processes off the limits of its root?
    (cgroup-v2.rst, "Delegation"; systemd mounts with it.)"""
    with open(mountinfo, "rb") as f:
        for line in f.read().splitlines():
            head, _, tail = line.partition(b" - ")
            if head.split(b" ")[4:5] == [tree.ROOT.encode()] and tail.startswith(b"cgroup2 "):
                return b"nsdelegate" in tail.split(b" ")[-1].split(b",")
    return False


def find(machine: Machine, policy: str = "auto", parent: str = "") -> Place:
    """Raises UsageError for a `parent` that means nothing, HostError for one that cannot be."""
    if policy == "disabled":
        return Place("", why="cgroups are disabled in config.toml",
                     hint='cgroups = "auto" in config.toml')
    if not machine.v2:
        return Place("", why=f"{tree.ROOT} is not cgroup v2, and only v2 can be delegated to a "
                             "user", hint=_unified())
    if parent:
        return _asked(machine, policy, parent)
    own = standing(machine.own)
    stand = Place("direct", own, guarded=machine.guarded) if divisible(own, machine.root) else None
    manager = _systemd(machine) if machine.socket else None
    if policy == "systemd":
        return manager or _no_manager(machine)
    if policy == "direct" or (stand and _given(machine, own)):
        return stand or Place("", why=f"the cgroup {own or '?'} is not yours to divide",
                              hint="--cgroup-parent /PATH of one that is")
    return manager or stand or _no_manager(machine)


def _systemd(machine: Machine, slice_: str = SLICE) -> Place:
    return Place("systemd", slice_, machine.socket, machine.guarded)


def _asked(machine: Machine, policy: str, parent: str) -> Place:
    if parent.endswith(".slice") and "/" not in parent and parent != ".slice":
        if policy == "direct":
            raise HostError(f"cannot use --cgroup-parent {parent}: a slice is systemd's, and "
                            'config.toml says cgroups = "direct"', hint="--cgroup-parent /PATH")
        if not machine.socket:
            none = _no_manager(machine)
            raise HostError(f"cannot use --cgroup-parent {parent}: {none.why}", hint=none.hint)
        return _systemd(machine, parent)
    if not parent.startswith("/") or ".." in parent.split("/"):
        raise UsageError(f"invalid --cgroup-parent: {parent}",
                         hint="NAME.slice of systemd, or /PATH of a cgroup below "
                              f"{machine.root}")
    if policy == "systemd":
        raise HostError(f"cannot use --cgroup-parent {parent}: config.toml says cgroups = "
                        '"systemd"', hint="--cgroup-parent NAME.slice")
    path = standing(parent.rstrip("/") or "/")
    if not divisible(path, machine.root):
        there = os.path.isdir(tree.directory(path, machine.root))
        raise HostError(f"cannot use --cgroup-parent {parent}: "
                        + ("it is not yours to divide" if there else "there is no such cgroup"))
    return Place("direct", path, guarded=machine.guarded)


def standing(own: str) -> str:
    """The cgroup to divide for somebody who stands in `own`: above our leaf."""
    head, _, last = own.rpartition("/")
    return (head or "/") if last == tree.LEAF else own


def divisible(path: str, root: str) -> bool:
    where = tree.directory(path, root)
    return bool(path) and all(os.access(where + name, os.W_OK) for name in (
        "", "/cgroup.procs", "/cgroup.subtree_control"))


def _given(machine: Machine, own: str) -> bool:
    """Was it handed to this user, by somebody other than their own systemd manager?"""
    if machine.uid == 0 or f"/user@{machine.uid}.service" in own:
        return False
    return os.stat(tree.directory(own, machine.root)).st_uid == machine.uid


def _no_manager(machine: Machine) -> Place:
    from rootless.cgroup import advice

    why = (f"no systemd manager of yours runs, and the cgroup {machine.own or '?'} is not yours "
           "to divide")
    if machine.uid != 0 and advice.has_systemd():
        return Place("", why=why, hint=advice.linger(_user(machine.uid)))
    return Place("", why=why, hint="--cgroup-parent /PATH of a cgroup that you may write")


def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _unified() -> str:
    from rootless.cgroup import advice

    line = advice.unified(advice.packages()) if advice.has_systemd() else ""
    return line or f"boot Linux with cgroup_no_v1=all and mount cgroup2 at {tree.ROOT}"


def controllers(place: Place, root: str = tree.ROOT) -> frozenset[str]:
    """Those that a cgroup there will have. Raises HostError when systemd does not answer."""
    path = place.parent
    if place.how == "systemd":
        from rootless.cgroup import unit

        path = unit.manager_cgroup(place.socket)
    return frozenset(tree.read(tree.directory(path, root), "cgroup.controllers").split())


def require(place: Place, settings: Iterable[Setting], root: str = tree.ROOT) -> None:
    """Raises HostError when a limit that was asked for cannot be held there."""
    asked = [s for s in settings if s.option]
    if not asked:
        return
    first = asked[0]
    if not place.how:
        raise HostError(f"cannot set {first.option}: no {first.controller} controller: "
                        f"{place.why}", hint=place.hint)
    have = controllers(place, root)
    for setting in asked:
        if setting.controller not in have:
            raise lacking(setting.option, setting.controller, have, place)


def lacking(option: str, controller: str, have: Iterable[str], place: Place) -> HostError:
    given = " ".join(sorted(have)) or "none"
    who = "systemd's manager of yours" if place.how == "systemd" else f"the cgroup {place.parent}"
    from rootless.cgroup import advice

    hint = (advice.DELEGATE if place.how == "systemd"
            else f"whoever made it must add it to cgroup.subtree_control above it: +{controller}")
    return HostError(f"cannot set {option}: the {controller} controller is not delegated: {who} "
                     f"has {given}", hint=hint)
