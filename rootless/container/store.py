"""Containers on disk, and what they are doing now.

`containers/<id>/` is made first, its name is claimed by a symbolic link `names/<name>`, and
`container.json`, written last, publishes it: a directory without one is being made (its maker
holds a flock on it) or was left by a killed maker, and is cleared by the next who meets it.

What a container does is never believed from disk alone: `state.json` names the first process by
pid, start time, boot id and host, and /proc says whether it is still that process.
"""

from __future__ import annotations

import fcntl
import os

from rootless import events, jsontext
from rootless.errors import Conflict, NotFound, StorageError, os_reason
from rootless.files import Lock, lock_directory, read_bytes, write_atomic
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.paths import Paths

HEX = frozenset("0123456789abcdef")
_CONFIGURED = {"process", "root", "hostname", "mounts", "linux", "annotations"}


@record(frozen=True)
class State:
    """`status`: created, running, restarting or exited. Times are RFC 3339 or "". `pid` is 0 unless
    running. `code`, `finished`: of the last end. `stopped`: on purpose. `cgroup`: the path of its
    own, also of one that was left behind. `oom`: the kernel killed in it for want of memory."""

    status: str
    pid: int = 0
    code: int = 0
    started: str = ""
    finished: str = ""
    error: str = ""
    socket: str = ""
    elsewhere: str = ""
    cgroup: str = ""
    oom: bool = False
    restarts: int = 0
    stopped: bool = False

    @property
    def running(self) -> bool:
        """Has it a monitor that looks after it? So it is too while it waits to be started again."""
        return self.status in ("running", "restarting")


class Container:
    """One container: its record (`container.json`, fixed at creation) and its changing state."""

    def __init__(self, paths: Paths, cid: str, data: dict[str, Any]) -> None:
        self.paths = paths
        self.id = cid
        self.data = data
        self.dir = paths.container(cid)

    @property
    def name(self) -> str:
        return str(self.data["name"])

    @property
    def log(self) -> str:
        return self.dir + "/log"

    def config(self) -> dict[str, Any]:
        """The OCI runtime configuration. Raises StorageError."""
        path = self.dir + "/config.json"
        try:
            data = jsontext.loads(read_bytes(path))
        except OSError as e:
            raise StorageError(f"cannot read container {self.id[:12]}: {path}: {os_reason(e)}",
                               hint=f"rootless rm -f {self.id[:12]} removes it") from None
        except ValueError:
            data = None
        if not isinstance(data, dict) or not data.keys() >= _CONFIGURED:
            raise StorageError(f"container {self.id[:12]} is damaged: {path} is not valid",
                               hint=f"rootless rm -f {self.id[:12]} removes it")
        return data

    def state(self) -> State:
        try:
            return _state(jsontext.loads(read_bytes(self.dir + "/state.json")))
        except FileNotFoundError:
            return State("created")
        except (OSError, ValueError, KeyError, TypeError):
            return State("exited", code=255, error="its state on disk is damaged")

    def event(self, action: str, **more: str) -> None:
        """Into the journal, with what docker tells of a container."""
        data = self.data
        events.emit(self.paths.data, "container", action, self.id,
                    {**data["labels"], "image": str(data["image"]), "name": self.name, **more})

    def health(self, state: State) -> str:
        """starting, healthy or unhealthy; "" where it does not run or nobody checks."""
        if not self.data.get("health") or state.status != "running":
            return ""
        try:
            return str(jsontext.loads(read_bytes(self.dir + "/health.json"))["Status"])
        except (OSError, ValueError, KeyError, TypeError):
            return "starting"

    def lock(self) -> int:
        """Exclusive right to change the container; close the descriptor to give it back.

        Raises NotFound when it was removed meanwhile.
        """
        fd = lock_directory(self.dir)
        if fd >= 0:
            return fd
        raise NotFound(f"no such container: {self.id[:12]}: it was removed meanwhile")


_boot: list[str] = []


def boot_id() -> str:
    if not _boot:
        _boot.append(read_bytes("/proc/sys/kernel/random/boot_id", 128).decode().strip())
    return _boot[0]


