"""From a node to an instruction: its flags, the number of its arguments, what they may be."""

from __future__ import annotations

import re

from rootless.build import modes, mounts, near
from rootless.build.instructions import (
    Add,
    Arg,
    Cmd,
    Command,
    Copy,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    Label,
    Maintainer,
    Onbuild,
    Run,
    Shell,
    Stopsignal,
    User,
    Volume,
    Workdir,
)
from rootless.build.nodes import Heredoc, Node, here_document
from rootless.build.source import Where
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rootless.build.instructions import Instruction

_STAGE_NAME = re.compile(r"[a-z][a-z0-9\-_.]*")
_DURATION = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_NANOSECONDS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9,
                "m": 60 * 10**9, "h": 3600 * 10**9}
NETWORKS = ("default", "none", "host")
SECURITY = ("sandbox", "insecure")


def instruction(node: Node) -> Instruction | From:
    """Raises DockerfileError."""
    make = _MAKERS.get(node.key)
    if make is None:
        hint = near.hint(node.word.upper(), [w.upper() for w in _MAKERS])
        raise node.where.error(f"unknown instruction: {node.word}", hint=hint, offset=0,
                               token=node.word)
    return make(node)


@record(frozen=True)
class _Flags:
    """Those that were given: texts, truths, and lists of those that may come again."""

    where: Where
    texts: dict[str, str]
    lists: dict[str, tuple[str, ...]]

    def text(self, name: str, default: str = "") -> str:
        return self.texts.get(name, default)

    def truth(self, name: str) -> bool | None:
        value = self.texts.get(name)
        return None if value is None else value == "true"

    def one_of(self, name: str, known: tuple[str, ...]) -> str:
        value = self.texts.get(name, known[0])
        if value not in known:
            raise self.where.error(f"invalid value for --{name}: {value or 'nothing'}: it is one "
                                   f"of {', '.join(known)}", token=f"--{name}",
                                   hint=near.hint(value, known))
        return value


# What a flag takes: a text, a truth, or a text each time it is given.
_TEXT, _TRUTH, _LIST = "text", "truth", "list"

_FLAGS: dict[str, dict[str, str]] = {
    "add": {"chown": _TEXT, "chmod": _TEXT, "link": _TRUTH, "keep-git-dir": _TRUTH,
            "checksum": _TEXT, "exclude": _LIST, "unpack": _TRUTH},
    "copy": {"from": _TEXT, "chown": _TEXT, "chmod": _TEXT, "link": _TRUTH, "parents": _TRUTH,
             "exclude": _LIST},
    "from": {"platform": _TEXT},
    "healthcheck": {"interval": _TEXT, "timeout": _TEXT, "start-period": _TEXT,
                    "start-interval": _TEXT, "retries": _TEXT},
    "run": {"mount": _LIST, "network": _TEXT, "security": _TEXT, "device": _LIST},
}


def _flags(node: Node) -> _Flags:
    known = _FLAGS.get(node.key, {})
    texts: dict[str, str] = {}
    lists: dict[str, tuple[str, ...]] = {}
    for flag in node.flags:
        name, equals, value = flag[2:].partition("=")
        kind = known.get(name)
        token = f"--{name}"
        if kind is None:
            raise node.where.error(f"unknown flag: {token}", token=token,
                                   hint=near.hint(name, tuple(known)))
        if name in texts:
            raise node.where.error(f"{token} is given twice", token=token,
                                   offset=node.where.text.rfind(token))
        if not value and (kind != _TRUTH or equals):
            raise node.where.error(f"flag needs a value: {token}", token=token,
                                   hint=f"{token}=VALUE")
        if kind == _LIST:
            lists[name] = (*lists.get(name, ()), value)
        elif kind == _TRUTH:
            texts[name] = value.lower() or "true"
            if texts[name] not in ("true", "false"):
                raise node.where.error(f"{token} is true or false, not {value}", token=token)
        else:
            texts[name] = value
    return _Flags(node.where, texts, lists)


def _one(node: Node) -> str:
    _flags(node)
    if len(node.args) != 1:
        raise node.where.error(f"{node.word.upper()} requires exactly one argument")
    return node.args[0]


def _some(node: Node) -> tuple[str, ...]:
    _flags(node)
    if not node.args:
        raise node.where.error(f"{node.word.upper()} requires at least one argument")
    return node.args


