"""Tests below `inside` are collected here and run in the virtual machine.

They are ordinary pytest functions. On this side each is only a name: no fixture of it is made, and
instead of calling it, the machine is booted once for all that were selected and each takes its
result from there. A case without a result has failed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Union

import pytest

from tests.vm import machine

INSIDE = Path(__file__).parent / "inside"
SELECTED = pytest.StashKey[list[str]]()
ENDED = pytest.StashKey[Union[machine.Ended, str]]()


def pytest_collection_finish(session: pytest.Session) -> None:
    selected = [item for item in session.items if INSIDE in item.path.parents]
    session.config.stash[SELECTED] = [item.nodeid for item in selected]
    for item in selected:
        assert isinstance(item, pytest.Function)
        item.fixturenames.clear()


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if INSIDE not in pyfuncitem.path.parents:
        return None
    failure = _failure(pyfuncitem.config, pyfuncitem.nodeid)
    if failure is not None:
        pytest.fail(failure, pytrace=False)
    return True


def _failure(config: pytest.Config, case: str) -> str | None:
    if ENDED not in config.stash:
        selected = config.stash[SELECTED]
        try:
            config.stash[ENDED] = machine.run(selected)
        except RuntimeError as error:
            config.stash[ENDED] = str(error)
    ended = config.stash[ENDED]
    if isinstance(ended, str):
        return ended
    if case not in ended.failures:
        return f"no result: {ended}"
    return ended.failures[case]
