"""`save`: what goes into a file comes out of it again, here and in every other tool, and the same
images give the same bytes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.integration.support.cli import Cli
from tests.integration.support.images import Image, Layer, Tar, digest_of, docker_archive


def image(text: bytes = b"hello", compression: str = "gzip") -> Image:
    return Image([Layer(Tar().dir("d").file("d/f", text).bytes(), compression),
                  Layer(Tar().file("second", text).whiteout("d/f").bytes(), compression)],
                 {"Cmd": ["/x"], "Env": ["A=1"]})


def tool(cli: Cli, *words: str) -> str:
    done = subprocess.run(words, env=cli.env, cwd=cli.home, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def loaded(cli: Cli, *images: tuple[Image, str]) -> None:
    for one, name in images:
        cli.ok("load", stdin=docker_archive(one, name))


def blobs(cli: Cli) -> set[str]:
    return set(os.listdir(cli.store / "images/blobs/sha256"))


def index(cli: Cli) -> Any:
    entries = json.loads((cli.store / "images/index.json").read_bytes())["manifests"]
    return sorted((e["digest"], e.get("annotations", {}).get("org.opencontainers.image.ref.name"))
                  for e in entries)


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive", "oci-dir"])
def test_what_was_saved_loads_as_the_very_same_image(form: str, fresh: Cli, tmp_path: Path) -> None:
    loaded(fresh, (image(), "a:1"))
    source = tmp_path / "x"
    fresh.ok("save", "--format", form, "-o", str(source), "a:1")
    before = index(fresh), blobs(fresh)
    said = fresh.ok("load", "-i", str(source))
    assert said.text == "Loaded image: a:1"
    assert (index(fresh), blobs(fresh)) == before
    fresh.ok("rmi", "a:1")
    fresh.ok("load", "-i", str(source))
    assert (index(fresh), blobs(fresh)) == before


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_the_same_images_give_the_same_bytes_to_a_file_and_to_a_pipe(form: str,
                                                                      fresh: Cli) -> None:
    loaded(fresh, (image(), "a:1"), (image(b"other", "zstd"), "b:1"))
    words = ("save", "--format", form, "a:1", "b:1")
    first = fresh.ok(*words).out
    fresh.ok(*words, "--output", "file.tar")
    assert (fresh.home / "file.tar").read_bytes() == first == fresh.ok(*words).out
    fresh.ok("rmi", "a:1", "b:1")
    fresh.ok("load", stdin=first)
    assert fresh.ok(*words).out == first


def test_several_images_and_names_in_one_archive(fresh: Cli) -> None:
    loaded(fresh, (image(), "a:1"), (image(b"two"), "quay.io/b:2"))
    fresh.ok("tag", "a:1", "a:second")
    two = fresh.ok("images", "-q", "--no-trunc", "quay.io/b").text
    out = fresh.ok("save", "a:1", "a:second", two, "a:1").out
    with tarfile.open(fileobj=io.BytesIO(out)) as tar:
        names = tar.getnames()
        listing = json.load(tar.extractfile("manifest.json") or io.BytesIO())
    assert len(names) == len(set(names))
    assert [entry["RepoTags"] for entry in listing] == [
        ["docker.io/library/a:1", "docker.io/library/a:second"], None]
    fresh.ok("rmi", "-f", "a:1", "a:second", "quay.io/b:2")
    assert fresh.ok("load", stdin=out).text.splitlines() == [
        "Loaded image: a:1", "Loaded image: a:second", f"Loaded image ID: {two}"]


def test_an_older_reader_finds_every_part_by_manifest_json(fresh: Cli) -> None:
    """Layers in their order, the configuration, and names: all that Docker before 25 looks at."""
    one = image()
    loaded(fresh, (one, "a:1"))
    with tarfile.open(fileobj=io.BytesIO(fresh.ok("save", "a:1").out)) as tar:
        def member(name: str) -> bytes:
            file = tar.extractfile(name)
            assert file is not None
            return file.read()

        (entry,) = json.loads(member("manifest.json"))
        assert digest_of(member(entry["Config"])) == digest_of(one.config_blob)
        assert [digest_of(member(name)) for name in entry["Layers"]] == [
            la.diff_id for la in one.layers]


@pytest.mark.parametrize("form", ["docker-archive", "oci-archive", "oci-dir", "docker-dir"])
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_skopeo_reads_every_form(form: str, compression: str, fresh: Cli, tmp_path: Path) -> None:
    one = image(compression=compression)
    loaded(fresh, (one, "example.com/a:1"))
    fresh.ok("save", "--format", form, "-o", str(tmp_path / "x"), "example.com/a:1")
    source = {"docker-archive": f"docker-archive:{tmp_path}/x:example.com/a:1",
              "oci-archive": f"oci-archive:{tmp_path}/x:example.com/a:1",
              "oci-dir": f"oci:{tmp_path}/x:example.com/a:1",
              "docker-dir": f"dir:{tmp_path}/x"}[form]
    config = json.loads(tool(fresh, "skopeo", "inspect", "--config", source))
    assert config["rootfs"]["diff_ids"] == [la.diff_id for la in one.layers]
    tool(fresh, "skopeo", "copy", "--insecure-policy", "-q", source, f"dir:{tmp_path}/copy")


def test_podman_loads_both_archives_as_the_same_image(fresh: Cli, tmp_path: Path) -> None:
    loaded(fresh, (image(), "a:1"), (image(b"two"), "b:1"))
    fresh.ok("save", "-o", str(tmp_path / "docker"), "a:1", "b:1")
    fresh.ok("save", "--format", "oci-archive", "-o", str(tmp_path / "oci"), "a:1")
    wanted = fresh.ok("images", "-q", "--no-trunc").text.split()
    podman = ("podman", "--root", str(fresh.home / "podman"), "--runroot",
              str(fresh.runtime / "p"), "--storage-driver", "vfs")
    try:
        tool(fresh, *podman, "load", "-q", "-i", str(tmp_path / "docker"))
        found = tool(fresh, *podman, "images", "--format", "{{.Repository}}:{{.Tag}} {{.Id}}",
                     "--no-trunc").splitlines()
        assert sorted(line.split()[0] for line in found) == ["docker.io/library/a:1",
                                                             "docker.io/library/b:1"]
        assert {line.split()[1].replace("sha256:", "") for line in found} == {
            w[7:] for w in wanted}
        tool(fresh, *podman, "rmi", "-af")
        said = tool(fresh, *podman, "load", "-q", "-i", str(tmp_path / "oci"))
        assert "docker.io/library/a:1" in said
    finally:
        tool(fresh, *podman, "rmi", "-af")
        tool(fresh, *podman, "system", "migrate")       # ends its pause process


@pytest.mark.parametrize("form", ["oci-archive", "oci-dir"])
def test_umoci_unpacks_what_was_saved(form: str, fresh: Cli, tmp_path: Path) -> None:
    loaded(fresh, (image(), "a:1"))
    fresh.ok("save", "--format", form, "-o", str(tmp_path / "x"), "a:1")
    layout = tmp_path / "x"
    if form == "oci-archive":
        layout = tmp_path / "layout"
        layout.mkdir()
        tool(fresh, "tar", "-xf", str(tmp_path / "x"), "-C", str(layout))
    tool(fresh, "umoci", "unpack", "--rootless", "--image", f"{layout}:docker.io/library/a:1",
         str(tmp_path / "bundle"))
    root = tmp_path / "bundle/rootfs"
    assert (root / "second").read_bytes() == b"hello"
    assert not (root / "d/f").exists() and (root / "d").is_dir()


def test_a_damaged_blob_is_told_and_leaves_no_archive(fresh: Cli) -> None:
    one = image()
    loaded(fresh, (one, "a:1"))
    path = fresh.store / "images/blobs/sha256" / one.layers[1].diff_id[7:]
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    (fresh.home / "kept.tar").write_bytes(b"from before")
    fresh.fails(1, "save", "-o", "kept.tar", "a:1", says="damaged")
    assert (fresh.home / "kept.tar").read_bytes() == b"from before"
    assert [n for n in os.listdir(fresh.home) if "kept" in n] == ["kept.tar"]


@pytest.mark.parametrize("words, rc, says", [
    (("nothing:1",), 1, "no such image"), (("--format", "zip", "a:1"), 125, "invalid format"),
    (("--format", "oci-dir", "a:1"), 125, "no directory"), (("-o", "/no/such/x", "a:1"), 1, "/no"),
    (("-o", "/", "a:1"), 1, "directory"), ((), 125, "at least 1"),
    (("--format", "oci-dir", "-o", "/", "a:1"), 125, "not empty"),
    (("--format", "docker-dir", "-o", "two", "a:1", "b:1"), 125, "holds one")])
def test_what_cannot_be_saved_is_said(words: tuple[str, ...], rc: int, says: str,
                                      fresh: Cli) -> None:
    loaded(fresh, (image(), "a:1"), (image(b"two"), "b:1"))
    fresh.fails(rc, "save", *words, says=says)


def test_no_archive_is_thrown_at_a_terminal(fresh: Cli) -> None:
    loaded(fresh, (image(), "a:1"))
    with fresh.terminal("save", "a:1") as t:
        t.expect("standard output is a terminal")
        assert t.wait() == 125


def test_a_reader_that_goes_away_ends_it_quietly(fresh: Cli) -> None:
    loaded(fresh, (Image([Layer(Tar().file("f", bytes(1 << 20)).bytes(), "none")]), "a:1"))
    with fresh.popen("save", "a:1", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(1000)
        process.stdout.close()
        assert process.wait(20) == 141
        assert process.stderr.read() == b""
