"""`copy` between all places, checked by skopeo in both directions."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.support import filled, images
from tests.integration.support.cli import Cli
from tests.integration.support.faults import Proxy
from tests.integration.support.images import Image, Layer, Tar
from tests.integration.support.registry import Registry
from tests.integration.support.trees import Podman

PLACES = ["docker://{server}/copied:x", "oci:{home}/layout:x", "oci-archive:{home}/oci.tar:x",
          "docker-archive:{home}/docker.tar:localhost/copied:x", "dir:{home}/dir"]
KINDS = [place.split(":")[0] for place in PLACES]


def skopeo(cli: Cli, *words: str) -> str:
    done = subprocess.run(
        ["skopeo", "--insecure-policy", *words], env={**cli.env, "TMPDIR": str(cli.home)},
        cwd=cli.home, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def digest(cli: Cli, place: str) -> str:
    """Of the manifest there, as skopeo reads it."""
    raw = skopeo(cli, "inspect", "--raw", "--tls-verify=false", place)
    return images.digest_of(raw.encode())


def described(cli: Cli, place: str) -> Any:
    return json.loads(skopeo(cli, "inspect", "--tls-verify=false", "--config", place))


def at(place: str, cli: Cli, server: Registry) -> str:
    return place.format(server=server.address, home=cli.home)


@pytest.mark.parametrize("second", PLACES, ids=KINDS)
@pytest.mark.parametrize("first", PLACES, ids=KINDS)
def test_any_place_to_any_other(fresh: Cli, server: Registry, first: str, second: str) -> None:
    """skopeo fills the first, we copy to the second, skopeo reads that."""
    here, there = at(first, fresh, server), at(second, fresh, server)
    skopeo(fresh, "copy", "--src-tls-verify=false", "--dest-tls-verify=false",
           f"docker://{server.address}/tiny:latest", here)
    if here == there:
        there = there.replace("copied", "again").replace("/layout", "/second").replace(
            "/oci.tar", "/second").replace("/docker.tar", "/second").replace("/dir", "/second")
    fresh.ok("copy", here, there)
    assert described(fresh, there)["rootfs"] == described(fresh, here)["rootfs"]
    if "docker-archive" not in first + second:
        assert digest(fresh, there) == digest(fresh, here)
    # Whole, to the last blob.
    skopeo(fresh, "copy", "--src-tls-verify=false", there, f"dir:{fresh.home}/last")


@pytest.mark.parametrize("place", PLACES, ids=KINDS)
def test_our_store_to_a_place_and_back(fresh: Cli, server: Registry, place: str) -> None:
    name = f"{server.address}/tiny:latest"
    fresh.ok("pull", name)
    there = at(place, fresh, server)
    fresh.ok("copy", name, there)
    fresh.ok("rmi", name)
    fresh.ok("copy", there, "store:back:1")
    assert fresh.ok("run", "--rm", "--pull=never", "back:1", "echo", "back").text == "back"


def test_nothing_stays_in_the_store_of_what_only_passed_through(fresh: Cli,
                                                                server: Registry) -> None:
    fresh.ok("copy", f"docker://{server.address}/tiny", f"oci-archive:{fresh.home}/a.tar:x")
    assert os.listdir(fresh.store / "images/blobs/sha256") == []
    assert fresh.ok("images", "-q").text == ""


# ---- several platforms -------------------------------------------------------------------------

@pytest.mark.parametrize("place", [PLACES[0], PLACES[1], PLACES[2], PLACES[4]],
                         ids=["docker", "oci", "oci-archive", "dir"])
@pytest.mark.parametrize("tag", ["list", "dockerlist"])
def test_all_platforms_go_when_asked(fresh: Cli, server: Registry, place: str, tag: str) -> None:
    origin, there = f"docker://{server.address}/tiny:{tag}", at(place, fresh, server)
    fresh.ok("copy", "--all", origin, there)
    raw = json.loads(skopeo(fresh, "inspect", "--raw", "--tls-verify=false", there))
    assert {m["platform"]["architecture"] for m in raw["manifests"]} == {"amd64", "arm64"}
    if tag == "list" or not place.startswith("oci"):
        assert digest(fresh, there) == digest(fresh, origin)
    skopeo(fresh, "copy", "--all", "--src-tls-verify=false", there, f"dir:{fresh.home}/last")


def test_one_platform_goes_else(fresh: Cli, server: Registry) -> None:
    origin = f"docker://{server.address}/tiny:list"
    fresh.ok("copy", origin, f"oci:{fresh.home}/mine:x")
    fresh.ok("copy", "--platform", "linux/arm64", origin, f"oci:{fresh.home}/mine:arm")
    assert described(fresh, f"oci:{fresh.home}/mine:arm")["architecture"] == "arm64"
    assert described(fresh, f"oci:{fresh.home}/mine:x")["architecture"] == images.ARCHITECTURE


def test_a_place_for_one_image_takes_no_list(fresh: Cli, server: Registry) -> None:
    fresh.fails(125, "copy", "--all", f"docker://{server.address}/tiny:list",
                f"docker-archive:{fresh.home}/a.tar", says="one image for one platform")
    assert not (fresh.home / "a.tar").exists()


# ---- formats and digests -----------------------------------------------------------------------

@pytest.mark.parametrize(("tag", "form", "kind"), [
    ("latest", "v2s2", images.DOCKER), ("docker", "oci", images.OCI),
    ("docker", "v2s2", images.DOCKER), ("latest", "oci", images.OCI)])
def test_format_is_changed_when_asked(fresh: Cli, server: Registry, tag: str, form: str,
                                      kind: str) -> None:
    there = f"dir:{fresh.home}/dir"
    fresh.ok("copy", "--format", form, f"docker://{server.address}/tiny:{tag}", there,
             "--digestfile", "digest")
    raw = json.loads((fresh.home / "dir/manifest.json").read_text())
    assert raw["mediaType"].startswith(kind)
    assert raw["config"]["mediaType"].startswith(kind)
    assert all(layer["mediaType"].startswith(kind) for layer in raw["layers"])
    assert (fresh.home / "digest").read_text() == digest(fresh, there)


def test_format_without_a_word_for_it_is_refused(fresh: Cli, server: Registry) -> None:
    fresh.fails(1, "copy", "--format", "v2s2", f"docker://{server.address}/tiny:zstd",
                f"dir:{fresh.home}/dir", says="zstd")
    assert not (fresh.home / "dir").exists()
    fresh.fails(125, "copy", "--format", "v2s2", f"docker://{server.address}/tiny:latest",
                f"oci:{fresh.home}/layout", says="holds oci only")


# ---- what is there, and what is half there -----------------------------------------------------

def test_blobs_larger_than_the_memory_pass(fresh: Cli, server: Registry) -> None:
    """What the process may ask for in all, its code included, is less than the layer."""
    most = 256 << 20
    layer = Layer(Tar().file("f", bytes(most + (32 << 20))).bytes(), "none")
    images.push(server.address, "large", "1", Image([layer]))
    places = [f"docker://{server.address}/large:1", f"oci:{fresh.home}/layout:x",
              f"oci-archive:{fresh.home}/oci.tar:x", f"docker://{server.address}/larger:1",
              f"docker-archive:{fresh.home}/docker.tar:larger:1", "store:large:1",
              f"dir:{fresh.home}/dir"]
    for first, second in zip(places, places[1:]):
        with fresh.popen("copy", first, second, before=("prlimit", f"--as={most}:{most}"),
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, said
    assert (fresh.home / "dir" / images.digest_of(layer.blob)[7:]).stat().st_size \
        == len(layer.blob)


def test_image_of_an_archive_is_chosen_by_name(fresh: Cli, server: Registry) -> None:
    names = [f"{server.address}/tiny:{tag}" for tag in ("latest", "zstd")]
    for name in names:
        fresh.ok("pull", name)
    fresh.ok("save", "-o", "both.tar", *names)
    fresh.fails(1, "copy", "docker-archive:both.tar", "dir:one", says="there is")
    fresh.ok("copy", f"docker-archive:both.tar:{names[1]}", "dir:one")
    assert digest(fresh, f"dir:{fresh.home}/one") == digest(fresh, f"docker://{names[1]}")


def test_layout_keeps_its_other_images(fresh: Cli, server: Registry) -> None:
    layout, tiny = f"oci:{fresh.home}/layout", f"docker://{server.address}/tiny"
    skopeo(fresh, "copy", "--src-tls-verify=false", f"{tiny}:latest", f"{layout}:one")
    fresh.ok("copy", f"{tiny}:zstd", f"{layout}:two")
    fresh.ok("copy", f"{tiny}:plain", f"{layout}:two")
    assert digest(fresh, f"{layout}:one") == digest(fresh, f"{tiny}:latest")
    assert digest(fresh, f"{layout}:two") == digest(fresh, f"{tiny}:plain")
    assert len(json.loads((fresh.home / "layout/index.json").read_text())["manifests"]) == 2
    fresh.fails(1, "copy", layout, f"dir:{fresh.home}/d", says="there is one, two")


def test_umoci_reads_what_we_wrote(fresh: Cli, server: Registry) -> None:
    fresh.ok("copy", f"docker://{server.address}/tiny:docker", f"oci:{fresh.home}/layout:x")
    done = subprocess.run(["umoci", "unpack", "--rootless", "--image", f"{fresh.home}/layout:x",
                           f"{fresh.home}/bundle"], env=fresh.env, check=False,
                          stdin=subprocess.DEVNULL, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert (fresh.home / "bundle/rootfs/bin/busybox").exists()


@pytest.mark.parametrize("place", ["oci:{home}/new:x", "oci-archive:{home}/new", "dir:{home}/new",
                                   "docker-archive:{home}/new", "store:new"])
def test_failed_copy_leaves_nothing(fresh: Cli, server: Registry, proxy: Proxy,
                                    place: str) -> None:
    image = Image([Layer(Tar().file("f", os.urandom(9)).bytes())], {"Cmd": ["/x"]})
    images.push(server.address, "short", "1", image)
    proxy.rule("/blobs/" + images.digest_of(image.layers[0].blob), status=404, body=b"{}")
    before = set(os.listdir(fresh.home))
    fresh.fails(1, "copy", f"docker://{proxy.address}/short:1", at(place, fresh, server))
    assert set(os.listdir(fresh.home)) - before <= {".local"}
    assert fresh.ok("images", "-q").text == ""


def test_damaged_blob_is_not_copied(fresh: Cli, server: Registry) -> None:
    fresh.ok("copy", f"docker://{server.address}/tiny", f"dir:{fresh.home}/dir")
    layer = max((fresh.home / "dir").iterdir(), key=lambda p: p.stat().st_size)
    data = bytearray(layer.read_bytes())
    data[100] ^= 1
    layer.write_bytes(data)
    fresh.fails(1, "copy", f"dir:{fresh.home}/dir", f"oci-archive:{fresh.home}/a.tar",
                says="is damaged")
    assert not (fresh.home / "a.tar").exists()


def test_within_a_registry_nothing_passes_through_us(fresh: Cli, proxy: Proxy) -> None:
    there = f"docker://{proxy.address}/promoted"
    said = fresh.ok("copy", "--all", f"docker://{proxy.address}/tiny:list", f"{there}:1").error
    assert said.count(": mounted") == 6 and said.count("already there") == 2
    assert proxy.requests("/blobs/") == []
    assert proxy.requests("/blobs/", "PATCH") == proxy.requests("/blobs/", "PUT") == []
    assert digest(fresh, f"docker://{proxy.upstream}/promoted:1") \
        == digest(fresh, f"docker://{proxy.upstream}/tiny:list")


@pytest.mark.parametrize("status", [202, 403, 405])
def test_registry_that_mounts_nothing_is_sent_the_blobs(fresh: Cli, proxy: Proxy,
                                                        status: int) -> None:
    """202: a session instead, as those have it that do not know the words."""
    name = f"unmounted-{status}:1"
    headers = {"Location": f"/v2/unmounted-{status}/blobs/uploads/x"} if status == 202 else {}
    proxy.rule("mount=", method="POST", status=status, headers=headers)
    said = fresh.ok("copy", f"docker://{proxy.address}/tiny", f"docker://{proxy.address}/{name}")
    assert ": mounted" not in said.error
    assert digest(fresh, f"docker://{proxy.upstream}/{name}") \
        == digest(fresh, f"docker://{proxy.upstream}/tiny")


def test_blob_that_the_target_has_is_not_sent_again(fresh: Cli, server: Registry) -> None:
    there = f"docker://{server.address}/twice:1"
    fresh.ok("copy", f"docker://{server.address}/tiny", there)
    said = fresh.ok("copy", f"docker://{server.address}/tiny", there).error
    assert said.count("already there") == 3


@pytest.mark.parametrize(("rc", "words", "says"), [
    (125, ("containers-storage:x", "dir:y"), "there is no transport containers-storage"),
    (125, ("docker:x", "dir:y"), "there is no transport docker"),
    (125, ("oci:", "dir:y"), "nothing follows"),
    (1, ("dir:/none", "oci:y"), "/none/manifest.json"),
    (1, ("nothing-here", "dir:y"), "no such image: nothing-here"),
    (125, ("dir:x", "oci:y", "--format", "v1"), "invalid format"),
])
def test_what_cannot_be_is_told(fresh: Cli, rc: int, words: tuple[str, ...], says: str) -> None:
    fresh.fails(rc, "copy", *words, says=says)


def test_archive_is_deterministic(fresh: Cli, server: Registry) -> None:
    files = [fresh.home / n for n in ("a.tar", "b.tar")]
    for file in files:
        fresh.ok("copy", f"docker://{server.address}/tiny", f"oci-archive:{file}:x")
    assert files[0].read_bytes() == files[1].read_bytes()
    with tarfile.open(files[0]) as archive:
        assert all(m.mtime == 0 for m in archive)


def test_other_files_are_never_taken_for_a_target(fresh: Cli, server: Registry) -> None:
    (fresh.home / "full").mkdir()
    (fresh.home / "full/mine").write_text("keep")
    for place in ("dir:full", "oci:full:x"):
        fresh.fails(125, "copy", f"docker://{server.address}/tiny", place, says="neither empty")
    assert os.listdir(fresh.home / "full") == ["mine"]


# ---- what other tools have pushed --------------------------------------------------------------

def test_images_that_other_tools_pushed_are_pulled(fresh: Cli, server: Registry) -> None:
    """skopeo's conversions, and what umoci has changed and skopeo has sent."""
    tiny, there = f"docker://{server.address}/tiny:latest", f"docker://{server.address}/theirs"
    tls = ("--src-tls-verify=false", "--dest-tls-verify=false")
    skopeo(fresh, "copy", *tls, "--format", "v2s2", tiny, f"{there}:v2s2")
    skopeo(fresh, "copy", *tls, "--dest-compress-format", "zstd", "--format", "oci", tiny,
           f"{there}:zstd")
    layout = f"{fresh.home}/theirs"
    skopeo(fresh, "copy", *tls, tiny, f"oci:{layout}:x")
    done = subprocess.run(["umoci", "config", "--image", f"{layout}:x", "--config.env", "BY=umoci"],
                          env=fresh.env, check=False, stdin=subprocess.DEVNULL,
                          capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    skopeo(fresh, "copy", *tls, f"oci:{layout}:x", f"{there}:umoci")
    for tag in ("v2s2", "zstd", "umoci"):
        name = f"{server.address}/theirs:{tag}"
        fresh.ok("pull", name)
        assert fresh.ok("run", "--rm", name, "sh", "-c", "echo $BY$FLAVOUR").text == (
            "umocitiny" if tag == "umoci" else "tiny")


@pytest.fixture
def podman(fresh: Cli) -> Iterator[Podman]:
    one = Podman(fresh.home / "podman")
    yield one
    one.ok("system", "migrate")     # ends the process that holds its namespaces
    filled.remove_tree(one.home)


@pytest.mark.parametrize("words", [(), ("--compression-format", "zstd"),
                                   ("--format", "v2s2")], ids=["plain", "zstd", "v2s2"])
@pytest.mark.parametrize("tool", ["buildah", "podman"])
def test_images_that_podman_and_buildah_pushed_are_pulled(
        fresh: Cli, podman: Podman, server: Registry, tool: str,
        words: tuple[str, ...]) -> None:
    source, name = f"{server.address}/tiny:latest", f"{server.address}/by-{tool}:{len(words)}"
    podman.ok("pull", "-q", "--tls-verify=false", source)
    done = subprocess.run([tool, "push", "--tls-verify=false", *words, source, name],
                          env=podman.env, cwd=podman.home, check=False, text=True,
                          stdin=subprocess.DEVNULL, capture_output=True)
    assert done.returncode == 0, done.stderr
    fresh.ok("pull", name)
    assert fresh.ok("run", "--rm", name, "echo", "runs").text == "runs"
