"""`rootless container prune`, `image prune` and `system prune`."""

from __future__ import annotations

import sys
import time

from rootless import paths as places
from rootless.cli.command import FLAG, LIST, Command, Option, Options
from rootless.cli.confirm import FORCE, confirmed
from rootless.cli.images import utc
from rootless.clock import seconds_of
from rootless.container import life, store
from rootless.errors import Conflict, NotFound
from rootless.image.progress import human

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.image.prune import Match
    from rootless.paths import Paths


def image(options: Options) -> int:
    paths = places.of_this_user()
    paths.ensure()
    everything = options.flag("all")
    tests = _tests(options)
    which = ("all images without at least one container associated to them" if everything
             else "all dangling images")
    if not confirmed(options, f"This removes {which}."):
        return 1
    _reclaimed(_images(paths, tests, everything=everything))
    return 0


def container(options: Options) -> int:
    paths = places.of_this_user()
    tests = _tests(options)
    if not confirmed(options, "This removes all stopped containers."):
        return 1
    _reclaimed(_containers(paths, tests))
    return 0


def system(options: Options) -> int:
    """docker's: containers, networks, images, the cache of builds where no filter asks for less
    and, with --volumes, volumes without a name."""
    from rootless.build import cache
    from rootless.cli.network import prune_unused
    from rootless.cli.volume import remove_unused

    paths = places.of_this_user()
    paths.ensure()
    everything, volumes = options.flag("all"), options.flag("volumes")
    tests = _tests(options)
    if volumes and any(text.startswith("until=") for text in options.list("filter")):
        raise Conflict("cannot prune volumes with the filter until: docker does not either",
                       hint="rootless system prune, then rootless volume prune")
    images = "images without at least one container" if everything else "dangling images"
    more = ", volumes without a name" if volumes else ""
    if not confirmed(options, f"This removes all stopped containers, unused networks, {images}, "
                              f"the cache of builds{more}."):
        return 1
    size = _containers(paths, tests)
    networks = prune_unused(paths, [lambda n: all(t(n.created, n.labels) for t in tests)])[0]
    _section("Networks", networks)
    if volumes:
        gone, freed = remove_unused(paths, [lambda v: all(t(v.created, v.labels) for t in tests)],
                                    everything=False)
        _section("Volumes", [v.name for v in gone])
        size += freed
    size += _images(paths, tests, everything=everything)
    if not tests:
        size += cache.prune(paths, everything=everything)
    _reclaimed(size)
    return 0


def _tests(options: Options) -> list[Match]:
    from rootless.image.prune import parse_filter

    now = time.time()
    return [parse_filter(text, lambda t: seconds_of(utc(t)), now)
            for text in options.list("filter")]


def _section(what: str, names: list[str]) -> None:
    if names:
        sys.stdout.write(f"Deleted {what}:\n" + "".join(n + "\n" for n in names) + "\n")
        sys.stdout.flush()


def _reclaimed(size: int) -> None:
    sys.stdout.write(f"Total reclaimed space: {human(size)}\n")


def _images(paths: Paths, tests: list[Match], *, everything: bool) -> int:
    """Bytes that it brought."""
    from rootless.image.prune import candidates, prune

    used = {str(c.data["image_id"]) for c in store.every(paths)}
    pruned = prune(paths, candidates(paths, used, everything=everything, tests=tests))
    _section("Images", list(pruned.said))
    return pruned.reclaimed


def _containers(paths: Paths, tests: list[Match]) -> int:
    """Bytes that it brought. One that is started meanwhile stays."""
    from rootless.container.size import written
    from rootless.userns import keeper

    doomed = [c for c in store.every(paths) if not c.state().running
              and all(test(str(c.data["created"]), c.data["labels"]) for test in tests)]
    if not doomed:
        return 0
    sizes = written(paths, keeper.open_userns(paths), doomed)
    gone = []
    for one in doomed:
        try:
            life.remove(one, force=False)
            gone.append(one.id)
        except (Conflict, NotFound):
            continue
    _section("Containers", gone)
    store.sweep(paths)
    return sum(sizes[cid] for cid in gone)


_FILTER = Option("filter", LIST, "Only those that match: until=, label=, label!=", "",
                 "KEY=VALUE")

COMMANDS = {
    "container prune": Command("container prune", "", "Remove all containers that do not run.",
                               container, (_FILTER, FORCE), most=0),
    "image prune": Command("image prune", "", "Remove images that have no tag and that no "
                           "container was made from.", image, (
        Option("all", FLAG, "Also those with a tag", "a"), _FILTER, FORCE,
    ), most=0),
    "system prune": Command("system prune", "", "Remove containers that do not run, networks that "
                            "none is made for, images without a tag, and what builds "
                            "keep for the next.", system, (
        Option("all", FLAG, "Also images with a tag that no container was made from", "a"),
        _FILTER, FORCE,
        Option("volumes", FLAG, "Also volumes without a name that no container uses"),
    ), most=0),
}
