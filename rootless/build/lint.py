"""Checks of a Dockerfile that builds and might not do what was meant.

BuildKit's rules under BuildKit's names (docs.docker.com/reference/build-checks). A rule is left
out by `# check=skip=NAME` at the top, or right above one instruction; `# check=error=true` makes
warnings fail the build; rules that are experimental are asked for.

    of style        what the text shows: all of the file
    of meaning      what a stage does: only stages that the target needs, as BuildKit has it

A check fetches nothing: what it says of base images it knows of those that are in the store.
"""

from __future__ import annotations

import re

from rootless.build import graph, near, scope, words
from rootless.build.instructions import (
    Add,
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Shell,
    Workdir,
)
from rootless.build.parse import check_names
from rootless.errors import DockerfileError, RootlessError
from rootless.image import reference
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from rootless.build.ignore import Ignore
    from rootless.build.instructions import From, Instruction
    from rootless.build.nodes import Node
    from rootless.build.parse import Dockerfile, Stage
    from rootless.build.source import Where

    Document = Mapping[str, Any]

_URL = "https://docs.docker.com/go/dockerfile/rule/"

RULES = ("ConsistentInstructionCasing", "CopyIgnoredFile", "DuplicateStageName",
         "ExposeInvalidFormat", "ExposeProtoCasing", "FromAsCasing",
         "FromPlatformFlagConstDisallowed", "InvalidBaseImagePlatform", "InvalidDefaultArgInFrom",
         "InvalidDefinitionDescription", "JSONArgsRecommended", "LegacyKeyValueFormat",
         "MaintainerDeprecated", "MultipleInstructionsDisallowed", "NoEmptyContinuation",
         "RedundantTargetPlatform", "ReservedStageName", "SecretsUsedInArgOrEnv",
         "StageNameCasing", "UndefinedArgInFrom", "UndefinedVar", "WorkdirRelativePath")
EXPERIMENTAL = frozenset(("copyignoredfile", "invaliddefinitiondescription"))

_SECRET = re.compile(r"(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)"
                     r"(?:_|$)", re.IGNORECASE)
