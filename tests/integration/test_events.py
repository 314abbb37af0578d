"""events: what the verbs tell the journal, and how it is read."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.integration.support.box import Box, eventually
from tests.integration.support.cli import Cli


@pytest.fixture
def name(cli: Cli) -> Iterator[str]:
    yield "eventful"
    cli("rm", "-f", "eventful", "uneventful")


def actions(cli: Cli, *options: str, since: float = 0) -> list[str]:
    return cli.ok("events", "--stream=false", "--since", f"{since:.6f}", *options,
                  "--format", "{{.Action}}").text.splitlines()


def test_a_life_is_told_in_order(box: Box, name: str) -> None:
    cli, begin = box.cli, time.time()
    cli("run", "--name", name, "--label", "colour=red", box.image, "sh", "-c", "sleep 0.3; exit 3")
    cli.ok("start", name)
    cli.ok("wait", name)
    cli.ok("rename", name, "uneventful")
    cli.ok("rm", "uneventful")
    assert actions(cli, "--filter", "label=colour=red", since=begin) == [
        "create", "start", "attach", "die", "start", "die", "rename", "destroy"]
    rows = [json.loads(line) for line in cli.ok(
        "events", "--stream=false", "--since", str(begin), "--filter", "event=die", "--filter",
        "label=colour=red", "--format", "json").text.splitlines()]
    assert [r["Actor"]["Attributes"]["exitCode"] for r in rows] == ["3", "3"]
    assert rows[0]["Actor"]["Attributes"]["image"] == box.image
    assert rows[0]["Type"] == "container"


def test_what_is_done_to_one_that_runs(box: Box, name: str) -> None:
    cli, begin = box.cli, time.time()
    cli.ok("run", "-d", "--name", name, "--health-cmd", "true", "--health-interval", "50ms",
           box.image, "sleep", "1000")
    eventually(lambda: "health_status: healthy" in actions(cli, since=begin), "it is well")
    cli.ok("exec", name, "true")
    cli.ok("top", name)
    cli.ok("kill", "-s", "WINCH", name)
    cli.ok("restart", "-t", "0", name)
    cli.ok("stop", "-t", "0", name)
    cli.ok("rm", name)
    told = [a for a in actions(cli, "--filter", f"container={name}", since=begin)
            if not a.startswith("health_status")]
    assert told == ["create", "start", "exec_create: true", "exec_start: true", "exec_die", "top",
                    "kill", "kill", "die", "start", "restart", "kill", "die", "stop", "destroy"]


def test_one_that_is_removed_at_its_end_tells_it(box: Box, name: str) -> None:
    begin = time.time()
    box.cli.ok("run", "-d", "--rm", "--name", name, box.image, "true")
    eventually(lambda: actions(box.cli, "--filter", f"container={name}", since=begin)
               == ["create", "start", "die", "destroy"], "its whole life")


def test_following_shows_what_comes_and_nothing_before(box: Box, name: str) -> None:
    box.cli.ok("create", "--name", name, box.image, "true")
    with box.cli.popen("events", "--filter", "type=container", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        time.sleep(0.5)
        box.cli.ok("rm", name)
        line = process.stdout.readline().decode()
        process.kill()
    assert " container destroy " in line
    assert f"name={name}" in line


def test_until_is_the_end(box: Box, name: str) -> None:
    began = time.monotonic()
    assert box.cli.ok("events", "--since", "1s", "--until", f"{time.time() + 0.5:.3f}", "--filter",
                      "container=none-such").text == ""
    assert 0.3 < time.monotonic() - began < 10
    assert box.cli.ok("events", "--since", "2000-01-01", "--until", "2000-01-02").text == ""


def test_images_volumes_and_networks_tell_too(fresh: Cli, box: Box) -> None:
    fresh.ok("pull", "-q", box.image)
    fresh.ok("tag", box.image, "other:1")
    fresh.ok("volume", "create", "v")
    fresh.ok("volume", "rm", "v")
    fresh.ok("network", "create", "n")
    fresh.ok("network", "rm", "n")
    fresh.ok("rmi", "other:1", box.image)
    shown = fresh.ok("events", "--stream=false", "--format", "{{.Type}} {{.Action}}").text
    assert shown.splitlines()[:8] == [
        "image pull", "image tag", "volume create", "volume destroy", "network create",
        "network destroy", "image untag", "image untag"]
    assert "image delete" in shown
    assert fresh.ok("events", "--stream=false", "--filter", "volume=v", "--format",
                    "{{.Action}}").text.split() == ["create", "destroy"]


def test_what_makes_no_sense_is_refused(cli: Cli) -> None:
    cli.fails(125, "events", "--since", "whenever", says="invalid time")
    cli.fails(125, "events", "--filter", "colour=red", says="invalid filter")
