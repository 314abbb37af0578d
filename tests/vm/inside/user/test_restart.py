"""Started again in its scope of the user's systemd manager, where the monitor has stayed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.integration.support.cli import Cli
from tests.vm.inside.limits import cgroup_of, eventually, inspect


@pytest.fixture
def name(cli: Cli) -> Iterator[str]:
    yield "again"
    cli("rm", "-f", "again")


def test_one_that_is_paused_is_not_ill(cli: Cli, name: str) -> None:
    cli.ok("run", "-d", "--name", name, "--health-cmd", "true", "--health-interval", "500ms",
           "--health-retries", "1", "--health-on-failure", "kill", "host", "sleep", "1000",
           timeout=120)
    eventually(lambda: inspect(cli, name)["State"]["Health"]["Status"] == "healthy", "it is well",
               60)
    cli.ok("pause", name, timeout=120)
    time.sleep(4)
    assert inspect(cli, name)["State"]["Paused"] is True
    assert inspect(cli, name)["State"]["Health"]["Status"] == "healthy"
    cli.ok("unpause", name, timeout=120)
    assert inspect(cli, name)["State"]["Running"] is True


def test_the_policy_and_restart_find_the_scope_again(cli: Cli, name: str) -> None:
    cli.ok("run", "-d", "--name", name, "--restart", "always", "--pids-limit", "50", "host",
           "sleep", "1000", timeout=120)
    before = cgroup_of(cli, name)
    first = int(inspect(cli, name)["State"]["Pid"])
    os.kill(first, signal.SIGKILL)
    eventually(lambda: inspect(cli, name)["State"]["Pid"] not in (0, first), "it was started again")
    assert inspect(cli, name)["RestartCount"] == 1
    assert cgroup_of(cli, name) == before
    assert (before / "pids.max").read_text().strip() == "50"
    second = int(inspect(cli, name)["State"]["Pid"])
    cli.ok("restart", "-t", "0", name, timeout=120)
    assert inspect(cli, name)["State"]["Pid"] not in (0, second)
    assert (cgroup_of(cli, name) / "pids.max").read_text().strip() == "50"
    cli.ok("stop", "-t", "0", name, timeout=120)
    eventually(lambda: not before.exists(), "its cgroup is gone")
