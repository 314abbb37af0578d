"""What is in use never goes and what is not never stays, whatever runs at the same time and
whenever it is killed."""

from __future__ import annotations

import functools
import gzip
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.support import images
from tests.integration.support.box import eventually
from tests.integration.support.cli import Cli, Result
from tests.integration.support.images import Image, Layer, Tar, oci_archive
from tests.integration.support.registry import Registry

FOLDERS = ("layers", "tmp", "trash", "images/blobs/sha256")


def is_empty(cli: Cli) -> None:
    """Nothing of any image is left on the disk."""
    assert cli.ok("images", "-aq").text == "" and cli.ok("ps", "-aq").text == ""
    eventually(lambda: not os.listdir(cli.store / "trash"), "the trash is empty")
    assert {f: os.listdir(cli.store / f) for f in FOLDERS} == {f: [] for f in FOLDERS}
    assert [n for n in os.listdir(cli.store / "cache") if n.startswith("blob-of-")] == []


def remove_all(cli: Cli) -> None:
    if made := cli.ok("ps", "-aq").text.split():
        cli.ok("rm", "-f", *made)
    if there := cli.ok("images", "-aq").text.split():
        cli.ok("rmi", "-f", *there)


class World:
    """Three images that share layers, two in a registry and one in a file."""

    def __init__(self, cli: Cli, server: Registry, folder: Path) -> None:
        self.cli = cli
        self.tiny = f"{server.address}/tiny:latest"
        self.more = f"{server.address}/more:1"
        self.file = folder / "file.tar"
        _, _, body = images.request(server.address, "GET", "/v2/tiny/manifests/latest",
                                    headers={"Accept": images.OCI + "manifest.v1+json"})
        base = [Layer(gzip.decompress(server.blob_file(layer["digest"]).read_bytes()))
                for layer in json.loads(body)["layers"]]
        # Large enough that a moment can be in the middle of it.
        shared = Layer(Tar().file("shared", os.urandom(3_000_000)).bytes(), "none")
        own = [Layer(Tar().file("own", os.urandom(2_000_000)).bytes()) for _ in range(2)]
        images.push(server.address, "more", "1", Image([*base, shared, own[0]], {"Cmd": ["sh"]}))
        self.file.write_bytes(oci_archive(Image([*base, shared, own[1]], {"Cmd": ["sh"]}),
                                          "localhost/file:1"))

    @property
    def names(self) -> list[str]:
        return [self.tiny, self.more, "localhost/file:1"]

    def fetch(self, name: str) -> tuple[str, ...]:
        return ("load", "-q", "-i", str(self.file)) if "file" in name else ("pull", "-q", name)

    def works(self) -> None:
        """Each image can be had, run and removed; then nothing is left."""
        for name in self.names:
            self.cli.ok(*self.fetch(name))
            assert self.cli.ok("run", "--rm", name, "echo", "runs").text == "runs"
        remove_all(self.cli)
        is_empty(self.cli)


@pytest.fixture
def world(fresh: Cli, server: Registry, ground: Path) -> Iterator[World]:
    made = World(fresh, server, fresh.home)
    yield made
    remove_all(fresh)


# ---- at the same time --------------------------------------------------------------------------

# What a command may say when another was faster; anything else is a fault.
EXCUSES = ("no such image", "was removed meanwhile", "was made from it", "runs from it",
           "no such container")


def excused(result: Result) -> Result:
    lines = [line for line in result.error.splitlines() if line.startswith("rootless: ")]
    assert result.rc == 0 or (lines and all(any(e in line for e in EXCUSES) for line in lines)), \
        result
    return result


