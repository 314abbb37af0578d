"""Pulling: what registries may do, and what is on disk and on the screen afterwards."""

from __future__ import annotations

import base64
import http.server
import json
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from tests.integration.support import filled, images, registry
from tests.integration.support.cli import Cli
from tests.integration.support.faults import Proxy
from tests.integration.support.images import Image, Layer, Tar
from tests.integration.support.registry import Registry

BIG = 3_000_000
OCI, DOCKER = images.OCI, images.DOCKER


def big_layer() -> Layer:
    """Bytes that do not shrink, so that offsets in the blob mean something."""
    return Layer(Tar().file("big", os.urandom(BIG)).bytes(), "none")


@pytest.fixture
def big(server: Registry) -> Image:
    """A fresh image of one large layer, pushed as `big:latest`."""
    image = Image([big_layer()], {"Cmd": ["/x"]})
    images.push(server.address, "big", "latest", image)
    return image


@pytest.fixture
def asking(server: Registry) -> Iterator[Proxy]:
    """A registry that wants a bearer token, and gives it for a password."""
    running = Proxy(server.address, token=("ann", "open sesame"))
    yield running
    running.close()


def blobs(cli: Cli) -> set[str]:
    folder = cli.store / "images/blobs/sha256"
    return set(os.listdir(folder)) if folder.exists() else set()


def has_no_image(cli: Cli) -> None:
    assert cli.ok("images", "-q").text == ""


# ---- what it says and brings -------------------------------------------------------------------

def test_pull_says_what_docker_says(fresh: Cli, server: Registry) -> None:
    lines = fresh.ok("pull", f"{server.address}/tiny").text.splitlines()
    assert lines[0] == "latest: Pulling from tiny"
    assert sorted(line.split(": ")[1] for line in lines[1:-3]) == [
        "Pull complete", "Pull complete", "Pulling fs layer", "Pulling fs layer"]
    assert lines[-3].startswith("Digest: sha256:")
    assert lines[-2:] == [f"Status: Downloaded newer image for {server.address}/tiny:latest",
                          f"{server.address}/tiny:latest"]


def test_second_pull_asks_once_and_downloads_nothing(fresh: Cli, proxy: Proxy) -> None:
    name = f"{proxy.address}/tiny:list"
    fresh.ok("pull", name)
    proxy.seen.clear()
    assert f"Status: Image is up to date for {name}" in fresh.ok("pull", name).text
    assert [(s.method, s.path) for s in proxy.seen] == [("HEAD", "/v2/tiny/manifests/list")]


def quick(seen: list[Any]) -> list[bool]:
    """Of the requests, which were not those of the whole client."""
    return [s.headers.get("connection") == "close" for s in seen]


def test_second_pull_says_the_same_whoever_asked(fresh: Cli, proxy: Proxy) -> None:
    name = f"{proxy.address}/tiny:list"
    fresh.ok("pull", name)
    proxy.seen.clear()
    alone = fresh.ok("pull", name).text
    assert alone.splitlines()[-2:] == [f"Status: Image is up to date for {name}", name]
    assert quick(proxy.seen) == [True]
    for trouble in ({"status": 503, "times": 2}, {"status": 302, "times": 2, "headers": {
            "Location": f"http://{proxy.upstream}/v2/tiny/manifests/list"}}):
        rule = proxy.rule("/manifests/", **trouble)     # both ask in vain once
        proxy.seen.clear()
        assert fresh.ok("pull", name).text == alone
        assert quick(proxy.seen)[:2] == [True, False]
        assert rule.hits == 2
    proxy.seen.clear()
    through = fresh.ok("pull", name, env={"HTTPS_PROXY": "http://localhost:1"}).text
    assert (through, quick(proxy.seen)) == (alone, [False])


def test_second_pull_of_a_protected_image_proves_who_we_are(fresh: Cli, asking: Proxy) -> None:
    name = f"{asking.address}/tiny"
    save(fresh.home / ".docker/config.json",
         {"auths": {asking.address: entry("ann", "open sesame")}})
    fresh.ok("pull", name)
    asking.seen.clear()
    assert "Image is up to date" in fresh.ok("pull", name).text
    assert all("authorization" not in s.headers for s in asking.seen if quick([s]) == [True])
    assert asking.requests("/manifests/", "HEAD")[-1].headers["authorization"] == "Bearer sesame"


