"""`rootless version`."""

from __future__ import annotations

import sys

from rootless import __version__
from rootless.cli.command import Command, Options


def version(options: Options) -> int:
    sys.stdout.write(f"rootless version {__version__}\n")
    return 0


COMMANDS = {"version": Command("version", "", "Show the version.", version, most=0)}
