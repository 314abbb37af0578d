"""A question before something is removed for good."""

from __future__ import annotations

import sys

from rootless.cli.command import FLAG, Option, Options
from rootless.errors import Conflict

FORCE = Option("force", FLAG, "Do not ask", "f")


def confirmed(options: Options, what: str) -> bool:
    """`what`: a sentence that says what goes. True with --force, or when the person agrees.

    Raises Conflict where nobody can be asked.
    """
    if options.flag("force"):
        return True
    if not sys.stdin.isatty():
        raise Conflict("cannot ask for confirmation: standard input is not a terminal",
                       hint=f"rootless {options.command.name} --force")
    sys.stdout.write(f"{what} Go on? [y/N] ")
    sys.stdout.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
