"""The word that was meant: by the number of letters that differ (Levenshtein's distance).

Not `difflib`: errors are also made in a process that has given up its root, where nothing can be
imported any more, and all others need not pay for it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_LONGEST = 100


def nearest(given: str, known: Iterable[str]) -> str | None:
    """None where nothing is near: one letter in three may differ, and case does not count."""
    most = max(1, min(len(given), _LONGEST) // 3)
    best: tuple[int, str] | None = None
    for word in known:
        if len(given) <= _LONGEST and abs(len(word) - len(given)) <= most:
            distance = _distance(given.lower(), word.lower())
            if distance <= most and word != given and (best is None or distance < best[0]):
                best = distance, word
    return best[1] if best else None


def hint(given: str, known: Iterable[str]) -> str | None:
    """`did you mean X?`"""
    word = nearest(given, known)
    return f"did you mean {word}?" if word else None


def _distance(one: str, other: str) -> int:
    """Letters put in, left out, replaced, or two neighbours that changed places."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        above, before, row = before, row, [i]
        for j, b in enumerate(other, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and b == one[i - 2]:
                cost = min(cost, above[j - 2] + 1)
            row.append(cost)
    return row[-1]
