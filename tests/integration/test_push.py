"""Pushing: what registries get, what they may do, and what other tools make of it."""

from __future__ import annotations

import gzip
import json
import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.integration.support import filled, images, registry
from tests.integration.support.cli import Cli
from tests.integration.support.faults import Proxy
from tests.integration.support.images import DOCKER, OCI, Image, Layer, Tar, digest_of
from tests.integration.support.registry import Registry
from tests.integration.support.trees import Podman, Tree, differences, tree

BIG = 9_000_000         # sent in a session, not with one request
EITHER = {"oci": OCI + "manifest.v1+json", "v2s2": DOCKER + "distribution.manifest.v2+json"}


def raw(server: Registry, repo: str, tag: str) -> tuple[bytes, str]:
    """The manifest that is there, and its media type."""
    status, headers, body = images.request(
        server.address, "GET", f"/v2/{repo}/manifests/{tag}", b"",
        {"Accept": ", ".join(EITHER.values())})
    assert status == 200, body
    return body, headers["content-type"]


def manifest(server: Registry, repo: str, tag: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(raw(server, repo, tag)[0])
    return found


def blob(server: Registry, digest: str) -> bytes:
    return server.blob_file(digest).read_bytes()


def has(server: Registry, repo: str, digest: str) -> bool:
    return images.request(server.address, "HEAD", f"/v2/{repo}/blobs/{digest}", b"", {})[0] == 200


def sessions(server: Registry, repo: str) -> list[str]:
    """Uploads of which the registry keeps bytes."""
    place = server.storage / "docker/registry/v2/repositories" / repo / "_uploads"
    return [str(f) for f in place.glob("*/data")]


def random_image(*sizes: int, compression: str = "none") -> Image:
    return Image([Layer(Tar().file(f"file{n}", os.urandom(size)).bytes(), compression)
                  for n, size in enumerate(sizes)], {"Cmd": ["/x"]})


def load(cli: Cli, image: Image, name: str) -> str:
    cli.ok("load", stdin=images.oci_archive(image, name))
    return name


@pytest.fixture
def big(fresh: Cli) -> tuple[str, str]:
    """(name in the store, digest of its one layer) of an image no registry knows."""
    image = random_image(BIG, compression="gzip")
    return load(fresh, image, "localhost/big:1"), digest_of(image.layers[0].blob)


@pytest.fixture
def asking(server: Registry) -> Iterator[Proxy]:
    running = Proxy(server.address, token=("ann", "open sesame"))
    yield running
    running.close()


def wait_for(true: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


# ---- what it says and leaves -------------------------------------------------------------------

def test_push_says_what_docker_says_and_keeps_the_digest(fresh: Cli, server: Registry) -> None:
    name = f"{server.address}/said/new:1"
    fresh.ok("pull", f"{server.address}/tiny")
    fresh.ok("tag", f"{server.address}/tiny", name)
    lines = fresh.ok("push", name).text.splitlines()
    assert lines[0] == f"The push refers to repository [{server.address}/said/new]"
    assert sorted(line.split(": ", 1)[1] for line in lines[1:-1]) == [
        "Mounted from tiny", "Mounted from tiny", "Preparing", "Preparing"]
    data, _ = raw(server, "said/new", "1")
    assert lines[-1] == f"1: digest: {digest_of(data)} size: {len(data)}"
    assert data == raw(server, "tiny", "latest")[0]
    shown = fresh.ok("images", "--format", "{{.Digest}}", name).text
    assert shown == digest_of(data)


def test_second_push_sends_nothing(fresh: Cli, proxy: Proxy, big: tuple[str, str]) -> None:
    target = f"{proxy.address}/twice"
    assert "Pushed" in fresh.ok("push", big[0], target).text
    proxy.seen.clear()
    assert fresh.ok("push", big[0], target).text.count("Layer already exists") == 1
    assert {s.method for s in proxy.seen} == {"HEAD", "PUT"}
    assert [s.path for s in proxy.seen if s.method == "PUT"] == ["/v2/twice/manifests/latest"]


def test_quiet_push_prints_the_name_and_the_digest_goes_into_a_file(fresh: Cli,
                                                                    server: Registry) -> None:
    name = f"{server.address}/quiet:7"
    load(fresh, random_image(10), name)
    assert fresh.ok("push", "-q", "--digestfile", "d", name).text == name
    assert (fresh.home / "d").read_text() == digest_of(raw(server, "quiet", "7")[0])


def test_image_that_came_from_docker_goes_out_as_docker_wrote_it(fresh: Cli,
                                                                 server: Registry) -> None:
    fresh.ok("pull", f"{server.address}/tiny:docker")
    fresh.ok("push", f"{server.address}/tiny:docker", f"docker://{server.address}/asdocker")
    assert raw(server, "asdocker", "latest") == raw(server, "tiny", "docker")


def test_all_tags_of_a_repository_are_pushed_and_pulled(fresh: Cli, server: Registry) -> None:
    repo = f"{server.address}/alltags"
    for tag in ("a", "b"):
        load(fresh, random_image(10), f"{repo}:{tag}")
    load(fresh, random_image(10), f"{repo}-other:c")
    fresh.fails(1, "push", "-a", f"{repo}:a", says="takes a repository alone")
    said = fresh.ok("push", "-a", repo).text
    assert [line[:11] for line in said.splitlines() if "digest:" in line] == [
        "a: digest: ", "b: digest: "]
    ids = set(fresh.ok("images", "-q", "--no-trunc", repo).text.split())
    fresh.ok("rmi", f"{repo}:a", f"{repo}:b")
    fresh.ok("pull", "--all-tags", repo)
    assert set(fresh.ok("images", "-q", "--no-trunc", repo).text.split()) == ids
    assert len(ids) == 2
    fresh.fails(1, "pull", "-a", f"{repo}:a", says="takes a repository alone")


@pytest.mark.parametrize("words, says", [
    (("nosuch",), "no such image"), (("{id}",), "says which image, not where to"),
    (("{name}", "r.example/x@sha256:" + "0" * 64), "a digest is not for us to give"),
    (("{name}", "r.example/UPPER"), "lower case"), (("-a", "nosuch"), "no image of the repository"),
])
def test_what_cannot_be_pushed_is_told(fresh: Cli, words: tuple[str, ...], says: str) -> None:
    name = load(fresh, random_image(10), "localhost/some:1")
    known = {"{id}": fresh.ok("images", "-q").text, "{name}": name}
    fresh.fails(1, "push", *(known.get(w, w) for w in words), says=says)


@pytest.mark.parametrize("words, says", [
    (("--format", "v1"), "oci, v2s2"), (("--compression-format", "xz"), "gzip, zstd"),
    (("--compression-level", "10"), "levels 1 to 9"),
    (("--compression-format", "zstd", "--compression-level", "23"), "levels 1 to 22"),
    (("--format", "v2s2", "--compression-format", "zstd"), "gzip only"),
    (("-a", "--digestfile", "x"), "one digest")])
def test_options_that_mean_nothing_are_refused(cli: Cli, tiny: str, words: tuple[str, ...],
                                               says: str) -> None:
    cli.fails(125, "push", *words, tiny, says=says)


# ---- forms -------------------------------------------------------------------------------------

def opened(data: bytes) -> tuple[str, bytes]:
    if data.startswith(b"\x1f\x8b"):
        return "gzip", gzip.decompress(data)
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        return "zstd", zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return "", data


@pytest.mark.parametrize("tag", ["latest", "docker", "zstd", "plain"])
@pytest.mark.parametrize("words, form, compression", [
    ((), "", ""), (("--format", "oci"), "oci", ""), (("--format", "v2s2"), "v2s2", "gzip"),
    (("--compression-format", "zstd"), "oci", "zstd"),
    (("--compression-format", "gzip", "--compression-level", "9"), "", "gzip"),
    (("--compression-format", "zstd", "--compression-level", "1"), "oci", "zstd")])
def test_every_form_keeps_the_image_and_its_layers(fresh: Cli, server: Registry, tag: str,
                                                   words: tuple[str, ...], form: str,
                                                   compression: str) -> None:
    name = f"{server.address}/tiny:{tag}"
    fresh.ok("pull", name)
    repo = f"forms/{tag}{''.join(words).strip('-')}"
    fresh.ok("push", *words, name, f"{server.address}/{repo}")
    found, kind = raw(server, repo, "latest")
    document = json.loads(found)
    wanted = form or ("v2s2" if tag == "docker" else "oci")
    assert kind == document["mediaType"] == EITHER[wanted]
    config = json.loads(blob(server, document["config"]["digest"]))
    assert document["config"]["digest"] == fresh.ok("inspect", "-f", "{{.Id}}", name).text
    wanted = compression or ("zstd" if tag == "zstd" else "gzip")
    for layer, diff_id in zip(document["layers"], config["rootfs"]["diff_ids"]):
        data = blob(server, layer["digest"])
        kind, tar = opened(data)
        assert (kind, digest_of(tar), len(data)) == (wanted, diff_id, layer["size"])
        assert layer["mediaType"].endswith("tar." + kind if form == "v2s2" or (
            tag == "docker" and form != "oci" and kind == "gzip") else "tar+" + kind)


def test_uncompressed_layers_are_compressed_once_and_kept(fresh: Cli, server: Registry) -> None:
    text = b"the same again " * 400_000
    image = Image([Layer(Tar().file("words", text).bytes(), "none")], {"Cmd": ["/x"]})
    fresh.ok("load", stdin=images.docker_archive(image, "localhost/bulky:1"))
    name = f"{server.address}/bulky"
    before = fresh.ok("images", "-q", "--no-trunc").text
    blobs = fresh.store / "images/blobs/sha256"
    assert max(f.stat().st_size for f in blobs.iterdir()) > len(text)
    fresh.ok("push", "localhost/bulky:1", name)
    (layer,) = manifest(server, "bulky", "latest")["layers"]
    assert layer["size"] < len(text) / 20
    assert sorted(f.stat().st_size for f in blobs.iterdir())[-1] == layer["size"]
    assert fresh.ok("images", "-q", "--no-trunc").text == before
    assert fresh.ok("push", "localhost/bulky:1", name).text.count("Layer already exists") == 1
    fresh.ok("system", "check")
    fresh.ok("save", "-o", "saved.tar", "localhost/bulky:1")


def test_layers_made_for_one_push_do_not_stay(fresh: Cli, server: Registry) -> None:
    name = f"{server.address}/tiny:latest"
    fresh.ok("pull", name)
    blobs = fresh.store / "images/blobs/sha256"
    before = sorted(os.listdir(blobs))
    fresh.ok("push", "--compression-format", "zstd", name, f"{server.address}/once")
    assert sorted(os.listdir(blobs)) == before
    assert os.listdir(fresh.store / "tmp") == []


def test_damaged_blob_is_not_pushed_and_named(fresh: Cli, server: Registry,
                                              big: tuple[str, str]) -> None:
    file = fresh.store / "images/blobs/sha256" / big[1][7:]
    data = bytearray(file.read_bytes())
    data[BIG // 2] ^= 1
    file.write_bytes(data)
    result = fresh.fails(1, "push", big[0], f"{server.address}/damaged", says="is damaged")
    assert big[1] in result.error
    fresh.fails(1, "push", "--compression-format", "zstd", big[0], f"{server.address}/damaged",
                says="damaged")
    assert sessions(server, "damaged") == []
    fresh.ok("rmi", big[0])


# ---- other tools -------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def podman(ground: Path) -> Iterator[Podman]:
    home = ground / "podman-push"
    one = Podman(home)
    yield one
    one.ok("system", "migrate")     # ends the process that holds its namespaces
    filled.remove_tree(home)


def umoci(source: str, place: Path) -> Tree:
    """What umoci unpacks of an image in a registry."""
    place.mkdir()
    for words in (("skopeo", "copy", "--quiet", "--insecure-policy", "--src-tls-verify=false",
                   f"docker://{source}", f"oci:{place}/layout:x"),
                  ("umoci", "unpack", "--rootless", "--image", f"{place}/layout:x",
                   f"{place}/bundle")):
        done = subprocess.run(words, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == 0, done.stdout.decode()
    return tree(place / "bundle/rootfs")


@pytest.mark.parametrize("words", [(), ("--format", "v2s2"), ("--compression-format", "zstd")],
                         ids=["oci", "v2s2", "zstd"])
def test_what_we_push_unpacks_the_same_in_podman_and_umoci(
        fresh: Cli, server: Registry, podman: Podman, words: tuple[str, ...]) -> None:
    name = f"{server.address}/multi:oci"
    target = f"{server.address}/peers:{words[-1] if words else 'oci'}"
    fresh.ok("pull", name)
    fresh.ok("push", *words, name, target)
    for image in (name, target):
        podman.ok("pull", "-q", "--tls-verify=false", image)
    found, wanted = podman.tree(target), podman.tree(name)
    assert len(wanted) > 1000
    assert differences(found, wanted) == {}
    if "zstd" not in words:         # which Debian's umoci cannot read
        found, wanted = umoci(target, fresh.home / "a"), umoci(name, fresh.home / "b")
        assert found["./data/changed"]["digest"] == wanted["./data/changed"]["digest"]
        for both in (found, wanted):
            both["."]["mtime"] = 0
        assert differences(found, wanted) == {}


# ---- connections -------------------------------------------------------------------------------

def patches(proxy: Proxy) -> list[str | None]:
    return [s.headers.get("content-range") for s in proxy.seen if s.method == "PATCH"]


def test_broken_upload_is_taken_up_where_it_stood(fresh: Cli, proxy: Proxy, server: Registry,
                                                  big: tuple[str, str]) -> None:
    proxy.rule("/blobs/uploads/", method="PATCH", break_after=5_000_000, times=1)
    fresh.ok("push", big[0], f"{proxy.address}/resumed")
    size = len(blob(server, big[1]))
    assert patches(proxy) == [None, f"5000000-{size - 1}"]
    assert has(server, "resumed", big[1])
    assert sessions(server, "resumed") == []


def test_session_that_is_lost_begins_anew(fresh: Cli, proxy: Proxy, server: Registry,
                                          big: tuple[str, str]) -> None:
    proxy.rule("/blobs/uploads/", method="PATCH", break_after=5_000_000, times=1)
    proxy.rule("/blobs/uploads/", method="GET", status=404, times=1)
    fresh.ok("push", big[0], f"{proxy.address}/lost")
    assert patches(proxy) == [None, None]
    assert has(server, "lost", big[1])


def test_last_answer_that_is_lost_is_no_harm(fresh: Cli, proxy: Proxy, server: Registry,
                                             big: tuple[str, str]) -> None:
    proxy.rule(f"digest=.*{big[1][7:]}", method="PUT", break_after=0, times=1)
    fresh.ok("push", big[0], f"{proxy.address}/unheard")
    assert len(patches(proxy)) == 1
    assert has(server, "unheard", big[1])


def test_body_that_is_too_large_is_sent_in_smaller_ones(fresh: Cli, proxy: Proxy, server: Registry,
                                                        big: tuple[str, str]) -> None:
    proxy.rule("/blobs/uploads/", method="PATCH", status=413, times=2)
    fresh.ok("push", big[0], f"{proxy.address}/smaller")
    step, size = 8 << 20, len(blob(server, big[1]))
    assert patches(proxy)[2:] == [f"0-{step - 1}", f"{step}-{size - 1}"]
    assert has(server, "smaller", big[1])


@pytest.mark.parametrize("method, where", [("POST", "/blobs/uploads/"), ("PUT", "/manifests/"),
                                           ("PATCH", "/blobs/uploads/"), ("HEAD", "/blobs/"),
                                           ("PUT", "/blobs/uploads/")])
def test_server_errors_that_pass_are_waited_for(fresh: Cli, proxy: Proxy, server: Registry,
                                                big: tuple[str, str], method: str,
                                                where: str) -> None:
    rule = proxy.rule(where, method=method, status=503, times=2)
    fresh.ok("push", big[0], f"{proxy.address}/passing/{method.lower()}")
    assert rule.hits == 2
    assert has(server, f"passing/{method.lower()}", big[1])


def test_rate_limit_is_waited_for_and_said(fresh: Cli, proxy: Proxy, big: tuple[str, str]) -> None:
    proxy.rule("/blobs/uploads/", method="POST", status=429, headers={"Retry-After": "1"}, times=1)
    assert "waiting 1 s" in fresh.ok("push", big[0], f"{proxy.address}/limited").text


@pytest.mark.parametrize("status, code, message, says", [
    (403, "DENIED", "requested access to the resource is denied", "does not allow it"),
    (403, "DENIED", "quota exceeded", "quota exceeded"),
    (405, "UNSUPPORTED", "the operation is unsupported", "read-only"),
    (400, "NAME_INVALID", "invalid repository name", "invalid repository name"),
    (404, "NAME_UNKNOWN", "repository name not known", "takes no such name"),
    (507, "QUOTA", "disk is full", "has no room")])
def test_refusal_is_told_in_one_line(fresh: Cli, proxy: Proxy, big: tuple[str, str], status: int,
                                     code: str, message: str, says: str) -> None:
    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    proxy.rule("/blobs/uploads/", method="POST", status=status, body=body)
    result = fresh.fails(1, "push", big[0], f"{proxy.address}/refused", says=says)
    assert result.error.startswith("rootless: cannot push localhost:")
    assert len([line for line in result.error.splitlines() if "hint" not in line]) == 1
    assert not [s for s in proxy.seen if "/manifests/" in s.path]


def test_manifest_that_is_refused_or_changed_is_told(fresh: Cli, proxy: Proxy,
                                                     big: tuple[str, str]) -> None:
    body = b'{"errors":[{"code":"MANIFEST_INVALID","message":"manifest invalid"}]}'
    proxy.rule("/manifests/", method="PUT", status=400, body=body, times=1)
    fresh.fails(1, "push", big[0], f"{proxy.address}/changed", says="manifest invalid")
    proxy.rule("/manifests/", method="PUT", status=201, times=1,
               headers={"Docker-Content-Digest": "sha256:" + "0" * 64})
    fresh.fails(1, "push", big[0], f"{proxy.address}/changed", says="has changed its manifest")


def test_upload_is_not_sent_where_the_address_makes_no_sense(fresh: Cli, proxy: Proxy,
                                                             big: tuple[str, str]) -> None:
    proxy.rule("/blobs/uploads/", method="POST", status=202,
               headers={"Location": "file:///etc/passwd"}, times=1)
    fresh.fails(1, "push", big[0], f"{proxy.address}/nowhere", says="refused")
    proxy.rule("/blobs/uploads/", method="POST", status=202, times=1)
    fresh.fails(1, "push", big[0], f"{proxy.address}/nowhere", says="does not say where")


def test_mount_that_is_not_given_is_an_upload(fresh: Cli, proxy: Proxy, server: Registry) -> None:
    name = f"{proxy.address}/tiny"
    fresh.ok("pull", name)
    proxy.rule("mount=", method="POST", status=405)
    assert fresh.ok("push", name, f"{proxy.address}/unmounted").text.count("Pushed") == 2
    assert sessions(server, "unmounted") == []


@pytest.mark.parametrize("group", [True, False], ids=["ctrl-c", "sigterm to the first process"])
def test_interrupted_push_gives_its_session_back(fresh: Cli, proxy: Proxy, server: Registry,
                                                 big: tuple[str, str], group: bool) -> None:
    slow = proxy.rule("/blobs/uploads/", method="PATCH", pause=0.05)
    with fresh.popen("push", big[0], f"{proxy.address}/interrupted", start_new_session=True,
                     stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        wait_for(lambda: slow.hits)
        time.sleep(0.2)
        started = time.monotonic()
        if group:
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(signal.SIGTERM)
        assert process.wait(20) == (130 if group else -signal.SIGTERM)
        assert time.monotonic() - started < 5
    wait_for(lambda: [s for s in proxy.seen if s.method == "DELETE"])
    wait_for(lambda: not sessions(server, "interrupted"))
    proxy.rules.remove(slow)
    fresh.ok("push", big[0], f"{proxy.address}/interrupted")
    assert has(server, "interrupted", big[1])


def test_killed_push_harms_nothing_and_the_next_ends_it(fresh: Cli, server: Registry) -> None:
    image = random_image(*[1_000_000] * 6)
    name = load(fresh, image, "localhost/killed:1")
    target = f"{server.address}/killed"
    for step in range(6):
        process = fresh.popen("push", name, target, start_new_session=True,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.1 + 0.06 * step)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        fresh.ok("image", "diff", name, name)
    fresh.ok("push", name, target)
    fresh.ok("pull", target)
    assert os.listdir(fresh.store / "tmp") == []
    fresh("system", "check", "--repair")
    fresh.ok("system", "check")


def test_push_draws_bars_on_a_terminal(fresh: Cli, proxy: Proxy, big: tuple[str, str]) -> None:
    proxy.rule("/blobs/uploads/", method="PATCH", pause=0.002)
    with fresh.terminal("push", big[0], f"{proxy.address}/drawn") as terminal:
        terminal.expect("Pushing [")
        terminal.expect("MB")
        terminal.expect("Pushed")
        terminal.expect("latest: digest: sha256:")
        assert terminal.wait() == 0


# ---- who we are --------------------------------------------------------------------------------

def test_one_token_serves_all_of_a_push(fresh: Cli, asking: Proxy) -> None:
    image = random_image(*[10] * 6)
    name = load(fresh, image, "localhost/token:1")
    result = fresh.fails(1, "push", name, f"{asking.address}/token", says="user name and password")
    assert f"rootless login {asking.address}" in result.error
    fresh.ok("login", "-u", "ann", "--password-stdin", asking.address, stdin=b"open sesame")
    asking.seen.clear()
    fresh.ok("push", name, f"{asking.address}/token")
    (asked,) = [s for s in asking.seen if s.path.startswith("/token")]
    assert "scope=repository%3Atoken%3Apull%2Cpush" in asked.path


def test_password_is_needed_and_used(fresh: Cli, password_server: Registry) -> None:
    name = load(fresh, random_image(10), "localhost/password:1")
    target = f"{password_server.address}/password"
    fresh.fails(1, "push", name, target, says="user name and password")
    fresh.ok("login", "-u", registry.USER, "--password-stdin", password_server.address,
             stdin=registry.PASSWORD.encode())
    fresh.ok("push", name, target)


def test_token_does_not_follow_an_upload_to_another_host(fresh: Cli, asking: Proxy, proxy: Proxy,
                                                         big: tuple[str, str]) -> None:
    fresh.ok("login", "-u", "ann", "-p", "open sesame", asking.address)
    proxy.rule("/elsewhere", status=201, method="PUT")
    proxy.rule("/elsewhere", status=202, method="PATCH", headers={"Location": "/elsewhere"})
    asking.rule("/blobs/uploads/", method="POST", status=202, times=1,
                headers={"Location": f"http://{proxy.address}/elsewhere"})
    fresh("push", big[0], f"{asking.address}/away")
    sent = [s for s in proxy.seen if s.path.startswith("/elsewhere")]
    assert sent
    assert all("authorization" not in s.headers for s in sent)


def test_authority_in_certs_d_is_trusted(fresh: Cli, tls_server: Registry) -> None:
    name = load(fresh, random_image(10), "localhost/tls:1")
    target = f"{tls_server.address}/tls"
    fresh.fails(1, "push", name, target, says="certificate is not trusted")
    fresh.ok("push", "--tls-verify=false", name, target)
    folder = fresh.home / ".docker/certs.d" / tls_server.address
    folder.mkdir(parents=True)
    assert tls_server.ca is not None
    (folder / "ca.crt").write_bytes(tls_server.ca.read_bytes())
    fresh.ok("push", name, target)


# ---- search ------------------------------------------------------------------------------------

def test_search_looks_through_the_list_of_a_plain_registry(cli: Cli, server: Registry) -> None:
    found = cli.ok("search", f"{server.address}/tin").text.splitlines()
    assert re.split(r" {2,}", found[0].strip())[:2] == ["NAME", "DESCRIPTION"]
    assert f"{server.address}/tiny" in {line.split()[0] for line in found[1:]}
    names = cli.ok("search", "--format", "{{.Name}}", "--limit", "1", f"{server.address}/").text
    assert len(names.splitlines()) == 1


def test_search_lists_the_tags_of_a_repository(cli: Cli, server: Registry) -> None:
    words = ("search", "--list-tags", "--format", "{{.Tag}}", f"{server.address}/tiny")
    tags = cli.ok(*words).text.split()
    assert tags == sorted(tags) and {"latest", "list", "zstd"} <= set(tags)
    assert cli.ok(*words, "--limit", "2").text.split() == tags[:2]
    head, *lines = cli.ok("search", "--list-tags", f"{server.address}/tiny").text.splitlines()
    assert head.split() == ["NAME", "TAG"]
    assert lines[0].split() == [f"{server.address}/tiny", tags[0]]
    cli.fails(125, "search", "--list-tags", f"{server.address}/tiny:x", says="repository alone")
    cli.fails(1, "search", "--list-tags", f"{server.address}/nosuch", says="nosuch")


def test_search_follows_pages(cli: Cli, proxy: Proxy) -> None:
    proxy.rule(r"_catalog\?n=\d+$", times=1, body=b'{"repositories":["one/x","UPPER!","other"]}',
               headers={"Link": '</v2/_catalog?last=other&n=3>; rel="next"'})
    proxy.rule("_catalog.*last=other", body=b'{"repositories":["two/x"]}')
    found = cli.ok("search", "--format", "{{.Name}}", f"{proxy.address}/x").text
    assert found.splitlines() == [f"{proxy.address}/one/x", f"{proxy.address}/two/x"]


def test_search_asks_a_registry_that_answers_searches(cli: Cli, proxy: Proxy) -> None:
    results = [{"name": "good/app", "description": "an app \x1b[31m" + "x" * 60, "star_count": 7,
                "is_official": True}, {"name": "poor/app", "description": None, "star_count": 0}]
    proxy.rule("/v1/search", body=json.dumps({"results": results}).encode(),
               headers={"Content-Type": "application/json"})
    said = cli.ok("search", f"{proxy.address}/app").text
    assert "\x1b" not in said and "…" in said and "[OK]" in said
    rows = cli.ok("search", "-f", "stars=5", "--format", "{{.Name}} {{.StarCount}}",
                  f"{proxy.address}/app").text
    assert rows == f"{proxy.address}/good/app 7"
    assert "q=app" in proxy.requests("/v1/search")[0].path
    cli.fails(125, "search", "-f", "nonsense", f"{proxy.address}/app", says="invalid filter")
    cli.fails(125, "search", "--limit", "0", "app", says="invalid limit")


def test_search_where_there_is_none_is_told(cli: Cli, proxy: Proxy) -> None:
    proxy.rule("_catalog", status=404)
    cli.fails(1, "search", f"{proxy.address}/app", says="answers no searches")


# ---- manifests are what the specification says -------------------------------------------------

def test_manifests_we_write_have_the_fields_of_the_specification(fresh: Cli,
                                                                 server: Registry) -> None:
    name = f"{server.address}/tiny:zstd"
    fresh.ok("pull", name)
    for form, words in (("oci", ("--compression-format", "gzip", "--format", "oci")),
                        ("v2s2", ("--format", "v2s2"))):
        fresh.ok("push", *words, name, f"{server.address}/spec:{form}")
        document = manifest(server, "spec", form)
        assert document.keys() == {"schemaVersion", "mediaType", "config", "layers"}
        assert document["schemaVersion"] == 2
        for descriptor in (document["config"], *document["layers"]):
            assert descriptor.keys() == {"mediaType", "digest", "size"}
            assert len(blob(server, descriptor["digest"])) == descriptor["size"]
            assert digest_of(blob(server, descriptor["digest"])) == descriptor["digest"]


def test_push_needs_little_memory(fresh: Cli, server: Registry) -> None:
    """Less than the layer, whether it is compressed or sent."""
    image = random_image(80_000_000)
    fresh.ok("load", stdin=images.docker_archive(image, "localhost/large:1"))
    limit = 60 << 20
    with fresh.popen("push", "localhost/large:1", f"{server.address}/large",
                     stdout=subprocess.DEVNULL, preexec_fn=lambda: resource.setrlimit(
                         resource.RLIMIT_DATA, (limit, limit))) as process:
        assert process.wait(120) == 0
