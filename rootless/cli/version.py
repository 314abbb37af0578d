"""`rootless version`."""

from __future__ import annotations

import sys

from rootless import __version__
from rootless.cli.command import VALUE, Command, Option, Options


def version(options: Options) -> int:
    template = options.value("format")
    if template is None:
        sys.stdout.write(f"rootless version {__version__}\n")
        return 0
    import json

    from rootless.cli.template import render
    from rootless.container.info import of_version

    found = of_version(__version__)
    text = json.dumps(found) if template == "json" else render(template, found)
    sys.stdout.write(text + "\n")
    return 0


COMMANDS = {"version": Command("version", "", "Show the version.", version, (
    Option("format", VALUE, "Go template, or json", "f", "FORMAT"),), most=0)}
