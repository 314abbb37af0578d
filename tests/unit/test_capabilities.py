from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.errors import UsageError
from rootless.runtime import capabilities
from rootless.runtime.capabilities import ALL, DEFAULT, mask, names, resolve


def test_numbers_are_the_kernels() -> None:
    # <linux/capability.h>
    assert {n: capabilities.NUMBERS[n] for n in (
        "CAP_CHOWN", "CAP_SETPCAP", "CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_MKNOD", "CAP_SETFCAP",
        "CAP_SYSLOG", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE")} == {
        "CAP_CHOWN": 0, "CAP_SETPCAP": 8, "CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21,
        "CAP_MKNOD": 27, "CAP_SETFCAP": 31, "CAP_SYSLOG": 34, "CAP_AUDIT_READ": 37,
        "CAP_PERFMON": 38, "CAP_BPF": 39, "CAP_CHECKPOINT_RESTORE": 40}
    assert len(set(ALL)) == 41


def test_default_mask_is_the_one_seen_in_a_docker_container() -> None:
    # CapBnd of /proc/self/status there.
    assert mask(resolve([], [], privileged=False)) == 0x00000000A80425FB
    assert len(DEFAULT) == 14


@given(st.sets(st.sampled_from(ALL)))
def test_mask_and_names_undo_each_other(caps: set[str]) -> None:
    assert set(names(mask(caps))) == caps
    assert names(mask(caps)) == sorted(caps, key=ALL.index)


@pytest.mark.parametrize("name", ["NET_ADMIN", "CAP_NET_ADMIN", "net_admin", "Cap_Net_Admin"])
def test_a_name_is_taken_in_any_case_and_with_or_without_its_prefix(name: str) -> None:
    assert resolve([name], [], privileged=False) == {*DEFAULT, "CAP_NET_ADMIN"}
    assert mask([name]) == 1 << 12


@pytest.mark.parametrize(("add", "drop", "expected"), [
    ([], ["CHOWN"], set(DEFAULT) - {"CAP_CHOWN"}),
    (["SYS_PTRACE"], ["MKNOD"], set(DEFAULT) - {"CAP_MKNOD"} | {"CAP_SYS_PTRACE"}),
    (["all"], [], set(ALL)),
    (["ALL"], ["SYS_ADMIN"], set(ALL) - {"CAP_SYS_ADMIN"}),
    ([], ["ALL"], set()),
    (["CHOWN", "kill"], ["all"], {"CAP_CHOWN", "CAP_KILL"}),
    (["ALL"], ["ALL"], set(ALL)),
    (["CHOWN"], ["CHOWN"], set(DEFAULT)),
    ([], ["SYS_ADMIN"], set(DEFAULT)),
])
def test_adding_and_dropping_is_dockers(add: list[str], drop: list[str],
                                        expected: set[str]) -> None:
    assert resolve(add, drop, privileged=False) == expected
    assert resolve(add, drop, privileged=True) == set(ALL)


@pytest.mark.parametrize(("name", "hint"), [
    ("NET_ADMN", "did you mean CAP_NET_ADMIN?"),
    ("cap_sysptrace", "did you mean CAP_SYS_PTRACE?"),
    ("xyz", "capabilities(7) lists them, for example NET_ADMIN; ALL stands for all of them"),
    ("", "capabilities(7) lists them, for example NET_ADMIN; ALL stands for all of them"),
])
def test_an_unknown_name_is_refused_with_a_near_one(name: str, hint: str) -> None:
    for add, drop, option in (([name], [], "--cap-add"), ([], [name], "--cap-drop")):
        for privileged in (False, True):
            with pytest.raises(UsageError) as caught:
                resolve(add, drop, privileged=privileged)
            assert caught.value.message == f"unknown capability: {name!r} in {option}"
            assert caught.value.hint == hint


def test_a_mask_has_no_bit_for_all() -> None:
    with pytest.raises(UsageError):
        mask(["ALL"])
