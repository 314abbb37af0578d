"""The kernel, by its own names. The only package that makes raw system calls.

Each function is one system call with the C name and order of arguments; a failure raises OSError
with the errno and the path or object. Numbers come from the kernel's uapi headers. Constants are
module attributes so that a start loads no enum.
"""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

MACHINE = os.uname().machine

# <asm/unistd.h>: those without a libc wrapper everywhere. Numbers from 424 on are the same on all
# architectures.
_NR = {
    "x86_64": {"clone": 56, "pivot_root": 155, "seccomp": 317, "capget": 125, "capset": 126,
               "keyctl": 250, "setns": 308},
    "aarch64": {"clone": 220, "pivot_root": 41, "seccomp": 277, "capget": 90, "capset": 91,
                "keyctl": 219, "setns": 268},
}.get(MACHINE, {})
_NR_PIDFD_SEND_SIGNAL = 424
_NR_PIDFD_OPEN = 434
_NR_CLOSE_RANGE = 436
_NR_OPENAT2 = 437
_NR_MOUNT_SETATTR = 442
_NR_OPEN_TREE = 428
_NR_MOVE_MOUNT = 429

# <linux/sched.h>
CLONE_NEWTIME = 0x00000080
CLONE_PARENT = 0x00008000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

# <linux/mount.h>
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_STRICTATIME = 1 << 24
MNT_DETACH = 2
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
OPEN_TREE_CLONE = 1
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

# <linux/openat2.h>
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

# <linux/prctl.h>
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_SET_CHILD_SUBREAPER = 36
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_SPEC_ALLOW = 4

TIOCSWINSZ = 0x5414
TIOCGWINSZ = 0x5413
TIOCSCTTY = 0x540E
TIOCGPTN = 0x80045430
TIOCSPTLCK = 0x40045431
TIOCGPTPEER = 0x5441

NS_GET_USERNS = 0xB701
NS_GET_PARENT = 0xB702      # <linux/nsfs.h>

FUSE_SUPER_MAGIC = 0x65735546


def _check(result: int, *objects: object) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), *[os.fspath(o) if isinstance(o, (str, bytes))
                                                 else str(o) for o in objects if o is not None][:1])
    return result


def _bytes(text: str | bytes | None) -> bytes | None:
    return os.fsencode(text) if isinstance(text, str) else text


def _number(name: str) -> int:
    number = _NR.get(name)
    if number is None:
        raise OSError(38, f"this engine does not know the number of {name}(2) on {MACHINE}")
    return number


def unshare(flags: int) -> None:
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(fd: int, kind: int) -> None:
    _check(_libc.setns(fd, kind), "setns")


def mount(source: str | None, target: str, fstype: str | None, flags: int,
          data: str | None = None) -> None:
    _check(_libc.mount(_bytes(source), _bytes(target), _bytes(fstype), ctypes.c_ulong(flags),
                       _bytes(data)), target)


def umount2(target: str, flags: int) -> None:
    _check(_libc.umount2(_bytes(target), flags), target)


def pivot_root(new: str, old: str) -> None:
    _check(_syscall(_number("pivot_root"), _bytes(new), _bytes(old)), new)


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    ulong = ctypes.c_ulong
    return _check(_libc.prctl(option, ulong(arg2), ulong(arg3), ulong(arg4), ulong(arg5)), "prctl")


def set_name(name: str) -> None:
    """The command name that ps(1) shows, at most 15 bytes."""
    _check(_libc.prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0), "prctl")


def set_command_line(text: str) -> None:
    """The arguments that ps(1) shows, in place of those this process was started with: the
    memory they lie in is overwritten (proc_pid_cmdline(5), arg_start and arg_end)."""
    with open("/proc/self/stat", "rb") as f:
        fields = f.read().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    raw = os.fsencode(text)[:end - start - 1]
    ctypes.memmove(start, raw.ljust(end - start, b"\0"), end - start)


def sethostname(name: str) -> None:
    raw = os.fsencode(name)
    _check(_libc.sethostname(raw, ctypes.c_size_t(len(raw))), name)


def setdomainname(name: str) -> None:
    raw = os.fsencode(name)
    _check(_libc.setdomainname(raw, ctypes.c_size_t(len(raw))), name)


