"""The compiler of seccomp profiles to BPF.

What a profile means is what docker makes of it with runc and libseccomp:

- A rule of the default action says nothing. A rule without conditions beats those with, for the
  same system call; of several without, the first counts. Of those with, the first whose conditions
  all hold, also where two are on the same argument (libseccomp refuses such a rule, and runc takes
  it for one rule for each condition).
- A name that an architecture does not have is ignored there.
- The native architecture is always in; others of the machine come from the profile. A call by any
  other ABI kills the process. x32 (x86_64 with bit 30 in the number, 32-bit pointers) is one.
- Where the default is to refuse, a number above the highest that the profile names answers ENOSYS,
  so that a C library tries the older call; EPERM would be final (runc since 1.0).
- A call through socketcall(2) or ipc(2) is ruled by the name of what it calls. Its arguments lie
  in memory, so there a rule with conditions can only refuse, and does so whatever they are.

Where we are stricter than docker: conditions are compared on the part of an argument that the
kernel looks at, see NARROW.

The program: by architecture, then a binary search over runs of numbers with the same outcome.
"""

from __future__ import annotations

from rootless.errors import HostError, UsageError
from rootless.record import record, replace
from rootless.runtime import bpf
from rootless.runtime.bpf import Assembler
from rootless.runtime.profile import (
    RET_ALLOW,
    RET_ERRNO,
    RET_KILL_PROCESS,
    RET_LOG,
    RET_TRACE,
    Condition,
    Reader,
    Rule,
    data,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

_ENOSYS = 38
_ACTION = 0xFFFF0000        # SECCOMP_RET_ACTION_FULL
# A tracer emulates what the kernel lacks, so it is left to see it, as runc does.
_PERMISSIVE = (RET_ALLOW, RET_LOG, RET_TRACE)

# uname -m, or docker's name, to the ABI.
_MACHINES = {
    "x86_64": "x86_64", "amd64": "x86_64", "x86": "x86", "386": "x86", "i386": "x86",
    "i486": "x86", "i586": "x86", "i686": "x86", "aarch64": "aarch64", "arm64": "aarch64",
    "arm": "arm", "armv6l": "arm", "armv7l": "arm", "armv8l": "arm", "riscv64": "riscv64",
    "ppc64le": "ppc64le", "s390x": "s390x", "loongarch64": "loongarch64", "loong64": "loongarch64",
}
# How docker's `arches` call the machine.
_DOCKER_NAMES = {"x86_64": "amd64", "aarch64": "arm64"}
# What else a kernel runs; other architectures in a profile can never be seen by its filter.
_ALSO = {"x86_64": ("x86", "x32"), "aarch64": ("arm",), "s390x": ("s390",)}

# AUDIT_ARCH_* of <linux/audit.h> for each ABI of syscalls.json.
_AUDIT = {
    "x86_64": 0xC000003E, "x32": 0xC000003E, "x86": 0x40000003, "aarch64": 0xC00000B7,
    "arm": 0x40000028, "riscv64": 0xC00000F3, "ppc64le": 0xC0000015, "s390x": 0x80000016,
    "s390": 0x00000016, "loongarch64": 0xC0000102,
}
_X32_BIT = 0x40000000
# libseccomp compares 32 bits of an argument on these.
_NARROW_ABIS = ("x86", "x32", "arm", "s390")
# Calls of the ARM kernel's own, far above the others (<asm/unistd.h>, __ARM_NR_BASE).
_ARM_PRIVATE = 0xF0000

# Arguments that the kernel takes as 32 bits whatever the register's upper half holds. Compared on
# 64, `socket(1 << 32 | AF_ALG)` is not AF_ALG for the filter and is for the kernel; the hole
# CVE-2019-7303 was for ioctl(TIOCSTI). Types: <linux/syscalls.h>; clone: lower_32_bits() in
# kernel/fork.c (s390 has the flags second, CLONE_BACKWARDS2).
NARROW = {
    "bpf": (0,), "clone": (0,), "fcntl": (0, 1), "getsockopt": (0, 1, 2), "ioctl": (0, 1),
    "ipc": (0,), "keyctl": (0,), "kill": (0, 1), "mknod": (1,), "mknodat": (0, 2),
    "personality": (0,), "prctl": (0,), "quotactl": (0,), "seccomp": (0, 1), "setns": (0, 1),
    "setsockopt": (0, 1, 2), "socket": (0, 1, 2), "socketcall": (0,), "socketpair": (0, 1, 2),
    "syslog": (0,), "tgkill": (0, 1, 2), "tkill": (0, 1),
}

# <linux/net.h> and <linux/ipc.h>: the number of each call behind socketcall(2) and ipc(2).
_MULTIPLEXED = {
    "socketcall": {
        "socket": 1, "bind": 2, "connect": 3, "listen": 4, "accept": 5, "getsockname": 6,
        "getpeername": 7, "socketpair": 8, "send": 9, "recv": 10, "sendto": 11, "recvfrom": 12,
        "shutdown": 13, "setsockopt": 14, "getsockopt": 15, "sendmsg": 16, "recvmsg": 17,
        "accept4": 18, "recvmmsg": 19, "sendmmsg": 20},
    "ipc": {
        "semop": 1, "semget": 2, "semctl": 3, "semtimedop": 4, "msgsnd": 11, "msgrcv": 12,
        "msgget": 13, "msgctl": 14, "shmat": 21, "shmdt": 22, "shmget": 23, "shmctl": 24},
}
# ipc(2) takes a version in the upper half of its first argument, which old callers use.
_MULTIPLEX_MASK = {"socketcall": 0xFFFFFFFF, "ipc": 0xFFFF}

# With one id in the user namespace no file can belong, and no process change, to another: the
# kernel answers EINVAL or EPERM to what package managers, tar, useradd and daemons do as a matter
# of course when they run as root. These answer success and do nothing, as with enroot's and
# charliecloud's filters.
FAKED = frozenset((
    "chown", "fchown", "lchown", "fchownat", "chown32", "fchown32", "lchown32",
    "setgroups", "setgroups32",
    "setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid",
    "setuid32", "setgid32", "setreuid32", "setregid32", "setresuid32", "setresgid32",
    "setfsuid32", "setfsgid32",
))
# Devices cannot be made in any user namespace; fifos, sockets and files can, so only these modes
# are faked. The number is the index of the mode.
FAKED_DEVICES = {"mknod": 1, "mknodat": 2}
_S_IFMT, _S_IFCHR, _S_IFBLK = 0o170000, 0o020000, 0o060000


@record
class Leaf:
    """What happens to a system call: the action of the first of `rules` whose conditions hold."""

    rules: tuple[tuple[tuple[Condition, ...], int], ...]
    otherwise: int


if TYPE_CHECKING:
    # Runs of system call numbers: the first of each, ascending.
    Runs = list[tuple[int, Leaf]]


def compile_profile(profile: dict[str, Any], *, arch: str, caps: frozenset[str],
                    kernel: tuple[int, int], fake_ids: bool = False) -> bytes:
    """struct sock_filter[] for a machine `arch` (of uname -m) with `kernel`, given the bounding
    set `caps`. Raises UsageError for a malformed profile, HostError for an unknown machine."""
    native = _native(arch)
    reader = Reader(_DOCKER_NAMES.get(native, native), caps, kernel)
    otherwise, abis, rules = reader.read(profile, native)
    return _assemble([native, *(a for a in _ALSO.get(native, ()) if a in abis)],
                     rules, otherwise, RET_KILL_PROCESS, fake_ids)


def compile_fakes(arch: str) -> bytes:
    """Everything is allowed, but identities are faked."""
    native = _native(arch)
    return _assemble([native, *_ALSO.get(native, ())], [], RET_ALLOW, RET_ALLOW, True)


def _native(arch: str) -> str:
    try:
        return _MACHINES[arch]
    except KeyError:
        raise HostError(f"cannot make a seccomp filter: no table of system calls for {arch}",
                        hint="--security-opt seccomp=unconfined runs without one") from None


def tables(abis: list[str]) -> list[dict[str, int]]:
    """Numbers by name, for each of `abis`."""
    found = data("syscalls.json")
    out = []
    for abi in abis:
        column = found["abis"].index(abi)
        base = _X32_BIT if abi == "x32" else 0
        out.append({name: base + row[column] for name, row in found["syscalls"].items()
                    if row[column] is not None})
    return out


def _assemble(abis: list[str], rules: list[Rule], otherwise: int, foreign: int,
              fake_ids: bool) -> bytes:
    """`otherwise`: the default action. `foreign`: for calls of other architectures."""
    order: Literal["little", "big"] = "big" if abis[0].startswith("s390") else "little"
    by_audit: dict[int, Runs] = {}
    numbers = dict(zip(abis, tables(abis)))
    for abi in abis:
        runs = _runs(abi, numbers[abi], rules, otherwise, fake_ids)
        by_audit.setdefault(_AUDIT[abi], []).extend(runs)
    if abis[0] == "x86_64" and "x32" not in abis:
        # -1 is not a call of x32 but none at all, as set by a tracer.
        by_audit[_AUDIT["x86_64"]] += [(_X32_BIT, Leaf((), foreign)),
                                       (0xFFFFFFFF, Leaf((), otherwise))]
    code = Assembler()
    writer = _Writer(code, order)
    entries = [(audit, writer.search(runs)) for audit, runs in reversed(by_audit.items())]
    place = code.ret(foreign)
    for audit, entry in entries:
        place = code.jump(bpf.JMP_JEQ_K, audit, entry, place)
    program = code.program(code.load(bpf.ARCH, place), order)
    if len(code) > bpf.MAX_INSTRUCTIONS:
        raise UsageError(f"seccomp profile too long: it makes {len(code)} instructions, and the "
                         f"kernel takes {bpf.MAX_INSTRUCTIONS}",
                         hint="fewer rules with args, or fewer architectures")
    return program


def _runs(abi: str, numbers: dict[str, int], rules: list[Rule], otherwise: int,
          fake_ids: bool) -> Runs:
    leaves, newest = _leaves(abi, numbers, rules, otherwise)
    gap = beyond = Leaf((), otherwise)
    if newest >= 0 and otherwise & _ACTION not in _PERMISSIVE:
        beyond = Leaf((), RET_ERRNO | _ENOSYS)
        if abi.startswith("s390"):
            # 0 carries numbers too large for an instruction; the kernel leaves it in place of
            # one that it does not know.
            leaves[0] = beyond
    if fake_ids:
        _fake(numbers, leaves, gap)
    start = _X32_BIT if abi == "x32" else 0
    end = _ARM_PRIVATE if abi == "arm" else 1 << 32
    edges = {start, *leaves, *(number + 1 for number in leaves), _ARM_PRIVATE}
    edges.add(max(start, newest + 1))
    runs: Runs = []
    for number in sorted(edge for edge in edges if edge >= start):
        leaf = leaves.get(number, beyond if newest < number < end else gap)
        if not runs or runs[-1][1] != leaf:
            runs.append((number, leaf))
    return runs


def _leaves(abi: str, numbers: dict[str, int], rules: list[Rule],
            otherwise: int) -> tuple[dict[int, Leaf], int]:
    """Outcomes by number where they are not the default; the highest number that is named."""
    always: dict[int, int] = {}
    sometimes: dict[int, list[tuple[tuple[Condition, ...], int]]] = {}
    newest = -1

    def add(name: str, conditions: tuple[Condition, ...], action: int) -> None:
        narrow = (1,) if name == "clone" and abi == "s390x" else NARROW.get(name, ())
        if conditions:
            sometimes.setdefault(numbers[name], []).append((tuple(
                replace(c, wide=abi not in _NARROW_ABIS and c.index not in narrow)
                for c in conditions), action))
        else:
            always.setdefault(numbers[name], action)

    for rule in rules:
        for name in rule.names:
            if name in numbers and (abi != "arm" or numbers[name] < _ARM_PRIVATE):
                newest = max(newest, numbers[name])
            if rule.action == otherwise:
                continue
            if name in numbers:
                add(name, rule.conditions, rule.action)
            for via, calls in _MULTIPLEXED.items():
                if via in numbers and name in calls and not (
                        rule.conditions and rule.action & _ACTION in _PERMISSIVE):
                    add(via, (Condition(index=0, op="SCMP_CMP_MASKED_EQ", other=calls[name],
                                        value=_MULTIPLEX_MASK[via], wide=False),), rule.action)
    leaves = {number: Leaf(tuple(some), otherwise) for number, some in sometimes.items()}
    leaves.update((number, Leaf((), action)) for number, action in always.items())
    return leaves, newest


def _fake(numbers: dict[str, int], leaves: dict[int, Leaf], gap: Leaf) -> None:
    success = RET_ERRNO
    for name in FAKED:
        if name in numbers:
            leaves[numbers[name]] = Leaf((), success)
    for name, index in FAKED_DEVICES.items():
        if name in numbers:
            leaf = leaves.get(numbers[name], gap)
            devices = tuple(((Condition(index=index, op="SCMP_CMP_MASKED_EQ", value=_S_IFMT,
                                        other=kind, wide=False),), success)
                            for kind in (_S_IFCHR, _S_IFBLK))
            leaves[numbers[name]] = Leaf(devices + leaf.rules, leaf.otherwise)


class _Writer:
    """Writes leaves and the search for them."""

    def __init__(self, code: Assembler, byteorder: Literal["little", "big"]) -> None:
        self._code = code
        self._low, self._high = (0, 4) if byteorder == "little" else (4, 0)
        self._places: dict[Leaf, int] = {}

    def search(self, runs: Runs) -> int:
        entry = self._code.search([first for first, _ in runs], lambda i: self._leaf(runs[i][1]))
        return self._code.load(bpf.NR, entry)

    def _leaf(self, leaf: Leaf) -> int:
        if not leaf.rules:
            return self._code.ret(leaf.otherwise)
        place = self._places.get(leaf)
        if place is None:
            place = self._code.ret(leaf.otherwise)
            for conditions, action in reversed(leaf.rules):
                no = place
                place = self._code.ret(action)
                for condition in reversed(conditions):
                    place = self._condition(condition, place, no)
            self._places[leaf] = place
        return place

    def _condition(self, c: Condition, yes: int, no: int) -> int:
        """Where to go on to reach `yes` if the condition holds, else `no`."""
        if c.op == "SCMP_CMP_MASKED_EQ":
            place = self._masked(c, self._low, 0, yes, no)
            return self._masked(c, self._high, 32, place, no) if c.wide else place
        if c.op in ("SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE"):
            yes, no = no, yes
        code = self._code
        argument = bpf.ARGS + 8 * c.index
        low, high = c.value & 0xFFFFFFFF, c.value >> 32
        compare = {"SCMP_CMP_EQ": bpf.JMP_JEQ_K, "SCMP_CMP_NE": bpf.JMP_JEQ_K,
                   "SCMP_CMP_GE": bpf.JMP_JGE_K, "SCMP_CMP_LT": bpf.JMP_JGE_K,
                   "SCMP_CMP_GT": bpf.JMP_JGT_K, "SCMP_CMP_LE": bpf.JMP_JGT_K}[c.op]
        place = code.load(argument + self._low, code.jump(compare, low, yes, no))
        if c.wide:
            place = code.jump(bpf.JMP_JEQ_K, high, place, no)
            if compare != bpf.JMP_JEQ_K:
                place = code.jump(bpf.JMP_JGT_K, high, yes, place)
            place = code.load(argument + self._high, place)
        return place

    def _masked(self, c: Condition, offset: int, shift: int, yes: int, no: int) -> int:
        mask = c.value >> shift & 0xFFFFFFFF
        if not mask:
            return yes
        # libseccomp cuts the value to the mask too.
        place = self._code.jump(bpf.JMP_JEQ_K, c.other >> shift & mask, yes, no)
        if mask != 0xFFFFFFFF:
            place = self._code.mask(mask, place)
        return self._code.load(bpf.ARGS + 8 * c.index + offset, place)