def test_second_pull_over_tls_trusts_nobody_new(fresh: Cli, tls_server: Registry) -> None:
    name = f"{tls_server.address}/tiny"
    fresh.ok("pull", "--tls-verify=false", name)
    assert "Image is up to date" in fresh.ok("pull", "--tls-verify=false", name).text
    fresh.fails(1, "pull", name, says="certificate is not trusted")
    folder = fresh.home / ".config/containers/certs.d" / tls_server.address
    folder.mkdir(parents=True)
    assert tls_server.ca is not None
    (folder / "ca.crt").write_bytes(tls_server.ca.read_bytes())
    assert "Image is up to date" in fresh.ok("pull", name).text
    assert "Image is up to date" in fresh.ok("pull", "--tls-verify=true", name).text


def test_second_pull_when_the_registry_is_gone_says_so(fresh: Cli, server: Registry) -> None:
    proxy = Proxy(server.address)
    name = f"{proxy.address}/tiny"
    fresh.ok("pull", name)
    proxy.close()
    fresh.fails(1, "pull", name, says="connection refused")


def test_changed_tag_is_downloaded_and_the_old_image_keeps_its_digest(
        fresh: Cli, server: Registry) -> None:
    def push(word: str) -> str:
        return images.push(server.address, "moving", "1", Image([Layer(
            Tar().file("word", word.encode()).bytes())], {"Cmd": [word]}))

    name = f"{server.address}/moving"
    old = push("old")
    fresh.ok("pull", f"{name}:1")
    push("new")
    assert "Downloaded newer image" in fresh.ok("pull", f"{name}:1").text
    assert fresh.ok("inspect", "-f", "{{.Config.Cmd}}", f"{name}:1").text == "[new]"
    assert fresh.ok("inspect", "-f", "{{.Config.Cmd}}", f"{name}@{old}").text == "[old]"
    assert fresh.ok("images", "--format", "{{.Tag}}", "-f", "dangling=true").text == "<none>"


def test_quiet_pull_prints_the_id_only(fresh: Cli, server: Registry) -> None:
    name = f"{server.address}/tiny"
    result = fresh.ok("pull", "-q", name)
    assert result.text == fresh.ok("inspect", "-f", "{{.Id}}", name).text
    assert result.error == ""


def test_pull_draws_bars_on_a_terminal(fresh: Cli, proxy: Proxy, big: Image) -> None:
    proxy.rule("/blobs/" + images.digest_of(big.layers[0].blob), pause=0.004)
    with fresh.terminal("pull", f"{proxy.address}/big") as terminal:
        terminal.expect("Downloading [")
        terminal.expect("/3.01MB")
        terminal.expect("Pull complete")
        terminal.expect("Status: Downloaded newer image")
        assert terminal.wait() == 0


@pytest.mark.parametrize("tag", ["latest", "docker", "zstd", "plain", "list", "dockerlist"])
def test_every_form_of_an_image_runs(cli: Cli, server: Registry, tag: str) -> None:
    name = f"{server.address}/tiny:{tag}"
    assert cli.ok("run", "--rm", name, "echo", "runs").text == "runs"
    if "list" in tag:
        assert cli.ok("run", "--rm", name, "cat", "/platform").text == images.ARCHITECTURE


def test_run_pulls_what_is_missing_and_keeps_its_output_clean(fresh: Cli, server: Registry) -> None:
    name = f"{server.address}/tiny:latest"
    result = fresh.ok("run", "--rm", name, "echo", "out")
    assert result.text == "out"
    assert result.error.splitlines()[0] == f"Unable to find image '{name}' locally"
    assert "Status: Downloaded newer image" in result.error
    assert fresh.ok("run", "--rm", name, "true").error == ""