def _pairs(node: Node) -> tuple[tuple[str, str], ...]:
    args = _some(node)
    pairs = tuple(zip(args[::2], args[1::2]))
    for key, value in pairs:
        if not key:
            raise node.where.error(f"{node.word.upper()} names cannot be blank",
                                   token=f"={value}")
    return pairs


def _from(node: Node) -> From:
    flags = _flags(node)
    args = node.args
    if len(args) not in (1, 3) or (len(args) == 3 and args[1].lower() != "as"):
        raise node.where.error("FROM requires either one or three arguments",
                               hint="FROM IMAGE [AS NAME]")
    name = args[2] if len(args) == 3 else ""
    if name and not _STAGE_NAME.fullmatch(name.lower()):
        raise node.where.error(f"invalid name for a stage: {name}: it starts with a letter and has "
                               "letters, digits and - _ .", token=name)
    return From(node.where, args[0], flags.text("platform"), name)


def _arg(node: Node) -> Arg:
    pairs: list[tuple[str, str | None]] = []
    for word in _some(node):
        key, equals, value = word.partition("=")
        if not key:
            raise node.where.error("ARG names cannot be blank", token=word)
        pairs.append((key, value if equals else None))
    return Arg(node.where, tuple(pairs))


def _command(node: Node, args: tuple[str, ...]) -> Command:
    return Command(args, not node.exec_form and bool(args))


def _run(node: Node) -> Run:
    flags = _flags(node)
    if not node.args:
        raise node.where.error("RUN requires a command")
    for flag in flags.lists.get("mount", ()):
        try:
            mounts.check(flag)
        except mounts.MountError as e:
            hint = near.hint(e.given, e.known) if e.known else None
            raise node.where.error(str(e), token=e.given or "--mount", hint=hint) from None
    devices = []
    for flag in flags.lists.get("device", ()):
        name, _, option = flag.partition(",")
        name = name[5:] if name.startswith("name=") else name
        if not name or option not in ("", "required", "required=true", "required=false"):
            raise node.where.error(f"invalid device: {flag}", token=flag,
                                   hint="--device=NAME[,required]")
        devices.append((name, option in ("required", "required=true")))
    return Run(node.where, _command(node, node.args), node.heredocs, flags.lists.get("mount", ()),
               (), flags.one_of("network", NETWORKS), flags.one_of("security", SECURITY),
               tuple(devices))


def _sources(node: Node) -> tuple[tuple[str, ...], tuple[Heredoc, ...], str]:
    """(paths, here-documents, destination)."""
    word, args = node.word.upper(), node.args
    if len(args) < 2:
        raise node.where.error(
            f"{word} requires at least two arguments" + (", but only one was provided: the "
            "destination is missing" if args else ""), hint=f"{word} SOURCE... DESTINATION")
    if not node.exec_form and here_document(args[-1]):
        raise node.where.error(f"{word} cannot accept a heredoc as a destination", token=args[-1])
    documents = {h.name: h for h in node.heredocs}
    paths, files = [], []
    for arg in args[:-1]:
        here = None if node.exec_form else here_document(arg)
        if here and here.name in documents:
            files.append(documents[here.name])
        else:
            paths.append(arg)
    return tuple(paths), tuple(files), args[-1]


def _check_mode(node: Node, text: str) -> None:
    if text and "$" not in text:
        try:
            modes.parse(text)
        except modes.ModeError as e:
            raise node.where.error(str(e), token=text) from None


def _copy(node: Node) -> Copy:
    flags = _flags(node)
    sources, files, dest = _sources(node)
    from_ = flags.text("from")
    if "$" in from_[:-1]:
        raise node.where.error("--from does not expand variables", token=from_,
                               hint=f"FROM {from_} AS NAME, with an ARG before the first FROM, and "
                                    "then --from=NAME")
    _check_mode(node, flags.text("chmod"))
    return Copy(node.where, sources, files, dest, from_, flags.text("chown"), flags.text("chmod"),
                bool(flags.truth("link")), bool(flags.truth("parents")),
                flags.lists.get("exclude", ()))


def _add(node: Node) -> Add:
    flags = _flags(node)
    sources, files, dest = _sources(node)
    _check_mode(node, flags.text("chmod"))
    return Add(node.where, sources, files, dest, flags.text("chown"), flags.text("chmod"),
               bool(flags.truth("link")), flags.lists.get("exclude", ()), flags.text("checksum"),
               bool(flags.truth("keep-git-dir")), flags.truth("unpack"))


