"""Read a container's log, once or as it grows, from its oldest file on."""

from __future__ import annotations

import os
import time

from rootless import jsontext
from rootless.container import frames
from rootless.container.store import Container
from rootless.errors import NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Entry = tuple[bytes, bytes, bytes]      # time, stream, text with its newline if it had one

CHUNK = 1 << 20
# The length of `2026-01-02T03:04:05.000000006Z`, and of what stands before the text of a line.
_STAMP, _HEAD = 30, 40
_WHOLE = {b" stdout F ": b"stdout", b" stderr F ": b"stderr"}
# How far the lines of one write are looked for.
_WINDOW = 1 << 18


def entries(driver: str, data: bytes) -> list[Entry]:
    """The lines of `data`. One that cannot be read, as after a full disk, is left out."""
    return _json_entries(data) if driver == "json-file" else _cri_entries(data)


def _cri_entries(data: bytes) -> list[Entry]:
    out = []
    for line in data.split(b"\n"):
        parts = line.split(b" ", 3)
        if len(parts) == 4:
            stamp, stream, tag, text = parts
            out.append((stamp, stream, text if tag == b"P" else text + b"\n"))
    return out


def _json_entries(data: bytes) -> list[Entry]:
    out = []
    for line in data.split(b"\n"):
        try:
            found = jsontext.loads(line)
            out.append((found["time"].encode(), found["stream"].encode(), found["log"].encode()))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return out


def plain(driver: str, data: bytes) -> list[tuple[bytes, bytes]]:
    """(stream, text) in order, without the times."""
    if driver == "json-file":
        return [(stream, text) for _, stream, text in _json_entries(data)]
    out = []
    at = 0
    while at < len(data):
        head = data[at:at + _HEAD]
        end = data.find(b"\n", at) + 1 or len(data)
        if end - at <= _HEAD or head[_STAMP:] not in _WHOLE:
            out += [(stream, text) for _, stream, text in _cri_entries(data[at:end])]
        else:
            # What was written at one time has one head, which is taken off all its lines at once.
            mark = b"\n" + head
            if data.startswith(head, end):
                last = data.rfind(mark, end - 1, at + _WINDOW)
                beyond = data.find(b"\n", last + 1) + 1
                if beyond and data.count(b"\n", at, last + 1) == data.count(mark, at,
                                                                           last + len(mark)):
                    end = beyond
            out.append((_WHOLE[head[_STAMP:]], data[at + _HEAD:end].replace(mark, b"\n")))
        at = end
    return out


def read(container: Container, *, follow: bool, tail: int | None) -> Iterator[bytes]:
    """Whole lines of the log, in order. `tail`: only those of the last so many lines of what is
    there. Raises NotFound."""
    if container.data["log_driver"] == "none":
        raise NotFound(f"container {container.name} keeps no log (--log-driver none)")
    # Asked before a file is read: what is written later cannot be missed.
    ending = _ending(container) if follow else -1
    files = Files(container.log)
    try:
        if tail is not None:
            files.seek(str(container.data["log_driver"]), tail)
        ended = False
        while True:
            data = files.read()
            if data:
                yield data
            elif not follow or ended:
                return
            else:
                ended = _wait(container, ending)
    finally:
        files.close()
        if ending >= 0:
            os.close(ending)


class Files:
    """The files of a log, oldest first, as one; those too that come while it is read."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fds: list[int] = []
        self._rest = b""
        self._more()

    def read(self) -> bytes:
        """Whole lines; none when there is no more for now."""
        while True:
            # Every time, so that a file is open before it is dropped.
            self._more()
            if not self._fds:
                return b""
            data = os.read(self._fds[0], CHUNK)
            at = data.rfind(b"\n") + 1
            if at:
                whole, self._rest = self._rest + data[:at], data[at:]
                return whole
            self._rest += data
            if not data:
                # The last one is still written to; into the others there came nothing since
                # they were renamed.
                if len(self._fds) == 1:
                    return b""
                os.close(self._fds.pop(0))

    def _more(self) -> None:
        """Open the files that are younger than our last one."""
        last = os.fstat(self._fds[-1]).st_ino if self._fds else -1
        found: list[int] = []
        n = 0
        while True:
            try:
                fd = os.open(f"{self._path}.{n}" if n else self._path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                if n:
                    break
                n += 1      # just being replaced
                continue
            inode = os.fstat(fd).st_ino
            if inode == last:
                os.close(fd)
                break
            if found and inode == os.fstat(found[0]).st_ino:
                os.close(fd)        # renamed while we looked
            else:
                found.insert(0, fd)
            n += 1
        self._fds += found

    def seek(self, driver: str, lines: int) -> None:
        """To where the last `lines` lines begin."""
        for i in range(len(self._fds) - 1, -1, -1):
            open_before = i > 0 and _ends_open(driver, self._fds[i - 1])
            at, found = _tail_offset(driver, self._fds[i], lines, open_before)
            lines -= found
            if lines <= 0:
                os.lseek(self._fds[i], at, os.SEEK_SET)
                for fd in self._fds[:i]:
                    os.close(fd)
                del self._fds[:i]
                return

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)


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


def _tail_offset(driver: str, fd: int, lines: int, open_before: bool) -> tuple[int, int]:
    """(where the last `lines` whole lines begin, how many of them are there); partial ones belong
    to the line they end in. `open_before`: the file before this one ends with a partial one."""
    size = os.fstat(fd).st_size
    if lines == 0:
        return size, 0
    at = size
    held = b""
    while at > 0:
        step = min(at, 1 << 16)
        at -= step
        held = os.pread(fd, step, at) + held
        starts = _line_starts(driver, held, first=at == 0, continues=at == 0 and open_before)
        if len(starts) >= lines + 1 or at == 0:
            found = min(len(starts), lines)
            return at + starts[-found] if found else at, found
    return 0, 0


def _ends_open(driver: str, fd: int) -> bool:
    size = os.fstat(fd).st_size
    held = os.pread(fd, 1 << 16, max(0, size - (1 << 16))).rstrip(b"\n")
    return _is_partial(driver, held[held.rfind(b"\n") + 1:])


def _is_partial(driver: str, line: bytes) -> bool:
    if driver == "json-file":
        text, _, _ = line.partition(b'","stream":')
        slashes = len(text) - 1 - len(text[:-1].rstrip(b"\\"))
        return not (text.endswith(b"n") and slashes % 2)
    parts = line.split(b" ", 3)
    return len(parts) > 2 and parts[2] == b"P"


def _line_starts(driver: str, data: bytes, *, first: bool, continues: bool) -> list[int]:
    """Offsets of log lines in `data` that begin a line of the container's output."""
    out = []
    at = 0 if first else data.find(b"\n") + 1
    if not first and at == 0:
        return []
    while at < len(data):
        end = data.find(b"\n", at)
        if end < 0:
            end = len(data)
        if not continues:
            out.append(at)
        continues = _is_partial(driver, data[at:end])
        at = end + 1
    return out
