"""Signal names and numbers, as kill(1) and docker take them. The `signal` module costs 4 ms."""

from __future__ import annotations

from rootless.errors import UsageError

# signal(7), x86 and ARM.
NUMBERS = {
    "HUP": 1, "INT": 2, "QUIT": 3, "ILL": 4, "TRAP": 5, "ABRT": 6, "IOT": 6, "BUS": 7, "FPE": 8,
    "KILL": 9, "USR1": 10, "SEGV": 11, "USR2": 12, "PIPE": 13, "ALRM": 14, "TERM": 15,
    "STKFLT": 16, "CHLD": 17, "CONT": 18, "STOP": 19, "TSTP": 20, "TTIN": 21, "TTOU": 22,
    "URG": 23, "XCPU": 24, "XFSZ": 25, "VTALRM": 26, "PROF": 27, "WINCH": 28, "IO": 29,
    "POLL": 29, "PWR": 30, "SYS": 31, "RTMIN": 34, "RTMAX": 64,
}
TERM, KILL = 15, 9


def number(text: str) -> int:
    """`TERM`, `SIGTERM`, `15`, `RTMIN+3` to a number. Raises UsageError."""
    name = text.upper()
    if name.isdigit() and 0 < int(name) <= 64:
        return int(name)
    if name.startswith("SIG"):
        name = name[3:]
    if name in NUMBERS:
        return NUMBERS[name]
    for base, sign in (("RTMIN", "+"), ("RTMAX", "-")):
        head, found, offset = name.partition(sign)
        if head == base and found and offset.isdigit() and int(offset) <= 30:
            return NUMBERS[base] + (int(offset) if sign == "+" else -int(offset))
    raise UsageError(f"invalid signal: {text}", hint="a name like TERM or a number from 1 to 64")