def test_layers_that_are_there_are_not_downloaded_again(fresh: Cli, proxy: Proxy,
                                                        big: Image) -> None:
    fresh.ok("pull", f"{proxy.address}/big")
    more = Image([*big.layers, Layer(Tar().file("more", b"x").bytes())], {"Cmd": ["/y"]})
    images.push(proxy.upstream, "big", "more", more)
    proxy.seen.clear()
    said = fresh.ok("pull", f"{proxy.address}/big:more").text
    assert f"{images.digest_of(big.layers[0].blob)[7:19]}: Already exists" in said
    assert not proxy.requests(images.digest_of(big.layers[0].blob))


def test_layers_a_container_keeps_are_not_downloaded_again(fresh: Cli, proxy: Proxy) -> None:
    name = f"{proxy.address}/tiny"
    fresh.ok("create", "--name", "keeper", name, "true")
    fresh.ok("rmi", "-f", name)
    has_no_image(fresh)
    proxy.seen.clear()
    fresh.ok("pull", name)
    assert len(proxy.requests("/blobs/")) == 1      # the configuration
    assert fresh.ok("start", "-a", "keeper").rc == 0


@pytest.mark.parametrize("tag", ["latest", "docker"])
def test_other_tools_read_the_store_in_place(fresh: Cli, server: Registry, tag: str) -> None:
    name = f"{server.address}/tiny:{tag}"
    fresh.ok("pull", name)
    target = fresh.home / "copy"
    done = subprocess.run(
        ["skopeo", "copy", "--insecure-policy", f"oci:{fresh.store}/images:{name}",
         f"oci:{target}:x"], check=False, env=fresh.env, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    assert len(os.listdir(target / "blobs/sha256")) == 4


# ---- platforms ---------------------------------------------------------------------------------

def test_platform_chooses_from_a_list(fresh: Cli, server: Registry) -> None:
    name = f"{server.address}/tiny:list"
    fresh.ok("pull", "--platform", f"linux/{filled.OTHER}", name)
    assert fresh.ok("inspect", "-f", "{{.Architecture}}", name).text == filled.OTHER
    fresh.ok("pull", name)
    assert fresh.ok("inspect", "-f", "{{.Architecture}}", name).text == images.ARCHITECTURE


def test_platform_that_is_missing_is_told_with_those_there_are(fresh: Cli,
                                                               server: Registry) -> None:
    result = fresh.fails(1, "pull", "--platform", "linux/s390x", f"{server.address}/tiny:list",
                         says="linux/s390x")
    assert "linux/amd64" in result.error
    assert "linux/arm64" in result.error
    fresh.fails(1, "pull", "--platform", "linux/s390x", f"{server.address}/tiny",
                says=f"there is linux/{images.ARCHITECTURE}")


# ---- connections -------------------------------------------------------------------------------

def test_broken_connection_is_taken_up_where_it_stood(fresh: Cli, proxy: Proxy,
                                                      big: Image) -> None:
    digest = images.digest_of(big.layers[0].blob)
    proxy.rule(digest, cut_after=1_000_000, times=1)
    fresh.ok("pull", f"{proxy.address}/big")
    first, second = proxy.requests(digest)
    assert "range" not in first.headers
    assert second.headers["range"] == "bytes=1000000-"


def test_server_that_cannot_start_in_the_middle_is_no_obstacle(fresh: Cli, proxy: Proxy,
                                                               big: Image) -> None:
    digest = images.digest_of(big.layers[0].blob)
    proxy.rule(digest, cut_after=1_000_000, times=1)
    proxy.rule(digest, ignore_range=True)
    fresh.ok("pull", f"{proxy.address}/big")
    assert digest[7:] in blobs(fresh)


def test_next_pull_goes_on_where_a_failed_one_ended(fresh: Cli, proxy: Proxy, big: Image) -> None:
    digest = images.digest_of(big.layers[0].blob)
    cut = proxy.rule(digest, cut_after=500_000, times=1)
    bad = proxy.rule(digest, status=404, body=b"{}")
    fresh.fails(1, "pull", f"{proxy.address}/big")
    assert cut.hits == 1
    has_no_image(fresh)
    proxy.rules.remove(bad)
    proxy.seen.clear()
    fresh.ok("pull", f"{proxy.address}/big")
    assert [s.headers["range"] for s in proxy.requests(digest)] == ["bytes=500000-"]


def test_killed_pull_leaves_no_image_and_the_next_goes_on(fresh: Cli, proxy: Proxy,
                                                          big: Image) -> None:
    digest = images.digest_of(big.layers[0].blob)
    slow = proxy.rule(digest, pause=0.02)
    for _ in range(2):
        process = fresh.popen("pull", f"{proxy.address}/big", stdout=subprocess.DEVNULL)
        partial = fresh.store / f"tmp/partial-{digest[7:]}"
        before = partial.stat().st_size if partial.exists() else 0
        wait_for(lambda p=partial, b=before: p.exists() and p.stat().st_size > b + 300_000)
        process.send_signal(signal.SIGKILL)
        process.wait()
        has_no_image(fresh)
    proxy.rules.remove(slow)
    proxy.seen.clear()
    fresh.ok("pull", f"{proxy.address}/big")
    assert int(proxy.requests(digest)[0].headers["range"][6:-1]) > 500_000


@pytest.mark.parametrize("group", [True, False], ids=["all its processes", "the first process"])
def test_pull_killed_at_any_moment_leaves_nothing_half(fresh: Cli, server: Registry,
                                                       group: bool) -> None:
    name = f"{server.address}/tiny"
    fresh.ok("pull", "-q", name)        # makes the store, and the namespace that is kept
    fresh.ok("rmi", name)
    for step in range(10):
        process = fresh.popen("pull", "-q", name, start_new_session=True,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.04 + 0.03 * step)
        (os.killpg if group else os.kill)(process.pid, signal.SIGKILL)
        ended = process.wait() == 0
        for blob in blobs(fresh):
            data = (fresh.store / "images/blobs/sha256" / blob).read_bytes()
            assert images.digest_of(data) == f"sha256:{blob}"
        if ended or fresh.ok("images", "-q").text:
            assert fresh.ok("run", "--rm", "--pull=never", name, "echo", "whole").text == "whole"
            fresh.ok("rmi", name)
    fresh.ok("pull", "-q", name)
    assert fresh.ok("run", "--rm", name, "echo", "whole").text == "whole"


def test_ctrl_c_ends_a_pull_at_once(fresh: Cli, proxy: Proxy, big: Image) -> None:
    digest = images.digest_of(big.layers[0].blob)
    slow = proxy.rule(digest, pause=0.05)
    with fresh.terminal("pull", f"{proxy.address}/big") as terminal:
        terminal.expect("Downloading")
        time.sleep(0.3)
        terminal.send(b"\x03")
        started = time.monotonic()
        assert terminal.wait() == 130, terminal.output
        assert time.monotonic() - started < 3
    has_no_image(fresh)
    proxy.rules.remove(slow)
    fresh.ok("pull", f"{proxy.address}/big")


def wait_for(true: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


def test_file_that_cannot_be_written_is_told_and_does_not_stay(fresh: Cli, server: Registry,
                                                               big: Image) -> None:
    """A limit on the size of files stands for a disk that is full."""
    process = fresh.popen(
        "pull", f"{server.address}/big", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)))
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    (line,) = said.decode().splitlines()
    assert line.endswith("File too large")
    assert os.listdir(fresh.store / "tmp") == []
    fresh.ok("pull", f"{server.address}/big")


