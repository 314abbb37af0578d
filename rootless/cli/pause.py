"""`rootless pause` and `unpause`."""

from __future__ import annotations

from rootless import paths as places
from rootless.cli.command import FLAG, Command, Option, Options
from rootless.cli.life import each
from rootless.container import cgroups, store
from rootless.container.store import Container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def pause(options: Options) -> int:
    return _each(options, cgroups.pause, False)


def unpause(options: Options) -> int:
    return _each(options, cgroups.unpause, True)


def _each(options: Options, act: Callable[[Container], None], paused: bool) -> int:
    """--all: those that run, and are or are not paused yet."""
    if not options.flag("all") or options.args:
        return each(options, act)
    found = [(c, c.state()) for c in store.every(places.of_this_user())]
    return each(options, act, chosen=[c.name for c, s in found if s.running and not s.elsewhere
                                      and cgroups.paused(s) == paused])


_ALL = Option("all", FLAG, "All containers", "a")

COMMANDS = {
    "pause": Command("pause", "CONTAINER [CONTAINER...]",
                     "Stop all processes of containers where they are.", pause, (_ALL,)),
    "unpause": Command("unpause", "CONTAINER [CONTAINER...]", "Let paused containers go on.",
                       unpause, (_ALL,)),
}
