"""Seccomp profiles: what docker's JSON, or the OCI runtime specification's, asks of this machine.

The default profile is docker's own (moby/profiles, seccomp/default.json), kept as data in
`seccomp.json`. A rule counts when its `includes` all hold and none of its `excludes` does:
capabilities of the bounding set, the machine's architecture by docker's name (never that of a
sub-architecture), at least a kernel version. A profile comes from a stranger: everything in it is
checked, and what is wrong is named by its place.
"""

from __future__ import annotations

import json
import os

from rootless.errors import HostError, UsageError, os_reason
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

# <linux/seccomp.h>
RET_KILL_PROCESS = 0x80000000
RET_KILL_THREAD = 0x00000000
RET_TRAP = 0x00030000
RET_ERRNO = 0x00050000
RET_TRACE = 0x7FF00000
RET_LOG = 0x7FFC0000
RET_ALLOW = 0x7FFF0000

_ACTIONS = {
    "SCMP_ACT_ALLOW": RET_ALLOW, "SCMP_ACT_ERRNO": RET_ERRNO, "SCMP_ACT_KILL": RET_KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": RET_KILL_THREAD, "SCMP_ACT_KILL_PROCESS": RET_KILL_PROCESS,
    "SCMP_ACT_TRAP": RET_TRAP, "SCMP_ACT_TRACE": RET_TRACE, "SCMP_ACT_LOG": RET_LOG,
}
_EPERM = 1
_RET_DATA = 0xFFFF
_MAX_ERRNO = 4095       # what the kernel makes of anything larger

_OPERATORS = ("SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE",
              "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ")

# They say how the filter is loaded, not what it lets through. A container has one thread then
# (TSYNC), and its refusals are not logged.
_FLAGS = ("SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG",
          "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV")

# SCMP_ARCH_* that a profile may name.
_ARCHITECTURES = frozenset((
    "X86", "X86_64", "X32", "ARM", "AARCH64", "LOONGARCH64", "M68K", "MIPS", "MIPS64", "MIPS64N32",
    "MIPSEL", "MIPSEL64", "MIPSEL64N32", "PARISC", "PARISC64", "PPC", "PPC64", "PPC64LE",
    "RISCV64", "S390", "S390X", "SH", "SHEB", "NATIVE"))

@record
class Condition:
    """An argument compared with a value; `value` is the mask and `other` the value for MASKED_EQ.
    `wide`: on 64 bits."""

    index: int
    op: str
    value: int
    other: int
    wide: bool


@record
class Rule:
    names: tuple[str, ...]
    action: int
    conditions: tuple[Condition, ...]


def data(name: str) -> Any:
    """A JSON file that is installed beside this one."""
    path = f"{os.path.dirname(__file__)}/{name}"
    try:
        with open(path, encoding="ascii") as f:
            return json.load(f)
    except (OSError, ValueError) as e:
        why = os_reason(e) if isinstance(e, OSError) else str(e)
        raise HostError(f"the installation of rootless is damaged: {path}: {why}",
                        hint="install it again") from None


def default() -> dict[str, Any]:
    """docker's default profile."""
    profile: dict[str, Any] = data("seccomp.json")
    return profile


