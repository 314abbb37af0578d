"""From options to files of a cgroup."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.cgroup import limits, make
from rootless.cgroup.limits import Setting
from rootless.cli import limits as options_of
from rootless.cli.command import Command, Options, parse
from rootless.cli.run import COMMANDS
from rootless.errors import HostError, RootlessError, StartError, UsageError


def options(*words: str) -> Options:
    return parse(COMMANDS["create"], [*words, "image"])


def files(*words: str) -> dict[str, str]:
    return {s.file: s.value for s in limits.settings(options_of.of_new(options(*words)))}


@pytest.mark.parametrize("words, expected", [
    (("-m", "64m"), {"memory.max": "67108864", "memory.swap.max": "67108864"}),
    (("--memory=64m", "--memory-swap=100m"),
     {"memory.max": "67108864", "memory.swap.max": "37748736"}),
    (("--memory=64m", "--memory-swap=64m"), {"memory.max": "67108864", "memory.swap.max": "0"}),
    (("--memory=64m", "--memory-swap=-1"), {"memory.max": "67108864", "memory.swap.max": "max"}),
    (("--memory-reservation=16m",), {"memory.low": "16777216"}),
    (("--cpus=0.5",), {"cpu.max": "50000 100000"}),
    (("--cpus=.25",), {"cpu.max": "25000 100000"}),
    (("--cpu-quota=20000",), {"cpu.max": "20000 100000"}),
    (("--cpu-quota=20000", "--cpu-period=50000"), {"cpu.max": "20000 50000"}),
    (("--cpu-period=50000",), {"cpu.max": "max 50000"}),
    (("-c", "1024"), {"cpu.weight": "100"}),
    (("--cpu-shares=2",), {"cpu.weight": "1"}),
    (("--cpu-shares=262144",), {"cpu.weight": "10000"}),
    (("--cpuset-cpus=0-1,3", "--cpuset-mems=0"), {"cpuset.cpus": "0-1,3", "cpuset.mems": "0"}),
    (("--pids-limit=7",), {"pids.max": "7"}),
    (("--blkio-weight=500",), {"io.weight": "default 100", "io.bfq.weight": "500"}),
    (("--cgroup-conf=memory.high=1", "--cgroup-conf=misc.max=a b=c"),
     {"memory.high": "1", "misc.max": "a b=c"}),
    # Nothing is asked for.
    ((), {}),
    (("--memory=0", "--cpus=0", "--pids-limit=0", "--cpu-shares=0", "--cpuset-cpus=",
      "--blkio-weight=0", "--memory-swap=0"), {}),
    (("--cpu-quota=-1", "--cpu-period=0"), {}),
    (("--pids-limit=-1",), {}),
])
def test_an_option_is_what_v2_calls_it(words: tuple[str, ...], expected: dict[str, str]) -> None:
    assert files(*words) == expected


@pytest.mark.parametrize("words, says", [
    (("--memory=5m",), "the least is 6m"),
    (("--memory-swap=64m",), "without --memory"),
    (("--memory=64m", "--memory-swap=32m"), "cannot be below --memory"),
    (("--memory=64m", "--memory-reservation=65m"), "above --memory"),
    (("--cpus=1", "--cpu-quota=1000"), "together"),
    (("--cpus=0.001",), "there are"),
    (("--oom-kill-disable",), "cgroup v2 has no way"),
    (("--cpu-shares=many",), "not a number"),
])
def test_what_no_cgroup_can_hold_is_refused(words: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        files(*words)
    assert says in str(caught.value)


@given(st.integers(2, 262144), st.integers(2, 262144))
def test_weights_keep_the_order_and_the_proportion_of_shares(one: int, other: int) -> None:
    weights = limits.weight(one, 1024), limits.weight(other, 1024)
    assert (one <= other) <= (weights[0] <= weights[1])
    for shares, weight in zip((one, other), weights):
        if 11 <= shares <= 102400:
            assert shares / 10.24 - 1 < weight <= shares / 10.24


def test_what_counts_among_neighbours_is_set_on_the_scope() -> None:
    resources = options_of.of_new(options(
        "-c", "2048", "--blkio-weight", "250", "--memory-reservation", "8m", "--memory", "64m"))
    assert limits.properties(resources) == [
        ("CPUWeight", ("t", 200)), ("IOWeight", ("t", 50)), ("MemoryLow", ("t", 8 << 20))]


def changed(before: tuple[str, ...], *words: str) -> dict[str, str]:
    update = Command("update", "", "", lambda _: 0, options_of.CHANGEABLE)
    old = options_of.of_new(options(*before))
    new = options_of.resources(parse(update, list(words)))
    return {s.file: s.value for s in limits.settings(limits.merge(old, new))}


@pytest.mark.parametrize("before, words, expected", [
    (("-m", "64m"), ("-m", "32m"), {"memory.max": "33554432", "memory.swap.max": "33554432"}),
    (("-m", "64m"), ("--pids-limit", "5"),
     {"memory.max": "67108864", "memory.swap.max": "67108864", "pids.max": "5"}),
    (("-m", "64m"), ("-m", "0"), {"memory.max": "max", "memory.swap.max": "max"}),
    (("--cpus=1",), ("--cpus=0.5",), {"cpu.max": "50000 100000"}),
    (("--cpus=1",), ("--cpus=0",), {"cpu.max": "max 100000"}),
    (("--cpu-quota=5000",), ("--cpu-period=10000",), {"cpu.max": "5000 10000"}),
    (("--pids-limit=9",), ("--pids-limit=-1",), {"pids.max": "max"}),
    ((), ("-c", "512"), {"cpu.weight": "50"}),
])
def test_update_changes_what_it_names_and_keeps_the_rest(
        before: tuple[str, ...], words: tuple[str, ...], expected: dict[str, str]) -> None:
    assert changed(before, *words) == expected


@pytest.mark.parametrize("before, words, says", [
    (("--cpus=1",), ("--cpu-quota=5000",), "cannot combine"),
    (("--cpu-quota=5000",), ("--cpus=1",), "cannot combine"),
    (("-m", "64m", "--memory-swap=80m"), ("-m", "90m"), "above --memory-swap"),
    ((), ("--memory-swap=80m",), "without --memory"),
])
def test_update_refuses_what_contradicts(before: tuple[str, ...], words: tuple[str, ...],
                                         says: str) -> None:
    with pytest.raises(UsageError) as caught:
        changed(before, *words)
    assert says in str(caught.value)


def test_a_throttle_of_a_device_replaces_that_of_the_same_device() -> None:
    def one(minor: int, rate: int) -> dict[str, Any]:
        return {"major": 8, "minor": minor, "rate": rate, "path": f"/dev/sd{minor}"}

    old = {"blockIO": {"throttleReadBpsDevice": [one(0, 1), one(16, 2)]}}
    new = {"blockIO": {"throttleReadBpsDevice": [one(16, 3)], "weight": 100}}
    found = [s.value for s in limits.settings(limits.merge(old, new)) if s.file == "io.max"]
    assert found == ["8:0 rbps=1", "8:16 rbps=3"]
    assert [d["rate"] for d in old["blockIO"]["throttleReadBpsDevice"]] == [1, 2]


def test_a_partition_is_throttled_by_its_disk(tmp_path: Path) -> None:
    disk = tmp_path / "devices/sda"
    (disk / "sda1").mkdir(parents=True)
    (disk / "dev").write_text("8:0\n")
    (disk / "sda1/partition").write_text("1\n")
    (tmp_path / "dev/block").mkdir(parents=True)
    (tmp_path / "dev/block/8:1").symlink_to(disk / "sda1")
    (tmp_path / "dev/block/8:0").symlink_to(disk)
    assert options_of.disk(8, 1, str(tmp_path)) == (8, 0)
    assert options_of.disk(8, 0, str(tmp_path)) == (8, 0)


@given(st.sets(st.integers(0, 500), min_size=1))
def test_a_list_of_processors_is_read_as_the_kernel_writes_it(wanted: set[int]) -> None:
    ranges: list[list[int]] = []
    for number in sorted(wanted):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    text = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)
    assert limits.numbers(text + "\n") == wanted


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-1", "1,,2", "0-70000", "1 2"])
def test_what_is_no_list_of_processors_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        limits.numbers(text)


def cgroup(where: Path, *names: str, controllers: str = "cpu memory") -> Path:
    where.mkdir()
    for name in names:
        (where / name).write_text("")
    (where / "cgroup.controllers").write_text(controllers + "\n")
    return where


def test_all_that_is_wanted_is_written(tmp_path: Path) -> None:
    own = cgroup(tmp_path / "own", "memory.max", "cpu.max")
    make.apply(str(own), str(tmp_path), [Setting("memory.max", "1", "--memory"),
                                         Setting("memory.swap.max", "1", ""),
                                         Setting("cpu.max", "1 2", "--cpus")])
    assert (own / "memory.max").read_text() == "1"
    assert (own / "cpu.max").read_text() == "1 2"
    assert not (own / "memory.swap.max").exists()


def test_one_file_of_two_is_enough_for_an_option(tmp_path: Path) -> None:
    both = [Setting("io.weight", "default 1", "--blkio-weight"),
            Setting("io.bfq.weight", "1", "--blkio-weight")]
    own = cgroup(tmp_path / "own", "io.bfq.weight", controllers="io")
    make.apply(str(own), str(tmp_path), both)
    assert (own / "io.bfq.weight").read_text() == "1"
    none = cgroup(tmp_path / "none", controllers="io")
    with pytest.raises(StartError) as caught:
        make.apply(str(none), str(tmp_path), both)
    assert "this kernel has no io.weight" in str(caught.value)


def test_a_missing_controller_is_named_with_its_option(tmp_path: Path) -> None:
    own = cgroup(tmp_path / "own", controllers="cpu")
    with pytest.raises(HostError) as caught:
        make.apply(str(own), str(tmp_path), [Setting("memory.max", "1", "--memory")])
    assert "cannot set --memory: the memory controller is not delegated" in str(caught.value)


def test_processors_that_are_not_there_are_refused(tmp_path: Path) -> None:
    """The kernel would take the list and use all."""
    own = cgroup(tmp_path / "own", "cpuset.cpus")
    (tmp_path / "cpuset.cpus.effective").write_text("0-3\n")
    make.apply(str(own), str(tmp_path), [Setting("cpuset.cpus", "1-2", "--cpuset-cpus")])
    with pytest.raises(RootlessError) as caught:
        make.apply(str(own), str(tmp_path), [Setting("cpuset.cpus", "3-4", "--cpuset-cpus")])
    assert "there are 0-3" in str(caught.value)


def test_controllers_are_handed_out_once(tmp_path: Path) -> None:
    parent = cgroup(tmp_path / "parent", "cgroup.procs", controllers="cpu memory rdma")
    (parent / "cgroup.subtree_control").write_text("cpu")
    make.enable(str(parent))
    assert (parent / "cgroup.subtree_control").read_text() == "+memory"
    assert os.listdir(tmp_path) == ["parent"]
