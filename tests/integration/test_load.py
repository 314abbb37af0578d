"""`load` and `import`: what other tools saved comes in, whatever its form, and a damaged or
hostile archive leaves nothing."""

from __future__ import annotations

import bz2
import functools
import gzip
import http.server
import json
import lzma
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
import zstandard

from tests.integration.support.cli import Cli
from tests.integration.support.images import (
    Image,
    Index,
    Layer,
    Tar,
    digest_of,
    docker_archive,
    oci_archive,
)

FORMS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes, "gzip": gzip.compress, "zstd": zstandard.ZstdCompressor().compress,
    "bzip2": bz2.compress, "xz": lzma.compress}


def image(text: bytes = b"hello", **more: Any) -> Image:
    return Image([Layer(Tar().dir("d").file("d/f", text).bytes()),
                  Layer(Tar().file("second", text).whiteout("d/f").bytes(), "zstd")],
                 {"Cmd": ["/x"], "Env": ["A=1"]}, **more)


def stored(cli: Cli, name: str) -> dict[str, Any]:
    """The configuration of an image, read in place by another tool."""
    done = subprocess.run(["skopeo", "inspect", "--config", f"oci:{cli.store}/images:{name}"],
                          capture_output=True, env=cli.env, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def names(cli: Cli) -> list[str]:
    path = cli.store / "images/index.json"
    if not path.exists():
        return []
    entries = json.loads(path.read_bytes())["manifests"]
    return sorted(e.get("annotations", {}).get("org.opencontainers.image.ref.name", "")
                  for e in entries)


def nothing_left(cli: Cli) -> None:
    assert names(cli) == []
    for place in ("layers", "tmp", "trash", "images/blobs/sha256", "cache"):
        assert os.listdir(cli.store / place) == [], place


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("write", [docker_archive, oci_archive])
def test_archives_of_both_kinds_in_every_compression(
        write: Callable[[Image, str], bytes], form: str, fresh: Cli) -> None:
    archive = fresh.home / "a.tar"
    archive.write_bytes(FORMS[form](write(image(), "example.com/some/thing:1.2")))
    said = fresh.ok("load", "--input", str(archive))
    assert said.text == "Loaded image: example.com/some/thing:1.2"
    config = stored(fresh, "example.com/some/thing:1.2")
    assert config["config"]["Env"] == ["A=1"]
    layers = [fresh.store / "layers" / d[7:] for d in config["rootfs"]["diff_ids"]]
    assert (layers[0] / "d/f").read_bytes() == b"hello"
    assert (layers[1] / "second").read_bytes() == b"hello"
    # Again changes nothing.
    before = sorted(os.listdir(fresh.store / "images/blobs/sha256"))
    assert fresh.ok("load", "-q", "-i", str(archive)).text == said.text
    assert sorted(os.listdir(fresh.store / "images/blobs/sha256")) == before
    assert os.listdir(fresh.store / "tmp") == []


def test_an_archive_comes_through_standard_input(fresh: Cli) -> None:
    said = fresh.ok("load", stdin=docker_archive(image(), "busybox:1"))
    assert said.text == "Loaded image: busybox:1"
    assert names(fresh) == ["docker.io/library/busybox:1"]


def test_the_id_of_an_image_survives_the_archive(fresh: Cli) -> None:
    one = image()
    fresh.ok("load", stdin=docker_archive(one, "x:1"))
    fresh.ok("load", stdin=oci_archive(one, "x:2"))
    index = json.loads((fresh.store / "images/index.json").read_bytes())
    configs = set()
    for entry in index["manifests"]:
        manifest = json.loads(
            (fresh.store / "images/blobs/sha256" / entry["digest"][7:]).read_bytes())
        configs.add(manifest["config"]["digest"])
    assert configs == {digest_of(one.config_blob)}


def save_docker(images: list[tuple[Image, list[str] | None]]) -> bytes:
    """Layers behind links, as docker once wrote those that images share."""
    tar = Tar()
    listing = []
    for number, (one, tags) in enumerate(images):
        config = digest_of(one.config_blob)[7:] + ".json"
        layers = []
        for place, layer in enumerate(one.layers):
            tar.file(f"{number}-{place}/real.tar", layer.blob)
            tar.symlink(f"{number}-{place}/layer.tar", f"../{number}-{place}/real.tar")
            layers.append(f"{number}-{place}/layer.tar")
        tar.file(config, one.config_blob)
        listing.append({"Config": config, "RepoTags": tags, "Layers": layers})
    return tar.file("manifest.json", json.dumps(listing).encode()).bytes()


def test_several_images_with_several_names_or_none(fresh: Cli) -> None:
    nameless = image(b"third")
    said = fresh.ok("load", stdin=save_docker([
        (image(b"one"), ["one:1", "one:latest"]), (image(b"two"), ["quay.io/two:2"]),
        (nameless, None)]))
    assert said.text.splitlines() == [
        "Loaded image: one:1", "Loaded image: one:latest", "Loaded image: quay.io/two:2",
        f"Loaded image ID: {digest_of(nameless.config_blob)}"]
    assert names(fresh) == ["", "docker.io/library/one:1", "docker.io/library/one:latest",
                            "quay.io/two:2"]


def test_what_podman_and_skopeo_save(fresh: Cli, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    layout.mkdir()
    one = Image([Layer(Tar().file("f").bytes()), Layer(Tar().file("g").bytes())])
    subprocess.run(["tar", "-xC", str(layout)], input=oci_archive(one, "a:1"), check=True)
    for target in ("docker-archive", "oci-archive"):
        archive = tmp_path / target
        subprocess.run(["skopeo", "copy", "--quiet", "--insecure-policy", f"oci:{layout}:a:1",
                        f"{target}:{archive}:localhost/{target}:9"], env=fresh.env, check=True)
        assert fresh.ok("load", "-i", str(archive)).text == f"Loaded image: localhost/{target}:9"
    assert fresh.ok("load", "-i", str(layout)).text == "Loaded image: a:1"


@pytest.mark.parametrize("form", ["oci", "v2s2"])
def test_a_plain_directory_is_loaded(form: str, fresh: Cli, tmp_path: Path) -> None:
    """What skopeo and podman save call dir: and docker-dir."""
    (tmp_path / "layout").mkdir()
    subprocess.run(["tar", "-xC", str(tmp_path / "layout")],
                   input=oci_archive(Image(image().layers[:1]), "a:1"), check=True)
    place = tmp_path / "dir"
    subprocess.run(["skopeo", "copy", "--quiet", "--insecure-policy", "--format", form,
                    f"oci:{tmp_path}/layout:a:1", f"dir:{place}"], check=True)
    said = fresh.ok("load", "-i", str(place)).text
    assert said == f"Loaded image ID: {fresh.ok('images', '-q', '--no-trunc').text}"
    whole = json.loads((place / "manifest.json").read_bytes())
    layer = place / whole["layers"][0]["digest"][7:]
    layer.write_bytes(b"x" + layer.read_bytes()[1:])
    fresh.ok("rmi", "-a")
    fresh.fails(1, "load", "-i", str(place), says="is damaged")
    layer.unlink()
    fresh.fails(1, "load", "-i", str(place), says="lacks its blob")
    assert fresh.ok("images", "-q").text == ""


def test_a_lone_tag_in_an_oci_archive_is_no_name(fresh: Cli) -> None:
    said = fresh.ok("load", stdin=oci_archive(image(), "latest"))
    assert said.text == f"Loaded image ID: {digest_of(image().config_blob)}"


def index_archive(index: Index, name: str) -> bytes:
    outer = {"schemaVersion": 2, "manifests": [
        {"mediaType": index.media_type, "size": len(index.manifest_blob),
         "digest": digest_of(index.manifest_blob),
         "annotations": {"io.containerd.image.name": name}}]}
    tar = Tar().file("index.json", json.dumps(outer).encode())
    blobs = {index.manifest_blob}
    for one in index.images:
        blobs |= {one.manifest_blob, one.config_blob, *(la.blob for la in one.layers)}
    for blob in blobs:
        tar.file("blobs/sha256/" + digest_of(blob)[7:], blob)
    return tar.bytes()


def test_an_archive_for_many_machines_gives_the_one_that_fits(fresh: Cli) -> None:
    mine, other = image(b"mine"), image(b"other", architecture="s390x")
    archive = index_archive(Index([other, mine]), "docker.io/library/multi:1")
    fresh.ok("load", stdin=archive)
    assert stored(fresh, "docker.io/library/multi:1")["architecture"] == mine.architecture
    kept = os.listdir(fresh.store / "images/blobs/sha256")
    assert digest_of(other.layers[0].blob)[7:] not in kept
    fresh.ok("load", "--platform", "linux/s390x", stdin=archive)
    assert stored(fresh, "docker.io/library/multi:1")["architecture"] == "s390x"
    fresh.fails(1, "load", "--platform", "linux/riscv64", stdin=archive, says="not made for")


# ---- archives that lie -------------------------------------------------------------------------

GOOD = docker_archive(image(), "good:1")


def changed_oci() -> bytes:
    one = image()
    archive = oci_archive(one, "x:1")
    blob = one.layers[0].blob
    return archive.replace(blob, blob[:-9] + bytes([blob[-9] ^ 1]) + blob[-8:])


def layer_from(tar: Tar) -> bytes:
    """An archive whose image wants the member `layer` for its only layer."""
    config = image().config_blob.replace(
        json.dumps([la.diff_id for la in image().layers]).encode(),
        json.dumps([image().layers[0].diff_id]).encode())
    return tar.file("config", config).file("manifest.json", json.dumps(
        [{"Config": "config", "RepoTags": [], "Layers": ["layer"]}]).encode()).bytes()


LIES = {
    "nothing at all": (b"", "no archive of images"),
    "no archive": (b"this is no tar" * 100, "tar"),
    "a filesystem": (Tar().file("etc/passwd").bytes(), "rootless import"),
    "cut off": (GOOD[:3000], "cut off"),
    "a damaged gzip stream": (gzip.compress(GOOD)[:-5], "cut off"),
    "a blob that is not its name": (changed_oci(), "digest"),
    "a missing layer": (layer_from(Tar()), "lacks its layer"),
    "a manifest that is no JSON": (Tar().file("manifest.json", b"[{]").bytes(), "JSON"),
    "a manifest of numbers": (Tar().file("manifest.json", b"[1]").bytes(), "list of objects"),
    "an empty list": (Tar().file("manifest.json", b"[]").bytes(), "no image"),
    "a name that is none": (docker_archive(image(), "../../etc:1"), "impossible name"),
    "another layer than its image says": (docker_archive(
        Image([Layer(Tar().file("f").bytes(), diff_id=digest_of(b"other"))]), "x:1"),
        "not what the image says"),
    "a hostile layer": (docker_archive(
        Image([Layer(Tar().file("../../evil", b"x").bytes())]), "x:1"), "outside"),
    "links in a circle": (Tar().symlink("manifest.json", "b").symlink("b", "manifest.json")
                          .bytes(), "too many links"),
    "a link to a file of ours": (Tar().symlink("manifest.json", "/etc/passwd").bytes(),
                                 "no archive of images"),
    "a layer that is a link to a file of ours": (layer_from(Tar().symlink("layer", "/etc/passwd")),
                                                 "lacks its layer"),
    "a layer far outside": (layer_from(Tar().symlink("layer", "../" * 30 + "etc/passwd")),
                            "lacks its layer"),
}


@pytest.mark.parametrize("what", LIES)
def test_an_archive_that_lies_is_refused_and_leaves_nothing(what: str, fresh: Cli) -> None:
    data, says = LIES[what]
    fresh.fails(1, "load", stdin=data, says=says)
    nothing_left(fresh)


def test_a_file_that_is_not_there_is_named(fresh: Cli) -> None:
    fresh.fails(1, "load", "-i", "/no/such.tar", says="no such file: /no/such.tar")


# ---- import ------------------------------------------------------------------------------------

ROOTFS = Tar().dir("./").dir("bin").file("bin/hi", b"hi", uid=7).file("etc/os", b"mine").bytes()


@pytest.mark.parametrize("form", FORMS)
def test_a_filesystem_becomes_an_image(form: str, fresh: Cli) -> None:
    archive = fresh.home / "rootfs.tar"
    archive.write_bytes(FORMS[form](ROOTFS))
    said = fresh.ok("import", "-c", 'CMD ["/bin/hi"]', "--change", "ENV A=1 B=2", "-m", "by hand",
                    str(archive), "mine:7")
    config = stored(fresh, "docker.io/library/mine:7")
    assert config["config"] == {"Cmd": ["/bin/hi"], "Env": ["A=1", "B=2"]}
    assert config["history"][0]["comment"] == "by hand"
    assert config["rootfs"]["diff_ids"] == [digest_of(ROOTFS)]
    assert said.text.startswith("sha256:") and len(said.text) == 71
    assert (fresh.store / "layers" / digest_of(ROOTFS)[7:] / "etc/os").read_bytes() == b"mine"
    assert os.listdir(fresh.store / "tmp") == []


def test_a_filesystem_comes_through_standard_input(fresh: Cli) -> None:
    first = fresh.ok("import", "-", stdin=ROOTFS).text
    assert names(fresh) == [""]
    fresh.ok("import", "--platform", "linux/arm64", "-", "other", stdin=ROOTFS)
    config = stored(fresh, "docker.io/library/other:latest")
    assert config["architecture"] == "arm64"
    assert config["history"][0]["comment"] == "Imported from -"
    assert first.startswith("sha256:")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "rootfs.tar.gz").write_bytes(gzip.compress(ROOTFS))
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_filesystem_comes_from_the_web(fresh: Cli, web: str) -> None:
    fresh.ok("import", f"{web}/rootfs.tar.gz", "web:1")
    assert stored(fresh, "docker.io/library/web:1")["history"][0]["comment"] == \
        f"Imported from {web}/rootfs.tar.gz"
    fresh.fails(1, "import", f"{web}/missing", says="404")
    fresh.fails(1, "import", "http://127.0.0.1:1/x", says="cannot download http://127.0.0.1:1/x")


@pytest.mark.parametrize("data, says", [
    (b"", "empty"), (b"no tar at all" * 50, "tar"), (gzip.compress(ROOTFS)[:-20], "cut off"),
    (Tar().file("../x").bytes(), "outside"), (ROOTFS[:600], "cut off")],
    ids=["empty", "no-tar", "cut-gzip", "hostile", "cut-tar"])
def test_a_filesystem_that_is_none_is_refused_and_leaves_nothing(data: bytes, says: str,
                                                                 fresh: Cli) -> None:
    fresh.fails(1, "import", "-", "x", stdin=data, says=says)
    nothing_left(fresh)


@pytest.mark.parametrize("words, says", [
    (("-c", "RUN x", "-"), "invalid change"), (("-", "Upper"), "lower case"),
    (("-", "x@sha256:" + "0" * 64), "digest"), (("/no/such",), "no such file"),
    (("/",), "directory")])
def test_what_cannot_be_imported_is_said_before_anything_is_made(words: tuple[str, ...], says: str,
                                                                 fresh: Cli) -> None:
    result = fresh("import", *words, stdin=ROOTFS)
    assert result.rc in (1, 125) and says in result.error, result
    nothing_left(fresh)
