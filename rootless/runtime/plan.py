"""From an OCI runtime configuration to a plan: what the launcher and the first process will do.

Pure, so that a plan can be printed (`rootless --debug run …`) and tested without a kernel. A plan
holds only what marshal can carry: it crosses from the command to the monitor as bytes.
"""

from __future__ import annotations

from rootless import linux
from rootless.errors import StartError
from rootless.runtime import capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.userns.keeper import Userns

    Config = dict[str, Any]
    # An overlay of the root: where (relative), lower directories top first, upper, work, and
    # whether the lowest must be reached through an overlay of its own (see launch.mount_root).
    RootMount = tuple[str, list[str], str, str, bool]
    Plan = dict[str, Any]
    Step = tuple[Any, ...]

_NAMESPACES = {
    "pid": linux.CLONE_NEWPID, "ipc": linux.CLONE_NEWIPC, "uts": linux.CLONE_NEWUTS,
    "mount": linux.CLONE_NEWNS, "cgroup": linux.CLONE_NEWCGROUP, "network": linux.CLONE_NEWNET,
    "user": linux.CLONE_NEWUSER, "time": linux.CLONE_NEWTIME,
}

# mount(8) words to flags; the others are the filesystem's own data.
_FLAGS = {
    "ro": linux.MS_RDONLY, "nosuid": linux.MS_NOSUID, "nodev": linux.MS_NODEV,
    "noexec": linux.MS_NOEXEC, "noatime": linux.MS_NOATIME, "nodiratime": linux.MS_NODIRATIME,
    "relatime": linux.MS_RELATIME, "strictatime": linux.MS_STRICTATIME,
}
_IGNORED = frozenset(("rw", "suid", "dev", "exec", "defaults", "private", "rprivate"))
_ATTRS = {
    "ro": linux.MOUNT_ATTR_RDONLY, "nosuid": linux.MOUNT_ATTR_NOSUID,
    "nodev": linux.MOUNT_ATTR_NODEV, "noexec": linux.MOUNT_ATTR_NOEXEC,
}
_PROPAGATION = {"slave": linux.MS_SLAVE, "rslave": linux.MS_SLAVE | linux.MS_REC}

# --ulimit names to RLIMIT_* numbers (asm-generic/resource.h; the same on x86 and ARM).
RLIMITS = {"cpu": 0, "fsize": 1, "data": 2, "stack": 3, "core": 4, "rss": 5, "nproc": 6,
           "nofile": 7, "memlock": 8, "as": 9, "locks": 10, "sigpending": 11, "msgqueue": 12,
           "nice": 13, "rtprio": 14, "rttime": 15}


def build(config: Config, mounts: list[RootMount], target: str, store: str,
          userns: Userns, *, volatile: bool, seccomp: bytes, size: tuple[int, int] | None,
          cgroup: Plan, flat: tuple[str, str, str] | None = None) -> Plan:
    """`mounts`: of the root, in order. `size`: rows and columns of a terminal. `cgroup`: see
    rootless.cgroup.make. `flat`: a squashfs file among the layers: (squashfuse, file, where it is
    mounted, relative to the store)."""
    kinds = [n["type"] for n in config["linux"]["namespaces"]]
    user = config["annotations"]["org.rootless.user"]
    return {
        "root": {"mounts": mounts, "target": target, "store": store, "volatile": volatile,
                 "flat": flat},
        "single": userns.single,
        "cgroup": cgroup,
        "namespaces": namespaces(config),
        "uid_map": identity_map(userns, user, "uids"),
        "gid_map": identity_map(userns, user, "gids"),
        "hostname": config.get("hostname", ""),
        "domainname": config.get("domainname", ""),
        "loopback": "network" in kinds,
        # Namespaces of another container, its user namespace too, if it has one.
        "shared": joined(config) | (
            linux.CLONE_NEWUSER if config["annotations"].get("org.rootless.shared") == "user"
            else 0),
        # Its end takes along what is below its first process; where that is not its end, what is
        # in its mount namespace.
        "scattered": "pid" not in kinds,
        "readonly": ["/" + m[0] for m in mounts] if config["root"]["readonly"] else [],
        "steps": steps(config),
        "process": process(config["process"], config["annotations"], seccomp, userns,
                           size if config["process"]["terminal"] else None, first=True, dies=True),
    }


def namespaces(config: Config) -> int:
    """CLONE_NEW* of the namespaces that are the container's own."""
    flags = 0
    for n in config["linux"]["namespaces"]:
        flags |= _NAMESPACES[n["type"]]
    return flags


def to_join(config: Config) -> int:
    """CLONE_NEW* of what a further process of the container joins: its own namespaces, and those
    that it shares with another container. In those of the machine it is already."""
    return namespaces(config) | joined(config)


def joined(config: Config) -> int:
    """CLONE_NEW* of the namespaces that are another container's."""
    flags = 0
    for kind in config["annotations"].get("org.rootless.joined", "").split(","):
        flags |= _NAMESPACES[kind] if kind else 0
    return flags