def _state(raw: dict[str, Any]) -> State:
    if raw["status"] == "exited":
        return State("exited", code=int(raw["code"]), started=str(raw["started"]),
                     finished=str(raw["finished"]), error=str(raw["error"]),
                     oom=raw.get("oom") is True, restarts=raw.get("restarts", 0),
                     stopped=raw.get("stopped", False))
    if raw["host"] != os.uname().nodename:
        # A home directory shared by several machines: only that one can tell.
        return State("running", pid=0, started=raw["started"], elsewhere=raw["host"])
    if raw["boot"] != boot_id():
        return State("exited", code=255, started=raw["started"],
                     error="the machine was restarted while it ran")
    if raw["status"] == "starting" and _lives(raw["monitor"], raw["monitor_ticks"]):
        return State("created")
    if raw["status"] == "restarting":
        if _lives(raw["monitor"], raw["monitor_ticks"]):
            return State("restarting", code=raw["code"], started=raw["started"],
                         finished=raw["finished"], socket=raw["socket"],
                         restarts=raw["restarts"])
        return State("exited", code=raw["code"], started=raw["started"],
                     finished=raw["finished"], restarts=raw["restarts"],
                     error="its monitor was killed before it was started again")
    # While its monitor lives, one that has ended is being written down this instant.
    if _lives(raw["pid"], raw["ticks"]) or _lives(raw["monitor"], raw["monitor_ticks"]):
        return State("running", pid=raw["pid"], started=raw["started"], socket=raw["socket"],
                     cgroup=str(raw.get("cgroup", "")), restarts=raw.get("restarts", 0))
    return State("exited", code=255, started=raw["started"], cgroup=str(raw.get("cgroup", "")),
                 error="its monitor was killed, so its exit code is not known")


