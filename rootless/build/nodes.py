"""From lines to nodes: the grammar that all instructions share.

    directives      # name=value lines at the very top: syntax, escape, check
    instruction     WORD [--flag[=value]]... arguments
    continuation    a line that ends with one escape character; blanks may follow it
    between them    lines that are blank or begin with # are dropped
    here-document   <<NAME in RUN, COPY, ADD (and ONBUILD of those): the lines below, up to NAME

How arguments are split depends on the instruction, and nothing else does: see `_SHAPES`. What they
mean is not asked here (`typed.py`).
"""

from __future__ import annotations

import re

from rootless import jsontext
from rootless.build.source import Source, Where, at_line
from rootless.build.words import ExpansionError, is_space, raw_words, unquoted
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_BLANKS = re.compile(r"[\t\v\f\r ]+")
_DIRECTIVE = re.compile(r"#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*$")
_HERE = re.compile(r"(\d*)<<(-?)\s*([^<]*)", re.DOTALL)
_TABS = re.compile(r"^\t+", re.MULTILINE)

DIRECTIVES = ("syntax", "escape", "check")


@record(frozen=True)
class Heredoc:
    """`text` as written, each line with its end; `content` is what the document says."""

    name: str
    text: str
    expand: bool
    chomp: bool

    @property
    def content(self) -> str:
        return _TABS.sub("", self.text) if self.chomp else self.text


@record(frozen=True)
class Node:
    """An instruction before its meaning. `word` as written; `args` as the instruction splits them:

    ENV and LABEL: key, value, key, value...; `legacy` when it was written `KEY VALUE`.
    HEALTHCHECK: its kind, then the rest. ONBUILD: none, but `trigger`.
    `exec_form`: the arguments are a JSON array. `comments`: the lines right above.
    `empty_lines`: blank lines inside a continuation.
    """

    where: Where
    word: str
    flags: tuple[str, ...]
    args: tuple[str, ...]
    exec_form: bool
    legacy: bool
    heredocs: tuple[Heredoc, ...]
    trigger: Node | None
    comments: tuple[str, ...]
    empty_lines: tuple[int, ...]

    @property
    def key(self) -> str:
        return self.word.lower()


@record(frozen=True)
class Directive:
    value: str
    line: int


