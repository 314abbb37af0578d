"""`rootless save`, `export` and `image flatten`."""

from __future__ import annotations

import os
import sys

from rootless import paths as places
from rootless.cli.command import FLAG, VALUE, Command, Option, Options
from rootless.errors import UsageError
from rootless.image import shared, store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def save(options: Options) -> int:
    from rootless.image import save as saving

    paths = places.of_this_user()
    paths.ensure()
    form = options.value("format") or saving.DOCKER_ARCHIVE
    if form not in saving.FORMATS:
        raise UsageError(f"invalid format: {form}", hint=", ".join(saving.FORMATS))
    target = options.value("output") or ""
    if form in saving.DIRECTORIES:
        if not target:
            raise UsageError(f"cannot save as {form}: no directory is named",
                             hint=f"rootless save --format {form} -o DIRECTORY IMAGE")
        saving.check_target(target)
    elif not target:
        _refuse_terminal("save an archive")
    progress = _progress(options)
    with store.hold(paths):
        chosen = saving.choose(paths, options.args)
        if form in saving.DIRECTORIES:
            saving.directory(chosen, form, os.path.abspath(target), progress)
            return 0
        output = saving.Output(target)
        try:
            saving.archive(chosen, form, output.write, progress)
            output.commit()
        finally:
            output.close()
    return 0


def _progress(options: Options) -> Callable[[str], None]:
    """Only people who look at a terminal want to see blobs pass."""
    shown = not options.flag("quiet") and sys.stderr.isatty()

    def say(digest: str) -> None:
        if shown:
            sys.stderr.write(f"Saving {digest[7:19]}\n")

    return say


def export(options: Options) -> int:
    from rootless.container import export as exporting
    from rootless.container import store as containers
    from rootless.image import save as saving
    from rootless.userns import keeper

    paths = places.of_this_user()
    container = containers.find(paths, options.args[0])
    target = options.value("output") or ""
    if not target:
        _refuse_terminal("export a container")
    output = saving.Output(target)
    try:
        exporting.export(container, keeper.open_userns(paths), output.write)
        output.commit()
    finally:
        output.close()
    return 0


def flatten(options: Options) -> int:
    from rootless.image import flat
    from rootless.image import save as saving
    from rootless.userns import keeper

    paths = places.of_this_user()
    paths.ensure()
    image = shared.own(paths, options.args[0])
    target = options.value("output") or ""
    if not target:
        raise UsageError("cannot flatten an image: no file is named",
                         hint=f"rootless image flatten {options.args[0]} -o FILE.sqfs")
    userns = keeper.open_userns(paths)
    output = saving.Output(target)
    try:
        if not output.path:
            raise UsageError(f"cannot flatten an image into {target}: it is no regular file")
        with store.hold(paths):
            store.ensure_layers(paths, userns, image)
            flat.flatten(paths, userns, image, output)
        output.commit()
    finally:
        output.close()
    return 0


def share(options: Options) -> int:
    from rootless.image import save as saving
    from rootless.userns import keeper

    paths = places.of_this_user()
    paths.ensure()
    directory, *names = options.args
    images = [shared.own(paths, name) for name in names]
    userns = keeper.open_userns(paths)
    for image in images:
        target = shared.path_for(os.path.abspath(directory), image)
        output = saving.Output(target)
        try:
            with store.hold(paths):
                shared.share(paths, userns, image, output)
            output.commit()
        finally:
            output.close()
        sys.stdout.write(f"{target}\n")
        sys.stdout.flush()
    return 0


def _refuse_terminal(what: str) -> None:
    if os.isatty(1):
        raise UsageError(f"cannot {what}: standard output is a terminal",
                         hint="-o FILE, or redirect standard output: > FILE")


_OUTPUT = Option("output", VALUE, "Write to this file, not to standard output", "o", "FILE")

COMMANDS = {
    "save": Command("save", "IMAGE [IMAGE...]", "Write images into an archive that docker, podman, "
                    "skopeo and rootless load; or into a directory.", save, (
        _OUTPUT,
        Option("format", VALUE, "docker-archive (the default), oci-archive, oci-dir or docker-dir",
               metavar="FORMAT"),
        Option("quiet", FLAG, "Do not show blobs on the terminal as they pass", "q"),
    ), least=1),
    "export": Command("export", "CONTAINER", "Write the files of a container into a tar archive.",
                      export, (_OUTPUT,), least=1, most=1),
    "image share": Command("image share", "DIRECTORY IMAGE [IMAGE...]", "Write images into a "
                           "directory from which other users run them (storage.additional in "
                           "config.toml).", share, least=2),
    "image flatten": Command("image flatten", "IMAGE", "Write an image into one squashfs file, "
                             "which run takes in an image's place.", flatten, (
        Option("output", VALUE, "The file", "o", "FILE"),), least=1, most=1),
}
