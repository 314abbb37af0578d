"""What a build shows: BuildKit's plain progress, one line after the other.

    #5 [2/3] RUN echo hi
    #5 0.112 hi
    #5 DONE 0.2s

Steps of several stages come mixed; the number says whose a line is. What a step printed last is
kept for the report of its failure.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

# Of a failing step's output.
_KEPT_LINES = 30
_LONGEST = 4096


class Progress:
    """`out` gets the lines, None for a quiet build; `err` what a failing step is reported to."""

    def __init__(self, out: TextIO | None, err: TextIO) -> None:
        self._out = out
        self._err = err
        self._steps: dict[int, _Step] = {}

    def start(self, title: str) -> int:
        """The step's number."""
        number = len(self._steps) + 1
        self._steps[number] = _Step(time.monotonic())
        self._line(f"\n#{number} {title}" if number > 1 else f"#{number} {title}")
        return number

    def heard(self, number: int, data: bytes) -> None:
        """Output of the step's command."""
        step = self._steps[number]
        *lines, step.rest = (step.rest + data).split(b"\n")
        if len(step.rest) > _LONGEST:
            lines.append(step.rest)
            step.rest = b""
        for line in lines:
            self._heard(number, step, line)

    def done(self, number: int, word: str = "") -> None:
        step = self._steps[number]
        if step.rest:
            self._heard(number, step, step.rest)
            step.rest = b""
        self._line(f"#{number} {word or f'DONE {time.monotonic() - step.began:.1f}s'}")

    def failed(self, number: int, why: str) -> None:
        self.done(number, f"ERROR: {why}")

    def note(self, number: int, text: str) -> None:
        self._line(f"#{number} {text}")

    def report(self, number: int, why: str, title: str, excerpt: str) -> None:
        """A step has failed: what it printed last, and where it stands in the Dockerfile. Shown in
        a quiet build too."""
        self.failed(number, why.split("\n")[0])
        lines = ["------", f" > {title}:", *self._steps[number].kept, "------", excerpt]
        self._err.write("\n".join(lines).rstrip("\n") + "\n")
        self._err.flush()

    def _heard(self, number: int, step: _Step, line: bytes) -> None:
        # Of a line that was written over and over, what it came to.
        text = printable(line.rstrip(b"\r").rpartition(b"\r")[2])
        seconds = f"{time.monotonic() - step.began:.3f}"
        step.kept = [*step.kept[1 - _KEPT_LINES:], f"{seconds} {text}"]
        self._line(f"#{number} {seconds} {text}")

    def _line(self, text: str) -> None:
        if self._out is not None:
            self._out.write(text + "\n")
            self._out.flush()


class _Step:
    def __init__(self, began: float) -> None:
        self.began = began
        self.rest = b""
        self.kept: list[str] = []


def printable(line: bytes) -> str:
    """Without what a terminal would obey, but for colours."""
    text = line.decode("utf-8", "replace").replace("\t", "        ")
    if text.isprintable():
        return text
    import re

    kept = []
    for part in re.split("(\x1b\\[[0-9;]*m)", text):
        colour = part.startswith("\x1b[") and part.endswith("m")
        kept.append(part if colour else "".join(c for c in part if c.isprintable()))
    return "".join(kept)