class Reader:
    """Reads a source; afterwards `nodes`, `directives` and `escape` hold what was in it."""

    def __init__(self, source: Source) -> None:
        """Raises DockerfileError."""
        self.source = source
        self.escape = "\\"
        self.directives: dict[str, Directive] = {}
        self.nodes: list[Node] = []
        self._next = 0          # index of the next line
        self._read_directives()
        comments: list[str] = []
        while self._next < len(source.lines):
            text = _trim_left(source.lines[self._next].rstrip("\r"))
            if text.startswith("#"):
                comments.append(text[1:].strip())
                self._next += 1
            elif not text:
                comments = []
                self._next += 1
            else:
                node = self._instruction(tuple(comments))
                comments = []
                if node is not None:
                    self.nodes.append(node)

    def _read_directives(self) -> None:
        for number, line in enumerate(self.source.lines, 1):
            found = _DIRECTIVE.match(_trim_left(line.rstrip("\r")))
            name = found[1].lower() if found else ""
            if not found or name not in DIRECTIVES:
                return
            if name in self.directives:
                raise at_line(self.source, number, f"only one {name} directive can be used")
            if name == "escape":
                if found[2] not in ("\\", "`"):
                    raise at_line(self.source, number,
                                  f"invalid escape character {found[2]!r}: it can be \\ or `")
                self.escape = found[2]
            self.directives[name] = Directive(found[2], number)
            self._next = number

    def _instruction(self, comments: tuple[str, ...]) -> Node | None:
        lines = self.source.lines
        first = self._next + 1
        parts: list[str] = []
        pieces: list[tuple[int, int, int]] = []
        empty: list[int] = []
        length, more = 0, True
        while more and self._next < len(lines):
            line = lines[self._next].rstrip("\r")
            self._next += 1
            bare = _trim_left(line)
            if parts and bare.startswith("#"):
                continue
            if parts and not bare:
                empty.append(self._next)
                continue
            if not parts:
                line, column = bare, len(line) - len(bare)
            else:
                column = 0
            text, more = self._joined(line)
            if not parts and not text and more:
                return None         # nothing but an escape character
            parts.append(text)
            pieces.append((length, self._next, column))
            length += len(text)
        text = "".join(parts)
        where = Where(self.source, first, self._next, text, tuple(pieces))
        node = split(where, text, self.escape)
        heredocs = []
        holder = node.trigger or node
        if "<<" in text and holder.key in ("run", "copy", "add") and not holder.exec_form:
            for word in raw_words(text):
                here = here_document(word)
                if here:
                    heredocs.append(self._document(where, here))
        where = Where(self.source, first, self._next, text, tuple(pieces))
        return Node(where, node.word, node.flags, node.args, node.exec_form, node.legacy,
                    tuple(heredocs), node.trigger, comments, tuple(empty))

    def _joined(self, line: str) -> tuple[str, bool]:
        """(the line without its escape character, whether the next one belongs to it).

        Two escape characters at the end are one that is meant.
        """
        bare = line.rstrip(" \t")
        if bare.endswith(self.escape) and not bare[:-1].endswith(self.escape):
            return bare[:-1], True
        return line, False

    def _document(self, where: Where, here: Heredoc) -> Heredoc:
        """The lines up to the one that is the name. Raises DockerfileError when none is."""
        lines: list[str] = []
        while self._next < len(self.source.lines):
            line = self.source.lines[self._next]
            self._next += 1
            bare = line.rstrip("\r")
            if (bare.lstrip("\t") if here.chomp else bare) == here.name:
                return Heredoc(here.name, "".join(lines), here.expand, here.chomp)
            lines.append(line + "\n")
        raise where.error(f"unterminated heredoc: no line says {here.name}", token="<<",
                          hint=f"end the document with a line that is {here.name} and nothing else")


def here_document(word: str) -> Heredoc | None:
    """<<NAME, <<-NAME, <<"NAME" as a document without text; None for any other word."""
    found = _HERE.fullmatch(word)
    if not found or not found[3]:
        return None
    try:
        names = unquoted(found[3])
    except ExpansionError:
        return None
    if len(names) != 1 or len(raw_words(found[3])) != 1:
        return None
    quoted = _quotes(names[0]) != _quotes(found[3])
    return Heredoc(names[0], "", not quoted, found[2] == "-")


def _quotes(text: str) -> int:
    return text.count("'") + text.count('"')


def split(where: Where, text: str, escape: str) -> Node:
    """A node of one logical line. Raises DockerfileError."""
    word, *more = _BLANKS.split(text.strip(), maxsplit=1)
    flags, rest = _flags(more[0] if more else "")
    shape = _SHAPES.get(word.lower(), _whole)
    args, exec_form, legacy, trigger = shape(where, rest.strip(), escape)
    return Node(where, word, flags, args, exec_form, legacy, (), trigger, (), ())


def _trim_left(text: str) -> str:
    return text[next((i for i, c in enumerate(text) if not is_space(c)), len(text)):]


def _flags(text: str) -> tuple[tuple[str, ...], str]:
    """The words at the front that begin with --, and what comes behind them. `--` ends them.

    Quotes and backslashes in them are taken away here, whatever the escape character.
    """
    flags: list[str] = []
    at = 0
    while True:
        while at < len(text) and is_space(text[at]):
            at += 1
        if not text.startswith("--", at):
            return tuple(flags), text[at:]
        word: list[str] = []
        quote = ""
        while at < len(text) and (quote or not is_space(text[at])):
            c = text[at]
            at += 1
            if c == quote:
                quote = ""
            elif not quote and c in "'\"":
                quote = c
            elif c == "\\":
                word.append(text[at:at + 1])
                at += 1
            else:
                word.append(c)
        if word == ["-", "-"]:
            return tuple(flags), text[at:]
        flags.append("".join(word))


