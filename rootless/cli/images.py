"""`rootless pull`, `images`, `rmi` and `tag`."""

from __future__ import annotations

import sys

from rootless import events
from rootless import paths as places
from rootless.cli.command import FLAG, LIST, OPTIONAL, VALUE, Command, Option, Options
from rootless.cli.ps import age, table
from rootless.clock import seconds_of
from rootless.errors import NotFound, RootlessError, StorageError, UsageError
from rootless.image import store
from rootless.image.reference import familiar, parse
from rootless.image.store import Image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rootless.image.remove import User
    from rootless.paths import Paths

FILTERS = ("before", "dangling", "label", "reference", "since")
NONE = "<none>"
HEADERS = {"ID": "IMAGE ID", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT"}


# What `rmi` says, as an event.
_REMOVED = {"Untagged": "untag", "Deleted": "delete"}


def pull(options: Options) -> int:
    from rootless.image.pull import pull as pull_image

    quiet = options.flag("quiet")
    verify = options.boolean("tls-verify")
    paths = places.of_this_user()
    names = options.args
    try:
        if options.flag("all-tags"):
            names = _all_tags(paths, names[0], verify)
        for name in names:
            image = pull_image(paths, name, platform=options.value("platform") or "", quiet=quiet,
                               tls_verify=verify, out=sys.stdout)
            events.emit(paths.data, "image", "pull", image.name, {"name": image.name})
            if quiet or not options.flag("all-tags"):
                sys.stdout.write((image.id if quiet else image.name) + "\n")
    except UsageError as e:
        # A name that cannot be is docker's 1, not its 125 for a bad flag.
        e.exit_code = 1
        raise
    if not quiet and options.flag("all-tags"):
        sys.stdout.write(f"{image.repository}\n")
    return 0


def _all_tags(paths: Paths, name: str, verify: bool | None) -> list[str]:
    """The names of all images of a repository in its registry."""
    import os

    from rootless.image import registries, search

    known = registries.of_this_user(paths, os.environ)
    wanted = parse(known.expand(name))
    if wanted.tag or wanted.digest:
        raise UsageError(f"cannot pull all tags of {name}: --all-tags takes a repository alone",
                         hint=f"rootless pull --all-tags {familiar(wanted.repository)}")
    registry = registries.connect(known.itself(wanted), tls_verify=verify, env=os.environ,
                                  home=paths.home, say=_say)
    return [f"{wanted.repository}:{tag}" for tag in search.tags(registry)]


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def tag(options: Options) -> int:
    from rootless.image import shared

    paths = places.of_this_user()
    source, *targets = options.args
    try:
        image = shared.own(paths, source)
        for target in targets:
            store.tag(paths, image, target)
            events.emit(paths.data, "image", "tag", image.id, {"name": target})
    except UsageError as e:
        e.exit_code = 1
        raise
    return 0


def rmi(options: Options) -> int:
    """One that fails does not keep the others; with --force a missing one is only told."""
    from rootless.__main__ import tell
    from rootless.image.remove import remove

    paths = places.of_this_user()
    force = options.flag("force")
    worst = 0
    names = options.args
    if options.flag("all"):
        if names:
            raise UsageError("--all takes no image")
        names = list(dict.fromkeys(i.name or i.id for i in store.every(paths)))
    elif not names:
        raise UsageError("rootless rmi needs at least 1 argument, got 0",
                         hint="rootless rmi --help")
    for name in names:
        try:
            said = remove(paths, name, _users(paths), force=force)
            for line in said:
                action, _, which = line.partition(": ")
                events.emit(paths.data, "image", _REMOVED.get(action, "delete"), which,
                            {"name": name})
            sys.stdout.write("".join(line + "\n" for line in said))
            sys.stdout.flush()
        except RootlessError as e:
            tell(e)
            if not (force and isinstance(e, NotFound)):
                worst = 1
    return worst


def _users(paths: Paths) -> list[User]:
    from rootless.container import store as containers
    from rootless.image.remove import User

    found = [User(c.name or c.id[:12], str(c.data["image_id"]), c.state().running)
             for c in containers.every(paths)]
    found.sort(key=lambda u: not u.running)
    return found


# ---- images ------------------------------------------------------------------------------------

def images(options: Options) -> int:
    paths = places.of_this_user()
    everything = [*store.every(paths), *_shared(paths)]
    shown = _filtered(everything, paths, options)
    cut = not options.flag("no-trunc")
    rows = [_fields(i, cut=cut) for i in shown]
    template = options.value("format")
    if options.flag("quiet"):
        out = list(dict.fromkeys(r["ID"] for r in rows))
    elif template is not None:
        from rootless.cli.template import render_rows

        out = render_rows(template, rows, HEADERS)
    else:
        columns = {"REPOSITORY": "Repository", "TAG": "Tag", "DIGEST": "Digest",
                   "IMAGE ID": "ID", "CREATED": "CreatedSince", "SIZE": "Size"}
        if not options.flag("digests"):
            del columns["DIGEST"]
        if any(i.file for i in shown):
            columns["R/O"] = "ReadOnly"
        out = table([tuple(columns), *(tuple(r[f] for f in columns.values()) for r in rows)])
    sys.stdout.write("".join(line + "\n" for line in out))
    _tell_damaged(shown)
    return 0


def _shared(paths: Paths) -> list[Image]:
    """Those of the machine's shared stores. The configuration is a stat where there is none."""
    from rootless.image import shared

    return shared.every(paths)


def _tell_damaged(shown: list[Image]) -> None:
    from rootless.__main__ import tell

    for image in shown:
        if image.damaged:
            name = image.shown
            tell(StorageError(f"image {name} cannot be used: {image.damaged}",
                              hint=f"rootless rmi {name}, then pull it again"))


def _fields(image: Image, *, cut: bool) -> dict[str, str]:
    """The names of docker's `images --format`."""
    from rootless.image.progress import human

    created = utc(str(image.config.get("created") or ""))
    known = bool(created)
    size = human(image.size)
    return {
        "ID": image.id[7:19] if cut else image.id,
        "Repository": familiar(image.repository) or NONE,
        "Tag": image.tag or NONE,
        "Digest": image.source or NONE,
        "CreatedSince": f"{age(created)} ago" if known else "N/A",
        "CreatedAt": f"{created[:10]} {created[11:19]} +0000 UTC" if known else "N/A",
        "Size": size,
        "VirtualSize": size,
        "SharedSize": "N/A",
        "UniqueSize": "N/A",
        "ReadOnly": "true" if image.file else "false",
        "Containers": "N/A",
    }


def utc(stamp: str) -> str:
    """An RFC 3339 time with an offset, as `...Z`; "" where it cannot be read."""
    base, sign = stamp, 0
    if not stamp.endswith("Z") and len(stamp) > 25 - 6 and stamp[-6:-5] in ("+", "-"):
        base, sign = stamp[:-6], -1 if stamp[-6] == "+" else 1
    seconds = seconds_of(base)
    if seconds <= 0:
        return ""
    if sign:
        hours, _, minutes = stamp[-5:].partition(":")
        if not (hours.isdigit() and minutes.isdigit()):
            return ""
        seconds += sign * (int(hours) * 3600 + int(minutes) * 60)
    import time

    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(min(seconds, 253402300799)))


