"""What a build shows.

`Plain`: BuildKit's plain progress, one line after the other. Steps of several stages come mixed;
the number says whose a line is.

    #5 [2/3] RUN echo hi
    #5 0.112 hi
    #5 DONE 0.2s

`Live`: on a terminal. What is done stays as a line; what runs is drawn again and again below,
with the last that it printed.

     => [1/3] FROM debian                                  0.0s
     => [2/3] RUN apt-get update                           4.1s
     => => # Reading package lists...

What a step printed last is kept for the report of its failure, which a quiet build shows too.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

# Of a failing step's output.
_KEPT_LINES = 30
_SHOWN_LINES = 6
INTERVAL = 0.1      # seconds between two drawings
_LONGEST = 4096


class Progress:
    """Says nothing. `err`: what a failing step is reported to."""

    def __init__(self, err: TextIO) -> None:
        self._err = err
        self._steps: dict[int, _Step] = {}

    def start(self, title: str) -> int:
        """The step's number."""
        number = len(self._steps) + 1
        self._steps[number] = step = _Step(title, time.monotonic())
        self._began(number, step)
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
        """`word`: CACHED or the like instead of the time it took."""
        step = self._steps[number]
        if step.rest:
            self._heard(number, step, step.rest)
            step.rest = b""
        step.took = time.monotonic() - step.began
        self._ended(number, step, word)

    def failed(self, number: int, why: str) -> None:
        self.done(number, f"ERROR: {why}")

    def report(self, number: int, why: str, title: str, excerpt: str) -> None:
        """A step has failed: what it printed last, and where it stands in the Dockerfile."""
        self.failed(number, why.split("\n")[0])
        lines = ["------", f" > {title}:", *self._steps[number].kept, "------", excerpt]
        self._err.write("\n".join(lines).rstrip("\n") + "\n")
        self._err.flush()

    def note(self, number: int, text: str) -> None:
        """What a step of the build itself has done."""

    def tick(self) -> None:
        """Some time has passed."""

    def close(self) -> None:
        """Nothing more will come."""

    def _heard(self, number: int, step: _Step, line: bytes) -> None:
        # Of a line that was written over and over, what it came to.
        text = printable(line.rstrip(b"\r").rpartition(b"\r")[2])
        seconds = f"{time.monotonic() - step.began:.3f}"
        step.kept = [*step.kept[1 - _KEPT_LINES:], f"{seconds} {text}"]
        self._said(number, step)

    def _began(self, number: int, step: _Step) -> None:
        pass

    def _said(self, number: int, step: _Step) -> None:
        pass

    def _ended(self, number: int, step: _Step, word: str) -> None:
        pass


class Plain(Progress):
    def __init__(self, out: TextIO) -> None:
        super().__init__(out)
        self._out = out

    def note(self, number: int, text: str) -> None:
        self._line(f"#{number} {text}")

    def _began(self, number: int, step: _Step) -> None:
        self._line(f"\n#{number} {step.title}" if number > 1 else f"#{number} {step.title}")

    def _said(self, number: int, step: _Step) -> None:
        self._line(f"#{number} {step.kept[-1]}")

    def _ended(self, number: int, step: _Step, word: str) -> None:
        self._line(f"#{number} {word or f'DONE {step.took:.1f}s'}")

    def _line(self, text: str) -> None:
        self._out.write(text + "\n")
        self._out.flush()


class Live(Progress):
    def __init__(self, out: TextIO) -> None:
        super().__init__(out)
        self._out = out
        self._running: dict[int, _Step] = {}
        self._drawn = 0         # lines below the last that stays
        self._when = 0.0

    def tick(self) -> None:
        if time.monotonic() - self._when >= INTERVAL:
            self._draw()

    def close(self) -> None:
        self._running.clear()
        self._draw()

    def _began(self, number: int, step: _Step) -> None:
        self._running[number] = step
        self._draw()

    def _said(self, number: int, step: _Step) -> None:
        self.tick()

    def _ended(self, number: int, step: _Step, word: str) -> None:
        del self._running[number]
        title = f"{word} {step.title}" if word else step.title
        self._draw([self._row(title, step.took)])

    def _row(self, title: str, seconds: float) -> str:
        width = _width(self._out) - 12
        title = title if len(title) <= width else title[:width - 3] + "..."
        return f" => {title:{width}} {seconds:5.1f}s"

    def _draw(self, kept: list[str] | None = None) -> None:
        """Write what stays, and what is there for now."""
        self._when = time.monotonic()
        rows = list(kept or ())
        for step in self._running.values():
            rows.append(self._row(step.title, self._when - step.began))
            # Colours would not end where the line is cut.
            rows += [f" => => # {_bare(line)}"[:_width(self._out) - 1]
                     for line in step.kept[-_SHOWN_LINES:]]
        up = f"\x1b[{self._drawn}A\r" if self._drawn else "\r"
        self._out.write(up + "\x1b[J" + "".join(row + "\n" for row in rows))
        self._out.flush()
        self._drawn = len(rows) - len(kept or ())


def _width(out: TextIO) -> int:
    try:
        return max(os.get_terminal_size(out.fileno()).columns, 40)
    except OSError:
        return 80


def _bare(line: str) -> str:
    import re

    return re.sub("\x1b\\[[0-9;]*m", "", line)


class _Step:
    def __init__(self, title: str, began: float) -> None:
        self.title = title
        self.began = began
        self.took = 0.0
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