def test_two_pulls_at_once_download_a_layer_once(fresh: Cli, proxy: Proxy, big: Image) -> None:
    digest = images.digest_of(big.layers[0].blob)
    proxy.rule(digest, pause=0.003)
    both = [fresh.popen("pull", f"{proxy.address}/big", stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT) for _ in range(2)]
    for process in both:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0, out
    assert len(proxy.requests(digest)) == 1
    assert len(fresh.ok("images", "-q").text.split()) == 1


def test_server_errors_that_pass_are_waited_for(fresh: Cli, proxy: Proxy) -> None:
    proxy.rule("/manifests/", status=503, times=2)
    proxy.rule("/blobs/", status=500, times=2)
    fresh.ok("pull", f"{proxy.address}/tiny")


def test_server_error_that_stays_is_told(fresh: Cli, proxy: Proxy) -> None:
    proxy.rule("/manifests/", status=503,
               body=b'{"errors":[{"code":"UNAVAILABLE","message":"gone\\u001b[31m fishing"}]}')
    result = fresh.fails(1, "pull", f"{proxy.address}/tiny", says="answered 503: gone")
    assert "\x1b" not in result.error


def test_rate_limit_is_waited_for_and_said(fresh: Cli, proxy: Proxy) -> None:
    proxy.rule("/manifests/", status=429, headers={"Retry-After": "1"}, times=1)
    started = time.monotonic()
    assert "waiting 1 s" in fresh.ok("pull", f"{proxy.address}/tiny").text
    assert time.monotonic() - started >= 1