def _lives(pid: int, ticks: str) -> bool:
    """Is it still that process? A zombie is not: where nobody reaps orphans, as in many a
    container whose first process is no init, it stays for ever."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            text = f.read()
    except OSError:
        return False
    fields = text[text.rindex(b")") + 2:].split()
    return fields[19].decode() == ticks and fields[0] not in (b"Z", b"X")


def load(paths: Paths, cid: str) -> Container | None:
    """The container of a full id; None when there is none (any more, or yet)."""
    try:
        data = jsontext.loads(read_bytes(f"{paths.containers}/{cid}/container.json"))
        return Container(paths, cid, _sound(data, cid))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        return Container(paths, cid, _damaged(cid))


# What can be listed without having been checked any further.
_LISTED = ("name", "image", "image_id", "command", "created", "labels")


def _sound(data: object, cid: str) -> dict[str, Any]:
    stand_in = _damaged(cid)
    if isinstance(data, dict) and all(isinstance(data.get(key), type(stand_in[key]))
                                      for key in _LISTED):
        return data
    return stand_in


def _damaged(cid: str) -> dict[str, Any]:
    """Enough of a record to list, stop and remove a container whose own is lost."""
    return {"id": cid, "name": "", "image": "<damaged>", "image_id": "", "command": [],
            "created": "", "labels": {}, "damaged": True, "layers": [], "host_root": False,
            "entrypoint": [], "tty": False, "stdin": False, "rm": False, "network": "none",
            "mounts": [], "privileged": False, "cap_add": [], "cap_drop": [], "userns": "",
            "stop_signal": "", "stop_timeout": None, "detach_keys": "", "log_driver": "k8s-file",
            "ports": []}


def every(paths: Paths) -> list[Container]:
    """All containers, newest first."""
    try:
        ids = os.listdir(paths.containers)
    except FileNotFoundError:
        return []
    found = [c for c in (load(paths, i) for i in ids if len(i) == 64) if c is not None]
    found.sort(key=lambda c: str(c.data["created"]), reverse=True)
    return found


def find(paths: Paths, text: str) -> Container:
    """By name, full id or unique prefix of an id. Raises NotFound or Conflict."""
    if text and "/" not in text and text not in (".", ".."):
        try:
            found = load(paths, os.readlink(f"{paths.names}/{text}"))
            if found is not None:
                return found
        except OSError:
            pass
        if HEX.issuperset(text) and len(text) <= 64:
            try:
                ids = [i for i in os.listdir(paths.containers) if i.startswith(text)]
            except FileNotFoundError:
                ids = []
            matches = [c for c in (load(paths, i) for i in ids) if c is not None]
            if len(matches) == 1:
                return matches[0]
            if matches:
                raise Conflict(f"several containers have an id that starts with {text}",
                               hint="type more of the id")
    raise NotFound(f"no such container: {text}", hint="rootless ps -a lists all")


NAME_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


def valid_name(name: str) -> bool:
    """[a-zA-Z0-9][a-zA-Z0-9_.-]*"""
    return (1 <= len(name) <= 255 and NAME_CHARS.issuperset(name)
            and name[0] not in "_.-")


def socket_path(paths: Paths, cid: str) -> str:
    """Where the container's monitor listens; a Unix socket's path has 107 bytes at most."""
    return f"{paths.run}/{cid[:24]}.sock"


def new_id(paths: Paths) -> tuple[str, int]:
    """A fresh id with its directory, and the lock that marks it as being made."""
    while True:
        cid = os.urandom(32).hex()
        # An id of digits only would be taken for a number by scripts.
        if cid[:12].isdigit():
            continue
        path = paths.container(cid)
        os.mkdir(path, 0o711)
        fd = lock_directory(path)
        if fd >= 0:
            return cid, fd
        # Swept by another command before the lock was ours.


def claim_name(paths: Paths, name: str, cid: str) -> None:
    """Bind a name to an id. Raises Conflict when another container has it."""
    link = f"{paths.names}/{name}"
    while True:
        try:
            os.symlink(cid, link)
            return
        except FileExistsError:
            pass
        try:
            holder = os.readlink(link)
        except FileNotFoundError:
            continue
        if not _abandoned(paths, holder):
            raise Conflict(f"the name {name} is already in use by container {holder[:12]}",
                           hint=f"rootless rm {name} removes that one; or choose another name")
        _release_abandoned(paths, link, holder)


def _abandoned(paths: Paths, cid: str) -> bool:
    """Is the directory gone, or left unfinished by a maker that is no more? Then clear it."""
    path = paths.container(cid)
    try:
        if os.path.exists(path + "/container.json"):
            return False
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.exists(path + "/container.json"):
            return False
        from rootless.storage import trash

        # Still locked: its maker may only just have made it, and will see that it is gone.
        trash.discard(paths, path)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(fd)


def sweep(paths: Paths) -> None:
    """Clear what makers left that were killed: directories without a record, names of nobody."""
    for cid in _listed(paths.containers):
        if not os.path.exists(f"{paths.containers}/{cid}/container.json"):
            _abandoned(paths, cid)
    for name in _listed(paths.names):
        link = f"{paths.names}/{name}"
        try:
            holder = os.readlink(link)
        except OSError:
            continue        # the lock, or gone
        if not os.path.exists(paths.container(holder)):
            _release_abandoned(paths, link, holder)


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def _release_abandoned(paths: Paths, link: str, holder: str) -> None:
    """One at a time: who comes second finds another link here and leaves it."""
    with Lock(f"{paths.names}/.lock"):
        try:
            if os.readlink(link) == holder:
                os.unlink(link)
        except FileNotFoundError:
            pass


def release_name(paths: Paths, name: str, cid: str) -> None:
    """After the container has left: a kill in between leaves a name of nobody, which anybody may
    claim, never a container without its name."""
    if name:
        _release_abandoned(paths, f"{paths.names}/{name}", cid)


def publish(paths: Paths, cid: str, data: dict[str, Any], config: dict[str, Any]) -> Container:
    """Write the configuration, then the record that makes the container exist."""
    where = paths.container(cid)
    write_atomic(where + "/config.json", jsontext.dumps(config).encode())
    write_atomic(where + "/container.json", jsontext.dumps(data).encode())
    return Container(paths, cid, data)


def reconfigure(container: Container, config: dict[str, Any]) -> None:
    """Replace the configuration. The caller holds the lock. Raises StorageError."""
    write_atomic(container.dir + "/config.json", jsontext.dumps(config).encode())


def remove(container: Container, *, volumes: bool = False) -> None:
    """Out of the store at once, then its files, and `volumes`: those it has that nobody named.
    The caller holds the lock and knows it is idle."""
    from rootless.storage import trash

    left = container.state().cgroup
    if left:
        from rootless.container import cgroups

        cgroups.clear_left(container.paths, left)
    try:
        os.unlink(socket_path(container.paths, container.id))      # of a monitor that was killed
    except OSError:
        pass
    trash.take(container.paths, container.dir)
    container.event("destroy")
    release_name(container.paths, container.name, container.id)
    trash.empty(container.paths)
    if volumes and any(m.get("anonymous") for m in container.data.get("mounts", ())):
        from rootless.container import volumes as mounted

        mounted.discard(container.paths, mounted.nameless(container.data))
