"""The engine on a stock Debian: kernel 6.1, systemd, cgroup v2, a person who has logged in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.support.cli import Cli


@pytest.fixture(scope="module")
def found(cli: Cli) -> dict[str, dict[str, str]]:
    """What the doctor says, line by line; containers can run, or it would have failed."""
    return {one["name"]: one for one in cli.ok("doctor", "--json").json}


@pytest.mark.parametrize("name", ["user namespaces", "user ids", "store", "overlay", "system calls",
                                  "seccomp", "run directory", "FUSE", "TUN", "after logout"])
def test_the_doctor_finds(found: dict[str, dict[str, str]], name: str) -> None:
    assert found[name]["status"] == "ok", found[name]


def test_the_doctor_knows_the_kernel_and_the_person(found: dict[str, dict[str, str]]) -> None:
    assert found["host"]["detail"].startswith(f"Linux {os.uname().release}, Python 3.")
    assert "user (uid 1000)" in found["host"]["detail"]


def test_the_doctor_counts_the_subordinate_ids(found: dict[str, dict[str, str]]) -> None:
    assert found["user ids"]["detail"] == "65537 user ids and 65537 group ids"


def test_the_doctor_finds_the_delegated_controllers(found: dict[str, dict[str, str]]) -> None:
    limits = found["limits"]
    assert limits["status"] == "ok", limits
    assert limits["detail"].startswith("cgroup v2, ")
    assert {"cpu", "memory", "pids"} <= set(limits["detail"].replace(",", "").split())
    assert "user@1000.service" in limits["detail"]


def test_a_container_runs_as_its_root(cli: Cli) -> None:
    done = cli.ok("run", "--rm", "host", "sh", "-c", "id -u; uname -r; cat /etc/os-release")
    uid, kernel, *release = done.text.splitlines()
    assert (uid, kernel) == ("0", os.uname().release)
    assert kernel.startswith("6.1.")
    with open("/etc/os-release") as own:
        assert "\n".join(release) == own.read().rstrip("\n")


def test_files_made_by_a_containers_root_belong_to_the_person(cli: Cli, tmp_path: Path) -> None:
    cli.ok("run", "--rm", "-v", f"{tmp_path}:/mine", "host", "touch", "/mine/made")
    assert (tmp_path / "made").stat().st_uid == os.getuid()


def test_a_containers_root_has_the_subordinate_ids(cli: Cli) -> None:
    done = cli.ok("run", "--rm", "host", "cat", "/proc/self/uid_map")
    # Shown as seen from the namespace that holds all of the user's ids.
    assert done.text.split() == ["0", "0", "1", "1", "1", "65536"]


@pytest.mark.parametrize("code", [0, 1, 3, 125, 255])
def test_an_exit_code_passes_through(cli: Cli, code: int) -> None:
    assert cli("run", "--rm", "host", "sh", "-c", f"exit {code}").rc == code


def test_a_command_that_does_not_exist_is_127(cli: Cli) -> None:
    cli.fails(127, "run", "--rm", "host", "/no/such/command", says="/no/such/command")


def test_the_host_is_not_written_to(cli: Cli) -> None:
    cli.ok("run", "--rm", "host", "sh", "-c", "echo changed >/etc/hostname")
    assert Path("/etc/hostname").read_text() == "machine\n"


def test_nothing_is_left_after_the_containers(cli: Cli) -> None:
    cli.ok("run", "--rm", "host", "true")
    assert cli.ok("ps", "-aq").text == ""
