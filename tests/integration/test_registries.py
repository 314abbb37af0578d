"""What config.toml settles of registries, seen on the wire and in the store."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.support import images, registry
from tests.integration.support.cli import Cli
from tests.integration.support.faults import Proxy
from tests.integration.support.images import Image, Layer, Tar
from tests.integration.support.registry import Registry

NOWHERE = "registry.invalid"


def settle(cli: Cli, text: str) -> None:
    path = cli.home / ".config/rootless/config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def login(cli: Cli, address: str, user: str, password: str) -> None:
    path = cli.home / ".docker/config.json"
    path.parent.mkdir(exist_ok=True)
    known = json.loads(path.read_text()) if path.exists() else {"auths": {}}
    pair = base64.b64encode(f"{user}:{password}".encode()).decode()
    known["auths"][address] = {"auth": pair}
    path.write_text(json.dumps(known))


@pytest.fixture
def other(server: Registry) -> Iterator[Proxy]:
    running = Proxy(server.address)
    yield running
    running.close()


# ---- mirrors -----------------------------------------------------------------------------------

def test_mirror_gives_the_image_and_the_name_stays(fresh: Cli, proxy: Proxy) -> None:
    settle(fresh, f'[registries."{NOWHERE}"]\nmirrors = ["{proxy.address}"]\n')
    fresh.ok("pull", f"{NOWHERE}/tiny")
    assert fresh.ok("images", "--format", "{{.Repository}}:{{.Tag}}").text \
        == f"{NOWHERE}/tiny:latest"
    assert proxy.requests("/blobs/")
    assert fresh.ok("run", "--rm", "--pull=never", f"{NOWHERE}/tiny", "echo", "mine").text == "mine"


def test_second_mirror_and_then_the_registry_itself_are_asked_when_one_fails(
        fresh: Cli, proxy: Proxy, other: Proxy, server: Registry) -> None:
    settle(fresh, f'[registries."{server.address}"]\n'
                  f'mirrors = ["{NOWHERE}", "{proxy.address}/not", "{other.address}"]\n')
    bad = other.rule("/manifests/", status=403, body=b"{}")
    said = fresh.ok("pull", f"{server.address}/tiny").text
    assert f"{NOWHERE}: passed over: " in said
    assert f"{proxy.address}: passed over: " in said
    assert "does not allow it" in said
    assert proxy.requests("^/v2/not/tiny/manifests/latest")
    assert not other.requests("/blobs/")
    other.rules.remove(bad)
    fresh.ok("pull", f"{server.address}/tiny:zstd")
    assert other.requests("/blobs/")


def test_mirror_that_lacks_a_layer_is_passed_over(
        fresh: Cli, proxy: Proxy, other: Proxy) -> None:
    image = Image([Layer(Tar().file(n, n.encode() * 99).bytes(), "none") for n in ("a", "b")],
                  {"Cmd": ["/x"]})
    images.push(proxy.upstream, "halves", "1", image)
    second = images.digest_of(image.layers[1].blob)
    proxy.rule(f"/blobs/{second}", status=404, body=b"{}")
    settle(fresh, f'[registries."{other.address}"]\nmirrors = ["{proxy.address}"]\n')
    fresh.ok("pull", f"{other.address}/halves:1")
    assert other.requests(f"/blobs/{second}")
    assert fresh.ok("images", "-q").text


def test_all_that_failed_is_told_when_the_registry_itself_fails(fresh: Cli, proxy: Proxy) -> None:
    settle(fresh, f'[registries."{NOWHERE}"]\nmirrors = ["{proxy.address}"]\n')
    result = fresh.fails(1, "pull", f"{NOWHERE}/none", says=f"cannot get {NOWHERE}/none:latest")
    assert f"{proxy.address}: passed over" in result.text


def test_mirror_that_alters_an_image_named_by_digest_is_passed_over(
        fresh: Cli, proxy: Proxy, server: Registry) -> None:
    proxy.rule("/manifests/", flip=20)
    settle(fresh, f'[registries."{server.address}"]\nmirrors = ["{proxy.address}"]\n')
    fresh.ok("pull", f"{server.address}/tiny")
    digest = fresh.ok("images", "--format", "{{.Digest}}").text
    fresh.ok("rmi", f"{server.address}/tiny")
    said = fresh.ok("pull", f"{server.address}/tiny@{digest}").text
    assert "was altered on its way" in said


def test_password_of_the_registry_is_never_shown_to_its_mirror(
        fresh: Cli, proxy: Proxy, password_server: Registry) -> None:
    login(fresh, password_server.address, registry.USER, registry.PASSWORD)
    proxy.rule("/", status=401, headers={"WWW-Authenticate": 'Basic realm="give"'}, body=b"{}")
    settle(fresh, f'[registries."{password_server.address}"]\nmirrors = ["{proxy.address}"]\n')
    fresh.ok("pull", f"{password_server.address}/tiny")
    assert proxy.seen
    assert not [s for s in proxy.seen if "authorization" in s.headers]


def test_mirror_is_logged_in_to_with_its_own_password(fresh: Cli, server: Registry,
                                                      password_server: Registry) -> None:
    login(fresh, password_server.address, registry.USER, registry.PASSWORD)
    login(fresh, NOWHERE, "somebody", "else")
    settle(fresh, f'[registries."{NOWHERE}"]\nmirrors = ["{password_server.address}"]\n')
    fresh.ok("pull", f"{NOWHERE}/tiny")


# ---- the registry itself -----------------------------------------------------------------------

def test_location_takes_the_place_of_the_prefix(fresh: Cli, proxy: Proxy) -> None:
    settle(fresh, f'[registries."{NOWHERE}/team"]\nlocation = "{proxy.address}"\n')
    fresh.ok("pull", f"{NOWHERE}/team/tiny")
    assert {s.path.split("/")[2] for s in proxy.seen} == {"tiny"}
    fresh.fails(1, "pull", f"{NOWHERE}/other/tiny")


def test_blocked_registry_is_not_asked(fresh: Cli, proxy: Proxy) -> None:
    settle(fresh, f'[registries."{proxy.address}"]\nblocked = true\n')
    result = fresh.fails(1, "pull", f"{proxy.address}/tiny", says=f"{proxy.address} is blocked")
    assert "config.toml" in result.error
    assert not proxy.seen


def test_insecure_registry_needs_no_flag_and_the_flag_counts_more(
        fresh: Cli, tls_server: Registry) -> None:
    name = f"{tls_server.address}/tiny"
    settle(fresh, f'[registries."{tls_server.address}"]\ninsecure = true\n')
    fresh.fails(1, "pull", "--tls-verify=true", name, says="certificate is not trusted")
    fresh.ok("pull", name)


def test_authority_of_a_host_is_named_by_the_file(fresh: Cli, tls_server: Registry) -> None:
    name = f"{tls_server.address}/tiny"
    fresh.fails(1, "pull", "--tls-verify", name, says="certificate is not trusted")
    settle(fresh, f'[registries."{tls_server.address}"]\nca = "{tls_server.ca}"\n')
    fresh.ok("pull", "--tls-verify", name)


def test_certificate_that_is_missing_is_named(fresh: Cli, tls_server: Registry) -> None:
    settle(fresh, f'[registries."{tls_server.address}"]\nca = "/none/ca.crt"\n')
    result = fresh.fails(1, "pull", f"{tls_server.address}/tiny", says="/none/ca.crt")
    assert "config.toml" in result.error


def test_client_certificate_is_shown(fresh: Cli, tls_server: Registry, tmp_path: Path) -> None:
    """A server that closes the door to all who have none."""
    assert tls_server.ca is not None
    work = tls_server.ca.parent
    with subprocess.Popen(
            ["openssl", "s_server", "-accept", "127.0.0.1:0", "-naccept", "2", "-Verify", "1",
             "-verify_return_error", "-CAfile", "ca.crt", "-cert", "server.crt", "-key",
             "server.key", "-www"], cwd=work, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT) as process:
        try:
            assert process.stdout is not None
            line = next(ln for ln in process.stdout if ln.startswith(b"ACCEPT"))
            address = f"localhost:{int(line.rsplit(b':', 1)[1])}"
            table = f'[registries."{address}"]\nca = "{tls_server.ca}"\n'
            settle(fresh, table + f'cert = "{work}/server.crt"\nkey = "{work}/server.key"\n')
            # It answers with a page, not with a manifest: it has let us in.
            fresh.fails(1, "pull", "--tls-verify", f"{address}/tiny", says="is not JSON")
        finally:
            process.kill()


# ---- names -------------------------------------------------------------------------------------

def test_alias_stands_for_a_repository_in_every_command(fresh: Cli, server: Registry) -> None:
    settle(fresh, f'[aliases]\nbusy = "{server.address}/tiny"\n')
    fresh.ok("pull", "busy:docker")
    assert fresh.ok("images", "--format", "{{.Repository}}:{{.Tag}}").text \
        == f"{server.address}/tiny:docker"
    assert fresh.ok("run", "--rm", "--pull=never", "busy:docker", "echo", "hi").text == "hi"
    assert fresh.ok("run", "--rm", "busy", "echo", "pulled").text == "pulled"
    fresh.ok("rmi", "busy", "busy:docker")


def test_mistake_in_the_file_is_one_clear_line(fresh: Cli, server: Registry) -> None:
    settle(fresh, '[registries."r.example"]\nmirors = ["m.example"]\n')
    result = fresh.fails(1, "pull", f"{server.address}/tiny", says="mirors: unknown key")
    assert "mirrors" in result.error
    fresh.ok("ps")


def test_file_of_the_environment_counts_alone(fresh: Cli, server: Registry) -> None:
    settle(fresh, "nonsense")
    chosen = fresh.home / "mine.toml"
    chosen.write_text(f'[aliases]\nbusy = "{server.address}/tiny"\n')
    env = {"ROOTLESS_CONFIG": str(chosen)}
    fresh.ok("pull", "busy", env=env)
    chosen.unlink()
    fresh.fails(1, "pull", "busy", env=env, says=f"no such file: {chosen}")


# ---- tokens ------------------------------------------------------------------------------------

def test_one_token_serves_all_layers(fresh: Cli, server: Registry) -> None:
    image = Image([Layer(Tar().file(f"f{n}", b"x" * n).bytes()) for n in range(9)],
                  {"Cmd": ["/x"]})
    images.push(server.address, "many", "1", image)
    asking = Proxy(server.address, token=("ann", "open sesame"))
    try:
        login(fresh, asking.address, "ann", "open sesame")
        fresh.ok("pull", f"{asking.address}/many:1")
        assert len(asking.requests("/blobs/")) == 10
        assert len(asking.requests("^/token")) == 1
    finally:
        asking.close()
