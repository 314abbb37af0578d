"""Logging in: proved first, kept where docker keeps it, and shown to nobody."""

from __future__ import annotations

import base64
import http.server
import json
import os
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.integration.support import registry
from tests.integration.support.cli import Cli, Result
from tests.integration.support.faults import Proxy
from tests.integration.support.registry import Registry

USER, PASSWORD = registry.USER, registry.PASSWORD


def config(cli: Cli) -> Path:
    return cli.home / ".docker/config.json"


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def write(path: Path, **settings: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings))


def log_in(cli: Cli, address: str, **more: Any) -> Result:
    return cli.ok("login", "-u", USER, "--password-stdin", address,
                  stdin=PASSWORD.encode() + b"\n", **more)


@pytest.fixture
def asking(server: Registry) -> Iterator[Proxy]:
    running = Proxy(server.address, token=(USER, PASSWORD))
    yield running
    running.close()


def test_login_is_kept_as_docker_keeps_it_and_all_else_stays(fresh: Cli,
                                                             password_server: Registry) -> None:
    address = password_server.address
    other = {"auth": base64.b64encode(b"bob:x").decode()}
    write(config(fresh), HttpHeaders={"X": "y"}, auths={"other.example": other,
                                                       f"http://{address}/v2/": other})
    config(fresh).chmod(0o644)
    result = log_in(fresh, address)
    assert result.text == "Login Succeeded"
    assert f"WARNING: the password is stored unencrypted in {config(fresh)}" in result.error
    pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    assert read(config(fresh)) == {"HttpHeaders": {"X": "y"}, "auths": {
        "other.example": other, address: {"auth": pair}}}
    assert stat.S_IMODE(config(fresh).stat().st_mode) == 0o600
    assert os.listdir(config(fresh).parent) == ["config.json"]
    assert fresh.ok("login", "--get-login", address).text == USER
    fresh.ok("pull", f"{address}/tiny")
    done = subprocess.run(["skopeo", "login", "--get-login", "--authfile", str(config(fresh)),
                           address], env=fresh.env, stdout=subprocess.PIPE, check=True)
    assert done.stdout.decode().strip() == USER
    assert fresh.ok("logout", address).text == f"Removed login credentials for {address}"
    assert read(config(fresh)) == {"HttpHeaders": {"X": "y"}, "auths": {"other.example": other}}
    assert fresh.ok("logout", address).text == f"Not logged in to {address}"
    fresh.fails(1, "login", "--get-login", address, says="not logged in")
    fresh.fails(1, "pull", f"{address}/tiny", says="wants a user name")


@pytest.mark.parametrize("kind", ["password", "token"])
def test_wrong_password_is_refused_and_not_kept(fresh: Cli, password_server: Registry,
                                                asking: Proxy, kind: str) -> None:
    address = asking.address if kind == "token" else password_server.address
    result = fresh.fails(1, "login", "-u", USER, "--password-stdin", address,
                         stdin=b"topsecret", says="refused the user name or password")
    assert "topsecret" not in result.error + result.text
    assert not config(fresh).exists()
    log_in(fresh, address)
    before = config(fresh).read_bytes()
    fresh.fails(1, "login", "-u", USER, "-p", "topsecret", address, says="refused")
    assert config(fresh).read_bytes() == before


def test_login_asks_on_the_terminal_without_echo(fresh: Cli, password_server: Registry) -> None:
    with fresh.terminal("login", password_server.address) as terminal:
        terminal.expect("Username: ")
        terminal.send(USER + "\n")
        terminal.expect("Password: ")
        terminal.send(PASSWORD + "\n")
        terminal.expect("Login Succeeded")
        assert terminal.wait() == 0
        assert PASSWORD.encode() not in terminal.output
    with fresh.terminal("login", password_server.address) as terminal:
        terminal.expect("Authenticating with existing credentials")
        terminal.expect("Login Succeeded")
        assert terminal.wait() == 0
    write(config(fresh), auths={password_server.address: {
        "auth": base64.b64encode(f"{USER}:old".encode()).decode()}})
    fresh.fails(1, "login", password_server.address, says="refused")
    with fresh.terminal("login", password_server.address) as terminal:
        terminal.expect(f"Username ({USER}): ")
        terminal.send("\n")
        terminal.expect("Password: ")
        terminal.send(PASSWORD + "\n")
        terminal.expect("Login Succeeded")
        assert terminal.wait() == 0


@pytest.mark.parametrize("words, stdin, rc, says", [
    ((), None, 125, "standard input is no terminal"),
    (("-u", "ann"), None, 125, "--password-stdin"),
    (("--password-stdin",), b"x", 125, "needs --username"),
    (("-u", "ann", "-p", "x", "--password-stdin"), b"x", 125, "exclude each other"),
    (("-u", "ann", "--password-stdin"), b"\n", 125, "no password"),
    (("-u", "ann", "--password-stdin"), b"\xff", 125, "not UTF-8"),
    (("-u", "", "-p", "x"), None, 125, "no user name")])