def test_rate_limit_of_an_hour_is_told_at_once(fresh: Cli, proxy: Proxy) -> None:
    proxy.rule("/manifests/", status=429, headers={"Retry-After": "3600"})
    fresh.fails(1, "pull", f"{proxy.address}/tiny", says="60 min")


def test_nobody_listens(fresh: Cli) -> None:
    name = f"localhost:{registry.free_port()}/tiny"
    fresh.fails(1, "pull", name, says="connection refused")
    fresh.fails(125, "run", "--rm", name, says="connection refused")


def test_name_of_a_local_image_that_is_not_there(fresh: Cli) -> None:
    result = fresh.fails(1, "pull", "localhost/mine", says="connection refused")
    assert "hint: localhost/ begins the names of images made here" in result.error


def test_image_that_is_not_there(fresh: Cli, server: Registry) -> None:
    fresh.fails(1, "pull", f"{server.address}/nosuch", says="no such image")
    fresh.fails(1, "pull", f"{server.address}/tiny:nosuch", says="no such image")
    fresh.fails(125, "run", f"{server.address}/tiny:nosuch", says="no such image")
    fresh.fails(1, "pull", f"{server.address}/tiny@sha256:{'0' * 64}", says="no such image")


def test_http_proxy_of_the_environment_is_used(fresh: Cli, proxy: Proxy) -> None:
    env = {"HTTP_PROXY": f"http://{proxy.address}"}
    fresh.ok("pull", "--tls-verify=false", "registry.invalid/tiny", env=env)
    assert proxy.requests("/manifests/latest")
    fresh.fails(1, "pull", "--tls-verify=false", "registry.invalid/odd", says="registry.invalid",
                env={**env, "NO_PROXY": ".invalid"})


# ---- who we are --------------------------------------------------------------------------------