def at_once(*works: Callable[[], None]) -> None:
    """All of them in threads; the first failure is raised here."""
    failed: list[AssertionError] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except AssertionError as e:
            failed.append(e)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def test_everything_at_once(world: World) -> None:
    """Pulls, loads, tags, containers and removals of the same layers against each other."""
    cli, rounds = world.cli, 8
    ran = 0

    def fetch() -> None:
        for n in range(rounds):
            cli.ok(*world.fetch(world.names[n % 3]))

    def run() -> None:
        nonlocal ran
        for n in range(rounds):
            result = excused(cli("run", "--rm", "--network", "none", "--pull=never",
                                 world.names[n % 3], "cat", "/etc/passwd", "/bin/busybox"))
            if result.rc == 0:
                assert b"nobody" in result.out and len(result.out) > 100_000
                ran += 1

    def create() -> None:
        for n in range(rounds):
            name = f"c{n}-{threading.get_ident()}"
            if excused(cli("create", "--network", "none", "--pull=never", "--name", name,
                           world.names[n % 3], "cat", "/bin/busybox")).rc == 0:
                time.sleep(0.05)
                assert len(cli.ok("start", "-a", name).out) > 100_000
                cli.ok("rm", name)

    def remove() -> None:
        for n in range(rounds * 2):
            excused(cli("rmi", "-f", world.names[n % 3]))
            time.sleep(0.03)

    def tag() -> None:
        for n in range(rounds):
            if excused(cli("tag", world.names[n % 3], f"tagged:{n}")).rc == 0:
                excused(cli("rmi", f"tagged:{n}"))

    cli.ok(*world.fetch(world.tiny))
    at_once(fetch, fetch, run, run, create, remove, tag)
    for name in world.names:
        cli.ok(*world.fetch(name))
        assert cli.ok("run", "--rm", name, "echo", "runs").text == "runs"
    remove_all(cli)
    is_empty(cli)
    assert ran


def test_removals_at_once_leave_nothing(world: World) -> None:
    cli = world.cli

    def fetch(name: str) -> None:
        cli.ok(*world.fetch(name))

    def remove(name: str) -> None:
        excused(cli("rmi", name))

    for _ in range(3):
        at_once(*(functools.partial(fetch, name) for name in world.names))
        at_once(*(functools.partial(remove, name) for name in world.names * 2))
        is_empty(cli)


def test_layers_of_a_container_stay_until_it_goes(world: World) -> None:
    cli = world.cli
    cli.ok(*world.fetch(world.more))
    cli.ok("create", "--name", "keeps", world.more, "cat", "/shared", "/own")
    cli.ok(*world.fetch("localhost/file:1"))
    cli.ok("rmi", "localhost/file:1")
    cli.ok("rmi", "-f", world.more)
    assert len(os.listdir(cli.store / "layers")) == 4
    assert len(cli.ok("start", "-a", "keeps").out) == 5_000_000
    cli.ok("rm", "keeps")
    # The next removal finds them unused.
    cli.ok(*world.fetch(world.tiny))
    cli.ok("rmi", world.tiny)
    is_empty(cli)


# ---- kill -9 -----------------------------------------------------------------------------------

def killed(cli: Cli, words: tuple[str, ...], moment: float, *, alone: bool) -> None:
    """`alone`: only the command, as by a hand; else all of its processes, as by the kernel."""
    process = cli.popen(*words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                        start_new_session=True)
    time.sleep(moment)
    try:
        if alone:
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def moments(longest: float, count: int) -> list[float]:
    """One in each of as many equal parts of the time."""
    part = longest / count
    return [(n + random.random()) * part for n in range(count)]


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "with its children"])
@pytest.mark.parametrize("which", [1, 2], ids=["pull", "load"])
def test_killed_while_it_comes(which: int, alone: bool, world: World) -> None:
    cli, name = world.cli, world.names[which]
    begin = time.monotonic()
    cli.ok(*world.fetch(name))
    whole = time.monotonic() - begin
    cli.ok("rmi", name)
    for moment in moments(whole, 8):
        killed(cli, world.fetch(name), moment, alone=alone)
        listed = cli.ok("images", "--format", "{{.Repository}}:{{.Tag}}").text.split()
        if listed:
            assert listed == [name], listed
            assert cli.ok("run", "--rm", name, "echo", "whole").text == "whole"
            cli.ok("rmi", name)
    world.works()


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "with its children"])
def test_killed_while_it_goes(alone: bool, world: World) -> None:
    cli = world.cli
    cli.ok(*world.fetch(world.tiny))
    for moment in moments(0.12, 8):
        cli.ok(*world.fetch(world.more))
        killed(cli, ("rmi", world.more), moment, alone=alone)
        # What shares its layers is whole.
        assert cli.ok("run", "--rm", world.tiny, "echo", "whole").text == "whole"
    world.works()


def test_killed_while_it_is_named(world: World) -> None:
    cli = world.cli
    cli.ok(*world.fetch(world.tiny))
    for number, moment in enumerate(moments(0.08, 12)):
        killed(cli, ("tag", world.tiny, f"name:{number}"), moment, alone=True)
        names = cli.ok("images", "--format", "{{.Repository}}:{{.Tag}}").text.split()
        assert world.tiny in names and set(names) <= {world.tiny} | {
            f"name:{n}" for n in range(number + 1)}
        assert cli.ok("run", "--rm", world.tiny, "echo", "whole").text == "whole"
    world.works()
