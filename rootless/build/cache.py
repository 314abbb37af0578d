"""The end of what builds keep for the next: `builder prune`."""

from __future__ import annotations

import os

from rootless.build.runmounts import CACHE_PREFIX
from rootless.files import Lock
from rootless.image import gc, steps, store, usage
from rootless.storage import trash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.paths import Paths


def prune(paths: Paths, *, everything: bool) -> int:
    """Forget the steps whose layers no image has, or all of them and the directories of cache
    mounts that no build is using. Bytes of layers and blobs that are free now. Raises
    StorageError."""
    before = usage.total(paths)
    used = set() if everything else {d for image in store.every(paths) for d in image.layers}
    for path, made in steps.every(paths):
        if made is None or made.diff_id not in used:
            os.unlink(path)
    if everything:
        for name in sorted(os.listdir(paths.cache)):
            if name.startswith(CACHE_PREFIX) and not name.endswith(".lock"):
                _forget_mount(paths, f"{paths.cache}/{name}")
    gc.sweep(paths)
    return max(0, before - usage.total(paths))


def _forget_mount(paths: Paths, path: str) -> None:
    try:
        with Lock(path + ".lock", wait=False) as lock:
            trash.discard(paths, path)
            os.unlink(lock.path)
    except BlockingIOError:
        pass
