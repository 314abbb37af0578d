"""Cases of containers' lives: many that end, many that start, long logs."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

from tests.bench.engines import Engine

Pairs = Iterator[tuple[float, float]]
MANY = 20
_RUN = ("run", "-d", "--network", "none", "--name")


def stop_and_remove(ours: Engine, theirs: Engine, image: str, rounds: int) -> Pairs:
    """Of idle containers that listen to SIGTERM, by one command each."""
    names = [f"s{n}" for n in range(MANY)]
    for _ in range(rounds):
        taken = []
        for engine in (ours, theirs):
            for name in names:
                engine(*_RUN, name, image, "sh", "-c", "trap exit TERM; sleep 1000 & wait")
            taken.append(engine.seconds("stop", *names) + engine.seconds("rm", *names))
        yield taken[0], taken[1]


def start_at_once(ours: Engine, theirs: Engine, image: str, rounds: int) -> Pairs:
    for _ in range(rounds):
        taken = []
        for engine in (ours, theirs):
            begin = time.perf_counter()
            running = [engine.popen(*_RUN, f"a{n}", image, "sleep", "1000") for n in range(MANY)]
            failed = sum(p.wait() != 0 for p in running)
            taken.append(time.perf_counter() - begin)
            if failed:
                raise RuntimeError(f"{engine.name}: {failed} of {MANY} failed")
            engine("rm", "-f", *(f"a{n}" for n in range(MANY)))
        yield taken[0], taken[1]


def long_log(ours: Engine, theirs: Engine, image: str, rounds: int) -> Pairs:
    """A million lines."""
    for engine in (ours, theirs):
        engine(*_RUN, "l", image, "sh", "-c", "seq 1000000")
        engine("wait", "l")
        lines = subprocess.run([*engine.program, "logs", "l"], env=engine.env, cwd=engine.home,
                               stdout=subprocess.PIPE, check=True).stdout.count(b"\n")
        if lines != 1000000:
            raise RuntimeError(f"{engine.name}: {lines} lines of a million")
    for _ in range(rounds):
        yield ours.seconds("logs", "l"), theirs.seconds("logs", "l")
    for engine in (ours, theirs):
        engine("rm", "l")


def ps_of_200(ours: Engine, theirs: Engine, image: str, rounds: int) -> Pairs:
    names = [f"w{n}" for n in range(200)]
    for engine in (ours, theirs):
        for name in names:
            engine("create", "--network", "none", "--name", name, image, "true")
    for _ in range(rounds):
        yield ours.seconds("ps", "-a"), theirs.seconds("ps", "-a")
    for engine in (ours, theirs):
        engine("rm", "-f", *names)
