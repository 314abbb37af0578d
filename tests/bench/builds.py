"""Builds. Each engine gets the same Dockerfile and context."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tests.bench.engines import Engine

Pairs = Iterator[tuple[float, float]]

WORDS = ("build", "-q", "-t", "bench", "--network", "none")


def _context(engine: Engine, name: str, dockerfile: str) -> Path:
    where = engine.home / name
    where.mkdir()
    (where / "Dockerfile").write_text(dockerfile)
    return where


def _steps(image: str) -> str:
    return f"FROM {image}\n" + "".join(f"RUN echo {n} > /f{n}\n" for n in range(10))


def ten_steps(ours: Engine, theirs: Engine, image: str, rounds: int) -> Pairs:
    contexts = [_context(e, "ten", _steps(image)) for e in (ours, theirs)]
    for _ in range(rounds):
        yield (ours.seconds(*WORDS, "--no-cache", str(contexts[0])),
               theirs.seconds(*WORDS, "--no-cache", str(contexts[1])))


def ten_cached(ours: Engine, theirs: Engine, image: str, rounds: int) -> Pairs:
    contexts = [_context(e, "cached", _steps(image)) for e in (ours, theirs)]
    for engine, context in zip((ours, theirs), contexts):
        engine(*WORDS, str(context))
    for _ in range(rounds):
        yield (ours.seconds(*WORDS, str(contexts[0])), theirs.seconds(*WORDS, str(contexts[1])))


def copy_files(ours: Engine, theirs: Engine, image: str, rounds: int) -> Pairs:
    """5,000 files, 100 MB."""
    contexts = [_context(e, "files", f"FROM {image}\nCOPY data /data\n") for e in (ours, theirs)]
    for context in contexts:
        for n in range(50):
            directory = context / "data" / str(n)
            directory.mkdir(parents=True)
            for m in range(100):
                (directory / f"{m}").write_bytes(os.urandom(10 << 10) * 2)
    for _ in range(rounds):
        yield (ours.seconds(*WORDS, "--no-cache", str(contexts[0])),
               theirs.seconds(*WORDS, "--no-cache", str(contexts[1])))


def two_stages(ours: Engine, theirs: Engine, image: str, rounds: int) -> Pairs:
    """Two that do not need each other, of two seconds each."""
    text = (f"FROM {image} AS a\nRUN sleep 2; echo a > /a\n"
            f"FROM {image} AS b\nRUN sleep 2; echo b > /b\n"
            f"FROM {image}\nCOPY --from=a /a /a\nCOPY --from=b /b /b\n")
    contexts = [_context(e, "stages", text) for e in (ours, theirs)]
    for _ in range(rounds):
        yield (ours.seconds(*WORDS, "--no-cache", str(contexts[0])),
               theirs.seconds(*WORDS, "--no-cache", str(contexts[1])))
