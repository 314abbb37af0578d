"""What is wanted of a container, and its image, as an OCI runtime configuration.

Pure: no file is read or written here. The result is `config.json` of the container's bundle
(OCI runtime-spec 1.1). What the specification has no word for is an annotation `org.rootless.*`:
the user by name (numbers are only known inside the container's root), the seccomp profile's name,
`--init`.
"""

from __future__ import annotations

import os

from rootless.errors import UsageError
from rootless.network.endpoints import joins
from rootless.runtime import capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.container.wanted import Wanted

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# docker's defaults (moby oci/defaults.go).
MASKED = ["/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
          "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi",
          "/proc/interrupts", "/sys/firmware", "/sys/devices/virtual/powercap"]
READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
DEVICES = ["null", "zero", "full", "random", "urandom", "tty"]


def command(wanted: Wanted, image: dict[str, Any]) -> list[str]:
    """The process's arguments: ENTRYPOINT and CMD, as docker joins them. Raises UsageError."""
    if wanted.entrypoint is not None:
        args = [*(e for e in wanted.entrypoint if e), *wanted.args]
    else:
        args = [*(image.get("Entrypoint") or []), *(wanted.args or image.get("Cmd") or [])]
    if not args:
        raise UsageError("no command specified: the image names none",
                         hint=f"rootless run {wanted.image} COMMAND")
    return [str(a) for a in args]


def environment(wanted: Wanted, image: dict[str, Any], hostname: str) -> dict[str, str]:
    env = {"PATH": PATH, "HOSTNAME": hostname}
    if wanted.tty:
        env["TERM"] = "xterm"
    for text in image.get("Env") or []:
        key, _, value = str(text).partition("=")
        if key:
            env[key] = value
    env.update(wanted.env)
    return env


def build(wanted: Wanted, image: dict[str, Any], directory: str, cid: str,
          host: dict[str, Any]) -> dict[str, Any]:
    """`image`: the image's `config` object. `directory`: the container's own.

    `host`: facts of the machine: `nodename`, `cgroup2` (bool), `devices` (for --privileged);
    `joined`, see sharing.facts; and `shared`, of the container whose network is shared: its
    directory, its host name, and "user" where it has a user namespace of its own.
    """
    host_net = wanted.network == "host"
    hostname = wanted.hostname or (host["nodename"] if host_net else host["shared"][1]
                                   if host["shared"] else cid[:12])
    env = environment(wanted, image, hostname)
    caps = [f"CAP_{n}" if not n.startswith("CAP_") else n for n in sorted(capabilities.resolve(
        list(wanted.cap_add), list(wanted.cap_drop), privileged=wanted.privileged))]
    unmask = wanted.privileged or wanted.unmask
    joined = host["joined"]
    namespaces = ["uts", "mount"]
    if not wanted.pid:
        namespaces.append("pid")
    if wanted.ipc in ("", "shareable", "none"):
        namespaces.append("ipc")
    if wanted.cgroupns == "private":
        namespaces.append("cgroup")
    if not host_net and not host["shared"]:
        namespaces.append("network")
    if wanted.userns != "host" and not joined["kinds"]:
        namespaces.append("user")
    return {
        "ociVersion": "1.1.0",
        "process": {
            "terminal": wanted.tty,
            "user": {"uid": 0, "gid": 0},
            "args": command(wanted, image),
            "env": [f"{k}={v}" for k, v in env.items()],
            "cwd": wanted.workdir or str(image.get("WorkingDir") or "/"),
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "rlimits": [{"type": f"RLIMIT_{n.upper()}", "soft": soft, "hard": hard}
                        for n, soft, hard in wanted.ulimits],
            "noNewPrivileges": wanted.no_new_privileges,
            **({} if wanted.oom_score_adj is None else {"oomScoreAdj": wanted.oom_score_adj}),
        },
        "root": {"path": "rootfs", "readonly": wanted.read_only},
        "hostname": hostname,
        **({"domainname": wanted.domainname} if wanted.domainname else {}),
        "mounts": _mounts(wanted, directory, host, host_net),
        "linux": {
            "namespaces": [{"type": n} for n in namespaces],
            "maskedPaths": [] if unmask else MASKED,
            "readonlyPaths": [] if unmask else READONLY,
            "sysctl": {**({"net.ipv4.ip_unprivileged_port_start": "0"}
                          if joins(wanted.network) else {}), **dict(wanted.sysctl)},
            "resources": wanted.resources or {},
        },
        "annotations": {
            "org.rootless.user": wanted.user or str(image.get("User") or ""),
            "org.rootless.groups": ",".join(wanted.group_add),
            "org.rootless.seccomp": _seccomp(wanted),
            "org.rootless.init": "1" if wanted.init else "",
            "org.rootless.shared": "user" if joined["user"] else "",
            "org.rootless.joined": ",".join(joined["kinds"]),
            "org.rootless.cgroup-parent": wanted.cgroup_parent,
        },
    }


