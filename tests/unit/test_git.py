"""Addresses of git repositories."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.build import git
from rootless.build.git import Address
from rootless.errors import BuildError


@pytest.mark.parametrize("text, address", [
    ("https://h/p.git", Address("https://h/p.git", "", "")),
    ("https://h/p.git#main", Address("https://h/p.git", "main", "")),
    ("https://h/p.git#main:a/./b/", Address("https://h/p.git", "main", "a/b")),
    ("https://h/p.git#:a", Address("https://h/p.git", "", "a")),
    ("https://h/p.git?tag=v1&subdir=/d", Address("https://h/p.git", "v1", "d")),
    ("git://h/p", Address("git://h/p", "", "")),
    ("git@h:u/p#x", Address("git@h:u/p", "x", "")),
    ("ssh://u@h:22/p", Address("ssh://u@h:22/p", "", "")),
    ("github.com/u/p", Address("https://github.com/u/p", "", "")),
])
def test_addresses(text: str, address: Address) -> None:
    assert git.parse(text) == address


@pytest.mark.parametrize("text", ["https://h/p.tar", ".", "dir.git", "/a@b:c", "a@b", "http://h/",
                                  "--upload-pack=x.git", "C:\\x"])
def test_what_is_no_repository(text: str) -> None:
    assert git.parse(text) is None


@pytest.mark.parametrize("text", ["https://h/p.git#--x", "https://h/p.git#:../x",
                                  "https://h/p.git?what=x", "-a@b:c"])
def test_what_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(BuildError):
        git.parse(text)


@given(st.text("git@:/.#?=ab-&", max_size=30))
def test_any_text_is_an_address_or_none_or_refused(text: str) -> None:
    try:
        address = git.parse(text)
    except BuildError:
        return
    assert address is None or not address.ref.startswith("-")