def test_login_that_cannot_be_is_told(fresh: Cli, password_server: Registry,
                                      words: tuple[str, ...], stdin: bytes | None, rc: int,
                                      says: str) -> None:
    fresh.fails(rc, "login", *words, password_server.address, stdin=stdin, says=says)
    assert not config(fresh).exists()


@pytest.mark.parametrize("name", ["word", "a b.example", "r.example:x", "r.example/UP"])
def test_registry_that_cannot_be_is_told(cli: Cli, name: str) -> None:
    cli.fails(125, "login", "-u", "a", "-p", "b", name, says="invalid registry")
    cli.fails(125, "logout", name, says="invalid registry")


def test_registry_that_asks_for_nothing_is_told(fresh: Cli, server: Registry) -> None:
    assert "was not checked" in log_in(fresh, server.address).error


def test_password_on_the_command_line_is_warned_of(fresh: Cli, password_server: Registry) -> None:
    result = fresh.ok("login", "-u", USER, "-p", PASSWORD, password_server.address)
    assert "WARNING: a password on the command line" in result.error
    assert PASSWORD not in result.error


def test_file_podman_reads_first_is_told_of(fresh: Cli, password_server: Registry) -> None:
    theirs = fresh.runtime / "containers/auth.json"
    write(theirs, auths={password_server.address: {
        "auth": base64.b64encode(b"old:old").decode()}})
    assert str(theirs) in log_in(fresh, password_server.address).error
    result = fresh.ok("logout", password_server.address)
    assert str(theirs) in result.error
    assert theirs.exists()


def test_registry_auth_file_and_docker_config_say_where(fresh: Cli,
                                                        password_server: Registry) -> None:
    address = password_server.address
    log_in(fresh, address, env={"REGISTRY_AUTH_FILE": str(fresh.home / "own.json")})
    assert address in read(fresh.home / "own.json")["auths"]
    log_in(fresh, address, env={"DOCKER_CONFIG": str(fresh.home / "dc")})
    assert address in read(fresh.home / "dc/config.json")["auths"]
    assert not config(fresh).exists()


def test_link_to_the_file_stays_a_link(fresh: Cli, password_server: Registry) -> None:
    real = fresh.home / "dotfiles/docker.json"
    write(real, auths={})
    config(fresh).parent.mkdir()
    config(fresh).symlink_to(real)
    log_in(fresh, password_server.address)
    assert config(fresh).is_symlink()
    assert password_server.address in read(real)["auths"]


def test_file_that_is_damaged_is_told_and_stays(fresh: Cli, password_server: Registry) -> None:
    config(fresh).parent.mkdir()
    config(fresh).write_text('{"auths": {"x": "topsecret"')
    result = fresh.fails(1, "login", "-u", USER, "-p", PASSWORD, password_server.address,
                         says="not a JSON object")
    assert "topsecret" not in result.error
    assert config(fresh).read_text() == '{"auths": {"x": "topsecret"'


def test_many_logins_at_once_lose_none(fresh: Cli, server: Registry) -> None:
    proxies = [Proxy(server.address) for _ in range(6)]
    hosts = sorted(p.address for p in proxies)
    try:
        running = [fresh.popen("login", "-u", "ann", "-p", "x", host, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE) for host in hosts]
        for process in running:
            _, said = process.communicate(timeout=60)
            assert process.returncode == 0, said
    finally:
        for proxy in proxies:
            proxy.close()
    assert sorted(read(config(fresh))["auths"]) == hosts
    assert sorted(fresh.ok("logout", "--all").text.splitlines()) == [
        f"Removed login credentials for {host}" for host in hosts]
    assert read(config(fresh))["auths"] == {}


# ---- helpers -----------------------------------------------------------------------------------

