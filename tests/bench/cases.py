"""What is measured. A case yields pairs (ours, theirs) in seconds, taken in turn."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.bench import builds, files, lives, networks
from tests.bench.engines import Engine
from tests.integration.support import leftovers, registry

Pairs = Iterator[tuple[float, float]]


class Case(NamedTuple):
    name: str
    goal: float
    measure: Callable[[Engine, Engine, str, int], Pairs]
    rounds: int
    image: str = "tiny"


def run_rm(ours: Engine, theirs: Engine, image: str, rounds: int) -> Pairs:
    words = ("run", "--rm", "--network", "none", image, "true")
    for _ in range(rounds):
        yield ours.seconds(*words), theirs.seconds(*words)


def run_detached(ours: Engine, theirs: Engine, image: str, rounds: int) -> Pairs:
    for n in range(rounds):
        words = ("run", "-d", "--network", "none", "--name", f"d{n}", image, "sleep", "1000")
        yield ours.seconds(*words), theirs.seconds(*words)
        for engine in (ours, theirs):
            engine("rm", "-f", f"d{n}")


def exec_true(ours: Engine, theirs: Engine, image: str, rounds: int) -> Pairs:
    for engine in (ours, theirs):
        engine("run", "-d", "--network", "none", "--name", "e", image, "sleep", "1000")
    for _ in range(rounds):
        yield ours.seconds("exec", "e", "true"), theirs.seconds("exec", "e", "true")
    for engine in (ours, theirs):
        engine("rm", "-f", "e")


def pull(ours: Engine, theirs: Engine, image: str, rounds: int) -> Pairs:
    """Each time into a new store, and none is removed before the end: ext4 takes no inode that
    was freed in the last minutes and looks at all of those again for every new file."""
    made: list[Engine] = []
    try:
        for number in range(rounds):
            pair = [engine.another(number) for engine in (ours, theirs)]
            made += pair
            for engine in pair:
                engine("images")
            first, second = (e.seconds("pull", "--tls-verify=false", image) for e in pair)
            yield first, second
    finally:
        os.chdir("/")
        for engine in made:
            engine.remove()


def save_load(ours: Engine, theirs: Engine, image: str, rounds: int) -> Pairs:
    """Into an archive, and in again in another store, as on another machine; that store is new
    for the reason `pull` has."""
    made: list[Engine] = []
    try:
        for engine in (ours, theirs):
            engine("pull", "--tls-verify=false", image)
        for number in range(rounds):
            taken = []
            for engine in (ours, theirs):
                other = engine.another(number)
                made.append(other)
                other("images")
                archive = str(engine.home / "image.tar")
                seconds = engine.seconds("save", "-o", archive, image)
                taken.append(seconds + other.seconds("load", "-i", archive))
                os.unlink(archive)
            yield taken[0], taken[1]
    finally:
        os.chdir("/")
        for engine in made:
            engine.remove()


def pull_again(ours: Engine, theirs: Engine, image: str, rounds: int) -> Pairs:
    words = ("pull", "--tls-verify=false", image)
    for _ in range(rounds):
        yield ours.seconds(*words), theirs.seconds(*words)


def push(ours: Engine, theirs: Engine, image: str, rounds: int) -> Pairs:
    """Each time to a registry that is new and empty: nothing is there, nothing can be mounted."""
    for engine in (ours, theirs):
        engine("pull", "--tls-verify=false", image)
    for _ in range(rounds):
        taken = []
        for engine in (ours, theirs):
            place = Path(tempfile.mkdtemp(prefix="registry-", dir=engine.home))
            server = registry.start(place / "work", place / "storage")
            try:
                taken.append(engine.seconds("push", "--tls-verify=false", image,
                                            f"{server.address}/bench:1"))
            finally:
                server.stop()
                shutil.rmtree(place)
        yield taken[0], taken[1]


def images_of_200(ours: Engine, theirs: Engine, image: str, rounds: int) -> Pairs:
    names = [f"localhost/name-{n}:1" for n in range(200)]
    for engine in (ours, theirs):
        for name in names:
            engine("tag", image, name)
    for _ in range(rounds):
        yield ours.seconds("images"), theirs.seconds("images")
    for engine in (ours, theirs):
        engine("rmi", *names)


def peak(engine: Engine, *words: str) -> float:
    """The most memory, in MB, that a command and all its children had at once: proportional set
    sizes, so that what they share counts once."""
    most = 0
    with engine.popen(*words) as process:
        while process.poll() is None:
            mine = [process.pid, *leftovers.descendants(process.pid)]
            most = max(most, sum(map(_pss, mine)))
            time.sleep(0.01)
    if process.returncode:
        raise RuntimeError(f"{engine.name} {' '.join(words)}: exit {process.returncode}")
    return most / 1024


def memory(ours: Engine, theirs: Engine, image: str, count: int) -> tuple[float, float]:
    """Proportional set size, in MB, of what stays for one idle container, of `count`."""
    found = []
    for engine, words in ((ours, ("rootless", "sleep")), (theirs, ("conmon",))):
        before = _monitors(words)
        for n in range(count):
            engine("run", "-d", "--network", "none", "--name", f"m{n}", image, "sleep", "1000")
        new = _monitors(words) - before
        found.append(sum(_pss(pid) for pid in new) / count / 1024)
        engine("rm", "-f", *(f"m{n}" for n in range(count)))
    return found[0], found[1]


def _monitors(words: tuple[str, ...]) -> set[int]:
    """Our processes whose command line has all the words."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                line = Path(f"/proc/{name}/cmdline").read_bytes().decode(errors="replace")
                mine = os.stat(f"/proc/{name}").st_uid == os.getuid()
            except OSError:
                continue
            if mine and all(word in line for word in words):
                found.add(int(name))
    return found


