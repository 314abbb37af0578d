"""`rootless volume create|ls|inspect|rm|exists|prune`."""

from __future__ import annotations

import json
import os
import sys

from rootless import paths as places
from rootless.cli.command import FLAG, LIST, VALUE, Command, Option, Options
from rootless.cli.confirm import FORCE, confirmed
from rootless.clock import now
from rootless.container import volumes as mounted
from rootless.errors import Conflict, NotFound, RootlessError, UsageError
from rootless.storage import volumes
from rootless.storage.volumes import Volume

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rootless.paths import Paths

    Test = Callable[[Volume], bool]

_FILTERS = ("dangling", "driver", "label", "name")


def create(options: Options) -> int:
    """One that is there already is left as it is, and named all the same, as docker does."""
    from rootless.userns import keeper

    if options.value("driver") not in (None, "local"):
        raise UsageError(f"unknown volume driver: {options.value('driver')}", hint="local")
    given = options.value("name")
    if given is not None and options.args:
        raise UsageError("a volume has one name: it was given twice")
    name = given or (options.args[0] if options.args else "")
    labels = dict(_pairs(options, "label"))
    wanted = volumes.check_options(dict(_pairs(options, "opt")))
    paths = places.of_this_user()
    paths.ensure()
    if not name:
        labels = {volumes.ANONYMOUS: "", **labels}
        name = os.urandom(32).hex()
    volume, lock, _ = volumes.open_locked(paths, keeper.open_userns(paths), name, now(), labels,
                                          wanted)
    os.close(lock)
    sys.stdout.write(volume.name + "\n")
    return 0


def _pairs(options: Options, name: str) -> list[tuple[str, str]]:
    found = []
    for text in options.list(name):
        key, eq, value = text.partition("=")
        if not key or (name == "opt" and not eq):
            raise UsageError(f"invalid argument for --{name}: {text}", hint=f"--{name} NAME=VALUE")
        found.append((key, value))
    return found


def ls(options: Options) -> int:
    paths = places.of_this_user()
    tests = _tests(paths, options.list("filter"))
    found = [v for v in volumes.every(paths) if all(test(v) for test in tests)]
    template = options.value("format")
    if options.flag("quiet"):
        out = [v.name for v in found]
    elif template is not None:
        from rootless.cli.template import render_rows

        out = render_rows(template, [_fields(v) for v in found],
                          {"Name": "VOLUME NAME", "Driver": "DRIVER"})
    else:
        from rootless.cli.ps import table

        out = table([("DRIVER", "VOLUME NAME"), *(("local", v.name) for v in found)])
    sys.stdout.write("".join(line + "\n" for line in out))
    return 0


def _fields(volume: Volume) -> dict[str, str]:
    """The names of docker's `volume ls --format`."""
    return {"Name": volume.name, "Driver": "local", "Scope": "local", "Mountpoint": volume.data,
            "Labels": ",".join(f"{k}={v}" for k, v in volume.labels.items()),
            "Availability": "N/A", "Group": "N/A", "Links": "N/A", "Size": "N/A", "Status": "N/A"}


def _tests(paths: Paths, filters: list[str], keys: tuple[str, ...] = _FILTERS) -> list[Test]:
    """Of one key any must hold, of different keys all; labels must all hold."""
    by_key: dict[str, list[Test]] = {}
    for text in filters:
        key, eq, value = text.partition("=")
        if not eq or key not in keys:
            raise UsageError(f"invalid filter: {text}", hint=", ".join(k + "=" for k in keys))
        by_key.setdefault(key, []).append(_test(paths, key, value, text))
    return [_all(tests) if key.startswith("label") else _any(tests)
            for key, tests in by_key.items()]


def _all(tests: list[Test]) -> Test:
    return lambda v: all(test(v) for test in tests)


def _any(tests: list[Test]) -> Test:
    return lambda v: any(test(v) for test in tests)


def _test(paths: Paths, key: str, value: str, text: str) -> Test:
    if key == "dangling":
        if value not in ("true", "false", "1", "0"):
            raise UsageError(f"invalid filter: {text}: neither true nor false")
        used = mounted.users(paths)
        return lambda v: (v.name not in used) == (value in ("true", "1"))
    if key == "driver":
        return lambda v: value == "local"
    if key == "name":
        return lambda v: value in v.name
    name, eq, wanted = value.partition("=")
    negated = key.endswith("!")

    def labelled(volume: Volume) -> bool:
        has = name in volume.labels and (not eq or volume.labels[name] == wanted)
        return has != negated
    return labelled


def describe(volume: Volume) -> dict[str, Any]:
    """docker's shape (Engine API, Volume)."""
    return {"CreatedAt": volume.created, "Driver": "local", "Labels": volume.labels or None,
            "Mountpoint": volume.data, "Name": volume.name, "Options": volume.options or None,
            "Scope": "local"}


