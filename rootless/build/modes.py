"""COPY --chmod: octal, or symbolic as chmod(1) takes it.

    0755        the whole mode, file type aside
    u=rwX,go=rX     [ugoa]* then one or more of + - = with [rwxXst]* or one of u, g, o

Without ugoa all three are meant; no umask takes part, so that a build does not depend on whose
it is. X: x for directories, and for what has an x already.
"""

from __future__ import annotations

from rootless.record import record

_BITS = {"r": 0o444, "w": 0o222, "x": 0o111}
_WHO = {"u": 0o700, "g": 0o070, "o": 0o007}
_ALL = 0o7777


class ModeError(ValueError):
    pass


@record(frozen=True)
class Mode:
    """`octal`, or `steps` of (who mask, operator, permissions)."""

    octal: int | None
    steps: tuple[tuple[str, str, str], ...]

    def apply(self, mode: int, directory: bool) -> int:
        """The permission bits (12 of them) for something that has `mode`."""
        if self.octal is not None:
            return self.octal
        mode &= _ALL
        for who, operator, permissions in self.steps:
            bits = _bits(who, permissions, mode, directory)
            if operator == "+":
                mode |= bits
            elif operator == "-":
                mode &= ~bits
            else:
                mode = mode & ~_cleared(who, directory) | bits
        return mode


def _cleared(who: str, directory: bool) -> int:
    """What = takes away: a directory keeps its set-id bits, as in chmod(1)."""
    mask = 0
    for w in who:
        mask |= _WHO[w]
    if not directory:
        mask |= (0o4000 if "u" in who else 0) | (0o2000 if "g" in who else 0)
    return mask | (0o1000 if who == "ugo" else 0)


def _bits(who: str, permissions: str, mode: int, directory: bool) -> int:
    mask = 0
    for w in who:
        mask |= _WHO[w]
    bits = 0
    for p in permissions:
        if p in _BITS:
            bits |= _BITS[p] & mask
        elif p == "X":
            bits |= 0o111 & mask if directory or mode & 0o111 else 0
        elif p == "s":
            bits |= (0o4000 if "u" in who else 0) | (0o2000 if "g" in who else 0)
        elif p == "t":
            bits |= 0o1000 if "o" in who else 0
        else:       # u, g, o: what they have
            shift = {"u": 6, "g": 3, "o": 0}[p]
            bits |= (mode >> shift & 7) * 0o111 & mask
    return bits


def parse(text: str) -> Mode:
    """Raises ModeError."""
    if text.isascii() and text.isdigit():
        if not set(text) & {"8", "9"} and int(text, 8) <= _ALL:
            return Mode(int(text, 8), ())
        raise ModeError(f"invalid chmod: {text}: in octal it lies between 0 and 07777")
    steps: list[tuple[str, str, str]] = []
    for clause in text.split(","):
        actions = clause.lstrip("ugoa")
        who = clause[:len(clause) - len(actions)]
        who = "ugo" if not who or "a" in who else "".join(w for w in "ugo" if w in who)
        if not actions or actions[0] not in "+-=":
            raise _invalid(text)
        operator, permissions = "", ""
        for c in actions:
            if c in "+-=":
                if operator:
                    steps.append((who, operator, permissions))
                operator, permissions = c, ""
            elif c in "rwxXst" and not set(permissions) & set("ugo"):
                permissions += c
            elif c in "ugo" and not permissions:
                permissions = c
            else:
                raise _invalid(text)
        steps.append((who, operator, permissions))
    return Mode(None, tuple(steps))


def _invalid(text: str) -> ModeError:
    return ModeError(f"invalid chmod: {text or 'nothing'}: it is octal like 0755 or symbolic like "
                     "u=rwX,go=rX")
