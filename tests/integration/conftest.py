"""Registries, images and command lines for the integration tests."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootless.userns.keeper import LIFETIME
from tests.integration.support import filled, leftovers, registry
from tests.integration.support.box import Box, eventually
from tests.integration.support.cli import Cli
from tests.integration.support.faults import Proxy
from tests.integration.support.registry import Registry

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def ground() -> Iterator[Path]:
    """A directory for this session that the engine's subordinate ids can reach. Afterwards
    nothing may be left: no process, no mount, no file outside."""
    leftovers.adopt_orphans()
    before = leftovers.mounts(), leftovers.strays()
    path = Path(tempfile.mkdtemp(prefix="rl-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    end = time.monotonic() + 5
    while (running := leftovers.descendants()) and time.monotonic() < end:
        time.sleep(0.05)
    for pid in running:
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            pass
    filled.remove_tree(path)
    # A monitor that was still deleting when the keeper was stopped makes another; that one is a
    # cache, which ends by itself, and is no container's.
    left = {pid: line for pid, line in running.items() if line != f"sleep {LIFETIME}"}
    assert not left, f"processes left behind: {left}"
    assert leftovers.mounts() <= before[0], "mounts left behind"
    new = {f for f in leftovers.strays() - before[1] if "/pytest-of-" not in f}
    assert not new, f"files left outside the store: {sorted(new)}"


@pytest.fixture(scope="session")
def storage(ground: Path) -> Path:
    """The filled registry storage, a copy for this session."""
    copy = ground / "registry-storage"
    subprocess.run(["cp", "-a", "--reflink=auto", str(filled.storage()), str(copy)], check=True)
    return copy


@pytest.fixture(scope="session")
def server(ground: Path, storage: Path) -> Iterator[Registry]:
    """The plain registry; `server.address` is localhost:PORT."""
    running = registry.start(ground / "registry", storage)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def password_server(ground: Path, storage: Path) -> Iterator[Registry]:
    """Wants registry.USER and registry.PASSWORD."""
    running = registry.start(ground / "registry-password", storage, password=True)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def tls_server(ground: Path, storage: Path) -> Iterator[Registry]:
    """Speaks TLS with a certificate signed by `tls_server.ca`, which nobody trusts by default."""
    running = registry.start(ground / "registry-tls", storage, tls=True)
    yield running
    running.stop()


@pytest.fixture
def proxy(server: Registry) -> Iterator[Proxy]:
    """A registry with faults, before the plain one."""
    running = Proxy(server.address)
    yield running
    running.close()


def _finish(cli: Cli) -> None:
    """Remove all containers and the helper process, and see that the store agrees."""
    listed = cli("ps", "-aq")
    if listed.text.split():
        cli("rm", "-f", *listed.text.split())
    left = {d: found for d in ("containers", "names", "tmp") if (cli.store / d).is_dir()
            and (found := sorted(set(os.listdir(cli.store / d)) - {".lock"}))}
    # Monitors of --rm may still be deleting, and need the helper for it.
    eventually(lambda: not (cli.store / "trash").is_dir() or not os.listdir(cli.store / "trash"),
               "the trash is empty")
    cli("system", "stop")
    assert not left, f"left in the store after every container was removed: {left}"


@pytest.fixture(scope="session")
def cli(ground: Path) -> Iterator[Cli]:
    """The session's command line: one store, whose images are pulled once."""
    one = Cli(ground / "home", ground / "run")
    yield one
    _finish(one)


@pytest.fixture
def fresh(ground: Path) -> Iterator[Cli]:
    """A command line with an empty store and an empty home of its own."""
    number = next(_numbers)
    one = Cli(ground / f"home-{number}", ground / f"run-{number}")
    yield one
    _finish(one)
    filled.remove_tree(one.home)
    shutil.rmtree(one.runtime, ignore_errors=True)


@pytest.fixture(scope="session")
def tiny(cli: Cli, server: Registry) -> str:
    """Name of the quick image, pulled into the session's store."""
    name = f"{server.address}/tiny:latest"
    cli.ok("pull", name)
    return name


@pytest.fixture(scope="session")
def box(cli: Cli, tiny: str) -> Box:
    """Containers of the quick image."""
    return Box(cli, tiny)