def _filtered(everything: list[Image], paths: Paths, options: Options) -> list[Image]:
    """Filters of different keys must all hold; of `reference` any, of the others all."""
    tests: list[Callable[[Image], bool]] = []
    patterns = list(options.args)
    for text in options.list("filter"):
        key, eq, value = text.partition("=")
        if not eq or key not in FILTERS:
            raise UsageError(f"invalid filter: {text}", hint=", ".join(FILTERS))
        if key == "reference":
            patterns.append(value)
        else:
            tests.append(_test(key, value, everything, paths))
    return [i for i in everything if all(t(i) for t in tests)
            and (not patterns or any(_like(i, p) for p in patterns))]


def _test(key: str, value: str, everything: list[Image], paths: Paths) -> Callable[[Image], bool]:
    if key == "dangling":
        if value.lower() not in ("true", "false", "1", "0"):
            raise UsageError(f"invalid filter: dangling={value}", hint="true or false")
        tagged = {i.id for i in everything if i.tag}
        wanted = value.lower() in ("true", "1")
        return lambda i: (i.id not in tagged) == wanted
    if key == "label":
        name, eq, text = value.partition("=")
        return lambda i: _has_label(i, name, text if eq else None)
    other = store.find(paths, value)
    if other is None:
        raise UsageError(f"invalid filter: {key}={value}: no such image")
    limit = utc(str(other.config.get("created") or ""))

    def compare(image: Image) -> bool:
        mine = utc(str(image.config.get("created") or ""))
        return image.id != other.id and (mine < limit if key == "before" else mine > limit)
    return compare


def _has_label(image: Image, name: str, text: str | None) -> bool:
    labels = (image.config.get("config") or {}).get("Labels") or {}
    return name in labels and text in (None, labels[name])


def _like(image: Image, pattern: str) -> bool:
    """A name with * ? [ ], as docker's path.Match has it: * does not cross a slash."""
    from fnmatch import fnmatchcase

    if not image.name:
        return False
    wanted = pattern.split("/")
    for name in (image.shown, image.name):
        for text in (name, familiar(image.repository), image.repository):
            parts = text.split("/")
            if len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted)):
                return True
    return False


_PLATFORM = Option("platform", VALUE, "Platform of the image, as linux/arm64", metavar="PLATFORM")

COMMANDS = {
    "pull": Command("pull", "NAME[:TAG|@DIGEST]", "Download an image from a registry.", pull, (
        Option("all-tags", FLAG, "Download all images of the repository", "a"),
        _PLATFORM,
        Option("quiet", FLAG, "Print the image's id only", "q"),
        Option("tls-verify", OPTIONAL, "Check the registry's certificate (default true)",
               metavar="BOOL", default="true"),
    ), least=1, most=1),
    "images": Command("images", "[REPOSITORY[:TAG]]", "List images.", images, (
        Option("all", FLAG, "Show all (there are no hidden ones)", "a"),
        Option("digests", FLAG, "Show the digests in the registry"),
        Option("filter", LIST, "Only those that match", "f", "KEY=VALUE"),
        Option("format", VALUE, "Go template, or json", metavar="FORMAT"),
        Option("no-trunc", FLAG, "Nothing shortened"),
        Option("quiet", FLAG, "Ids only", "q"),
    ), most=1),
    "rmi": Command("rmi", "IMAGE [IMAGE...]", "Remove images.", rmi, (
        Option("all", FLAG, "All images", "a"),
        Option("force", FLAG, "Also when it has several names or a stopped container", "f"),
    )),
    "tag": Command("tag", "IMAGE NAME[:TAG]...", "Give an image other names.", tag, least=2),
}