_NO_SECRET = re.compile(r"(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE)
_SKIP_HERE = re.compile(r"check\s*=\s*skip\s*=\s*([^;/]*)", re.IGNORECASE)


@record(frozen=True)
class Warning:
    rule: str
    where: Where
    text: str

    @property
    def url(self) -> str:
        name = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", self.rule)
        return f"{_URL}{name.lower()}/"


def check(dockerfile: Dockerfile, *, build_args: Mapping[str, str] | None = None,
          given: Mapping[str, str] | None = None, target: str = "",
          contexts: Mapping[str, str] | None = None, ignore: Ignore | None = None,
          image_of: Callable[[str], Document | None] | None = None) -> list[Warning]:
    """In the order of lines. Raises BuildError for what is an error and no warning.

    `given`: see `scope.platform_args`. `image_of`: an image's configuration (image-spec,
    config.md), None where it is not known; then no variable of its stages is called undefined.
    """
    platforms = dict(given if given is not None else scope.platform_args("linux/amd64",
                                                                         "linux/amd64"))
    found = [*_style(dockerfile), *_froms(dockerfile, build_args or {}, platforms)]
    top = scope.top_scope(dockerfile, build_args or {}, platforms)
    plan = graph.plan(dockerfile, top, target, contexts)
    found += _Meaning(plan, top, ignore, image_of or (lambda name: None)).all()
    nodes = {node.where.first: node for node in dockerfile.nodes}
    kept = {(w.where.first, w.rule, w.text): w for w in found
            if not _skipped(w, dockerfile, nodes[w.where.first])}
    return sorted(kept.values(), key=lambda w: w.where.first)


def refuse(dockerfile: Dockerfile, found: Sequence[Warning]) -> None:
    """Raises DockerfileError where `# check=error=true` and there is a warning."""
    if dockerfile.directives.error and found:
        rules = ", ".join(dict.fromkeys(w.rule for w in found))
        raise found[0].where.error(f"{found[0].text}, and the file says that warnings are errors",
                                   hint=f"rules that were broken: {rules}")


def render(found: Sequence[Warning]) -> str:
    """As `docker build --check` shows it."""
    if not found:
        return "Check complete, no warnings found.\n"
    count = "1 warning has" if len(found) == 1 else f"{len(found)} warnings have"
    parts = [f"Check complete, {count} been found!\n"]
    line = "-" * 20
    for w in found:
        parts.append(f"WARNING: {w.rule} - {w.url}\n{w.text}\n{w.where.source.name}:"
                     f"{w.where.first}\n{line}\n{w.where.excerpt()}\n{line}\n")
    return "\n".join(parts)


def _skipped(warning: Warning, dockerfile: Dockerfile, node: Node) -> bool:
    name = warning.rule.lower()
    asked = dockerfile.directives.experimental
    if name in EXPERIMENTAL and not asked & {name, "all"}:
        return True
    if dockerfile.directives.skip & {name, "all"}:
        return True
    for comment in node.comments:
        here = _SKIP_HERE.match(comment)
        if here and check_names(here[1]) & {name, "all"}:
            return True
    return False


# ---- style --------------------------------------------------------------------------------------

def _style(dockerfile: Dockerfile) -> Iterator[Warning]:
    yield from _casing(dockerfile.nodes)
    names: set[str] = set()
    for node in dockerfile.nodes:
        if node.empty_lines:
            yield Warning("NoEmptyContinuation", node.where, "Empty continuation line")
        if node.key == "maintainer":
            yield Warning("MaintainerDeprecated", node.where,
                          "Maintainer instruction is deprecated in favor of using label")
        if node.key in ("arg", "from"):
            yield from _description(node)
        if node.key == "from" and len(node.args) == 3:
            yield from _stage_name(node, names)


def _casing(nodes: Sequence[Node]) -> Iterator[Warning]:
    lower = sum(node.word.islower() for node in nodes)
    upper = sum(node.word.isupper() for node in nodes)
    wanted, same = ("lowercase", str.islower) if lower > upper else ("uppercase", str.isupper)
    for node in nodes:
        if not same(node.word):
            yield Warning("ConsistentInstructionCasing", node.where,
                          f"Command '{node.word}' should match the case of the command majority "
                          f"({wanted})")


def _stage_name(node: Node, names: set[str]) -> Iterator[Warning]:
    keyword, name = node.args[1], node.args[2]
    if name != name.lower():
        yield Warning("StageNameCasing", node.where, f"Stage name '{name}' should be lowercase")
    if keyword.islower() != node.word.islower() or keyword.isupper() != node.word.isupper():
        yield Warning("FromAsCasing", node.where,
                      f"'{keyword}' and '{node.word}' keywords' casing do not match")
    if name.lower() in ("scratch", "context"):
        yield Warning("ReservedStageName", node.where,
                      f"Stage name should not use the same name as reserved stage '{name.lower()}'")
    elif name.lower() in names:
        yield Warning("DuplicateStageName", node.where,
                      f"Duplicate stage name '{name}', stage names should be unique")
    names.add(name.lower())


def _description(node: Node) -> Iterator[Warning]:
    """A comment right above an ARG or a stage says what it is: `# NAME description`."""
    if node.key == "from":
        names = [node.args[2]] if len(node.args) == 3 else []
    else:
        names = [word.partition("=")[0] for word in node.args]
    if not names or not node.comments or not node.comments[-1] or any(
            _SKIP_HERE.match(c) for c in node.comments):
        return
    first = node.comments[-1].split()[0]
    if first not in names:
        kind = "build stage" if node.key == "from" else "build argument"
        yield Warning("InvalidDefinitionDescription", node.where,
                      f"Comment for {kind} should follow the format: `# {names[0]} "
                      "<description>`")


# ---- FROM ---------------------------------------------------------------------------------------

def _froms(dockerfile: Dockerfile, build_args: Mapping[str, str],
           given: Mapping[str, str]) -> Iterator[Warning]:
    """What its variables come to, as given and by their defaults alone."""
    escape = dockerfile.directives.escape
    top = scope.top_scope(dockerfile, build_args, given)
    declared = {name for arg in dockerfile.head for name, _ in arg.pairs}
    try:
        default = scope.top_scope(dockerfile, {}, given).env
    except DockerfileError:
        default = {}
    for stage in dockerfile.stages:
        start = stage.start
        used: set[str] = set()
        for text in (start.image, start.platform):
            try:
                looked_up = words.expand(text, top.env, escape=escape)
            except words.ExpansionError:
                continue
            used |= looked_up.used
            for name in sorted(looked_up.unset - declared):
                hint = near.hint(name, sorted({*top.env, *declared}))
                yield Warning("UndefinedArgInFrom", start.where,
                              f"FROM argument '{name}' is not declared" + _meant(hint))
        yield from _platform(stage, escape)
        yield from _default_image(start, default, escape)


def _meant(hint: str | None) -> str:
    return f" ({hint})" if hint else ""


def _platform(stage: Stage, escape: str) -> Iterator[Warning]:
    text, where = stage.start.platform, stage.start.where
    if text in ("$TARGETPLATFORM", "${TARGETPLATFORM}"):
        yield Warning("RedundantTargetPlatform", where,
                      f"Setting platform to predefined {text} in FROM is redundant as this is the "
                      "default behavior")
    elif text and "$" not in text:
        parts = text.split("/")
        # A stage that is named after a platform is one of several to be chosen from.
        if not any(part and part in stage.name for part in parts):
            yield Warning("FromPlatformFlagConstDisallowed", where,
                          f'FROM --platform flag should not use constant value "{text}"')


def _default_image(start: From, default: Mapping[str, str], escape: str) -> Iterator[Warning]:
    if "$" not in start.image:
        return
    try:
        image = words.expand(start.image, default, escape=escape).text
        reference.parse(image)
    except (words.ExpansionError, RootlessError):
        yield Warning("InvalidDefaultArgInFrom", start.where,
                      f"Default value for ARG {start.image} results in empty or invalid base "
                      "image name")


# ---- meaning ------------------------------------------------------------------------------------

_NOTHING: Document = {"config": {"Env": ["PATH="]}}


def _env(image: Document | None) -> list[str]:
    return list(((image or {}).get("config") or {}).get("Env") or [])


class _Meaning:
    """Walks the stages of a plan as a build would."""

    def __init__(self, plan: graph.Plan, top: scope.Scope, ignore: Ignore | None,
                 image_of: Callable[[str], Document | None]) -> None:
        self.plan = plan
        self.top = top
        self.ignore = ignore
        self.image_of = image_of
        self.found: list[Warning] = []
        self._legacy = {n.where.first for n in plan.dockerfile.nodes if n.legacy}
        self._scopes: dict[int, scope.Scope] = {}
        self._known: dict[int, bool] = {}           # the base image's variables are
        self._shell: dict[int, bool] = {}           # SHELL was said
        self._workdir: dict[int, bool] = {}         # an absolute WORKDIR was said

    def all(self) -> list[Warning]:
        for index in self.plan.order:
            self._stage(index)
        return self.found

    def _warn(self, rule: str, where: Where, text: str) -> None:
        self.found.append(Warning(rule, where, text))

    def _stage(self, index: int) -> None:
        base = self.plan.bases[index]
        if isinstance(base, int):
            here = scope.stage_scope(self.top, parent=self._scopes[base])
            known = self._known[base]
            shell, workdir = self._shell[base], self._workdir[base]
        else:
            image = _NOTHING if base == graph.SCRATCH else None if self.plan.is_directory(
                base) else self.image_of(base)
            here = scope.stage_scope(self.top, _env(image))
            known = image is not None
            shell, workdir = False, False
            if image is not None and image is not _NOTHING:
                self._fits(index, base, image)
        self._scopes[index], self._known[index] = here, known
        last: dict[str, Where] = {}
        for one in self.plan.dockerfile.stages[index].instructions:
            if isinstance(one, (Cmd, Entrypoint, Healthcheck)):
                if one.word in last:
                    self._warn("MultipleInstructionsDisallowed", last[one.word],
                               f"Multiple {one.word} instructions should not be used in the same "
                               "stage because only the last one will be used")
                last[one.word] = one.where
            if isinstance(one, (Cmd, Entrypoint)) and one.command.shell and not shell:
                self._warn("JSONArgsRecommended", one.where,
                           f"JSON arguments recommended for {one.word} to prevent unintended "
                           "behavior related to OS signals")
            shell = shell or isinstance(one, Shell)
            if isinstance(one, Expose):
                self._ports(one, here)
            made = self._resolved(one, here, known)
            if isinstance(made, Workdir):
                if made.path.startswith("/"):
                    workdir = True
                elif not workdir:
                    self._warn("WorkdirRelativePath", made.where,
                               f'Relative workdir "{made.path}" can have unexpected results if the '
                               "base image changes")
            self._names(made)
            if isinstance(made, (Copy, Add)):
                self._ignored(made)
        self._shell[index], self._workdir[index] = shell, workdir

    def _fits(self, index: int, name: str, image: Document) -> None:
        start = self.plan.starts[index]
        wanted = start.platform or self.top.given.get("TARGETPLATFORM", "")
        actual = f"{image.get('os', '')}/{image.get('architecture', '')}"
        if actual != "/" and wanted.split("/")[:2] != actual.split("/"):
            self._warn("InvalidBaseImagePlatform", start.where,
                       f'Base image {name} was pulled with platform "{actual}", expected '
                       f'"{wanted}" for current build')

    def _resolved(self, one: Instruction, here: scope.Scope, known: bool) -> Instruction:
        before = set(here.env) | set(here.args)
        here.undefined.clear()
        made = scope.resolve(one, here)
        declared = set(here.args)
        for where, name in here.undefined:
            if known and name not in declared:
                hint = near.hint(name, sorted(before))
                meant = hint.replace("mean ", "mean $") if hint else None
                self._warn("UndefinedVar", where,
                           f"Usage of undefined variable '${name}'" + _meant(meant))
        return made

    def _names(self, one: Instruction) -> None:
        if isinstance(one, (Arg, Env)):
            for name, _ in one.pairs:
                if _SECRET.search(name) and not _NO_SECRET.search(name):
                    self._warn("SecretsUsedInArgOrEnv", one.where,
                               "Do not use ARG or ENV instructions for sensitive data "
                               f'({one.word} "{name}")')
        if one.where.first in self._legacy:
            self._warn("LegacyKeyValueFormat", one.where,
                       f'"{one.word} key=value" should be used instead of legacy "{one.word} key '
                       'value" format')

    def _ports(self, one: Expose, here: scope.Scope) -> None:
        for text in one.ports:
            try:
                ports = words.expand(text, here.env, escape=here.escape).words
            except words.ExpansionError:
                continue        # resolving says so
            for port in ports:
                protocol = port.partition("/")[2]
                if protocol != protocol.lower():
                    self._warn("ExposeProtoCasing", one.where,
                               f"Defined protocol '{port}' in EXPOSE instruction should be "
                               "lowercase")
                if ":" in port:
                    self._warn("ExposeInvalidFormat", one.where,
                               "EXPOSE instruction should not define an IP address or host-port "
                               f"mapping, found '{port}'")

    def _ignored(self, one: Copy | Add) -> None:
        if self.ignore is None or (isinstance(one, Copy) and one.from_):
            return
        for source in one.sources:
            path = source.removeprefix("./").strip("/")
            if path and path != "." and "://" not in source and self.ignore.excludes(path):
                self._warn("CopyIgnoredFile", one.where,
                           f'Attempting to {one.word.capitalize()} file "{source}" that is '
                           "excluded by .dockerignore")
