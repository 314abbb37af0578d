"""Words of a Dockerfile: quotes, escapes, and variables.

What BuildKit's front end does, which is near a POSIX shell (2.6.2, Parameter Expansion) and not the
same: there is no field splitting but where an instruction asks for words, a name that is not set
is empty, patterns know * and ? and no brackets, and the escape character is the Dockerfile's
(` on request).

    $name ${name}       value, or nothing           ${name-w} ${name:-w}    w if unset (or empty)
    ${name+w} ${name:+w}    w if set (not empty)    ${name?w} ${name:?w}    error w if unset
    ${name#p} ${name##p}    shortest, longest prefix that matches p removed
    ${name%p} ${name%%p}    suffix                  ${name/p/r} ${name//p/r}    first, all replaced

A reader with one position in the text; each construct is one method that leaves the position
behind what it read. The result exists twice: as one string, and as words split at white space that
was neither quoted nor escaped, white space out of variables included.
"""

from __future__ import annotations

from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SPECIAL = frozenset("@*#?-$!0")        # POSIX 2.5.2: parameters that are never set here
_DEEPEST = 100                          # ${a:-${b:-...}}: nobody writes that, but a fuzzer does


class ExpansionError(ValueError):
    """What is wrong with a word; the caller knows where the word is."""


@record(frozen=True)
class Expanded:
    """`used` and `unset`: the names that were looked up, by whether they had a value."""

    text: str
    words: tuple[str, ...]
    used: frozenset[str]
    unset: frozenset[str]


def expand(text: str, env: Mapping[str, str], *, escape: str = "\\") -> Expanded:
    """Quotes and escapes removed, variables replaced. Raises ExpansionError."""
    return _Reader(text, env, escape).all()


def expand_document(text: str, env: Mapping[str, str]) -> Expanded:
    """A here-document: quotes are text like any other, the escape character is the backslash."""
    return _Reader(text, env, "\\", quotes=False).all()


def raw_words(text: str) -> tuple[str, ...]:
    """Words as written, with quotes, escapes and variables left in; `<< EOF` is one word.

    What cannot be read as words (an open quote) gives none.
    """
    try:
        return _Reader(text, {}, "\\", raw=True, keep_unset=True).all().words
    except ExpansionError:
        return ()


def unquoted(text: str) -> tuple[str, ...]:
    """Words without quotes and escapes; variables stay as written. Raises ExpansionError."""
    return _Reader(text, {}, "\\", keep_unset=True).all().words


def is_space(c: str) -> bool:
    """White space to Go's unicode.IsSpace; Python counts four separators more."""
    return c.isspace() and not "\x1c" <= c <= "\x1f"


class _Words:
    def __init__(self) -> None:
        self.done: list[str] = []
        self._word: list[str] = []

    def plain(self, text: str) -> None:
        """Unquoted: white space ends a word."""
        for c in text:
            if not is_space(c):
                self._word.append(c)
            elif self._word:
                self.end()

    def quoted(self, text: str) -> None:
        if text:
            self._word.append(text)

    def end(self) -> None:
        if self._word:
            self.done.append("".join(self._word))
            self._word = []


