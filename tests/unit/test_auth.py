"""Passwords are found where docker and podman keep them, and told to nobody."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from rootless.errors import AuthError
from rootless.image import auth


def pair(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def save(path: Path, **settings: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings))


def user(home: Path, domain: str, path: str = "app", **env: str) -> str | None:
    found = auth.credentials(domain, path, env, str(home))
    return None if found is None else found.user


def test_nothing_is_known_at_first(tmp_path: Path) -> None:
    assert user(tmp_path, "r.example") is None


def test_the_first_file_that_knows_the_registry_wins(tmp_path: Path) -> None:
    places = [(tmp_path / ".docker/config.json", {}),
              (tmp_path / ".config/containers/auth.json", {}),
              (tmp_path / "run/containers/auth.json", {"XDG_RUNTIME_DIR": str(tmp_path / "run")}),
              (tmp_path / "dc/config.json", {"DOCKER_CONFIG": str(tmp_path / "dc")}),
              (tmp_path / "own.json", {"REGISTRY_AUTH_FILE": str(tmp_path / "own.json")})]
    env: dict[str, str] = {}
    for number, (path, more) in enumerate(places):
        save(path, auths={"r.example": pair(f"user{number}", "p")})
        env.update(more)
        assert user(tmp_path, "r.example", **env) == f"user{number}"
    save(places[-1][0], auths={"other.example": pair("else", "p")})
    assert user(tmp_path, "r.example", **env) == "user3"


@pytest.mark.parametrize("key", ["r.example:5000", "https://r.example:5000",
                                 "http://r.example:5000/v2/", "r.example:5000/"])
def test_addresses_are_recognised_as_they_were_typed(tmp_path: Path, key: str) -> None:
    save(tmp_path / ".docker/config.json", auths={key: pair("ann", "p")})
    assert user(tmp_path, "r.example:5000") == "ann"
    assert user(tmp_path, "r.example") is None


@pytest.mark.parametrize("key", ["https://index.docker.io/v1/", "docker.io", "index.docker.io"])
def test_docker_hub_goes_by_all_its_names(tmp_path: Path, key: str) -> None:
    save(tmp_path / ".docker/config.json", auths={key: pair("ann", "p")})
    assert user(tmp_path, "docker.io", "library/debian") == "ann"


def test_the_entry_of_the_narrowest_place_wins(tmp_path: Path) -> None:
    save(tmp_path / ".config/containers/auth.json", auths={
        "r.example": pair("wide", "p"), "r.example/team": pair("team", "p"),
        "r.example/team/app": pair("app", "p")})
    assert user(tmp_path, "r.example", "team/app") == "app"
    assert user(tmp_path, "r.example", "team/other") == "team"
    assert user(tmp_path, "r.example", "teams/other") == "wide"


def test_a_password_may_hold_colons_and_tokens_are_kept_apart(tmp_path: Path) -> None:
    save(tmp_path / ".docker/config.json", auths={
        "a.example": pair("ann", "p:q:r"), "b.example": {"identitytoken": "idt"},
        "c.example": {"registrytoken": "rt"}, "d.example": {"username": "u", "password": "p"},
        "e.example": {}})
    found = {d: auth.credentials(f"{d}.example", "x", {}, str(tmp_path)) for d in "abcde"}
    assert found["a"] and found["a"].password == "p:q:r"
    assert found["b"] and found["b"].identity == "idt"
    assert found["c"] and found["c"].bearer == "rt"
    assert found["d"] and found["d"].user == "u"
    assert found["e"] is None


def test_no_secret_is_in_the_words_of_an_error_or_a_record(tmp_path: Path) -> None:
    known = auth.Credentials("ann", "topsecret", "idsecret", "bearersecret", "file")
    assert "secret" not in repr(known)
    (tmp_path / ".docker").mkdir()
    for text in ('{"auths": {"r.example": {"auth": "topsecret"}}}', '["topsecret"', "topsecret"):
        (tmp_path / ".docker/config.json").write_text(text)
        with pytest.raises(AuthError) as caught:
            user(tmp_path, "r.example")
        assert "topsecret" not in caught.value.message + str(caught.value.hint)


def helper(tmp_path: Path, name: str, body: str) -> dict[str, str]:
    program = tmp_path / f"docker-credential-{name}"
    program.write_text("#!/bin/sh\nread server\n" + body)
    program.chmod(0o755)
    return {"PATH": f"{tmp_path}:/usr/bin:/bin"}


def test_a_helper_is_asked_by_standard_input(tmp_path: Path) -> None:
    env = helper(tmp_path, "ok", 'echo "{\\"Username\\":\\"u-$1\\",\\"Secret\\":\\"$server\\"}"')
    save(tmp_path / ".docker/config.json", credHelpers={"r.example": "ok"}, credsStore="ok",
         auths={"s.example": {}})
    found = auth.credentials("r.example", "x", env, str(tmp_path))
    assert found is not None
    assert (found.user, found.password) == ("u-get", "r.example")
    hub = auth.credentials("docker.io", "x", env, str(tmp_path))
    assert hub is not None
    assert hub.password == "https://index.docker.io/v1/"


def test_a_helper_may_keep_an_identity_token_or_nothing(tmp_path: Path) -> None:
    env = helper(tmp_path, "t", 'echo "{\\"Username\\":\\"<token>\\",\\"Secret\\":\\"idt\\"}"')
    found = auth.ask_helper("t", "r.example", env)
    assert found is not None
    assert (found.user, found.identity) == ("", "idt")
    env = helper(tmp_path, "n", "echo credentials not found in native keychain; exit 1")
    assert auth.ask_helper("n", "r.example", env) is None


@pytest.mark.parametrize("body, says", [
    ("echo secret; exit 1", "failed"), ("echo secret", "nonsense"), ("kill -9 $$", "failed")])
def test_a_helper_that_fails_is_told_without_its_words(tmp_path: Path, body: str,
                                                       says: str) -> None:
    env = helper(tmp_path, "bad", body)
    with pytest.raises(AuthError, match=says) as caught:
        auth.ask_helper("bad", "r.example", env)
    assert "secret" not in caught.value.message


def test_a_helper_that_is_missing_or_misnamed_is_told(tmp_path: Path) -> None:
    with pytest.raises(AuthError, match="docker-credential-nosuch is not installed"):
        auth.ask_helper("nosuch", "r.example", {"PATH": str(tmp_path)})
    with pytest.raises(AuthError, match="invalid name"):
        auth.ask_helper("../../bin/sh", "r.example", {})
