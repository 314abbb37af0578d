"""Options of `run` and `create` about what the container's monitor does."""

from __future__ import annotations

from rootless import jsontext
from rootless.cli.command import FLAG, LIST, VALUE, Option, Options
from rootless.clock import duration
from rootless.container import life, mounts, restart, store
from rootless.container.wanted import Watch
from rootless.errors import NotFound, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.paths import Paths

ACTIONS = ("none", "kill", "restart", "stop")
_TIMES = ("health-interval", "health-timeout", "health-start-period", "health-start-interval")
DRIVERS = ("k8s-file", "json-file", "none")
OPTIONS = (
    Option("log-driver", VALUE, "k8s-file (default), json-file or none", metavar="DRIVER"),
    Option("log-opt", LIST, "max-size=SIZE of a file of the log, max-file=NUMBER of them",
           metavar="KEY=VALUE"),
    Option("health-cmd", VALUE, "Command that tells if it is well: a line for its shell, or a "
           "list in JSON", metavar="COMMAND"),
    Option("health-interval", VALUE, "Time between two checks (default 30s)", metavar="TIME"),
    Option("health-on-failure", VALUE, "none (default), kill, restart or stop it when it is "
           "unhealthy", metavar="ACTION"),
    Option("health-retries", VALUE, "Failures in a row that make it unhealthy (default 3)",
           metavar="N"),
    Option("health-start-interval", VALUE, "Time between checks in the start period (default 5s)",
           metavar="TIME"),
    Option("health-start-period", VALUE, "Time in which failures do not count (default 0s)",
           metavar="TIME"),
    Option("health-timeout", VALUE, "Time after which a check has failed (default 30s)",
           metavar="TIME"),
    Option("no-healthcheck", FLAG, "No checks, whatever the image says"),
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


def _health(options: Options) -> tuple[tuple[str, Any], ...]:
    found: dict[str, Any] = {}
    if options.flag("no-healthcheck"):
        given = [n for n in ("health-cmd", *_TIMES, "health-retries") if options.given(n)]
        if given:
            raise UsageError(f"conflicting options: --no-healthcheck and --{given[0]}")
        return (("test", ["NONE"]),)
    text = options.value("health-cmd")
    if text is not None:
        found["test"] = _test(text)
    for name in _TIMES:
        value = options.value(name)
        if value is not None:
            found[name[7:].replace("-", "_")] = _seconds(name, value)
    retries = options.integer("health-retries")
    if retries is not None:
        if retries < 1:
            raise UsageError(f"invalid argument for --health-retries: {retries}: it is below one")
        found["retries"] = retries
    action = options.value("health-on-failure")
    if action is not None:
        if action not in ACTIONS:
            raise UsageError(f"invalid argument for --health-on-failure: {action}",
                             hint=", ".join(ACTIONS))
        if action == "restart" and options.value("restart") not in (None, "no"):
            raise UsageError("conflicting options: --health-on-failure restart and --restart",
                             hint="--health-on-failure kill, and --restart does the rest")
        found["on_failure"] = action
    return tuple(found.items())


def _test(text: str) -> list[str]:
    """A line for the shell, or as podman has it a list in JSON; `none` for no check."""
    if text.startswith("["):
        try:
            words = jsontext.loads(text)
        except ValueError:
            words = None
        if isinstance(words, list) and words and all(isinstance(w, str) for w in words):
            return words if words[0] in ("CMD", "CMD-SHELL", "NONE") else ["CMD", *words]
    return ["NONE"] if text in ("", "none") else ["CMD-SHELL", text]


def _seconds(name: str, text: str) -> float:
    try:
        seconds = duration(text)
    except ValueError:
        seconds = -1.0
    if seconds < 0 or 0 < seconds < 0.001:
        raise UsageError(f"invalid argument for --{name}: {text}", hint="30s, 1m30s")
    return seconds


def make_room(paths: Paths, options: Options) -> None:
    """--replace: remove the container that has the name. Raises UsageError."""
    if not options.flag("replace"):
        return
    name = options.value("name")
    if not name:
        raise UsageError("--replace wants a name", hint="--name NAME")
    try:
        life.remove(store.find(paths, name), force=True)
    except NotFound:
        pass


def watch(options: Options) -> Watch:
    """Raises UsageError."""
    policy = restart.parse(options.value("restart") or "no")
    if policy[0] != "no" and options.flag("rm"):
        raise UsageError("conflicting options: --restart and --rm",
                         hint="what is removed at its end cannot be started again")
    timeout = options.integer("timeout") or 0
    if timeout < 0:
        raise UsageError(f"invalid argument for --timeout: {timeout}: it is below zero")
    return Watch(restart=policy, timeout=timeout, health=_health(options))
