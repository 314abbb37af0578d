"""Passwords for registries, from where docker and podman keep them.

In this order, the first that knows the registry wins:

    $REGISTRY_AUTH_FILE
    $DOCKER_CONFIG/config.json
    $XDG_RUNTIME_DIR/containers/auth.json       podman login
    ~/.config/containers/auth.json
    ~/.docker/config.json                       docker login

Within a file: `credHelpers` for the host, `auths` (the longest of host/name/space), `credsStore`.
A helper `docker-credential-NAME get` reads the host on its standard input and answers JSON. What
is secret stays in memory: it is in no message, no argument and no log.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import select
import time

from rootless.errors import AuthError, os_reason
from rootless.files import read_bytes, write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

HELPER_SECONDS = 60.0
HUB = "https://index.docker.io/v1/"
# The user name under which helpers keep an identity token.
TOKEN = "<token>"
HUB_NAMES = ("docker.io", "index.docker.io", "registry-1.docker.io")


class Credentials:
    """A user and password, an identity token to be traded for one, or a ready bearer token.

    `origin`: the file or helper it came from, for messages. No record: that would show itself.
    """

    def __init__(self, user: str, password: str, identity: str, bearer: str, origin: str) -> None:
        self.user = user
        self.password = password
        self.identity = identity
        self.bearer = bearer
        self.origin = origin

    def __repr__(self) -> str:
        return f"Credentials(from {self.origin})"

    def basic(self) -> str:
        pair = f"{self.user}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode()


def files(env: Mapping[str, str], home: str) -> list[str]:
    runtime = env.get("XDG_RUNTIME_DIR")
    config = env.get("XDG_CONFIG_HOME") or f"{home}/.config"
    found = [env.get("REGISTRY_AUTH_FILE", "")]
    if env.get("DOCKER_CONFIG"):
        found.append(env["DOCKER_CONFIG"] + "/config.json")
    if runtime:
        found.append(runtime + "/containers/auth.json")
    found += [f"{config}/containers/auth.json", f"{home}/.docker/config.json"]
    return [f for f in found if f]


def credentials(domain: str, path: str, env: Mapping[str, str], home: str) -> Credentials | None:
    """What is known for a repository. Raises AuthError when a file or helper cannot be used."""
    for name in files(env, home):
        settings = read_settings(name)
        found = None if settings is None else _in_file(settings, name, domain, path, env)
        if found is not None:
            return found
    return None


def read_settings(name: str) -> dict[str, Any] | None:
    """What such a file holds; None where there is none. Raises AuthError."""
    try:
        settings = json.loads(read_bytes(name, 4 << 20))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as e:
        raise AuthError(f"cannot read the passwords for registries: {name}: {os_reason(e)}"
                        ) from None
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise AuthError(f"cannot read the passwords for registries: {name}: it is not a JSON "
                        "object", hint="mend it, or remove it and log in again: rootless login")
    return settings


def _in_file(settings: dict[str, Any], name: str, domain: str, path: str,
             env: Mapping[str, str]) -> Credentials | None:
    helper = helper_of(settings, domain)
    if helper is not None and helper[2]:
        return ask_helper(helper[0], helper[1], env)
    found = _in_auths(_object(settings.get("auths")), name, domain, path)
    if found is not None:
        return found
    return None if helper is None else ask_helper(helper[0], helper[1], env)


def helper_of(settings: dict[str, Any], domain: str) -> tuple[str, str, bool] | None:
    """(helper, what it calls the registry, is it for this registry alone?), or None."""
    helpers = _object(settings.get("credHelpers"))
    for host in HUB_NAMES if domain == "docker.io" else (domain,):
        if isinstance(helpers.get(host), str) and helpers[host]:
            return helpers[host], host, True
    general = settings.get("credsStore")
    if isinstance(general, str) and general:
        return general, HUB if domain == "docker.io" else domain, False
    return None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def keys(domain: str, path: str) -> list[str]:
    """How the entry of a repository may be called, most particular first."""
    parts = path.split("/")
    spaces = ["/".join([domain, *parts[:n]]) for n in range(len(parts), 0, -1)]
    hosts = [HUB, *HUB_NAMES] if domain == "docker.io" else [domain]
    return spaces + hosts


def _in_auths(auths: dict[str, Any], name: str, domain: str, path: str) -> Credentials | None:
    plain = {place_of(k): v for k, v in auths.items()}
    for key in keys(domain, path):
        entry = plain.get(key)
        if isinstance(entry, dict):
            found = _entry(entry, name, key)
            if found is not None:
                return found
    return None


def place_of(key: str) -> str:
    """Docker writes addresses as it was given them: https://host/v2/."""
    for scheme in ("https://", "http://"):
        if key.startswith(scheme) and key != HUB:
            return key[len(scheme):].split("/", 1)[0]
    return key if key == HUB else key.rstrip("/")


