"""`image mount`: an image's files in a directory, for who is in `rootless unshare`.

An unprivileged mount is seen only in a mount namespace of the user's own, so outside of one there
is nothing to mount for. The mounts are read-only, one for each image, in the run directory, and go
with the namespace.
"""

from __future__ import annotations

import os

from rootless import linux
from rootless.errors import Conflict, HostError, NotFound, StorageError, os_reason
from rootless.storage import merged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.image.store import Image
    from rootless.paths import Paths


def mount(paths: Paths, image: Image) -> str:
    """The directory; also when it was mounted before. Raises HostError, StorageError."""
    _check_inside(image.shown)
    place = _place(paths, image.id)
    if place in mounted(paths).values():
        return place
    layers = [paths.layer(d) for d in reversed(image.layers)]
    os.makedirs(place, 0o755, exist_ok=True)
    empty = paths.run + "/empty"
    os.makedirs(empty, 0o755, exist_ok=True)
    opened = []
    try:
        for layer in [*layers, empty]:
            try:
                opened.append(os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            except FileNotFoundError:
                raise StorageError(f"image {image.shown} has lost a layer: {layer}",
                                   hint="rootless system check --repair") from None
        merged.overlay(opened[:-1], opened[-1], place)
    finally:
        for fd in opened:
            os.close(fd)
    return place


def unmount(paths: Paths, identity: str, name: str) -> None:
    """Raises NotFound, Conflict."""
    place = _place(paths, identity)
    if place not in mounted(paths).values():
        raise NotFound(f"image {name} is not mounted here", hint="rootless image mount lists those "
                                                                 "that are")
    try:
        linux.umount2(place, 0)
        os.rmdir(place)
    except OSError as e:
        raise Conflict(f"cannot unmount {place}: {os_reason(e)}",
                       hint="some process stands in it or has a file of it open") from None


def mounted(paths: Paths) -> dict[str, str]:
    """Image id to directory, of those that are mounted in this namespace."""
    base = os.path.realpath(paths.run) + "/images/"
    found = {}
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        for line in f:
            point = line.split(" ")[4]
            if point.startswith(base):
                found["sha256:" + point[len(base):]] = point
    return found


def _place(paths: Paths, identity: str) -> str:
    return f"{os.path.realpath(paths.run)}/images/{identity[7:]}"


def _check_inside(name: str) -> None:
    """Root of a user namespace that is not the machine's own."""
    with open("/proc/self/uid_map", encoding="ascii") as f:
        first = f.readline().split()
    if os.geteuid() != 0 or first[:3] == ["0", "0", "4294967295"]:
        raise HostError(f"cannot mount image {name}: outside of a mount namespace of yours nobody "
                        "would see it",
                        hint=f"rootless unshare, and there: rootless image mount {name}")
