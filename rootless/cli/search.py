"""`rootless search`."""

from __future__ import annotations

import os
import sys

from rootless import paths as places
from rootless.cli.command import FLAG, LIST, OPTIONAL, VALUE, Command, Option, Options
from rootless.cli.ps import table
from rootless.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rootless.image.reference import Reference
    from rootless.image.registry import Registry
    from rootless.image.search import Found

LIMIT, MOST = 25, 100
CUT = 45
HEADERS = {"StarCount": "STARS", "IsOfficial": "OFFICIAL", "IsAutomated": "AUTOMATED"}


def search(options: Options) -> int:
    from rootless.image import registries
    from rootless.image.search import search as look

    paths = places.of_this_user()
    limit = options.integer("limit")
    if limit is None:
        limit = LIMIT
    if not 0 < limit <= MOST:
        raise UsageError(f"invalid limit: {limit}", hint=f"1 to {MOST}")
    known = registries.of_this_user(paths, os.environ)

    def connect(reference: Reference) -> Registry:
        return registries.connect(known.itself(reference), tls_verify=options.boolean("tls-verify"),
                                  env=os.environ, home=paths.home, say=_say)

    fields: tuple[str, ...] = ("Name", "Description", "StarCount", "IsOfficial")
    if options.flag("list-tags"):
        fields = ("Name", "Tag")
        rows = _tags(connect, known.expand(options.args[0]), limit, options.list("filter"))
    else:
        found = _filtered(look(connect, options.args[0], limit), options.list("filter"))
        rows = [_fields(f, cut=not options.flag("no-trunc")) for f in found]
    template = options.value("format")
    if template is not None:
        from rootless.cli.template import render_rows

        out = render_rows(template, rows, HEADERS)
    else:
        heads = tuple(HEADERS.get(f, f.upper()) for f in fields)
        out = table([heads, *(tuple(r[f] for f in fields) for r in rows)])
    sys.stdout.write("".join(line + "\n" for line in out))
    return 0


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def _tags(connect: Callable[[Reference], Registry], name: str, limit: int,
          filters: list[str]) -> list[dict[str, str]]:
    from rootless.image.reference import familiar, parse
    from rootless.image.search import tags

    wanted = parse(name)
    if wanted.tag or wanted.digest or filters:
        raise UsageError(f"cannot list the tags of {name}: --list-tags takes a repository alone",
                         hint=f"rootless search --list-tags {familiar(wanted.repository)}")
    shown = familiar(wanted.repository)
    return [{"Name": shown, "Tag": tag} for tag in tags(connect(wanted))[:limit]]


def _fields(found: Found, *, cut: bool) -> dict[str, str]:
    text = "".join(c if c.isprintable() else " " for c in found.description)
    if cut and len(text) > CUT:
        text = text[:CUT - 1] + "…"
    return {"Name": found.name, "Description": text, "StarCount": str(found.stars),
            "IsOfficial": "[OK]" if found.official else "",
            "IsAutomated": "[OK]" if found.automated else ""}


def _filtered(found: list[Found], filters: list[str]) -> list[Found]:
    for text in filters:
        key, _, value = text.partition("=")
        if key == "stars" and value.isascii() and value.isdigit():
            found = [f for f in found if f.stars >= int(value)]
        elif key in ("is-official", "is-automated") and value in ("", "true", "false"):
            wanted = value != "false"
            found = [f for f in found
                     if (f.official if key == "is-official" else f.automated) == wanted]
        else:
            raise UsageError(f"invalid filter: {text}",
                             hint="stars=NUMBER, is-official=true, is-automated=true")
    return found


COMMANDS = {
    "search": Command("search", "[HOST/]TERM", "Look for images: at Docker Hub, or in a registry "
                      "that answers searches or lists what it has.", search, (
        Option("filter", LIST, "Only those that match", "f", "KEY=VALUE"),
        Option("format", VALUE, "Go template, or json", metavar="FORMAT"),
        Option("limit", VALUE, f"Show at most so many (default {LIMIT})", metavar="NUMBER"),
        Option("list-tags", FLAG, "The tags of a repository"),
        Option("no-trunc", FLAG, "Whole descriptions"),
        Option("tls-verify", OPTIONAL, "Check the registry's certificate (default true)",
               metavar="BOOL", default="true"),
    ), least=1, most=1),
}
