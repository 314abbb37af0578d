"""Linux capabilities by name and number, and docker's rules for --cap-add and --cap-drop.

Names are written as in <linux/capability.h> and the OCI runtime specification, `CAP_CHOWN`.
"""

from __future__ import annotations

from rootless.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# In the order of their numbers, from 0.
ALL = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID",
    "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK",
    "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG",
    "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)

# What docker gives a container (moby, oci/caps/defaults.go).
DEFAULT = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SYS_CHROOT",
    "CAP_MKNOD", "CAP_AUDIT_WRITE", "CAP_SETFCAP",
)

NUMBERS = {name: number for number, name in enumerate(ALL)}


def resolve(add: list[str], drop: list[str], *, privileged: bool) -> frozenset[str]:
    """The capabilities of a container. Raises UsageError for an unknown name.

    docker's order: privileged gives all; `--cap-add ALL` gives all but those dropped by name,
    whatever else is said; `--cap-drop ALL` leaves only those added; otherwise the defaults less
    the dropped, plus the added (an added one wins over its own drop).
    """
    if not add and not drop:
        return frozenset(ALL if privileged else DEFAULT)
    added = {_normal(name, "--cap-add") for name in add}
    dropped = {_normal(name, "--cap-drop") for name in drop}
    if privileged:
        return frozenset(ALL)
    if "ALL" in added:
        return frozenset(ALL) - dropped
    if "ALL" in dropped:
        return frozenset(added)
    return frozenset(DEFAULT) - dropped | added


def mask(caps: Iterable[str]) -> int:
    """The bit mask that capset(2) and /proc/PID/status use."""
    bits = 0
    for name in caps:
        number = NUMBERS.get(name)
        if number is None:
            number = NUMBERS[_normal(name, "a list of capabilities", group=False)]
        bits |= 1 << number
    return bits


def names(mask: int) -> list[str]:
    """The names of the bits set, by number; bits that newer kernels added have none here."""
    return [name for number, name in enumerate(ALL) if mask >> number & 1]


def _normal(name: str, where: str, *, group: bool = True) -> str:
    upper = name.strip().upper()
    if upper in NUMBERS:
        return upper
    if f"CAP_{upper}" in NUMBERS:
        return f"CAP_{upper}"
    if group and upper in ("ALL", "CAP_ALL"):
        return "ALL"
    raise UsageError(f"unknown capability: {name!r} in {where}", hint=_suggestion(upper))


def _suggestion(upper: str) -> str:
    import difflib

    # Without the prefix that all share and that would make the shortest names near to anything.
    near = difflib.get_close_matches(upper[upper.startswith("CAP_") * 4:],
                                     [name[4:] for name in ALL], 1, 0.7)
    if near:
        return f"did you mean CAP_{near[0]}?"
    return "capabilities(7) lists them, for example NET_ADMIN; ALL stands for all of them"
