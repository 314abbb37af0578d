"""Secrets: small texts that containers are given and that no image and no `inspect` ever holds.

    secrets/<name>.json     id, times, labels, and the text in base64; readable by the user alone

A container gets a copy when it is made, so that changing or removing a secret changes no container.
They are kept as they are: whoever can read the user's files can read them.
"""

from __future__ import annotations

import os
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64

from rootless import jsontext
from rootless.clock import now
from rootless.errors import Conflict, NotFound, StorageError, UsageError, os_reason
from rootless.files import read_bytes, write_atomic
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.paths import Paths

LARGEST = 512_000       # podman's
_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


@record(frozen=True)
class Secret:
    name: str
    id: str
    created: str
    updated: str
    labels: dict[str, str]
    data: bytes


def valid_name(name: str) -> bool:
    """[a-zA-Z0-9][a-zA-Z0-9_.-]*"""
    return 1 <= len(name) <= 200 and _CHARS.issuperset(name) and name[0] not in "_.-"


def create(paths: Paths, name: str, data: bytes, labels: dict[str, str], *,
           replace: bool = False) -> Secret:
    """Raises UsageError, Conflict when the name is taken, StorageError."""
    if not valid_name(name):
        raise UsageError(f"invalid name of a secret: {name}",
                         hint="letters, digits and _ . - after the first")
    if not 0 < len(data) <= LARGEST:
        raise UsageError(f"cannot make secret {name}: it has {len(data)} bytes",
                         hint=f"from 1 to {LARGEST} bytes")
    old = load(paths, name)
    if old is not None and not replace:
        raise Conflict(f"cannot make secret {name}: there is one of that name",
                       hint=f"rootless secret rm {name}, or --replace")
    time = now()
    secret = Secret(name, os.urandom(13).hex()[:25], time, time, labels, data)
    text = jsontext.dumps({"id": secret.id, "created": time, "updated": time, "labels": labels,
                           "data": b2a_base64(data, newline=False).decode()})
    try:
        os.makedirs(paths.secrets, 0o700, exist_ok=True)
    except OSError as e:
        raise StorageError(f"cannot make {paths.secrets}: {os_reason(e)}") from None
    write_atomic(_path(paths, name), text.encode(), mode=0o600, durable=True, new=old is None)
    return secret


def _path(paths: Paths, name: str) -> str:
    return f"{paths.secrets}/{name}.json"


def load(paths: Paths, name: str) -> Secret | None:
    """Raises StorageError for one that cannot be read."""
    path = _path(paths, name)
    try:
        raw = jsontext.loads(read_bytes(path, 4 << 20))
        return Secret(name, str(raw["id"]), str(raw["created"]), str(raw["updated"]),
                      {str(k): str(v) for k, v in raw["labels"].items()},
                      a2b_base64(raw["data"]))
    except FileNotFoundError:
        return None
    except OSError as e:
        raise StorageError(f"cannot read secret {name}: {path}: {os_reason(e)}") from None
    except (ValueError, KeyError, TypeError, AttributeError, Base64Error):
        raise StorageError(f"secret {name} is damaged: {path}",
                           hint=f"rootless secret rm {name}") from None


def names(paths: Paths) -> list[str]:
    try:
        return sorted(n[:-5] for n in os.listdir(paths.secrets)
                      if n.endswith(".json") and valid_name(n[:-5]))
    except FileNotFoundError:
        return []


def every(paths: Paths) -> list[Secret]:
    return [s for s in (load(paths, name) for name in names(paths)) if s is not None]


def find(paths: Paths, text: str) -> Secret:
    """By name, or by the start of an id. Raises NotFound, Conflict."""
    secret = load(paths, text) if valid_name(text) else None
    if secret is not None:
        return secret
    matches = [s for s in every(paths) if text and s.id.startswith(text)]
    if len(matches) > 1:
        raise Conflict(f"several secrets have an id that starts with {text}",
                       hint="type more of the id")
    if not matches:
        raise NotFound(f"no such secret: {text}", hint="rootless secret ls lists all")
    return matches[0]


def remove(paths: Paths, text: str) -> str:
    """Its id or, of a damaged one, its name. Raises NotFound, Conflict."""
    name, said = text, text
    if text not in names(paths):
        found = find(paths, text)
        name = found.name
    try:
        secret = load(paths, name)
        said = secret.id if secret is not None else name
    except StorageError:
        pass
    try:
        os.unlink(_path(paths, name))
    except FileNotFoundError:
        raise NotFound(f"no such secret: {text}") from None
    return said
