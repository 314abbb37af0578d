"""`rootless inspect`: a container or an image, as docker's JSON."""

from __future__ import annotations

import json
import sys

from rootless import paths as places
from rootless.cli.command import VALUE, Command, Option, Options
from rootless.container import store
from rootless.errors import NotFound, RootlessError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.paths import Paths


def run(options: Options) -> int:
    paths = places.of_this_user()
    kind = options.value("type") or ""
    if kind not in ("", "container", "image"):
        raise UsageError(f"invalid argument for --type: {kind}", hint="container or image")
    found, worst = [], 0
    for name in options.args:
        try:
            found.append(_one(paths, name, kind))
        except RootlessError as e:
            from rootless.__main__ import tell

            tell(e)
            worst = 1
    template = options.value("format")
    if template is None:
        sys.stdout.write(json.dumps(found, indent=4, ensure_ascii=False) + "\n")
    else:
        from rootless.cli.template import render

        for item in found:
            text = json.dumps(item) if template == "json" else render(template, item)
            sys.stdout.write(text + "\n")
    return worst


def _one(paths: Paths, name: str, kind: str) -> dict[str, Any]:
    if kind != "image":
        try:
            from rootless.container.describe import describe

            return describe(store.find(paths, name))
        except NotFound:
            if kind == "container":
                raise
    from rootless.image import store as images

    image = images.find(paths, name)
    if image is None:
        what = "image" if kind else "container or image"
        raise NotFound(f"no such {what}: {name}", hint="rootless ps -a and rootless images list "
                                                       "what there is")
    from rootless.image.describe import describe as describe_image

    return describe_image(paths, image)


COMMANDS = {
    "inspect": Command("inspect", "NAME [NAME...]",
                       "Show all that is known of containers or images, as JSON.", run, (
                           Option("format", VALUE, "Go template, or json", "f", "FORMAT"),
                           Option("type", VALUE, "container or image", metavar="TYPE")),
                       least=1),
}
