"""A container's files as a tar (`export`), stopped or running."""

from __future__ import annotations

import os

from rootless.errors import UsageError
from rootless.storage import merged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rootless.container.store import Container
    from rootless.userns.keeper import Userns


def export(container: Container, userns: Userns,
           write: Callable[[bytes | memoryview], None]) -> None:
    """The merged root filesystem, without what is mounted into it. `write` is called in a child.

    Raises UsageError, StorageError.
    """
    if container.data["host_root"]:
        raise UsageError(
            f"cannot export {container.name}: its root filesystem is this machine's own",
            hint=f"rootless exec {container.name} tar -c DIRECTORY > FILE")
    if container.data.get("flat"):
        raise UsageError(f"cannot export {container.name}: it stands on a squashfs file, "
                         f"{container.data['flat']}",
                         hint=f"rootless exec {container.name} tar -c DIRECTORY > FILE")
    from rootless.image.pax import Writer
    from rootless.image.tree import pack

    paths = container.paths
    layers = [container.dir + "/upper", *layer_paths(container)]

    def work() -> None:
        tar = Writer(write)
        (root,) = merged.mount(paths, [layers])
        pack(root, tar)
        os.close(root)
        tar.finish()

    merged.inside(paths, userns, work)


def layer_paths(container: Container) -> list[str]:
    """Directories of its image's layers, top first."""
    return [container.paths.layer(d) for d in reversed(container.data["layers"])]
