"""`rootless cp`."""

from __future__ import annotations

import os
import sys

from rootless import paths as places
from rootless.cli.command import FLAG, Command, Option, Options
from rootless.container import cp, store
from rootless.errors import UsageError
from rootless.image.progress import human
from rootless.userns import keeper

_HELP = """Copy files between a container, which need not run, and the host.

`-` as the source reads a tar from standard input and unpacks it in a directory of the container;
as the destination it writes one. SRC/. means what is in a directory. A path of the host with a
colon in it is written with ./ or / before it."""


def split(text: str) -> tuple[str, str]:
    """(container, path); the container is "" for a path of the host. As docker reads it."""
    if text.startswith(("/", ".")):
        return "", text
    name, colon, path = text.partition(":")
    return (name, path) if colon and name else ("", text)


def run(options: Options) -> int:
    source, destination = map(split, options.args)
    if bool(source[0]) == bool(destination[0]):
        raise UsageError("cannot copy from one container to another in one step"
                         if source[0] else "cannot copy: no container is named",
                         hint="rootless cp CONTAINER:/path PATH, or PATH CONTAINER:/path")
    if not source[1] or not destination[1]:
        raise UsageError("cannot copy: a path is empty", hint="rootless cp CONTAINER:/path PATH")
    paths = places.of_this_user()
    container = store.find(paths, source[0] or destination[0])
    userns = keeper.open_userns(paths)
    archive, follow = options.flag("archive"), options.flag("follow-link")
    if source == ("", "-"):
        cp.copy_stream_in(container, userns, 0, destination[1])
        return 0
    if destination == ("", "-"):
        if os.isatty(1):
            raise UsageError("cannot write an archive to the terminal", hint="redirect the output")
        cp.copy_stream_out(container, userns, source[1], 1, follow=follow)
        return 0
    if source[0]:
        size = cp.copy_out(container, userns, source[1], destination[1], archive=archive,
                           follow=follow)
    else:
        size = cp.copy_in(container, userns, source[1], destination[1], archive=archive,
                          follow=follow)
    if not options.flag("quiet"):
        sys.stderr.write(f"Successfully copied {human(size)} to {options.args[1]}\n")
    return 0


COMMANDS = {
    "cp": Command("cp", "CONTAINER:SRC DEST | SRC CONTAINER:DEST", _HELP, run, (
        Option("archive", FLAG, "Keep owners, as containers see them", "a"),
        Option("follow-link", FLAG, "Copy what the symbolic link SRC leads to", "L"),
        Option("quiet", FLAG, "Do not say how much was copied", "q"),
    ), least=2, most=2),
}
