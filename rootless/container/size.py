"""How much containers have written, and what lies in volumes."""

from __future__ import annotations

import os
import stat
import struct

from rootless.storage import merged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.container.store import Container
    from rootless.paths import Paths
    from rootless.storage.volumes import Volume
    from rootless.userns.keeper import Userns


def written(paths: Paths, userns: Userns, containers: list[Container]) -> dict[str, int]:
    """Bytes of files in each container's own directory, by id; hard links count once, and one
    that was removed meanwhile for nothing.

    The walk is root's in the namespace, which may enter every directory. Raises StorageError.
    """
    return _measured(paths, userns, {c.id: f"containers/{c.id}" for c in containers})


def of_volumes(paths: Paths, userns: Userns, volumes: list[Volume]) -> dict[str, int]:
    """Bytes of files in each volume's own directory, by name. Raises StorageError."""
    return _measured(paths, userns, {v.name: f"volumes/{v.name}" for v in volumes})


def _measured(paths: Paths, userns: Userns, directories: dict[str, str]) -> dict[str, int]:
    out = os.memfd_create("sizes")

    def work() -> None:
        for directory in directories.values():
            size = _bytes(directory + "/upper") + _bytes(directory + "/_data")
            for part in _listed(directory + "/parts"):
                size += _bytes(f"{directory}/parts/{part}/upper")
            os.write(out, struct.pack("q", size))

    with os.fdopen(out, "rb") as f:
        merged.inside(paths, userns, work)
        f.seek(0)
        sizes = struct.unpack(f"{len(directories)}q", f.read())
    return dict(zip(directories, sizes))


def _listed(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []


def _bytes(path: str) -> int:
    from rootless.image.tree import walk

    try:
        root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    total = 0
    seen: set[int] = set()
    try:
        for parent, name, _ in walk(root):
            try:
                st = os.stat(name, dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if st.st_ino not in seen and stat.S_ISREG(st.st_mode):
                total += min(st.st_size, st.st_blocks * 512)
                seen.add(st.st_ino)
    finally:
        os.close(root)
    return total
