"""The container's first process: carries out the plan and becomes the command.

It stands in the mounted root filesystem (its working directory), in fresh namespaces, with all
capabilities over them and none over anything else. Steps of the plan, in order:

    ("mount", fstype, source, target, flags, data)      a filesystem of the kernel's
    ("bind", source, target, attrs, recursive, kind, propagation)   something of the host's
    ("other", source, target)                           another container's: the launcher makes it
    ("tree", descriptor, target)                        a detached mount
    ("symlink", to, path)
    ("mask", path)                                      hidden: /dev/null or an empty directory
    ("readonly", path)                                  seen, not written
    ("file", path, mode)                                an empty file, where there is none
    ("sysctl", name, value)                             while /proc/sys can still be written

A target is resolved inside the root by openat2(RESOLVE_IN_ROOT), whatever links the image holds;
kernel filesystems are never mounted through a link at all (CVE-2019-19921). Binds are cloned
with open_tree, made read-only while still detached, and attached to the very object that was
resolved, so no path is walked twice.
"""

from __future__ import annotations

import errno
import fcntl
import os

from rootless import linux
from rootless.errors import StartError, os_reason
from rootless.runtime import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    Plan = dict[str, Any]

O_PATH = os.O_PATH | os.O_CLOEXEC
LINKS = 40      # that lead from one to the next, as in path_resolution(7)
_KERNEL = frozenset(("proc", "sysfs", "cgroup2", "mqueue", "devpts"))


def become(plan: Plan, status: int, tty: int, network: int) -> NoReturn:
    """Set up the container around this process and exec the command. `network`: pipe on which
    is told that it has joined its networks, or -1."""
    # Unmapped until the launcher wrote the maps; now root inside.
    if plan["namespaces"] & linux.CLONE_NEWUSER:
        process.become_mapped_root(single=plan["single"])
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    os.umask(0)
    os.setsid()
    try:
        linux.join_session_keyring()
    except OSError as e:
        # Without keyrings in the kernel, or with the user's quota of keys used up, there is
        # nothing to keep apart or no way to; docker goes on too.
        if e.errno not in (errno.ENOSYS, errno.EDQUOT, errno.EPERM):
            raise
    process.preload(plan["process"])
    if plan["hostname"]:
        linux.sethostname(plan["hostname"])
    if plan["domainname"]:
        linux.setdomainname(plan["domainname"])
    if plan["loopback"]:
        loopback_up()
    root = own_root()
    for step in plan["steps"]:
        take(root, step)
    slave = open_terminal(root, tty, plan["process"]) if tty >= 0 else -1
    os.fchdir(root)
    linux.pivot_root(".", ".")
    linux.umount2(".", linux.MNT_DETACH)
    os.chdir("/")
    os.close(root)
    for path in plan["readonly"]:
        linux.mount_setattr(linux.AT_FDCWD, path, 0, attr_set=linux.MOUNT_ATTR_RDONLY)
    os.umask(0o022)
    if network >= 0 and os.read(network, 1) != b"n":
        os._exit(1)     # it could not; the monitor knows why
    process.run(plan["process"], status, slave)


def own_root() -> int:
    """The root filesystem, where we stand, as a mount of our own over itself.

    The one that came along is locked to what it covers, as all mounts from a more privileged
    namespace are (mount_namespaces(7)), and pivot_root refuses it.
    """
    under = os.open(".", O_PATH | os.O_DIRECTORY)
    tree = linux.open_tree(under, "", linux.OPEN_TREE_CLONE | linux.AT_EMPTY_PATH
                           | linux.AT_RECURSIVE)
    linux.move_mount(tree, under)
    os.close(under)
    os.fchdir(tree)
    return tree


