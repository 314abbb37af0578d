"""--restart: whether a container that has ended is started again, and after how long.

docker's rules (moby restartmanager): a hundred milliseconds at first, twice as long each time, a
minute at most, and from the beginning for one that ran for ten seconds.
"""

from __future__ import annotations

from rootless.errors import UsageError

FIRST, LONGEST, LASTING = 0.1, 60.0, 10.0

NO, ALWAYS, ON_FAILURE, UNLESS_STOPPED = "no", "always", "on-failure", "unless-stopped"


def parse(text: str) -> tuple[str, int]:
    """(policy, how often at most; 0: for ever). Raises UsageError."""
    name, colon, most = text.partition(":")
    hint = "no, always, on-failure[:N] or unless-stopped"
    if name not in (NO, ALWAYS, ON_FAILURE, UNLESS_STOPPED):
        raise UsageError(f"invalid restart policy: {text}", hint=hint)
    if colon and name != ON_FAILURE:
        raise UsageError(f"invalid restart policy: {text}: only on-failure takes a number",
                         hint=hint)
    if colon and not most.isdigit():
        raise UsageError(f"invalid restart policy: {text}: {most} is not a number of times",
                         hint=hint)
    return name, int(most or 0)


def wanted(policy: str, most: int, *, code: int, restarts: int) -> bool:
    """Of one that nobody stopped on purpose."""
    if policy == ON_FAILURE:
        return code != 0 and (most == 0 or restarts < most)
    return policy in (ALWAYS, UNLESS_STOPPED)


def delay(previous: float, lasted: float) -> float:
    """Seconds to wait after it has run for `lasted`; `previous`: the wait before, 0 for none."""
    if previous == 0 or lasted >= LASTING:
        return FIRST
    return min(previous * 2, LONGEST)
