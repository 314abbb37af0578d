"""Patterns of names: Go's filepath.Match, in which COPY's wildcards are defined.

    *       any characters but /            ?       one character but /
    [a-z]   one of a class                  [^a-z]  one that is not
    \\c      the character c

A pattern that makes no sense is an error even where it could not match anyway.
"""

from __future__ import annotations

import functools
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from re import Pattern


class PatternError(ValueError):
    def __init__(self, pattern: str) -> None:
        super().__init__(f"syntax error in pattern: {pattern}")


def has_meta(pattern: str) -> bool:
    """Whether it means anything but itself."""
    return any(c in pattern for c in "*?[\\")


@functools.lru_cache(maxsize=1024)
def compiled(pattern: str) -> Pattern[str]:
    """For `fullmatch`. Raises PatternError."""
    out: list[str] = []
    at = 0
    while at < len(pattern):
        c = pattern[at]
        at += 1
        if c == "*":
            if not out or out[-1] != "[^/]*":       # several are one, and cost no backtracking
                out.append("[^/]*")
        elif c == "?":
            out.append("[^/]")
        elif c == "[":
            text, at = char_class(pattern, at)
            out.append(text)
        elif c == "\\":
            if at == len(pattern):
                raise PatternError(pattern)
            out.append(re.escape(pattern[at]))
            at += 1
        else:
            out.append(re.escape(c))
    return re.compile("".join(out), re.DOTALL)


def char_class(pattern: str, at: int) -> tuple[str, int]:
    """(regular expression, position behind) of the class whose [ lies before `at`."""
    negated = pattern.startswith("^", at)
    at += negated
    parts: list[str] = []
    while not pattern.startswith("]", at) or not parts:
        low, at = _member(pattern, at)
        high = low
        if pattern.startswith("-", at):
            high, at = _member(pattern, at + 1)
        # A range that ends before it begins has nobody in it.
        parts.append(f"{re.escape(low)}-{re.escape(high)}" if low <= high else "")
    inner = "".join(parts)
    if not inner:
        return (".", at + 1) if negated else (r"(?!)", at + 1)
    return f"[{'^' if negated else ''}{inner}]", at + 1


def _member(pattern: str, at: int) -> tuple[str, int]:
    c = pattern[at:at + 1]
    if c == "\\":
        at += 1
        c = pattern[at:at + 1]
    elif c in ("-", "]"):
        raise PatternError(pattern)
    if not c or at + 1 >= len(pattern):
        raise PatternError(pattern)
    return c, at + 1


def match(pattern: str, name: str) -> bool:
    """Raises PatternError."""
    return compiled(pattern).fullmatch(name) is not None
