"""A Dockerfile: the arguments before the first FROM, and stages of instructions.

    text --nodes--> nodes --typed--> instructions --here--> stages

Everything that can be said without knowing a variable's value, an image or a file is said here.
"""

from __future__ import annotations

from rootless.build import nodes, source, typed
from rootless.build.instructions import Arg, From, Onbuild
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rootless.build.instructions import Instruction
    from rootless.build.nodes import Node
    from rootless.build.source import Source

LARGEST = 16 << 20


@record(frozen=True)
class Directives:
    """`syntax` names a front end; ours is the one that is used. `skip`, `experimental`: names of
    checks in lower case, or `all`; `error`: a warning fails the build."""

    syntax: str
    escape: str
    skip: frozenset[str]
    experimental: frozenset[str]
    error: bool


@record(frozen=True)
class Stage:
    """`name` in lower case, empty when it has none."""

    index: int
    name: str
    start: From
    instructions: tuple[Instruction, ...]

    @property
    def title(self) -> str:
        return self.start.name or str(self.index)


@record(frozen=True)
class Dockerfile:
    """`nodes`: all of it before its meaning, for the checks of style."""

    source: Source
    directives: Directives
    head: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    nodes: tuple[Node, ...]


def parse(text: bytes, name: str = "Dockerfile") -> Dockerfile:
    """Raises DockerfileError."""
    file = source.read(text, name)
    if len(text) > LARGEST:
        raise source.at_line(file, 0, f"larger than {LARGEST >> 20} MiB: is it a Dockerfile?")
    if b"\0" in text:
        raise source.at_line(file, text.count(b"\n", 0, text.index(b"\0")) + 1,
                             "it holds a zero byte: is it a Dockerfile?")
    reader = nodes.Reader(file)
    if not reader.nodes:
        raise source.at_line(file, 0, "file with no instructions",
                             hint="it begins with FROM IMAGE")
    head: list[Arg] = []
    starts: list[From] = []
    bodies: list[list[Instruction]] = []
    for node in reader.nodes:
        made = typed.instruction(node)
        if isinstance(made, From):
            starts.append(made)
            bodies.append([])
        elif bodies:
            bodies[-1].append(made)
        elif isinstance(made, Arg):
            head.append(made)
        else:
            raise node.where.error(f"{node.word.upper()} before the first FROM",
                                   hint="only ARG may come before FROM")
    if not starts:
        raise source.at_line(file, len(file.lines), "no FROM: there is nothing to build",
                             hint="FROM IMAGE, or FROM scratch")
    stages = tuple(Stage(i, start.name.lower(), start, tuple(body))
                   for i, (start, body) in enumerate(zip(starts, bodies)))
    return Dockerfile(file, _directives(reader), tuple(head), stages, tuple(reader.nodes))


def parse_triggers(triggers: Sequence[str], image: str) -> tuple[Instruction, ...]:
    """ONBUILD triggers of a base image. Raises DockerfileError that names the image."""
    made: list[Instruction] = []
    for text in triggers:
        file = source.read(text.encode("utf-8", "surrogateescape"), f"ONBUILD of {image}")
        for node in nodes.Reader(file).nodes:
            one = typed.instruction(node)
            if isinstance(one, (From, Onbuild)):
                raise node.where.error(f"{one.word} isn't allowed as an ONBUILD trigger")
            made.append(one)
    return tuple(made)


def _directives(reader: nodes.Reader) -> Directives:
    said = {name: directive.value for name, directive in reader.directives.items()}
    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    error = False
    check = reader.directives.get("check")
    if check:
        for option in check.value.split(";"):
            key, equals, value = (part.strip() for part in option.partition("="))
            names = check_names(value)
            if key == "skip" and equals:
                skip = names
            elif key == "experimental" and equals:
                experimental = names
            elif key == "error" and value.lower() in ("true", "false", "1", "0"):
                error = value.lower() in ("true", "1")
            else:
                raise source.at_line(reader.source, check.line,
                                     f"invalid check directive: {option}",
                                     hint="# check=skip=NAME,NAME;error=true")
    return Directives(said.get("syntax", ""), reader.escape, skip, experimental, error)


def check_names(text: str) -> frozenset[str]:
    return frozenset(name.strip().lower() for name in text.split(",") if name.strip())
