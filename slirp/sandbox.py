"""What is left of a process once its network runs: sockets, its device, and the host's resolv.conf.

In this order: no capabilities in any set, no way to gain any (no_new_privs), no reading of files
but below /etc, /run and where resolv.conf is (Landlock, where the kernel has it), no system calls
but those of a network. Of these, socket(2) makes internet sockets only, openat(2) opens for reading
only. A call that is not allowed fails with EPERM: a C library that tries one goes on without.

/run is where systemd-resolved, NetworkManager and resolvconf keep what /etc/resolv.conf links to,
also when it becomes such a link later.
"""

from __future__ import annotations

import os
import struct

from slirp import linux
from slirp.reach import RESOLV_CONF

# Where a resolver's configuration may be.
READABLE = ("/etc", "/run")

_X86_64, _AARCH64 = 0xC000003E, 0xC00000B7      # AUDIT_ARCH_*

# name: numbers on x86_64 and aarch64 (<asm/unistd.h>); None: not there.
_CALLS = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "lseek": (8, 62),
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "ioctl": (16, 29), "readv": (19, 65), "writev": (20, 66), "mremap": (25, 216),
    "madvise": (28, 233), "getpid": (39, 172), "connect": (42, 203), "accept": (43, 202),
    "sendto": (44, 206), "recvfrom": (45, 207), "sendmsg": (46, 211), "recvmsg": (47, 212),
    "shutdown": (48, 210), "bind": (49, 200), "listen": (50, 201), "getsockname": (51, 204),
    "getpeername": (52, 205), "setsockopt": (54, 208), "getsockopt": (55, 209), "exit": (60, 93),
    "fcntl": (72, 25), "sigaltstack": (131, 132), "gettid": (186, 178), "futex": (202, 98),
    "epoll_wait": (232, None), "exit_group": (231, 94), "epoll_ctl": (233, 21),
    "restart_syscall": (219, 128), "clock_gettime": (228, 113), "tgkill": (234, 131),
    "clock_nanosleep": (230, 115), "newfstatat": (262, 79), "epoll_pwait": (281, 22),
    "accept4": (288, 242), "epoll_create1": (291, 20), "getrandom": (318, 278),
    "splice": (275, 76), "pipe2": (293, 59), "prlimit64": (302, 261), "rseq": (334, 293),
    "statx": (332, 291), "epoll_pwait2": (441, 441),
}
_SOCKET, _OPENAT = (41, 198), (257, 56)
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

# <linux/bpf_common.h>, <linux/seccomp.h>: struct seccomp_data { nr, arch, ip, args[6] }
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _KILL, _EPERM = 0x7FFF0000, 0x80000000, 0x00050001
_NUMBER_AT, _ARCH_AT, _ARGS_AT = 0, 4, 16


def program(machine: str) -> bytes | None:
    """The filter for a machine; None where its numbers are not known."""
    column = {"x86_64": 0, "aarch64": 1}.get(machine)
    if column is None:
        return None
    numbers = sorted(n for pair in _CALLS.values() if (n := pair[column]) is not None)

    def step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("=HBBI", code, yes, no, value)

    out = [step(_LOAD, _ARCH_AT), step(_EQUAL, (_X86_64, _AARCH64)[column], 1),
           step(_RETURN, _KILL), step(_LOAD, _NUMBER_AT)]
    for number in numbers:
        out += [step(_EQUAL, number, 0, 1), step(_RETURN, _ALLOW)]
    out += [step(_EQUAL, _SOCKET[column], 0, 5), step(_LOAD, _ARGS_AT), step(_EQUAL, 2, 2),
            step(_EQUAL, 10, 1), step(_RETURN, _EPERM), step(_RETURN, _ALLOW)]
    out += [step(_EQUAL, _OPENAT[column], 0, 4), step(_LOAD, _ARGS_AT + 2 * 8),
            step(_ANY_BIT, _WRITES, 1), step(_RETURN, _ALLOW), step(_RETURN, _EPERM)]
    out.append(step(_RETURN, _EPERM))
    return b"".join(out)


def drop_privileges() -> None:
    """No capabilities, now or later. Raises OSError."""
    for capability in range(64):
        try:
            linux.prctl(linux.PR_CAPBSET_DROP, capability)
        except OSError:
            break           # without CAP_SETPCAP, or beyond the last one
    linux.prctl(linux.PR_CAP_AMBIENT, linux.PR_CAP_AMBIENT_CLEAR_ALL)
    linux.capset(0)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)


def confine_files() -> bool:
    """Only reading below READABLE from now on. False where the kernel has no Landlock."""
    if not linux.landlock_version():
        return False
    reading = linux.LANDLOCK_ACCESS_FS_READ_FILE | linux.LANDLOCK_ACCESS_FS_READ_DIR
    ruleset = linux.landlock_create_ruleset((1 << 13) - 1)     # all that version 1 knows
    try:
        for path in (*READABLE, os.path.dirname(os.path.realpath(RESOLV_CONF))):
            try:
                fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                linux.landlock_add_rule(ruleset, reading, fd)
            finally:
                os.close(fd)
        linux.landlock_restrict_self(ruleset)
    finally:
        os.close(ruleset)
    return True


def confine_calls() -> bool:
    """Only a network's system calls from now on. False on a machine whose numbers are not known."""
    filter_program = program(linux.MACHINE)
    if filter_program is None:
        return False
    linux.seccomp(filter_program)
    return True


def enter() -> None:
    """All of it. Raises OSError where the kernel refuses what it has."""
    drop_privileges()
    confine_files()
    confine_calls()
