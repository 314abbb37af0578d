"""What steps of builds have made, to be found again: the cache of `build`.

    cache/step-<hex of the key>   {"layer": diffID, "blob": digest, "size": bytes, "created": time}

A key stands for all that a step depends on; who makes it knows what that is (`rootless.build`).
The layers and blobs named here are no garbage. An entry whose layer is gone, or has the owners of
another map of ids, counts as absent. An entry's own time is when it was used last.
"""

from __future__ import annotations

import os

from rootless import jsontext
from rootless.files import read_bytes, write_atomic
from rootless.image import store
from rootless.image.reference import HEX, is_digest
from rootless.image.unpack import layer_present
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from rootless.paths import Paths
    from rootless.userns.keeper import Userns

PREFIX = "step-"


@record(frozen=True)
class Made:
    """A layer, its compressed blob, and when a step made it (RFC 3339)."""

    diff_id: str
    blob: str
    size: int
    created: str


def find(paths: Paths, userns: Userns, key: str) -> Made | None:
    """The caller holds `store.hold`."""
    path = _path(paths, key)
    made = _read(path)
    if made is None or not layer_present(paths, userns, made.diff_id) \
            or not os.path.exists(store.blob_path(paths, made.blob)):
        return None
    os.utime(path)
    return made


def keep(paths: Paths, key: str, made: Made) -> None:
    write_atomic(_path(paths, key), jsontext.dumps({
        "layer": made.diff_id, "blob": made.blob, "size": made.size,
        "created": made.created}).encode())


def every(paths: Paths) -> Iterator[tuple[str, Made | None]]:
    """(path of the entry, what it says); None where it cannot be read."""
    for name in sorted(os.listdir(paths.cache)):
        if name.startswith(PREFIX) and HEX.issuperset(name[len(PREFIX):]):
            path = f"{paths.cache}/{name}"
            yield path, _read(path)


def layers(paths: Paths) -> set[str]:
    return {made.diff_id for _, made in every(paths) if made is not None}


def _path(paths: Paths, key: str) -> str:
    return f"{paths.cache}/{PREFIX}{key}"


def _read(path: str) -> Made | None:
    try:
        value = jsontext.loads(read_bytes(path))
        made = Made(value["layer"], value["blob"], int(value["size"]), str(value["created"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return made if is_digest(made.diff_id) and is_digest(made.blob) else None
