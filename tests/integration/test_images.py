"""The images that are there: listed, named, inspected, removed."""

from __future__ import annotations

import os
import re
import subprocess
import time

import pytest

from tests.integration.support import images
from tests.integration.support.cli import Cli
from tests.integration.support.faults import Proxy
from tests.integration.support.images import Image, Layer, Tar
from tests.integration.support.registry import Registry


@pytest.fixture
def stocked(fresh: Cli, server: Registry) -> Cli:
    """A store with `tiny`."""
    fresh.ok("pull", "-q", f"{server.address}/tiny")
    return fresh


@pytest.fixture
def name(server: Registry) -> str:
    return f"{server.address}/tiny"


def stored(cli: Cli, folder: str) -> list[str]:
    return sorted(os.listdir(cli.store / folder))


# ---- images ------------------------------------------------------------------------------------

def test_images_shows_dockers_columns(stocked: Cli, name: str) -> None:
    header, row = stocked.ok("images").text.splitlines()
    assert re.split(r"\s{2,}", header) == ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]
    assert re.fullmatch(rf"{re.escape(name)}\s+latest\s+[0-9a-f]{{12}}\s+\d+ years ago\s+\S+MB",
                        row)
    assert "DIGEST" in stocked.ok("image", "ls", "--digests").text.splitlines()[0]


def test_images_of_an_empty_store_is_a_header(fresh: Cli) -> None:
    assert fresh.ok("images").text == "REPOSITORY   TAG   IMAGE ID   CREATED   SIZE"
    assert fresh.ok("images", "-q").text == ""


def test_images_takes_a_name_and_filters(stocked: Cli, name: str, server: Registry) -> None:
    def shown(*words: str) -> list[str]:
        return stocked.ok("images", "--format", "{{.Repository}}:{{.Tag}}", *words).text.split()

    images.push(server.address, "labelled", "v1", Image(
        [Layer(Tar().file("a", b"a").bytes())], {"Labels": {"kind": "test", "n": "1"}}))
    other = f"{server.address}/labelled:v1"
    stocked.ok("pull", other)
    assert sorted(shown()) == [other, f"{name}:latest"]
    assert shown(name) == [f"{name}:latest"]
    assert shown(f"{name}:nosuch") == []
    assert shown("-f", "reference=*/lab*") == [other]
    assert shown("-f", "reference=lab*") == []
    assert shown("-f", "label=kind=test", "-f", "label=n") == [other]
    assert shown("-f", "label=kind=else") == []
    assert shown("-f", "dangling=true") == []
    assert len(shown("-f", "dangling=false")) == 2
    stocked.fails(125, "images", "-f", "colour=red", says="invalid filter")
    stocked.fails(125, "images", "-f", "since=nosuch", says="no such image")


def test_images_formats(stocked: Cli, name: str) -> None:
    table = stocked.ok("images", "--format", "table {{.ID}}\t{{.Repository}}").text.splitlines()
    assert re.split(r"\s{2,}", table[0]) == ["IMAGE ID", "REPOSITORY"]
    row = stocked.ok("images", "--format", "json").json
    assert (row["Repository"], row["Tag"]) == (name, "latest")
    full = stocked.ok("images", "-q", "--no-trunc").text
    assert full == stocked.ok("inspect", "-f", "{{.Id}}", name).text


def test_damaged_image_is_listed_told_and_removable(stocked: Cli, name: str) -> None:
    identity = stocked.ok("inspect", "-f", "{{.Id}}", name).text
    (stocked.store / "images/blobs/sha256" / identity[7:]).write_bytes(b"{")
    result = stocked.ok("images")
    assert f"image {name}:latest cannot be used" in result.error
    assert len(result.text.splitlines()) == 2
    stocked.fails(125, "run", name, says="damaged")
    stocked.ok("rmi", name)
    assert stocked.ok("images", "-q").text == ""
    stocked.ok("pull", name)
    assert stocked.ok("run", "--rm", name, "echo", "whole").text == "whole"


# ---- inspect, tag ------------------------------------------------------------------------------

def test_image_inspect_has_what_docker_shows(fresh: Cli, server: Registry) -> None:
    name = f"{server.address}/multi:docker"
    said = fresh.ok("pull", name).text
    (shown,) = fresh.ok("image", "inspect", name).json
    digest = re.search(r"^Digest: (.*)$", said, re.M)
    assert digest
    assert shown["RepoTags"] == [name]
    assert shown["RepoDigests"] == [f"{server.address}/multi@{digest.group(1)}"]
    assert shown["Os"] == "linux"
    assert shown["Architecture"] == images.ARCHITECTURE
    assert shown["Size"] > 1_000_000
    assert shown["RootFS"]["Type"] == "layers"
    assert len(shown["RootFS"]["Layers"]) >= 5
    config = shown["Config"]
    assert config["User"] == "worker"
    assert config["Cmd"] == ["default"]
    assert config["Entrypoint"] == ["/bin/echo", "entry"]
    assert config["ExposedPorts"] == {"8080/tcp": {}}
    assert config["Healthcheck"]["Test"] == ["CMD-SHELL", "true"]
    assert config["Labels"]["org.example.purpose"] == "tests"
    assert config["StopSignal"] == "SIGINT"
    fresh.fails(1, "image", "inspect", "nosuch", says="no such")


