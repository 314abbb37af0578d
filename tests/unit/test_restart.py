"""The restart policy: docker's words, docker's waits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.container import restart
from rootless.errors import UsageError


@pytest.mark.parametrize(("text", "policy"), [
    ("no", ("no", 0)), ("always", ("always", 0)), ("unless-stopped", ("unless-stopped", 0)),
    ("on-failure", ("on-failure", 0)), ("on-failure:3", ("on-failure", 3))])
def test_a_policy_is_read(text: str, policy: tuple[str, int]) -> None:
    assert restart.parse(text) == policy


@pytest.mark.parametrize("text", ["", "sometimes", "always:3", "no:1", "on-failure:",
                                  "on-failure:x", "on-failure:-1", "unless-stopped:2", "Always"])
def test_another_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        restart.parse(text)


@given(code=st.integers(0, 255), most=st.integers(0, 5), restarts=st.integers(0, 6))
def test_failures_are_counted_and_success_is_the_end(code: int, most: int, restarts: int) -> None:
    again = restart.wanted("on-failure", most, code=code, restarts=restarts)
    assert again == (code != 0 and (not most or restarts < most))
    assert restart.wanted("always", 0, code=code, restarts=restarts)
    assert restart.wanted("unless-stopped", 0, code=code, restarts=restarts)
    assert not restart.wanted("no", 0, code=code, restarts=restarts)


def test_the_wait_doubles_up_to_a_minute_and_begins_anew_after_ten_seconds() -> None:
    waits, waited = [], 0.0
    for _ in range(12):
        waited = restart.delay(waited, 0.5)
        waits.append(round(waited, 1))
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60.0, 60.0]
    assert restart.delay(waited, 9.9) == 60.0
    assert restart.delay(waited, 10.0) == 0.1