def _entry(entry: dict[str, Any], name: str, key: str) -> Credentials | None:
    def text(field: str) -> str:
        value = entry.get(field)
        return value if isinstance(value, str) else ""

    user, password = text("username"), text("password")
    if text("auth"):
        try:
            pair = base64.b64decode(text("auth"), validate=True).decode()
        except (binascii.Error, ValueError):
            pair = ""
        user, colon, password = pair.partition(":")
        password = password.rstrip("\0")
        if not colon:
            raise AuthError(f"cannot use the password for {key}: {name}: its auth is not base64 "
                            "of USER:PASSWORD", hint="log in again: rootless login")
    identity, bearer = text("identitytoken"), text("registrytoken")
    if not (user or identity or bearer):
        return None
    return Credentials(user, password, identity, bearer, name)


def ask_helper(helper: str, server: str, env: Mapping[str, str]) -> Credentials | None:
    """Raises AuthError when the helper is missing or fails; None when it knows nothing."""
    what = f"get the password for {server}"
    answer = run_helper(helper, "get", server + "\n", env, what)
    if answer is None:
        return None
    program = "docker-credential-" + helper
    try:
        value = json.loads(answer)
        user, secret = value["Username"], value["Secret"]
    except (ValueError, KeyError, TypeError, RecursionError):
        user = secret = None
    if not isinstance(user, str) or not isinstance(secret, str):
        raise AuthError(f"cannot {what}: {program} answered nonsense")
    if user == TOKEN:
        return Credentials("", "", secret, "", program)
    return Credentials(user, secret, "", "", program)


def listed(helper: str, env: Mapping[str, str]) -> list[str]:
    """The registries that a helper keeps passwords for. Raises AuthError."""
    what = "list the registries with a password"
    answer = run_helper(helper, "list", "", env, what)
    try:
        value = json.loads(answer or b"{}")
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise AuthError(f"cannot {what}: docker-credential-{helper} answered nonsense")
    return list(value)


def run_helper(helper: str, action: str, text: str, env: Mapping[str, str],
               what: str) -> bytes | None:
    """What `docker-credential-HELPER get|store|erase|list` answers; None for "nothing is stored".

    `text` goes in by a pipe, as arguments are seen by everybody. What a helper says when it
    fails is not repeated, for it may hold a secret. Raises AuthError.
    """
    program = "docker-credential-" + helper
    if not helper or "/" in helper or "\0" in helper:
        raise AuthError(f"invalid name of a credential helper: {helper!r}")
    path = _find(program, env.get("PATH") or "/usr/local/bin:/usr/bin:/bin")
    if path is None:
        raise AuthError(f"cannot {what}: {program} is not installed",
                        hint="install it, or remove it from docker's config.json")
    code, answer = _talk(path, action, text, env)
    if code == 0:
        return answer
    # Every helper's word for "nothing is stored".
    if b"not found" in answer and action != "store":
        return None
    raise AuthError(f"cannot {what}: {program} failed",
                    hint=f"try it alone: echo SERVER | {program} get")


def _find(program: str, path: str) -> str | None:
    for directory in path.split(":"):
        candidate = f"{directory}/{program}"
        if directory.startswith("/") and os.access(candidate, os.X_OK):
            return candidate
    return None


def _talk(program: str, action: str, text: str, env: Mapping[str, str]) -> tuple[int, bytes]:
    """Run `program action`; (exit code, what it printed)."""
    in_r, in_w = os.pipe()
    out_r, out_w = os.pipe()
    try:
        try:
            pid = os.posix_spawn(program, [program, action], dict(env), file_actions=[
                (os.POSIX_SPAWN_DUP2, in_r, 0), (os.POSIX_SPAWN_DUP2, out_w, 1)])
        except OSError as e:
            raise AuthError(f"cannot run {program}: {os_reason(e)}") from None
        finally:
            os.close(in_r)
            os.close(out_w)
        try:
            write_all(in_w, text.encode())
        except BrokenPipeError:
            pass
        os.close(in_w)
        in_w = -1
        answer, end = b"", time.monotonic() + HELPER_SECONDS
        while True:
            left = end - time.monotonic()
            if left <= 0 or not select.select([out_r], [], [], left)[0]:
                os.kill(pid, 9)
                os.waitpid(pid, 0)
                raise AuthError(f"{program} did not answer for {HELPER_SECONDS:.0f} seconds")
            part = os.read(out_r, 65536)
            answer += part
            if not part or len(answer) > 1 << 20:
                break
    finally:
        os.close(out_r)
        if in_w >= 0:
            os.close(in_w)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), answer
