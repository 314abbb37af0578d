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

    from rootless.image.store import Image
    from rootless.paths import Paths


def run(options: Options) -> int:
    kind = options.value("type") or ""
    if kind not in ("", "container", "image", "volume", "network"):
        raise UsageError(f"invalid argument for --type: {kind}",
                         hint="container, image, network or volume")
    return _show(options, kind)


def run_container(options: Options) -> int:
    return _show(options, "container")


def run_image(options: Options) -> int:
    return _show(options, "image")


def exists(options: Options) -> int:
    return 0 if _image(places.of_this_user(), options.args[0]) is not None else 1


def _show(options: Options, kind: str) -> int:
    paths = places.of_this_user()
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
    if kind == "volume":
        return _volume(paths, name)
    if kind == "network":
        return _network(paths, name)
    if kind != "image":
        try:
            from rootless.container.describe import describe

            return describe(store.find(paths, name))
        except NotFound:
            if kind == "container":
                raise
    image = _image(paths, name)
    if image is None and not kind:
        for other in (_network, _volume):
            try:
                return other(paths, name)
            except NotFound:
                continue
        raise NotFound(f"no such container, image, network or volume: {name}",
                       hint="rootless ps -a and rootless images list what there is")
    if image is None:
        raise NotFound(f"no such image: {name}", hint="rootless images lists what there is")
    from rootless.image.describe import describe as describe_image

    return describe_image(paths, image)


def _network(paths: Paths, name: str) -> dict[str, Any]:
    from rootless.cli.network import described

    return described(paths, name)


def _image(paths: Paths, name: str) -> Image | None:
    from rootless.image import shared

    return shared.any_store(paths, name)


_FORMAT = Option("format", VALUE, "Go template, or json", "f", "FORMAT")

def _volume(paths: Paths, name: str) -> dict[str, Any]:
    from rootless.cli.volume import describe
    from rootless.storage import volumes

    return describe(volumes.find(paths, name))


COMMANDS = {
    "inspect": Command("inspect", "NAME [NAME...]",
                       "Show all that is known of containers or images, as JSON.", run, (
                           _FORMAT,
                           Option("type", VALUE, "container, image, network or volume",
                                  metavar="TYPE")),
                       least=1),
    "container inspect": Command("container inspect", "CONTAINER [CONTAINER...]",
                                 "Show all that is known of containers, as JSON.", run_container,
                                 (_FORMAT,), least=1),
    "image inspect": Command("image inspect", "IMAGE [IMAGE...]",
                             "Show all that is known of images, as JSON.", run_image, (_FORMAT,),
                             least=1),
    "image exists": Command("image exists", "IMAGE",
                            "End with 0 if there is such an image, else with 1.", exists,
                            least=1, most=1),
}
