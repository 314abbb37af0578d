"""Limits where the kernel cannot hold them: a container runs, and a wish is an error, never
dropped. Where it can: tests/vm."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.support.box import Box
from tests.integration.support.cli import Cli

WISHES = [
    ("--memory=64m", "memory"), ("--memory-reservation=64m", "memory"), ("--cpus=0.5", "cpu"),
    ("--cpu-shares=512", "cpu"), ("--cpu-quota=5000", "cpu"), ("--cpu-period=5000", "cpu"),
    ("--cpuset-cpus=0", "cpuset"), ("--cpuset-mems=0", "cpuset"), ("--pids-limit=10", "pids"),
    ("--blkio-weight=100", "io"), ("--cgroup-conf=memory.high=1000000", "memory")]


def configured(box: Box, settings: Path, text: str) -> Box:
    settings.write_text(text)
    return Box(Cli(box.cli.home, box.cli.runtime, ROOTLESS_CONFIG=str(settings)), box.image)


@pytest.fixture
def without(box: Box, tmp_path: Path) -> Box:
    """Containers of somebody who has turned cgroups off."""
    return configured(box, tmp_path / "config.toml", 'cgroups = "disabled"\n')


@pytest.mark.parametrize("option, controller", WISHES)
def test_a_limit_that_cannot_be_held_names_option_controller_reason_and_remedy(
        without: Box, option: str, controller: str) -> None:
    refused = without.refuses(option, says=f"cannot set {option.partition('=')[0]}: no "
                                           f"{controller} controller: cgroups are disabled")
    assert 'hint: cgroups = "auto" in config.toml' in refused.error


@pytest.mark.parametrize("parent", ["mine.slice", "/mine"])
def test_a_place_that_cannot_be_is_an_error(without: Box, parent: str) -> None:
    without.refuses("--cgroup-parent", parent, says=f"cannot use --cgroup-parent {parent}: cgroups "
                                                    "are disabled")


def test_no_container_is_made_with_a_limit_that_cannot_be_held(without: Box) -> None:
    before = without.cli.ok("ps", "-aq").text
    without.cli.fails(1, "create", "--memory", "64m", without.image, says="cannot set --memory")
    assert without.cli.ok("ps", "-aq").text == before


@pytest.mark.parametrize("options", [
    (), ("--memory=0", "--cpus=0", "--pids-limit=-1"), ("--cgroupns=host",),
    ("--cgroupns=private",), ("--oom-kill-disable=false",)])
def test_without_limits_it_runs(without: Box, options: tuple[str, ...]) -> None:
    assert without.sh("echo here", *options) == "here"


def test_what_needs_a_cgroup_says_why_there_is_none(without: Box) -> None:
    with without.running() as name:
        for words in (("pause", name), ("unpause", name), ("stats", "--no-stream", name),
                      ("update", "--memory", "64m", name)):
            without.cli.fails(1, *words, says="cgroups are disabled in config.toml")
        assert without.cli.ok("inspect", "-f", "{{.State.Paused}} {{.HostConfig.Memory}}",
                              name).text == "false 0"


def test_they_need_a_container_that_runs(without: Box) -> None:
    name = without.cli.ok("create", "--name", "idle", without.image, "true").text
    try:
        for verb in ("pause", "unpause"):
            without.cli.fails(1, verb, "idle", says="is not running")
            assert without.cli.ok(verb, "--all").text == ""
        assert without.cli.ok("stats", "--no-stream", "idle").text.splitlines()[1].split()[2:] \
            == ["--"] * 6
        without.cli.fails(1, "update", "--memory", "64m", "idle", says="cannot set --memory")
        assert without.cli.ok("inspect", "-f", "{{.HostConfig.Memory}}", "idle").text == "0"
        for verb in ("pause", "unpause", "update"):
            more = ("--memory=64m",) if verb == "update" else ()
            without.cli.fails(1, verb, *more, "no-such", says="no such container: no-such")
    finally:
        without.cli.ok("rm", name)


def test_update_wants_something_to_change(without: Box) -> None:
    without.cli.fails(125, "update", "any", says="no limit to change is given")
    without.cli.fails(125, "update", "--memory", "64m", says="at least 1 argument")


def test_the_setting_has_four_words(box: Box, tmp_path: Path) -> None:
    other = configured(box, tmp_path / "config.toml", 'cgroups = "sometimes"\n')
    refused = other.refuses(says="unknown value 'sometimes'")
    for word in ("auto", "systemd", "direct", "disabled"):
        assert f'cgroups = "{word}"' in refused.error


def test_inspect_shows_dockers_fields_of_limits(without: Box) -> None:
    with without.running() as name:
        host = without.cli.ok("inspect", name).json[0]["HostConfig"]
    assert {key: host[key] for key in (
        "Memory", "MemorySwap", "MemoryReservation", "NanoCpus", "CpuShares", "CpuQuota",
        "CpuPeriod", "CpusetCpus", "CpusetMems", "PidsLimit", "BlkioWeight", "BlkioDeviceReadBps",
        "BlkioDeviceWriteBps", "BlkioDeviceReadIOps", "BlkioDeviceWriteIOps", "OomKillDisable",
        "CgroupnsMode", "CgroupParent")} == {
        "Memory": 0, "MemorySwap": 0, "MemoryReservation": 0, "NanoCpus": 0, "CpuShares": 0,
        "CpuQuota": 0, "CpuPeriod": 0, "CpusetCpus": "", "CpusetMems": "", "PidsLimit": None,
        "BlkioWeight": 0, "BlkioDeviceReadBps": [], "BlkioDeviceWriteBps": [],
        "BlkioDeviceReadIOps": [], "BlkioDeviceWriteIOps": [], "OomKillDisable": False,
        "CgroupnsMode": "private", "CgroupParent": ""}