class Reader:
    """Checks a profile and keeps the rules that count here."""

    def __init__(self, machine: str, caps: frozenset[str], kernel: tuple[int, int]) -> None:
        """`machine`: by docker's name. `caps`: the bounding set."""
        self._machine = machine
        self._caps = caps
        self._kernel = kernel

    def read(self, profile: object, native: str) -> tuple[int, set[str], list[Rule]]:
        """(default action, ABIs, rules)."""
        top = _object(profile, "the profile")
        if "defaultAction" not in top:
            _bad("defaultAction", "missing")
        otherwise = _action(top, "defaultAction", "defaultErrnoRet", "")
        if top.get("listenerPath"):
            _bad("listenerPath", "no agent can be asked about system calls")
        for i, flag in enumerate(_list(top, "flags", "")):
            if flag not in _FLAGS:
                _bad(f"flags[{i}]", f"unknown flag {flag!r}")
        rules = []
        for i, item in enumerate(_list(top, "syscalls", "")):
            rule = self._rule(_object(item, f"syscalls[{i}]"), f"syscalls[{i}].")
            if rule is not None:
                rules.append(rule)
        return otherwise, self._abis(top, native), rules

    def _abis(self, top: dict[str, Any], native: str) -> set[str]:
        listed = [_abi(name, f"architectures[{i}]")
                  for i, name in enumerate(_list(top, "architectures", ""))]
        mapped = _list(top, "archMap", "")
        if listed and mapped:
            _bad("archMap", "architectures is given too; one of them is enough")
        abis = set(listed)
        for i, item in enumerate(mapped):
            where = f"archMap[{i}]."
            entry = _object(item, f"archMap[{i}]")
            under = [_abi(name, f"{where}subArchitectures[{n}]")
                     for n, name in enumerate(_list(entry, "subArchitectures", where))]
            if _abi(entry.get("architecture"), where + "architecture") == native:
                abis.update(under)
        return abis

    def _rule(self, item: dict[str, Any], where: str) -> Rule | None:
        names = _strings(item, "names", where)
        if "name" in item:
            if names:
                _bad(where + "name", "names is given too; one of them is enough")
            if not isinstance(item["name"], str):
                _bad(where + "name", "not a string")
            names = [item["name"]]
        elif "names" not in item:
            _bad(where + "names", "missing")
        if "" in names:
            _bad(where + "names", "an empty name")
        if "action" not in item:
            _bad(where + "action", "missing")
        action = _action(item, "action", "errnoRet", where)
        conditions = tuple(_condition(_object(arg, f"{where}args[{i}]"), f"{where}args[{i}].")
                           for i, arg in enumerate(_list(item, "args", where)))
        holds = self._counts(item, where)
        return Rule(tuple(names), action, conditions) if holds else None

    def _counts(self, item: dict[str, Any], where: str) -> bool:
        result = True
        for kind in ("includes", "excludes"):
            part = _object(item.get(kind) or {}, where + kind)
            inside = f"{where}{kind}."
            caps = _strings(part, "caps", inside)
            arches = _strings(part, "arches", inside)
            kernel = _kernel(part.get("minKernel"), inside + "minKernel")
            if kind == "includes":
                result &= (self._caps.issuperset(caps)
                           and (not arches or self._machine in arches)
                           and (kernel is None or self._kernel >= kernel))
            else:
                result &= not (self._caps.intersection(caps) or self._machine in arches
                               or (kernel is not None and self._kernel >= kernel))
        return result


def _bad(where: str, why: str) -> NoReturn:
    raise UsageError(f"invalid seccomp profile: {where}: {why}")


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _bad(where, "not an object")
    return value


def _list(item: dict[str, Any], key: str, where: str) -> list[Any]:
    value = item.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        _bad(where + key, "not a list")
    return value


def _strings(item: dict[str, Any], key: str, where: str) -> list[str]:
    values = _list(item, key, where)
    if not all(isinstance(v, str) for v in values):
        _bad(where + key, "not a list of strings")
    return values


def _integer(item: dict[str, Any], key: str, where: str, limit: int) -> int:
    value = item.get(key)
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value <= limit:
        _bad(where + key, f"{value!r} is not a whole number from 0 to {limit}")
    return value


def _action(item: dict[str, Any], key: str, errno_key: str, where: str) -> int:
    name = item[key]
    if name == "SCMP_ACT_NOTIFY":
        _bad(where + key, "SCMP_ACT_NOTIFY needs an agent that answers, and there is none")
    if not isinstance(name, str) or name not in _ACTIONS:
        _bad(where + key, f"unknown action {name!r}")
    action = _ACTIONS[name]
    if item.get(errno_key) is None:
        return action | _EPERM if action in (RET_ERRNO, RET_TRACE) else action
    if action not in (RET_ERRNO, RET_TRACE):
        _bad(where + errno_key, f"{name} gives no errno")
    return action | _integer(item, errno_key, where,
                             _MAX_ERRNO if action == RET_ERRNO else _RET_DATA)


def _condition(item: dict[str, Any], where: str) -> Condition:
    if item.get("op") not in _OPERATORS:
        _bad(where + "op", f"unknown operator {item.get('op')!r}")
    for key in ("index", "value"):
        if key not in item:
            _bad(where + key, "missing")
    return Condition(index=_integer(item, "index", where, 5), op=item["op"],
                     value=_integer(item, "value", where, (1 << 64) - 1),
                     other=_integer(item, "valueTwo", where, (1 << 64) - 1), wide=True)


def _kernel(text: object, where: str) -> tuple[int, int] | None:
    if text is None or text == "":
        return None
    parts = text.split(".") if isinstance(text, str) else []
    if len(parts) != 2 or not all(p.isascii() and p.isdigit() for p in parts):
        _bad(where, f"{text!r} is not a kernel version such as 4.8")
    return int(parts[0]), int(parts[1])


def _abi(name: object, where: str) -> str:
    """Our name for an SCMP_ARCH_*."""
    prefix = "SCMP_ARCH_"
    if (not isinstance(name, str) or not name.startswith(prefix)
            or name[len(prefix):] not in _ARCHITECTURES):
        _bad(where, f"unknown architecture {name!r}")
    return name[len(prefix):].lower()
