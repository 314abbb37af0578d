"""`rootless top`."""

from __future__ import annotations

import sys

from rootless import paths as places
from rootless.cli.command import Command, Options
from rootless.container import store
from rootless.container.top import table


def run(options: Options) -> int:
    name, *words = options.args
    container = store.find(places.of_this_user(), name)
    rows = table(container, words)
    container.event("top")
    count = len(rows[0])
    rows = [[*r, *[""] * (count - len(r))] for r in rows]
    widths = [max(len(r[i]) for r in rows) + 3 for i in range(count)]
    for row in rows:
        cells = "".join(cell.ljust(w) for cell, w in zip(row, widths))
        sys.stdout.write(cells.rstrip() + "\n")
    return 0


COMMANDS = {
    "top": Command("top", "CONTAINER [PS OPTION...]",
                   "Show the processes of a container, as ps of the machine does (default: -ef).",
                   run, least=1, interspersed=False),
}
