"""The machine's root is root, and logged in."""

from __future__ import annotations

import os
from pathlib import Path

from tests.integration.support.cli import Cli


def test_root_is_logged_in() -> None:
    assert os.getuid() == 0
    assert "/user.slice/user-0.slice/session-" in Path("/proc/self/cgroup").read_text()


def test_the_engine_starts(cli: Cli) -> None:
    assert "rootless" in cli.ok("version").text