def _seccomp(wanted: Wanted) -> str:
    """default, unconfined, or file: the profile kept beside the configuration."""
    if wanted.seccomp:
        return "unconfined" if wanted.seccomp == "unconfined" else "file"
    return "unconfined" if wanted.privileged else "default"


def _mounts(wanted: Wanted, directory: str, host: dict[str, Any],
            host_net: bool) -> list[dict[str, Any]]:
    """In the order of mounting: the kernel's, then by depth of the target, the user's last."""
    rw = "rw" if wanted.privileged else "ro"
    basic = [
        # As /proc shows a pid namespace, and /dev/mqueue one of ipc.
        _mount("/proc", "bind", "/proc", "rbind", "nosuid", "noexec", "nodev")
        if wanted.pid == "host" else _mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance",
               "ptmxmode=0666", "mode=0620"),
        # sysfs shows the network namespace's devices, so it can be mounted by its owner only.
        _mount("/sys", "bind", "/sys", "rbind", "ro", "nosuid", "noexec", "nodev") if host_net
        else _mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", rw),
        *_ipc_mounts(wanted, host),
    ]
    if host["cgroup2"]:
        # Only the owner of a cgroup namespace can mount it.
        source, kind, how = (("cgroup", "cgroup2", ()) if wanted.cgroupns == "private"
                             else ("/sys/fs/cgroup", "bind", ("bind", "ro")))
        basic.insert(4, _mount("/sys/fs/cgroup", kind, source, *how, "nosuid", "noexec", "nodev"))
        if host_net and kind == "cgroup2":
            # The host's came along with /sys, and the kernel mounts no filesystem upon itself.
            basic.insert(4, _mount("/sys/fs/cgroup", "tmpfs", "tmpfs", "nosuid", "noexec", "nodev",
                                   "ro", "size=4k"))
    devices = [(f"/dev/{n}", f"/dev/{n}") for n in DEVICES]
    if wanted.privileged:
        devices += [(d, d) for d in host["devices"] if (d, d) not in devices]
    basic += [_mount(at, "bind", source, "bind", "x-device") for source, at in devices]
    basic += [_mount(at, "bind", source, "rbind") for source, at, _ in wanted.devices]
    for name in ("hosts", "hostname", "resolv.conf"):
        where = host["shared"][0] if host["shared"] else directory
        basic.append(_mount(f"/etc/{name}", "bind", f"{where}/{name}", "bind"))
    own = [_mount(m.destination, "bind" if m.kind == "volume" else m.kind, m.source, *m.options)
           for m in wanted.mounts]
    taken = {m["destination"] for m in own}
    if len(taken) < len(own):
        twice = next(d for d in taken if sum(m["destination"] == d for m in own) > 1)
        raise UsageError(f"duplicate mount point: {twice}")
    kept = [m for m in basic if m["destination"] not in taken]
    own.sort(key=lambda m: str(m["destination"]).count("/"))
    return kept + own


def _ipc_mounts(wanted: Wanted, host: dict[str, Any]) -> list[dict[str, Any]]:
    """Message queues and shared memory, of the ipc namespace that it is in."""
    flags = ("nosuid", "noexec", "nodev")
    if wanted.ipc == "host":
        return [_mount(at, "bind", at, "rbind", *flags)
                for at in ("/dev/mqueue", "/dev/shm") if at in host["ipc"]]
    queues = _mount("/dev/mqueue", "mqueue", "mqueue", *flags)
    if wanted.ipc == "none":
        return [queues]
    if wanted.ipc.startswith("container:"):
        return [queues, _mount("/dev/shm", "bind", "/dev/shm", "x-other")]
    return [queues, _mount("/dev/shm", "tmpfs", "shm", *flags, "mode=1777",
                           f"size={wanted.shm_size}")]


def _mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def device_nodes(root: str = "/dev") -> list[str]:
    """The devices of this machine that the user may open, for --privileged."""
    found = []
    for name in sorted(os.listdir(root)):
        path = f"{root}/{name}"
        try:
            kind = os.lstat(path).st_mode & 0o170000
        except OSError:
            continue
        if kind in (0o020000, 0o060000) and os.access(path, os.R_OK) \
                and name not in ("ptmx", "console"):
            found.append(path)
    return found
