"""What the person and the administrator have settled: config.toml.

    /etc/rootless/config.toml                   the administrator's
    $XDG_CONFIG_HOME/rootless/config.toml       the person's, which counts where both speak
    $ROOTLESS_CONFIG                            one file instead of both

A command that needs a setting pays a stat for each file; TOML is loaded where one exists. A key
that nobody knows is an error and not a wish unheard: the message names the file, the key, and
what is allowed.
"""

from __future__ import annotations

from rootless.errors import HostError, NotFound, os_reason
from rootless.files import read_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from rootless.paths import Paths

SYSTEM = "/etc/rootless"
# What the top of a file may hold. Each table is read by the module that it is for.
SECTIONS = ("aliases", "cgroups", "registries", "storage")


class Table:
    """A table of a file. `where`: its name, for messages."""

    def __init__(self, file: str, where: str, values: dict[str, Any]) -> None:
        self.file = file
        self.where = where
        self.values = values

    def name(self, key: str) -> str:
        plain = key.replace("-", "").replace("_", "").isalnum() and key.isascii()
        shown = key if plain else '"' + key + '"'
        return f"{self.where}.{shown}" if self.where else shown

    def wrong(self, key: str, why: str, hint: str) -> HostError:
        return HostError(f"invalid setting: {self.file}: {self.name(key)}: {why}", hint=hint)

    def only(self, *known: str) -> None:
        """Raises HostError when there is a key that is not one of these."""
        for key in self.values:
            if key not in known:
                raise self.wrong(key, "unknown key", "allowed here: " + ", ".join(known))

    def text(self, key: str, default: str = "") -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str) or "\0" in value:
            raise self.wrong(key, "not a text", f'{key} = "..."')
        return value

    def flag(self, key: str) -> bool:
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            raise self.wrong(key, "neither true nor false", f"{key} = true")
        return value

    def items(self, key: str) -> list[Any]:
        value = self.values.get(key, [])
        if not isinstance(value, list):
            raise self.wrong(key, "not a list", f"{key} = [...]")
        return value

    def texts(self, key: str) -> list[str]:
        found = self.items(key)
        if not all(isinstance(v, str) and "\0" not in v for v in found):
            raise self.wrong(key, "not a list of texts", f'{key} = ["...", "..."]')
        return found

    def table(self, key: str) -> Table:
        value = self.values.get(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, "not a table", f"[{self.name(key)}]")
        return Table(self.file, self.name(key), value)


class Config:
    """The files that exist, the one that counts first in front."""

    def __init__(self, files: list[Table]) -> None:
        self.files = files

    def sections(self, name: str) -> list[Table]:
        """The tables of one name, the person's before the administrator's."""
        return [file.table(name) for file in self.files if name in file.values]

    def choice(self, key: str, allowed: tuple[str, ...]) -> str:
        """One of some words at the top of a file, the first of them where nobody speaks.

        Raises HostError.
        """
        for file in self.files:
            if key in file.values:
                value = file.text(key)
                if value not in allowed:
                    raise file.wrong(key, f"unknown value {value!r}", " or ".join(
                        f'{key} = "{word}"' for word in allowed))
                return value
        return allowed[0]


def load(paths: Paths, env: Mapping[str, str], system: str = SYSTEM) -> Config:
    """Raises HostError when a file cannot be read or holds what nobody knows."""
    named = env.get("ROOTLESS_CONFIG") or ""
    files = []
    for path in [named] if named else [f"{paths.config}/config.toml", f"{system}/config.toml"]:
        file = read(path)
        if file is not None:
            file.only(*SECTIONS)
            files.append(file)
        elif named:
            raise NotFound(f"no such file: {named}", hint="unset ROOTLESS_CONFIG, or mend it")
    return Config(files)


def read(path: str) -> Table | None:
    """A TOML file, or None where there is none. Raises HostError."""
    try:
        data = read_bytes(path, 4 << 20)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as e:
        raise HostError(f"cannot read {path}: {os_reason(e)}") from None
    import tomli

    try:
        return Table(path, "", tomli.loads(data.decode()))
    except UnicodeDecodeError:
        raise HostError(f"cannot read {path}: it is not UTF-8 text") from None
    except (tomli.TOMLDecodeError, RecursionError) as e:
        raise HostError(f"cannot read {path}: it is not TOML: {e}") from None
