"""`rootless image prune`."""

from __future__ import annotations

import sys
import time

from rootless import paths as places
from rootless.cli.command import FLAG, LIST, Command, Option, Options
from rootless.cli.confirm import FORCE, confirmed
from rootless.cli.images import utc
from rootless.clock import seconds_of
from rootless.image.progress import human


def prune(options: Options) -> int:
    from rootless.container import store as containers
    from rootless.image.prune import candidates, parse_filter
    from rootless.image.prune import prune as remove

    paths = places.of_this_user()
    paths.ensure()
    everything = options.flag("all")
    now = time.time()
    tests = [parse_filter(text, lambda t: seconds_of(utc(t)), now)
             for text in options.list("filter")]
    which = ("all images without at least one container associated to them" if everything
             else "all dangling images")
    if not confirmed(options, f"This removes {which}."):
        return 1
    used = {str(c.data["image_id"]) for c in containers.every(paths)}
    pruned = remove(paths, candidates(paths, used, everything=everything, tests=tests))
    if pruned.said:
        sys.stdout.write("Deleted Images:\n" + "".join(line + "\n" for line in pruned.said) + "\n")
    sys.stdout.write(f"Total reclaimed space: {human(pruned.reclaimed)}\n")
    return 0


COMMANDS = {
    "image prune": Command("image prune", "", "Remove images that have no tag and that no "
                           "container was made from.", prune, (
        Option("all", FLAG, "Also those with a tag", "a"),
        Option("filter", LIST, "Only those that match: until=, label=, label!=", "",
               "KEY=VALUE"),
        FORCE,
    ), most=0),
}
