"""What a build makes on its way: directories in the store's tmp/, which end with it.

A lock beside them is held by the build and by all it forks; where it is free, the next command
clears what a killed build left (`image.unpack.clear_leftovers`).
"""

from __future__ import annotations

import os

from rootless.errors import StorageError, os_reason
from rootless.files import Lock, space_hint
from rootless.image.unpack import BUILD_PREFIX, clear_leftovers
from rootless.storage import trash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.paths import Paths
    from rootless.userns.keeper import Userns


class Workspace:
    """Call `close` in a `finally`. Raises StorageError."""

    def __init__(self, paths: Paths, userns: Userns) -> None:
        clear_leftovers(paths)
        self._paths = paths
        self._owner = userns.uids[0].outside, userns.gids[0].outside
        self.path = f"{paths.tmp}/{BUILD_PREFIX}{os.urandom(12).hex()}"
        self._lock = Lock(self.path + ".lock")
        self._make(self.path)

    def _make(self, path: str) -> None:
        try:
            os.mkdir(path, 0o700)
            if os.geteuid() == 0:
                # The namespace's root has to pass, which is another id when root is the user.
                os.chown(path, *self._owner)
        except OSError as e:
            raise StorageError(f"cannot make {path}: {os_reason(e)}",
                               hint=space_hint(e, self._paths.tmp)) from None

    def fresh(self) -> str:
        """A new directory."""
        path = f"{self.path}/{os.urandom(6).hex()}"
        self._make(path)
        return path

    def discard(self, path: str) -> None:
        trash.discard(self._paths, path)

    def close(self) -> None:
        trash.discard(self._paths, self.path)
        os.unlink(self._lock.path)
        self._lock.release()
