"""`rootless stop`, `kill`, `wait`, `rm`."""

from __future__ import annotations

import sys

from rootless import paths as places
from rootless.cli.command import FLAG, VALUE, Command, Option, Options
from rootless.container import life, signals, store
from rootless.container.store import Container
from rootless.errors import NotFound, RootlessError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def each(options: Options, act: Callable[[Container], str | None], *,
          missing_ok: bool = False) -> int:
    """Do it to every container named; one that fails does not keep the others."""
    from rootless.__main__ import tell

    paths = places.of_this_user()
    worst = 0
    for name in options.args:
        try:
            said = act(store.find(paths, name))
            sys.stdout.write(f"{name if said is None else said}\n")
            sys.stdout.flush()
        except NotFound as e:
            if not missing_ok:
                tell(e)
                worst = 1
        except RootlessError as e:
            tell(e)
            worst = 1
    return worst


def stop(options: Options) -> int:
    seconds, signal = options.integer("time"), options.value("signal") or ""
    if signal:
        signals.number(signal)

    def act(container: Container) -> None:
        life.stop(container, seconds=seconds, signal=signal)

    return each(options, act)


def kill(options: Options) -> int:
    number = signals.number(options.value("signal") or "KILL")

    def act(container: Container) -> None:
        life.kill(container, number)

    return each(options, act)


def wait(options: Options) -> int:
    return each(options, lambda container: str(life.wait(container)))


def rm(options: Options) -> int:
    force = options.flag("force")

    def act(container: Container) -> None:
        life.remove(container, force=force, volumes=options.flag("volumes"))

    code = each(options, act, missing_ok=force)
    store.sweep(places.of_this_user())
    return code


_MANY = "CONTAINER [CONTAINER...]"

COMMANDS = {
    "stop": Command("stop", _MANY, "Ask containers to stop; kill those that do not in time.",
                    stop, (Option("time", VALUE, "Seconds to wait (default 10, -1: for ever)",
                                  "t", "SECONDS"),
                           Option("signal", VALUE, "Signal to send first", "s", "SIGNAL")),
                    least=1),
    "kill": Command("kill", _MANY, "Send a signal to running containers.", kill,
                    (Option("signal", VALUE, "Signal (default KILL)", "s", "SIGNAL"),), least=1),
    "wait": Command("wait", _MANY, "Wait until containers have ended; print their exit codes.",
                    wait, least=1),
    "rm": Command("rm", _MANY, "Remove containers.", rm,
                  (Option("force", FLAG, "Kill those that run", "f"),
                   Option("volumes", FLAG, "And their volumes that have no name", "v")), least=1),
}
