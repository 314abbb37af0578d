"""A Dockerfile's text, and places in it.

An instruction may lie on many lines: continuations are joined, comments and blank lines between
them dropped. `Where` remembers for each piece of the joined text the line and the column it came
from, so that an error points at the very character a person typed:

    Where.text      RUN apt-get  update
    Where.pieces    (0, line 3, column 0), (13, line 5, column 4)

Lines count from 1, columns from 0. Text that is not UTF-8 is carried through unharmed (PEP 383).
"""

from __future__ import annotations

from rootless.errors import DockerfileError
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_BETWEEN = " \t\"'=,[]"
_AROUND = 2         # lines shown before and after those in question
_LONGEST_EXCERPT = 12
_WIDEST = 160


@record(frozen=True)
class Source:
    """`lines` keep their carriage returns, as here-documents keep them, and no newline."""

    name: str
    lines: tuple[str, ...]


@record(frozen=True)
class Where:
    """An instruction's place: its lines, here-documents included, and its text on one line."""

    source: Source
    first: int
    last: int
    text: str
    pieces: tuple[tuple[int, int, int], ...]      # offset in text, line, column

    def position(self, offset: int) -> tuple[int, int]:
        """(line, column) of a character of `text`."""
        line, column = self.first, 0
        for start, its_line, its_column in self.pieces:
            if start <= offset:
                line, column = its_line, its_column + offset - start
        return line, column

    def excerpt(self) -> str:
        """The lines, marked, with a few around them."""
        return excerpt(self.source, self.first, self.last)

    def error(self, what: str, *, token: str | None = None, offset: int | None = None,
              hint: str | None = None) -> DockerfileError:
        """`token`: the part of the text that is wrong, as a word of its own if there is one;
        `offset` says which where it is not the first of its kind."""
        if offset is None and token:
            offset = _find(self.text, token)
        width = len(token) if token else 1
        if offset is None or offset < 0:
            offset, width = 0, len(self.text.split(None, 1)[0]) if self.text.split() else 1
        line, column = self.position(offset)
        error = DockerfileError(f"{self.source.name}:{line}: {what}", hint=hint)
        error.excerpt = excerpt(self.source, self.first, self.last, (line, column, width))
        return error


def _find(text: str, token: str) -> int:
    at = text.find(token)
    first = at
    while at >= 0:
        end = at + len(token)
        if (at == 0 or text[at - 1] in _BETWEEN) and (end == len(text) or text[end] in _BETWEEN):
            return at
        at = text.find(token, at + 1)
    return first


def read(data: bytes, name: str) -> Source:
    text = data.decode("utf-8", "surrogateescape")
    lines = text[1:].split("\n") if text.startswith("\ufeff") else text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return Source(name, tuple(lines))


def at_line(source: Source, line: int, what: str, *, hint: str | None = None) -> DockerfileError:
    """An error about a line that is no instruction."""
    error = DockerfileError(f"{source.name}:{line}: {what}" if line else f"{source.name}: {what}",
                            hint=hint)
    if 0 < line <= len(source.lines):
        error.excerpt = excerpt(source, line, line, (line, 0, max(len(source.lines[line - 1]), 1)))
    return error


def excerpt(source: Source, first: int, last: int,
            mark: tuple[int, int, int] | None = None) -> str:
    """Lines first to last with their neighbours; `mark` (line, column, width) gets carets."""
    start = max(first - _AROUND, 1)
    end = min(max(last, first) + _AROUND, len(source.lines))
    shown: Iterable[int] = range(start, end + 1)
    if end - start >= _LONGEST_EXCERPT:
        middle = mark[0] if mark else first
        shown = range(max(start, middle - _LONGEST_EXCERPT // 2),
                      min(end, middle + _LONGEST_EXCERPT // 2) + 1)
    digits = len(str(end))
    rows = []
    for number in shown:
        text = source.lines[number - 1].rstrip("\r")
        marked = mark if mark and number == mark[0] else None
        # Of a line that is very long, the part that matters.
        start = max(marked[1] - _WIDEST // 2, 0) if marked and len(text) > _WIDEST else 0
        text = text[start:start + _WIDEST]
        arrow = ">>>" if first <= number <= last else "   "
        rows.append(f"{number:{digits}} | {arrow} {shown_safely(text)}".rstrip())
        if marked:
            column = marked[1] - start
            before, there = shown_safely(text[:column]), text[column:column + marked[2]]
            rows.append(f"{'':{digits}} |     {' ' * len(before)}"
                        f"{'^' * max(len(shown_safely(there)), 1)}")
    return "\n".join(rows)


def shown_safely(text: str) -> str:
    """Without what would steer a terminal; a tab is four columns."""
    return "".join("    " if c == "\t" else c if c.isprintable() else ascii(c)[1:-1] for c in text)
