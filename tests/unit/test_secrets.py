"""--secret is read as podman reads it; a secret that is kept is given back, whatever it holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.container.secrets import Given, parse
from rootless.errors import Conflict, NotFound, StorageError, UsageError
from rootless.paths import Paths
from rootless.storage import secrets


@pytest.mark.parametrize(("text", "wanted"), [
    ("s", Given("s", "mount", "/run/secrets/s")),
    ("source=s,target=name", Given("s", "mount", "/run/secrets/name")),
    ("s,target=/etc/../etc/key,uid=7,gid=8,mode=0400",
     Given("s", "mount", "/etc/key", 7, 8, 0o400)),
    ("s,type=env", Given("s", "env", "s")),
    ("s,type=env,target=TOKEN", Given("s", "env", "TOKEN")),
])
def test_what_is_asked_for(text: str, wanted: Given) -> None:
    assert parse(text) == wanted


@pytest.mark.parametrize("text", ["", ",", "s,", "type=mount", "s,type=tmpfs", "s,colour=red",
                                  "s,mode=rw", "s,uid=me", "s,type=env,mode=0400",
                                  "s,type=env,target=A=B"])
def test_what_makes_no_sense(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)


@given(st.text(max_size=40))
def test_no_text_fails_otherwise(text: str) -> None:
    try:
        parse(text)
    except UsageError:
        pass


def store(tmp_path: Path) -> Paths:
    return Paths({"HOME": str(tmp_path), "ROOTLESS_ROOT": str(tmp_path / "store")}, 1000)


def test_a_secret_is_kept_found_replaced_and_removed(tmp_path: Path) -> None:
    paths = store(tmp_path)
    made = secrets.create(paths, "key", b"\0binary\xff", {"a": "b"})
    assert secrets.find(paths, "key") == secrets.find(paths, made.id[:6]) == made
    assert (tmp_path / "store/secrets/key.json").stat().st_mode & 0o777 == 0o600
    with pytest.raises(Conflict):
        secrets.create(paths, "key", b"x", {})
    assert secrets.create(paths, "key", b"x", {}, replace=True).data == b"x"
    assert secrets.names(paths) == ["key"]
    secrets.remove(paths, "key")
    for act in (secrets.find, secrets.remove):
        with pytest.raises(NotFound):
            act(paths, "key")


def test_what_cannot_be_a_secret(tmp_path: Path) -> None:
    paths = store(tmp_path)
    for name, data in (("../x", b"x"), ("", b"x"), ("a/b", b"x"), ("x", b""),
                       ("x", bytes(secrets.LARGEST + 1))):
        with pytest.raises(UsageError):
            secrets.create(paths, name, data, {})


def test_a_damaged_one_is_told_and_can_be_removed(tmp_path: Path) -> None:
    paths = store(tmp_path)
    secrets.create(paths, "x", b"x", {})
    (tmp_path / "store/secrets/x.json").write_text("{")
    with pytest.raises(StorageError, match="damaged"):
        secrets.find(paths, "x")
    assert secrets.remove(paths, "x") == "x"
