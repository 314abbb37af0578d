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
- L enters the container's cgroup before it clones, so no process of the container is outside.
- Until its exec, I cannot be traced or opened through /proc by a process of the container
  (PR_SET_DUMPABLE 0): the interpreter's file stays out of reach (CVE-2019-5736).
- Whatever goes wrong on the way is told on the status pipe as (kind, message, hint); the pipe
  closing without a word means that the command runs.
"""

from __future__ import annotations

import os

from rootless import linux
from rootless.errors import RootlessError, StartError, os_reason
from rootless.runtime import init, process, squash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    Plan = dict[str, Any]


def launch(plan: Plan, userns: int, status: int, ready: int, tty: int,
           network: tuple[int, int] | None, shared: list[int]) -> NoReturn:
    """The launcher's whole life. Descriptors 0, 1, 2 are the container's.

    `status`: pipe for failures, kept by I until its exec. `ready`: pipe on which the pid of I
    is told. `tty`: socket on which I hands over the terminal's master, or -1. `network`: where
    the container joins networks, a socket on which L hands over an rtnetlink socket of the
    container's namespace, and a pipe on which I is told that it has joined. `shared`: a pidfd,
    where the container is in namespaces of another.
    """
    try:
        process.oom_score(plan["process"])
        if not _enter_cgroup(plan["cgroup"]):
            plan["steps"] = [_cgroup_readonly(step) for step in plan["steps"]]
        pid, inside = _clone_container(plan, userns, status, ready, tty, network, shared)
        os.write(ready, f"{pid} {inside}\n".encode())
        if network is not None:
            _hand_over_network(network[0])
        os._exit(0)
    except RootlessError as e:
        process.report(status, e)
    except OSError as e:
        process.report(status, StartError(f"cannot start the container: {_told(e)}"))
    finally:
        process.give_up(status)


def _enter_cgroup(cgroup: Plan) -> bool:
    """See rootless.cgroup.make.enter."""
    if not cgroup["how"]:
        return False
    from rootless.cgroup import make

    return make.enter(cgroup, os.getppid())


def _cgroup_readonly(step: tuple[Any, ...]) -> tuple[Any, ...]:
    if step[:2] == ("mount", "cgroup2"):
        _, fstype, source, where, flags, data = step
        return ("mount", fstype, source, where, flags | linux.MS_RDONLY, data)
    return step


def _told(error: OSError) -> str:
    name = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
    return f"{name}{os_reason(error)}"


def _hand_over_network(sock: int) -> None:
    """The last that L does, in the container's network namespace."""
    from rootless.linux import netlink

    link = netlink.open_socket()
    process.send_fd(sock, link)


def _clone_container(plan: Plan, userns: int, status: int, ready: int, tty: int,
                     network: tuple[int, int] | None, shared: list[int]) -> tuple[int, int]:
    """(pid of I, the inode of its mount namespace)."""
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
    flat = plan["root"]["flat"]
    served = squash.serve(*flat[:2]) if flat else None
    linux.unshare(linux.CLONE_NEWNS)
    # Ours never reach the host; the host's still reach volumes that ask for it (rslave).
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_SLAVE)
    if served is not None:
        squash.mount(*served, flat[2], flat[1])
    mount_root(plan["root"])
    for other in shared:
        plan["steps"] = [("tree", _tree_of(other, step[1]), step[2]) if step[0] == "other" else step
                         for step in plan["steps"]]
        # The namespaces and the one that has power over them: without it, no port below 1024.
        linux.setns(other, plan["shared"])
        os.close(other)

    go_r, go_w = os.pipe()
    pid = linux.clone(plan["namespaces"] | linux.CLONE_PARENT)
    if pid == 0:
        try:
            os.close(go_w)
            os.close(ready)
            if os.read(go_r, 1) != b"g":
                os._exit(1)
            os.close(go_r)
            init.become(plan, status, tty, -1 if network is None else network[1])
        except RootlessError as e:
            process.report(status, e)
        except OSError as e:
            process.report(status, StartError(f"cannot start the container: {_told(e)}"))
        finally:
            process.give_up(status)
    os.close(go_r)
    if plan["namespaces"] & linux.CLONE_NEWUSER:
        for kind in ("uid", "gid"):
            if kind == "gid" and plan["single"]:
                _write(f"/proc/{pid}/setgroups", "deny")
            _write(f"/proc/{pid}/{kind}_map", plan[f"{kind}_map"])
    inside = os.stat(f"/proc/{pid}/ns/mnt").st_ino if plan["scattered"] else 0
    if network is not None:
        # Now, as I closes its files in /proc to everybody once it goes on.
        namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        os.write(go_w, b"g")
        linux.setns(namespace, linux.CLONE_NEWNET)
        return pid, inside
    os.write(go_w, b"g")
    return pid, inside


