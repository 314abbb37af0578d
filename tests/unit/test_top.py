"""Which of the lines of ps are a container's."""

from __future__ import annotations

import pytest

from rootless.container.top import rows
from rootless.errors import UsageError

LINES = ["UID          PID    PPID  C STIME TTY          TIME CMD",
         "root           1       0  0 10:00 ?        00:00:01 /sbin/init  two  blanks",
         "1000          42       1  0 10:00 pts/0    00:00:00 sh -c sleep 1"]


def test_the_last_column_keeps_its_blanks_and_others_are_left_out() -> None:
    assert rows(LINES, {1}) == [LINES[0].split(), [
        "root", "1", "0", "0", "10:00", "?", "00:00:01", "/sbin/init  two  blanks"]]
    assert [r[1] for r in rows(LINES, {1, 42, 99})] == ["PID", "1", "42"]


@pytest.mark.parametrize("lines", [[], ["COMMAND", "sh"], ["USER PPID", "root 1"]])
def test_without_the_column_of_pids_nobody_can_tell(lines: list[str]) -> None:
    with pytest.raises(UsageError):
        rows(lines, {1})
