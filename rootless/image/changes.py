"""`--change`: a line of a Dockerfile applied to an image's configuration."""

from __future__ import annotations

import posixpath

from rootless import jsontext
from rootless.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Config = dict[str, Any]

SHELL = ["/bin/sh", "-c"]


def apply(config: Config, line: str) -> None:
    """Raises UsageError that names the line."""
    word, _, rest = line.strip().partition(" ")
    rest = rest.strip()
    act = _INSTRUCTIONS.get(word.upper())
    if act is None:
        raise UsageError(f"invalid change: {line}: {word or 'nothing'} is not possible here",
                         hint="possible are " + ", ".join(sorted(_INSTRUCTIONS)))
    if not rest:
        raise UsageError(f"invalid change: {line}: {word.upper()} needs an argument")
    try:
        act(config, rest)
    except ValueError as e:
        raise UsageError(f"invalid change: {line}: {e}") from None


def _json_list(text: str) -> list[str] | None:
    """The exec form; None where it is none."""
    if not text.startswith("["):
        return None
    try:
        value = jsontext.loads(text)
    except ValueError:
        return None
    if not isinstance(value, list) or not all(isinstance(w, str) for w in value):
        return None
    return value


def _words(text: str) -> list[str]:
    import shlex

    return shlex.split(text)


def _pairs(text: str) -> list[tuple[str, str]]:
    """`A=1 B="two words"`, or the old form `A the rest of the line`."""
    if "=" not in text.split(None, 1)[0]:
        name, _, value = text.partition(" ")
        if not value.strip():
            raise ValueError(f"{name} has no value")
        return [(name, value.strip())]
    found = []
    for word in _words(text):
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise ValueError(f"{word} is not NAME=VALUE")
        found.append((name, value))
    return found


def _command(key: str) -> Callable[[Config, str], None]:
    def act(config: Config, text: str) -> None:
        words = _json_list(text)
        config[key] = words if words is not None else [*SHELL, text]
    return act


def _text(key: str) -> Callable[[Config, str], None]:
    def act(config: Config, text: str) -> None:
        words = _words(text)
        if len(words) != 1:
            raise ValueError("one argument is needed")
        config[key] = words[0]
    return act


def _env(config: Config, text: str) -> None:
    values = dict(item.partition("=")[::2] for item in config.get("Env") or [])
    values.update(_pairs(text))
    config["Env"] = [f"{name}={value}" for name, value in values.items()]


def _label(config: Config, text: str) -> None:
    config["Labels"] = {**(config.get("Labels") or {}), **dict(_pairs(text))}


def _expose(config: Config, text: str) -> None:
    ports = config.setdefault("ExposedPorts", {})
    for word in _words(text):
        span, _, protocol = word.partition("/")
        protocol = (protocol or "tcp").lower()
        first, dash, last = span.partition("-")
        last = last if dash else first
        if protocol not in ("tcp", "udp", "sctp") or not first.isdigit() or not last.isdigit() \
                or not 0 < int(first) <= int(last) < 65536:
            raise ValueError(f"{word} is not PORT[-PORT][/tcp|udp|sctp]")
        for port in range(int(first), int(last) + 1):
            ports[f"{port}/{protocol}"] = {}


def _volume(config: Config, text: str) -> None:
    words = _json_list(text)
    volumes = config.setdefault("Volumes", {})
    for word in _words(text) if words is None else words:
        if not word:
            raise ValueError("a volume needs a path")
        volumes[word] = {}


def _workdir(config: Config, text: str) -> None:
    config["WorkingDir"] = posixpath.normpath(
        posixpath.join(config.get("WorkingDir") or "/", text))


def _onbuild(config: Config, text: str) -> None:
    config.setdefault("OnBuild", []).append(text)


_INSTRUCTIONS: dict[str, Callable[[Config, str], None]] = {
    "CMD": _command("Cmd"), "ENTRYPOINT": _command("Entrypoint"), "ENV": _env,
    "EXPOSE": _expose, "LABEL": _label, "ONBUILD": _onbuild, "STOPSIGNAL": _text("StopSignal"),
    "USER": _text("User"), "VOLUME": _volume, "WORKDIR": _workdir,
}
