from __future__ import annotations

import copy
import ctypes
import errno
import hashlib
import json
import mmap
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rootless import linux
from rootless.errors import HostError, UsageError
from rootless.runtime import capabilities, filter, profile, seccomp
from tests.unit.bpf import Program

CAPS = frozenset(capabilities.DEFAULT)
KERNEL = (6, 1)
X86_64, X86, AARCH64, ARM, S390X = 0xC000003E, 0x40000003, 0xC00000B7, 0x40000028, 0x80000016
KILL, ALLOW, EPERM, ENOSYS, FAKED = 0x80000000, 0x7FFF0000, 0x50001, 0x50026, 0x50000
X32 = 0x40000000
ABIS = {"x86_64": (X86_64, ("x86_64", "x86", "x32")), "aarch64": (AARCH64, ("aarch64", "arm"))}
AUDIT = {"x86_64": X86_64, "x86": X86, "x32": X86_64, "aarch64": AARCH64, "arm": ARM}


def table(abi: str) -> dict[str, int]:
    return filter.tables([abi])[0]


NUMBERS = {abi: table(abi) for abi in AUDIT}


def compiled(p: object, *, arch: str = "x86_64", caps: frozenset[str] = CAPS,
             kernel: tuple[int, int] = KERNEL, fake_ids: bool = False) -> Program:
    return Program(seccomp.compile_profile(p, arch=arch, caps=caps, kernel=kernel,  # type: ignore[arg-type]
                                           fake_ids=fake_ids),
                   "big" if arch == "s390x" else "little")


def docker(**more: Any) -> Callable[..., int]:
    """The default profile's verdict on a call by name."""
    program = compiled(profile.default(), **more)

    def verdict(name: str, *args: int, abi: str = more.get("arch", "x86_64")) -> int:
        return program.run(AUDIT[abi], NUMBERS[abi][name], args)

    return verdict


# The data


def test_the_version_changes_with_everything_that_makes_a_program() -> None:
    here = Path(seccomp.__file__).parent
    digest = hashlib.sha256(b"".join((here / name).read_bytes() for name in seccomp.SOURCES))
    assert digest.hexdigest()[:16] == seccomp.VERSION, \
        "set VERSION in rootless/runtime/seccomp.py to this"


def test_syscall_tables_hold_well_known_numbers() -> None:
    x86_64, x32, x86, aarch64, arm, riscv64, ppc64le, s390x, s390 = filter.tables(
        ["x86_64", "x32", "x86", "aarch64", "arm", "riscv64", "ppc64le", "s390x", "s390"])
    assert (x86_64["read"], x86_64["clone"], x86_64["seccomp"]) == (0, 56, 317)
    assert (x32["read"], x32["execve"]) == (X32, X32 + 520)
    assert (x86["read"], x86["clone"], x86["socketcall"]) == (3, 120, 102)
    assert (aarch64["read"], aarch64["clone"], aarch64["seccomp"]) == (63, 220, 277)
    assert (arm["read"], arm["set_tls"], arm["sync_file_range2"]) == (3, 0xF0005, 341)
    assert (riscv64["read"], riscv64["riscv_flush_icache"]) == (63, 259)
    assert (ppc64le["read"], s390x["read"], s390["read"]) == (3, 3, 3)
    # s390 left Linux before removexattrat came.
    assert (s390["pidfd_send_signal"], s390["clone3"], s390["mseal"]) == (424, 435, 462)
    for numbers in (x86_64, x86, aarch64, arm, riscv64, ppc64le, s390x):
        # The same everywhere since Linux 5.0, <asm-generic/unistd.h>.
        assert (numbers["pidfd_send_signal"], numbers["clone3"],
                numbers["removexattrat"]) == (424, 435, 466)
    assert "open" not in aarch64
    assert "socketcall" not in arm


# docker's default profile


def test_what_docker_documents_as_blocked_is_blocked_and_the_rest_works() -> None:
    # https://docs.docker.com/engine/security/seccomp/
    verdict = docker()
    for name in ("acct", "add_key", "bpf", "clock_settime", "create_module", "delete_module",
                 "finit_module", "init_module", "ioperm", "iopl", "kcmp", "kexec_file_load",
                 "kexec_load", "keyctl", "lookup_dcookie", "mbind", "mount", "move_pages",
                 "nfsservctl", "open_by_handle_at", "perf_event_open", "pivot_root", "quotactl",
                 "reboot", "request_key", "set_mempolicy", "setns", "settimeofday", "swapon",
                 "swapoff", "sysfs", "_sysctl", "umount2", "unshare", "uselib", "userfaultfd",
                 "ustat", "io_uring_setup"):
        assert verdict(name) == EPERM, name
    assert verdict("clone3") == ENOSYS
    for name in ("read", "getpid", "execve", "ptrace", "chroot", "chown", "mknod", "arch_prctl"):
        assert verdict(name) == ALLOW, name


def test_a_call_newer_than_the_profile_answers_enosys() -> None:
    program = compiled(profile.default())
    assert program.run(X86_64, 466) == ALLOW
    for number in (467, 600, X32 - 1):
        assert program.run(X86_64, number) == ENOSYS
    assert program.run(X86, 467) == ENOSYS
    assert program.run(X86_64, X32 + 548) == ENOSYS
    assert program.run(X86_64, 0xFFFFFFFF) == ENOSYS


def test_clone_may_not_make_namespaces_and_may_make_threads() -> None:
    verdict = docker()
    assert verdict("clone", 0x3D0F00) == ALLOW
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert verdict("clone", flag | 17) == EPERM
        assert verdict("clone", flag | 17, abi="x86") == EPERM
    assert verdict("clone", 0x10000000 | 5 << 40) == EPERM


