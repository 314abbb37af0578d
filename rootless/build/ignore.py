"""What a context leaves out: .dockerignore, and COPY --exclude.

Patterns as moby's patternmatcher reads them, one a line; the last one that matches a path, or a
directory above it, decides:

    # at the beginning of a line      a comment
    !pattern        what matches is in again
    *  ?  [a-z]     as in Go's filepath.Match: no /
    **              any number of directories, none included

Paths are relative to the root, without a slash at either end. `may_hold` lets a walk pass by a
directory that is left out, unless a later ! could reach into it.
"""

from __future__ import annotations

import os
import posixpath
import re

from rootless.build import gomatch
from rootless.errors import BuildError, os_reason
from rootless.files import read_bytes
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from re import Pattern

NAME = ".dockerignore"
LARGEST = 16 << 20


@record(frozen=True)
class Rule:
    """`line` in the file, 0 for one that did not come from a file."""

    pattern: str
    back: bool
    regex: Pattern[str]
    line: int


class Ignore:
    """`name` of the file, for messages. Empty: nothing is left out."""

    def __init__(self, rules: Iterable[Rule] = (), name: str = NAME) -> None:
        self.rules = tuple(rules)
        self.name = name

    @classmethod
    def parse(cls, text: str, name: str = NAME) -> Ignore:
        """Raises BuildError that names the line."""
        rules = []
        for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
            if line.startswith("#") or not line.strip():
                continue
            try:
                rules.append(rule(line.strip(), number))
            except ValueError as e:
                raise BuildError(f"{name}:{number}: {e}") from None
        return cls(rules, name)

    @classmethod
    def of(cls, patterns: Iterable[str]) -> Ignore:
        """Raises ValueError."""
        return cls([rule(text.strip()) for text in patterns if text.strip()], "--exclude")

    @classmethod
    def load(cls, context: str, dockerfile: str = "") -> Ignore:
        """That of a context: DOCKERFILE.dockerignore beside the Dockerfile (a path) goes before
        .dockerignore at the root. Raises BuildError."""
        for path in (f"{dockerfile}{NAME}" if dockerfile else "", os.path.join(context, NAME)):
            if not path:
                continue
            try:
                text = read_bytes(path, LARGEST)
            except FileNotFoundError:
                continue
            except OSError as e:
                raise BuildError(f"cannot read {path}: {os_reason(e)}") from None
            return cls.parse(text.decode("utf-8", "surrogateescape"), os.path.basename(path))
        return cls((), NAME)

    def __bool__(self) -> bool:
        return bool(self.rules)

    def rule_for(self, path: str) -> Rule | None:
        """The rule that leaves it out; None when it is in."""
        decided: Rule | None = None
        for one in self.rules:
            # Only what would change the verdict has to be looked at.
            if one.back == (decided is not None) and one.regex.fullmatch(path):
                decided = None if one.back else one
        return decided

    def excludes(self, path: str) -> bool:
        return bool(self.rules) and self.rule_for(path) is not None

    def may_hold(self, directory: str) -> bool:
        """Whether something below a directory that is left out may be in."""
        return any(one.back and _reaches(one.pattern, directory) for one in self.rules)


def rule(text: str, line: int = 0) -> Rule:
    """Raises ValueError."""
    back = text.startswith("!")
    if back:
        text = text[1:].strip()
        if not text:
            raise ValueError('illegal exclusion pattern: "!"')
    pattern = posixpath.normpath(text).replace("//", "/")
    if len(pattern) > 1 and pattern.startswith("/"):
        pattern = pattern[1:]
    gomatch.compiled(pattern)       # raises
    # What lies below something that matches is matched.
    return Rule(pattern, back, re.compile(f"(?:{_regex(pattern)})(?:/.*)?", re.DOTALL), line)


def _regex(pattern: str) -> str:
    """** alone or at the end is anything, **name at the very front ends in name, and else `**/`
    is any number of directories."""
    if pattern.startswith("**") and not gomatch.has_meta(pattern[2:]) and pattern[2:3] != "/":
        return ".*" + re.escape(pattern[2:])
    out: list[str] = []
    at = 0
    while at < len(pattern):
        c = pattern[at]
        at += 1
        if c == "*" and pattern.startswith("*", at):
            at += 1
            if pattern.startswith("/", at):
                at += 1
            token = ".*" if at == len(pattern) else "(?:.*/)?"
            if not out or out[-1] != token:
                out.append(token)
        elif c == "*":
            if not out or out[-1] != "[^/]*":
                out.append("[^/]*")
        elif c == "?":
            out.append("[^/]")
        elif c == "[":
            text, at = gomatch.char_class(pattern, at)
            out.append(text)
        elif c == "\\":
            out.append(re.escape(pattern[at]))
            at += 1
        else:
            out.append(re.escape(c))
    return "".join(out)


def _reaches(pattern: str, directory: str) -> bool:
    """Whether a pattern can match something below a directory. Part by part: one that is ** or
    that the directory runs out before says yes."""
    parts = pattern.split("/")
    for part, name in zip(parts, directory.split("/")):
        if "**" in part:
            return True
        if not gomatch.match(part, name):
            return False
    return True
