"""`rootless history`, `image tree`, `image diff` and `untag`."""

from __future__ import annotations

import os
import sys

from rootless import paths as places
from rootless.cli.command import FLAG, VALUE, Command, Option, Options
from rootless.cli.images import utc
from rootless.cli.ps import age, table
from rootless.errors import NotFound, UsageError
from rootless.image import shared, store
from rootless.image.progress import human
from rootless.image.reference import familiar, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.image.history import Step

HEADERS = {"ID": "IMAGE", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT",
           "CreatedBy": "CREATED BY", "Size": "SIZE", "Comment": "COMMENT"}
# docker's width of the column.
_WIDTH = 45


def history(options: Options) -> int:
    from rootless.image.history import steps

    paths = places.of_this_user()
    image = shared.any_store(paths, options.args[0])
    if image is None:
        raise shared.missing(paths, options.args[0])
    human_sizes = not options.given("human") or options.flag("human")
    whole = options.flag("no-trunc")
    rows = []
    for number, step in enumerate(steps(paths, image)):
        rows.append(_fields(step, image.id if number == 0 else "", whole=whole,
                            human_sizes=human_sizes))
    template = options.value("format")
    if options.flag("quiet"):
        out = [r["ID"] for r in rows]
    elif template is not None:
        from rootless.cli.template import render_rows

        out = render_rows(template, rows, HEADERS)
    else:
        columns = {"IMAGE": "ID", "CREATED": "CreatedSince" if human_sizes else "CreatedAt",
                   "CREATED BY": "CreatedBy", "SIZE": "Size", "COMMENT": "Comment"}
        out = table([tuple(columns), *(tuple(r[f] for f in columns.values()) for r in rows)])
    sys.stdout.write("".join(line + "\n" for line in out))
    return 0


def _fields(step: Step, identity: str, *, whole: bool, human_sizes: bool) -> dict[str, str]:
    """What an image says of itself may not steer the terminal."""
    created = utc(step.created)
    by = " ".join(_plain(step.by).split())
    if not whole and len(by) > _WIDTH:
        by = by[:_WIDTH - 1] + "…"
    return {
        "ID": (identity if whole else identity[7:19]) or "<missing>",
        "CreatedSince": f"{age(created)} ago" if created else "N/A",
        "CreatedAt": created or "N/A",
        "CreatedBy": by,
        "Size": human(step.size) if human_sizes else str(step.size),
        "Comment": _plain(step.comment),
    }


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def tree(options: Options) -> int:
    from rootless.image.history import tree as nodes

    paths = places.of_this_user()
    images = ([shared.own(paths, options.args[0])] if options.args
              else list({i.id: i for i in reversed(store.every(paths))
                         if not i.damaged}.values())[::-1])
    for number, image in enumerate(images):
        names = sorted(i.shown for i in store.every(paths) if i.id == image.id and i.tag)
        out = [""] if number else []
        out += [f"Image ID: {image.id[7:19]}", f"Tags:     {', '.join(names) or 'none'}",
                f"Size:     {human(image.size)}", "Image Layers"]
        layers = nodes(paths, image)
        for place, node in enumerate(layers):
            line = f"{'└' if place == len(layers) - 1 else '├'}── ID: {node.layer[7:19]} " \
                   f"Size: {human(node.size):>7}"
            if node.top_of:
                line += f" Top Layer of: [{', '.join(node.top_of)}]"
            others = [u for u in node.users if u not in node.top_of]
            if others:
                line += f" Shared with: [{', '.join(others)}]"
            out.append(line)
        sys.stdout.write("".join(line + "\n" for line in out))
    return 0


def diff(options: Options) -> int:
    from rootless.image.difference import ADDED, CHANGED, DELETED, compare
    from rootless.userns import keeper

    paths = places.of_this_user()
    form = options.value("format")
    if form not in (None, "json"):
        raise UsageError(f"invalid format: {form}", hint="json, or none for lines")
    images = [shared.own(paths, text) for text in options.args]
    userns = keeper.open_userns(paths)
    with store.hold(paths):
        for image in images:
            store.ensure_layers(paths, userns, image)
        layers = [[paths.layer(d) for d in reversed(i.layers)] for i in images]
        changes = compare(paths, userns, layers[0], layers[1])
    if form == "json":
        from rootless import jsontext

        names = {"added": ADDED, "changed": CHANGED, "deleted": DELETED}
        sys.stdout.write(jsontext.dumps({
            name: [os.fsdecode(c.path) for c in changes if c.kind == kind]
            for name, kind in names.items()}) + "\n")
        return 0
    sys.stdout.flush()
    raw = b"".join(b"%s %s\n" % (c.kind.encode(), c.path) for c in changes)
    sys.stdout.buffer.write(raw)
    return 0


def untag(options: Options) -> int:
    """podman's: the names that are given, or all the image has. The image stays."""
    paths = places.of_this_user()
    image = shared.own(paths, options.args[0])
    mine = {i.name for i in store.every(paths) if i.id == image.id and i.name}
    wanted = set()
    for text in options.args[1:]:
        name = parse(text).named().full
        if name not in mine:
            raise NotFound(f"no such name of image {options.args[0]}: {familiar(name)}",
                           hint=f"rootless image tree {options.args[0]} shows those it has")
        wanted.add(name)
    store.untag(paths, wanted or mine)
    return 0


COMMANDS = {
    "history": Command("history", "IMAGE", "Show the steps an image was made in, newest first.",
                       history, (
        Option("format", VALUE, "Go template, or json", metavar="FORMAT"),
        Option("human", FLAG, "Sizes and dates for people (default true; --human=false)", "H"),
        Option("no-trunc", FLAG, "Nothing shortened"),
        Option("quiet", FLAG, "Ids only", "q"),
    ), least=1, most=1),
    "image tree": Command("image tree", "[IMAGE]", "Show the layers of an image, bottom first, and "
                          "which other images have them; of all images where none is named.",
                          tree, most=1),
    "image diff": Command("image diff", "IMAGE IMAGE", "Show which files were added (A), changed "
                          "(C) and deleted (D) from the first image to the second.", diff, (
        Option("format", VALUE, "json: lists of added, changed and deleted", metavar="FORMAT"),
    ), least=2, most=2),
    "untag": Command("untag", "IMAGE [NAME...]", "Take names away from an image, all of them where "
                     "none is given. The image stays.", untag, least=1),
}