def test_capabilities_open_what_goes_with_them() -> None:
    admin = docker(caps=CAPS | {"CAP_SYS_ADMIN"})
    for name in ("mount", "umount2", "unshare", "setns", "clone3", "bpf"):
        assert admin(name) == ALLOW, name
    assert admin("clone", 0x10000000) == ALLOW
    assert admin("reboot") == EPERM
    assert docker(caps=frozenset(("CAP_SYS_TIME",)))("settimeofday") == ALLOW
    assert docker(caps=frozenset())("chroot") == EPERM
    # Names are taken as resolve() takes them.
    assert docker(caps=frozenset(("sys_boot",)))("reboot") == ALLOW


def test_an_old_kernel_has_no_ptrace() -> None:
    assert docker(kernel=(4, 7))("ptrace") == EPERM
    assert docker(kernel=(4, 8))("ptrace") == ALLOW
    assert docker(kernel=(5, 0))("ptrace") == ALLOW


def test_socket_families_that_are_blocked_stay_so_with_dirt_in_the_upper_half() -> None:
    verdict = docker()
    for family, action in ((1, ALLOW), (37, ALLOW), (38, EPERM), (39, ALLOW), (40, EPERM),
                           (41, ALLOW), (0xFFFFFFFF, ALLOW)):
        assert verdict("socket", family) == action
        # The kernel reads an int.
        assert verdict("socket", family | 1 << 32) == action


def test_personality_allows_its_five_values() -> None:
    verdict = docker()
    for value in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF):
        assert verdict("personality", value) == ALLOW
    for value in (1, 9, 0x40000, 0x20009):
        assert verdict("personality", value) == EPERM


def test_other_architectures_kill_and_those_of_the_machine_do_not() -> None:
    program = compiled(profile.default())
    assert program.run(X86, NUMBERS["x86"]["read"]) == ALLOW
    assert program.run(X86_64, NUMBERS["x32"]["read"]) == ALLOW
    for foreign in (AARCH64, ARM, S390X, 0, 0xFFFFFFFF):
        assert program.run(foreign, 0) == KILL
    arm64 = compiled(profile.default(), arch="aarch64")
    assert arm64.run(AARCH64, NUMBERS["aarch64"]["read"]) == ALLOW
    assert arm64.run(ARM, NUMBERS["arm"]["read"]) == ALLOW
    assert arm64.run(X86_64, 0) == KILL


def test_rules_for_arm_count_on_arm_only() -> None:
    arm64 = docker(arch="aarch64")
    assert arm64("arm_fadvise64_64", abi="arm") == ALLOW
    assert arm64("set_tls", abi="arm") == ALLOW
    assert arm64("usr26", abi="arm") == EPERM
    assert compiled(profile.default(), arch="aarch64").run(ARM, 467) == ENOSYS
    assert docker()("modify_ldt", abi="x86") == ALLOW


def test_s390x_is_big_endian_and_has_clone_flags_second() -> None:
    program = compiled(profile.default(), arch="s390x")
    numbers = table("s390x")
    assert program.run(S390X, numbers["clone"], [0x10000000, 17]) == ALLOW
    assert program.run(S390X, numbers["clone"], [0, 0x10000000]) == EPERM
    assert program.run(S390X, numbers["personality"], [8]) == ALLOW
    assert program.run(S390X, numbers["personality"], [1]) == EPERM
    # The multiplexer of large numbers.
    assert program.run(S390X, 0) == ENOSYS


@pytest.mark.parametrize("arch", ["x86_64", "aarch64", "i686", "armv7l", "riscv64", "ppc64le",
                                  "s390x", "loongarch64"])
@pytest.mark.parametrize("fake_ids", [False, True])
def test_the_default_compiles_to_a_short_program_everywhere(arch: str, fake_ids: bool) -> None:
    program = compiled(profile.default(), arch=arch, caps=frozenset(capabilities.ALL),
                       fake_ids=fake_ids)
    assert len(program.code) < 500


def test_a_verdict_takes_few_instructions() -> None:
    program = compiled(profile.default())
    steps = [program.trace(X86_64, number)[1] for number in range(500)]
    assert max(steps) <= 25
    assert sum(steps) / len(steps) < 13


def test_a_machine_without_a_table_is_told() -> None:
    with pytest.raises(HostError, match="no table of system calls for vax"):
        compiled(profile.default(), arch="vax")


# Single-id mode


def test_one_id_only_fakes_owners_and_identities() -> None:
    verdict = docker(fake_ids=True)
    for name in filter.FAKED & set(NUMBERS["x86_64"]):
        assert verdict(name, 0, 1, 2) == FAKED, name
    for name in ("chown", "chown32", "setgroups32", "setresuid32"):
        assert verdict(name, abi="x86") == FAKED
    assert verdict("getuid") == ALLOW
    assert verdict("mount") == EPERM


def test_one_id_only_fakes_devices_and_makes_other_nodes() -> None:
    verdict = docker(fake_ids=True)
    for kind, action in ((0o020000, FAKED), (0o060000, FAKED), (0o010000, ALLOW),
                         (0o140000, ALLOW), (0o100000, ALLOW), (0, ALLOW)):
        assert verdict("mknod", 0, kind | 0o644, 0x103) == action
        assert verdict("mknodat", 0, 0, kind | 0o644, 0x103) == action
        assert verdict("mknodat", 0, kind | 0o644, 0, 0x103) == ALLOW


