"""Commands as tables, and the parser of the happy path.

A command line is declared once, as a `Command` with its `Option`s. This parser reads it in
microseconds; `--help`, completion and the list of all commands are made by click from the same
tables (`rootless.cli.help`). click itself is not used for parsing as it costs 24 ms of a start
that takes 40 in all.

Grammar, docker's: `--name value`, `--name=value`, `-n value`, `-nvalue`, `-n=value`, flags
`--flag`, `--flag=true|false`, clusters `-dit`. Where `interspersed` is false, options end at the
first argument (everything after IMAGE belongs to the container).
"""

from __future__ import annotations

from rootless.errors import UsageError
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FLAG, VALUE, LIST, OPTIONAL = "flag", "value", "list", "optional"


@record(frozen=True)
class Option:
    """`kind`: flag (yes or no), value (last wins), list (every one counts), or optional (a value
    only after `=`; `default` where none is given)."""

    name: str
    kind: str
    help: str
    short: str = ""
    metavar: str = ""
    default: str = ""


@record(frozen=True)
class Command:
    """`run` gets the parsed options and returns the exit code. `most` -1: any number."""

    name: str
    usage: str
    help: str
    run: Callable[[Options], int]
    options: tuple[Option, ...] = ()
    least: int = 0
    most: int = -1
    interspersed: bool = True
    error_exit: int = 1


class Options:
    """What the person typed. Names are the long ones, without dashes."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.args: list[str] = []
        # Socket of the monitor forked before the command was loaded; -1 where none is needed.
        self.monitor = -1
        self._values: dict[str, list[str]] = {}

    def add(self, name: str, value: str) -> None:
        self._values.setdefault(name, []).append(value)

    def given(self, name: str) -> bool:
        return name in self._values

    def flag(self, name: str) -> bool:
        values = self._values.get(name)
        return values is not None and values[-1] == "true"

    def value(self, name: str) -> str | None:
        values = self._values.get(name)
        return values[-1] if values else None

    def list(self, name: str) -> list[str]:
        return self._values.get(name, [])

    def boolean(self, name: str) -> bool | None:
        """Of an option that takes true or false; None where it was not given."""
        text = self.value(name)
        return None if text is None else _boolean(name, text) == "true"

    def integer(self, name: str) -> int | None:
        text = self.value(name)
        if text is None:
            return None
        try:
            return int(text)
        except ValueError:
            raise UsageError(f"invalid argument for --{name}: {text}: not a number") from None


class HelpWanted(Exception):
    """`--help` was given."""


_TRUE = frozenset(("true", "1", "t", "T", "TRUE", "True"))
_FALSE = frozenset(("false", "0", "f", "F", "FALSE", "False"))

def parse(command: Command, argv: list[str]) -> Options:
    """Raises UsageError, or HelpWanted."""
    longs: Mapping[str, Option] = {o.name: o for o in command.options}
    shorts: Mapping[str, Option] = {o.short: o for o in command.options if o.short}
    out = Options(command)
    i, n = 0, len(argv)
    while i < n:
        word = argv[i]
        i += 1
        if word == "--":
            out.args += argv[i:]
            break
        if len(word) < 2 or word[0] != "-":
            out.args.append(word)
            if not command.interspersed:
                out.args += argv[i:]
                break
            continue
        if word[1] == "-":
            name, eq, value = word[2:].partition("=")
            option = longs.get(name)
            if option is None:
                if name == "help":
                    raise HelpWanted
                raise unknown(command, f"--{name}", [f"--{o}" for o in longs])
            if option.kind == FLAG:
                out.add(name, _boolean(name, value) if eq else "true")
            elif option.kind == OPTIONAL and not eq:
                out.add(name, option.default)
            elif eq:
                out.add(name, value)
            elif i < n:
                out.add(name, argv[i])
                i += 1
            else:
                raise UsageError(f"flag needs an argument: --{name}", hint=see(command))
            continue
        cluster = word[1:]
        while cluster:
            letter, cluster = cluster[0], cluster[1:]
            option = shorts.get(letter)
            if option is None:
                if letter == "h":
                    raise HelpWanted
                raise unknown(command, f"-{letter}", [f"-{s}" for s in shorts])
            if option.kind == FLAG:
                if cluster[:1] == "=":
                    out.add(option.name, _boolean(option.name, cluster[1:]))
                    break
                out.add(option.name, "true")
                continue
            if cluster:
                out.add(option.name, cluster[1:] if cluster[0] == "=" else cluster)
            elif i < n:
                out.add(option.name, argv[i])
                i += 1
            else:
                raise UsageError(f"flag needs an argument: -{letter}", hint=see(command))
            break
    if len(out.args) < command.least or 0 <= command.most < len(out.args):
        raise UsageError(f"rootless {command.name} {_wanted(command)}, got {len(out.args)}",
                         hint=see(command))
    return out


def _boolean(name: str, value: str) -> str:
    if value in _TRUE:
        return "true"
    if value in _FALSE:
        return "false"
    raise UsageError(f"invalid argument for --{name}: {value}: neither true nor false")


def _wanted(command: Command) -> str:
    if command.most == command.least:
        if command.least == 0:
            return "takes no arguments"
        return f"needs exactly {command.least} argument{'s' if command.least > 1 else ''}"
    if command.most < 0:
        return f"needs at least {command.least} argument{'s' if command.least > 1 else ''}"
    return f"needs {command.least} to {command.most} arguments"


def see(command: Command) -> str:
    return f"rootless {command.name} --help"


def unknown(command: Command, given: str, known: list[str]) -> UsageError:
    kind = "flag" if given.startswith("--") else "shorthand flag"
    return UsageError(f"unknown {kind}: {given}", hint=near(given, known) or see(command))


def near(given: str, known: list[str]) -> str | None:
    """`did you mean X?` where something close is known."""
    from difflib import get_close_matches

    close = get_close_matches(given, known, n=1)
    return f"did you mean {close[0]}?" if close else None
