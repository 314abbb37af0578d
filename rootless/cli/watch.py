"""Options of `run` and `create` about what the container's monitor does."""

from __future__ import annotations

from rootless.cli.command import LIST, VALUE, Option, Options
from rootless.container import mounts, restart
from rootless.container.wanted import Watch
from rootless.errors import UsageError

DRIVERS = ("k8s-file", "json-file", "none")
OPTIONS = (
    Option("log-driver", VALUE, "k8s-file (default), json-file or none", metavar="DRIVER"),
    Option("log-opt", LIST, "max-size=SIZE of a file of the log, max-file=NUMBER of them",
           metavar="KEY=VALUE"),
    Option("restart", VALUE, "no (default), on-failure[:N], always or unless-stopped",
           metavar="POLICY"),
    Option("timeout", VALUE, "Kill it after so many seconds", metavar="SECONDS"),
)


def log_driver(options: Options) -> str:
    """Raises UsageError."""
    driver = options.value("log-driver") or DRIVERS[0]
    if driver not in DRIVERS:
        raise UsageError(f"unknown log driver: {driver}", hint=", ".join(DRIVERS))
    return driver


def log_limits(options: Options) -> tuple[int, int]:
    """(bytes of a file of the log, 0 for any; number of files). Raises UsageError."""
    size, count = 0, 1
    for text in options.list("log-opt"):
        key, eq, value = text.partition("=")
        if key == "max-size" and eq:
            size = mounts.size(value) if value != "-1" else 0
        elif key == "max-file" and value.isdigit() and int(value) > 0:
            count = int(value)
        else:
            raise UsageError(f"invalid log option: {text}", hint="max-size=10m, max-file=3")
    if count > 1 and not size:
        raise UsageError("cannot keep several files of a log whose size has no limit",
                         hint="--log-opt max-size=10m")
    if size and options.value("log-driver") == "none":
        raise UsageError("conflicting options: --log-driver none and --log-opt max-size")
    return size, count


def watch(options: Options) -> Watch:
    """Raises UsageError."""
    policy = restart.parse(options.value("restart") or "no")
    if policy[0] != "no" and options.flag("rm"):
        raise UsageError("conflicting options: --restart and --rm",
                         hint="what is removed at its end cannot be started again")
    timeout = options.integer("timeout") or 0
    if timeout < 0:
        raise UsageError(f"invalid argument for --timeout: {timeout}: it is below zero")
    return Watch(restart=policy, timeout=timeout)
