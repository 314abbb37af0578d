"""`rootless update`."""

from __future__ import annotations

from rootless.cli import limits
from rootless.cli.command import Command, Options
from rootless.cli.life import each
from rootless.container import cgroups
from rootless.container.store import Container
from rootless.errors import UsageError


def update(options: Options) -> int:
    changes = limits.resources(options)
    if not changes:
        raise UsageError("no limit to change is given", hint="rootless update --help")

    def act(container: Container) -> None:
        cgroups.update(container, changes)

    return each(options, act)


COMMANDS = {
    "update": Command("update", "CONTAINER [CONTAINER...]",
                      "Change the limits of containers, also while they run. 0 takes a limit of "
                      "memory or CPUs away, -1 one of processes.",
                      update, limits.CHANGEABLE, least=1),
}
