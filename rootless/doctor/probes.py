"""The attempts. Each runs in a child process (`rootless.doctor.attempt`) and may do as it likes
with its namespaces, mounts and descriptors."""

from __future__ import annotations

import fcntl
import os
import stat
import struct

from rootless import linux
from rootless.userns import keeper
from rootless.userns.subid import Extent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rootless.doctor.attempt import Attempt

# <linux/if_tun.h>
TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _own_namespace(flags: int = 0) -> None:
    """A user namespace in which we are root and nobody else exists."""
    uid, gid = os.geteuid(), os.getegid()
    linux.unshare(linux.CLONE_NEWUSER | flags)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"0 {uid} 1\n")
    _write("/proc/self/gid_map", f"0 {gid} 1\n")


def user_namespace() -> Attempt:
    """What a container needs of the kernel, whatever its ids. /sys is a mount point everywhere."""
    yield "make a user namespace"
    _own_namespace()
    yield "make a mount namespace"
    linux.unshare(linux.CLONE_NEWNS)
    yield "mount in a user namespace"
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_SLAVE)
    linux.mount("tmpfs", "/sys", "tmpfs", 0)
    yield "make a user namespace inside another"
    _own_namespace()
    for name, flag in (("mount", linux.CLONE_NEWNS), ("network", linux.CLONE_NEWNET),
                       ("IPC", linux.CLONE_NEWIPC), ("UTS", linux.CLONE_NEWUTS),
                       ("cgroup", linux.CLONE_NEWCGROUP), ("process", linux.CLONE_NEWPID)):
        yield f"make a {name} namespace"
        linux.unshare(flag)
    yield "mount /proc for a container"
    child = os.fork()
    if child == 0:
        code = 0
        try:
            linux.mount("proc", "/sys", "proc", 0)
        except OSError as e:
            code = e.errno or 1
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != 0:
        raise OSError(code, os.strerror(code))
    return "made, mounted in, and nested"


def seccomp() -> Attempt:
    yield "load a system call filter"
    BPF_RET_K, SECCOMP_RET_ALLOW = 0x06, 0x7FFF0000
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.seccomp_filter(struct.pack("HBBI", BPF_RET_K, 0, 0, SECCOMP_RET_ALLOW))
    return "a filter was loaded"


def calls() -> Attempt:
    """Names of those that are missing: outer containers' filters hide some as ENOSYS or EPERM."""
    yield "try system calls"
    here = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    tries: tuple[tuple[str, Callable[[], object]], ...] = (
        ("pidfd_open", lambda: linux.pidfd_open(os.getpid())),
        ("openat2", lambda: linux.openat2(here, ".", os.O_PATH, resolve=linux.RESOLVE_IN_ROOT)),
        ("close_range", lambda: linux.close_range(900, 901)),
        ("open_tree", lambda: linux.open_tree(here, ".", 0)),
    )
    missing = [name for name, call in tries if not _does(call)]
    yield "make a user namespace"       # the rest changes mounts
    _own_namespace(linux.CLONE_NEWNS)
    here = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if not _does(lambda: linux.mount_setattr(here, "", linux.AT_EMPTY_PATH,
                                             propagation=linux.MS_PRIVATE)):
        missing.append("mount_setattr")
    if "open_tree" not in missing and not _does(lambda: linux.move_mount(
            linux.open_tree(here, "", linux.OPEN_TREE_CLONE | linux.AT_EMPTY_PATH
                            | linux.AT_RECURSIVE),
            os.open("/sys", os.O_PATH | os.O_CLOEXEC))):
        missing.append("move_mount")
    return ", ".join(missing)


def _does(call: Callable[[], object]) -> bool:
    try:
        call()
    except OSError:
        return False
    return True


