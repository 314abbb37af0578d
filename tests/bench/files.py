"""Files on their way into containers and out of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from tests.bench.engines import Engine

Pairs = Iterator[tuple[float, float]]

MB = 500
SMALL = 5000


def _prepared(ours: Engine, theirs: Engine, image: str, make: Callable[[Engine], None]) -> None:
    for engine in (ours, theirs):
        engine("run", "-d", "--network", "none", "--name", "files", image, "sleep", "1000")
        make(engine)


def _big(engine: Engine) -> None:
    with open(engine.home / "big", "wb") as f:
        for _ in range(MB):
            f.write(os.urandom(1 << 20))


def _tree(engine: Engine) -> None:
    for n in range(SMALL):
        path = engine.home / f"tree/{n % 50}/{n}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 2000)


def _in(ours: Engine, theirs: Engine, name: str, rounds: int, *, removed: bool) -> Pairs:
    for number in range(rounds):
        first, second = (e.seconds("cp", str(e.home / name), f"files:/tmp/{number}")
                         for e in (ours, theirs))
        for engine in (ours, theirs) if removed else ():
            engine("exec", "files", "rm", "-r", f"/tmp/{number}")
        yield first, second
    for engine in (ours, theirs):
        engine("rm", "-f", "files")


def cp_in(ours: Engine, theirs: Engine, image: str, rounds: int) -> Pairs:
    _prepared(ours, theirs, image, _big)
    yield from _in(ours, theirs, "big", rounds, removed=True)


def cp_tree(ours: Engine, theirs: Engine, image: str, rounds: int) -> Pairs:
    """Nothing is removed in between, as freed inodes slow those that come after."""
    _prepared(ours, theirs, image, _tree)
    yield from _in(ours, theirs, "tree", rounds, removed=False)


def cp_out(ours: Engine, theirs: Engine, image: str, rounds: int) -> Pairs:
    _prepared(ours, theirs, image, _big)
    for engine in (ours, theirs):
        engine("cp", str(engine.home / "big"), "files:/tmp/big")
    for _ in range(rounds):
        first, second = (e.seconds("cp", "files:/tmp/big", str(e.home / "out"))
                         for e in (ours, theirs))
        for engine in (ours, theirs):
            os.unlink(engine.home / "out")
        yield first, second
    for engine in (ours, theirs):
        engine("rm", "-f", "files")


def volume(ours: Engine, theirs: Engine, image: str, rounds: int) -> Pairs:
    """A container with a new volume, filled from the image's /bin."""
    for number in range(rounds):
        words = ("run", "--rm", "--network", "none", "-v", f"v{number}:/etc", image, "true")
        yield ours.seconds(*words), theirs.seconds(*words)
