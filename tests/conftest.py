"""The whole suite: what every part shares."""

from __future__ import annotations

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    if os.getuid() == 0:
        raise pytest.UsageError("the tests are for an unprivileged user: call tests/run, which "
                                "makes one")
