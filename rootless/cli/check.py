"""`rootless system check` and `system df`."""

from __future__ import annotations

import sys

from rootless import paths as places
from rootless.cli.command import FLAG, VALUE, Command, Option, Options
from rootless.cli.images import utc
from rootless.cli.ps import age, table
from rootless.container import store as containers
from rootless.container import volumes as mounted
from rootless.errors import RootlessError
from rootless.image import store
from rootless.image.progress import human
from rootless.image.reference import familiar
from rootless.storage import volumes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.container.store import Container
    from rootless.image.check import Checker, Fault
    from rootless.paths import Paths
    from rootless.storage.volumes import Volume

# A mend may show the next fault: a blob goes, then a name, then what only that name needed.
_ROUNDS = 4


def check(options: Options) -> int:
    """0: all is well, or is now. 1: something is wrong, or could not be mended."""
    paths = places.of_this_user()
    paths.ensure()
    faults = _checker(paths, quick=options.flag("quick")).faults()
    if not faults:
        sys.stdout.write("no faults found\n")
        return 0
    for fault in faults:
        sys.stdout.write(f"{fault.what}: {fault.why}\n")
    if not options.flag("repair"):
        sys.stdout.flush()
        sys.stderr.write(f"rootless: the store has {_count(faults)}\n"
                         "  hint: rootless system check --repair\n")
        return 1
    return _repair(paths, faults)


def _repair(paths: Paths, faults: list[Fault]) -> int:
    from rootless.__main__ import tell

    for _ in range(_ROUNDS):
        for fault in faults:
            if fault.mend is None:
                continue
            try:
                sys.stdout.write(f"{fault.what}: {fault.mend()}\n")
                sys.stdout.flush()
            except RootlessError as e:
                tell(e)
        # What was compared with its blob a moment ago, or was made from it, need not be again.
        faults = _checker(paths, quick=True).faults()
        if not any(fault.mend for fault in faults):
            break
    for fault in faults:
        sys.stderr.write(f"rootless: not mended: {fault.what}: {fault.why}\n")
    return 1 if faults else 0


def _count(faults: list[Fault]) -> str:
    return "1 fault" if len(faults) == 1 else f"{len(faults)} faults"


