"""What networks cost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.bench.engines import Engine
from tests.integration.support import leftovers


def added_to_run(ours: Engine, theirs: Engine, image: str, rounds: int) -> Iterator[
        tuple[float, float]]:
    """What the default network adds to `run`, with another container on it already."""
    for engine in (ours, theirs):
        engine("run", "-d", "--name", "n", image, "sleep", "1000")
    for _ in range(rounds):
        pair = [engine.seconds("run", "--rm", image, "true")
                - engine.seconds("run", "--rm", "--network", "none", image, "true")
                for engine in (ours, theirs)]
        yield pair[0], pair[1]
    for engine in (ours, theirs):
        engine("rm", "-f", "n")


def memory(ours: Engine, image: str) -> list[tuple[str, float]]:
    """(process, MB that are its own or its share of) of the network's processes."""
    ours("run", "-d", "--name", "n", image, "sleep", "1000")
    found = []
    for pid, line in leftovers.descendants().items():
        if line.startswith("rootless network "):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            kib = sum(int(row.split()[1]) for row in text.splitlines() if row.startswith("Pss:"))
            found.append((line.rpartition(" ")[2], kib / 1024))
    ours("rm", "-f", "n")
    return found
