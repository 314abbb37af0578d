"""Manifests and configurations are believed only as far as they are checked."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.errors import ImageError, NotFound, UsageError
from rootless.image import manifest as m
from rootless.image.manifest import Platform

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize("text, shown", [
    ("linux/amd64", "linux/amd64"),
    ("amd64", "linux/amd64"),
    ("x86_64", "linux/amd64"),
    ("linux/aarch64", "linux/arm64"),
    ("linux/arm64/v8", "linux/arm64"),
    ("linux/arm", "linux/arm/v7"),
    ("linux/arm/6", "linux/arm/v6"),
    ("armhf", "linux/arm/v7"),
    ("Linux/AMD64", "linux/amd64"),
    ("windows/amd64", "windows/amd64"),
])
def test_platforms_have_one_spelling(text: str, shown: str) -> None:
    assert str(m.parse_platform(text)) == shown


@pytest.mark.parametrize("text", ["/", "linux/", "a/b/c/d", "linux/../x", "a b"])
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="invalid platform"):
        m.parse_platform(text)


def index(*platforms: str) -> dict[str, Any]:
    entries = []
    for number, text in enumerate(platforms):
        system, architecture, *variant = text.split("/")
        entries.append({
            "mediaType": m.OCI_MANIFEST, "size": 1, "digest": "sha256:" + f"{number:064x}",
            "platform": {"os": system, "architecture": architecture,
                         **({"variant": variant[0]} if variant else {})}})
    return {"schemaVersion": 2, "mediaType": m.OCI_INDEX, "manifests": entries}


@pytest.mark.parametrize("wanted, there, chosen", [
    ("linux/amd64", ["linux/arm64", "linux/amd64"], 1),
    ("linux/amd64", ["linux/386", "linux/amd64"], 1),
    ("linux/amd64", ["linux/386"], 0),
    ("linux/arm64", ["linux/arm/v7", "linux/arm64/v8"], 1),
    ("linux/arm64", ["linux/arm/v5", "linux/arm/v7"], 1),
    ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6"], 1),
    ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2"], 1),
    ("linux/amd64", ["unknown/unknown", "linux/amd64", "linux/amd64"], 1),
])
def test_the_best_that_runs_here_is_chosen(wanted: str, there: list[str], chosen: int) -> None:
    found = m.choose(index(*there), m.parse_platform(wanted), "x")
    assert int(found.digest[7:], 16) == chosen


@pytest.mark.parametrize("wanted, there", [
    ("linux/arm/v6", ["linux/arm/v7"]),
    ("linux/386", ["linux/amd64"]),
    ("linux/amd64", ["linux/amd64/v3", "windows/amd64"]),
])
def test_what_does_not_run_here_is_told_with_what_there_is(wanted: str, there: list[str]) -> None:
    with pytest.raises(NotFound) as caught:
        m.choose(index(*there), m.parse_platform(wanted), "x")
    assert f"there is {', '.join(there)}" in caught.value.message


@pytest.mark.parametrize("value", [None, {}, [1], [None], [{"platform": 3}]])
def test_lists_of_nonsense_choose_nothing(value: object) -> None:
    with pytest.raises((ImageError, NotFound)):
        m.choose({"manifests": value}, Platform("linux", "amd64"), "x")


def test_the_documents_own_word_for_its_kind_counts_first() -> None:
    assert m.is_index({"mediaType": m.DOCKER_LIST, "manifests": []}, m.OCI_MANIFEST, "x")
    assert not m.is_index({"layers": [], "schemaVersion": 2}, m.OCI_MANIFEST + "; charset=x", "x")
    assert m.is_index({"manifests": [], "schemaVersion": 2}, "text/plain", "x")


def config(**changes: Any) -> bytes:
    inner = {"Env": ["A=b"], "Cmd": ["x"], "Labels": {"a": "b"}, **changes.pop("config", {})}
    return json.dumps({"os": "linux", "architecture": "amd64", "config": inner,
                       "rootfs": {"type": "layers", "diff_ids": [DIGEST]}, **changes}).encode()


def test_a_configuration_is_read() -> None:
    read = m.image_config(config(), 1, "x")
    assert read["rootfs"]["diff_ids"] == [DIGEST]
    assert read["config"]["Cmd"] == ["x"]
    assert m.image_config(config(config={"Env": None}), 1, "x")["config"]["Env"] is None


@pytest.mark.parametrize("changes", [
    {"os": "windows"}, {"os": 3}, {"architecture": None}, {"rootfs": {"diff_ids": [DIGEST] * 2}},
    {"rootfs": {"diff_ids": ["sha256:../../x"]}}, {"rootfs": {"diff_ids": DIGEST}},
    {"rootfs": None}, {"created": 7}, {"history": {"a": 1}}, {"config": {"Env": "A=b"}},
    {"config": {"Env": [1]}}, {"config": {"Cmd": ["a\0b"]}}, {"config": {"Labels": {"a": 1}}},
    {"config": {"Labels": ["a"]}}, {"config": {"User": 0.5}}, {"config": {"Volumes": [1]}},
    {"config": {"User": "a\nb"}}, {"config": {"WorkingDir": "/\0"}}, {"author": "\ud800"},
    {"config": {"Labels": {"\udfff": "a"}}}, {"config": {"StopSignal": "\x1b[2J"}},
], ids=str)
def test_a_configuration_that_lies_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ImageError):
        m.image_config(config(**changes), 1, "x")


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                        st.sampled_from(["layers", "config", "digest", "size", "mediaType", "os",
                                         "architecture", "rootfs", "diff_ids", "manifests",
                                         "platform", "Env", "Labels", "schemaVersion"]),
                        inner, max_size=4), max_leaves=12)


@given(JSON)
def test_no_document_is_an_accident(value: object) -> None:
    """Whatever a registry sends is an image or one of our errors."""
    data = json.dumps(value).encode()
    for read in (lambda d: m.image_config(data, 0, "x"),
                 lambda d: m.image_manifest(m.document(d, "x"), "x"),
                 lambda d: m.is_index(m.document(d, "x"), "", "x"),
                 lambda d: m.choose(m.document(d, "x"), Platform("linux", "amd64"), "x")):
        try:
            read(data)
        except (ImageError, NotFound):
            continue


def test_dockers_manifest_keeps_its_blobs_in_ocis_words() -> None:
    blob = {"digest": DIGEST, "size": 3}
    docker = {"schemaVersion": 2, "mediaType": m.DOCKER_MANIFEST,
              "config": {"mediaType": m.DOCKER_CONFIG, **blob},
              "layers": [{"mediaType": m.DOCKER + "image.rootfs.diff.tar" + c, **blob}
                         for c in (".gzip", "", ".zstd")]}
    oci = m.as_oci(docker)
    assert oci["mediaType"] == m.OCI_MANIFEST
    assert oci["config"] == {"mediaType": m.OCI_CONFIG, **blob}
    assert [la["mediaType"].rpartition("tar")[2] for la in oci["layers"]] == ["+gzip", "", "+zstd"]
    assert m.image_manifest(oci, "x")[1] == [
        m.Descriptor(la["mediaType"], DIGEST, 3) for la in oci["layers"]]


def test_more_layers_than_can_be_mounted_are_refused() -> None:
    blob = {"digest": DIGEST, "size": 3}
    with pytest.raises(ImageError, match="more than 500"):
        m.image_manifest({"config": {"mediaType": m.OCI_CONFIG, **blob}, "layers": [
            {"mediaType": m.OCI + "layer.v1.tar", **blob}] * 501}, "x")