def _pss(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:                                     # it has ended
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)


def ratio(pairs: list[tuple[float, float]]) -> tuple[float, float, float]:
    """(median of ours, median of theirs, median of the ratios pair by pair)."""
    return (statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs),
            statistics.median(a / b for a, b in pairs))


CASES = {
    "run": Case("run --rm --network none", 0.35, run_rm, 15),
    "network": Case("the default network adds", 0.5, networks.added_to_run, 15),
    "exec": Case("exec", 0.35, exec_true, 15),
    "detach": Case("run -d", 0.6, run_detached, 11),
    "ps": Case("ps -a of 200", 1.0, lives.ps_of_200, 9),
    "stop": Case("stop and rm of 20", 0.6, lives.stop_and_remove, 5),
    "at-once": Case("run -d, 20 at once", 0.6, lives.start_at_once, 5),
    "logs": Case("logs of a million lines", 0.5, lives.long_log, 5),
    "pull": Case("pull, one layer of 100 MB", 0.5, pull, 5, "big"),
    "pull-12": Case("pull, 12 layers of 20 MB", 0.6, pull, 5, "twelve"),
    "pull-again": Case("pull of what is there", 0.5, pull_again, 15),
    "push": Case("push, one layer of 100 MB", 0.4, push, 5, "big"),
    "push-12": Case("push, 12 layers of 20 MB", 0.4, push, 5, "twelve"),
    "images": Case("images of 200 names", 1.0, images_of_200, 11),
    "cp-in": Case("cp of 500 MB in", 1.0, files.cp_in, 5),
    "cp-out": Case("cp of 500 MB out", 1.0, files.cp_out, 5),
    "cp-tree": Case("cp of 5,000 files in", 1.0, files.cp_tree, 5),
    "volume": Case("run with a new volume", 0.5, files.volume, 9),
    "save": Case("save and load, 100 MB", 0.6, save_load, 5, "big"),
    "build": Case("build of 10 steps", 0.4, builds.ten_steps, 5),
    "build-cached": Case("the same, cached", 0.6, builds.ten_cached, 9),
    "build-copy": Case("COPY of 5,000 files, 100 MB", 0.5, builds.copy_files, 5),
    "build-stages": Case("two stages of 2 s", 0.6, builds.two_stages, 3),
}