def test_faking_does_not_hide_the_rules_for_other_nodes() -> None:
    p = {"defaultAction": "SCMP_ACT_ALLOW",
         "syscalls": [{"names": ["mknod", "chown"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]}
    program = compiled(p, fake_ids=True)
    assert program.run(X86_64, NUMBERS["x86_64"]["mknod"], [0, 0o010644]) == 0x5000D
    assert program.run(X86_64, NUMBERS["x86_64"]["mknod"], [0, 0o020644]) == FAKED
    assert program.run(X86_64, NUMBERS["x86_64"]["chown"]) == FAKED


def test_faking_alone_allows_everything_else() -> None:
    program = Program(filter.compile_fakes("x86_64"))
    for arch in (X86_64, X86, AARCH64):
        assert program.run(arch, 1) == ALLOW
    assert program.run(X86_64, NUMBERS["x86_64"]["mount"]) == ALLOW
    assert program.run(X86_64, 999) == ALLOW
    assert program.run(X86_64, NUMBERS["x86_64"]["chown"]) == FAKED
    assert program.run(X86, NUMBERS["x86"]["chown32"]) == FAKED
    assert program.run(X86_64, NUMBERS["x32"]["chown"]) == FAKED


# Profiles of users


def simple(*rules: dict[str, Any], default: str = "SCMP_ACT_ERRNO", **more: Any) -> dict[str, Any]:
    return {"defaultAction": default, "syscalls": list(rules), **more}


def allow(name: str, *args: tuple[Any, ...], action: str = "SCMP_ACT_ALLOW",
          **more: Any) -> dict[str, Any]:
    return {"names": [name], "action": action, "args": [
        dict(zip(("index", "op", "value", "valueTwo"), (i, f"SCMP_CMP_{op}", *values)))
        for i, op, *values in args], **more}


@pytest.mark.parametrize(("name", "more", "action"), [
    ("SCMP_ACT_ALLOW", {}, 0x7FFF0000),
    ("SCMP_ACT_ERRNO", {}, 0x00050001),
    ("SCMP_ACT_ERRNO", {"errnoRet": 0}, 0x00050000),
    ("SCMP_ACT_ERRNO", {"errnoRet": 4095}, 0x00050FFF),
    ("SCMP_ACT_KILL", {}, 0x00000000),
    ("SCMP_ACT_KILL_THREAD", {}, 0x00000000),
    ("SCMP_ACT_KILL_PROCESS", {}, 0x80000000),
    ("SCMP_ACT_TRAP", {}, 0x00030000),
    ("SCMP_ACT_TRACE", {}, 0x7FF00001),
    ("SCMP_ACT_TRACE", {"errnoRet": 77}, 0x7FF0004D),
    ("SCMP_ACT_LOG", {}, 0x7FFC0000),
])
def test_every_action_is_the_kernels(name: str, more: dict[str, int], action: int) -> None:
    other = "SCMP_ACT_LOG" if name == "SCMP_ACT_ALLOW" else "SCMP_ACT_ALLOW"
    p = simple({"names": ["getpid"], "action": name, **more}, default=other)
    assert compiled(p).run(X86_64, 39) == action
    p = simple({"names": ["getppid"], "action": other}, default=name)
    if "errnoRet" in more:
        p["defaultErrnoRet"] = more["errnoRet"]
    assert compiled(p).run(X86_64, 39) == action


def test_the_runtime_specifications_format_is_taken() -> None:
    p = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
         "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_AARCH64"],
         "flags": ["SECCOMP_FILTER_FLAG_LOG"],
         "syscalls": [{"names": ["getpid", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
                      {"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]}
    program = compiled(p)
    assert program.run(X86_64, 39) == ALLOW
    assert program.run(X86_64, 110) == 0x5000D
    assert program.run(X86, 20) == ALLOW
    assert program.run(X86_64, 0) == ENOSYS
    # x32 is not among the architectures.
    assert program.run(X86_64, X32 + 39) == KILL
    assert program.run(X86_64, 0xFFFFFFFF) == ENOSYS


def test_the_old_form_with_one_name_a_rule_is_taken() -> None:
    p = simple({"name": "getpid", "action": "SCMP_ACT_ALLOW", "args": None})
    assert compiled(p).run(X86_64, 39) == ALLOW


def test_without_architectures_only_the_native_one_is_known() -> None:
    program = compiled(simple(allow("getpid")))
    assert program.run(X86_64, 39) == ALLOW
    assert program.run(X86, 20) == KILL
    assert program.run(X86_64, X32 + 39) == KILL


def test_conditions_of_a_rule_must_all_hold_also_on_one_argument() -> None:
    program = compiled(simple(allow("getpid", (1, "GE", 10), (1, "LT", 20), (2, "EQ", 5))))
    assert program.run(X86_64, 39, [0, 15, 5]) == ALLOW
    for args in ([0, 9, 5], [0, 20, 5], [0, 15, 4], [0, 15 + (1 << 32), 5]):
        assert program.run(X86_64, 39, args) == EPERM


def test_a_rule_without_conditions_beats_those_with() -> None:
    conditional = allow("getpid", (0, "EQ", 1), action="SCMP_ACT_LOG")
    for rules in ([conditional, allow("getpid")], [allow("getpid"), conditional]):
        assert compiled(simple(*rules)).run(X86_64, 39, [1]) == ALLOW


def test_the_first_rule_that_holds_counts() -> None:
    program = compiled(simple(allow("getpid", (0, "LT", 5), action="SCMP_ACT_LOG"),
                              allow("getpid", (0, "LT", 9))))
    assert program.run(X86_64, 39, [4]) == 0x7FFC0000
    assert program.run(X86_64, 39, [5]) == ALLOW


def test_includes_and_excludes_must_all_agree() -> None:
    def counts(**more: Any) -> bool:
        return compiled(simple(allow("getpid", **more), allow("getppid"))).run(X86_64, 39) == ALLOW

    assert counts(includes={"caps": ["CAP_CHOWN", "CAP_KILL"]})
    assert not counts(includes={"caps": ["CAP_CHOWN", "CAP_SYS_ADMIN"]})
    assert counts(includes={"arches": ["s390", "amd64"]})
    assert not counts(includes={"arches": ["x86", "x32"]})
    assert counts(includes={"minKernel": "6.1"})
    assert not counts(includes={"minKernel": "6.2"})
    assert not counts(includes={"caps": ["CAP_CHOWN"], "minKernel": "7.0"})
    assert counts(excludes={"caps": ["CAP_SYS_ADMIN"], "arches": ["arm64"], "minKernel": "6.10"})
    assert not counts(excludes={"caps": ["CAP_SYS_ADMIN", "CAP_CHOWN"]})
    assert not counts(excludes={"arches": ["amd64"]})
    assert not counts(excludes={"minKernel": "4.0"})
    assert counts(includes={}, excludes=None)


def test_a_call_behind_a_multiplexer_is_ruled_by_its_name() -> None:
    p = simple(allow("connect", action="SCMP_ACT_ERRNO"), allow("semop", action="SCMP_ACT_ERRNO"),
               allow("socket", (0, "EQ", 38), action="SCMP_ACT_ERRNO"), default="SCMP_ACT_ALLOW",
               architectures=["SCMP_ARCH_X86"])
    program = compiled(p)
    assert program.run(X86, 362) == EPERM
    assert program.run(X86, 102, [3]) == EPERM
    assert program.run(X86, 102, [1]) == EPERM
    assert program.run(X86, 102, [2]) == ALLOW
    assert program.run(X86, 117, [1]) == EPERM
    assert program.run(X86, 117, [1 << 16 | 1]) == EPERM
    assert program.run(X86, 117, [2]) == ALLOW
    # Its arguments cannot be seen, so a condition allows nothing.
    p = simple(allow("socket", (0, "EQ", 1)), allow("listen"), architectures=["SCMP_ARCH_X86"])
    assert compiled(p).run(X86, 102, [1]) == EPERM
    assert compiled(p).run(X86, 102, [4]) == ALLOW


def test_a_permissive_default_lets_new_calls_reach_the_kernel() -> None:
    for default, action in (("SCMP_ACT_ALLOW", ALLOW), ("SCMP_ACT_LOG", 0x7FFC0000),
                            ("SCMP_ACT_TRACE", 0x7FF00001)):
        p = simple(allow("getpid", action="SCMP_ACT_KILL"), default=default)
        assert compiled(p).run(X86_64, 999) == action
    assert compiled(simple(allow("getpid"), default="SCMP_ACT_KILL")).run(X86_64, 999) == ENOSYS


@pytest.mark.parametrize(("p", "where"), [
    ([], "the profile: not an object"),
    ({}, "defaultAction: missing"),
    ({"defaultAction": "ALLOW"}, "defaultAction: unknown action 'ALLOW'"),
    ({"defaultAction": ["x"]}, "defaultAction: unknown action ['x']"),
    ({"defaultAction": "SCMP_ACT_NOTIFY"}, "defaultAction: SCMP_ACT_NOTIFY needs an agent"),
    ({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}, "defaultErrnoRet: SCMP_ACT_ALLOW"),
    (simple(default="SCMP_ACT_ALLOW", listenerPath="/x"), "listenerPath: no agent"),
    (simple(flags=["FOO"]), "flags[0]: unknown flag 'FOO'"),
    (simple(architectures=["x86"]), "architectures[0]: unknown architecture 'x86'"),
    (simple(architectures="SCMP_ARCH_X86"), "architectures: not a list"),
    (simple(architectures=["SCMP_ARCH_X86"], archMap=[{"architecture": "SCMP_ARCH_X86"}]),
     "archMap: architectures is given too"),
    (simple(archMap=[{}]), "archMap[0].architecture: unknown architecture None"),
    (simple(archMap=[{"architecture": "SCMP_ARCH_ARM", "subArchitectures": [1]}]),
     "archMap[0].subArchitectures[0]: unknown architecture 1"),
    ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": {}}, "syscalls: not a list"),
    ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": ["x"]}, "syscalls[0]: not an object"),
    (simple({"action": "SCMP_ACT_ALLOW"}), "syscalls[0].names: missing"),
    (simple({"names": "read", "action": "SCMP_ACT_ALLOW"}), "syscalls[0].names: not a list"),
    (simple({"names": [1], "action": "SCMP_ACT_ALLOW"}), "syscalls[0].names: not a list of str"),
    (simple({"names": [""], "action": "SCMP_ACT_ALLOW"}), "syscalls[0].names: an empty name"),
    (simple({"names": ["a"], "name": "b", "action": "SCMP_ACT_ALLOW"}),
     "syscalls[0].name: names is given too"),
    (simple({"name": 1, "action": "SCMP_ACT_ALLOW"}), "syscalls[0].name: not a string"),
    (simple(allow("a"), {"names": ["read"]}), "syscalls[1].action: missing"),
    (simple(allow("a", action="SCMP_ACT_NOTIFY")), "syscalls[0].action: SCMP_ACT_NOTIFY needs"),
    (simple(allow("a", errnoRet=1)), "syscalls[0].errnoRet: SCMP_ACT_ALLOW gives no errno"),
    (simple(allow("a", action="SCMP_ACT_ERRNO", errnoRet=4096)),
     "syscalls[0].errnoRet: 4096 is not a whole number from 0 to 4095"),
    (simple(allow("a", action="SCMP_ACT_ERRNO", errnoRet=True)), "syscalls[0].errnoRet: True is"),
    (simple(allow("a", (0, "ABOUT", 1))), "syscalls[0].args[0].op: unknown operator"),
    (simple(allow("a", (6, "EQ", 1))), "syscalls[0].args[0].index: 6 is not"),
    (simple(allow("a", (0, "EQ", -1))), "syscalls[0].args[0].value: -1 is not"),
    (simple(allow("a", (0, "EQ", 1 << 64))), "syscalls[0].args[0].value: 18446744073709551616"),
    (simple(allow("a", (0, "EQ", 1.5))), "syscalls[0].args[0].value: 1.5 is not"),
    (simple({**allow("a"), "args": [{"op": "SCMP_CMP_EQ", "value": 1}]}),
     "syscalls[0].args[0].index: missing"),
    (simple(allow("a", includes={"caps": "CAP_CHOWN"})), "syscalls[0].includes.caps: not a list"),
    (simple(allow("a", includes=["x"])), "syscalls[0].includes: not an object"),
    (simple(allow("a", excludes={"minKernel": "new"})), "syscalls[0].excludes.minKernel: 'new' is"),
    (simple(allow("a", includes={"minKernel": 4.8})), "syscalls[0].includes.minKernel: 4.8 is"),
])
def test_a_malformed_profile_is_refused_by_the_place_that_is_wrong(p: object, where: str) -> None:
    with pytest.raises(UsageError) as caught:
        compiled(p)
    assert caught.value.message.startswith("invalid seccomp profile: " + where)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner,
                                                                max_size=3), max_leaves=5)


@given(st.data())
def test_any_value_in_any_place_is_refused_or_taken_but_never_crashes(data: st.DataObject) -> None:
    p: Any = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "flags": [],
              "architectures": ["SCMP_ARCH_X86"], "listenerPath": "", "syscalls": [
                  {"names": ["read"], "action": "SCMP_ACT_ALLOW",
                   "args": [{"index": 0, "op": "SCMP_CMP_EQ", "value": 1, "valueTwo": 2}],
                   "includes": {"caps": [], "arches": [], "minKernel": "4.8"}, "excludes": {}}]}
    at = p
    while True:
        key = data.draw(st.sampled_from(sorted(at)) if isinstance(at, dict)
                        else st.integers(0, len(at) - 1))
        if isinstance(at[key], (dict, list)) and at[key] and data.draw(st.booleans()):
            at = at[key]
            continue
        at[key] = data.draw(json_values)
        break
    try:
        compiled(p)
    except UsageError as e:
        assert e.message.startswith("invalid seccomp profile: ")


def test_too_long_a_profile_is_refused() -> None:
    p = simple(*(allow("ioctl", (i % 6, "NE", i)) for i in range(3000)))
    with pytest.raises(UsageError, match=r"too long: it makes .* kernel takes 4096"):
        compiled(p)


def test_jumps_over_long_code_arrive() -> None:
    rules = [allow(name, (2, "EQ", i), (3, "GT", i << 33))
             for name in ("read", "write", "open", "poll") for i in range(100)]
    program = compiled(simple(*rules, allow("close")))
    assert len(program.code) > 3 * 255     # no jump reaches further than 255
    for name in ("read", "write", "open", "poll"):
        number = NUMBERS["x86_64"][name]
        for i in (0, 50, 99):
            assert program.run(X86_64, number, [0, 0, i, (i << 33) + 1]) == ALLOW
            assert program.run(X86_64, number, [0, 0, i, i << 33]) == EPERM
        assert program.run(X86_64, number, [0, 0, 100, 1 << 60]) == EPERM
    assert program.run(X86_64, 3) == ALLOW
    assert program.run(X86_64, 4) == EPERM


# The compiler against the rules as they are written

OPERATORS: dict[str, Callable[[int, int, int], bool]] = {
    "NE": lambda a, v, o: a != v,
    "LT": lambda a, v, o: a < v,
    "LE": lambda a, v, o: a <= v,
    "EQ": lambda a, v, o: a == v,
    "GE": lambda a, v, o: a >= v,
    "GT": lambda a, v, o: a > v,
    "MASKED_EQ": lambda a, v, o: a & v == o & v,
}
CODES = {"ALLOW": 0x7FFF0000, "ERRNO": 0x50000, "KILL": 0, "KILL_PROCESS": 0x80000000,
         "TRAP": 0x30000, "TRACE": 0x7FF00000, "LOG": 0x7FFC0000}
# None of these is multiplexed anywhere.
SAMPLE = ["read", "write", "clone", "ioctl", "prctl", "mmap", "mmap2", "getpid", "personality",
          "stat", "openat", "execve", "uretprobe", "clone3", "removexattrat", "set_tls", "no_such"]


def reference(p: dict[str, Any], machine: str, audit: int, number: int, args: list[int]) -> int:
    """What the profile says of a call, read word for word."""
    def code(item: dict[str, Any], key: str, errno_key: str) -> int:
        name = item[key][len("SCMP_ACT_"):]
        return CODES[name] | (item.get(errno_key, 1) if name in ("ERRNO", "TRACE") else 0)

    def counts(rule: dict[str, Any]) -> bool:
        name = {"x86_64": "amd64", "aarch64": "arm64"}[machine]
        yes, no = rule.get("includes", {}), rule.get("excludes", {})

        def at_least(version: str) -> bool:
            return tuple(int(x) for x in version.split(".")) <= KERNEL

        return (all(c in CAPS for c in yes.get("caps", []))
                and (not yes.get("arches") or name in yes["arches"])
                and ("minKernel" not in yes or at_least(yes["minKernel"]))
                and not any(c in CAPS for c in no.get("caps", []))
                and name not in no.get("arches", [])
                and not ("minKernel" in no and at_least(no["minKernel"])))

    known = {machine} | {a[len("SCMP_ARCH_"):].lower() for a in p.get("architectures", [])}
    abi = {X86_64: "x32" if number >= X32 else "x86_64", X86: "x86", AARCH64: "aarch64",
           ARM: "arm"}.get(audit, "")
    if abi == "x32" and number == 0xFFFFFFFF and "x32" not in known:
        abi = "x86_64"
        default_only = True
    else:
        default_only = False
    if abi not in known or abi not in ABIS[machine][1]:
        return KILL
    default = code(p, "defaultAction", "defaultErrnoRet")
    rules = [r for r in p["syscalls"] if counts(r)]
    numbers = NUMBERS[abi]
    named = [numbers[n] for r in rules for n in r["names"] if n in numbers]
    if abi == "arm":
        named = [n for n in named if n < 0xF0000]
    if default_only:
        return default
    if (named and number > max(named) and not (abi == "arm" and number >= 0xF0000)
            and default & 0x7FFF0000 not in (0x7FFF0000, 0x7FFC0000, 0x7FF00000)):
        return ENOSYS
    mine = [(r, code(r, "action", "errnoRet")) for r in rules
            if number in [numbers.get(n) for n in r["names"]]]
    mine = [(r, action) for r, action in mine if action != default]
    for r, action in mine:
        if not r["args"]:
            return action
    for r, action in mine:
        name = next(n for n in r["names"] if numbers.get(n) == number)
        holds = True
        for c in r["args"]:
            full = (abi in ("x86_64", "aarch64")
                    and c["index"] not in filter.NARROW.get(name, ()))
            part = 0xFFFFFFFFFFFFFFFF if full else 0xFFFFFFFF
            holds &= OPERATORS[c["op"][len("SCMP_CMP_"):]](
                args[c["index"]] & part, c["value"] & part, c.get("valueTwo", 0) & part)
        if holds:
            return action
    return default


# Few values, so that they meet; most of the errors are at edges of the halves.
words = st.sampled_from([0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, 1 << 32,
                         (1 << 32) + 1, 2 << 32, 0xFFFFFFFF << 32, (1 << 64) - 1,
                         (1 << 63)]) | st.integers(0, (1 << 64) - 1)
conditions = st.fixed_dictionaries(
    {"index": st.integers(0, 2), "op": st.sampled_from(sorted(OPERATORS)).map("SCMP_CMP_".__add__),
     "value": words}, optional={"valueTwo": words})
gates = st.fixed_dictionaries({}, optional={
    "caps": st.lists(st.sampled_from(["CAP_CHOWN", "CAP_SYS_ADMIN"]), max_size=2),
    "arches": st.lists(st.sampled_from(["amd64", "arm64", "x86", "arm"]), max_size=2),
    "minKernel": st.sampled_from(["4.8", "6.1", "6.2", "6.10"])})


def actions(key: str, errno_key: str) -> st.SearchStrategy[dict[str, Any]]:
    plain = st.sampled_from(sorted(CODES)).map(lambda n: {key: "SCMP_ACT_" + n})
    return plain | st.integers(0, 3).map(lambda n: {key: "SCMP_ACT_ERRNO", errno_key: n})


rules = st.builds(
    lambda base, action: {**base, **action},
    st.fixed_dictionaries(
        {"names": st.lists(st.sampled_from(SAMPLE), min_size=1, max_size=4, unique=True),
         "args": st.lists(conditions, max_size=3)},
        optional={"includes": gates, "excludes": gates}),
    actions("action", "errnoRet"))
profiles = st.builds(
    lambda base, default: {**base, **default},
    st.fixed_dictionaries(
        {"syscalls": st.lists(rules, max_size=8)},
        optional={"architectures": st.lists(st.sampled_from(
            [f"SCMP_ARCH_{a}" for a in ("X86_64", "X86", "X32", "AARCH64", "ARM", "MIPS")]),
            max_size=4, unique=True)}),
    actions("defaultAction", "defaultErrnoRet"))


@settings(max_examples=150, deadline=None)
@given(profiles, st.sampled_from(sorted(ABIS)), st.data())
def test_a_compiled_profile_says_what_the_profile_says(p: dict[str, Any], machine: str,
                                                       data: st.DataObject) -> None:
    program = compiled(p, arch=machine)
    numbers = sorted({n + d for abi in ABIS[machine][1] for name in SAMPLE
                      for n in [NUMBERS[abi].get(name, 0)] for d in (0, 1)}
                     | {X32 - 1, X32, 0xFFFFFFFF, 0xF0000, 0x80000000})
    values = [w for r in p["syscalls"] for c in r["args"] for v in
              (c["value"], c.get("valueTwo", 0))
              for w in (v, v + 1, v - 1, v ^ 1 << 32, v ^ 1 << 63) if 0 <= w < 1 << 64] or [0]
    some = st.sampled_from(values) | words
    for args in data.draw(st.lists(st.tuples(some, some, some), min_size=4, max_size=4)):
        for audit in sorted({X86_64, X86, AARCH64, ARM}):
            for number in numbers:
                got = program.run(audit, number, args)
                expected = reference(p, machine, audit, number, list(args))
                assert got == expected, (hex(audit), number, args)


# The kernel

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
NATIVE = NUMBERS.get({"x86_64": "x86_64", "aarch64": "aarch64"}.get(seccomp.machine(), ""), {})


def errno_of(number: int, *args: int) -> int:
    """0 or errno of a system call by number."""
    ctypes.set_errno(0)
    result = _syscall(ctypes.c_long(number), *(ctypes.c_ulong(a) for a in args))
    return ctypes.get_errno() if result == -1 else 0


def under(program: bytes, results: int, act: Callable[[memoryview], None]) -> list[int]:
    """What `act` stores in its array of ints, in a child with the filter loaded."""
    shared = mmap.mmap(-1, 4 * results)
    array = memoryview(shared).cast("i")
    child = os.fork()
    if child == 0:
        try:
            linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
            linux.seccomp_filter(program)
            act(array)
            os._exit(0)
        finally:
            os._exit(99)
    _, status = os.waitpid(child, 0)
    assert status == 0
    return list(array)


def test_the_kernel_answers_as_docker_documents() -> None:
    program = seccomp.default_filter(None, caps=CAPS, fake_ids=False)
    calls = [("getpid", (), 0), ("keyctl", (0,), errno.EPERM), ("mount", (0,) * 5, errno.EPERM),
             ("umount2", (0, 0), errno.EPERM), ("unshare", (0,), errno.EPERM),
             ("clone", (0x10000000 | 17, 0, 0, 0, 0), errno.EPERM), ("clone3", (0, 0),
                                                                     errno.ENOSYS),
             ("personality", (0xFFFFFFFF,), 0), ("personality", (0x40000,), errno.EPERM),
             ("socket", (38, 5, 0), errno.EPERM), ("socket", (1 << 32 | 38, 5, 0), errno.EPERM),
             ("socket", (40, 1, 0), errno.EPERM), ("socket", (1, 1, 0), 0),
             ("bpf", (0, 0, 0), errno.EPERM), ("io_uring_setup", (1, 0), errno.EPERM),
             ("chroot", (0,), errno.EFAULT)]

    def act(out: memoryview) -> None:
        for i, (name, args, _) in enumerate(calls):
            out[i] = errno_of(NATIVE[name], *args)
        out[len(calls)] = errno_of(5000)

    assert under(program, len(calls) + 1, act) == [e for _, _, e in calls] + [errno.ENOSYS]


def test_the_kernel_fakes_identities_for_one_id(tmp_path: Path) -> None:
    program = seccomp.default_filter(None, caps=CAPS, fake_ids=True)
    target = os.fsencode(tmp_path / "node")
    kept = ctypes.create_string_buffer(target)
    at = ctypes.addressof(kept)
    cwd = 0xFFFFFFFFFFFFFF9C        # AT_FDCWD
    uid = os.getuid()

    def act(out: memoryview) -> None:
        out[0] = errno_of(NATIVE["setresuid"], 12345, 12345, 12345)
        out[1] = errno_of(NATIVE["setgroups"], 1, 0)
        out[2] = errno_of(NATIVE["fchownat"], cwd, at, 1, 1, 0)
        out[3] = errno_of(NATIVE["mknodat"], cwd, at, 0o020644, 0x103)
        out[4] = os.path.lexists(target)
        out[5] = errno_of(NATIVE["mknodat"], cwd, at, 0o010644, 0)
        out[6] = os.path.lexists(target)
        out[7] = os.getuid() == uid

    assert under(program, 8, act) == [0, 0, 0, 0, 0, 0, 1, 1]


def test_the_kernel_and_our_machine_agree_on_every_number() -> None:
    """Every action of the default profile becomes an errno of its own, so that nothing runs."""
    p = copy.deepcopy(profile.default())
    p["defaultErrnoRet"] = 4001
    for rule in p["syscalls"]:
        rule["errnoRet"] = 4002 if rule["action"] == "SCMP_ACT_ALLOW" else 4003
        rule["action"] = "SCMP_ACT_ERRNO"
    interpreter = ["brk", "mmap", "munmap", "mremap", "madvise", "exit_group", "futex",
                   "rt_sigreturn", "rt_sigprocmask", "rt_sigaction", "mprotect", "restart_syscall"]
    p["syscalls"].insert(0, {"names": interpreter, "action": "SCMP_ACT_ALLOW"})
    code = seccomp.compile_profile(p, arch=seccomp.machine(), caps=CAPS, kernel=KERNEL)
    audit = {"x86_64": X86_64, "aarch64": AARCH64}[seccomp.machine()]
    machine = Program(code)
    # Those of uprobes, which the kernel itself puts into a process, pass every filter (Linux 6.14).
    untouched = {NATIVE[n] for n in (*interpreter, "uretprobe", "uprobe") if n in NATIVE}
    numbers = [n for n in range(600) if n not in untouched]
    if audit == X86_64:
        numbers += [X32 + n for n in numbers if machine.run(audit, X32 + n) != ALLOW]
    dice = random.Random(1)
    values = [0, 1, 8, 38, 39, 40, 41, 0x20000, 0x20008, 0xFFFFFFFF, 0x10000000, 0x3D0F00,
              1 << 32, 1 << 32 | 8, (1 << 64) - 1]
    calls = [(n, [dice.choice(values) for _ in range(6)]) for n in numbers]
    calls += [(NATIVE[name], [value, *[0] * 5]) for value in values
              for name in ("socket", "personality", "clone")]

    def act(out: memoryview) -> None:
        for i, (number, args) in enumerate(calls):
            out[i] = errno_of(number, *args)

    got = under(code, len(calls), act)
    assert got == [machine.run(audit, number, args) & 0xFFFF for number, args in calls]
    assert {4001, 4002, 4003} < set(got)


def test_a_killed_architecture_dies_by_sigsys() -> None:
    if seccomp.machine() != "x86_64":
        return
    code = seccomp.compile_profile({"defaultAction": "SCMP_ACT_ALLOW"}, arch="x86_64", caps=CAPS,
                                   kernel=KERNEL)
    child = os.fork()
    if child == 0:
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
        linux.seccomp_filter(code)
        errno_of(X32 + 39)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGSYS


# The cache


def test_a_cached_filter_is_the_compiled_one(tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    direct = seccomp.default_filter(None, caps=CAPS, fake_ids=False)
    assert seccomp.default_filter(cache, caps=CAPS, fake_ids=False) == direct
    (kept,) = (tmp_path / "cache/seccomp").iterdir()
    assert kept.name.startswith(seccomp.VERSION)
    assert kept.stat().st_mode & 0o777 == 0o600
    assert seccomp.default_filter(cache, caps=CAPS, fake_ids=False) == direct
    assert seccomp.fake_only(cache) == seccomp.fake_only() == seccomp.fake_only(cache)


def test_each_choice_has_its_own_place_in_the_cache(tmp_path: Path) -> None:
    cache = str(tmp_path)
    for _ in range(2):
        made = {seccomp.default_filter(cache, caps=CAPS, fake_ids=False),
                seccomp.default_filter(cache, caps=CAPS, fake_ids=True),
                seccomp.default_filter(cache, caps=CAPS | {"CAP_SYS_ADMIN"}, fake_ids=False),
                seccomp.fake_only(cache)}
        assert len(made) == 4
    assert len(list((tmp_path / "seccomp").iterdir())) == 4


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_cache_file_is_never_loaded(tmp_path_factory: pytest.TempPathFactory,
                                              data: st.DataObject) -> None:
    cache = tmp_path_factory.mktemp("cache")
    whole = seccomp.fake_only(str(cache))
    (kept,) = (cache / "seccomp").iterdir()
    good = kept.read_bytes()
    kind = data.draw(st.sampled_from(["cut", "flip", "zero", "swap", "grow", "other"]))
    if kind == "cut":
        bad = good[:data.draw(st.integers(0, len(good) - 1))]
    elif kind == "flip":
        bit = data.draw(st.integers(0, 8 * len(good) - 1))
        bad = good[:bit // 8] + bytes((good[bit // 8] ^ 1 << bit % 8,)) + good[bit // 8 + 1:]
    elif kind == "zero":
        start = data.draw(st.integers(0, len(good) - 1))
        bad = good[:start] + bytes(len(good) - start)
    elif kind == "swap":
        i, j = sorted(data.draw(st.lists(st.integers(3, len(good) // 8 - 1), min_size=2,
                                         max_size=2, unique=True)))
        bad = (good[:8 * i] + good[8 * j:8 * j + 8] + good[8 * i + 8:8 * j]
               + good[8 * i:8 * i + 8] + good[8 * j + 8:])
    elif kind == "grow":
        bad = good + data.draw(st.binary(min_size=1, max_size=16))
    else:
        bad = data.draw(st.binary(max_size=64))
    kept.write_bytes(bad)
    assert seccomp.fake_only(str(cache)) == whole
    assert kept.read_bytes() == good


def test_a_cache_that_cannot_be_used_only_costs_time(tmp_path: Path) -> None:
    (tmp_path / "seccomp").write_text("not a directory")
    direct = seccomp.default_filter(None, caps=CAPS, fake_ids=False)
    assert seccomp.default_filter(str(tmp_path), caps=CAPS, fake_ids=False) == direct
    os.mkdir(tmp_path / "b")
    seccomp.fake_only(str(tmp_path / "b"))
    (kept,) = (tmp_path / "b/seccomp").iterdir()
    kept.unlink()
    kept.mkdir()
    assert seccomp.fake_only(str(tmp_path / "b")) == seccomp.fake_only()


def test_a_hit_is_fast_and_imports_nothing(tmp_path: Path) -> None:
    code = f"""
import json, os, sys, time
from rootless.runtime import capabilities, seccomp
caps = capabilities.resolve([], [], privileged=False)
seccomp.default_filter({str(tmp_path)!r}, caps=caps, fake_ids=False)
for name in [m for m in sys.modules if m.startswith("rootless.runtime.")]:
    if name.rpartition(".")[2] not in ("seccomp", "capabilities"):
        del sys.modules[name]
before = set(sys.modules)
best = 1.0
for _ in range(5):
    start = time.perf_counter()
    seccomp.default_filter({str(tmp_path)!r}, caps=caps, fake_ids=False)
    best = min(best, time.perf_counter() - start)
print(json.dumps([best, sorted(set(sys.modules) - before)]))
"""
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True,
                         cwd=Path(seccomp.__file__).parents[2]).stdout
    best, imported = json.loads(out)
    assert imported == []
    assert best < 0.001


def test_importing_the_hot_modules_is_light() -> None:
    code = ("import sys; before = set(sys.modules); from rootless.runtime import seccomp; "
            "print(*sorted(set(sys.modules) - before))")
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True,
                         cwd=Path(seccomp.__file__).parents[2]).stdout.split()
    assert set(out) - {"__future__"} == {"rootless", "rootless.errors", "rootless.runtime",
                        "rootless.runtime.capabilities", "rootless.runtime.seccomp"}


def test_the_kernels_version_is_two_numbers() -> None:
    major, minor = seccomp.running_kernel()
    assert os.uname().release.startswith(f"{major}.{minor}")
