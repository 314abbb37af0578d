"""What there is, as docker's `info` tells it (Engine API, SystemInfo)."""

from __future__ import annotations

import os

from rootless import linux
from rootless.clock import now
from rootless.container import cgroups, store
from rootless.image.manifest import parse_platform
from rootless.userns import keeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.paths import Paths

# statfs(2) and <linux/magic.h>
_FILESYSTEMS = {0xEF53: "extfs", 0x9123683E: "btrfs", 0x58465342: "xfs", 0x01021994: "tmpfs",
                0x794C7630: "overlayfs", 0x6969: "nfs", 0x2FC12FC1: "zfs", 0xF2F52010: "f2fs",
                0x0BD00BD0: "lustre", 0x47504653: "gpfs", 0x65735546: "fuse"}


def describe(paths: Paths, version: str, *, proc: str = "/proc", etc: str = "/etc",
             cgroup: str = "/sys/fs/cgroup") -> dict[str, Any]:
    """Raises StorageError, HostError."""
    from rootless.image import store as images

    states = [c.state() for c in store.every(paths)]
    running = [s for s in states if s.running]
    paused = sum(cgroups.paused(s) for s in running)
    kernel = os.uname()
    userns = keeper.open_userns(paths)
    os.close(userns.fd)
    return {
        "ID": _first_line(f"{etc}/machine-id"),
        "Containers": len(states),
        "ContainersRunning": len(running) - paused,
        "ContainersPaused": paused,
        "ContainersStopped": len(states) - len(running),
        "Images": len({i.id for i in images.every(paths)}),
        "Driver": "overlay",
        "DriverStatus": [["Backing Filesystem", _filesystem(paths.data)]],
        "Plugins": {"Volume": ["local"], "Network": ["bridge", "container", "host", "none"],
                    "Log": ["k8s-file", "none"]},
        "LoggingDriver": "k8s-file",
        "CgroupDriver": cgroups.place(paths, "").how or "none",
        "CgroupVersion": "2" if os.path.exists(f"{cgroup}/cgroup.controllers") else "1",
        "KernelVersion": kernel.release,
        "OperatingSystem": _system(f"{etc}/os-release"),
        "OSType": "linux",
        "Architecture": kernel.machine,
        "NCPU": len(os.sched_getaffinity(0)),
        "MemTotal": _memory(f"{proc}/meminfo"),
        "DockerRootDir": paths.data,
        "RunDir": paths.run,
        "Name": kernel.nodename,
        "SystemTime": now(),
        "ServerVersion": version,
        "SecurityOptions": ["name=seccomp,profile=builtin", *(["name=rootless"] * bool(paths.uid))],
        "IDMappings": {kind: [{"container_id": e.inside, "host_id": e.outside, "size": e.count}
                              for e in extents]
                       for kind, extents in (("uidmap", userns.uids), ("gidmap", userns.gids))},
        "Labels": [],
        "Warnings": [f"containers have one user id only: {userns.why}"] if userns.single else [],
    }


def of_version(version: str) -> dict[str, Any]:
    """docker's two parts are one program here."""
    here = parse_platform("")
    part = {"Version": version, "PythonVersion": _python(), "Os": here.os,
            "Arch": here.architecture, "KernelVersion": os.uname().release}
    return {"Client": part, "Server": part, **part}


def _python() -> str:
    import sys

    return ".".join(map(str, sys.version_info[:3]))


def _filesystem(path: str) -> str:
    kind = linux.statfs_type(path)
    return _FILESYSTEMS.get(kind, f"{kind:#x}")


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.readline().strip()
    except OSError:
        return ""


def _system(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            for line in f:
                key, _, value = line.strip().partition("=")
                if key == "PRETTY_NAME":
                    return value.strip("\"'")
    except OSError:
        pass
    return "Linux"


def _memory(path: str) -> int:
    try:
        with open(path, encoding="ascii") as f:
            for line in f:
                if line.startswith("MemTotal:"):
                    return int(line.split()[1]) << 10
    except (OSError, ValueError, IndexError):
        pass
    return 0
