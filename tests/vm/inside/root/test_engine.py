"""Root may use the engine too."""

from __future__ import annotations

import os

import pytest

from tests.integration.support.cli import Cli


def test_the_doctor_says_that_containers_can_run(cli: Cli) -> None:
    found = {one["name"]: one for one in cli.ok("doctor", "--json").json}
    assert found["host"]["detail"].endswith(", root")
    assert found["limits"]["detail"].startswith("cgroup v2, "), found["limits"]


def test_a_container_runs(cli: Cli) -> None:
    done = cli.ok("run", "--rm", "host", "sh", "-c", "id -u; uname -r; cat /etc/os-release")
    with open("/etc/os-release") as release:
        assert done.text == f"0\n{os.uname().release}\n" + release.read().rstrip("\n")


@pytest.mark.parametrize("code", [0, 3, 255])
def test_an_exit_code_passes_through(cli: Cli, code: int) -> None:
    assert cli("run", "--rm", "host", "sh", "-c", f"exit {code}").rc == code
