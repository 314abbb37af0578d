"""Times as docker writes them."""

from __future__ import annotations

import time


def now() -> str:
    """RFC 3339 in UTC with nanoseconds."""
    ns = time.time_ns()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ns // 10**9)) + f".{ns % 10**9:09d}Z"
