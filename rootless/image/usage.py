"""What the store takes on the disk, from what is known already: blobs have their size, layers
have theirs noted; nobody walks through files."""

from __future__ import annotations

import os

from rootless.image import store
from rootless.image.reference import HEX

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.image.store import Image
    from rootless.paths import Paths


def total(paths: Paths) -> int:
    """Bytes of all blobs and all unpacked layers."""
    return sum(blob_sizes(paths).values()) + sum(layer_sizes(paths).values())


def blob_sizes(paths: Paths) -> dict[str, int]:
    found = {}
    for name in _listed(paths.blobs):
        try:
            found["sha256:" + name] = os.stat(f"{paths.blobs}/{name}").st_size
        except FileNotFoundError:
            continue
    return found


def layer_sizes(paths: Paths) -> dict[str, int]:
    """Of a layer whose directory shuts us out, the size of the blob it came from."""
    found = {}
    for name in _listed(paths.layers):
        diff_id = "sha256:" + name
        try:
            found[diff_id] = int(os.getxattr(paths.layer(diff_id), "user.rootless.size"))
        except (OSError, ValueError):
            found[diff_id] = _noted(paths, diff_id)
    return found


def _noted(paths: Paths, diff_id: str) -> int:
    from rootless.files import read_bytes

    try:
        digest = read_bytes(store.note_path(paths, diff_id), 256).decode()
        return os.stat(f"{paths.blobs}/{digest[7:]}").st_size
    except (OSError, ValueError):
        return 0


def _listed(directory: str) -> list[str]:
    try:
        return [n for n in os.listdir(directory) if len(n) == 64 and HEX.issuperset(n)]
    except FileNotFoundError:
        return []


def shared_and_own(images: list[Image], image: Image, sizes: dict[str, int]) -> tuple[int, int]:
    """Bytes of its layers that other images have too, and of those that only it has."""
    others = {layer for i in images if i.id != image.id for layer in i.layers}
    mine = dict.fromkeys(image.layers)
    shared = sum(sizes.get(layer, 0) for layer in mine if layer in others)
    return shared, sum(sizes.get(layer, 0) for layer in mine if layer not in others)
