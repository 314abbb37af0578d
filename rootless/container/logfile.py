"""What a container writes, kept on disk by its monitor."""

from __future__ import annotations

import os

from rootless.clock import now


class Log:
    """The container's output in the CRI format, any byte kept:
    `2026-01-02T03:04:05.000000006Z stdout F line` (F: the line is whole, P: more follows)."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, stream: bytes, data: bytes) -> None:
        head = b"%s %s " % (now().encode(), stream)
        lines = data.split(b"\n")
        rest = lines.pop()
        text = b"".join([b"%sF %s\n" % (head, line) for line in lines])
        if rest:
            text += b"%sP %s\n" % (head, rest)
        try:
            os.write(self._fd, text)
        except OSError:
            # A full disk must not stop the container; what was lost shows in the log's times.
            pass
