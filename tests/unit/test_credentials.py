"""Names of registries, and what becomes of docker's file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rootless.errors import AuthError, UsageError
from rootless.image import auth, credentials
from rootless.image.auth import Credentials
from rootless.image.reference import Reference


@pytest.mark.parametrize("text, domain, path", [
    ("docker.io", "docker.io", ""), ("https://index.docker.io/v1/", "docker.io", ""),
    ("index.docker.io", "docker.io", ""), ("r.example:5000", "r.example:5000", ""),
    ("https://r.example/v2/", "r.example", ""), ("localhost", "localhost", ""),
    ("r.example/team/app", "r.example", "team/app")])
def test_registries_are_recognised_however_they_are_typed(text: str, domain: str,
                                                          path: str) -> None:
    assert credentials.place(text) == Reference(domain, path)


@pytest.mark.parametrize("text", ["", "word", "r.example:tag", "r.example/x:1", "a b", "../x"])
def test_what_is_no_registry_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="invalid registry"):
        credentials.place(text)


def keep(home: Path, registry: str, user: str = "ann", password: str = "p") -> str:
    return credentials.store(credentials.place(registry), Credentials(user, password, "", "", ""),
                             {}, str(home))


def read(home: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home / ".docker/config.json").read_text())
    return found


def test_what_is_kept_is_found_again_and_no_spelling_is_left(tmp_path: Path) -> None:
    (tmp_path / ".docker").mkdir()
    file = tmp_path / ".docker/config.json"
    file.write_text(json.dumps({"auths": {
        name: {"auth": "b2xkOm9sZA=="} for name in ("docker.io", "index.docker.io", "r.example")}}))
    assert keep(tmp_path, "docker.io", "näme", "p:ä") == str(file)
    assert sorted(read(tmp_path)["auths"]) == [auth.HUB, "r.example"]
    found = auth.credentials("docker.io", "library/x", {}, str(tmp_path))
    assert found is not None
    assert (found.user, found.password) == ("näme", "p:ä")


def test_a_prefix_has_credentials_of_its_own(tmp_path: Path) -> None:
    keep(tmp_path, "r.example", "wide")
    keep(tmp_path, "r.example/team", "team")
    for path, user in (("team/app", "team"), ("app", "wide")):
        found = auth.credentials("r.example", path, {}, str(tmp_path))
        assert found is not None
        assert found.user == user
    assert credentials.erase(Reference("r.example", "team"), {}, str(tmp_path))
    assert list(read(tmp_path)["auths"]) == ["r.example"]
    assert not credentials.erase(Reference("r.example", "team"), {}, str(tmp_path))
    assert [credentials.shown(r) for r in credentials.every({}, str(tmp_path))] == ["r.example"]


def test_a_file_that_is_not_as_docker_writes_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".docker").mkdir()
    file = tmp_path / ".docker/config.json"
    for text in ('{"auths": []}', "[]", "{"):
        file.write_text(text)
        with pytest.raises(AuthError):
            keep(tmp_path, "r.example")
        assert file.read_text() == text