def identity_map(userns: Userns, user: str, kind: str) -> str:
    """Every id of the user's namespace as itself.

    One line for each extent: a line of a nested map must lie inside one extent of its parent's
    (user_namespaces(7)). With one id only, it is given the number that is asked for.
    """
    if userns.single:
        name, _, group = user.partition(":")
        wanted = name if kind == "uids" else group or "0"
        return f"{wanted if wanted.isdigit() else 0} 0 1\n"
    extents = userns.uids if kind == "uids" else userns.gids
    return "".join(f"{e.inside} {e.inside} {e.count}\n" for e in extents)


def steps(config: Config) -> list[Step]:
    """What the container's first process does to its root, in order."""
    out: list[Step] = []
    for m in config["mounts"]:
        out.append(mount_step(m))
        if m["destination"] == "/dev":
            out += [("symlink", "/proc/self/fd", "/dev/fd"),
                    ("symlink", "/proc/self/fd/0", "/dev/stdin"),
                    ("symlink", "/proc/self/fd/1", "/dev/stdout"),
                    ("symlink", "/proc/self/fd/2", "/dev/stderr"),
                    ("symlink", "pts/ptmx", "/dev/ptmx"),
                    ("symlink", "/proc/kcore", "/dev/core")]
    out += [("sysctl", name, value) for name, value in sorted(config["linux"]["sysctl"].items())]
    out += [("readonly", path) for path in config["linux"]["readonlyPaths"]]
    out += [("mask", path) for path in config["linux"]["maskedPaths"]]
    return out


def mount_step(mount: Config) -> Step:
    options: list[str] = mount["options"]
    where, source = mount["destination"], mount["source"]
    if "x-other" in options:
        return ("other", source, where)
    if mount["type"] == "bind" or "bind" in options or "rbind" in options:
        attrs = 0
        spread = 0
        for o in options:
            attrs |= _ATTRS.get(o, 0)
            spread |= _PROPAGATION.get(o, 0)
        return ("bind", source, where, attrs, "bind" not in options or "x-device" in options,
                "optional" if "x-device" in options else "",
                spread or linux.MS_PRIVATE | linux.MS_REC)
    flags = 0
    data = []
    for o in options:
        if o in _FLAGS:
            flags |= _FLAGS[o]
        elif o not in _IGNORED:
            data.append(o)
    return ("mount", mount["type"], source, where, flags, ",".join(data))


def process(proc: Config, annotations: dict[str, str], seccomp: bytes, userns: Userns,
            size: tuple[int, int] | None, *, first: bool, dies: bool) -> Plan:
    """The process part, also of `exec`. `first`: it is the container's own first process.
    `dies`: with the process that waits for it."""
    env: dict[str, str] = {}
    for text in proc["env"]:
        key, _, value = text.partition("=")
        env[key] = value
    groups = annotations.get("org.rootless.groups", "")
    return {
        "args": proc["args"],
        "env": env,
        "cwd": proc["cwd"],
        "user": annotations["org.rootless.user"],
        "groups": groups.split(",") if groups else [],
        "caps": capabilities.mask(proc["capabilities"]["bounding"]),
        "no_new_privileges": proc.get("noNewPrivileges", False),
        "seccomp": seccomp,
        "rlimits": [_rlimit(r) for r in proc.get("rlimits", [])],
        "oom_score_adj": proc.get("oomScoreAdj"),
        "single": userns.single,
        "size": size,
        "first": first,
        "init": first and bool(annotations.get("org.rootless.init")),
        "die_with_parent": dies,
    }


def _rlimit(limit: Config) -> tuple[str, int, int, int]:
    """(name, RLIMIT_*, soft, hard)."""
    name = limit["type"][len("RLIMIT_"):].lower()
    if name not in RLIMITS:
        raise StartError(f"unknown resource limit: {limit['type']}")
    return name, RLIMITS[name], limit["soft"], limit["hard"]


def describe(plan: Plan) -> str:
    """The plan for a person."""
    names = [n for n, flag in _NAMESPACES.items() if plan["namespaces"] & flag]
    lines = [f"namespaces: {' '.join(names)}"]
    if plan["namespaces"] & linux.CLONE_NEWUSER:
        lines.append(f"uid map: {'; '.join(plan['uid_map'].split(chr(10))).rstrip('; ')}")
        lines.append(f"gid map: {'; '.join(plan['gid_map'].split(chr(10))).rstrip('; ')}")
    for at, lower, upper, work, _ in plan["root"]["mounts"]:
        lines.append(f"overlay on /{at}: upper {upper}, work {work}, lower (top first):")
        lines += [f"    {path}" for path in lower]
    for step in plan["steps"]:
        lines.append(" ".join(str(part) for part in step if part != ""))
    proc = plan["process"]
    lines.append(f"user {proc['user'] or '0'}, capabilities "
                 f"{' '.join(capabilities.names(proc['caps'])) or 'none'}")
    lines.append(f"no_new_privs {'yes' if proc['no_new_privileges'] else 'no'}, seccomp "
                 f"{len(proc['seccomp']) // 8} instructions")
    lines.append(f"in {proc['cwd']}: {' '.join(proc['args'])}")
    return "\n".join(lines) + "\n"
