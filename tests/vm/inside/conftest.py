"""What cases in the virtual machine may ask for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.support.cli import Cli

pytest.register_assert_rewrite("tests.vm.inside.limits")


@pytest.fixture(scope="session")
def cli() -> Cli:
    """The command line as the person who logged in has it: their home, their user manager."""
    manager = {name: os.environ[name] for name in ("DBUS_SESSION_BUS_ADDRESS", "XDG_SESSION_ID")}
    return Cli(Path.home(), Path(os.environ["XDG_RUNTIME_DIR"]), **manager)
