"""`rootless secret create|ls|inspect|rm|exists`."""

from __future__ import annotations

import json
import os
import sys

from rootless import paths as places
from rootless.cli.command import FLAG, LIST, VALUE, Command, Option, Options
from rootless.errors import NotFound, RootlessError, StorageError, UsageError, os_reason
from rootless.storage import secrets
from rootless.storage.secrets import Secret

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def create(options: Options) -> int:
    name, source = options.args
    if options.value("driver") not in (None, "file"):
        raise UsageError(f"unknown driver of secrets: {options.value('driver')}", hint="file")
    labels = {}
    for text in options.list("label"):
        key, _, value = text.partition("=")
        if not key:
            raise UsageError(f"invalid label: {text}", hint="--label NAME=VALUE")
        labels[key] = value
    paths = places.of_this_user()
    paths.ensure()
    data = _variable(source) if options.flag("env") else _read(source)
    secret = secrets.create(paths, name, data, labels, replace=options.flag("replace"))
    sys.stdout.write(secret.id + "\n")
    return 0


def _variable(name: str) -> bytes:
    value = os.environb.get(os.fsencode(name))
    if value is None:
        raise NotFound(f"there is no environment variable {name}")
    return value


def _read(source: str) -> bytes:
    """At most one byte more than a secret may have."""
    try:
        fd = 0 if source == "-" else os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
        data = b""
        while len(data) <= secrets.LARGEST and (part := os.read(fd, 1 << 16)):
            data += part
    except FileNotFoundError:
        raise NotFound(f"no such file: {source}") from None
    except OSError as e:
        raise StorageError(f"cannot read {source}: {os_reason(e)}") from None
    return data


def ls(options: Options) -> int:
    tests = []
    for text in options.list("filter"):
        key, eq, value = text.partition("=")
        if not eq or key not in ("name", "id", "label"):
            raise UsageError(f"invalid filter: {text}", hint="id=, name=, label=")
        tests.append((key, value))
    found = [s for s in secrets.every(places.of_this_user())
             if all(_holds(s, key, value) for key, value in tests)]
    template = options.value("format")
    if options.flag("quiet"):
        out = [s.id for s in found]
    elif template is not None:
        from rootless.cli.template import render_rows

        out = render_rows(template, [_fields(s) for s in found], {"ID": "ID"})
    else:
        from rootless.cli.ps import table

        rows = [_fields(s) for s in found]
        out = table([("ID", "NAME", "DRIVER", "CREATED", "UPDATED"),
                     *((r["ID"], r["Name"], r["Driver"], r["CreatedAt"], r["UpdatedAt"])
                       for r in rows)])
    sys.stdout.write("".join(line + "\n" for line in out))
    return 0


def _holds(secret: Secret, key: str, value: str) -> bool:
    if key == "label":
        name, eq, wanted = value.partition("=")
        return name in secret.labels and (not eq or secret.labels[name] == wanted)
    return value in secret.name if key == "name" else secret.id.startswith(value)


def _fields(secret: Secret) -> dict[str, str]:
    from rootless.cli.ps import age

    return {"ID": secret.id, "Name": secret.name, "Driver": "file",
            "CreatedAt": f"{age(secret.created)} ago", "UpdatedAt": f"{age(secret.updated)} ago",
            "Labels": ",".join(f"{k}={v}" for k, v in secret.labels.items())}


def inspect(options: Options) -> int:
    from rootless.__main__ import tell

    paths = places.of_this_user()
    found, worst = [], 0
    for name in options.args:
        try:
            found.append(_describe(secrets.find(paths, name), open_=options.flag("showsecret")))
        except RootlessError as e:
            tell(e)
            worst = 1
    template = options.value("format")
    if template is None:
        sys.stdout.write(json.dumps(found, indent=4, ensure_ascii=False) + "\n")
        return worst
    from rootless.cli.template import render

    for item in found:
        sys.stdout.write((json.dumps(item) if template == "json" else render(template, item))
                         + "\n")
    return worst


def _describe(secret: Secret, *, open_: bool) -> dict[str, Any]:
    """docker's and podman's shape."""
    shown = {"SecretData": secret.data.decode(errors="replace")} if open_ else {}
    return {"ID": secret.id, "CreatedAt": secret.created, "UpdatedAt": secret.updated,
            "Spec": {"Name": secret.name, "Driver": {"Name": "file", "Options": {}},
                     "Labels": secret.labels}, **shown}


def rm(options: Options) -> int:
    from rootless.__main__ import tell

    paths = places.of_this_user()
    if options.flag("all") == bool(options.args):
        raise UsageError("name secrets, or --all", hint="rootless secret rm --help")
    worst = 0
    for name in options.args or secrets.names(paths):
        try:
            sys.stdout.write(secrets.remove(paths, name) + "\n")
            sys.stdout.flush()
        except RootlessError as e:
            if not (options.flag("ignore") and isinstance(e, NotFound)):
                tell(e)
                worst = 1
    return worst


def exists(options: Options) -> int:
    return 0 if options.args[0] in secrets.names(places.of_this_user()) else 1


COMMANDS = {
    "secret create": Command("secret create", "NAME FILE|-", "Keep the content of a file, or of "
                             "standard input, as a secret.", create, (
        Option("driver", VALUE, "file, the only one", "d", "DRIVER"),
        Option("env", FLAG, "FILE is the name of an environment variable"),
        Option("label", LIST, "Label", "l", "NAME=VALUE"),
        Option("replace", FLAG, "In place of one of that name"),
    ), least=2, most=2),
    "secret ls": Command("secret ls", "", "List secrets.", ls, (
        Option("filter", LIST, "Only those that match: id=, name=, label=", "f", "KEY=VALUE"),
        Option("format", VALUE, "Go template, or json", metavar="FORMAT"),
        Option("quiet", FLAG, "Ids only", "q"),
    ), most=0),
    "secret inspect": Command("secret inspect", "SECRET [SECRET...]",
                              "Show what is known of secrets, as JSON.", inspect, (
        Option("format", VALUE, "Go template, or json", "f", "FORMAT"),
        Option("showsecret", FLAG, "And what they hold"),
    ), least=1),
    "secret rm": Command("secret rm", "SECRET [SECRET...]", "Remove secrets. Containers keep the "
                         "copies they were made with.", rm, (
        Option("all", FLAG, "All secrets", "a"),
        Option("ignore", FLAG, "A missing one is no failure", "i"),
    )),
    "secret exists": Command("secret exists", "SECRET", "Say by the exit code if there is such a "
                             "secret.", exists, least=1, most=1),
}