def _cmd(node: Node) -> Cmd:
    _flags(node)
    return Cmd(node.where, _command(node, node.args))


def _entrypoint(node: Node) -> Entrypoint:
    _flags(node)
    return Entrypoint(node.where, _command(node, node.args))


def _shell(node: Node) -> Shell:
    args = _some(node)
    if not node.exec_form:
        raise node.where.error("SHELL requires the arguments to be in JSON form",
                               hint='SHELL ["/bin/bash", "-c"]')
    return Shell(node.where, args)


def _healthcheck(node: Node) -> Healthcheck:
    if not node.args:
        raise node.where.error("HEALTHCHECK requires at least one argument",
                               hint="HEALTHCHECK CMD COMMAND, or HEALTHCHECK NONE")
    kind, args = node.args[0].upper(), node.args[1:]
    flags = _flags(node)
    if kind == "NONE":
        if args:
            raise node.where.error("HEALTHCHECK NONE takes no arguments")
        return Healthcheck(node.where, ("NONE",), 0, 0, 0, 0, 0)
    if kind != "CMD":
        raise node.where.error(f"unknown type {node.args[0]} in HEALTHCHECK", token=node.args[0],
                               hint="it is CMD or NONE")
    if not args:
        raise node.where.error("missing command after HEALTHCHECK CMD")
    retries = flags.text("retries", "0")
    if not (retries.isascii() and retries.isdigit() and int(retries) < 1 << 31):
        raise node.where.error(f"invalid --retries: {retries}: it is a number that is not negative",
                               token="--retries")
    times = [_interval(node, name, flags.text(name))
             for name in ("interval", "timeout", "start-period", "start-interval")]
    return Healthcheck(node.where, ("CMD" if node.exec_form else "CMD-SHELL", *args), times[0],
                       times[1], times[2], times[3], int(retries))


def _interval(node: Node, name: str, text: str) -> int:
    if not text:
        return 0
    value = duration(text)
    if value is None:
        raise node.where.error(f"invalid --{name}: {text}: it is a time like 30s or 1m30s",
                               token=f"--{name}")
    if 0 < value < 10**6 or value < 0:
        raise node.where.error(f"--{name} cannot be less than 1ms", token=f"--{name}")
    return value


def duration(text: str) -> int | None:
    """Nanoseconds of Go's 1h2m3.5s; None for anything else."""
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.lstrip("+"))
    if rest == "0":
        return 0
    total, at = 0.0, 0
    for found in _DURATION.finditer(rest):
        if found.start() != at:
            return None
        total += float(found[1]) * _NANOSECONDS[found[2]]
        at = found.end()
    return sign * round(total) if rest and at == len(rest) and total < 1 << 63 else None


def _volume(node: Node) -> Volume:
    return Volume(node.where, _some(node))


def _onbuild(node: Node) -> Onbuild:
    _flags(node)
    if node.trigger is None:
        raise node.where.error("ONBUILD requires at least one argument")
    word = node.trigger.word.upper()
    if word == "ONBUILD":
        raise node.where.error("chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed", token=word)
    if word in ("FROM", "MAINTAINER"):
        raise node.where.error(f"{word} isn't allowed as an ONBUILD trigger",
                               token=node.trigger.word)
    text = node.where.text.strip()[len("ONBUILD"):].strip()
    return Onbuild(node.where, text + "".join(f"\n{h.text}{h.name}" for h in node.heredocs))


_MAKERS: dict[str, Callable[[Node], Instruction | From]] = {
    "add": _add,
    "arg": _arg,
    "cmd": _cmd,
    "copy": _copy,
    "entrypoint": _entrypoint,
    "env": lambda node: Env(node.where, _pairs(node)),
    "expose": lambda node: Expose(node.where, _some(node)),
    "from": _from,
    "healthcheck": _healthcheck,
    "label": lambda node: Label(node.where, _pairs(node)),
    "maintainer": lambda node: Maintainer(node.where, _one(node)),
    "onbuild": _onbuild,
    "run": _run,
    "shell": _shell,
    "stopsignal": lambda node: Stopsignal(node.where, _one(node)),
    "user": lambda node: User(node.where, _one(node)),
    "volume": _volume,
    "workdir": lambda node: Workdir(node.where, _one(node)),
}
