"""`rootless manifest`: lists of images for several platforms."""

from __future__ import annotations

import sys

from rootless import paths as places
from rootless.cli.command import FLAG, LIST, OPTIONAL, VALUE, Command, Option, Options
from rootless.errors import NotFound, UsageError
from rootless.image import store
from rootless.image.reference import familiar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rootless.image.manifest_list import Facts
    from rootless.paths import Paths


def _say(options: Options) -> Callable[[str], None]:
    def say(text: str) -> None:
        if not options.flag("quiet"):
            sys.stderr.write(text + "\n")

    return say


def _swept(paths: Paths) -> None:
    from rootless.image import gc

    # Configurations that were read to learn the platform, and layers that passed through.
    gc.sweep(paths, patience=0)


def create(options: Options) -> int:
    from rootless.image import manifest_list as lists

    paths = places.of_this_user()
    paths.ensure()
    name, *images = options.args
    try:
        with store.hold(paths), lists.lock(paths):
            made = lists.create(paths, name, amend=options.flag("amend"))
            for image in images:
                lists.add(paths, made, image, every=options.flag("all"), say=_say(options),
                          tls_verify=options.boolean("tls-verify"))
            for text in options.list("annotation"):
                key, value = _pair(text)
                made.index.setdefault("annotations", {})[key] = value
            lists.save(paths, made)
    finally:
        _swept(paths)
    sys.stdout.write(f"{familiar(made.name)}\n")
    return 0


def add(options: Options) -> int:
    from rootless.image import manifest_list as lists

    paths = places.of_this_user()
    paths.ensure()
    name, *images = options.args
    facts = _facts(options)
    try:
        with store.hold(paths), lists.lock(paths):
            made = lists.get(paths, name)
            for image in images:
                before = {e["digest"] for e in made.entries}
                lists.add(paths, made, image, every=options.flag("all"), say=_say(options),
                          tls_verify=options.boolean("tls-verify"))
                for entry in made.entries:
                    if entry["digest"] not in before:
                        lists.annotate(made, entry["digest"], facts)
            lists.save(paths, made)
    finally:
        _swept(paths)
    sys.stdout.write(f"{made.digest}\n")
    return 0


def annotate(options: Options) -> int:
    from rootless.image import manifest_list as lists

    paths = places.of_this_user()
    paths.ensure()
    name, image = options.args
    with lists.lock(paths):
        made = lists.get(paths, name)
        lists.annotate(made, image, _facts(options))
        lists.save(paths, made)
    sys.stdout.write(f"{made.digest}\n")
    return 0


def remove(options: Options) -> int:
    from rootless.image import manifest_list as lists

    paths = places.of_this_user()
    paths.ensure()
    name, *images = options.args
    with lists.lock(paths):
        made = lists.get(paths, name)
        for image in images:
            gone = made.find(image)
            made.index["manifests"] = [e for e in made.entries if e is not gone]
            made.origins.pop(gone["digest"], None)
        lists.save(paths, made)
    sys.stdout.write(f"{made.digest}\n")
    return 0


def _facts(options: Options) -> Facts:
    from rootless.image.manifest_list import Facts

    return Facts(os=options.value("os") or "", arch=options.value("arch") or "",
                 variant=options.value("variant") or "",
                 os_version=options.value("os-version") or "",
                 features=tuple(options.list("features")),
                 os_features=tuple(options.list("os-features")),
                 annotations=tuple(_pair(text) for text in options.list("annotation")))


def _pair(text: str) -> tuple[str, str]:
    key, eq, value = text.partition("=")
    if not key or not eq:
        raise UsageError(f"invalid annotation: {text}", hint="--annotation KEY=VALUE")
    return key, value


def inspect(options: Options) -> int:
    """Of a list here, or of what a registry has by that name."""
    import json

    from rootless.image import manifest_list as lists
    from rootless.image.sources import FromRegistry

    paths = places.of_this_user()
    name = options.args[0]
    made = None if name.startswith("docker://") else lists.find(paths, name)
    if made is not None:
        data = made.text
    else:
        origin = FromRegistry(paths, name.removeprefix("docker://"), say=_say(options),
                              tls_verify=options.boolean("tls-verify"))
        _, data = origin.top()
    sys.stdout.write(json.dumps(json.loads(data), indent=4) + "\n")
    return 0


def ls(options: Options) -> int:
    from rootless.image import manifest_list as lists

    for made in lists.every(places.of_this_user()):
        sys.stdout.write(f"{familiar(made.name)}\n")
    return 0


def exists(options: Options) -> int:
    from rootless.image import manifest_list as lists

    return 0 if lists.find(places.of_this_user(), options.args[0]) is not None else 1