def split_words(text: str, escape: str) -> list[str]:
    """At white space that is neither quoted nor escaped; quotes and escapes stay."""
    words: list[str] = []
    word: list[str] = []
    quote, at = "", 0
    while at < len(text):
        c = text[at]
        at += 1
        if not quote and is_space(c):
            if word:
                words.append("".join(word))
                word = []
            continue
        if c == escape and quote != "'":
            if at == len(text):
                break               # an escape character at the very end is dropped
            word.append(c)
            c = text[at]
            at += 1
        elif c == quote:
            quote = ""
        elif not quote and c in "'\"":
            quote = c
        word.append(c)
    if word:
        words.append("".join(word))
    return words


def json_strings(text: str) -> list[str] | None:
    """The exec form: a JSON array of strings and nothing behind it, or None for any other text.

    Raises ValueError for an array of anything else.
    """
    if not text.lstrip().startswith("["):
        return None
    try:
        value = jsontext.loads(text)
    except ValueError:
        return None
    if not all(isinstance(item, str) for item in value):
        raise ValueError("a JSON array of an instruction holds strings and nothing else")
    # Half of a surrogate pair cannot be written anywhere; Go's decoder replaces it as well.
    return [item.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for item in value]


if TYPE_CHECKING:
    Parts = tuple[tuple[str, ...], bool, bool, Node | None]


def _whole(where: Where, rest: str, escape: str) -> Parts:
    return (rest,) if rest else (), False, False, None


def _blank_separated(where: Where, rest: str, escape: str) -> Parts:
    return tuple(_BLANKS.split(rest)) if rest else (), False, False, None


def _strings(where: Where, rest: str) -> list[str] | None:
    try:
        return json_strings(rest)
    except ValueError as e:
        raise where.error(str(e), token=rest[:1]) from None


def _command(where: Where, rest: str, escape: str) -> Parts:
    """The exec form, or one line for a shell."""
    found = _strings(where, rest)
    if found is None:
        return _whole(where, rest, escape)
    return tuple(found), True, False, None


def _list(where: Where, rest: str, escape: str) -> Parts:
    """The exec form, or words."""
    found = _strings(where, rest)
    if found is None:
        return _blank_separated(where, rest, escape)
    return tuple(found), True, False, None


def _names(where: Where, rest: str, escape: str) -> Parts:
    return tuple(split_words(rest, escape)), False, False, None


def _pairs(where: Where, rest: str, escape: str) -> Parts:
    """KEY=VALUE..., or the old KEY VALUE, whose value is the whole rest of the line."""
    words = split_words(rest, escape)
    if words and "=" not in words[0]:
        key, *value = _BLANKS.split(rest, maxsplit=1)
        if not value:
            name = where.text.split()[0].upper()
            raise where.error(f"{name} must have two arguments", token=key,
                              hint=f"{name} {key}=VALUE")
        return (key, value[0]), False, True, None
    args: list[str] = []
    for word in words:
        key, equals, value_ = word.partition("=")
        if not equals:
            raise where.error(f"cannot find = in {word!r}: it must be NAME=VALUE", token=word)
        args += [key, value_]
    return tuple(args), False, False, None


def _health(where: Where, rest: str, escape: str) -> Parts:
    if not rest:
        return (), False, False, None
    kind = next(iter(rest.split()))
    args, exec_form, _, _ = _command(where, rest[len(kind):].strip(), escape)
    return (kind, *args), exec_form, False, None


def _trigger(where: Where, rest: str, escape: str) -> Parts:
    return (), False, False, split(where, rest, escape) if rest else None


_SHAPES: dict[str, Callable[[Where, str, str], Parts]] = {
    "add": _list, "copy": _list, "volume": _list,
    "cmd": _command, "entrypoint": _command, "run": _command, "shell": _command,
    "env": _pairs, "label": _pairs,
    "arg": _names,
    "expose": _blank_separated, "from": _blank_separated,
    "healthcheck": _health,
    "onbuild": _trigger,
    "maintainer": _whole, "stopsignal": _whole, "user": _whole, "workdir": _whole,
}
