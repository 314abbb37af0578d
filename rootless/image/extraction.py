"""The process that unpacks one layer: imprisoned in the directory it fills.

Everything it needs is imported by the time this module is; only the decoder is chosen later, by
the first bytes, and before the prison closes.
"""

from __future__ import annotations

import hashlib
import os
import queue
import signal
import socket
import threading

from rootless import linux
from rootless.errors import ImageError, os_reason
from rootless.image.decompress import bounded
from rootless.image.layer import Writer
from rootless.image.tar import Reader
from rootless.userns import keeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

    from rootless.userns.keeper import Userns

# Chunks of about 1 MiB between the thread that inflates and the one that writes.
_AHEAD = 8


def run(userns: Userns, inside: int, place: str, layers: str, data: int, control: int, lock: int,
        blob_size: int, stamp: bytes) -> NoReturn:
    """Of the forked child. `inside` is open at `place`, which becomes its root and, when told to,
    a layer in `layers`."""
    try:
        # Ctrl-C reaches the whole process group; the parent tells what became of it. In the
        # background of a script it is ignored, and stays so.
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        parent = os.open(os.path.dirname(place), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        target = os.open(layers, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        _keep_only({inside, data, control, lock, parent, target, userns.fd})
        with socket.socket(fileno=control) as talk:
            try:
                size, digest, writer = _unpack(userns, inside, data, blob_size)
                os.setxattr(".", "user.rootless.size", str(size).encode())
                os.setxattr(".", "user.rootless.map", stamp)
                writer.finish_root()
                # Nobody there any more: the parent was killed, the data merely ended.
                talk.send(f"done {size} {digest}".encode())
                order, _, name = talk.recv(4096).decode().partition(" ")
                if order == "publish":
                    os.rename(os.path.basename(place), name, src_dir_fd=parent, dst_dir_fd=target)
                    talk.send(b"published")
            except ImageError as e:
                talk.send(f"image {e.message}".encode("utf-8", "replace")[:60000])
            except OSError as e:
                what = os.fsdecode(e.filename) + ": " if e.filename is not None else ""
                talk.send(f"storage {e.errno or 0} {what}{os_reason(e)}"
                          .encode("utf-8", "replace")[:60000])
    finally:
        os._exit(0)


def _keep_only(wanted: set[int]) -> None:
    """Close all other descriptors: the registry's connections, other layers' pipes."""
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        if fd not in wanted:
            os.dup2(null, fd)
    last = 2
    for fd in sorted(f for f in wanted if f > 2):
        if fd > last + 1:
            linux.close_range(last + 1, fd - 1)
        last = fd
    linux.close_range(last + 1)


def _unpack(userns: Userns, inside: int, data: int, blob_size: int) -> tuple[int, str, Writer]:
    keeper.enter(userns)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    os.umask(0)
    os.fchdir(inside)
    chunks = bounded(data, blob_size, "the layer")
    os.chroot(".")
    stage = Stage(chunks)
    writer = Writer(userns.uids, userns.gids)
    reader = Reader(stage.chunks())
    writer.write(reader)
    reader.drain()
    return writer.written, "sha256:" + stage.digest.hexdigest(), writer


class Stage:
    """A thread that inflates and hashes while the main thread writes files.

    Inflating, hashing and system calls release the interpreter's lock, so two cores are used.
    """

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.digest = hashlib.sha256()
        self._chunks = chunks
        # None: the end. An exception is raised where the chunk would have been used.
        self._queue: queue.Queue[bytes | ImageError | OSError | None] = queue.Queue(_AHEAD)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        last: ImageError | OSError | None = ImageError(
            "cannot unpack the layer: not enough memory to decompress it")
        try:
            for chunk in self._chunks:
                self.digest.update(chunk)
                self._queue.put(chunk)
            last = None
        except (ImageError, OSError) as e:
            last = e
        finally:
            self._queue.put(last)

    def chunks(self) -> Iterator[bytes]:
        while True:
            item = self._queue.get()
            if item is None:
                return
            if isinstance(item, bytes):
                yield item
            else:
                raise item
