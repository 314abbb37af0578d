"""The kernel by its own names: the only module of this package that makes raw system calls.

A failure raises OSError with the call's name. Numbers are from the kernel's uapi headers.
"""

from __future__ import annotations

import ctypes
import os
import struct

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

MACHINE = os.uname().machine

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 1, 4, 38, 24
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4

SECCOMP_SET_MODE_FILTER = 1

LANDLOCK_CREATE_RULESET_VERSION = 1
LANDLOCK_RULE_PATH_BENEATH = 1
LANDLOCK_ACCESS_FS_READ_FILE, LANDLOCK_ACCESS_FS_READ_DIR = 1 << 2, 1 << 3

# Those that differ between machines; from 424 on all are the same.
_NR = {
    "x86_64": {"setns": 308, "capset": 126, "seccomp": 317},
    "aarch64": {"setns": 268, "capset": 91, "seccomp": 277},
}.get(MACHINE, {})
_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446


def _check(result: int, name: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), name)
    return result


def _number(name: str) -> int:
    if name not in _NR:
        raise OSError(38, f"its number is not known on {MACHINE}", name)
    return _NR[name]


def setns(fd: int, kind: int) -> None:
    _check(_libc.syscall(_number("setns"), fd, kind), "setns")


def prctl(option: int, arg2: int = 0, arg3: int = 0) -> int:
    ulong = ctypes.c_ulong
    return _check(_libc.prctl(option, ulong(arg2), ulong(arg3), ulong(0), ulong(0)), "prctl")


def capset(permitted: int) -> None:
    """Make these the permitted and effective capabilities, none inheritable (capset(2), v3)."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    low, high = permitted & 0xFFFFFFFF, permitted >> 32
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    _check(_libc.syscall(_number("capset"), header, data), "capset")


def seccomp(program: bytes) -> None:
    """Load a filter: instructions of 8 bytes, struct sock_filter."""
    class Program(ctypes.Structure):
        _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

    _check(_libc.syscall(_number("seccomp"), SECCOMP_SET_MODE_FILTER, 0,
                         ctypes.byref(Program(len(program) // 8, program))), "seccomp")


def landlock_version() -> int:
    """Of the kernel's interface; 0 where there is none."""
    return max(0, int(_libc.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0),
                                    LANDLOCK_CREATE_RULESET_VERSION)))


def landlock_create_ruleset(handled: int) -> int:
    rules = ctypes.c_uint64(handled)
    return _check(_libc.syscall(_LANDLOCK_CREATE_RULESET, ctypes.byref(rules),
                                ctypes.c_size_t(8), 0), "landlock_create_ruleset")


def landlock_add_rule(ruleset: int, allowed: int, path: int) -> None:
    """Allow below the directory whose descriptor is `path`."""
    beneath = struct.pack("=Qi", allowed, path)     # struct landlock_path_beneath_attr, packed
    _check(_libc.syscall(_LANDLOCK_ADD_RULE, ruleset, LANDLOCK_RULE_PATH_BENEATH, beneath, 0),
           "landlock_add_rule")


def landlock_restrict_self(ruleset: int) -> None:
    _check(_libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0), "landlock_restrict_self")