def _checker(paths: Paths, *, quick: bool) -> Checker:
    from rootless.image.check import Checker
    from rootless.userns import keeper

    def progress(what: str) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[KChecking {what}\r")

    busy = {str(d): c.name or c.id[:12] for c in containers.every(paths) if c.state().running
            for d in c.data["layers"]}
    return Checker(paths, keeper.open_userns(paths), quick=quick, busy=busy, progress=progress)


# ---- df ----------------------------------------------------------------------------------------

def df(options: Options) -> int:
    from rootless.image import steps, usage

    paths = places.of_this_user()
    paths.ensure()
    images = store.every(paths)
    made = containers.every(paths)
    layers, blobs = usage.layer_sizes(paths), usage.blob_sizes(paths)
    written = _written(paths, made)
    used = {str(c.data["image_id"]) for c in made}
    needed = {d for c in made for d in c.data["layers"]}
    needed |= {d for i in images if i.id in used for d in i.layers}
    kept = {d for i in images if i.id in used for d in (i.digest, i.id, *i.blobs)}
    cached = {m.diff_id: m.blob for _, m in steps.every(paths) if m is not None}
    others = needed | {d for i in images for d in i.layers}
    cache = {d: layers.get(d, 0) + blobs.get(b, 0) for d, b in cached.items() if d not in others}
    held = sum(cache.values())
    whole = sum(layers.values()) + sum(blobs.values()) - held
    free = (sum(n for d, n in layers.items() if d not in needed)
            + sum(n for d, n in blobs.items() if d not in kept)) - held
    running = [c for c in made if c.state().running]
    stopped = sum(written[c.id] for c in made if c not in running)
    identities = {i.id for i in images}
    kept_volumes = volumes.every(paths)
    sizes = _volume_sizes(paths, kept_volumes)
    rows = [_summary("Images", len(identities), len(identities & used), whole, free),
            _summary("Containers", len(made), len(running), sum(written.values()), stopped),
            _volumes_summary(paths, kept_volumes, sizes),
            _summary("Build Cache", len(cached), len(cached) - len(cache), held, held)]
    template = options.value("format")
    if template is not None:
        from rootless.cli.template import render_rows

        out = render_rows(template, rows, {"TotalCount": "TOTAL"})
    elif options.flag("verbose"):
        out = [*_verbose(paths, made, written, layers), "",
               *_verbose_volumes(paths, kept_volumes, sizes)]
    else:
        out = table([("TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"),
                     *((r["Type"], r["TotalCount"], r["Active"], r["Size"], r["Reclaimable"])
                       for r in rows)])
    sys.stdout.write("".join(line + "\n" for line in out))
    return 0


def _summary(kind: str, count: int, active: int, size: int, free: int) -> dict[str, str]:
    share = f" ({100 * free // size}%)" if size else ""
    return {"Type": kind, "TotalCount": str(count), "Active": str(active), "Size": human(size),
            "Reclaimable": human(free) + share}


def _written(paths: Paths, made: list[Container]) -> dict[str, int]:
    """Bytes that each container has written: the one thing that must be counted."""
    if not made:
        return {}
    from rootless.container.size import written
    from rootless.userns import keeper

    return written(paths, keeper.open_userns(paths), made)


def _verbose(paths: Paths, made: list[Container], written: dict[str, int],
             layers: dict[str, int]) -> list[str]:
    from rootless.image import usage

    images = store.every(paths)
    out = ["Images space usage:", ""]
    rows: list[tuple[str, ...]] = [("REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE",
                                    "SHARED SIZE", "UNIQUE SIZE", "CONTAINERS")]
    for i in images:
        shared, own = usage.shared_and_own(images, i, layers)
        created = utc(str(i.config.get("created") or ""))
        rows.append((familiar(i.repository) or "<none>", i.tag or "<none>", i.id[7:19],
                     f"{age(created)} ago" if created else "N/A", human(shared + own),
                     human(shared), human(own),
                     str(sum(c.data["image_id"] == i.id for c in made))))
    out += [*table(rows), "", "Containers space usage:", ""]
    lines: list[tuple[str, ...]] = [("CONTAINER ID", "IMAGE", "COMMAND", "SIZE", "CREATED",
                                     "STATUS", "NAMES")]
    lines += [(c.id[:12], str(c.data["image"]), f'"{" ".join(c.data["command"])[:20]}"',
               human(written[c.id]), f"{age(str(c.data['created']))} ago", c.state().status,
               c.name) for c in made]
    return [*out, *table(lines)]


def _volume_sizes(paths: Paths, kept: list[Volume]) -> dict[str, int]:
    if not kept:
        return {}
    from rootless.container.size import of_volumes
    from rootless.userns import keeper

    return of_volumes(paths, keeper.open_userns(paths), kept)


def _volumes_summary(paths: Paths, kept: list[Volume], sizes: dict[str, int]) -> dict[str, str]:
    used = mounted.users(paths)
    return _summary("Local Volumes", len(kept), sum(v.name in used for v in kept),
                    sum(sizes.values()), sum(sizes[v.name] for v in kept if v.name not in used))


def _verbose_volumes(paths: Paths, kept: list[Volume], sizes: dict[str, int]) -> list[str]:
    used = mounted.users(paths)
    return ["Local Volumes space usage:", "",
            *table([("VOLUME NAME", "LINKS", "SIZE"),
                    *((v.name, str(len(used.get(v.name, []))), human(sizes[v.name]))
                      for v in kept)])]


COMMANDS = {
    "system check": Command("system check", "", "Look whether the store is whole: blobs, names, "
                            "layers file by file, leftovers. Exit code 1 when it is not.", check, (
        Option("quick", FLAG, "Do not compare the files of layers with their blobs", "q"),
        Option("repair", FLAG, "Unpack damaged layers again, remove what cannot be used", "r"),
    ), most=0),
    "system df": Command("system df", "", "Show what images, containers and volumes take on "
                         "the disk.", df, (
        Option("format", VALUE, "Go template, or json", metavar="FORMAT"),
        Option("verbose", FLAG, "Every image, container and volume", "v"),
    ), most=0),
}