def take(root: int, step: tuple[Any, ...]) -> None:
    """One step of the plan. Raises StartError that names the path."""
    kind = step[0]
    try:
        if kind == "mount":
            _mount(root, *step[1:])
        elif kind == "bind":
            _bind(root, *step[1:])
        elif kind == "tree":
            at = target(root, step[2], directory=True)
            linux.move_mount(step[1], at)
            os.close(at)
            os.close(step[1])
        elif kind == "symlink":
            parent, name = _parent(root, step[2])
            try:
                os.symlink(step[1], name, dir_fd=parent)
            except FileExistsError:
                pass
            os.close(parent)
        elif kind == "mask":
            _mask(root, step[1])
        elif kind == "readonly":
            _readonly(root, step[1])
        elif kind == "file":
            os.close(target(root, step[1], directory=False, mode=step[2]))
        elif kind == "sysctl":
            _sysctl(root, step[1], step[2])
        else:
            raise StartError(f"unknown step in a container's plan: {kind}")
    except OSError as e:
        where = (step[3] if kind == "mount"
                 else step[2] if kind in ("bind", "symlink", "tree") else step[1])
        what = {"mount": f"mount {step[1]} on", "tree": "share", "bind": f"mount {step[1]} on",
                "mask": "mask", "readonly": "make read-only"}.get(kind, "make")
        hint = None
        if kind == "bind" and e.errno == errno.EINVAL and not step[4]:
            hint = ("other filesystems are mounted below that directory: leave out "
                    "bind-nonrecursive")
        elif kind == "mount" and step[1] in ("proc", "sysfs") and e.errno == errno.EPERM:
            hint = ("an outer container hides parts of /proc or /sys: start that one with "
                    "unmasked paths")
        raise StartError(f"cannot {what} {where}: {os_reason(e)}", hint=hint) from None


def resolve(root: int, path: str, *, links: bool = True) -> int:
    """O_PATH descriptor of `path` inside the root; the last link is followed too."""
    how = linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_MAGICLINKS
    if not links:
        how |= linux.RESOLVE_NO_SYMLINKS
    return linux.openat2(root, path.lstrip("/") or ".", O_PATH, resolve=how)


def target(root: int, path: str, *, directory: bool, links: bool = True, mode: int = 0o755,
           followed: int = 0) -> int:
    """O_PATH descriptor of a mount point, made with its parents where missing."""
    try:
        return resolve(root, path, links=links)
    except FileNotFoundError:
        pass
    parent, name = _parent(root, path, links=links)
    try:
        if directory:
            os.mkdir(name, mode, dir_fd=parent)
        else:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                             | os.O_NOFOLLOW, mode & 0o666, dir_fd=parent))
    except FileExistsError:
        # A link that leads nowhere: what it names is made inside the root.
        if not links:
            raise
        if followed == LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path) from None
        to = os.path.join("/", os.path.dirname(path), os.readlink(name, dir_fd=parent))
        # As in many an image's resolv.conf -> ../run/systemd/resolve/stub-resolv.conf.
        return target(root, os.path.normpath(to), directory=directory, mode=mode,
                      followed=followed + 1)
    finally:
        os.close(parent)
    return resolve(root, path, links=links)


def _parent(root: int, path: str, *, links: bool = True) -> tuple[int, str]:
    """(descriptor of the parent directory, last name); missing parents are made, 0755."""
    parts = [p for p in path.split("/") if p not in ("", ".")]
    if not parts or ".." in parts:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
    done = "."
    fd = resolve(root, done)
    for part in parts[:-1]:
        done = f"{done}/{part}"
        try:
            deeper = resolve(root, done, links=links)
        except FileNotFoundError:
            os.mkdir(part, 0o755, dir_fd=fd)
            deeper = resolve(root, done, links=links)
        os.close(fd)
        fd = deeper
    return fd, parts[-1]


def _mount(root: int, fstype: str, source: str, where: str, flags: int, data: str) -> None:
    fd = target(root, where, directory=True, links=fstype not in _KERNEL)
    linux.mount(source, f"/proc/self/fd/{fd}", fstype, flags, data or None)
    os.close(fd)


