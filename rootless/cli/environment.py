"""`--env`, `--env-file` and other files of lines."""

from __future__ import annotations

import os

from rootless.cli.command import Options
from rootless.errors import UsageError, os_reason
from rootless.files import read_bytes


def environment(options: Options) -> list[tuple[str, str]]:
    """Files first, then --env, as docker orders them."""
    found = []
    for name in options.list("env-file"):
        for line in lines(name):
            key, eq, value = line.partition("=")
            key = key.strip() if not eq else key
            if not key or any(c.isspace() for c in key):
                raise UsageError(f"invalid line in {name}: {line}", hint="NAME=VALUE")
            found += _env_entry(key, eq, value)
    for text in options.list("env"):
        key, eq, value = text.partition("=")
        if not key:
            raise UsageError(f"invalid environment variable: {text}", hint="--env NAME=VALUE")
        found += _env_entry(key, eq, value)
    return found


def _env_entry(key: str, eq: str, value: str) -> list[tuple[str, str]]:
    if eq:
        return [(key, value)]
    inherited = os.environ.get(key)
    return [] if inherited is None else [(key, inherited)]


def lines(name: str) -> list[str]:
    try:
        text = read_bytes(name, 1 << 20).decode()
    except OSError as e:
        raise UsageError(f"cannot read {name}: {os_reason(e)}") from None
    except UnicodeDecodeError:
        raise UsageError(f"cannot read {name}: it is not UTF-8 text") from None
    return [s for s in (line.lstrip() for line in text.splitlines()) if s and s[0] != "#"]
