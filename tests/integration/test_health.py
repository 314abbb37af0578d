"""Health checks, run by the monitor with no other daemon."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.support import images, leftovers
from tests.integration.support.box import Box, eventually
from tests.integration.support.cli import Cli
from tests.integration.support.images import Image
from tests.integration.support.registry import Registry
from tests.integration.test_isolation import layers_of


@pytest.fixture
def name(cli: Cli) -> Iterator[str]:
    yield "checked"
    cli("rm", "-f", "checked")


def start(box: Box, name: str, command: str, *options: str, then: str = "sleep 1000") -> None:
    box.cli.ok("run", "-d", "--name", name, "--health-cmd", command, "--health-interval", "100ms",
               *options, box.image, "sh", "-c", then)


def health(cli: Cli, name: str) -> dict[str, Any]:
    found: dict[str, Any] = cli.ok("inspect", name).json[0]["State"]["Health"]
    return found


def becomes(cli: Cli, name: str, status: str) -> dict[str, Any]:
    eventually(lambda: health(cli, name)["Status"] == status, f"it is {status}")
    return health(cli, name)


def test_it_is_starting_then_healthy_then_unhealthy(box: Box, name: str) -> None:
    start(box, name, "echo looked; test -e /well", "--health-start-period", "1000s",
          "--health-start-interval", "100ms", "--health-retries", "2")
    assert health(box.cli, name) ["Status"] == "starting"
    ps = ("ps", "--filter", f"name={name}", "--format", "{{.Status}}")
    assert box.cli.ok(*ps).text.endswith(" (health: starting)")
    box.cli.ok("exec", name, "touch", "/well")
    now = becomes(box.cli, name, "healthy")
    assert box.cli.ok(*ps).text.endswith(" (healthy)")
    assert now["FailingStreak"] == 0
    assert now["Log"][-1]["ExitCode"] == 0
    assert now["Log"][-1]["Output"] == "looked\n"
    assert now["Log"][-1]["Start"] < now["Log"][-1]["End"]
    box.cli.ok("exec", name, "rm", "/well")
    now = becomes(box.cli, name, "unhealthy")
    assert now["FailingStreak"] >= 2
    assert box.cli.ok(*ps).text.endswith(" (unhealthy)")
    assert box.cli.ok("ps", "-q", "--filter", "health=unhealthy").text != ""
    assert box.cli.ok(*ps, "--filter", "health=healthy").text == ""
    eventually(lambda: len(health(box.cli, name)["Log"]) == 5, "five are kept")
    box.cli.ok("stop", "-t", "0", name)
    assert "health" not in box.cli.ok("ps", "-a", "--filter", f"name={name}").text


def test_a_check_that_takes_too_long_is_killed_and_has_failed(box: Box, name: str) -> None:
    start(box, name, "echo begun; sleep 2000", "--health-timeout", "300ms", "--health-retries", "1")
    now = becomes(box.cli, name, "unhealthy")
    assert now["Log"][-1]["ExitCode"] == -1
    assert now["Log"][-1]["Output"] == "Health check exceeded timeout (0.3s)"
    box.cli.ok("stop", "-t", "0", name)
    eventually(lambda: not [p for p in leftovers.descendants().values() if "sleep 2000" in p],
               "its process is gone")


def test_what_a_check_says_is_cut_and_may_be_any_byte(box: Box, name: str) -> None:
    start(box, name, "head -c 100000 /dev/zero; exit 1", "--health-retries", "1")
    now = becomes(box.cli, name, "unhealthy")
    assert now["Log"][-1]["Output"] == "\0" * 4096


def test_a_check_runs_as_the_containers_user_with_its_environment(box: Box, name: str) -> None:
    start(box, name, "id -u; echo $WORD; exit 0", "-u", "1000", "-e", "WORD=said")
    assert becomes(box.cli, name, "healthy")["Log"][-1]["Output"] == "1000\nsaid\n"


def test_a_command_that_is_not_there_has_failed(box: Box, name: str) -> None:
    start(box, name, '["/none"]', "--health-retries", "1")
    now = becomes(box.cli, name, "unhealthy")
    assert now["Log"][-1]["ExitCode"] == 127
    assert "/none" in now["Log"][-1]["Output"]


@pytest.mark.parametrize("action, left", [("kill", "exited"), ("stop", "exited")])
def test_an_unhealthy_one_is_ended_when_asked_for(box: Box, name: str, action: str,
                                                  left: str) -> None:
    start(box, name, "exit 1", "--health-retries", "1", "--health-on-failure", action,
          then="trap 'exit 5' TERM; while :; do sleep 0.1; done")
    eventually(lambda: box.cli.ok("inspect", "-f", "{{.State.Status}}", name).text == left,
               "it ended")
    code = box.cli.ok("inspect", "-f", "{{.State.ExitCode}}", name).text
    assert code == {"kill": "137", "stop": "5"}[action]


def test_an_unhealthy_one_is_started_again_when_asked_for(box: Box, name: str) -> None:
    start(box, name, "test ! -e /sick", "--health-retries", "1", "--health-on-failure", "restart",
          then="echo run; exec sleep 1000")
    becomes(box.cli, name, "healthy")
    before = box.cli.ok("inspect", "-f", "{{.State.Pid}}", name).text
    box.cli.ok("exec", name, "sh", "-c", "touch /sick; kill -9 1 2>/dev/null; true")
    eventually(lambda: box.cli.ok("inspect", "-f", "{{.State.Pid}}", name).text
               not in ("0", before), "it was started again", seconds=30)


def test_the_policy_brings_back_what_was_killed_for_its_health(box: Box, name: str) -> None:
    start(box, name, "exit 1", "--health-retries", "1", "--health-on-failure", "kill", "--restart",
          "on-failure:2")
    eventually(lambda: box.cli.ok("inspect", "-f", "{{.State.Status}} {{.RestartCount}}",
                                  name).text == "exited 2", "it was given two more tries", 30)
    box.refuses("--health-cmd", "true", "--health-on-failure", "restart", "--restart", "always",
                says="--restart")


def test_the_images_check_holds_unless_another_is_given(box: Box, server: Registry,
                                                        name: str) -> None:
    config = {"Env": ["PATH=/bin"], "Cmd": ["sleep", "1000"],
              "Healthcheck": {"Test": ["CMD-SHELL", "echo images; exit 0"],
                              "Interval": 100_000_000, "Retries": 1}}
    images.push(server.address, "checked", "latest", Image(layers_of(server), config))
    reference = f"{server.address}/checked:latest"
    box.cli.ok("pull", "-q", reference)
    box.cli.ok("run", "-d", "--name", name, reference)
    assert becomes(box.cli, name, "healthy")["Log"][-1]["Output"] == "images\n"
    (found,) = box.cli.ok("inspect", name).json
    assert found["Config"]["Healthcheck"]["Test"] == ["CMD-SHELL", "echo images; exit 0"]
    assert found["Config"]["Healthcheck"]["Interval"] == 100_000_000
    box.cli.ok("rm", "-f", name)
    box.cli.ok("run", "-d", "--name", name, "--health-cmd", "exit 1", reference)
    becomes(box.cli, name, "unhealthy")
    box.cli.ok("rm", "-f", name)
    box.cli.ok("run", "-d", "--name", name, "--no-healthcheck", reference)
    (found,) = box.cli.ok("inspect", name).json
    assert "Health" not in found["State"]
    box.cli.ok("rm", "-f", name)
    box.cli.ok("rmi", reference)


def test_checks_leave_nothing_in_the_monitor(box: Box, name: str) -> None:
    """Neither descriptors nor children nor a terminal's worth of memory, over many checks."""
    start(box, name, "head -c 10000 /dev/zero", "--health-interval", "20ms")
    becomes(box.cli, name, "healthy")
    state = Path(box.cli.ok("inspect", "-f", "{{.LogPath}}", name).text).with_name("state.json")
    pid = json.loads(state.read_text())["monitor"]

    def weight() -> tuple[int, int]:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        resident = next(int(line.split()[1]) for line in text.splitlines()
                        if line.startswith("Rss:"))
        return len(os.listdir(f"/proc/{pid}/fd")), resident

    first = health(box.cli, name)["Log"][-1]["End"]
    eventually(lambda: len([e for e in health(box.cli, name)["Log"] if e["Start"] > first]) == 5,
               "five more")
    weights = [weight()]        # with all loaded that a check needs
    for _ in range(3):
        for _ in range(8):
            last = health(box.cli, name)["Log"][-1]["End"]
            while health(box.cli, name)["Log"][0]["Start"] <= last:
                time.sleep(0.05)
        weights.append(weight())
    assert weights[-1][0] <= weights[0][0] + 1
    # The interpreter takes memory in large pieces, now and then; a leak takes some each time.
    assert min(b - a for (_, a), (_, b) in zip(weights, weights[1:])) < 100, weights


@pytest.mark.parametrize("options", [
    ("--health-interval", "often"), ("--health-timeout", "-1s"), ("--health-retries", "0"),
    ("--health-on-failure", "cry"), ("--no-healthcheck", "--health-cmd", "true"),
    ("--health-start-period", "5")])
def test_what_makes_no_sense_is_refused(box: Box, options: tuple[str, ...]) -> None:
    box.refuses(*options)
