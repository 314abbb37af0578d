"""Variables: which there are at an instruction, and the instruction with them replaced.

    before FROM     ARG, build arguments, the platforms: what FROM may use
    in a stage      the base image's ENV (or the parent stage's whole scope), then ARG and ENV in
                    their order: of two with one name the later one holds, as in BuildKit

An ARG takes its value from --build-arg, else from its default, else from the ARG of the same name
before the first FROM or the platform's. It is in the environment of the RUNs behind it, and not in
the image. The proxies' arguments need no ARG: they are in every RUN's environment and leave no
trace in history or cache.

A scope belongs to one stage while it is walked: `resolve` replaces, and remembers what an ARG or
an ENV says.
"""

from __future__ import annotations

from rootless.build import modes, mounts, near, ports, words
from rootless.build.instructions import (
    Add,
    Arg,
    Copy,
    Env,
    Expose,
    From,
    Label,
    Run,
    Stopsignal,
    User,
    Volume,
    Workdir,
)
from rootless.build.nodes import Heredoc
from rootless.errors import UsageError
from rootless.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from rootless.build.instructions import Instruction
    from rootless.build.parse import Dockerfile
    from rootless.build.source import Where

PROXIES = tuple(case(name) for name in ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy",
                                        "all_proxy") for case in (str.upper, str.lower))
_NOT_ENVIRONMENT = frozenset(("BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"))
EPOCH = "SOURCE_DATE_EPOCH"


def platform_args(target: str, build: str, target_stage: str = "") -> dict[str, str]:
    """TARGET* and BUILD* of two platforms `os/arch[/variant]`."""
    values: dict[str, str] = {}
    for prefix, platform in (("BUILD", build), ("TARGET", target)):
        parts = [*platform.split("/"), "", ""]
        values.update({f"{prefix}PLATFORM": platform, f"{prefix}OS": parts[0],
                       f"{prefix}OSVERSION": "", f"{prefix}ARCH": parts[1],
                       f"{prefix}VARIANT": parts[2]})
    values["TARGETSTAGE"] = target_stage or "default"
    return values


class Scope:
    """`env`: everything that has a value here. `undefined`: (place, name) of those that had none
    where they were asked for without a default."""

    def __init__(self, escape: str, build_args: Mapping[str, str], given: Mapping[str, str],
                 top: Scope | None = None) -> None:
        self.escape = escape
        self.build_args = build_args
        self.given = given
        self.top = top
        self.env: dict[str, str] = {}
        self.args: list[str] = []           # names that ARG declared, in order
        self.undefined: list[tuple[Where, str]] = []

    def run_env(self) -> dict[str, str]:
        """The environment of a RUN."""
        env = {name: self.build_args[name] for name in PROXIES if name in self.build_args}
        env.update(self.env)
        for name in _NOT_ENVIRONMENT.intersection(self.args):
            env.pop(name, None)
        return env

    def used_args(self) -> list[str]:
        """NAME=VALUE of the declared arguments, for history and cache."""
        return [f"{name}={self.env.get(name, '')}" for name in self.args]

    def declare(self, name: str, value: str | None) -> str | None:
        """The value an ARG gets, which is remembered."""
        if name in self.build_args:
            value = self.build_args[name]
        elif value is None and self.top is not None:
            value = self.top.env.get(name)
        elif value is None:
            value = self.given.get(name)
        if value is not None:
            self.env[name] = value
        if name not in self.args:
            self.args.append(name)
        return value


def top_scope(dockerfile: Dockerfile, build_args: Mapping[str, str],
              given: Mapping[str, str]) -> Scope:
    """The scope of FROM: the ARGs before the first one, and `given` (see `platform_args`).

    Raises DockerfileError.
    """
    scope = Scope(dockerfile.directives.escape, build_args, given)
    scope.env.update(given)
    for name in PROXIES:
        if name in build_args:
            scope.env[name] = build_args[name]
    for arg in dockerfile.head:
        resolve(arg, scope)
        for name, _ in arg.pairs:
            if name == EPOCH and not is_epoch(scope.env.get(name, "0")):
                raise arg.where.error(f"invalid {EPOCH}: {scope.env[name]}: it is a number of "
                                      "seconds", token=name)
    return scope