def push(options: Options) -> int:
    import os

    from rootless.files import write_atomic
    from rootless.image import copy as copying
    from rootless.image import manifest_list as lists
    from rootless.userns import keeper

    paths = places.of_this_user()
    paths.ensure()
    made = lists.get(paths, options.args[0])
    text = options.args[1] if len(options.args) > 1 else f"docker://{made.name}"
    at = copying.place(text)
    if at.transport == "store" and not text.startswith("store:"):
        at = copying.place(f"docker://{text}")
    verify = options.boolean("tls-verify")
    say = _say(options)
    try:
        with store.hold(paths):
            there = copying.target(paths, at, lambda: keeper.open_userns(paths),
                                   tls_verify=verify, say=say)
            try:
                digest = lists.push(paths, made, there, form=options.value("format") or "",
                                    every=options.boolean("all") is not False,
                                    tls_verify=verify, say=say)
                there.commit()
            finally:
                there.close()
    finally:
        _swept(paths)
    file = options.value("digestfile")
    if file is not None:
        write_atomic(os.path.abspath(file), digest.encode(), mode=0o644)
    if options.flag("purge") or options.flag("rm"):
        with lists.lock(paths):
            lists.remove(paths, made.name)
    sys.stdout.write(f"{digest}\n")
    return 0


def rm(options: Options) -> int:
    """One that is missing does not keep the others."""
    from rootless.__main__ import tell
    from rootless.image import manifest_list as lists

    paths = places.of_this_user()
    paths.ensure()
    worst = 0
    for name in options.args:
        try:
            with lists.lock(paths):
                lists.remove(paths, name)
            sys.stdout.write(f"{name}\n")
        except NotFound as e:
            tell(e)
            worst = 1
    return worst


_ALL = Option("all", FLAG, "All images, where the name is that of a list")
_QUIET = Option("quiet", FLAG, "Say nothing of the way there", "q")
_TLS = Option("tls-verify", OPTIONAL, "Check certificates (default true)", "", "BOOL", "true")
_FACTS = (
    Option("os", VALUE, "Operating system of the image", "", "OS"),
    Option("arch", VALUE, "Architecture of the image", "", "ARCH"),
    Option("variant", VALUE, "Variant of the architecture", "", "VARIANT"),
    Option("os-version", VALUE, "Version of the operating system", "", "VERSION"),
    Option("features", LIST, "Feature of the processor that it needs", "", "FEATURE"),
    Option("os-features", LIST, "Feature of the system that it needs", "", "FEATURE"),
    Option("annotation", LIST, "Annotation of its entry", "", "KEY=VALUE"),
)

COMMANDS = {
    "manifest create": Command(
        "manifest create", "LIST [IMAGE...]", "Begin a list of images for several platforms.",
        create, (Option("amend", FLAG, "Add to a list that exists", "a"), _ALL, _QUIET, _TLS,
                 Option("annotation", LIST, "Annotation of the list", "", "KEY=VALUE")), least=1),
    "manifest add": Command(
        "manifest add", "LIST IMAGE...", "Add images of the store or of a registry to a list.",
        add, (_ALL, *_FACTS, _QUIET, _TLS), least=2),
    "manifest annotate": Command(
        "manifest annotate", "LIST IMAGE", "Say what an image of a list is made for.", annotate,
        _FACTS, least=2, most=2),
    "manifest remove": Command(
        "manifest remove", "LIST IMAGE...", "Take images out of a list.", remove, least=2),
    "manifest inspect": Command(
        "manifest inspect", "NAME", "Show a list, or the manifest a registry has by that name.",
        inspect, (_TLS, _QUIET), least=1, most=1),
    "manifest ls": Command("manifest ls", "", "Show the names of all lists.", ls, most=0),
    "manifest exists": Command("manifest exists", "LIST", "End with 0 if there is such a list, "
                               "else with 1.", exists, least=1, most=1),
    "manifest push": Command(
        "manifest push", "LIST [TARGET]", "Upload a list, with its images or alone.", push, (
            Option("all", OPTIONAL, "The images, too (default true)", "a", "BOOL", "true"),
            Option("digestfile", VALUE, "Write the digest into this file", "", "FILE"),
            Option("format", VALUE, "oci or v2s2 (default: as it is)", "f", "FORMAT"),
            Option("purge", FLAG, "Forget the list afterwards", "p"),
            Option("rm", FLAG, "The same as --purge"), _QUIET, _TLS), least=1, most=2),
    "manifest rm": Command("manifest rm", "LIST...", "Forget lists.", rm, least=1),
}
