"""What a container writes, kept on disk by its monitor.

Two formats. The CRI's (driver k8s-file), any byte kept:

    2026-01-02T03:04:05.000000006Z stdout F line        F: the line is whole, P: more follows

and docker's (json-file), whose text is UTF-8; what is not becomes U+FFFD:

    {"log":"line\\n","stream":"stdout","time":"2026-01-02T03:04:05.000000006Z"}

With a size, a file that would grow beyond it becomes `log.1`, that one `log.2`, and so on up to
the number of files; the oldest is dropped.
"""

from __future__ import annotations

import os
from _codecs import utf_8_decode

from rootless.clock import now
from rootless.quoted import quote


class Log:
    def __init__(self, path: str, driver: str = "k8s-file", max_size: int = 0,
                 max_file: int = 1) -> None:
        """`max_size` 0: no limit."""
        self._path = path
        self._lines = _json_lines if driver == "json-file" else _cri_lines
        self._held = {b"stdout": b"", b"stderr": b""}
        self._max_size = max_size
        self._max_file = max_file
        self._open()

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC,
                           0o600)
        self._size = os.fstat(self._fd).st_size

    def write(self, stream: bytes, data: bytes) -> None:
        """A full disk must not stop the container; what was lost shows in the log's times."""
        lines, self._held[stream] = self._lines(stream, self._held[stream] + data)
        if self._max_size:
            self._write_within(lines)
        else:
            self._write(b"".join(lines))

    def end(self) -> None:
        """Of one run: what was held back, as its character was not whole, is written."""
        for stream, rest in self._held.items():
            if rest:
                self._held[stream] = b""
                text = rest.decode("utf-8", "replace").encode()
                self._write(b"".join(self._lines(stream, text)[0]))

    def _write(self, text: bytes) -> None:
        try:
            os.write(self._fd, text)
        except OSError:
            pass

    def _write_within(self, lines: list[bytes]) -> None:
        batch: list[bytes] = []
        for line in lines:
            if self._size and self._size + len(line) > self._max_size:
                self._write(b"".join(batch))
                batch.clear()
                self._rotate()
            batch.append(line)
            self._size += len(line)
        self._write(b"".join(batch))

    def _rotate(self) -> None:
        """Readers tell the files apart by their inode, so it is renamed and never truncated."""
        try:
            for n in range(self._max_file - 1, 0, -1):
                older = self._path if n == 1 else f"{self._path}.{n - 1}"
                try:
                    os.rename(older, f"{self._path}.{n}")
                except FileNotFoundError:
                    pass
            if self._max_file == 1:
                os.unlink(self._path)
            before = self._fd
            self._open()
            os.close(before)
        except OSError:
            self._size = 0      # no room for another file now: after as much again it is tried


def _cri_lines(stream: bytes, data: bytes) -> tuple[list[bytes], bytes]:
    """(lines of the log, what is to be held back until more comes)."""
    head = b"%s %s " % (now().encode(), stream)
    lines = data.split(b"\n")
    rest = lines.pop()
    out = [b"%sF %s\n" % (head, line) for line in lines]
    if rest:
        out.append(b"%sP %s\n" % (head, rest))
    return out, b""


def _json_lines(stream: bytes, data: bytes) -> tuple[list[bytes], bytes]:
    text, used = utf_8_decode(data, "replace", False)
    tail = f'","stream":"{stream.decode()}","time":"{now()}"}}\n'
    lines = text.split("\n")
    rest = lines.pop()
    out = [('{"log":' + quote(line)[:-1] + "\\n" + tail).encode() for line in lines]
    if rest:
        out.append(('{"log":' + quote(rest)[:-1] + tail).encode())
    return out, data[used:]
