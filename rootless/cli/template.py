"""`--format`: the part of Go's text/template that scripts use with docker.

    {{.Field.Sub}}  {{.}}  {{$}}  {{"text"}}  {{12}}
    {{json .X}}  {{len .X}}  {{join .X ","}}  {{split .X ","}}  {{index .X "key" 0}}
    {{upper .X}} {{lower .X}} {{title .X}}  {{println .X}} {{print .X}} {{printf "%s %d" .X .Y}}
    {{eq a b}} ne lt le gt ge and or not, pipelines `.X | json`, parentheses
    {{if}} {{else if}} {{else}} {{with}} {{range}} {{range $i, $v := .X}} {{end}}, {{- trim -}}

Own code: no library for it exists that is kept, and a missing piece is an error, not silence.
"""

from __future__ import annotations

import json

from rootless.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Tokens = list[str]


def render(template: str, value: Any) -> str:
    """Raises UsageError for a template that cannot be read or a field that does not exist."""
    template = template.replace("\\n", "\n").replace("\\t", "\t")
    return "".join(_Template(template).run(value))


def render_rows(template: str, rows: list[dict[str, str]],
                headers: dict[str, str] | None = None) -> list[str]:
    """One line a row; `table …` adds docker's header, `json` alone means each row as JSON."""
    headers = HEADERS if headers is None else headers
    if template == "json":
        return [json.dumps(r) for r in rows]
    if template.startswith("table ") or template == "table":
        body = template[6:].strip()
        from rootless.cli.ps import table

        header = {key: headers.get(key, _spaced(key)) for key in (rows[0] if rows else headers)}
        cells = [tuple(render(body, r).split("\t")) for r in (header, *rows)]
        return table(cells)
    return [render(template, r) for r in rows]


HEADERS = {"ID": "CONTAINER ID", "RunningFor": "CREATED", "CreatedAt": "CREATED AT",
           "CreatedSince": "CREATED"}


def _spaced(name: str) -> str:
    return "".join(f" {c}" if c.isupper() and i and not name[i - 1].isupper() else c
                   for i, c in enumerate(name)).upper()


class _Template:
    def __init__(self, text: str) -> None:
        self.parts = _cut(text)
        self.at = 0

    def run(self, value: Any) -> list[str]:
        out: list[str] = []
        scope: dict[str, Any] = {"$": value}
        self._block(value, scope, out, live=True)
        if self.at < len(self.parts):
            raise UsageError(f"invalid format: unexpected {{{{{self.parts[self.at][1]}}}}}")
        return out

    def _block(self, dot: Any, scope: dict[str, Any], out: list[str], *, live: bool) -> None:
        """Until {{end}} or {{else}}, which stays to be read by the caller."""
        while self.at < len(self.parts):
            action, text = self.parts[self.at]
            if not action:
                if live:
                    out.append(text)
                self.at += 1
                continue
            word = text.split(None, 1)[0] if text.split() else ""
            if word in ("end", "else"):
                return
            self.at += 1
            if word in ("if", "with"):
                self._branch(word, text[len(word):], dot, scope, out, live=live)
            elif word == "range":
                self._range(text[5:], dot, scope, out, live=live)
            elif text.startswith("/*"):
                continue
            elif live:
                name, eq, rest = text.partition(":=")
                if eq and name.strip().startswith("$"):
                    scope[name.strip()] = evaluate(rest, dot, scope)
                else:
                    out.append(show(evaluate(text, dot, scope)))

    def _branch(self, word: str, condition: str, dot: Any, scope: dict[str, Any],
                out: list[str], *, live: bool) -> None:
        value = evaluate(condition, dot, scope) if live else None
        taken = live and bool(value)
        self._block(value if word == "with" and taken else dot, dict(scope), out, live=taken)
        if self._take() == "end":
            return
        rest = self.parts[self.at - 1][1][4:].strip()
        if rest.startswith(("if ", "with ")):
            chained = rest.split(None, 1)
            self._branch(chained[0], chained[1], dot, scope, out, live=live and not taken)
            return
        self._block(dot, dict(scope), out, live=live and not taken)
        if self._take() != "end":
            raise UsageError("invalid format: {{else}} twice")

    def _range(self, text: str, dot: Any, scope: dict[str, Any], out: list[str], *,
               live: bool) -> None:
        names: list[str] = []
        if ":=" in text:
            left, _, text = text.partition(":=")
            names = [n.strip() for n in left.split(",")]
        value = evaluate(text, dot, scope) if live else []
        if isinstance(value, dict):
            items = [(k, value[k]) for k in sorted(value)]
        else:
            items = list(enumerate(value or []))
        start = self.at
        for key, item in items:
            self.at = start
            inner = dict(scope)
            if len(names) == 1:
                inner[names[0]] = item
            elif len(names) == 2:
                inner[names[0]], inner[names[1]] = key, item
            self._block(item, inner, out, live=True)
        if not items:
            self._block(dot, dict(scope), out, live=False)
        if self._take() == "else":
            self._block(dot, dict(scope), out, live=live and not items)
            self._take()

    def _take(self) -> str:
        if self.at >= len(self.parts):
            raise UsageError("invalid format: {{end}} is missing")
        self.at += 1
        return self.parts[self.at - 1][1].split(None, 1)[0]


