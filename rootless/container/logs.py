"""Read a container's log (CRI format), once or as it grows."""

from __future__ import annotations

import os
import time

from rootless.container import frames
from rootless.container.store import Container
from rootless.errors import NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Entry = tuple[bytes, bytes, bytes]      # time, stream, text with its newline if it had one

CHUNK = 1 << 20


def entries(data: bytes) -> tuple[list[Entry], bytes]:
    """The whole lines of `data` as entries, and the rest."""
    lines = data.split(b"\n")
    rest = lines.pop()
    out = []
    for line in lines:
        parts = line.split(b" ", 3)
        if len(parts) == 4:
            stamp, stream, tag, text = parts
            out.append((stamp, stream, text if tag == b"P" else text + b"\n"))
    return out, rest


def read(container: Container, *, follow: bool, tail: int | None) -> Iterator[Entry]:
    """Entries in order. `tail`: only the last so many lines of what is there. Raises NotFound."""
    try:
        fd = os.open(container.log, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        if container.data["log_driver"] == "none":
            raise NotFound(f"container {container.name} keeps no log (--log-driver none)") from None
        if not follow or not container.state().running:
            return
        fd = os.open(container.log, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    # Asked before the file is read: what is written later cannot be missed.
    ending = _ending(container) if follow else -1
    try:
        if tail is not None:
            os.lseek(fd, _tail_offset(fd, tail), os.SEEK_SET)
        rest = b""
        ended = False
        while True:
            data = os.read(fd, CHUNK)
            if data:
                found, rest = entries(rest + data)
                yield from found
                continue
            if not follow or ended:
                return
            ended = _wait(container, ending)
    finally:
        os.close(fd)
        if ending >= 0:
            os.close(ending)


def _ending(container: Container) -> int:
    """A socket that closes when the container has ended; -1 without a monitor."""
    state = container.state()
    if not state.running or not state.socket:
        return -1
    try:
        sock = frames.connect(state.socket)
        frames.send(sock, frames.frame(frames.QUIET))
        return sock
    except OSError:
        return -1


def _wait(container: Container, ending: int) -> bool:
    """A moment for more to come; True when nothing can come any more."""
    import select

    if ending < 0:
        time.sleep(0.05)
        return not container.state().running
    ready, _, _ = select.select([ending], [], [], 0.05)
    if not ready:
        return False
    try:
        return not os.read(ending, 1 << 16)
    except OSError:
        return True


def _tail_offset(fd: int, lines: int) -> int:
    """Where the last `lines` whole lines begin; partial ones belong to the line they end in."""
    size = os.fstat(fd).st_size
    if lines == 0:
        return size
    at = size
    held = b""
    while at > 0:
        step = min(at, 1 << 16)
        at -= step
        held = os.pread(fd, step, at) + held
        starts = _line_starts(held, first=at == 0)
        if len(starts) >= lines + 1 or at == 0:
            return at + starts[-lines] if len(starts) >= lines else at
    return 0


def _line_starts(data: bytes, *, first: bool) -> list[int]:
    """Offsets of log lines in `data` that begin a line of the container's output."""
    out = []
    at = 0 if first else data.find(b"\n") + 1
    continues = False
    if not first and at == 0:
        return []
    while at < len(data):
        end = data.find(b"\n", at)
        if end < 0:
            end = len(data)
        if not continues:
            out.append(at)
        parts = data[at:end].split(b" ", 3)
        continues = len(parts) > 2 and parts[2] == b"P"
        at = end + 1
    return out