def clone(flags: int) -> int:
    """fork(2) with namespace flags; 0 in the child.

    The raw call, so that CLONE_PARENT can be given. Only for a process with one thread: no
    at-fork handler runs, which is safe as no other thread can hold a lock.
    """
    SIGCHLD = 17
    word = ctypes.c_ulong
    # x86-64 and arm64 differ in the order of the last two arguments, which are all zero here.
    return _check(_syscall(_number("clone"), word(flags | SIGCHLD), word(0), word(0), word(0),
                           word(0)), "clone")


def pidfd_open(pid: int) -> int:
    return _check(_syscall(_NR_PIDFD_OPEN, pid, 0), f"process {pid}")


def pidfd_send_signal(pidfd: int, signal: int) -> None:
    _check(_syscall(_NR_PIDFD_SEND_SIGNAL, pidfd, signal, None, 0), "pidfd")


def close_range(first: int, last: int = 0xFFFFFFFF) -> None:
    """Close all descriptors from first to last (Linux 5.9)."""
    _check(_syscall(_NR_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(last), 0), "close_range")


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def openat2(dirfd: int, path: str | bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """Open `path` below a directory under the rules of `resolve` (Linux 5.6)."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    while True:
        fd = int(_syscall(_NR_OPENAT2, dirfd, _bytes(path), ctypes.byref(how), ctypes.sizeof(how)))
        # EAGAIN: a rename or mount raced with the walk; the kernel asks to try again.
        if fd >= 0 or ctypes.get_errno() != 11:
            return _check(fd, path)


class _MountAttr(ctypes.Structure):
    _fields_ = (("attr_set", ctypes.c_uint64), ("attr_clr", ctypes.c_uint64),
                ("propagation", ctypes.c_uint64), ("userns_fd", ctypes.c_uint64))


def mount_setattr(dirfd: int, path: str, flags: int, *, attr_set: int = 0, attr_clr: int = 0,
                  propagation: int = 0) -> None:
    """Change the attributes of a mount, or with AT_RECURSIVE of a tree of them (Linux 5.12)."""
    attr = _MountAttr(attr_set, attr_clr, propagation, 0)
    _check(_syscall(_NR_MOUNT_SETATTR, dirfd, _bytes(path), flags, ctypes.byref(attr),
                    ctypes.sizeof(attr)), path)


def open_tree(dirfd: int, path: str, flags: int) -> int:
    O_CLOEXEC = os.O_CLOEXEC
    return _check(_syscall(_NR_OPEN_TREE, dirfd, _bytes(path), flags | O_CLOEXEC), path)


def move_mount(from_fd: int, to_fd: int) -> None:
    """Attach the mount `from_fd` on top of the object `to_fd`."""
    _check(_syscall(_NR_MOVE_MOUNT, from_fd, b"", to_fd, b"",
                    MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH), "move_mount")


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the calling thread's capability sets from bit masks (_LINUX_CAPABILITY_VERSION_3)."""
    header = _CapHeader(0x20080522, 0)
    words = (ctypes.c_uint32 * 6)()
    for half in (0, 1):
        for i, mask in enumerate((effective, permitted, inheritable)):
            words[half * 3 + i] = mask >> (32 * half) & 0xFFFFFFFF
    _check(_syscall(_number("capset"), ctypes.byref(header), words), "capset")


class _SockFprog(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def seccomp_filter(program: bytes, flags: int = 0) -> None:
    """Load a BPF program (an array of struct sock_filter, 8 bytes each)."""
    fprog = _SockFprog(len(program) // 8, program)
    _check(_syscall(_number("seccomp"), SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(fprog)),
           "seccomp")


def join_session_keyring() -> None:
    """A new anonymous session keyring: the caller's keys are not the container's."""
    KEYCTL_JOIN_SESSION_KEYRING = 1
    _check(_syscall(_number("keyctl"), KEYCTL_JOIN_SESSION_KEYRING, None), "keyctl")


def statfs_type(path: str) -> int:
    """f_type of the filesystem of `path` (statfs(2))."""
    buffer = (ctypes.c_long * 32)()
    _check(_libc.statfs(_bytes(path), buffer), path)
    return int(buffer[0]) & 0xFFFFFFFF
