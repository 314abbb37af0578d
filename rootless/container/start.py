"""Start a container: read its configuration, make the plan, hand it to a monitor."""

from __future__ import annotations

import marshal
import os

from rootless import errors, linux
from rootless.container import cgroups, frames, sharing, signals, store
from rootless.container.life import DEFAULT_STOP_SECONDS
from rootless.container.store import Container
from rootless.errors import Conflict, RootlessError, StartError
from rootless.files import read_bytes
from rootless.network.endpoints import joins
from rootless.runtime import capabilities, plan, seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.runtime.plan import RootMount
    from rootless.userns.keeper import Userns


def start(container: Container, userns: Userns, lock: int, monitor: int, *, stdin_once: bool,
          size: tuple[int, int] | None) -> None:
    """Send the plan; the monitor answers STARTED or FAILED on the same socket.

    `monitor`: socket of `early.fork_early()`. `size`: rows and columns of the terminal.
    The caller holds the container's `lock` until the answer. The monitor gets it too: a caller
    that is killed meanwhile leaves nobody else a half-started container to change.
    """
    made = prepare(container, userns, stdin_once=stdin_once, size=size)
    if os.environ.get("ROOTLESS_DEBUG"):
        start = made["start"]
        os.write(2, (cgroups.describe(start["cgroup"]) + plan.describe(start)).encode())
    _send(container, made, userns, monitor, [lock])


def prepare(container: Container, userns: Userns, *, stdin_once: bool,
            size: tuple[int, int] | None) -> dict[str, Any]:
    """All that a monitor is told. Raises RootlessError."""
    data = container.data
    if data.get("damaged"):
        raise StartError(f"container {container.id[:12]} is damaged: its record cannot be read",
                         hint=f"rootless rm -f {container.id[:12]}")
    config = container.config()
    if data.get("secret_variables"):
        from rootless.container import secrets

        config["process"]["env"] += secrets.environment(container.dir, data["secret_variables"])
    flat = flat_file(container)
    made = plan.build(config, root_mounts(container, userns), container.dir + "/rootfs",
                      container.paths.data, userns, volatile=data["rm"],
                      seccomp=seccomp_program(container, config, userns), size=size,
                      cgroup=cgroups.plan(container, config, _owner(userns)), flat=flat)
    return {
        "id": container.id,
        "name": container.name,
        "dir": container.dir,
        "store": container.paths.data,
        "socket": store.socket_path(container.paths, container.id),
        "log": (container.log, data["log_driver"], *data.get("log_limits", (0, 1)))
               if data["log_driver"] != "none" else None,
        "tty": data["tty"],
        "stdin": data["stdin"],
        "stdin_once": stdin_once,
        "rm": data["rm"],
        "volumes": [m["volume"] for m in data["mounts"] if m.get("anonymous")],
        "boot": store.boot_id(),
        "run": container.paths.run,
        "networks": joins(data["network"]),
        "host": os.uname().nodename,
        "restart": tuple(data.get("restart") or ("no", 0)),
        "timeout": data.get("timeout") or 0,
        "health": data.get("health"),
        "stop": (signals.number(data["stop_signal"] or "TERM"),
                 DEFAULT_STOP_SECONDS if data["stop_timeout"] is None else data["stop_timeout"]),
        "actor": {**data["labels"], "image": str(data["image"]), "name": container.name},
        "start": made,
    }


def _send(container: Container, made: dict[str, Any], userns: Userns, monitor: int,
          lock: list[int]) -> None:
    shared = _shared(container)
    below, other = shared if shared else (userns.fd, [])
    frames.send_with_fds(monitor, frames.frame(frames.PLAN, marshal.dumps(made)),
                         [below, *lock, *other])
    for fd in (*other, *([below] if shared else [])):
        os.close(fd)


