"""Containers of one image, for tests that look at what is inside."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.integration.support.cli import Cli, Process, Result, Terminal

_numbers = itertools.count(1)


@dataclasses.dataclass(frozen=True)
class Box:
    cli: Cli
    image: str

    def __call__(self, *options: str, then: tuple[str, ...] = ("true",), **more: Any) -> Result:
        """`run --rm OPTIONS IMAGE THEN`, whatever comes of it."""
        return self.cli("run", "--rm", *options, self.image, *then, **more)

    def sh(self, script: str, *options: str, **more: Any) -> str:
        """What a shell script prints in a container; it must succeed."""
        return self.cli.ok("run", "--rm", *options, self.image, "sh", "-ec", script, **more).text

    def refuses(self, *options: str, says: str = "", rc: int = 125) -> Result:
        """No container is made: one clear line, exit code 125, nothing left."""
        before = self._kept()
        result = self.cli.fails(rc, "run", "--rm", *options, self.image, "true", says=says)
        assert result.out == b"", result
        assert self._kept() == before, result
        return result

    def _kept(self) -> list[str]:
        return sorted(f"{d}/{name}" for d in ("containers", "names", "tmp")
                      if (self.cli.store / d).is_dir() for name in os.listdir(self.cli.store / d)
                      if name != ".lock")

    def popen(self, *options: str, then: tuple[str, ...], **more: Any) -> Process:
        """A command line that is running."""
        return self.cli.popen("run", "--rm", *options, self.image, *then, **more)

    def terminal(self, *options: str, then: tuple[str, ...] = ("sh",), rows: int = 24,
                 columns: int = 80) -> Terminal:
        return self.cli.terminal("run", "--rm", *options, self.image, *then, rows=rows,
                                 columns=columns)

    @contextlib.contextmanager
    def running(self, *options: str, then: tuple[str, ...] = ("sleep", "1000"),
                name: str = "") -> Iterator[str]:
        """The name of a container that runs in the background; removed afterwards."""
        name = name or f"box-{next(_numbers)}"
        self.cli.ok("run", "-d", "--name", name, *options, self.image, *then)
        try:
            yield name
        finally:
            self.cli.ok("rm", "-f", name)


def eventually(holds: Callable[[], object], what: str, seconds: float = 15) -> None:
    """Wait for what no event tells."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.01)
