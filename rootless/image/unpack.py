"""Turn the blob of a layer into the directory `layers/<hex>`, as the bytes arrive.

    parent                     child, made by fork
      write(bytes) --pipe-->     inflate + sha256 (thread)  -->  tar  -->  files
      finish()     <--socket---  "done SIZE DIGEST"
      rename to layers/<hex>; where only the directory's owner may, "publish HEX" asks the child

The child joins the user's namespace, so that files can have their owners, and makes the fresh
directory its root before it looks at a single byte: no name in a tar can lead out of there. It
loads no module after that. The directory is built in `tmp` and moved to its place when the digest
of the inflated stream is the one expected: a layer is whole or absent.

A lock file beside it in `tmp` is held by parent and child (one open file, which fork shares), so
that a directory whose lock is free was left by a killed unpacking and is cleared by the next.
Whoever wants a layer that another process is unpacking waits for the lock and finds it done. A
thread must not hold one unfinished Unpacker while it makes the next: two processes that do so in
different order would wait for each other.

`user.rootless.map` on the layer's directory names the map of ids the files were written under: a
layer of a namespace with one id, or of other subordinate ids, counts as absent.
"""

from __future__ import annotations

import errno
import os

from rootless.errors import ImageError, RootlessError, StorageError, os_reason
from rootless.files import Lock, space_hint, write_all
from rootless.storage import trash
from rootless.storage.rootdir import OPAQUE
from rootless.userns import keeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rootless.paths import Paths
    from rootless.userns.keeper import Userns
    from rootless.userns.subid import Extent

MAP = "user.rootless.map"
SIZE = "user.rootless.size"

_PREFIX = "unpack-"
BUILD_PREFIX = "build-"     # of what a build makes, which is cleared the same way
_PIPE = 1 << 20


def layer_present(paths: Paths, userns: Userns, diff_id: str) -> bool:
    """Is the layer unpacked, and with the owners that this namespace gives?"""
    return _attribute(userns, paths.layer(diff_id), MAP) == map_of(userns)


def covered(paths: Paths, userns: Userns, layers: tuple[str, ...]) -> int:
    """How many of the lowest layers nobody sees, as the root of one above them is opaque. The
    kernel obeys that mark in every directory but the roots of layers."""
    for depth in range(len(layers) - 1, 0, -1):
        if _attribute(userns, paths.layer(layers[depth]), OPAQUE) == b"y":
            return depth
    return 0


def layer_size(paths: Paths, userns: Userns, diff_id: str) -> int:
    """Bytes of the files of an unpacked layer; 0 when it is absent."""
    return int(_attribute(userns, paths.layer(diff_id), SIZE) or b"0")