def _cut(text: str) -> list[tuple[bool, str]]:
    """(is an action, text) pieces, trim markers applied."""
    parts: list[tuple[bool, str]] = []
    trim = False
    while text:
        before, found, rest = text.partition("{{")
        if trim:
            before = before.lstrip()
        if not found:
            parts.append((False, before))
            break
        action, closed, text = rest.partition("}}")
        if not closed:
            raise UsageError("invalid format: unclosed {{", hint="--format '{{.ID}}'")
        if action.startswith("- "):
            before, action = before.rstrip(), action[2:]
        trim = action.endswith(" -")
        if trim:
            action = action[:-2]
        if before:
            parts.append((False, before))
        parts.append((True, action.strip()))
    return parts


def tokens(text: str) -> Tokens:
    out: Tokens = []
    i = 0
    while i < len(text):
        c = text[i]
        if c.isspace():
            i += 1
        elif c in "()|":
            out.append(c)
            i += 1
        elif c in "\"`":
            j = i + 1
            while j < len(text) and text[j] != c:
                j += 2 if text[j] == "\\" and c == '"' else 1
            if j >= len(text):
                raise UsageError(f"invalid format: unclosed {c} in {text}")
            out.append(text[i:j + 1])
            i = j + 1
        else:
            j = i
            while j < len(text) and not text[j].isspace() and text[j] not in "()|":
                j += 1
            out.append(text[i:j])
            i = j
    return out


def evaluate(text: str, dot: Any, scope: dict[str, Any]) -> Any:
    words = tokens(text)
    value, rest = _pipeline(words, dot, scope)
    if rest:
        raise UsageError(f"invalid format: {text.strip()}")
    return value


def _pipeline(words: Tokens, dot: Any, scope: dict[str, Any]) -> tuple[Any, Tokens]:
    value, words = _command(words, dot, scope, [])
    while words and words[0] == "|":
        value, words = _command(words[1:], dot, scope, [value])
    return value, words


def _command(words: Tokens, dot: Any, scope: dict[str, Any], last: list[Any]) -> tuple[
        Any, Tokens]:
    """One function call or operand; `last` is what came through the pipe."""
    if not words:
        raise UsageError("invalid format: an empty action")
    if words[0] in FUNCTIONS:
        name, words = words[0], words[1:]
        args: list[Any] = []
        while words and words[0] not in ("|", ")"):
            value, words = _operand(words, dot, scope)
            args.append(value)
        try:
            return FUNCTIONS[name](*args, *last), words
        except (TypeError, ValueError, LookupError, AttributeError):
            raise UsageError(f"invalid format: {name} does not take these arguments") from None
    if last:
        raise UsageError(f"invalid format: {words[0]} is not a function")
    return _operand(words, dot, scope)


def _operand(words: Tokens, dot: Any, scope: dict[str, Any]) -> tuple[Any, Tokens]:
    word, rest = words[0], words[1:]
    if word == "(":
        value, rest = _pipeline(rest, dot, scope)
        if not rest or rest[0] != ")":
            raise UsageError("invalid format: ) is missing")
        rest = rest[1:]
        if rest and rest[0].startswith(".") and len(rest[0]) > 1:
            return _path(value, rest[0]), rest[1:]
        return value, rest
    if word[0] == '"':
        return json.loads(word), rest
    if word[0] == "`":
        return word[1:-1], rest
    if word in ("true", "false", "nil"):
        return {"true": True, "false": False, "nil": None}[word], rest
    if word[0] == "$":
        name, _, path = word.partition(".")
        if name not in scope:
            raise UsageError(f"invalid format: unknown variable {name}")
        return _path(scope[name], "." + path if path else ""), rest
    if word[0] == ".":
        return _path(dot, word), rest
    try:
        return int(word), rest
    except ValueError:
        raise UsageError(f"invalid format: unknown function {word}",
                         hint=f"known are {', '.join(sorted(FUNCTIONS))}") from None


def _path(value: Any, path: str) -> Any:
    for name in path.split(".")[1:]:
        if not name:
            continue
        if not isinstance(value, dict):
            raise UsageError(f"invalid format: there is no field {path}")
        if name in value:
            value = value[name]
            continue
        folded = next((k for k in value if k.lower() == name.lower()), None)
        if folded is None:
            raise UsageError(f"invalid format: there is no field {path}",
                             hint=f"fields here: {', '.join(map(str, value)) or 'none'}")
        value = value[folded]
    return value


def show(value: Any) -> str:
    """As Go prints it."""
    if value is None:
        return "<no value>"
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, dict):
        return f"map[{' '.join(f'{k}:{show(v)}' for k, v in sorted(value.items()))}]"
    if isinstance(value, (list, tuple)):
        return f"[{' '.join(show(v) for v in value)}]"
    return str(value)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else value[key]
    return value


def _printf(form: str, *args: Any) -> str:
    return form.replace("%v", "%s").replace("%q", '"%s"') % tuple(
        a if isinstance(a, (int, float)) and not isinstance(a, bool) else show(a) for a in args)


FUNCTIONS: dict[str, Any] = {
    "json": lambda v: json.dumps(v, ensure_ascii=False, separators=(",", ":")),
    "len": len,
    "join": lambda v, sep: sep.join(map(show, v)),
    "split": lambda v, sep: v.split(sep),
    "index": _index,
    "upper": lambda v: show(v).upper(),
    "lower": lambda v: show(v).lower(),
    "title": lambda v: show(v).title(),
    "print": lambda *v: "".join(map(show, v)),
    "println": lambda *v: " ".join(map(show, v)) + "\n",
    "printf": _printf,
    "eq": lambda a, *b: any(a == x for x in b),
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "not": lambda v: not v,
    "and": lambda *v: next((x for x in v if not x), v[-1]),
    "or": lambda *v: next((x for x in v if x), v[-1]),
}
