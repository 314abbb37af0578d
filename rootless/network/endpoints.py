"""What a container wants of networks, and what it has: two files in its directory.

`endpoints.json` is the wish: made with the container, changed by `network connect` and
`disconnect`. `lease.json` is the fact: written by the network keeper when the container joins its
networks, removed when it has left them. A lease names the container's process: one whose process
is gone binds nobody.
"""

from __future__ import annotations

import os

from rootless import jsontext
from rootless.errors import StorageError, UsageError, os_reason
from rootless.files import read_bytes, write_atomic
from rootless.network import address
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Plain = dict[str, Any]


@record(frozen=True)
class Endpoint:
    """One network of a container. `ip`, `ip6` and `mac` are "" where any will do."""

    network: str
    ip: str = ""
    ip6: str = ""
    mac: str = ""
    aliases: tuple[str, ...] = ()

    def plain(self) -> Plain:
        return {"ip": self.ip, "ip6": self.ip6, "mac": self.mac, "aliases": list(self.aliases)}


_KEYS = {"ip": "ip", "ip6": "ip6", "mac": "mac", "mac-address": "mac", "alias": "alias",
         "name": "name"}


def joins(mode: str) -> bool:
    """Does a container of this mode have networks of its own?"""
    return mode not in ("none", "host") and not mode.startswith("container:")


def parse(texts: list[str], default: str, *, ip: str = "", ip6: str = "", mac: str = "",
          aliases: tuple[str, ...] = ()) -> tuple[str, tuple[Endpoint, ...]]:
    """(mode, endpoints) of all `--network`: `NAME[:ip=,ip6=,mac=,alias=]` as podman has it, or
    `name=NAME,ip=` as docker. The mode is none, host, container:NAME or the first network.

    `ip`, `ip6`, `mac` and `aliases` are the options of those names, for the first network.
    Raises UsageError.
    """
    found: list[Endpoint] = []
    for text in texts or [default]:
        if text in ("none", "host") or text.startswith("container:"):
            if len(texts) > 1:
                raise UsageError(f"cannot join other networks with --network {text}")
            if ip or ip6 or mac or aliases:
                raise UsageError(f"cannot have an address or an alias of its own with --network "
                                 f"{text}", hint="they need a network: rootless network ls")
            if text == "container:":
                raise UsageError("invalid network: container: names no container")
            return text, ()
        found.append(_endpoint(text))
        if any(e.network == found[-1].network for e in found[:-1]):
            raise UsageError(f"network {found[-1].network} is given twice")
    first = found[0]
    for given, own, name in ((ip, first.ip, "ip"), (ip6, first.ip6, "ip6"),
                             (mac, first.mac, "mac-address")):
        if given and own:
            raise UsageError(f"--{name} and --network both tell an address")
        if given and len(found) > 1:
            raise UsageError(f"--{name} does not say for which of the networks",
                             hint=f"--network {first.network}:"
                                  f"{'mac' if name == 'mac-address' else name}={given}")
    found[0] = Endpoint(first.network, _ip(ip or first.ip, 4), _ip(ip6 or first.ip6, 6),
                        _mac(mac or first.mac), (*first.aliases, *aliases))
    return first.network, tuple(found)


def _endpoint(text: str) -> Endpoint:
    name, _, options = text.partition(":")
    if "=" in name:
        name, options = "", text
    values: dict[str, str] = {"ip": "", "ip6": "", "mac": ""}
    aliases = []
    for part in options.split(",") if options else []:
        key, eq, value = part.partition("=")
        known = _KEYS.get(key.strip())
        if known is None or not eq or not value:
            raise UsageError(f"invalid network: {text}: {part}",
                             hint="--network NAME:ip=ADDRESS,ip6=ADDRESS,mac=ADDRESS,alias=NAME")
        if known == "alias":
            aliases.append(alias(value))
        elif known == "name":
            name = value
        else:
            values[known] = value
    if not name:
        raise UsageError(f"invalid network: {text}: it has no name")
    return Endpoint(name, _ip(values["ip"], 4), _ip(values["ip6"], 6), _mac(values["mac"]),
                    tuple(aliases))


def _ip(text: str, version: int) -> str:
    if not text:
        return ""
    found = address.parse(text)
    if found is None or len(found) != (4 if version == 4 else 16):
        raise UsageError(f"invalid IPv{version} address: {text}")
    return address.show(found)


def _mac(text: str) -> str:
    return address.show_mac(address.mac(text)) if text else ""


def alias(text: str) -> str:
    """A name under which others find the container. Raises UsageError."""
    if not 1 <= len(text) <= 253 or any(
            not 1 <= len(label) <= 63 for label in text.split(".")) or any(
            not (c.isalnum() or c in "-_.") or not c.isascii() for c in text):
        raise UsageError(f"invalid network alias: {text}")
    return text


# -- files -------------------------------------------------------------------------------------

def wish(directory: str) -> Plain:
    """`endpoints.json`. Raises StorageError, FileNotFoundError for a container without networks."""
    return _read(directory + "/endpoints.json")


def write_wish(directory: str, data: Plain) -> None:
    write_atomic(directory + "/endpoints.json", jsontext.dumps(data).encode(), mode=0o644)


def lease(directory: str) -> Plain | None:
    """`lease.json` of a container that runs; None where it has none."""
    try:
        return _read(directory + "/lease.json")
    except (FileNotFoundError, StorageError):
        return None


def write_lease(directory: str, data: Plain) -> None:
    write_atomic(directory + "/lease.json", jsontext.dumps(data).encode(), mode=0o644)


def drop_lease(directory: str) -> None:
    try:
        os.unlink(directory + "/lease.json")
    except OSError:
        pass        # it went with the container


def _read(path: str) -> Plain:
    try:
        data = jsontext.loads(read_bytes(path, 4 << 20))
    except FileNotFoundError:
        raise
    except OSError as e:
        raise StorageError(f"cannot read {path}: {os_reason(e)}") from None
    except ValueError:
        data = None
    if not isinstance(data, dict) or not isinstance(data.get("networks"), dict):
        raise StorageError(f"a container's file is damaged: {path}",
                           hint="remove the container with rootless rm -f")
    return data
