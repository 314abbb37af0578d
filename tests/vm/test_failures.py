"""A machine that does not do its work says so, and how far it came."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vm import machine, payload
from tests.vm.image import system


def test_a_missing_emulator_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"qemu-system-x86_64: not found\nhint: apt-get"):
        machine.run(["tests/vm/inside/user/test_machine.py::test_the_engine_starts"])


def test_a_panic_ends_the_machine_and_is_shown(tmp_path: Path) -> None:
    ended = machine.boot(tmp_path, system(), arguments="rdinit=/bin/false")
    assert not ended.timed_out
    assert ended.failures == {}
    assert "Kernel panic" in str(ended)
    assert len(str(ended).splitlines()) <= machine.TAIL + 1


def test_a_machine_that_does_not_end_is_stopped(tmp_path: Path) -> None:
    ended = machine.boot(tmp_path, system(), timeout=2)
    assert ended.timed_out
    assert str(ended).startswith("the machine was stopped after ")


def test_half_a_line_is_no_result(tmp_path: Path) -> None:
    path = tmp_path / "results"
    path.write_bytes(b'{"case": "a", "failure": null}\r\n{"case": "b", "failure": "why"}\n{"case')
    assert machine.read_results(path) == {"a": None, "b": "why"}


def test_what_did_not_pass_inside_is_sent_as_a_failure(tmp_path: Path) -> None:
    cases = tmp_path / "test_cases.py"
    cases.write_text("import pytest\n"
                     "def test_good(): pass\n"
                     "def test_bad():\n    print('seen before')\n    assert 1 == 2\n"
                     "def test_unprepared(no_such_fixture): pass\n"
                     "def test_not_done(): pytest.importorskip('no_such_module')\n")
    results = tmp_path / "results"
    subprocess.run([sys.executable, "-m", "pytest", "-p", "tests.vm.send", "-p", "no:cacheprovider",
                    "-c", os.devnull, "--rootdir", str(tmp_path), str(cases)],
                   cwd=payload.CHECKOUT, env={**os.environ, "RESULTS": str(results)},
                   stdout=subprocess.DEVNULL, check=False)
    failures = {case.split("::")[1]: failure
                for case, failure in machine.read_results(results).items()}
    assert failures.pop("test_good") is None
    for case, why in (("test_bad", "assert 1 == 2"), ("test_bad", "seen before"),
                      ("test_unprepared", "no_such_fixture"), ("test_not_done", "no_such_module")):
        assert why in (failures[case] or ""), failures