def test_image_is_found_by_id_and_by_digest(stocked: Cli, name: str) -> None:
    (shown,) = stocked.ok("inspect", name).json
    for word in (shown["Id"], shown["Id"][7:19], shown["Id"][7:11], shown["RepoDigests"][0]):
        assert stocked.ok("run", "--rm", word, "echo", "found").text == "found"


def test_tag_gives_another_name(stocked: Cli, name: str) -> None:
    stocked.ok("tag", name, "mine")
    stocked.ok("tag", "mine", "localhost/mine:v2")
    assert stocked.ok("run", "--rm", "mine", "echo", "yes").text == "yes"
    rows = stocked.ok("images", "--format", "{{.Repository}}:{{.Tag}}").text.split()
    assert sorted(rows) == sorted(["mine:latest", "localhost/mine:v2", f"{name}:latest"])
    (shown,) = stocked.ok("inspect", "docker.io/library/mine").json
    assert shown["RepoTags"] == sorted(rows)
    stocked.fails(1, "tag", "nosuch", "x", says="no such image")
    stocked.fails(1, "tag", name, "Upper", says="lower case")


# ---- rmi ---------------------------------------------------------------------------------------

def test_rmi_takes_all_of_an_image_away(stocked: Cli, name: str) -> None:
    (shown,) = stocked.ok("inspect", name).json
    lines = stocked.ok("rmi", name).text.splitlines()
    assert lines[:3] == [f"Untagged: {name}:latest", f"Untagged: {shown['RepoDigests'][0]}",
                         f"Deleted: {shown['Id']}"]
    assert sorted(lines[3:]) == sorted(f"Deleted: {d}" for d in shown["RootFS"]["Layers"])
    for folder in ("images/blobs/sha256", "layers", "tmp", "trash", "cache"):
        assert stored(stocked, folder) == [], folder


def test_rmi_takes_names_one_by_one(stocked: Cli, name: str) -> None:
    stocked.ok("tag", name, "second")
    assert stocked.ok("rmi", "second").text == "Untagged: second:latest"
    assert len(stored(stocked, "layers")) == 2
    assert "Deleted: " in stocked.ok("rmi", name).text


def test_rmi_of_an_id_with_several_names_wants_force(stocked: Cli, name: str) -> None:
    stocked.ok("tag", name, "second")
    identity = stocked.ok("images", "-q").text
    stocked.fails(1, "rmi", identity, says="several names")
    assert stocked.ok("rmi", "-f", identity).text.count("Untagged: ") == 3
    assert stored(stocked, "layers") == []


def test_rmi_of_all_leaves_what_containers_stand_on(stocked: Cli, name: str,
                                                    server: Registry) -> None:
    stocked.ok("tag", name, "second", "third")
    stocked.ok("pull", f"{name}:list")
    stocked.ok("create", "--name", "c", f"{name}:list", "true")
    stocked.fails(1, "rmi", "--all", says="container c was made from it")
    assert stocked.ok("images", "--format", "{{.Repository}}:{{.Tag}}").text == f"{name}:list"
    stocked.ok("rmi", "-af")
    assert stocked.ok("images", "-q").text == ""
    stocked.fails(125, "rmi", "-a", "x", says="takes no image")
    stocked.fails(125, "rmi", says="at least 1 argument")


def test_image_and_container_of_one_name_are_told_apart(stocked: Cli, name: str) -> None:
    stocked.ok("tag", name, "both")
    stocked.ok("create", "--name", "both", name, "true")
    image = stocked.ok("image", "inspect", "-f", "{{.Id}}", "both").text
    assert image == stocked.ok("images", "-q", "--no-trunc", "both").text
    assert stocked.ok("container", "inspect", "-f", "{{.Image}}", "both").text == image
    assert stocked.ok("inspect", "-f", "{{.Name}}", "both").text == "/both"
    assert stocked("image", "exists", "both").rc == 0
    stocked.ok("rmi", "both")
    assert stocked("image", "exists", "both").rc == 1
    stocked.fails(1, "image", "inspect", "both", says="no such image: both")
    stocked.ok("rm", "both")
    stocked.fails(1, "container", "inspect", "both", says="no such container")


