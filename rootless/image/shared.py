"""Images that many users of a machine or a cluster read and nobody of them writes.

A shared store is a directory of squashfs files (`rootless.image.flat`), named in the configuration
as `storage.additional`. Unpacked layers would not do: the kernel shows their files to another user
as nobody's, since the owner has no place in that user's namespace. In a squashfs the owners are
numbers, which every user's namespace gives to its own ids. So each user sees every owner as the
image has it, as far as the own map goes; and on a parallel filesystem one image is one file.

Nothing is written there by readers, no lock is taken. A file appears by a rename, whole; one that
is removed stays for the containers that run from it, as open files do.
"""

from __future__ import annotations

import os

from rootless import config
from rootless.errors import ImageError, NotFound, StorageError, UsageError, os_reason
from rootless.image import flat, store
from rootless.image.reference import parse
from rootless.image.store import Image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.image.save import Output
    from rootless.paths import Paths
    from rootless.userns.keeper import Userns

SUFFIX = ".sqfs"


def directories(paths: Paths) -> list[str]:
    """`storage.additional`. Raises HostError."""
    found: list[str] = []
    for table in config.load(paths, os.environ).sections("storage"):
        table.only("additional")
        for directory in table.texts("additional"):
            if not directory.startswith("/"):
                raise table.wrong("additional", f"not an absolute path: {directory}",
                                  'additional = ["/opt/images"]')
            found.append(directory)
    return list(dict.fromkeys(found))


def every(paths: Paths) -> list[Image]:
    """Images of all shared stores, in the order of the configuration; what cannot be read is not
    there, as with any file of somebody else. Raises HostError for a bad configuration."""
    found = []
    for directory in directories(paths):
        try:
            names = sorted(n for n in os.listdir(directory) if n.endswith(SUFFIX))
        except OSError:
            continue            # not mounted on this machine
        for name in names:
            try:
                found.append(flat.load(f"{directory}/{name}"))
            except (NotFound, ImageError, StorageError):
                continue
    return found


def find(paths: Paths, text: str) -> Image | None:
    """By name, or by the start of an id. Raises HostError."""
    images = every(paths)
    if not images:
        return None
    try:
        full = parse(text).named().full
    except UsageError:
        full = ""
    prefix = text[7:] if text.startswith("sha256:") else text
    for image in images:
        if image.name == full:
            return image
    ids = [i for i in images if len(prefix) >= 4 and i.id[7:].startswith(prefix)]
    return ids[0] if len({i.id for i in ids}) == 1 else None


def any_store(paths: Paths, text: str) -> Image | None:
    """Of the user's store, of those that are shared, or in a squashfs file."""
    path = flat.path_of(text)
    return flat.load(path) if path else store.find(paths, text) or find(paths, text)


def own(paths: Paths, text: str) -> Image:
    """The image in the user's own store, with its layers. Raises NotFound, StorageError."""
    image = store.find(paths, text)
    if image is None:
        raise missing(paths, text)
    return image


def missing(paths: Paths, text: str, more: str = "") -> NotFound:
    """That the user's own store has no such image. `more`: for the hint."""
    there = find(paths, text)
    if there is not None:
        return NotFound(f"image {text} lies in a shared store, as one file without its layers",
                        hint=f"run takes it, or copy the file: {there.file}")
    return NotFound(f"no such image: {text}", hint="rootless images lists what there is" + more)


def path_for(directory: str, image: Image) -> str:
    """One file for each name. Raises StorageError."""
    if not os.path.isdir(directory):
        raise StorageError(f"cannot share images in {directory}: it is no directory",
                           hint=f"mkdir {directory}")
    name = image.name.replace("/", "+") if image.name else image.id[7:]
    return f"{directory}/{name}{SUFFIX}"


def share(paths: Paths, userns: Userns, image: Image, output: Output) -> None:
    """Write an image for others, who must be able to read it. The caller holds `store.hold`."""
    store.ensure_layers(paths, userns, image)
    flat.flatten(paths, userns, image, output)
    try:
        os.fchmod(output.fileno(), 0o644)
    except OSError as e:
        raise StorageError(f"cannot open {output.path} to others: {os_reason(e)}") from None
