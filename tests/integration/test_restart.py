"""Restart policies, `restart`, and --timeout: what the monitor does when a container has ended."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.support.box import Box, eventually
from tests.integration.support.cli import Cli


@pytest.fixture
def name(cli: Cli) -> Iterator[str]:
    """Of the container of a test."""
    yield "restarted"
    cli("rm", "-f", "restarted")


def state(cli: Cli, name: str) -> dict[str, Any]:
    (found,) = cli.ok("inspect", name).json
    return {**found["State"], "Count": found["RestartCount"]}


def start(box: Box, name: str, *options: str, then: str) -> None:
    box.cli.ok("run", "-d", "--name", name, *options, box.image, "sh", "-c", then)


def lines(cli: Cli, name: str) -> list[str]:
    return cli.ok("logs", name).text.split()


def test_always_starts_it_again_whatever_it_said(box: Box, name: str) -> None:
    start(box, name, "--restart", "always", then="echo run; exit 0")
    eventually(lambda: len(lines(box.cli, name)) >= 4, "it ran four times")
    now = state(box.cli, name)
    assert now["Running"] is True
    assert now["Count"] >= 3
    (found,) = box.cli.ok("inspect", name).json
    assert found["HostConfig"]["RestartPolicy"] == {"Name": "always", "MaximumRetryCount": 0}


def test_on_failure_counts_its_tries_and_keeps_the_last_code(box: Box, name: str) -> None:
    start(box, name, "--restart", "on-failure:2", then="echo run; exit 7")
    eventually(lambda: state(box.cli, name)["Status"] == "exited", "it gave up")
    now = state(box.cli, name)
    assert (now["ExitCode"], now["Count"], len(lines(box.cli, name))) == (7, 2, 3)


def test_on_failure_leaves_success_alone(box: Box, name: str, tmp_path: Path) -> None:
    start(box, name, "--restart", "on-failure", "-v", f"{tmp_path}:/v",
          then="[ -e /v/x ] && exit 0; touch /v/x; exit 1")
    eventually(lambda: state(box.cli, name)["Status"] == "exited", "it was content")
    now = state(box.cli, name)
    assert (now["ExitCode"], now["Count"]) == (0, 1)


def test_what_waits_to_be_started_again_is_shown_so(box: Box, name: str) -> None:
    start(box, name, "--restart", "always", then="exit 3")
    eventually(lambda: state(box.cli, name)["Count"] >= 4, "the waits are longer than a look")
    eventually(lambda: state(box.cli, name)["Restarting"], "it waits")
    now = state(box.cli, name)
    assert (now["Status"], now["Running"], now["Pid"]) == ("restarting", True, 0)
    assert now["ExitCode"] == 3
    listed = box.cli.ok("ps", "--filter", f"name={name}", "--filter", "status=restarting",
                        "--format", "{{.Status}}").text
    assert listed.startswith("Restarting (3) ")
    assert listed.endswith(" ago")
    box.cli.fails(1, "rm", name, says="it is restarting")
    began = time.monotonic()
    box.cli.ok("stop", name)
    assert time.monotonic() - began < 5
    assert state(box.cli, name)["Status"] == "exited"


@pytest.mark.parametrize("end", [("stop", "-t", "5"), ("kill",), ("kill", "-s", "TERM")])
@pytest.mark.parametrize("policy", ["always", "unless-stopped", "on-failure"])
def test_what_was_ended_on_purpose_stays_ended(box: Box, name: str, policy: str,
                                               end: tuple[str, ...]) -> None:
    start(box, name, "--restart", policy, then="trap 'exit 9' TERM; sleep 1000 & wait")
    box.cli.ok(*end, name)
    eventually(lambda: state(box.cli, name)["Status"] == "exited", "it ended")
    time.sleep(0.3)
    now = state(box.cli, name)
    assert (now["Status"], now["Count"]) == ("exited", 0)
    box.cli.ok("start", name)
    assert state(box.cli, name)["Status"] == "running"


def test_a_signal_that_is_not_to_stop_it_leaves_the_policy(box: Box, name: str) -> None:
    start(box, name, "--restart", "always", then="trap 'exit 4' USR1; sleep 1000 & wait")
    time.sleep(0.2)
    box.cli.ok("kill", "-s", "USR1", name)
    eventually(lambda: state(box.cli, name)["Count"] == 1, "it was started again")
    eventually(lambda: state(box.cli, name)["Status"] == "running", "it runs")


def test_removed_by_force_it_is_gone_for_good(box: Box, name: str) -> None:
    for pause in (0.0, 0.15, 0.4):
        start(box, name, "--restart", "always", then="exit 1")
        time.sleep(pause)
        box.cli.ok("rm", "-f", name)
        assert box.cli.ok("ps", "-aq", "--filter", f"name={name}").text == ""
    eventually(lambda: not os.listdir(box.cli.store / "trash"), "its files are gone")


def test_a_killed_first_process_is_replaced(box: Box, name: str) -> None:
    start(box, name, "--restart", "always", then="sleep 1000")
    before = state(box.cli, name)["Pid"]
    os.kill(before, signal.SIGKILL)
    eventually(lambda: state(box.cli, name)["Pid"] not in (0, before), "another one runs")
    now = state(box.cli, name)
    assert (now["Status"], now["Count"]) == ("running", 1)
    assert box.cli.ok("exec", name, "echo", "here").text == "here"


def test_it_is_started_again_after_the_keeper_was_killed(box: Box, name: str) -> None:
    start(box, name, "--restart", "always", then="sleep 1000")
    box.cli.ok("system", "stop")
    os.kill(state(box.cli, name)["Pid"], signal.SIGKILL)
    eventually(lambda: state(box.cli, name)["Count"] == 1, "another one runs")
    eventually(lambda: state(box.cli, name)["Status"] == "running", "it runs")


def test_the_log_and_those_who_follow_it_go_on(box: Box, name: str) -> None:
    start(box, name, "--restart", "on-failure:2", then="sleep 0.2; echo run; exit 1")
    assert box.cli.ok("logs", "-f", name).text.split() == ["run"] * 3


def test_a_command_in_the_foreground_ends_with_the_first_run(box: Box, name: str) -> None:
    result = box.cli("run", "--name", name, "--restart", "on-failure:1", box.image, "sh", "-c",
                     "echo run; exit 6")
    assert (result.rc, result.out) == (6, b"run\n")
    eventually(lambda: lines(box.cli, name) == ["run", "run"], "it went on alone")


def test_a_command_that_is_not_found_is_no_reason_to_try_again(box: Box, name: str) -> None:
    box.cli.fails(127, "run", "-d", "--name", name, "--restart", "always", box.image, "/none")
    assert state(box.cli, name)["Status"] == "exited"


def test_a_policy_that_makes_no_sense_is_refused(box: Box) -> None:
    box.refuses("--restart", "sometimes", says="on-failure[:N]")
    box.refuses("--restart", "always:3", says="number")
    box.refuses("--restart", "always", says="--rm")


# ---- restart -----------------------------------------------------------------------------------

def test_restart_ends_it_and_starts_it_again(box: Box, name: str) -> None:
    start(box, name, then="trap 'echo bye; exit 0' TERM; echo hello; sleep 1000 & wait")
    eventually(lambda: lines(box.cli, name) == ["hello"], "it has begun")
    before = state(box.cli, name)
    assert box.cli.ok("restart", name).text == name
    now = state(box.cli, name)
    assert now["Pid"] != before["Pid"]
    assert now["Status"] == "running"
    assert now["StartedAt"] > before["StartedAt"]
    eventually(lambda: lines(box.cli, name) == ["hello", "bye", "hello"], "both runs are there")


def test_restart_kills_what_does_not_listen(box: Box, name: str) -> None:
    start(box, name, then="trap '' TERM INT; sleep 1000 & wait; sleep 1000")
    before = state(box.cli, name)["Pid"]
    box.cli.ok("restart", "-t", "0", name)
    assert state(box.cli, name)["Pid"] not in (0, before)
    box.cli.ok("restart", "-s", "KILL", name)


def test_restart_starts_what_does_not_run(box: Box, name: str) -> None:
    box.cli.ok("create", "--name", name, box.image, "sleep", "1000")
    result = box.cli.fails(1, "restart", "none-such", name, says="no such container")
    assert result.text == name
    assert state(box.cli, name)["Status"] == "running"


def test_restart_keeps_what_is_removed_at_its_end(box: Box, name: str) -> None:
    start(box, name, "--rm", then="sleep 1000")
    box.cli.ok("restart", "-t", "0", name)
    assert state(box.cli, name)["Status"] == "running"
    box.cli.ok("stop", "-t", "0", name)
    assert box.cli.ok("ps", "-aq", "--filter", f"name={name}").text == ""


def test_restart_is_not_counted(box: Box, name: str) -> None:
    start(box, name, "--restart", "always", then="sleep 1000")
    box.cli.ok("restart", "-t", "0", name)
    assert state(box.cli, name)["Count"] == 0
    os.kill(state(box.cli, name)["Pid"], signal.SIGKILL)
    eventually(lambda: state(box.cli, name)["Count"] == 1, "the policy still holds")


def test_many_restart_one_at_once(box: Box, name: str) -> None:
    start(box, name, then="sleep 1000")
    running = [box.cli.popen("restart", "-t", "0", name, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE) for _ in range(5)]
    for process in running:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0 or b"somebody else" in err, err
    assert state(box.cli, name)["Status"] == "running"


# ---- --timeout ---------------------------------------------------------------------------------

def test_one_that_runs_too_long_is_killed(box: Box) -> None:
    began = time.monotonic()
    assert box("--timeout", "1", then=("sleep", "1000")).rc == 137
    assert 0.9 < time.monotonic() - began < 10
    assert box("--timeout", "1", "-u", "1000", then=("sleep", "1000")).rc == 137
    assert box("--timeout", "1000", then=("sh", "-c", "exit 3")).rc == 3
    box.refuses("--timeout", "-1", says="below zero")
