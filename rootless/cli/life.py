"""`rootless stop`, `kill`, `wait`, `rename`, `rm`."""

from __future__ import annotations

import sys

from rootless import paths as places
from rootless.cli.command import FLAG, LIST, VALUE, Command, Option, Options, see
from rootless.container import life, signals, store
from rootless.container.store import Container
from rootless.errors import NotFound, RootlessError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def each(options: Options, act: Callable[[Container], str | None], *,
         missing_ok: bool = False, chosen: list[str] | None = None) -> int:
    """Do it to every container named, or `chosen`; one that fails does not keep the others."""
    from rootless.__main__ import tell

    paths = places.of_this_user()
    worst = 0
    for name in names(options) if chosen is None else chosen:
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


def names(options: Options) -> list[str]:
    """What a command acts on: the containers named, or those that --all, --latest or --filter
    take, newest first. Raises UsageError."""
    chosen = [o for o in ("all", "latest", "filter") if options.given(o)]
    if options.args and chosen:
        raise UsageError(f"containers are named, and --{chosen[0]} is given")
    if options.args:
        return options.args
    if not chosen:
        raise UsageError(f"rootless {options.command.name} needs at least 1 argument, got 0",
                         hint=see(options.command))
    from rootless.container import filters

    paths = places.of_this_user()
    wanted = filters.parse(options.list("filter"))
    found = filters.select(paths, [(c, c.state()) for c in store.every(paths)], wanted)
    return [c.name or c.id for c, _ in (found[:1] if options.flag("latest") else found)]


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
    condition = options.value("condition") or "stopped"
    if condition not in life.CONDITIONS:
        raise UsageError(f"invalid argument for --condition: {condition}",
                         hint=", ".join(life.CONDITIONS))
    code = 0
    for name in names(options):
        # A line each, as soon as it is known.
        code = _wait(name, condition, options) or code
    return code


def _wait(name: str, condition: str, options: Options) -> int:
    from rootless.__main__ import tell

    try:
        container = store.find(places.of_this_user(), name)
        sys.stdout.write(f"{life.wait(container, condition)}\n")
        sys.stdout.flush()
        return 0
    except NotFound as e:
        if options.flag("ignore"):
            sys.stdout.write("-1\n")
            return 0
        tell(e)
    except RootlessError as e:
        tell(e)
    return 1


def rename(options: Options) -> int:
    from rootless.container.rename import rename as change

    change(store.find(places.of_this_user(), options.args[0]), options.args[1])
    return 0


def rm(options: Options) -> int:
    force = options.flag("force")
    seconds = options.integer("time") or 0
    if seconds and not force:
        raise UsageError("--time is of no use without --force")

    def act(container: Container) -> None:
        life.remove(container, force=force, volumes=options.flag("volumes"), seconds=seconds)

    code = each(options, act, missing_ok=force or options.flag("ignore"))
    store.sweep(places.of_this_user())
    return code


_MANY = "CONTAINER [CONTAINER...]"
_CHOSEN = (Option("all", FLAG, "All containers", "a"),
           Option("filter", LIST, "Those that match, as in ps", "f", "KEY=VALUE"),
           Option("latest", FLAG, "The last created", "l"))

COMMANDS = {
    "stop": Command("stop", _MANY, "Ask containers to stop; kill those that do not in time.",
                    stop, (Option("time", VALUE, "Seconds to wait (default 10, -1: for ever)",
                                  "t", "SECONDS"),
                           Option("signal", VALUE, "Signal to send first", "s", "SIGNAL"),
                           *_CHOSEN)),
    "kill": Command("kill", _MANY, "Send a signal to running containers.", kill,
                    (Option("signal", VALUE, "Signal (default KILL)", "s", "SIGNAL"),
                     *_CHOSEN[1:])),
    "wait": Command("wait", _MANY, "Wait until containers have ended; print their exit codes.",
                    wait, (Option("condition", VALUE, ", ".join(life.CONDITIONS), "", "CONDITION"),
                           Option("ignore", FLAG, "Of one that is not there, print -1"),
                           _CHOSEN[2])),
    "rename": Command("rename", "CONTAINER NAME", "Give a container another name.", rename,
                      least=2, most=2),
    "rm": Command("rm", _MANY, "Remove containers.", rm,
                  (Option("force", FLAG, "Kill those that run", "f"),
                   Option("ignore", FLAG, "Say nothing of those that are not there", "i"),
                   Option("time", VALUE, "With --force, seconds before SIGKILL (default 0)", "t",
                          "SECONDS"),
                   Option("volumes", FLAG, "And their volumes that have no name", "v"),
                   _CHOSEN[0], Option("filter", LIST, "Those that match, as in ps", "",
                                      "KEY=VALUE"), _CHOSEN[2])),
}
