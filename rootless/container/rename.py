"""Give a container another name."""

from __future__ import annotations

import os

from rootless import jsontext
from rootless.container import connect, store
from rootless.container.store import Container
from rootless.errors import Conflict, NotFound, StorageError, UsageError
from rootless.files import write_atomic
from rootless.network import endpoints


def rename(container: Container, name: str) -> None:
    """Raises UsageError, Conflict when the name is taken, NotFound.

    The new name is claimed before the old one is given back: whoever kills us in between leaves
    two names that lead to the container, never none.
    """
    name = name.lstrip("/")
    if not store.valid_name(name):
        raise UsageError(f"invalid container name: {name}",
                         hint="letters, digits and _ . - after the first")
    lock = container.lock()
    try:
        now = store.load(container.paths, container.id)
        if now is None:
            raise NotFound(f"no such container: {container.name}")
        if now.data.get("damaged"):
            raise StorageError(f"container {now.id[:12]} is damaged: its record cannot be read",
                               hint=f"rootless rm -f {now.id[:12]}")
        before = now.name
        if name == before:
            raise Conflict(f"container {name} has that name already")
        store.claim_name(now.paths, name, now.id)
        kept = False
        try:
            write_atomic(now.dir + "/container.json",
                         jsontext.dumps({**now.data, "name": name}).encode())
            kept = True
        finally:
            store.release_name(now.paths, before if kept else name, now.id)
    finally:
        os.close(lock)
    renamed = Container(now.paths, now.id, {**now.data, "name": name})
    renamed.event("rename", oldName="/" + before)
    if endpoints.joins(str(now.data["network"])):
        connect.rename(renamed)
