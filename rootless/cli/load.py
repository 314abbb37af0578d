"""`rootless load` and `rootless import`."""

from __future__ import annotations

import sys

from rootless import events
from rootless import paths as places
from rootless.cli.command import FLAG, LIST, VALUE, Command, Option, Options
from rootless.errors import UsageError
from rootless.image import store
from rootless.image.reference import familiar
from rootless.userns import keeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def _progress(options: Options) -> Callable[[str], None] | None:
    """Only people who look at a terminal want to see layers pass."""
    if options.flag("quiet") or not sys.stderr.isatty():
        return None

    def say(digest: str) -> None:
        sys.stderr.write(f"Unpacking layer {digest[7:19]}\n")

    return say


def load(options: Options) -> int:
    from rootless.image import archive, gc

    paths = places.of_this_user()
    paths.ensure()
    directory, fd = archive.open_input(options.value("input") or "-")
    # Before the lock: a keeper that is just starting would hold it, too.
    userns = keeper.open_userns(paths)
    try:
        with store.hold(paths):
            loaded = archive.load(paths, userns, directory, fd,
                                  platform=options.value("platform") or "",
                                  progress=_progress(options))
    finally:
        # Blobs that turned out to belong to no image, all of them when it failed.
        gc.sweep(paths, patience=0)
    for name, image in loaded:
        events.emit(paths.data, "image", "load", image.id, {"name": name or image.id})
        sys.stdout.write(f"Loaded image: {familiar(name)}\n" if name
                         else f"Loaded image ID: {image.id}\n")
    return 0


def import_(options: Options) -> int:
    from rootless.image import archive, gc, rootfs

    paths = places.of_this_user()
    paths.ensure()
    origin = options.args[0]
    if origin.startswith(("http://", "https://")):
        source = rootfs.Download(origin, paths.home).read
    else:
        directory, fd = archive.open_input(origin)
        if directory is not None:
            raise UsageError(f"cannot import {origin}: it is a directory",
                             hint=f"tar -C {origin} -c . | rootless import -")
        source = rootfs.read_from(fd, origin)
    userns = keeper.open_userns(paths)
    try:
        with store.hold(paths):
            image = rootfs.make(paths, userns, source, origin=origin,
                                name=options.args[1] if len(options.args) > 1 else "",
                                lines=options.list("change"),
                                message=options.value("message") or "",
                                platform=options.value("platform") or "")
    finally:
        gc.sweep(paths, patience=0)
    events.emit(paths.data, "image", "import", image.id, {"name": image.name or image.id})
    sys.stdout.write(f"{image.id}\n")
    return 0


COMMANDS = {
    "load": Command("load", "", "Load images from an archive that docker save, podman save or an "
                                "OCI tool wrote, or from a directory with an OCI layout.", load,
                    (Option("input", VALUE, "Read this file, not standard input", "i", "FILE"),
                     Option("platform", VALUE, "Which one, of an image for several", "",
                            "PLATFORM"),
                     Option("quiet", FLAG, "Do not show layers as they are unpacked", "q")),
                    most=0),
    "import": Command("import", "FILE|URL|- [NAME[:TAG]]",
                      "Make an image of one layer from the archive of a filesystem.", import_,
                      (Option("change", LIST, "Apply an instruction of a Dockerfile", "c", "LINE"),
                       Option("message", VALUE, "Comment in the history", "m", "TEXT"),
                       Option("platform", VALUE, "Platform the image is for", "", "PLATFORM")),
                      least=1, most=2),
}
