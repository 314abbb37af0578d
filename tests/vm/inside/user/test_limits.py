"""Limits in transient scopes of the user's systemd manager, which Debian gives cpu, memory and
pids."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.support.cli import Cli
from tests.vm.inside import limits
from tests.vm.inside.limits import CGROUP, cgroup_of, eventually, inspect

MANAGER = CGROUP / "user.slice/user-1000.slice/user@1000.service"
SCOPES = MANAGER / "rootless.slice"
# Ids are of 64 letters; what serves several containers has a scope of another name.
CONTAINERS = "rootless-" + "?" * 64 + ".scope"


@pytest.fixture
def name(cli: Cli) -> Iterator[str]:
    yield "limited"
    cli("rm", "-f", "limited")


def scope(cli: Cli, name: str) -> Path:
    return cgroup_of(cli, name).parent


def systemctl(*words: str) -> str:
    return subprocess.run(["systemctl", "--user", *words], stdout=subprocess.PIPE, text=True,
                          check=True).stdout


def show(cli: Cli, name: str) -> dict[str, str]:
    """The properties of its scope."""
    lines = systemctl("show", scope(cli, name).name).splitlines()
    return dict(line.split("=", 1) for line in lines)


def monitor_of(cli: Cli, name: str) -> int:
    pid = inspect(cli, name)["State"]["Pid"]
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


def test_a_container_is_a_scope_that_systemctl_shows(cli: Cli, name: str) -> None:
    cli.ok("run", "-d", "--name", name, "--cpu-shares", "2048", "--memory-reservation", "16m",
           "--stop-timeout", "3", "host", "sleep", "100")
    assert scope(cli, name).parent == SCOPES
    shown = systemctl("status", scope(cli, name).name)
    assert f"container {name}" in shown
    assert "sleep 100" in shown
    monitor = Path(f"/proc/{monitor_of(cli, name)}/cgroup").read_text().strip()
    assert monitor == f"0::/{scope(cli, name).relative_to(CGROUP)}/monitor", "not under the limits"
    assert cgroup_of(cli, name).name == "container"
    properties = show(cli, name)
    assert [properties[p] for p in ("Delegate", "CPUWeight", "MemoryLow", "TimeoutStopUSec")] == \
        ["yes", "200", str(16 << 20), "3s"]
    cli.ok("rm", "-f", name)
    eventually(lambda: not SCOPES.exists() or not list(SCOPES.glob(CONTAINERS)),
               "its scope is gone")


def test_a_hog_is_killed_at_its_memory_limit_and_known(cli: Cli, name: str) -> None:
    limits.hog_is_killed(cli, name)


def test_half_a_processor_is_half(cli: Cli, name: str) -> None:
    limits.half_a_processor(cli, name)


def test_a_fork_bomb_is_stopped(cli: Cli, name: str) -> None:
    limits.fork_bomb(cli, name)


def test_shares_of_one_to_three_get_one_to_three(cli: Cli) -> None:
    limits.shares(cli)


def test_update_changes_one_that_runs(cli: Cli, name: str) -> None:
    cli.ok("run", "-d", "--name", name, "--memory", "64m", "host", "sleep", "100")
    where = cgroup_of(cli, name)
    cli.ok("update", "--cpu-shares", "512", "--memory", "96m", "--memory-swap", "96m", name)
    assert (where / "memory.max").read_text() == f"{96 << 20}\n"
    assert (where / "memory.swap.max").read_text() == "0\n"
    assert show(cli, name)["CPUWeight"] == "50"
    cli.ok("stop", "-t", "0", name)
    cli.ok("start", name)
    assert show(cli, name)["CPUWeight"] == "50"


def test_paused_is_stopped_and_goes_on(cli: Cli, name: str, tmp_path: Path) -> None:
    limits.pause(cli, name, tmp_path)


def test_stats_show_what_is_used(cli: Cli, name: str) -> None:
    limits.stats(cli, name)


def test_exec_is_under_the_limits_although_it_comes_from_a_session(cli: Cli, name: str) -> None:
    cli.ok("run", "-d", "--name", name, "--pids-limit", "5", "host", "sleep", "100")
    cli.ok("exec", "-d", name, "sleep", "99")
    where = cgroup_of(cli, name)
    eventually(lambda: "sleep\0" "99" in "".join(
        Path(f"/proc/{pid}/cmdline").read_text()
        for pid in (where / "cgroup.procs").read_text().split()), "exec is in the cgroup")
    bomb = "for i in 1 2 3 4 5 6; do sleep 9 & done; wait"
    assert "fork" in cli("exec", name, "sh", "-c", bomb).error.lower()


@pytest.mark.parametrize("option, controller", [
    ("--cpuset-cpus=0", "cpuset"), ("--device-read-bps=/dev/vda:1m", "io")])
def test_a_controller_that_is_not_delegated_is_named_with_the_line_that_mends_it(
        cli: Cli, option: str, controller: str) -> None:
    failed = cli.fails(125, "run", "--rm", option, "host", "true",
                       says=f"the {controller} controller is not delegated")
    assert option.partition("=")[0] in failed.error
    assert "Delegate=cpu cpuset io memory pids" in failed.error
    assert cli.ok("ps", "-aq").text == ""


def test_inside_limits_are_seen_and_cannot_be_changed(cli: Cli, name: str) -> None:
    limits.inside(cli, name)


def test_a_nested_cgroup_that_the_container_gave_away_is_removed(cli: Cli, name: str) -> None:
    cli.ok("run", "--name", name, "host", "sh", "-ec",
           "mkdir -p /sys/fs/cgroup/a/b; chown 7:7 /sys/fs/cgroup/a /sys/fs/cgroup/a/b")
    cli.ok("rm", name)
    eventually(lambda: not SCOPES.exists() or not list(SCOPES.glob(CONTAINERS)),
               "its scope is gone")


def test_the_hosts_cgroup_namespace_shows_the_hosts_tree_read_only(cli: Cli) -> None:
    script = "cd /sys/fs/cgroup; ls -d user.slice; cat /proc/self/cgroup; mkdir x || true"
    done = cli.ok("run", "--rm", "--cgroupns", "host", "host", "sh", "-c", script)
    assert done.text.startswith("user.slice\n0::/user.slice/user-1000.slice/")
    assert "Read-only" in done.error


def test_the_hosts_network_leaves_the_cgroup_its_own(cli: Cli) -> None:
    done = cli.ok("run", "--rm", "--network", "host", "--memory", "64m", "host", "cat",
                  "/sys/fs/cgroup/memory.max", "/proc/self/cgroup")
    assert done.text == f"{64 << 20}\n0::/"


def test_another_slice_can_be_named(cli: Cli, name: str) -> None:
    cli.ok("run", "-d", "--name", name, "--cgroup-parent", "mine.slice", "host", "sleep", "100")
    assert scope(cli, name).parent == MANAGER / "mine.slice"
    assert inspect(cli, name)["HostConfig"]["CgroupParent"] == "mine.slice"


def test_after_kill_9_of_the_monitor_the_cgroup_goes_with_the_container(cli: Cli,
                                                                        name: str) -> None:
    cli.ok("run", "-d", "--name", name, "host", "sh", "-c", "setsid sleep 100 & sleep 100")
    where = scope(cli, name)
    os.kill(monitor_of(cli, name), signal.SIGKILL)
    eventually(lambda: not where.exists(), "the scope is gone")
    assert cli.ok("ps", "-a", "--format", "{{.State}}").text == "exited"
    cli.ok("start", name)
    assert scope(cli, name) == where


def test_one_that_is_restarted_has_its_limits_again(cli: Cli, name: str) -> None:
    cli.ok("run", "-d", "--name", name, "--restart", "on-failure:1", "--memory", "64m", "host",
           "sh", "-c", "cat /sys/fs/cgroup/memory.max; exit 3")
    eventually(lambda: inspect(cli, name)["State"]["Status"] == "exited", "it ends for good")
    assert cli.ok("logs", name).text.split() == [str(64 << 20)] * 2


def test_stopping_the_scope_ends_the_container_and_is_recorded(cli: Cli, name: str) -> None:
    cli.ok("run", "-d", "--name", name, "host", "sh", "-c", "trap 'exit 5' TERM; sleep 100 & wait")
    systemctl("stop", scope(cli, name).name)
    assert cli.ok("wait", name).text == "5"


def test_disabled_by_the_configuration(cli: Cli, name: str, tmp_path: Path) -> None:
    settings = tmp_path / "config.toml"
    settings.write_text('cgroups = "disabled"\n')
    env = {"ROOTLESS_CONFIG": str(settings)}
    cli.ok("run", "-d", "--name", name, "host", "sleep", "100", env=env)
    assert "rootless.slice" not in str(cgroup_of(cli, name))
    cli.fails(1, "pause", name, says="disabled in config.toml", env=env)
    cli.fails(125, "run", "--rm", "--memory", "64m", "host", "true", says="disabled", env=env)