def entry(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def save(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def test_token_is_fetched_with_the_password_docker_login_stored(fresh: Cli, asking: Proxy) -> None:
    name = f"{asking.address}/tiny"
    fresh.fails(1, "pull", name, says="user name and password")
    config = fresh.home / ".docker/config.json"
    save(config, {"auths": {asking.address: entry("ann", "wrong secret")}})
    result = fresh.fails(1, "pull", name, says=str(config))
    assert "wrong secret" not in result.error
    save(config, {"auths": {asking.address: entry("ann", "open sesame")}})
    fresh.ok("pull", name)
    assert len(asking.requests("^/token")) < 12      # not one for each request


def test_password_podman_login_stored_is_used(fresh: Cli, password_server: Registry) -> None:
    name = f"{password_server.address}/tiny"
    fresh.fails(1, "pull", name, says="user name and password")
    auths = {"auths": {password_server.address: entry(registry.USER, registry.PASSWORD)}}
    save(fresh.runtime / "containers/auth.json", auths)
    fresh.ok("pull", name)
    save(fresh.runtime / "containers/auth.json",
         {"auths": {password_server.address: entry(registry.USER, "not it")}})
    result = fresh.fails(125, "run", "--pull=always", name, says="refused the user name")
    assert "not it" not in result.error


def test_password_comes_from_a_credential_helper(fresh: Cli, password_server: Registry) -> None:
    programs = fresh.home / "bin"
    programs.mkdir()
    helper = programs / "docker-credential-safe"
    helper.write_text(f'#!/bin/sh\nread server\n[ "$1" = get ] && '
                      f'echo "{{\\"ServerURL\\":\\"$server\\",\\"Username\\":\\"{registry.USER}\\",'
                      f'\\"Secret\\":\\"{registry.PASSWORD}\\"}}"\n')
    helper.chmod(0o755)
    save(fresh.home / ".docker/config.json",
         {"credHelpers": {password_server.address: "safe"}})
    name = f"{password_server.address}/tiny"
    fresh.fails(1, "pull", name, says="docker-credential-safe is not installed")
    fresh.ok("pull", name, env={"PATH": f"{programs}:{fresh.env['PATH']}"})


class _Trading(http.server.BaseHTTPRequestHandler):
    """Gives a token for a token, as registries of clouds do, and an empty image for that."""

    image = Image([], {"Cmd": ["/x"]})

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        fields = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        right = (fields["grant_type"], fields["refresh_token"], fields["service"],
                 fields["scope"]) == (["refresh_token"], ["longlived"], ["cloud"],
                                      ["repository:app:pull"])
        self.answer(200 if right else 401, b'{"access_token": "short"}' if right else b"{}")

    def do_GET(self) -> None:
        if self.headers.get("Authorization") != "Bearer short":
            here = f"http://{self.headers['Host']}/trade"
            self.answer(401, b"", WWW_Authenticate=f'Bearer realm="{here}",service="cloud"')
        elif "/manifests/" in self.path:
            self.answer(200, self.image.manifest_blob, Content_Type=self.image.media_type)
        else:
            self.answer(200, self.image.config_blob)


def test_identity_token_is_traded_for_a_token(fresh: Cli) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Trading)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        address = f"localhost:{server.server_address[1]}"
        config = fresh.home / ".docker/config.json"
        save(config, {"auths": {address: {"identitytoken": "longlived"}}})
        fresh.ok("pull", f"{address}/app")
        assert fresh.ok("inspect", "-f", "{{.Config.Cmd}}", f"{address}/app").text == "[/x]"
        save(config, {"auths": {address: {"identitytoken": "expired"}}})
        result = fresh.fails(1, "pull", f"{address}/app:2", says="refused")
        assert "expired" not in result.error
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_redirect_elsewhere_gets_the_blob_but_not_our_token(fresh: Cli, asking: Proxy,
                                                            proxy: Proxy, big: Image) -> None:
    digest = images.digest_of(big.layers[0].blob)
    place = f"/v2/big/blobs/{digest}"
    asking.rule(digest, status=307, headers={"Location": f"http://{proxy.address}{place}"})
    save(fresh.home / ".docker/config.json",
         {"auths": {asking.address: entry("ann", "open sesame")}})
    fresh.ok("pull", f"{asking.address}/big")
    assert asking.requests(digest)[-1].headers["authorization"] == "Bearer sesame"
    assert [s.headers.get("authorization") for s in proxy.requests(digest)] == [None]


def test_endless_redirects_end(fresh: Cli, proxy: Proxy) -> None:
    proxy.rule("/manifests/", status=302, headers={"Location": "/v2/tiny/manifests/latest"})
    fresh.fails(1, "pull", f"{proxy.address}/tiny", says="answered 302")
    assert len(proxy.seen) < 10


def test_certificate_nobody_vouches_for_is_refused(fresh: Cli, tls_server: Registry) -> None:
    name = f"{tls_server.address}/tiny"
    result = fresh.fails(1, "pull", name, says="certificate is not trusted")
    assert f"certs.d/{tls_server.address}/ca.crt" in result.error
    fresh.ok("pull", "--tls-verify=false", name)


@pytest.mark.parametrize("place", [".docker", ".config/docker", ".config/containers"])
def test_authority_in_certs_d_is_trusted(fresh: Cli, tls_server: Registry, place: str) -> None:
    folder = fresh.home / place / "certs.d" / tls_server.address
    folder.mkdir(parents=True)
    assert tls_server.ca is not None
    (folder / "ca.crt").write_bytes(tls_server.ca.read_bytes())
    fresh.ok("pull", "--tls-verify=true", f"{tls_server.address}/tiny")


# ---- lies --------------------------------------------------------------------------------------

def test_altered_layer_is_refused_and_leaves_nothing(fresh: Cli, proxy: Proxy, big: Image) -> None:
    digest = images.digest_of(big.layers[0].blob)
    bad = proxy.rule(digest, flip=2_000_000)
    fresh.fails(1, "pull", f"{proxy.address}/big", says="altered")
    has_no_image(fresh)
    assert digest[7:] not in blobs(fresh)
    assert os.listdir(fresh.store / "layers") == []
    assert os.listdir(fresh.store / "tmp") == []
    proxy.rules.remove(bad)
    fresh.ok("pull", f"{proxy.address}/big")


def test_beginning_that_was_damaged_on_disk_is_downloaded_anew(fresh: Cli, proxy: Proxy,
                                                               big: Image) -> None:
    digest = images.digest_of(big.layers[0].blob)
    proxy.rule(digest, cut_after=500_000, times=1)
    bad = proxy.rule(digest, status=404, body=b"{}")
    fresh.fails(1, "pull", f"{proxy.address}/big")
    proxy.rules.remove(bad)
    with open(fresh.store / f"tmp/partial-{digest[7:]}", "r+b") as partial:
        partial.write(bytes(1000))
    fresh.ok("pull", f"{proxy.address}/big")
    assert digest[7:] in blobs(fresh)


@pytest.mark.parametrize("what", ["/manifests/sha256:", "/blobs/"])
def test_altered_small_part_is_refused(fresh: Cli, proxy: Proxy, what: str) -> None:
    proxy.rule(what, flip=20)
    fresh.fails(1, "pull", f"{proxy.address}/tiny:list", says="altered")
    has_no_image(fresh)


def test_altered_manifest_of_a_digest_is_refused(fresh: Cli, proxy: Proxy) -> None:
    name = f"{proxy.address}/tiny"
    digest = next(line[8:] for line in fresh.ok("pull", name).text.splitlines()
                  if line.startswith("Digest: "))
    fresh.ok("rmi", name)
    proxy.rule("/manifests/", flip=20)
    fresh.fails(1, "pull", f"{name}@{digest}", says="altered")


def test_digest_counts_where_a_tag_is_given_too(fresh: Cli, server: Registry) -> None:
    name = f"{server.address}/tiny"
    digest = next(line[8:] for line in fresh.ok("pull", name).text.splitlines()
                  if line.startswith("Digest: "))
    fresh.ok("rmi", name)
    fresh.ok("pull", f"{name}:plain@{digest}")
    assert fresh.ok("images", "--format", "{{.Tag}} {{.Digest}}").text == f"<none> {digest}"
    assert fresh.ok("run", "--rm", f"{name}:plain@{digest}", "echo", "runs").text == "runs"
    fresh.ok("rmi", f"{name}@{digest}")
    has_no_image(fresh)


def test_layer_that_is_not_what_the_config_says_is_refused(fresh: Cli, server: Registry) -> None:
    layer = Layer(Tar().file("a", b"a").bytes(), diff_id="sha256:" + "1" * 64)
    images.push(server.address, "lie", "diffid", Image([layer]))
    fresh.fails(1, "pull", f"{server.address}/lie:diffid", says="not what the image says")
    has_no_image(fresh)
    assert os.listdir(fresh.store / "layers") == []


def test_refused_image_leaves_no_beginnings_of_its_other_layers(fresh: Cli, proxy: Proxy) -> None:
    slow, bad = big_layer(), big_layer()
    images.push(proxy.upstream, "lie", "half", Image([slow, bad]))
    proxy.rule(images.digest_of(slow.blob), pause=0.05)
    proxy.rule(images.digest_of(bad.blob), flip=2_000_000)
    fresh.fails(1, "pull", f"{proxy.address}/lie:half", says="altered")
    assert proxy.requests(images.digest_of(slow.blob))
    assert os.listdir(fresh.store / "tmp") == []


def lying(change: str) -> bytes:
    """A manifest of `tiny` by hand, with one thing wrong."""
    blob = {"digest": "sha256:" + "2" * 64, "size": 10}
    manifest: dict[str, Any] = {
        "schemaVersion": 2, "mediaType": OCI + "manifest.v1+json",
        "config": {"mediaType": OCI + "config.v1+json", **blob},
        "layers": [{"mediaType": OCI + "layer.v1.tar+gzip", **blob}]}
    layer = manifest["layers"][0]
    if change == "schema1":
        manifest = {"schemaVersion": 1, "name": "tiny", "fsLayers": []}
    elif change == "both":
        manifest["manifests"] = []
    elif change == "kind":
        manifest["mediaType"] = "application/x-strange"
    elif change == "artifact":
        manifest["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json"
    elif change == "foreign":
        layer["mediaType"] = DOCKER + "image.rootfs.foreign.diff.tar.gzip"
    elif change == "layer kind":
        layer["mediaType"] = OCI + "layer.v1.tar+rot13"
    elif change == "sha512":
        layer["digest"] = "sha512:" + "2" * 128
    elif change == "path":
        layer["digest"] = "sha256:../../../../../../etc/passwd"
    elif change == "size":
        layer["size"] = -1
    elif change == "huge":
        layer["annotations"] = {"x": "x" * (4 << 20)}
    elif change == "deep":
        return b'{"a":' * 100_000
    elif change == "json":
        return b"<html>"
    return json.dumps(manifest).encode()


@pytest.mark.parametrize("change, says", [
    ("schema1", "schema 1"), ("both", "at once"), ("kind", "application/x-strange"),
    ("artifact", "not a container image"), ("foreign", "foreign"), ("layer kind", "rot13"),
    ("sha512", "only sha256"), ("path", "no sha256 digest"), ("size", "size -1"),
    ("huge", "more than 4194304 bytes"), ("deep", "malformed"), ("json", "not JSON")])
def test_manifest_that_is_wrong_is_refused_in_one_line(fresh: Cli, proxy: Proxy, change: str,
                                                       says: str) -> None:
    proxy.rule("/manifests/", body=lying(change),
               headers={"Content-Type": OCI + "manifest.v1+json"})
    result = fresh.fails(1, "pull", f"{proxy.address}/tiny", says=says)
    assert len(result.error.splitlines()) <= 2
    has_no_image(fresh)


@pytest.mark.parametrize("by, says", [(1000, "the manifest says"), (-1000, "the manifest says")])
def test_layer_of_another_size_is_refused(fresh: Cli, proxy: Proxy, big: Image, by: int,
                                          says: str) -> None:
    manifest = big.manifest()
    manifest["layers"][0]["size"] += by
    proxy.rule("/manifests/", body=json.dumps(manifest).encode(),
               headers={"Content-Type": OCI + "manifest.v1+json"})
    fresh.fails(1, "pull", f"{proxy.address}/big", says=says)
    assert os.listdir(fresh.store / "layers") == []


def test_wrong_number_of_layers_is_refused(fresh: Cli, server: Registry) -> None:
    image = Image([Layer(Tar().file("a", b"a").bytes()), Layer(Tar().file("b", b"b").bytes())])
    config = images.push_blob(server.address, "lie", image.config_blob)
    manifest = image.manifest()
    for layer in image.layers:
        images.push_blob(server.address, "lie", layer.blob)
    assert manifest["config"]["digest"] == config
    del manifest["layers"][1]
    images.push_manifest(server.address, "lie", "count", json.dumps(manifest).encode(),
                         image.media_type)
    fresh.fails(1, "pull", f"{server.address}/lie:count", says="names 2 layers, its manifest 1")


@pytest.mark.parametrize("name", ["UPPER", "a//b", "a:", "a@sha256:12", "-a", "a b"])
def test_name_that_cannot_be_is_told(fresh: Cli, name: str) -> None:
    fresh.fails(1, "pull", "--", name, says="invalid reference format")
    fresh.fails(125, "run", "--", name, says="invalid reference format")