def ids(uid: int) -> Attempt:
    """The maps, really made. Says `uid map|gid map|why there is one id only`."""
    yield "find subordinate ids"
    uids, gids, why = keeper.plan_maps(uid, os.getegid())
    yield "map ids"
    try:
        _mapped(uids, gids, uid)
    except keeper.HelperRefused as e:
        return f"0 {uid} 1|0 {os.getegid()} 1|{e}"
    return "|".join((",".join(e.line() for e in uids), ",".join(e.line() for e in gids), why))


def _mapped(uids: list[Extent], gids: list[Extent], uid: int) -> None:
    """Return in a new process that is root over these ids; this one waits for its end.

    Raises OSError or HelperRefused, in this process.
    """
    ready_r, ready_w = os.pipe()
    go_r, go_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go_w)
        try:
            linux.unshare(linux.CLONE_NEWUSER)
        except OSError as e:
            os.write(ready_w, str(e.errno).encode())
            os._exit(1)
        os.write(ready_w, b"ok")
        if os.read(go_r, 1) != b"g":
            os._exit(1)
        keeper.become_root(single=len(uids) == 1 and uids[0].count == 1)
        return
    os.close(ready_w)
    said = os.read(ready_r, 16)
    if said != b"ok":
        code = int(said or b"0")
        raise OSError(code, os.strerror(code))
    keeper.write_maps(pid, uids, gids, uid)
    os.write(go_w, b"g")
    os.waitpid(pid, 0)
    os._exit(0)


def overlay(place: str, uids: list[Extent], gids: list[Extent], uid: int) -> Attempt:
    """Everything that a container does to its root filesystem, on the filesystem of the store.

    `place` is an empty directory, which the caller removes.
    """
    yield f"use {place}"
    os.chdir(place)
    for name in ("lower", "lower/dir", "upper", "work", "merged"):
        os.mkdir(name, 0o755)
        if uid == 0:
            os.chown(name, uids[0].outside, gids[0].outside)
    for name in ("lower/file", "lower/dir/gone"):
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
        if uid == 0:
            os.chown(name, uids[0].outside, gids[0].outside)
    yield "map ids"
    _mapped(uids, gids, uid)
    yield "mount the overlay"
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_SLAVE)
    linux.mount("overlay", "merged", "overlay", 0,
                "lowerdir=lower,upperdir=upper,workdir=work,userxattr")
    yield "change a file of a layer"
    fd = os.open("merged/file", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    os.write(fd, b"changed")
    os.close(fd)
    if uids[0].count > 1 or len(uids) > 1:
        yield "give a file to another user of the container"
        os.chown("merged/file", 1, 1)
    yield "remove a file of a layer"
    os.unlink("merged/dir/gone")
    entry = os.lstat("upper/dir/gone")
    if not stat.S_ISCHR(entry.st_mode) or entry.st_rdev != 0:
        raise ValueError("the overlay left no whiteout")
    yield "replace a directory of a layer"
    os.rmdir("merged/dir")
    os.mkdir("merged/dir")
    if os.listdir("merged/dir"):
        raise ValueError("removed files came back")
    os.getxattr("upper/dir", "user.overlay.opaque")
    return "mounted and written"


def fuse() -> Attempt:
    """A FUSE mount needs no server until somebody asks it something."""
    yield "make a user namespace"
    _own_namespace(linux.CLONE_NEWNS)
    # The kernel wants the descriptor and the mount to be of one user namespace.
    yield "open /dev/fuse"
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    yield "mount a FUSE filesystem"
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_SLAVE)
    linux.mount("rootless", "/sys", "fuse", linux.MS_NOSUID | linux.MS_NODEV,
                f"fd={fd},rootmode=40000,user_id=0,group_id=0")
    return "opened and mounted"


def tun() -> Attempt:
    yield "make a network namespace"
    _own_namespace(linux.CLONE_NEWNET)
    yield "open /dev/net/tun"
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    yield "make a TUN device"
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"doctor0", IFF_TUN | IFF_NO_PI))
    return "opened, and a device made"
