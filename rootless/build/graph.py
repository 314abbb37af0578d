"""Which stages a target needs, and what each of their names means.

    FROM name           a stage above it, a named context, an image
    COPY --from=name    a stage anywhere (a number: its index), a named context, an image
    RUN --mount=from=   the same

A named context (--build-context NAME=...) stands before everything, as in docker; one that is
docker-image://IMAGE is another name of the image. Only what the
target reaches is looked at: a broken stage that nobody needs does no harm.
"""

from __future__ import annotations

from rootless.build import mounts, near, scope
from rootless.build.instructions import Copy, Run
from rootless.errors import BuildError
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Union

    from rootless.build.instructions import From, Instruction
    from rootless.build.parse import Dockerfile, Stage
    from rootless.build.scope import Scope
    from rootless.build.source import Where

    # A stage's index; or the name of an image, "scratch", or context:NAME.
    Origin = Union[int, str]

SCRATCH = "scratch"
IMAGE = "docker-image://"
CONTEXT = "context:"        # no name of an image begins so


@record(frozen=True)
class Plan:
    """`order`: the stages to be built, each behind those it needs. `starts`: their FROMs with
    variables replaced. `bases`: what they start from. `needs`: the stages they need, base
    included; two stages that do not need each other may be built at the same time. `contexts`:
    what --build-context gave, by names in lower case."""

    dockerfile: Dockerfile
    target: int
    order: tuple[int, ...]
    starts: dict[int, From]
    bases: dict[int, Origin]
    needs: dict[int, tuple[int, ...]]
    contexts: Mapping[str, str]

    def is_directory(self, origin: Origin) -> bool:
        """It is a named context, and no stage or image."""
        return isinstance(origin, str) and origin.startswith(CONTEXT)

    def hint(self, name: str) -> str | None:
        """For what was taken as an image and is none: a stage or a context may have been meant."""
        return near.hint(name.lower(), [*(s.name for s in self.dockerfile.stages if s.name),
                                        *self.contexts])

    def origin(self, name: str, where: Where) -> Origin:
        """What --from=NAME means. Raises DockerfileError."""
        return _origin(self.dockerfile, self.contexts, name, where)


def plan(dockerfile: Dockerfile, top: Scope, target: str = "",
         contexts: Mapping[str, str] | None = None,
         triggers: Mapping[int, Sequence[Instruction]] | None = None) -> Plan:
    """`contexts`: directories, or docker-image://..., by names in lower case. `triggers`: what
    base images add to stages (ONBUILD), once it is known; they may need stages that the file
    itself does not ask for.

    Raises BuildError for a target that is not there, DockerfileError for what is wrong in it.
    """
    names = contexts or {}
    added = triggers or {}
    last = find_target(dockerfile, target).index
    starts: dict[int, From] = {}
    bases: dict[int, Origin] = {}
    needs: dict[int, tuple[int, ...]] = {}
    order: list[int] = []
    # Depth first with a path instead of recursion: a stage is done when all it needs is done.
    path: list[tuple[int, Iterator[tuple[int, Where, str]]]] = []

    def enter(index: int) -> None:
        stage = dockerfile.stages[index]
        starts[index] = scope.resolve_from(stage.start, top)
        bases[index] = _base(dockerfile, names, index, starts[index])
        wanted = list(_wanted(dockerfile, names, stage, bases[index], added.get(index, ())))
        needs[index] = tuple(dict.fromkeys(other for other, _, _ in wanted))
        path.append((index, iter(wanted)))

    enter(last)
    while path:
        index, wanted = path[-1]
        for other, where, name in wanted:
            if any(other == above for above, _ in path):
                chain = [above for above, _ in path]
                circle = [dockerfile.stages[i].title for i in chain[chain.index(other):]]
                raise where.error("circular: stage " + " needs ".join([*circle, circle[0]]),
                                  token=name)
            if other not in starts:
                enter(other)
                break
        else:
            order.append(index)
            path.pop()
    return Plan(dockerfile, last, tuple(order), starts, bases, needs, names)


def find_target(dockerfile: Dockerfile, target: str) -> Stage:
    """By name, by index, or the last stage for "". Raises BuildError."""
    stages = dockerfile.stages
    if not target:
        return stages[-1]
    for stage in reversed(stages):
        if stage.name == target.lower():
            return stage
    if target.isascii() and target.isdigit() and int(target) < len(stages):
        return stages[int(target)]
    known = [stage.name for stage in stages if stage.name]
    raise BuildError(f"no such stage: {target}: {dockerfile.source.name} has "
                     + (", ".join(known) if known else "no stage with a name"),
                     hint=near.hint(target.lower(), known))


def find_stage(dockerfile: Dockerfile, name: str, before: int | None = None) -> int | None:
    """The last stage of that name above `before`, or anywhere."""
    for stage in reversed(dockerfile.stages[:before]):
        if stage.name and stage.name == name.lower():
            return stage.index
    return None


def _named(contexts: Mapping[str, str], name: str) -> str | None:
    given = contexts.get(name.lower())
    if given is None:
        return None
    return given[len(IMAGE):] if given.startswith(IMAGE) else CONTEXT + name.lower()


def _base(dockerfile: Dockerfile, contexts: Mapping[str, str], index: int, start: From) -> Origin:
    named = _named(contexts, start.image)
    if named is not None:
        return named
    found = find_stage(dockerfile, start.image, index)
    return start.image if found is None else found


def _origin(dockerfile: Dockerfile, contexts: Mapping[str, str], name: str,
            where: Where) -> Origin:
    named = _named(contexts, name)
    if named is not None:
        return named
    if name.isascii() and name.isdigit():
        if int(name) >= len(dockerfile.stages):
            raise where.error(f"there is no stage {name}: the file has {len(dockerfile.stages)}, "
                              "counted from 0", token=name)
        return int(name)
    found = find_stage(dockerfile, name)
    return name if found is None else found


def _wanted(dockerfile: Dockerfile, contexts: Mapping[str, str], stage: Stage, base: Origin,
            triggers: Sequence[Instruction]) -> Iterator[tuple[int, Where, str]]:
    """(stage, who wants it, what it is called there)."""
    if isinstance(base, int):
        yield base, stage.start.where, stage.start.image
    for one in (*triggers, *stage.instructions):
        for name in froms(one):
            origin = _origin(dockerfile, contexts, name, one.where)
            if isinstance(origin, int):
                yield origin, one.where, name


def froms(one: Instruction) -> list[str]:
    """Names that an instruction takes files from."""
    if isinstance(one, Copy):
        return [one.from_] if one.from_ else []
    if isinstance(one, Run):
        return [value for flag in one.mount_flags for field in mounts.fields(flag)
                for key, _, value in (field.partition("="),)
                if key.lower() == "from" and value]
    return []
