"""The journal of what has happened: a line of JSON for each event, in docker's words.

Whoever does something appends what he did, when it is done: one write to a file opened with
O_APPEND, which the kernel never mixes with another. Nobody waits for the journal and nothing fails
for its sake. A file that has grown to `LARGEST` becomes `journal.1`; the one before is dropped.
"""

from __future__ import annotations

import os
import time

from rootless.quoted import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

LARGEST = 4 << 20
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


def path(data: str) -> str:
    """`data`: the store."""
    return data + "/events/journal"


def emit(data: str, kind: str, action: str, ident: str,
         attributes: Mapping[str, str] | None = None) -> None:
    """`kind`: container, image, volume or network. `ident`: its id, or the name it goes by."""
    told = ",".join(f"{quote(k)}:{quote(v)}" for k, v in sorted((attributes or {}).items()))
    line = (f'{{"Type":"{kind}","Action":{quote(action)},"Actor":{{"ID":{quote(ident)},'
            f'"Attributes":{{{told}}}}},"scope":"local","timeNano":{time.time_ns()}}}\n'
            ).encode("utf-8", "surrogateescape")
    name = path(data)
    try:
        try:
            fd = os.open(name, _APPEND, 0o600)
        except FileNotFoundError:
            os.mkdir(data + "/events", 0o700)
            fd = os.open(name, _APPEND, 0o600)
        try:
            if os.write(fd, line) < len(line):
                os.write(fd, b"\n")     # a full disk; the next line shall be one
            full = os.fstat(fd).st_size > LARGEST
        finally:
            os.close(fd)
        if full:
            _rotate(name)
    except OSError:
        pass


def _rotate(name: str) -> None:
    from rootless.files import Lock

    try:
        with Lock(name + ".lock", wait=False):
            if os.stat(name).st_size > LARGEST:
                os.rename(name, name + ".1")
    except BlockingIOError:
        pass        # another does it