class _Reader:
    def __init__(self, text: str, env: Mapping[str, str], escape: str, *, quotes: bool = True,
                 raw: bool = False, keep_unset: bool = False) -> None:
        self._text = text
        self._env = env
        self._escape = escape
        self._quotes = quotes
        self._raw = raw                 # keep quotes and escapes in the result
        self._keep_unset = keep_unset   # a variable without value stays as written
        self._at = 0
        self._depth = 0
        self._used: set[str] = set()
        self._unset: set[str] = set()

    def all(self) -> Expanded:
        text, words = self._until("", self._raw)
        return Expanded(text, tuple(words), frozenset(self._used), frozenset(self._unset))

    def _peek(self) -> str:
        return self._text[self._at:self._at + 1]

    def _next(self) -> str:
        c = self._text[self._at:self._at + 1]
        self._at += 1
        return c

    def _until(self, stop: str, raw_escapes: bool) -> tuple[str, list[str]]:
        """Up to `stop`, which is read too; "" is the end of the text."""
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ExpansionError("substitutions are nested too deeply")
        out: list[str] = []
        words = _Words()
        while c := self._peek():
            if c == stop:
                self._at += 1
                break
            if c == "$":
                value = self._dollar(raw_escapes)
                out.append(value)
                words.plain(value)
            elif c in "'\"" and self._quotes:
                value = self._single() if c == "'" else self._double(raw_escapes)
                out.append(value)
                words.quoted(value)
            elif c == "<" and self._raw and self._text.startswith("<<", self._at):
                value = self._here()
                out.append(value)
                words.quoted(value)
            elif c == self._escape:
                self._at += 1
                value = (c if raw_escapes else "") + self._next()
                out.append(value)
                words.quoted(value)
            else:
                self._at += 1
                out.append(c)
                words.plain(c)
        else:
            if stop:
                raise ExpansionError(f"missing '{stop}'" + (" in ${}" if stop == "/" else ""))
        self._depth -= 1
        words.end()
        return "".join(out), words.done

    def _here(self) -> str:
        """<< or <<- and the white space behind it belong to the word that follows."""
        start = self._at
        self._at += 3 if self._text.startswith("<<-", start) else 2
        while self._peek() and is_space(self._peek()):
            self._at += 1
        return self._text[start:self._at]

    def _single(self) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise ExpansionError("a single quote (') is never closed")
        start, self._at = self._at, end + 1
        return self._text[start:end + 1] if self._raw else self._text[start + 1:end]

    def _double(self, raw_escapes: bool) -> str:
        """Only ", $ and the escape character itself can be escaped in double quotes."""
        self._at += 1
        out: list[str] = ['"'] if self._raw else []
        while c := self._peek():
            if c == '"':
                self._at += 1
                return "".join(out) + (c if self._raw else "")
            if c == "$":
                out.append(self._dollar(raw_escapes))
                continue
            self._at += 1
            if c == self._escape:
                if raw_escapes:
                    out.append(c)
                after = self._peek()
                if not after:
                    break
                if after in ('"', "$", self._escape):
                    self._at += 1
                    c = after
            out.append(c)
        raise ExpansionError('a double quote (") is never closed')

    def _name(self) -> str:
        """Letters, digits and _; digits alone; or one special parameter."""
        start, text = self._at, self._text
        if self._peek().isdecimal():
            while self._peek().isdecimal():
                self._at += 1
        elif self._peek() in _SPECIAL and self._peek():
            self._at += 1
        else:
            while (c := self._peek()) and (c.isalpha() or c.isdecimal() or c == "_"):
                self._at += 1
        return text[start:self._at]

    def _value(self, name: str) -> str | None:
        value = self._env.get(name)
        (self._unset if value is None else self._used).add(name)
        return value

    def _dollar(self, raw_escapes: bool) -> str:
        start = self._at
        self._at += 1
        if self._peek() != "{":
            name = self._name()
            if not name:
                return "$"
            value = self._value(name)
            return f"${name}" if value is None and self._keep_unset else value or ""
        self._at += 1
        c = self._peek()
        if not c:
            raise ExpansionError("missing '}'")
        if c in "{}:":
            raise ExpansionError(f"bad substitution: ${{{c}")
        result = self._braces()
        return self._text[start:self._at] if result is None else result

    def _braces(self) -> str | None:
        """Behind `${`; None where the whole stays as written."""
        name = self._name()
        operator = self._next()
        if operator == "}":
            value = self._value(name)
            return None if value is None and self._keep_unset else value or ""
        if operator == "/":
            return self._replace(name)
        or_empty = operator == ":"
        if or_empty:
            operator = self._next()
        if not operator:
            raise ExpansionError("missing '}'")
        if operator not in "-+?#%" or (or_empty and operator in "#%"):
            raise ExpansionError(f"unsupported modifier ({':' if or_empty else ''}{operator}) in "
                                 "substitution")
        word, _ = self._until("}", operator in "#%")
        value = self._value(name)
        if value is None and self._keep_unset:
            return None
        if operator in "#%":
            return _trimmed(value or "", word, operator)
        missing = value is None or (or_empty and not value)
        if operator == "-":
            return word if missing else value
        if operator == "+":
            return "" if missing else word
        if missing:
            default = "is not allowed to be " + ("unset" if value is None else "empty")
            raise ExpansionError(f"{name}: {word or default}")
        return value

    def _replace(self, name: str) -> str | None:
        everywhere = self._peek() == "/"
        if everywhere:
            self._at += 1
        pattern, _ = self._until("/", True)
        replacement, _ = self._until("}", True)
        value = self._value(name)
        if value is None and self._keep_unset:
            return None
        return _replaced(value or "", _pattern(pattern), replacement, everywhere)


# A pattern: its characters, ? for any one and * for any number, neither of which is a newline.
_ANY, _MANY = 0, 1


def _pattern(text: str) -> list[str | int]:
    tokens: list[str | int] = []
    at = 0
    while at < len(text):
        c = text[at]
        at += 1
        if c == "\\":
            after = text[at:at + 1]
            if after in ("}", "/") and after:
                continue        # the escape was for ${...}, not for the pattern
            if after not in ("*", "?", "\\"):
                raise ExpansionError(f"invalid escape '\\{after}' in the pattern {text}")
            at += 1
            tokens.append(after)
        elif c == "*":
            if not tokens or tokens[-1] is not _MANY:
                tokens.append(_MANY)
        else:
            tokens.append(_ANY if c == "?" else c)
    return tokens


def _ends(tokens: Sequence[str | int], value: str, start: int) -> list[int]:
    """Where a match that begins at `start` may end, in order. All states at once: no backtracking,
    so the time is the product of the two lengths whatever the pattern."""
    found: list[int] = []
    states = _closure({0}, tokens)
    for at in range(start, len(value) + 1):
        if len(tokens) in states:
            found.append(at)
        if at == len(value) or not states:
            break
        c = value[at]
        after = set()
        for state in states:
            if state == len(tokens):
                continue
            token = tokens[state]
            if token is _MANY and c != "\n":
                after.add(state)
            elif (token is _ANY and c != "\n") or token == c:
                after.add(state + 1)
        states = _closure(after, tokens)
    return found


def _closure(states: set[int], tokens: Sequence[str | int]) -> set[int]:
    """With those that a * of nothing leads to."""
    more = set(states)
    for state in states:
        while state < len(tokens) and tokens[state] is _MANY:
            state += 1
            more.add(state)
    return more


def _trimmed(value: str, word: str, operator: str) -> str:
    longest = word.startswith(operator)
    tokens = _pattern(word[1:] if longest else word)
    if operator == "%":
        tokens.reverse()
        value = value[::-1]
    ends = _ends(tokens, value, 0)
    if ends:
        value = value[ends[-1 if longest else 0]:]
    return value[::-1] if operator == "%" else value


def _replaced(value: str, tokens: Sequence[str | int], replacement: str, everywhere: bool) -> str:
    out: list[str] = []
    at, previous = 0, -1
    while at <= len(value):
        ends = _ends(tokens, value, at)
        if ends and not (ends[-1] == at == previous):
            out.append(replacement)
            previous = ends[-1]
            if not everywhere:
                return "".join(out) + value[previous:]
            if previous > at:
                at = previous
                continue
        out.append(value[at:at + 1])
        at += 1
    return "".join(out)