def unpack_blob(paths: Paths, userns: Userns, blob: str, expected: str) -> int:
    """Unpack a blob that lies in a file. Raises ImageError, StorageError."""
    try:
        fd = os.open(blob, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as e:
        raise StorageError(f"cannot read {blob}: {os_reason(e)}") from None
    try:
        unpacker = Unpacker(paths, userns, expected=expected, blob_size=os.fstat(fd).st_size)
        try:
            while not unpacker.present and (data := os.read(fd, _PIPE)):
                unpacker.write(data)
            return unpacker.finish()
        finally:
            unpacker.abort()
    finally:
        os.close(fd)


def clear_leftovers(paths: Paths) -> None:
    """Remove what killed unpackings and builds left; those that run are known by their lock."""
    for token in {n[:-5] if n.endswith(".lock") else n for n in os.listdir(paths.tmp)
                  if n.startswith((_PREFIX, BUILD_PREFIX))}:
        try:
            lock = Lock(f"{paths.tmp}/{token}.lock", wait=False)
        except BlockingIOError:
            continue
        _discard(paths, token, lock)


def _discard(paths: Paths, token: str, lock: Lock) -> None:
    """The directory, then its lock: a kill in between leaves what the next clearing finds."""
    trash.discard(paths, f"{paths.tmp}/{token}")
    _drop(lock)


def _drop(lock: Lock) -> None:
    os.unlink(lock.path)
    lock.release()


def map_of(userns: Userns) -> bytes:
    """What the files of a layer were written under, for its attribute MAP."""
    return ("u " + ",".join(e.line() for e in userns.uids)
            + " g " + ",".join(e.line() for e in userns.gids)).encode()


def _outside(extents: tuple[Extent, ...]) -> int:
    """Which id is the namespace's 0."""
    return next(e.outside for e in extents if e.inside == 0)


def _attribute(userns: Userns, path: str, name: str) -> bytes | None:
    try:
        return os.getxattr(path, name)
    except PermissionError:
        # The image gave its root directory to another id, which shut us out; not so our root.
        return _inside(userns, lambda: _attribute_or_none(path, name))
    except OSError:
        return None


def _attribute_or_none(path: str, name: str) -> bytes:
    try:
        return os.getxattr(path, name)
    except OSError:
        return b""


def _inside(userns: Userns, ask: Callable[[], bytes]) -> bytes:
    """The answer of a child that is root in the namespace."""
    r, w = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            keeper.enter(userns)
            write_all(w, ask())
        finally:
            os._exit(0)
    os.close(w)
    with os.fdopen(r, "rb") as f:
        answer = f.read()
    os.waitpid(child, 0)
    return answer


class Unpacker:
    """One layer on its way in. Use `abort()` in a `finally`: after `finish()` it does nothing.

    `expected` is the diffID; "" where only the archive knows it, and `diff_id` tells afterwards.
    `present`: there is nothing to do, what is written is ignored.
    """

    def __init__(self, paths: Paths, userns: Userns, *, expected: str,
                 blob_size: int | None) -> None:
        if expected and not _is_digest(expected):
            raise ImageError(f"the image names a layer {expected[:80]!r}: no sha256 digest")
        self.diff_id = expected
        self.present = False
        self._paths = paths
        self._userns = userns
        self._pid = 0
        self._data = -1
        clear_leftovers(paths)
        self._token = _PREFIX + (expected[7:] if expected else os.urandom(16).hex())
        self._lock: Lock | None = Lock(f"{paths.tmp}/{self._token}.lock")
        started = False
        try:
            if expected and layer_present(paths, userns, expected):
                self.present = True
            else:
                if expected:
                    trash.discard(paths, paths.layer(expected))
                self._start(blob_size or 0)
            started = True
        finally:
            if not started or self.present:
                self._release()

    def _start(self, blob_size: int) -> None:
        assert self._lock is not None
        import fcntl
        from socket import AF_UNIX, SOCK_SEQPACKET, socketpair

        # Loaded here, so that the child has all of it when nothing can be loaded any more.
        from rootless.image import decompress, extraction

        decompress.preload()
        place = f"{self._paths.tmp}/{self._token}"
        try:
            trash.discard(self._paths, place)
            os.mkdir(place, 0o700)
            # The namespace's root, which is another id when root itself is the user; and not the
            # group and rights that a store in a directory shared by a group would pass on.
            os.chown(place, _outside(self._userns.uids), _outside(self._userns.gids))
            for kind in ("access", "default"):
                try:
                    os.removexattr(place, f"system.posix_acl_{kind}")
                except OSError as e:
                    if e.errno not in (errno.ENODATA, errno.ENOTSUP):
                        raise
            os.chmod(place, 0o700)
            os.setxattr(place, MAP, b"unfinished")
            inside = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as e:
            if e.errno == errno.ENOTSUP:
                raise StorageError(
                    f"cannot unpack into {self._paths.data}: its filesystem keeps no extended "
                    "attributes (user.*)",
                    hint="set ROOTLESS_ROOT to a directory on another filesystem") from None
            raise StorageError(f"cannot make {place}: {os_reason(e)}",
                               hint=space_hint(e, self._paths.tmp)) from None
        ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
        r, w = os.pipe()
        try:
            fcntl.fcntl(w, 1031, _PIPE)                 # F_SETPIPE_SZ, known to Python 3.10
        except OSError:
            pass                                        # over the user's share: it works slower
        self._pid = os.fork()
        if self._pid == 0:
            extraction.run(self._userns, inside, place, self._paths.layers, r, theirs.detach(),
                           self._lock.fileno(), blob_size, map_of(self._userns))
        os.close(r)
        os.close(inside)
        theirs.close()
        self._data = w
        self._control = ours

    def write(self, data: bytes | memoryview) -> None:
        """The next bytes of the blob. Raises the reason when the child has given up."""
        if self.present:
            return
        try:
            write_all(self._data, data)
        except BrokenPipeError:
            raise self._reason(self._control.recv(65536)) from None

    def finish(self) -> int:
        """All is written: see that it is what was expected, and publish it. Bytes of its files."""
        if self.present:
            return layer_size(self._paths, self._userns, self.diff_id)
        os.close(self._data)
        self._data = -1
        answer = self._control.recv(65536)
        words = answer.decode("utf-8", "replace").split(" ")
        if words[0] != "done":
            raise self._reason(answer)
        size, digest = int(words[1]), words[2]
        if self.diff_id and digest != self.diff_id:
            raise ImageError(f"the layer is not what the image says: its digest is {digest}, "
                             f"not {self.diff_id}",
                             hint="pull it again; if that does not help, its author must mend it")
        if self.diff_id:
            self._publish(digest)
        else:
            self.diff_id = digest
            with Lock(f"{self._paths.tmp}/{_PREFIX}{digest[7:]}.lock") as lock:
                if not layer_present(self._paths, self._userns, digest):
                    trash.discard(self._paths, self._paths.layer(digest))
                    self._publish(digest)
                os.unlink(lock.path)
        self.abort()
        return size

    def abort(self) -> None:
        """Stop and leave nothing."""
        if self._data >= 0:
            os.close(self._data)
            self._data = -1
        if self._pid:
            os.kill(self._pid, 9)
            os.waitpid(self._pid, 0)
            self._pid = 0
            self._control.close()
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            _discard(self._paths, self._token, self._lock)
            self._lock = None

    def _publish(self, digest: str) -> None:
        try:
            os.rename(f"{self._paths.tmp}/{self._token}", self._paths.layer(digest))
            return
        except PermissionError:
            # To move a directory is to write its `..`, which takes its owner: the child.
            pass
        except OSError as e:
            raise StorageError(f"cannot publish layer {digest}: {os_reason(e)}") from None
        try:
            self._control.send(f"publish {digest[7:]}".encode())
        except BrokenPipeError:
            raise self._reason(b"") from None
        answer = self._control.recv(65536)
        if answer != b"published":
            raise self._reason(answer)

    def _reason(self, answer: bytes) -> RootlessError:
        """What the child said before it died, as an error to raise."""
        kind, _, text = answer.decode("utf-8", "replace").partition(" ")
        if kind == "image":
            return ImageError(text)
        if kind == "storage":
            code, _, text = text.partition(" ")
            return StorageError(f"cannot unpack a layer: {text}",
                                hint=space_hint(OSError(int(code), ""), self._paths.layers))
        return StorageError("cannot unpack a layer: the process that does it died",
                            hint="look for the out-of-memory killer in the kernel's log")


def _is_digest(text: str) -> bool:
    return (text.startswith("sha256:") and len(text) == 71
            and not text[7:].strip("0123456789abcdef"))
