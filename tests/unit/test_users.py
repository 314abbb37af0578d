"""--user is looked up in the container's files by docker's rules."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rootless.errors import StartError
from rootless.runtime.users import User, resolve


@pytest.fixture
def root(tmp_path: Path) -> str:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nbroken line\nann:x:1000:1000::/home/ann:/bin/sh\n"
        "odd:x:notanumber:5::/:/bin/sh\n")
    (tmp_path / "etc/group").write_text(
        "root:x:0:\nann:x:1000:\naudio:x:29:bob,ann\nvideo:x:44:ann\n")
    return str(tmp_path)


@pytest.mark.parametrize(("text", "user"), [
    ("", User(0, 0, [], "/root")),
    ("ann", User(1000, 1000, [29, 44], "/home/ann")),
    ("1000", User(1000, 1000, [29, 44], "/home/ann")),
    ("ann:audio", User(1000, 29, [], "/home/ann")),
    ("ann:7", User(1000, 7, [], "/home/ann")),
    ("4242", User(4242, 0, [], "/")),
    ("4242:4343", User(4242, 4343, [], "/")),
    (":audio", User(0, 29, [], "/root")),
])
def test_names_and_numbers_resolve_as_in_docker(root: str, text: str, user: User) -> None:
    assert resolve(text, [], root) == user


@pytest.mark.parametrize("text", ["nobody-here", "ann:nogroup", "odd", "99999999999", "-1"])
def test_what_is_not_there_is_named(root: str, text: str) -> None:
    with pytest.raises(StartError):
        resolve(text, [], root)


def test_added_groups_join_by_name_and_number(root: str) -> None:
    assert resolve("4242", ["audio", "7"], root).groups == [7, 29]


def test_a_pipe_in_place_of_passwd_is_not_waited_for(root: str) -> None:
    os.unlink(root + "/etc/passwd")
    os.mkfifo(root + "/etc/passwd")
    assert resolve("5", [], root) == User(5, 0, [], "/")
