"""`info` reads the machine from where it is told to."""

from __future__ import annotations

from pathlib import Path

from rootless.container import info


def test_what_a_machine_says_of_itself(tmp_path: Path) -> None:
    (tmp_path / "os-release").write_text('NAME="X"\nPRETTY_NAME="X Linux 7"\n')
    (tmp_path / "meminfo").write_text("MemFree: 1 kB\nMemTotal:       2048 kB\n")
    assert info._system(f"{tmp_path}/os-release") == "X Linux 7"
    assert info._memory(f"{tmp_path}/meminfo") == 2 << 20
    assert info._first_line(f"{tmp_path}/none") == ""
    (tmp_path / "meminfo").write_text("MemTotal: much kB\n")
    assert info._memory(f"{tmp_path}/meminfo") == 0
    assert info._system(f"{tmp_path}/none") == "Linux"