def test_rmi_keeps_what_other_images_share(stocked: Cli, name: str, server: Registry) -> None:
    stocked.ok("pull", f"{name}:list")              # the same two layers and one more
    assert len(stored(stocked, "layers")) == 3
    assert stocked.ok("rmi", f"{name}:list").text.count("Deleted: ") == 2
    assert stocked.ok("run", "--rm", name, "echo", "whole").text == "whole"


def test_rmi_of_what_is_not_there(stocked: Cli, name: str) -> None:
    stocked.fails(1, "rmi", "nosuch", name, says="no such image: nosuch")
    assert stocked.ok("images", "-q").text == ""
    assert "no such image" in stocked.ok("rmi", "-f", "nosuch").error


def test_image_of_a_stopped_container_goes_with_force_only(stocked: Cli, name: str) -> None:
    stocked.ok("create", "--name", "idle", name, "echo", "alive")
    stocked.fails(1, "rmi", name, says="container idle was made from it")
    stocked.ok("rmi", "-f", name)
    assert stocked.ok("images", "-q").text == ""
    assert stocked.ok("start", "-a", "idle").text == "alive"
    stocked.ok("rm", "idle")
    stocked.ok("pull", name)
    stocked.ok("rmi", name)
    assert stored(stocked, "layers") == []


def test_image_of_a_running_container_stays_even_with_force(stocked: Cli, name: str) -> None:
    stocked.ok("run", "-d", "--name", "busy", name, "sleep", "60")
    for words in (["rmi", name], ["rmi", "-f", name],
                  ["rmi", "-f", stocked.ok("images", "-q").text]):
        stocked.fails(1, *words, says="busy runs from it")
    assert stocked.ok("exec", "busy", "echo", "alive").text == "alive"
    stocked.ok("rm", "-f", "busy")


def test_rmi_during_a_pull_harms_neither(fresh: Cli, proxy: Proxy, server: Registry) -> None:
    big = Image([Layer(Tar().file("big", os.urandom(2_000_000)).bytes(), "none")], {"Cmd": ["x"]})
    images.push(server.address, "during", "1", big)
    fresh.ok("pull", f"{server.address}/tiny")
    proxy.rule("/blobs/" + images.digest_of(big.layers[0].blob), pause=0.04)
    pulling = fresh.popen("pull", f"{proxy.address}/during:1", stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    wait_for(lambda: any(n.startswith("partial-") for n in stored(fresh, "tmp")))
    fresh.ok("rmi", f"{server.address}/tiny")
    out, _ = pulling.communicate(timeout=60)
    assert pulling.returncode == 0, out
    # What could not be swept beside the pull was swept at its end.
    assert stored(fresh, "layers") == [big.layers[0].diff_id[7:]]
    fresh.ok("rmi", f"{proxy.address}/during:1")
    assert stored(fresh, "images/blobs/sha256") == []


def wait_for(true: object, seconds: float = 20) -> None:
    assert callable(true)
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


def test_containers_made_while_images_go_are_whole_or_refused(fresh: Cli, server: Registry) -> None:
    """`create` and `rmi` against each other: no container without its layers."""
    name = f"{server.address}/tiny"
    made = 0
    for number in range(6):
        fresh.ok("pull", "-q", name)
        creating = fresh.popen("create", "--pull=never", "--name", f"c{number}", name, "true",
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.02 * number)
        fresh("rmi", "-f", name)
        if creating.wait(60) == 0:
            made += 1
            assert fresh.ok("start", "-a", f"c{number}").rc == 0
    assert fresh.ok("ps", "-aq").text.count("\n") + 1 >= made


def test_many_at_once_keep_every_name(stocked: Cli, name: str) -> None:
    tagging = [stocked.popen("tag", name, f"name{n}") for n in range(12)]
    assert [p.wait(60) for p in tagging] == [0] * 12
    names = stocked.ok("images", "--format", "{{.Repository}}").text.split()
    assert {f"name{n}" for n in range(12)} < set(names)


def test_layer_that_was_lost_is_unpacked_again_from_its_blob(stocked: Cli, name: str) -> None:
    for layer in (stocked.store / "layers").iterdir():
        layer.rename(stocked.store / "trash" / layer.name)
    assert stocked.ok("run", "--rm", name, "echo", "back").text == "back"
    assert len(stored(stocked, "layers")) == 2


def test_lost_blob_is_told_with_what_to_do(stocked: Cli, name: str) -> None:
    for layer in (stocked.store / "layers").iterdir():
        layer.rename(stocked.store / "trash" / layer.name)
    for blob in (stocked.store / "images/blobs/sha256").iterdir():
        if blob.stat().st_size > 100_000:
            blob.unlink()
    result = stocked.fails(125, "run", "--rm", name, says="has lost its layer")
    assert f"hint: rootless pull {name}" in result.error
    stocked.ok("pull", name)
    assert stocked.ok("run", "--rm", name, "echo", "back").text == "back"
