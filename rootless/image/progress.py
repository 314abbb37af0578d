"""What a person sees of a pull or push: bars on a terminal, docker's plain lines elsewhere."""

from __future__ import annotations

import os
import time

from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

INTERVAL = 0.1      # seconds between two drawings


@record(frozen=True)
class Words:
    """What is said of a layer: in a line at its start ("" for none), while its bytes move, and
    when all have."""

    start: str
    moving: str
    moved: str


PULL = Words("Pulling fs layer", "Downloading", "Extracting")
PUSH = Words("", "Pushing", "Pushed, waiting")


def human(size: float) -> str:
    """Bytes as docker shows them (go-units HumanSize): three digits, steps of a thousand."""
    units = ("B", "kB", "MB", "GB", "TB", "PB")
    at = 0
    while size >= 999.5 and at < len(units) - 1:
        size /= 1000
        at += 1
    return f"{size:.3g}{units[at]}"


class Progress:
    """Lines about layers, each known by the first digits of its digest."""

    def __init__(self, out: TextIO, *, quiet: bool, words: Words = PULL) -> None:
        self._out = out
        self._quiet = quiet
        self._words = words

    def line(self, text: str) -> None:
        """A whole line that stays."""
        if not self._quiet:
            self._out.write(text + "\n")
            self._out.flush()

    def start(self, label: str, total: int) -> None:
        if self._words.start:
            self.line(f"{label}: {self._words.start}")

    def update(self, label: str, done: int) -> None:
        """`done` bytes of the blob are here."""

    def finish(self, label: str, text: str) -> None:
        self.line(f"{label}: {text}")

    def close(self) -> None:
        """No more will come, for better or worse."""


class Bars(Progress):
    """Layers that are on their way are drawn below those that are done, again and again in the
    same place. As few are on their way at once, it fits every terminal."""

    def __init__(self, out: TextIO, words: Words = PULL) -> None:
        super().__init__(out, quiet=False, words=words)
        self._layers: dict[str, tuple[int, int]] = {}
        self._drawn = 0
        self._next = 0.0

    def start(self, label: str, total: int) -> None:
        self._layers[label] = (0, total)
        self._draw()

    def update(self, label: str, done: int) -> None:
        if label in self._layers:
            self._layers[label] = (done, self._layers[label][1])
            if time.monotonic() >= self._next:
                self._draw()

    def finish(self, label: str, text: str) -> None:
        self._layers.pop(label, None)
        self.line(f"{label}: {text}")

    def line(self, text: str) -> None:
        self._erase()
        super().line(text)
        self._draw()

    def close(self) -> None:
        self._erase()
        self._out.flush()

    def _erase(self) -> None:
        if self._drawn:
            self._out.write(f"\033[{self._drawn}A\r\033[J")
            self._drawn = 0

    def _draw(self) -> None:
        self._erase()
        width = _columns(self._out)
        for label, (done, total) in self._layers.items():
            self._out.write(bar(label, done, total, width, self._words) + "\n")
        self._drawn = len(self._layers)
        self._out.flush()
        self._next = time.monotonic() + INTERVAL


def bar(label: str, done: int, total: int, width: int, words: Words = PULL) -> str:
    """`0123456789ab: Downloading [====>     ]  12.3MB/107MB`, never wider than the terminal."""
    if total and done >= total:
        text = f"{label}: {words.moved}"
        return text[:width]
    sizes = f"  {human(done)}/{human(total)}"
    head = f"{label}: {words.moving} "
    room = min(width - 1 - len(head) - len(sizes) - 2, 50)
    if room < 5:
        return (head.rstrip() + sizes)[:max(width - 1, 1)]
    filled = room * done // total if total else 0
    return f"{head}[{('=' * filled + '>')[:room].ljust(room)}]{sizes}"


def _columns(out: TextIO) -> int:
    try:
        return os.get_terminal_size(out.fileno()).columns or 80
    except OSError:
        return 80


def for_stream(out: TextIO, *, quiet: bool, words: Words = PULL) -> Progress:
    if not quiet and out.isatty():
        return Bars(out, words)
    return Progress(out, quiet=quiet, words=words)
