"""The machine is what the other cases take it for."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.integration.support.cli import Cli

CGROUP = Path("/sys/fs/cgroup")


def test_the_user_is_ordinary_and_logged_in() -> None:
    assert os.getuid() == 1000
    assert "/user.slice/user-1000.slice/session-" in Path("/proc/self/cgroup").read_text()


def test_the_user_manager_has_delegated_controllers() -> None:
    assert Path("/proc/self/cgroup").read_text().startswith("0::/")
    manager = CGROUP / "user.slice/user-1000.slice/user@1000.service"
    assert {"cpu", "memory", "pids"} <= set((manager / "cgroup.controllers").read_text().split())
    assert os.access(manager / "cgroup.subtree_control", os.W_OK)


def test_the_user_manager_starts_scopes() -> None:
    done = subprocess.run(["systemd-run", "--user", "--scope", "--quiet", "-p", "MemoryMax=64M",
                           "cat", "/proc/self/cgroup"], stdout=subprocess.PIPE, check=True)
    scope = CGROUP / done.stdout.decode().strip()[len("0::/"):]
    assert "user@1000.service" in str(scope)


def test_subordinate_ids_can_be_mapped() -> None:
    done = subprocess.run(["unshare", "--map-root-user", "--map-auto", "cat", "/proc/self/uid_map"],
                          stdout=subprocess.PIPE, check=True)
    assert len(done.stdout.splitlines()) == 2


def test_the_engine_starts(cli: Cli) -> None:
    assert "rootless" in cli.ok("version").text