def _bind(root: int, source: str, where: str, attrs: int, recursive: bool, kind: str,
          propagation: int) -> None:
    """`kind` "optional": passed over where the host has nothing of the name."""
    flags = linux.OPEN_TREE_CLONE | (linux.AT_RECURSIVE if recursive else 0)
    try:
        tree = linux.open_tree(linux.AT_FDCWD, source, flags)
    except FileNotFoundError:
        if kind == "optional":
            return
        raise StartError(f"cannot mount {source}: there is no such file or directory") from None
    linux.mount_setattr(tree, "", linux.AT_EMPTY_PATH
                        | (linux.AT_RECURSIVE if propagation & linux.MS_REC else 0),
                        propagation=propagation & ~linux.MS_REC)
    if attrs:
        reach = linux.AT_EMPTY_PATH | (linux.AT_RECURSIVE if recursive else 0)
        linux.mount_setattr(tree, "", reach, attr_set=attrs)
    directory = os.stat(f"/proc/self/fd/{tree}").st_mode & 0o170000 == 0o040000
    fd = target(root, where, directory=directory)
    linux.move_mount(tree, fd)
    os.close(fd)
    os.close(tree)


def _mask(root: int, path: str) -> None:
    try:
        fd = resolve(root, path, links=False)
    except (FileNotFoundError, NotADirectoryError):
        return
    if os.stat(f"/proc/self/fd/{fd}").st_mode & 0o170000 == 0o040000:
        linux.mount("tmpfs", f"/proc/self/fd/{fd}", "tmpfs",
                    linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC,
                    "nr_inodes=1,size=4k")
    else:
        # The host's own device, never a file that the image calls /dev/null (CVE-2025-31133).
        null = linux.open_tree(linux.AT_FDCWD, "/dev/null", linux.OPEN_TREE_CLONE)
        linux.move_mount(null, fd)
        os.close(null)
    os.close(fd)


def _readonly(root: int, path: str) -> None:
    try:
        fd = resolve(root, path, links=False)
    except (FileNotFoundError, NotADirectoryError):
        return
    tree = linux.open_tree(fd, "", linux.OPEN_TREE_CLONE | linux.AT_EMPTY_PATH | linux.AT_RECURSIVE)
    linux.mount_setattr(tree, "", linux.AT_EMPTY_PATH | linux.AT_RECURSIVE,
                        attr_set=linux.MOUNT_ATTR_RDONLY)
    linux.move_mount(tree, fd)
    os.close(tree)
    os.close(fd)


def _sysctl(root: int, name: str, value: str) -> None:
    path = "proc/sys/" + name.replace(".", "/")
    try:
        fd = linux.openat2(root, path, os.O_WRONLY | os.O_CLOEXEC,
                           resolve=linux.RESOLVE_IN_ROOT | linux.RESOLVE_NO_SYMLINKS)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as e:
        raise StartError(f"cannot set sysctl {name}: {os_reason(e)}") from None


def loopback_up() -> None:
    """ip link set lo up: SIOCGIFFLAGS, SIOCSIFFLAGS (netdevice(7))."""
    import _socket

    IFF_UP, SIOCGIFFLAGS, SIOCSIFFLAGS = 1, 0x8913, 0x8914
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    request = bytearray(b"lo".ljust(40, b"\0"))
    fcntl.ioctl(sock.fileno(), SIOCGIFFLAGS, request)
    request[16] |= IFF_UP
    fcntl.ioctl(sock.fileno(), SIOCSIFFLAGS, request)
    sock.close()


def open_terminal(root: int, tty: int, proc: Plan, *, console: bool = True) -> int:
    """A terminal of the container's own devpts: its master goes to the monitor, its slave is
    returned and, for the first process, becomes /dev/console."""
    master = os.open("dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=root)
    fcntl.ioctl(master, linux.TIOCSPTLCK, b"\0\0\0\0")
    number = int.from_bytes(fcntl.ioctl(master, linux.TIOCGPTN, b"\0\0\0\0"), "little")
    # The peer by descriptor: no path that the image could have put something else at.
    slave = fcntl.ioctl(master, linux.TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    if proc["size"]:
        fcntl.ioctl(slave, linux.TIOCSWINSZ, process.winsize(*proc["size"]))
    if console:
        where = target(root, "dev/console", directory=False, mode=0o600)
        tree = linux.open_tree(root, f"dev/pts/{number}", linux.OPEN_TREE_CLONE)
        linux.move_mount(tree, where)
        os.close(tree)
        os.close(where)
    process.send_fd(tty, master)
    os.close(master)
    os.close(tty)
    return slave
