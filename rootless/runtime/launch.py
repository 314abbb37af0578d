"""From a plan to a running container: the two processes between the monitor and the command.

Actors. The monitor M (host namespaces, the user's own id) forks the launcher L. L joins the
user's namespace, where it is root over all subordinate ids, takes a mount namespace of its own,
mounts the root filesystem there, and clones the container's first process I into all the
container's namespaces, as M's child (CLONE_PARENT), so that M can wait for it. L writes I's id
maps, which only a process in the parent user namespace may do, and ends. I carries out the rest
of the plan (`rootless.runtime.init`) and becomes the command.

Invariants.
- The root filesystem is mounted in L's and I's mount namespaces only. However any process ends,
  the mount goes with the container; nothing outside ever sees it.
- I has no capability over anything but its own namespaces: its user namespace is a child of the
  one it was cloned from, unless the plan says `host`.
- Until its exec, I cannot be traced or opened through /proc by a process of the container
  (PR_SET_DUMPABLE 0): the interpreter's file stays out of reach (CVE-2019-5736).
- Whatever goes wrong on the way is told on the status pipe as (kind, message, hint); the pipe
  closing without a word means that the command runs.
"""

from __future__ import annotations

import os

from rootless import linux
from rootless.errors import RootlessError, StartError, os_reason
from rootless.runtime import init, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    Plan = dict[str, Any]


def launch(plan: Plan, userns: int, status: int, ready: int, tty: int) -> NoReturn:
    """The launcher's whole life. Descriptors 0, 1, 2 are the container's.

    `status`: pipe for failures, kept by I until its exec. `ready`: pipe on which the pid of I
    is told. `tty`: socket on which I hands over the terminal's master, or -1.
    """
    try:
        pid = _clone_container(plan, userns, status, ready, tty)
        os.write(ready, f"{pid}\n".encode())
        os._exit(0)
    except RootlessError as e:
        process.report(status, e)
    except OSError as e:
        process.report(status, StartError(f"cannot start the container: {_told(e)}"))
    finally:
        os._exit(1)


def _told(error: OSError) -> str:
    name = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
    return f"{name}{os_reason(error)}"


def _clone_container(plan: Plan, userns: int, status: int, ready: int, tty: int) -> int:
    # For root, parents of the store may be closed to the unprivileged range: the working
    # directory is carried over into the new mount namespace, and leads in.
    os.chdir(plan["root"]["store"])
    linux.setns(userns, linux.CLONE_NEWUSER)
    # Readable to our own user again, so that /proc/PID/uid_map of the clone can be written.
    linux.prctl(linux.PR_SET_DUMPABLE, 1)
    if not plan["single"]:
        os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    linux.prctl(linux.PR_SET_DUMPABLE, 1)
    linux.unshare(linux.CLONE_NEWNS)
    # Ours never reach the host; the host's still reach volumes that ask for it (rslave).
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_SLAVE)
    mount_root(plan["root"])

    go_r, go_w = os.pipe()
    pid = linux.clone(plan["namespaces"] | linux.CLONE_PARENT)
    if pid == 0:
        try:
            os.close(go_w)
            os.close(ready)
            if os.read(go_r, 1) != b"g":
                os._exit(1)
            os.close(go_r)
            init.become(plan, status, tty)
        except RootlessError as e:
            process.report(status, e)
        except OSError as e:
            process.report(status, StartError(f"cannot start the container: {_told(e)}"))
        finally:
            os._exit(1)
    os.close(go_r)
    if plan["namespaces"] & linux.CLONE_NEWUSER:
        for kind in ("uid", "gid"):
            if kind == "gid" and plan["single"]:
                _write(f"/proc/{pid}/setgroups", "deny")
            _write(f"/proc/{pid}/{kind}_map", plan[f"{kind}_map"])
    os.write(go_w, b"g")
    return pid


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _open_roots(root: Plan) -> list[int]:
    """Descriptors of every layer, upper and work directory, in the order of the mounts, and of
    the target; the working directory is the store."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    store = root["store"] + "/"
    paths = [p for _, lower, upper, work in root["mounts"] for p in (*lower, upper, work)]
    try:
        return [os.open(p[len(store):] if p.startswith(store) else p, flags)
                for p in (*paths, root["target"])]
    except FileNotFoundError as e:
        raise StartError(f"cannot start the container: a layer or directory is missing: "
                         f"{os.fsdecode(e.filename)}",
                         hint="pull the image again, or remove the container") from None


def mount_root(root: Plan) -> None:
    """Mount the root filesystem and stand in it.

    Layers are named by descriptor, relative to /proc/self/fd: a mount's options must fit in one
    page, which 60 layers by full path do not.
    """
    fds = _open_roots(root)
    inside = target = fds[-1]
    used = 0
    for at, lower, _, _ in root["mounts"]:
        n = len(lower)
        layers, upper, work = fds[used:used + n], fds[used + n], fds[used + n + 1]
        used += n + 2
        # volatile (Linux 5.10): no sync of a root filesystem that is thrown away at its end.
        options = (f"lowerdir={':'.join(map(str, layers))},upperdir={upper},workdir={work},"
                   f"userxattr{',volatile' if root['volatile'] else ''}")
        os.chdir("/proc/self/fd")
        try:
            linux.mount("overlay", f"{inside}/{at}" if at else str(target), "overlay", 0, options)
        except OSError as e:
            raise StartError(f"cannot mount the root filesystem (overlay) at /{at}: "
                             f"{os_reason(e)}",
                             hint="rootless doctor tells whether this filesystem can hold the "
                                  "store") from None
        if not at:
            # Up and down again: the descriptor is of the directory below the mount.
            os.fchdir(target)
            os.chdir("../" + root["target"].rsplit("/", 1)[1])
            inside = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.fchdir(inside)
