"""`rootless unshare`, `image mount` and `image unmount`."""

from __future__ import annotations

import os
import sys

from rootless import paths as places
from rootless.cli.command import FLAG, Command, Option, Options
from rootless.errors import UsageError
from rootless.image import shared, store


def unshare(options: Options) -> int:
    from rootless.userns import keeper, shell

    paths = places.of_this_user()
    paths.ensure()
    command = options.args or [os.environ.get("SHELL") or "/bin/sh"]
    shell.become(paths, keeper.open_userns(paths), command)


def mount(options: Options) -> int:
    from rootless.image import mount as mounting

    paths = places.of_this_user()
    if not options.args:
        names = {i.id: i.shown for i in reversed(store.every(paths))}
        for identity, place in mounting.mounted(paths).items():
            sys.stdout.write(f"{names.get(identity, identity[7:19])} {place}\n")
        return 0
    for text in options.args:
        image = shared.own(paths, text)
        place = mounting.mount(paths, image)
        sys.stdout.write(f"{place}\n" if len(options.args) == 1 else f"{text} {place}\n")
    return 0


def unmount(options: Options) -> int:
    from rootless.image import mount as mounting

    paths = places.of_this_user()
    if options.flag("all") == bool(options.args):
        raise UsageError("rootless image unmount needs an image, or --all",
                         hint="rootless image unmount --help")
    if options.flag("all"):
        for identity in mounting.mounted(paths):
            mounting.unmount(paths, identity, identity[7:19])
            sys.stdout.write(f"{identity}\n")
        return 0
    for text in options.args:
        image = shared.own(paths, text)
        mounting.unmount(paths, image.id, text)
        sys.stdout.write(f"{image.id}\n")
    return 0


COMMANDS = {
    "unshare": Command("unshare", "[COMMAND [ARG...]]", "Run a command, or your shell, as root of "
                       "your user namespace, with mounts of its own.", unshare,
                       interspersed=False, error_exit=125),
    "image mount": Command("image mount", "[IMAGE...]", "Mount images read-only and print where. "
                           "Within rootless unshare only. Without an image, list those that are "
                           "mounted.", mount),
    "image unmount": Command("image unmount", "[IMAGE...]", "Unmount images.", unmount, (
        Option("all", FLAG, "All that are mounted", "a"),)),
}
