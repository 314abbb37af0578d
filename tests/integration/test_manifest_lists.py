"""`manifest`: lists for several platforms, read by the peers afterwards."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.integration.support import filled, images
from tests.integration.support.cli import Cli
from tests.integration.support.registry import Registry

MINE, OTHER = images.ARCHITECTURE, filled.OTHER


def raw(cli: Cli, name: str) -> Any:
    done = subprocess.run(["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}"],
                          env=cli.env, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def listed(cli: Cli, name: str) -> list[str]:
    return [m["platform"]["architecture"] for m in cli.ok("manifest", "inspect", name)
            .json["manifests"]]


@pytest.fixture
def both(fresh: Cli, server: Registry) -> tuple[str, str]:
    """Images of the store for two platforms."""
    name = f"{server.address}/tiny:list"
    fresh.ok("pull", "-q", "--platform", f"linux/{OTHER}", name)
    fresh.ok("tag", name, "other:1")
    fresh.ok("pull", "-q", name)
    fresh.ok("tag", name, "mine:1")
    return "mine:1", "other:1"


def test_list_of_images_of_the_store_is_pushed_whole(fresh: Cli, server: Registry,
                                                     both: tuple[str, str]) -> None:
    name = f"{server.address}/app:1"
    fresh.ok("manifest", "create", name, *both)
    assert listed(fresh, name) == [MINE, OTHER]
    digest = fresh.ok("manifest", "push", name).text
    assert raw(fresh, name)["mediaType"] == images.OCI + "index.v1+json"
    fresh.ok("rmi", *both)
    fresh.ok("pull", f"{server.address}/app@{digest}")
    fresh.ok("pull", "--platform", f"linux/{OTHER}", name)
    assert fresh.ok("inspect", "-f", "{{.Architecture}}", name).text == OTHER


def test_list_is_pushed_alone_where_its_images_are(fresh: Cli, server: Registry,
                                                   both: tuple[str, str]) -> None:
    name = f"{server.address}/alone:1"
    fresh.ok("manifest", "create", name, *both)
    fresh.fails(1, "manifest", "push", "--all=false", name, says="alone:1")
    fresh.fails(1, "pull", name, says="no such image")
    digest = fresh.ok("manifest", "push", "--all", name).text
    result = fresh.ok("manifest", "push", "--all=false", name, f"{server.address}/alone:2")
    assert result.text == digest
    assert "Copying" not in result.error
    assert raw(fresh, f"{server.address}/alone:2") == raw(fresh, name)
    fresh.fails(125, "manifest", "push", "--all=false", "-f", "v2s2", name, says="other digests")


def test_images_of_a_registry_are_added_without_being_downloaded(fresh: Cli,
                                                                 server: Registry) -> None:
    fresh.ok("manifest", "create", "shop:1")
    fresh.ok("manifest", "add", "--all", "shop:1", f"docker://{server.address}/tiny:list")
    assert sorted(listed(fresh, "shop:1")) == ["amd64", "arm64"]
    fresh.ok("manifest", "add", "shop:1", f"{server.address}/tiny:latest")
    assert len(listed(fresh, "shop:1")) == 3
    assert fresh.ok("images", "-q").text == ""
    fresh.ok("manifest", "push", "shop:1", f"docker://{server.address}/shop:1",
             "--digestfile", "digest")
    there = raw(fresh, f"{server.address}/shop:1")
    assert len(there["manifests"]) == 3
    copied = subprocess.run(["skopeo", "copy", "--all", "--insecure-policy",
                             "--src-tls-verify=false", f"docker://{server.address}/shop:1",
                             f"dir:{fresh.home}/dir"], env=fresh.env, check=False,
                            capture_output=True)
    assert copied.returncode == 0, copied.stderr.decode()
    assert images.digest_of((fresh.home / "dir/manifest.json").read_bytes()) \
        == (fresh.home / "digest").read_text()


def test_one_image_of_a_list_is_added_for_this_machine(fresh: Cli, server: Registry) -> None:
    fresh.ok("manifest", "create", "one:1", f"docker://{server.address}/tiny:list")
    assert listed(fresh, "one:1") == [MINE]


def test_annotations_say_what_an_image_is_for(fresh: Cli, both: tuple[str, str]) -> None:
    fresh.ok("manifest", "create", "app:1", *both)
    fresh.ok("manifest", "annotate", "--arch", "arm", "--variant", "v6", "--os-version", "5",
             "--os-features", "a", "--annotation", "k=v", "app:1", "other:1")
    _, entry = fresh.ok("manifest", "inspect", "app:1").json["manifests"]
    assert entry["platform"] == {"architecture": "arm", "os": "linux", "variant": "v6",
                                 "os.version": "5", "os.features": ["a"]}
    assert entry["annotations"] == {"k": "v"}
    fresh.fails(1, "manifest", "annotate", "--arch", "x", "app:1", "third:1",
                says="no such image in app:1")


def test_what_is_created_twice_or_named_as_an_image_is_refused(fresh: Cli,
                                                               both: tuple[str, str]) -> None:
    fresh.ok("manifest", "create", "app:1", both[0])
    fresh.fails(1, "manifest", "create", "app:1", says="exists already")
    fresh.ok("manifest", "create", "--amend", "app:1", both[1])
    assert len(listed(fresh, "app:1")) == 2
    fresh.fails(1, "manifest", "create", both[0], says="that of an image")


def test_list_is_forgotten(fresh: Cli, server: Registry, both: tuple[str, str]) -> None:
    fresh.ok("manifest", "create", "app:1", *both)
    assert fresh.ok("manifest", "ls").text == "app:1"
    assert fresh("manifest", "exists", "app:1").rc == 0
    fresh.ok("manifest", "push", "--purge", "app:1", f"{server.address}/purged:1")
    assert fresh("manifest", "exists", "app:1").rc == 1
    fresh.ok("manifest", "create", "app:1", *both)
    fresh.ok("manifest", "remove", "app:1", "other:1")
    assert listed(fresh, "app:1") == [MINE]
    fresh.ok("manifest", "rm", "app:1")
    fresh.fails(1, "manifest", "rm", "app:1", says="no such manifest list")
    assert fresh.ok("images", "-q", both[0]).text


def test_image_that_is_gone_is_named_when_the_list_is_pushed(fresh: Cli, server: Registry,
                                                             both: tuple[str, str]) -> None:
    name = f"{server.address}/half:1"
    fresh.ok("manifest", "create", name, *both)
    fresh.ok("rmi", "-f", both[1])
    fresh.ok("rmi", "-f", f"{server.address}/tiny:list")
    ids = fresh.ok("images", "-q", "--no-trunc").text.split()
    for one in ids:
        if fresh.ok("inspect", "-f", "{{.Architecture}}", one).text == OTHER:
            fresh.ok("rmi", "-f", one)
    fresh.fails(1, "manifest", "push", name, says="other:1 is gone")
    fresh.fails(1, "pull", name)


def test_failed_create_leaves_no_list(fresh: Cli, server: Registry) -> None:
    fresh.fails(1, "manifest", "create", "app:1", f"{server.address}/none:1")
    assert fresh.ok("manifest", "ls").text == ""


def test_empty_list_is_not_pushed(fresh: Cli, server: Registry) -> None:
    fresh.ok("manifest", "create", "app:1")
    fresh.fails(125, "manifest", "push", "app:1", f"{server.address}/empty:1", says="is empty")


def test_inspect_shows_what_a_registry_has(fresh: Cli, server: Registry) -> None:
    shown = fresh.ok("manifest", "inspect", f"{server.address}/tiny:dockerlist").json
    assert shown == raw(fresh, f"{server.address}/tiny:dockerlist")