def _tree_of(pidfd: int, path: str) -> int:
    """What is mounted at a path of another container, detached from there."""
    import _socket

    ours, theirs = _socket.socketpair()
    child = os.fork()
    if child == 0:
        try:
            linux.setns(pidfd, linux.CLONE_NEWUSER | linux.CLONE_NEWNS)
            process.send_fd(theirs.fileno(), linux.open_tree(linux.AT_FDCWD, path,
                                                             linux.OPEN_TREE_CLONE))
        finally:
            os._exit(0)
    theirs.close()
    tree = process.receive_fd(ours.fileno())
    ours.close()
    os.waitpid(child, 0)
    if tree < 0:
        raise StartError(f"cannot start the container: {path} of the other one cannot be reached")
    return tree


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _open_directory(store: str, path: str) -> int:
    """By a path relative to the store, where we stand, for what lies in it."""
    if path.startswith(store + "/"):
        path = path[len(store) + 1:]
    try:
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as e:
        raise StartError(f"cannot start the container: a layer or directory is missing: "
                         f"{os.fsdecode(e.filename)}",
                         hint="pull the image again, or remove the container") from None


def mount_root(root: Plan) -> None:
    """Mount the root filesystem and stand in it.

    Layers are named by descriptor, relative to /proc/self/fd: a mount's options must fit in one
    page, which 60 layers by full path do not.

    An overlay whose lowest layer is an ancestor of its upper directory is refused (ELOOP). Such a
    layer is mounted as an overlay of its own first, over an empty directory on a tmpfs.
    """
    # The kernel takes no layer twice; of the same two, the upper one hides the lower.
    opened = [([_open_directory(root["store"], p) for p in dict.fromkeys(lower)],
               _open_directory(root["store"], upper), _open_directory(root["store"], work))
              for _, lower, upper, work, _ in root["mounts"]]
    target = _open_directory(root["store"], root["target"])
    os.chdir("/proc/self/fd")
    if any(m[4] for m in root["mounts"]):
        linux.mount("tmpfs", str(target), "tmpfs", 0, "mode=755")
        aside = _topmost(target, root["target"])
        for i, (_, _, _, _, through) in enumerate(root["mounts"]):
            if through:
                opened[i][0][-1] = _through(aside, i, opened[i][0][-1])
        os.chdir("/proc/self/fd")
    if root["volatile"]:
        for _, _, work in opened:
            _mountable_again(work)
    inside = target
    for (at, _, _, _, _), (layers, upper, work) in zip(root["mounts"], opened):
        # volatile (Linux 5.10): no sync of a root filesystem that is thrown away at its end.
        options = (f"lowerdir={':'.join(map(str, layers))},upperdir={upper},workdir={work},"
                   f"userxattr{',volatile' if root['volatile'] else ''}")
        _overlay(f"{inside}/{at}" if at else str(target), options, "/" + at)
        if not at:
            inside = _topmost(target, root["target"])
            os.chdir("/proc/self/fd")
    os.fchdir(inside)


def _mountable_again(work: int) -> None:
    """An overlay that was mounted volatile is refused until this mark is away: after a crash its
    files may not be whole. What is thrown away at its end may be started again all the same."""
    try:
        os.unlink("work/incompat/volatile/dirty", dir_fd=work)
        os.rmdir("work/incompat/volatile", dir_fd=work)
    except FileNotFoundError:
        pass


def _through(aside: int, number: int, layer: int) -> int:
    """Descriptor of `layer` as an overlay shows it."""
    for name in (f"{number}.empty", f"{number}.layer"):
        os.mkdir(name, dir_fd=aside)
    empty = os.open(f"{number}.empty", os.O_PATH | os.O_CLOEXEC, dir_fd=aside)
    os.chdir("/proc/self/fd")
    _overlay(f"{aside}/{number}.layer", f"lowerdir={empty}:{layer},userxattr", "(aside)")
    return os.open(f"{number}.layer", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=aside)


def _overlay(target: str, options: str, name: str) -> None:
    try:
        linux.mount("overlay", target, "overlay", 0, options)
    except OSError as e:
        raise StartError(f"cannot mount the root filesystem (overlay) at {name}: {os_reason(e)}",
                         hint="rootless doctor tells whether this filesystem can hold the "
                              "store") from None


def _topmost(target: int, path: str) -> int:
    """What is mounted on `target`: up and down again, as the descriptor is of what lies below."""
    os.fchdir(target)
    os.chdir("../" + path.rsplit("/", 1)[1])
    return os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