def inspect(options: Options) -> int:
    from rootless.__main__ import tell

    paths = places.of_this_user()
    found, worst = [], 0
    for name in options.args:
        try:
            found.append(describe(volumes.find(paths, name)))
        except NotFound as e:
            tell(e)
            worst = 1
    template = options.value("format")
    if template is None:
        sys.stdout.write(json.dumps(found, indent=4, ensure_ascii=False) + "\n")
        return worst
    from rootless.cli.template import render

    for item in found:
        text = json.dumps(item) if template == "json" else render(template, item)
        sys.stdout.write(text + "\n")
    return worst


def rm(options: Options) -> int:
    """With --force a missing one is no failure; one in use always is."""
    from rootless.__main__ import tell
    from rootless.storage import trash

    paths = places.of_this_user()
    worst = 0
    for name in options.args:
        try:
            _remove(paths, name)
            sys.stdout.write(name + "\n")
            sys.stdout.flush()
        except RootlessError as e:
            if not (options.flag("force") and isinstance(e, NotFound)):
                tell(e)
                worst = 1
    trash.empty(paths)
    return worst


def _remove(paths: Paths, name: str) -> None:
    volume = volumes.find(paths, name)
    lock = volumes.lock(volume)
    try:
        used = mounted.users(paths).get(name, [])
        if used:
            which = ", ".join(c.name or c.id[:12] for c in used)
            raise Conflict(f"cannot remove volume {name}: it is in use by {which}",
                           hint=f"rootless rm {used[0].name} first")
        volumes.remove(paths, volume)
    finally:
        os.close(lock)


def exists(options: Options) -> int:
    return 0 if any(v.name == options.args[0]
                    for v in volumes.every(places.of_this_user())) else 1


def prune(options: Options) -> int:
    """docker's: those without a name, with --all every one that no container uses."""
    from rootless.image.progress import human

    paths = places.of_this_user()
    filters = [f for f in options.list("filter") if f not in ("all=true", "all=1")]
    everything = options.flag("all") or len(filters) < len(options.list("filter"))
    tests = _tests(paths, filters, ("label", "label!"))
    which = ("all volumes" if everything else "all volumes without a name") + " that no container"
    if not confirmed(options, f"This removes {which} uses."):
        return 1
    gone, size = remove_unused(paths, tests, everything=everything)
    if gone:
        sys.stdout.write("Deleted Volumes:\n" + "".join(v.name + "\n" for v in gone) + "\n")
    sys.stdout.write(f"Total reclaimed space: {human(size)}\n")
    return 0


def remove_unused(paths: Paths, tests: list[Test], *, everything: bool) -> tuple[
        list[Volume], int]:
    """Volumes that went, and their bytes."""
    from rootless.container.size import of_volumes
    from rootless.userns import keeper

    volumes.sweep(paths)
    used = mounted.users(paths)
    doomed = [v for v in volumes.every(paths) if v.name not in used
              and (everything or v.anonymous) and all(test(v) for test in tests)]
    if not doomed:
        return [], 0
    sizes = of_volumes(paths, keeper.open_userns(paths), doomed)
    gone = mounted.discard(paths, [v.name for v in doomed])
    return gone, sum(sizes[v.name] for v in gone)


_FORMAT = Option("format", VALUE, "Go template, or json", metavar="FORMAT")

COMMANDS = {
    "volume create": Command("volume create", "[NAME]", "Make a volume.", create, (
        Option("driver", VALUE, "local, the only one", "d", "DRIVER"),
        Option("label", LIST, "Label", metavar="NAME=VALUE"),
        Option("name", VALUE, "Its name", metavar="NAME"),
        Option("opt", LIST, "type=none, o=bind, device=DIRECTORY: stand for a directory", "o",
               "NAME=VALUE"),
    ), most=1),
    "volume ls": Command("volume ls", "", "List volumes.", ls, (
        Option("filter", LIST, "Only those that match: dangling=, driver=, label=, name=", "f",
               "KEY=VALUE"),
        _FORMAT,
        Option("quiet", FLAG, "Names only", "q"),
    ), most=0),
    "volume inspect": Command("volume inspect", "VOLUME [VOLUME...]",
                              "Show all that is known of volumes, as JSON.", inspect, (
        Option("format", VALUE, "Go template, or json", "f", "FORMAT"),), least=1),
    "volume rm": Command("volume rm", "VOLUME [VOLUME...]",
                         "Remove volumes that no container uses, and all that is in them.", rm, (
        Option("force", FLAG, "A missing one is no failure", "f"),), least=1),
    "volume exists": Command("volume exists", "VOLUME",
                             "Say by the exit code if there is such a volume.", exists, least=1,
                             most=1),
    "volume prune": Command("volume prune", "", "Remove volumes that no container uses and that "
                            "have no name.", prune, (
        Option("all", FLAG, "Also those with a name", "a"),
        Option("filter", LIST, "Only those that match: label=, label!=", metavar="KEY=VALUE"),
        FORCE,
    ), most=0),
}