def is_epoch(text: str) -> bool:
    digits = text[1:] if text.startswith("-") else text
    return text == "" or (digits.isascii() and digits.isdigit() and len(digits) < 19)


def stage_scope(top: Scope, image_env: Iterable[str] = (), parent: Scope | None = None) -> Scope:
    """The scope at the beginning of a stage: from an image, or a stage `parent` as it ended."""
    scope = Scope(top.escape, top.build_args, top.given, top)
    if parent is not None:
        scope.env.update(parent.env)
        scope.args.extend(parent.args)
    else:
        scope.env.update(e.split("=", 1) for e in image_env if "=" in e)  # type: ignore[misc]
    return scope


def unused_build_args(dockerfile: Dockerfile, build_args: Iterable[str]) -> list[str]:
    """Those that no ARG asks for and that mean nothing by themselves, in order."""
    declared = {name for arg in dockerfile.head for name, _ in arg.pairs}
    for stage in dockerfile.stages:
        for one in stage.instructions:
            if isinstance(one, Arg):
                declared.update(name for name, _ in one.pairs)
    known = declared.union(PROXIES, platform_args("", ""), (EPOCH,))
    return [name for name in build_args
            if name not in known and not name.startswith("BUILDKIT_")]


def resolve_from(start: From, top: Scope) -> From:
    """Raises DockerfileError."""
    image = _word(start.where, start.image, top)
    platform = _word(start.where, start.platform, top)
    if not image:
        name = start.image.strip("${}")
        raise start.where.error(f"the name of the image is empty: {start.image} has no value",
                                token=start.image, hint=f"--build-arg {name}=IMAGE, or a default: "
                                                        f"ARG {name}=IMAGE before the first FROM")
    if start.platform and not platform:
        hint = near.hint(start.platform.strip("${}"), list(top.env))
        raise start.where.error(f"the platform is empty: {start.platform} has no value",
                                token=start.platform, hint=hint)
    return replace(start, image=image, platform=platform)


def resolve(one: Instruction, scope: Scope) -> Instruction:
    """The instruction with its variables replaced; the scope learns what an ARG or ENV says.

    Raises DockerfileError.
    """
    make = _RESOLVERS.get(one.word)
    return make(one, scope) if make else one


def _word(where: Where, text: str, scope: Scope) -> str:
    return _expand(where, text, scope).text if text else text


def _expand(where: Where, text: str, scope: Scope) -> words.Expanded:
    try:
        found = words.expand(text, scope.env, escape=scope.escape)
    except words.ExpansionError as e:
        raise where.error(f"cannot expand {text}: {e}", token=text) from None
    _note(where, text, found, scope)
    return found


def _note(where: Where, text: str, found: words.Expanded, scope: Scope) -> None:
    """A name that has a default or an alternative may well be unset."""
    for name in sorted(found.unset):
        if f"${name}" in text or f"${{{name}}}" in text:
            scope.undefined.append((where, name))


def _words(where: Where, texts: Sequence[str], scope: Scope) -> tuple[str, ...]:
    return tuple(_word(where, text, scope) for text in texts)


def _pairs(one: Env | Label, scope: Scope) -> tuple[tuple[str, str], ...]:
    pairs = tuple((_word(one.where, key, scope), _word(one.where, value, scope))
                  for key, value in one.pairs)
    for (key, _), (as_written, _) in zip(pairs, one.pairs):
        if not key:
            raise one.where.error(f"{one.word} names cannot be blank: {as_written} has no value",
                                  token=as_written)
    return pairs


def _arg(one: Arg, scope: Scope) -> Arg:
    pairs: list[tuple[str, str | None]] = []
    for key, default in one.pairs:
        name = _word(one.where, key, scope)
        value = default
        if default is not None and name not in scope.build_args:
            value = _word(one.where, default, scope)
        pairs.append((name, scope.declare(name, value)))
    return replace(one, pairs=tuple(pairs))


