"""Keep and forget passwords for registries, where docker keeps them.

    $REGISTRY_AUTH_FILE, else $DOCKER_CONFIG/config.json, else ~/.docker/config.json

In that file, or in the helper that it names (`credHelpers` for one host, `credsStore` for all).
All else in the file stays; it is replaced as a whole, closed to other users, and two who write at
once wait for each other (a lock on its directory, as docker takes none that we could share).
"""

from __future__ import annotations

import base64
import fcntl
import json
import os

from rootless.errors import AuthError, StorageError, UsageError, os_reason
from rootless.files import write_atomic
from rootless.image import auth
from rootless.image.auth import HUB, HUB_NAMES, TOKEN, Credentials
from rootless.image.reference import DEFAULT_DOMAIN, Reference, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Any


def place(text: str) -> Reference:
    """What a person calls a registry, as a reference: an address, a host, or a host and the first
    parts of names on it. Raises UsageError."""
    plain = auth.place_of(text)
    if plain == HUB:
        return Reference(DEFAULT_DOMAIN, "")
    host, _, path = plain.partition("/")
    if host in HUB_NAMES:
        host = DEFAULT_DOMAIN
    try:
        known = parse(f"{host}/{path or 'x/x'}")
    except UsageError:
        known = None
    if known is None or known.domain != host or known.tag or known.digest:
        raise UsageError(f"invalid registry: {text or 'nothing'}",
                         hint="HOST[:PORT], where HOST has a dot or is localhost")
    return Reference(host, known.path if path else "")


def shown(registry: Reference) -> str:
    return registry.repository.rstrip("/")


def target(env: Mapping[str, str], home: str) -> str:
    """The file that is written; a link leads to it."""
    directory = env.get("DOCKER_CONFIG") or f"{home}/.docker"
    return os.path.realpath(env.get("REGISTRY_AUTH_FILE") or f"{directory}/config.json")


def store(registry: Reference, known: Credentials, env: Mapping[str, str], home: str) -> str:
    """Keep them. The file that now holds them as they are, or "" when a helper has them.

    Raises AuthError, StorageError.
    """
    with _Settings(target(env, home)) as settings:
        auths = settings.auths()
        for old in _keys(auths, registry):
            del auths[old]
        helper = auth.helper_of(settings.values, registry.domain)
        if helper is not None and not registry.path:
            secret = {"ServerURL": helper[1], "Username": TOKEN if known.identity else known.user,
                      "Secret": known.identity or known.password}
            auth.run_helper(helper[0], "store", json.dumps(secret), env,
                            f"store the password for {shown(registry)}")
            # So docker marks what is in a helper.
            auths[_key(registry)] = {}
        elif known.identity:
            pair = base64.b64encode(f"{known.user}:".encode()).decode()
            auths[_key(registry)] = {"auth": pair, "identitytoken": known.identity}
            helper = None
        else:
            auths[_key(registry)] = {"auth": known.basic().partition(" ")[2]}
            helper = None
        settings.save()
        return settings.path if helper is None else ""


def erase(registry: Reference, env: Mapping[str, str], home: str) -> bool:
    """Forget them; False when there was nothing. Raises AuthError, StorageError."""
    with _Settings(target(env, home)) as settings:
        auths = settings.auths()
        found = _keys(auths, registry)
        helper = auth.helper_of(settings.values, registry.domain)
        if helper is not None and not registry.path:
            what = f"remove the password for {shown(registry)}"
            known = auth.run_helper(helper[0], "get", helper[1] + "\n", env, what)
            if known is not None:
                auth.run_helper(helper[0], "erase", helper[1] + "\n", env, what)
            elif all(not auths[key] for key in found):
                found = []
            if known is not None and not found:
                return True
        for key in found:
            del auths[key]
        if found:
            settings.save()
        return bool(found)


def every(env: Mapping[str, str], home: str) -> list[Reference]:
    """All registries that the file knows of, or the helper that it names for all. Raises
    AuthError."""
    settings = auth.read_settings(target(env, home)) or {}
    known = [key for name in ("auths", "credHelpers") for key in settings.get(name) or ()]
    general = settings.get("credsStore")
    if isinstance(general, str) and general:
        known += auth.listed(general, env)
    found: dict[str, Reference] = {}
    for key in known:
        try:
            one = place(key)
        except UsageError:
            continue
        found.setdefault(shown(one), one)
    return list(found.values())


def _key(registry: Reference) -> str:
    if registry.domain == DEFAULT_DOMAIN and not registry.path:
        return HUB
    return shown(registry)


def _keys(auths: dict[str, Any], registry: Reference) -> list[str]:
    """All entries that mean this registry, however it is written."""
    same = [HUB, *HUB_NAMES] if registry.domain == DEFAULT_DOMAIN and not registry.path \
        else [shown(registry)]
    return [key for key in auths if auth.place_of(key) in same]


class _Settings:
    """The file while it is changed. Use it in a `with`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._directory = os.path.dirname(path)

    def __enter__(self) -> _Settings:
        try:
            os.makedirs(self._directory, 0o700, exist_ok=True)
            self._lock = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        except OSError as e:
            raise StorageError(f"cannot write {self.path}: {os_reason(e)}") from None
        try:
            self.values = auth.read_settings(self.path) or {}
        except AuthError:
            os.close(self._lock)
            raise
        return self

    def auths(self) -> dict[str, Any]:
        found = self.values.setdefault("auths", {})
        if not isinstance(found, dict):
            raise AuthError(f"cannot change {self.path}: its auths is not a JSON object",
                            hint="mend it, or remove it and log in again")
        return found

    def save(self) -> None:
        text = json.dumps(self.values, indent="\t", ensure_ascii=False)
        write_atomic(self.path, text.encode() + b"\n", durable=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        os.close(self._lock)