def start_again(before: dict[str, Any], monitor: int) -> None:
    """In a child of the monitor: the plan for one that is started again, as `before`."""
    from rootless import paths as places
    from rootless.userns import keeper

    os.environ["ROOTLESS_ROOT"] = before["store"]
    try:
        paths = places.of_this_user()
        container = store.load(paths, before["id"])
        if container is None:
            raise StartError("cannot start the container again: its directory is gone")
        userns = keeper.open_userns(paths)
        _send(container, prepare(container, userns, stdin_once=False, size=None), userns, monitor,
              [])
    except RootlessError as e:
        frames.send(monitor, frames.frame(frames.PLAN, marshal.dumps(
            (type(e).__name__, e.message, e.hint))))


def _shared(container: Container) -> tuple[int, list[int]] | None:
    """`--network`, `--pid` or `--ipc container:ID`: the user namespace that the other one's lies
    in, and a pidfd of its process. It may have been started from a namespace that the keeper
    holds no more."""
    other = sharing.other_of(container)
    if other is None:
        return None
    from rootless.container import exec as entering

    try:
        pidfd, pid = entering.entrance(other)
    except Conflict:
        raise StartError(f"cannot start {container.name}: it shares namespaces of container "
                         f"{other.name}, which is not running",
                         hint=f"rootless start {other.name}") from None
    import fcntl

    own = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    if container.config()["annotations"]["org.rootless.shared"] != "user":
        return own, [pidfd]
    try:
        return fcntl.ioctl(own, linux.NS_GET_PARENT), [pidfd]
    finally:
        os.close(own)


def _owner(userns: Userns) -> tuple[int, int] | None:
    """Who owns what the container may divide, where that is not the user."""
    root = userns.uids[0].outside
    return (root, userns.gids[0].outside) if root != os.geteuid() else None


def root_mounts(container: Container, userns: Userns) -> list[RootMount]:
    data, where = container.data, container.dir
    if data["host_root"]:
        from rootless.storage import hostroot

        return [(m.at, list(m.lower), m.upper, m.work, m.through)
                for m in hostroot.prepare(container.paths, userns, where)]
    lower = [container.paths.layer(d)
             for d in reversed(data["layers"][data.get("covered", 0):])]
    if data.get("flat"):
        lower = [where + "/flat"]
        os.makedirs(lower[0], exist_ok=True)
    if not lower:
        # An image without layers; overlay wants one.
        os.makedirs(where + "/empty", exist_ok=True)
        lower = [where + "/empty"]
    return [("", lower, where + "/upper", where + "/work", False)]


def flat_file(container: Container) -> tuple[str, str, str] | None:
    """Raises HostError when there is no squashfuse, StartError when the file is gone."""
    file = container.data.get("flat")
    if not file:
        return None
    from rootless.errors import HostError
    from rootless.runtime.squash import PROGRAMS
    from rootless.userns.subid import find_program

    program = next((p for p in map(find_program, PROGRAMS) if p), None)
    if program is None:
        raise HostError(f"cannot run {file}: squashfuse is not installed",
                        hint="ask the administrator to run: apt-get install squashfuse")
    if not os.path.exists(file):
        raise StartError(f"cannot start {container.name}: its image is gone: {file}",
                         hint=f"put the file back, or rootless rm {container.name}")
    return program, file, f"containers/{container.id}/flat"


def seccomp_program(container: Container, config: dict[str, Any], userns: Userns) -> bytes:
    """The compiled filter of the container's profile."""
    choice = config["annotations"]["org.rootless.seccomp"]
    caps = frozenset(capabilities.names(
        capabilities.mask(config["process"]["capabilities"]["bounding"])))
    if choice == "unconfined":
        return seccomp.fake_only() if userns.single else b""
    if choice == "default":
        return seccomp.default_filter(container.paths.cache, caps=caps, fake_ids=userns.single)
    import json

    try:
        profile = json.loads(read_bytes(container.dir + "/seccomp.json"))
    except (OSError, ValueError) as e:
        raise StartError(f"cannot read the container's seccomp profile: {e}") from None
    return seccomp.compile_profile(profile, arch=os.uname().machine, caps=caps,
                                   kernel=seccomp.running_kernel(), fake_ids=userns.single)


def failure(payload: bytes) -> RootlessError:
    """The error a monitor told."""
    kind, message, hint = marshal.loads(payload)
    found = getattr(errors, kind, StartError)
    error: RootlessError = found(message, hint=hint)
    return error