@pytest.fixture
def helper(fresh: Cli) -> dict[str, str]:
    """docker-credential-safe keeps each server in a file, and notes how it was called."""
    programs = fresh.home / "bin"
    programs.mkdir()
    (programs / "docker-credential-safe").write_text(f"""#!/usr/bin/python3
import json, os, sys
store = {str(fresh.home / "safe.json")!r}
text = sys.stdin.read()
with open({str(fresh.home / "calls")!r}, "a") as f:
    f.write(" ".join(sys.argv[1:]) + "\\n")
known = json.load(open(store)) if os.path.exists(store) else {{}}
if sys.argv[1] == "store":
    value = json.loads(text)
    known[value["ServerURL"]] = value
elif sys.argv[1] == "get":
    if text.strip() not in known:
        print("credentials not found in native keychain")
        sys.exit(1)
    print(json.dumps(known[text.strip()]))
elif sys.argv[1] == "list":
    print(json.dumps({{server: value["Username"] for server, value in known.items()}}))
else:
    known.pop(text.strip())
json.dump(known, open(store, "w"))
""")
    (programs / "docker-credential-bad").write_text("#!/bin/sh\ncat; echo topsecret; exit 1\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    return {"PATH": f"{programs}:{fresh.env['PATH']}"}


@pytest.mark.parametrize("general", [True, False])
def test_helper_keeps_the_password(fresh: Cli, password_server: Registry, helper: dict[str, str],
                                   general: bool) -> None:
    address = password_server.address
    settings: dict[str, Any] = {"credsStore": "safe"} if general else {
        "credHelpers": {address: "safe"}}
    write(config(fresh), **settings)
    assert "unencrypted" not in log_in(fresh, address, env=helper).error
    assert read(config(fresh)) == {**settings, "auths": {address: {}}}
    assert read(fresh.home / "safe.json")[address]["Secret"] == PASSWORD
    assert PASSWORD not in (fresh.home / "calls").read_text()
    fresh.ok("pull", f"{address}/tiny", env=helper)
    assert "Removed" in fresh.ok("logout", address, env=helper).text
    assert read(fresh.home / "safe.json") == {}
    assert read(config(fresh)) == {**settings, "auths": {}}
    assert "Not logged in" in fresh.ok("logout", address, env=helper).text


def test_logout_of_all_empties_the_helper_too(fresh: Cli, password_server: Registry,
                                              server: Registry, helper: dict[str, str]) -> None:
    """Docker has put there what our file does not name."""
    write(config(fresh), credsStore="safe", credHelpers={"r.example": "bad"},
          auths={"plain.example": {"auth": base64.b64encode(b"a:b").decode()}})
    log_in(fresh, password_server.address, env=helper)
    kept = read(fresh.home / "safe.json")
    kept[server.address] = {"ServerURL": server.address, "Username": "a", "Secret": "b"}
    (fresh.home / "safe.json").write_text(json.dumps(kept))
    result = fresh.fails(1, "logout", "--all", env=helper, says="docker-credential-bad failed")
    assert sorted(result.text.splitlines()) == [
        f"Removed login credentials for {name}"
        for name in sorted((password_server.address, server.address, "plain.example"))]
    assert read(fresh.home / "safe.json") == {}
    assert read(config(fresh))["auths"] == {}


@pytest.mark.parametrize("name, says", [("bad", "docker-credential-bad failed"),
                                        ("missing", "docker-credential-missing is not installed")])
def test_helper_that_fails_is_told_in_one_line(fresh: Cli, password_server: Registry,
                                               helper: dict[str, str], name: str,
                                               says: str) -> None:
    write(config(fresh), credHelpers={password_server.address: name})
    before = config(fresh).read_bytes()
    for words in (("login", "-u", USER, "-p", PASSWORD), ("logout",)):
        result = fresh.fails(1, *words, password_server.address, env=helper, says=says)
        assert "topsecret" not in result.error
        assert PASSWORD not in result.error
    assert config(fresh).read_bytes() == before


# ---- identity tokens ---------------------------------------------------------------------------

class _Exchange(http.server.BaseHTTPRequestHandler):
    """Gives an identity token for a password, and takes it instead of one."""

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, status: int, body: dict[str, str], **headers: str) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        fields = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        right = fields.get("refresh_token") == ["longlived"] and "scope" not in fields
        self.answer(200 if right else 401, {"access_token": "short"} if right else {})

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path == "/token":
            pair = base64.b64encode(b"ann:topsecret").decode()
            query = parse_qs(parts.query)
            right = self.headers.get("Authorization") == f"Basic {pair}" \
                and query.get("offline_token") == ["true"] and "scope" not in query
            self.answer(200 if right else 401,
                        {"token": "short", "refresh_token": "longlived"} if right else {})
        elif self.headers.get("Authorization") == "Bearer short":
            self.answer(200, {})
        else:
            here = f"http://{self.headers['Host']}/token"
            self.answer(401, {}, WWW_Authenticate=f'Bearer realm="{here}",service="cloud"')


@pytest.fixture
def exchange() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Exchange)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"localhost:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_identity_token_is_kept_instead_of_the_password(fresh: Cli, exchange: str,
                                                        helper: dict[str, str]) -> None:
    fresh.ok("login", "-u", "ann", "-p", "topsecret", exchange)
    assert read(config(fresh))["auths"][exchange] == {
        "auth": base64.b64encode(b"ann:").decode(), "identitytoken": "longlived"}
    assert fresh.ok("login", exchange).text.endswith("Login Succeeded")
    write(config(fresh), credsStore="safe")
    fresh.ok("login", "-u", "ann", "-p", "topsecret", exchange, env=helper)
    kept = read(fresh.home / "safe.json")[exchange]
    assert (kept["Username"], kept["Secret"]) == ("<token>", "longlived")
    assert fresh.ok("login", exchange, env=helper).text.endswith("Login Succeeded")
