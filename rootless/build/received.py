"""A context that is not a directory of the user's: a tar, compressed or not, or a Dockerfile alone,
from standard input or an address; or a repository of git.

A tar is unpacked into a directory of the store's tmp/ by the rules of a layer, so that no name or
link in it leads out. All in it is the user's own, whatever the archive says.
"""

from __future__ import annotations

import os

from rootless.build import download, git
from rootless.build.workspace import Workspace
from rootless.container.copying import Copier
from rootless.errors import BuildError, ImageError, StorageError, os_reason
from rootless.files import space_hint, write_atomic
from rootless.image.decompress import form_of, inflate
from rootless.image.tar import BLOCK, Reader
from rootless.storage import merged
from rootless.userns import keeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.paths import Paths

_READ = 1 << 20
_LARGEST_DOCKERFILE = 16 << 20


def is_address(text: str) -> bool:
    """Raises BuildError for one that is wrong."""
    return text.startswith(("http://", "https://")) or git.parse(text) is not None


class Received:
    """`path`: the directory. Call `close` in a `finally`."""

    def __init__(self, paths: Paths, source: int | str) -> None:
        """`source`: a descriptor, which is read to its end, or an address. Raises BuildError,
        StorageError, HostError."""
        self._userns = keeper.open_userns(paths)
        self._workspace: Workspace | None = None
        done = False
        try:
            self._workspace = Workspace(paths, self._userns)
            self.path = self._workspace.fresh()
            if isinstance(source, int):
                _receive(paths, self._userns, source, self.path)
            else:
                self.path = self._fetch(paths, source)
            done = True
        finally:
            if not done:
                self.close()

    def _fetch(self, paths: Paths, address: str) -> str:
        repository = git.parse(address)
        if repository:
            return git.fetch(repository, self.path).path
        fd = os.open(paths.tmp, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            download.fetch(address, fd, f"cannot fetch the context {address}")
            _receive(paths, self._userns, fd, self.path)
        finally:
            os.close(fd)
        return self.path

    def close(self) -> None:
        if self._workspace is not None:
            self._workspace.close()
        os.close(self._userns.fd)


def _receive(paths: Paths, userns: keeper.Userns, fd: int, into: str) -> None:
    head = b""
    while len(head) < BLOCK and (data := os.read(fd, BLOCK - len(head))):
        head += data
    if not head:
        raise BuildError("the context is empty",
                         hint="tar c . | rootless build -")
    if not form_of(head) and head[257:262] != b"ustar":
        write_atomic(f"{into}/Dockerfile", _whole(head, fd), 0o644)
        return
    given = [head]

    def source() -> bytes:
        return given.pop() if given else os.read(fd, _READ)

    root = os.open(into, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def unpack() -> None:
        os.umask(0)
        try:
            Copier(userns, root, (0, 0)).write(Reader(inflate(source)))
        except OSError as e:
            raise StorageError(f"cannot write the context: {os_reason(e)}",
                               hint=space_hint(e, paths.tmp)) from None

    try:
        merged.inside(paths, userns, unpack)
    except ImageError as e:
        raise BuildError(f"cannot unpack the context: {e.message}", hint=e.hint) from None
    finally:
        os.close(root)


def _whole(head: bytes, fd: int) -> bytes:
    """A Dockerfile without a context, as `docker build - < Dockerfile` takes it."""
    parts = [head]
    size = len(head)
    while data := os.read(fd, _READ):
        parts.append(data)
        size += len(data)
        if size > _LARGEST_DOCKERFILE:
            raise BuildError("what was given as context is no archive, and too large for a "
                             "Dockerfile", hint="tar c . | rootless build -")
    return b"".join(parts)
