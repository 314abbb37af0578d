"""A pytest plugin for the machine's side: writes a line of JSON per case to $RESULTS, which is the
second serial port there."""

from __future__ import annotations

import json
import os

import pytest

_failures: dict[str, str] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    # Skipping would hide that a promise was not looked at.
    if report.outcome != "passed":
        captured = "".join(f"\n{title}\n{text}" for title, text in report.sections)
        _failures[report.nodeid] = f"{report.when}: {report.longreprtext}{captured}"
    if report.when == "teardown":
        line = json.dumps({"case": report.nodeid, "failure": _failures.get(report.nodeid)})
        with open(os.environ["RESULTS"], "a") as port:
            port.write(line + "\n")
