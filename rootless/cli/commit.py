"""`rootless commit` and `diff`."""

from __future__ import annotations

import os
import sys

from rootless import paths as places
from rootless.cli.command import LIST, OPTIONAL, VALUE, Command, Option, Options
from rootless.container import cgroups, store
from rootless.errors import UsageError
from rootless.userns import keeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.container.store import Container


def commit(options: Options) -> int:
    from rootless.container.commit import Wish
    from rootless.container.commit import commit as make

    paths = places.of_this_user()
    container = store.find(paths, options.args[0])
    userns = keeper.open_userns(paths)
    wish = Wish(options.args[1] if len(options.args) > 1 else "", options.value("author") or "",
                options.value("message") or "", tuple(options.list("change")))
    held = _pause(container, options.boolean("pause"))
    try:
        image = make(container, userns, wish)
    finally:
        if held:
            cgroups.unpause(container)
    container.event("commit", imageID=image.id)
    sys.stdout.write(image.id + "\n")
    return 0


def _pause(container: Container, wanted: bool | None) -> bool:
    """Is it paused now, by us? Where nobody said so, only a container that can be."""
    state = container.state()
    if wanted is False or not state.running or cgroups.paused(state) \
            or (wanted is None and not state.cgroup):
        return False
    cgroups.pause(container)
    return True


def diff(options: Options) -> int:
    from rootless.container.changes import diff as compare
    from rootless.image.difference import ADDED, CHANGED, DELETED

    form = options.value("format")
    if form not in (None, "json"):
        raise UsageError(f"invalid format: {form}", hint="json, or none for lines")
    paths = places.of_this_user()
    changes = compare(store.find(paths, options.args[0]), keeper.open_userns(paths))
    if form == "json":
        from rootless import jsontext

        names = {"added": ADDED, "changed": CHANGED, "deleted": DELETED}
        sys.stdout.write(jsontext.dumps({
            name: [os.fsdecode(c.path) for c in changes if c.kind == kind]
            for name, kind in names.items()}) + "\n")
        return 0
    sys.stdout.flush()
    sys.stdout.buffer.write(b"".join(b"%s %s\n" % (c.kind.encode(), c.path) for c in changes))
    return 0


COMMANDS = {
    "commit": Command("commit", "CONTAINER [REPOSITORY[:TAG]]", "Make an image from what a "
                      "container has changed. A container that runs is paused meanwhile, where "
                      "its cgroup allows that.", commit, (
        Option("author", VALUE, "Author, as NAME <MAIL>", "a", "AUTHOR"),
        Option("change", LIST, "Change the image's configuration by a line of a Dockerfile: CMD, "
               "ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR", "c",
               "INSTRUCTION"),
        Option("message", VALUE, "Message in the image's history", "m", "TEXT"),
        Option("pause", OPTIONAL, "Pause the container meanwhile; --pause=false: do not", "p",
               "BOOL", default="true"),
    ), least=1, most=2),
    "diff": Command("diff", "CONTAINER", "Show which files a container has added (A), changed (C) "
                    "and deleted (D).", diff, (
        Option("format", VALUE, "json: lists of added, changed and deleted", metavar="FORMAT"),
    ), least=1, most=1),
}