def _env(one: Env, scope: Scope) -> Env:
    made = replace(one, pairs=_pairs(one, scope))
    scope.env.update(made.pairs)
    return made


def _label(one: Label, scope: Scope) -> Label:
    return replace(one, pairs=_pairs(one, scope))


def _mode(where: Where, text: str, scope: Scope) -> str:
    found = _word(where, text, scope)
    if found:
        try:
            modes.parse(found)
        except modes.ModeError as e:
            raise where.error(str(e), token=text) from None
    return found


def _files(where: Where, files: Sequence[Heredoc], scope: Scope) -> tuple[Heredoc, ...]:
    made = []
    for file in files:
        text = file.content
        if file.expand:
            try:
                found = words.expand_document(text, scope.env)
            except words.ExpansionError as e:
                raise where.error(f"cannot expand the document {file.name}: {e}",
                                  token=file.name,
                                  hint=f"<<'{file.name}' leaves it as it is") from None
            _note(where, text, found, scope)
            text = found.text
        made.append(Heredoc(_word(where, file.name, scope), text, False, False))
    return tuple(made)


def _copy(one: Copy, scope: Scope) -> Copy:
    where = one.where
    return replace(one, sources=_words(where, one.sources, scope),
                   files=_files(where, one.files, scope), dest=_word(where, one.dest, scope),
                   chown=_word(where, one.chown, scope), chmod=_mode(where, one.chmod, scope),
                   excludes=_words(where, one.excludes, scope))


def _add(one: Add, scope: Scope) -> Add:
    where = one.where
    return replace(one, sources=_words(where, one.sources, scope),
                   files=_files(where, one.files, scope), dest=_word(where, one.dest, scope),
                   chown=_word(where, one.chown, scope), chmod=_mode(where, one.chmod, scope),
                   excludes=_words(where, one.excludes, scope),
                   checksum=_word(where, one.checksum, scope))


def _run(one: Run, scope: Scope) -> Run:
    made = []
    for flag in one.mount_flags:
        try:
            made.append(mounts.parse(flag, lambda text: _word(one.where, text, scope)))
        except mounts.MountError as e:
            hint = near.hint(e.given, e.known) if e.known else None
            raise one.where.error(str(e), token=e.given or flag, hint=hint) from None
    return replace(one, mounts=tuple(made))


def _workdir(one: Workdir, scope: Scope) -> Workdir:
    return replace(one, path=_word(one.where, one.path, scope))


def _user(one: User, scope: Scope) -> User:
    user = _word(one.where, one.user, scope)
    if not user:
        raise one.where.error(f"USER is empty: {one.user} has no value", token=one.user)
    return replace(one, user=user)


def _volume(one: Volume, scope: Scope) -> Volume:
    paths = _words(one.where, one.paths, scope)
    if not all(paths):
        raise one.where.error("VOLUME cannot be an empty string")
    return replace(one, paths=paths)


def _expose(one: Expose, scope: Scope) -> Expose:
    given: list[str] = []
    for text in one.ports:
        given.extend(_expand(one.where, text, scope).words)
    try:
        return replace(one, ports=ports.exposed(given))
    except ports.PortError as e:
        raise one.where.error(str(e), token=e.given) from None


def _stopsignal(one: Stopsignal, scope: Scope) -> Stopsignal:
    from rootless.container import signals

    name = _word(one.where, one.signal, scope)
    try:
        signals.number(name)
    except UsageError as e:
        raise one.where.error(e.message, token=one.signal, hint=e.hint) from None
    return replace(one, signal=name)


_RESOLVERS: dict[str, Callable[[Any, Scope], Instruction]] = {
    "ADD": _add, "ARG": _arg, "COPY": _copy, "ENV": _env, "EXPOSE": _expose, "LABEL": _label,
    "RUN": _run, "STOPSIGNAL": _stopsignal, "USER": _user, "VOLUME": _volume, "WORKDIR": _workdir,
}
