"""`--secret`: copies of secrets for one container, as files that are mounted, or in the environment
of its first process.

They lie in the container's directory, `secrets/`, not in its root filesystem: neither `commit` nor
`export` meets them, and the environment is not in the configuration that `inspect` shows.
"""

from __future__ import annotations

import os
import posixpath

from rootless.container.wanted import Mount
from rootless.errors import StorageError, UsageError, os_reason
from rootless.files import read_bytes, write_atomic
from rootless.record import record
from rootless.storage import merged, secrets, volumes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.paths import Paths
    from rootless.userns.keeper import Userns

PLACE = "/run/secrets"
_KEYS = {"source": "source", "src": "source", "target": "target", "dst": "target",
         "destination": "target", "type": "type", "uid": "uid", "gid": "gid", "mode": "mode"}
_OPTIONS = ("rbind", "ro", "nosuid", "nodev", "noexec")


@record(frozen=True)
class Given:
    """One --secret. `target`: where it is mounted, or the name of the variable."""

    source: str
    kind: str
    target: str
    uid: int = 0
    gid: int = 0
    mode: int = 0o444


def parse(text: str) -> Given:
    """`NAME[,type=mount|env][,target=…][,uid=…][,gid=…][,mode=0400]`. Raises UsageError."""
    hint = "--secret NAME[,type=mount|env][,target=TARGET][,uid=N][,gid=N][,mode=0400]"
    values: dict[str, str] = {}
    for number, part in enumerate(text.split(",")):
        key, eq, value = part.partition("=")
        if not eq and number == 0:
            key, value = "source", part
        if key not in _KEYS or not value:
            raise UsageError(f"invalid secret: {text}", hint=hint)
        values[_KEYS[key]] = value
    source, kind = values.get("source", ""), values.get("type", "mount")
    if not source or kind not in ("mount", "env"):
        raise UsageError(f"invalid secret: {text}", hint=hint)
    if kind == "env":
        name = values.get("target", source)
        if {"uid", "gid", "mode"} & set(values) or "=" in name or "\0" in name:
            raise UsageError(f"invalid secret: {text}: a variable has neither owner nor mode",
                             hint=hint)
        return Given(source, kind, name)
    target = posixpath.normpath(posixpath.join(PLACE, values.get("target", source)))
    target = "/" + target.lstrip("/")
    try:
        return Given(source, kind, target, int(values.get("uid", "0")),
                     int(values.get("gid", "0")), int(values.get("mode", "0444"), 8) & 0o777)
    except ValueError:
        raise UsageError(f"invalid secret: {text}", hint=hint) from None


class Attached:
    """`mounts` and `variables` (name: file in the container's directory) of a container."""

    def __init__(self) -> None:
        self.mounts: list[Mount] = []
        self.variables: dict[str, str] = {}
        self.shown: list[dict[str, Any]] = []


def attach(paths: Paths, userns: Userns, given: tuple[str, ...], directory: str) -> Attached:
    """Copy them into the container's directory. Raises NotFound, UsageError, StorageError."""
    attached = Attached()
    owners: list[tuple[str, int, int]] = []
    try:
        os.mkdir(f"{directory}/secrets", 0o711)
        for number, text in enumerate(given):
            wish = parse(text)
            secret = secrets.find(paths, wish.source)
            if wish.kind == "env":
                _variable(secret.data, wish.source)
                attached.variables[wish.target] = f"secrets/{number}"
                write_atomic(f"{directory}/secrets/{number}", secret.data)
                continue
            file = f"{directory}/secrets/{number}"
            write_atomic(file, secret.data, mode=0o600)
            os.chmod(file, wish.mode)
            volumes.give_to_root(file, userns)
            if wish.uid or wish.gid:
                owners.append((file, wish.uid, wish.gid))
            attached.mounts.append(Mount("bind", file, wish.target, _OPTIONS, secret=True))
            attached.shown.append({"Name": secret.name, "ID": secret.id, "UID": wish.uid,
                                   "GID": wish.gid, "Mode": wish.mode})
        if owners:
            merged.inside(paths, userns, lambda: _own(paths, owners))
    except OSError as e:
        raise StorageError(f"cannot copy a secret: {os_reason(e)}") from None
    return attached


def _own(paths: Paths, owners: list[tuple[str, int, int]]) -> None:
    for file, uid, gid in owners:
        try:
            os.chown(os.path.relpath(file, paths.data), uid, gid)
        except OSError as e:
            raise UsageError(f"cannot give a secret to {uid}:{gid}: {os_reason(e)}",
                             hint="ids that the container has: see rootless info") from None


def _variable(data: bytes, name: str) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UsageError(f"cannot put secret {name} into the environment: it is no text",
                         hint="--secret NAME,type=mount")
    return text


def environment(directory: str, variables: dict[str, str]) -> list[str]:
    """NAME=TEXT of each, for the first process. Raises StorageError."""
    found = []
    for name, file in variables.items():
        try:
            found.append(f"{name}={read_bytes(f'{directory}/{file}', secrets.LARGEST).decode()}")
        except OSError as e:
            raise StorageError(f"cannot read a secret: {directory}/{file}: {os_reason(e)}"
                               ) from None
    return found
