"""What nothing needs goes: mark and sweep over names, containers, blobs and layers.

Marked are the blobs of everything index.json names, the layers of those images, of all containers
and of the cache of builds, and the blobs those layers came from. The sweep holds the exclusive
lock, so nobody is in the middle of making something. Where somebody is, it is put off: a file
`.sweep` is left, and whoever ends next does it. Directories are only renamed under the lock;
deleting comes after.

A beginning of a download is no garbage for a week: the next pull goes on from there.
"""

from __future__ import annotations

import os
import time

from rootless import jsontext
from rootless.errors import ImageError, StorageError
from rootless.files import Lock, read_bytes
from rootless.image import steps, store
from rootless.image.manifest import document
from rootless.image.reference import HEX, is_digest
from rootless.storage import trash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.paths import Paths

PATIENCE = 3.0
PARTIAL_SECONDS = 7 * 86400


def sweep(paths: Paths, *, patience: float = PATIENCE) -> list[str] | None:
    """Remove what nothing needs; diffIDs of the layers that went. None: put off, as somebody is
    making something."""
    lock = exclusive(paths, patience)
    if lock is None:
        with open(_wanted(paths), "ab"):
            return None
    with lock:
        gone = _sweep(paths)
        try:
            os.unlink(_wanted(paths))
        except FileNotFoundError:
            pass
    trash.empty(paths)
    return gone


def settle(paths: Paths) -> None:
    """At the end of making something: a sweep that was put off meanwhile."""
    if os.path.exists(_wanted(paths)):
        sweep(paths, patience=0)


def tidy(paths: Paths) -> None:
    """Remove from tmp/ what killed commands left there; those that live hold its lock. And finish
    their removals."""
    from rootless.image.unpack import clear_leftovers
    from rootless.storage import trash

    clear_leftovers(paths)
    trash.empty(paths)
    now = time.time()
    for name in os.listdir(paths.tmp):
        path = f"{paths.tmp}/{name}"
        old = name.startswith(store.PARTIAL_PREFIX) and _age(path, now) > PARTIAL_SECONDS
        if old or name.startswith(store.BLOB_PREFIX):
            try:
                with Lock(path, wait=False):
                    os.unlink(path)
            except BlockingIOError:
                continue


def _age(path: str, now: float) -> float:
    try:
        return now - os.stat(path).st_mtime
    except FileNotFoundError:
        return 0.0


def _wanted(paths: Paths) -> str:
    return paths.data + "/.sweep"


def exclusive(paths: Paths, patience: float) -> Lock | None:
    """The lock under which nobody makes anything; None when somebody still does."""
    end = time.monotonic() + patience
    while True:
        try:
            return Lock(paths.data + "/.images.lock", wait=False)
        except BlockingIOError:
            if time.monotonic() >= end:
                return None
            time.sleep(0.02)


def unneeded(paths: Paths) -> tuple[list[str], list[str]]:
    """Digests of blobs and diffIDs of layers that nothing needs. The caller holds the lock.

    Raises StorageError.
    """
    blobs: set[str] = set()
    layers: set[str] = set()
    for entry in store.read_index(paths):
        _mark(paths, entry["digest"], blobs, layers)
        blobs.add(store.annotation(entry, store.ORIGINAL))
    held = _held_by_containers(paths)
    if held is not None:
        held |= steps.layers(paths)
    gone = []
    for name in _entries(paths.layers):
        diff_id = "sha256:" + name
        if diff_id in layers:
            continue
        if held is None or diff_id in held:
            blobs.add(_noted(paths, diff_id))
            continue
        gone.append(diff_id)
    loose = ["sha256:" + name for name in _entries(paths.blobs)]
    return [digest for digest in loose if digest not in blobs], gone


def _sweep(paths: Paths) -> list[str]:
    blobs, gone = unneeded(paths)
    for diff_id in gone:
        trash.take(paths, paths.layer(diff_id))
    for digest in blobs:
        _unlink(store.blob_path(paths, digest))
    for name in os.listdir(paths.cache):
        prefix, _, hexadecimal = name.rpartition("-")
        if prefix == "blob-of" and not os.path.lexists(f"{paths.layers}/{hexadecimal}"):
            _unlink(f"{paths.cache}/{name}")
    tidy(paths)
    return gone


def _entries(directory: str) -> list[str]:
    return sorted(n for n in os.listdir(directory) if len(n) == 64 and HEX.issuperset(n))


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _mark(paths: Paths, digest: str, blobs: set[str], layers: set[str]) -> None:
    """A manifest, or a list of them however deep, and all it names. What cannot be read names
    nothing."""
    todo = [digest]
    while todo:
        digest = todo.pop()
        if digest in blobs:
            continue
        blobs.add(digest)
        try:
            value = document(store.read_blob(paths, digest), digest)
            todo += _digests(value.get("manifests"))
            blobs.update(_digests(value.get("layers")))
            for config in _digests([value.get("config")]):
                blobs.add(config)
                rootfs = document(store.read_blob(paths, config), config).get("rootfs")
                if isinstance(rootfs, dict) and isinstance(rootfs.get("diff_ids"), list):
                    layers.update(d for d in rootfs["diff_ids"] if isinstance(d, str))
        except (StorageError, ImageError):
            continue


def _digests(values: Any) -> list[str]:
    if not isinstance(values, list):
        return []
    found = [v.get("digest") for v in values if isinstance(v, dict)]
    return [d for d in found if isinstance(d, str) and is_digest(d)]


def _held_by_containers(paths: Paths) -> set[str] | None:
    """diffIDs that containers stand on; None when one of them cannot tell, so all must stay."""
    held: set[str] = set()
    for cid in os.listdir(paths.containers):
        try:
            data = jsontext.loads(read_bytes(f"{paths.containers}/{cid}/container.json"))
            held.update(data["layers"])
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError, KeyError, TypeError):
            return None
    return held


def _noted(paths: Paths, diff_id: str) -> str:
    try:
        return read_bytes(store.note_path(paths, diff_id), 256).decode()
    except (OSError, ValueError):
        return ""
