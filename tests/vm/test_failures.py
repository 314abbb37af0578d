"""A machine that does not do its work says so, and how far it came."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vm import machine
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
    assert "was stopped after 2 s" in str(ended)


def test_half_a_line_is_no_result(tmp_path: Path) -> None:
    path = tmp_path / "results"
    path.write_bytes(b'{"case": "a", "failure": null}\r\n{"case": "b", "failure": "why"}\n{"case')
    assert machine.read_results(path) == {"a": None, "b": "why"}
