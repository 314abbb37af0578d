"""Names, blobs and the sweep, on a store made by hand."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from rootless.errors import Conflict, ImageError, NotFound, StorageError
from rootless.image import gc, manifest, remove, store
from rootless.paths import Paths


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths({"HOME": str(tmp_path), "ROOTLESS_ROOT": str(tmp_path / "store")}, os.getuid())
    made.ensure()
    return made


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def add(paths: Paths, name: str, words: str, *, source: str = "", docker: bool = False,
        layers: tuple[bytes, ...] = (b"layer",)) -> store.Image:
    """An image whose layers are `layers`, as if it had been pulled."""
    kind = manifest.DOCKER_MANIFEST if docker else manifest.OCI_MANIFEST
    config = json.dumps({"os": "linux", "architecture": "amd64", "config": {"Cmd": [words]},
                         "created": f"2024-01-01T00:00:0{len(words)}Z",
                         "rootfs": {"type": "layers", "diff_ids": [
                             digest(b"diff" + la) for la in layers]}}).encode()
    for layer in layers:
        os.makedirs(paths.layer(digest(b"diff" + layer)), exist_ok=True)
    document: dict[str, Any] = {
        "schemaVersion": 2, "mediaType": kind,
        "config": {"mediaType": manifest.OCI_CONFIG, "size": len(config),
                   "digest": store.put_blob(paths, config)},
        "layers": [{"mediaType": manifest.OCI + "layer.v1.tar", "size": len(la),
                    "digest": store.put_blob(paths, la)} for la in layers]}
    text = json.dumps(document).encode()
    with store.hold(paths):
        return store.publish(paths, name, {"mediaType": kind, "size": len(text),
                                           "digest": store.put_blob(paths, text)}, source=source)


def names(paths: Paths) -> list[str]:
    return sorted(i.name for i in store.every(paths))


def test_a_blob_is_named_by_its_digest_and_a_wrong_one_is_not_kept(paths: Paths) -> None:
    assert store.put_blob(paths, b"x") == digest(b"x")
    assert store.read_blob(paths, digest(b"x")) == b"x"
    for expected, size in ((digest(b"z"), None), (None, 7)):
        writer = store.BlobWriter(paths)
        writer.write(b"y")
        with pytest.raises(ImageError):
            writer.commit(expected, size)
        writer.abort()
    assert os.listdir(paths.blobs) == [digest(b"x")[7:]]
    assert os.listdir(paths.tmp) == []


@pytest.mark.parametrize("name", ["sha256:../../etc/passwd", "sha256:", "x", "sha512:" + "0" * 64])
def test_no_digest_leads_out_of_the_store(paths: Paths, name: str) -> None:
    with pytest.raises(ImageError):
        store.blob_path(paths, name)


def test_an_image_is_found_by_what_people_type(paths: Paths) -> None:
    source = digest(b"list")
    image = add(paths, "debian:12", "a", source=source)
    assert image.name == "docker.io/library/debian:12"
    for text in ("debian:12", "docker.io/debian:12", f"debian@{source}", f"debian@{image.digest}",
                 image.id, image.id[7:], image.id[7:19], "sha256:" + image.id[7:12]):
        assert store.find(paths, text) == image, text
    for text in ("debian", "debian:13", f"other@{source}", "sha256:" + "0" * 64):
        assert store.find(paths, text) is None, text


def test_a_name_that_looks_like_an_id_is_a_name_first(paths: Paths) -> None:
    image = add(paths, "x", "a")
    other = add(paths, image.id[7:13], "b")
    found = store.find(paths, image.id[7:13])
    assert found is not None
    assert found.id == other.id


def test_an_id_that_could_be_two_is_refused(paths: Paths) -> None:
    made = [add(paths, f"n{n}", "x" * n) for n in range(1, 20)]
    first = [i.id[7] for i in made]
    double = next(c for c in first if first.count(c) > 1)
    with pytest.raises(Conflict, match="several images"):
        store.find(paths, double)


def test_a_name_that_moves_leaves_the_old_image_under_its_digest(paths: Paths) -> None:
    source = digest(b"old")
    add(paths, "app", "old", source=source)
    add(paths, "app", "newer", source=digest(b"new"))
    assert names(paths) == ["docker.io/library/app:latest", f"docker.io/library/app@{source}"]
    add(paths, "built", "one")
    add(paths, "built", "three")
    assert "" in names(paths)


def test_the_same_image_again_changes_nothing(paths: Paths) -> None:
    for _ in range(3):
        add(paths, "app", "a", source=digest(b"s"))
    assert names(paths) == ["docker.io/library/app:latest"]


def test_a_nameless_image_gets_its_first_name(paths: Paths) -> None:
    image = add(paths, "", "a")
    assert names(paths) == [""]
    store.tag(paths, image, "app")
    assert names(paths) == ["docker.io/library/app:latest"]


def test_tag_keeps_the_digest_within_its_repository_only(paths: Paths) -> None:
    image = add(paths, "app:1", "a", source=digest(b"s"))
    store.tag(paths, image, "app:2")
    store.tag(paths, image, "other:1")
    sources = {i.name: i.source for i in store.every(paths)}
    assert sources == {"docker.io/library/app:1": digest(b"s"),
                       "docker.io/library/app:2": digest(b"s"), "docker.io/library/other:1": ""}


def test_dockers_manifest_is_kept_beside_ocis(paths: Paths) -> None:
    image = add(paths, "app", "a", docker=True)
    (entry,) = store.read_index(paths)
    assert entry["mediaType"] == manifest.OCI_MANIFEST
    original = store.annotation(entry, store.ORIGINAL)
    assert json.loads(store.read_blob(paths, original))["mediaType"] == manifest.DOCKER_MANIFEST
    assert store.find(paths, f"app@{original}") == image
    gc.sweep(paths)
    assert os.path.exists(store.blob_path(paths, original))


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"manifests": 3}', b'{"manifests": [{}]}',
                                  b'{"manifests": [{"digest": "sha256:../x"}]}'])
def test_a_damaged_list_of_names_is_told(paths: Paths, text: bytes) -> None:
    Path(paths.images, "index.json").write_bytes(text)
    with pytest.raises(StorageError, match="damaged"):
        store.every(paths)


def test_what_other_tools_wrote_is_kept(paths: Paths) -> None:
    add(paths, "app", "a")
    entries = store.read_index(paths)
    entries.append({**entries[0], "annotations": {store.NAME: "Short!", "x": "y"}})
    with store.index_lock(paths):
        store.write_index(paths, entries)
    add(paths, "other", "bb")
    assert [store.annotation(e, "x") for e in store.read_index(paths)].count("y") == 1
    assert names(paths) == ["", "docker.io/library/app:latest", "docker.io/library/other:latest"]


def test_an_image_with_a_name_leaves_no_nameless_form_behind(paths: Paths) -> None:
    """The same image, with layers that were compressed otherwise on their way."""
    first = add(paths, "app", "a")
    text = json.dumps({**first.manifest, "annotations": {"form": "other"}}).encode()
    entry = {"mediaType": manifest.OCI_MANIFEST, "size": len(text),
             "digest": store.put_blob(paths, text)}
    with store.hold(paths):
        store.publish(paths, "", entry)
        assert names(paths) == ["docker.io/library/app:latest"]
        assert store.publish(paths, "app", entry).id == first.id
    assert names(paths) == ["docker.io/library/app:latest"]
    assert store.every(paths)[0].digest == entry["digest"]
    store.untag(paths, {"docker.io/library/app:latest"})
    assert [i.id for i in store.every(paths)] == [first.id]
    with store.hold(paths):
        store.publish(paths, "", {**entry, "digest": first.digest})
    assert [i.digest for i in store.every(paths)] == [first.digest]
    # Another image that loses its name stays, and what cannot be read is nobody's form.
    add(paths, "app", "bb")
    os.unlink(store.blob_path(paths, first.digest))
    add(paths, "app", "ccc")
    assert names(paths) == ["", "", "docker.io/library/app:latest"]


# ---- what goes ---------------------------------------------------------------------------------

def test_the_sweep_takes_what_nothing_names(paths: Paths) -> None:
    kept = add(paths, "kept", "a", layers=(b"shared", b"own"))
    gone = add(paths, "gone", "bb", layers=(b"shared", b"lost"))
    store.put_blob(paths, b"stray")
    store.drop(paths, [gone])
    assert gc.sweep(paths) == [digest(b"difflost")]
    left = {kept.id, kept.digest, digest(b"shared"), digest(b"own")}
    assert {f"sha256:{n}" for n in os.listdir(paths.blobs)} == left
    assert {f"sha256:{n}" for n in os.listdir(paths.layers)} == set(kept.layers)


def test_lists_within_lists_keep_what_they_name_however_deep(paths: Paths) -> None:
    """As another tool may put them into the layout: no recursion that a hostile one could end."""
    image = add(paths, "", "a")
    inner = image.digest
    for _ in range(2000):
        entry = {"mediaType": manifest.OCI_INDEX, "digest": inner, "size": 1}
        inner = store.put_blob(paths, json.dumps({"manifests": [entry, entry]}).encode())
    store.write_index(paths, [{**entry, "digest": inner}])
    before = sorted(os.listdir(paths.blobs))
    assert len(before) > 2000
    assert gc.sweep(paths) == []
    assert sorted(os.listdir(paths.blobs)) == before
    store.write_index(paths, [])
    assert gc.sweep(paths) == list(image.layers)
    assert os.listdir(paths.blobs) == []


def test_a_container_keeps_its_layers_and_their_blobs(paths: Paths) -> None:
    image = add(paths, "app", "a", layers=(b"one", b"two"))
    record = Path(paths.containers) / ("c" * 64) / "container.json"
    record.parent.mkdir()
    record.write_text(json.dumps({"layers": list(image.layers)}))
    store.drop(paths, [image])
    assert gc.sweep(paths) == []
    assert set(os.listdir(paths.blobs)) == {digest(b"one")[7:], digest(b"two")[7:]}
    record.write_text("damaged")
    assert gc.sweep(paths) == []
    record.unlink()
    assert gc.sweep(paths) == sorted(image.layers)
    assert os.listdir(paths.blobs) == os.listdir(paths.cache) == []


def test_the_sweep_waits_for_who_is_making_something(paths: Paths) -> None:
    store.put_blob(paths, b"on its way")
    with store.hold(paths):
        assert gc.sweep(paths, patience=0.05) is None
        assert os.listdir(paths.blobs)
    gc.settle(paths)
    assert os.listdir(paths.blobs) == []
    assert not os.path.exists(paths.data + "/.sweep")


def test_beginnings_of_downloads_live_a_week_and_dead_files_go(paths: Paths) -> None:
    fresh, old = (Path(paths.tmp, f"{store.PARTIAL_PREFIX}{c * 64}") for c in "ab")
    fresh.write_bytes(b"x")
    old.write_bytes(b"x")
    os.utime(old, (0, 0))
    Path(paths.tmp, store.BLOB_PREFIX + "dead").write_bytes(b"x")
    alive = store.BlobWriter(paths)
    gc.tidy(paths)
    assert len(os.listdir(paths.tmp)) == 2
    assert fresh.exists()
    alive.write(b"whole")
    alive.commit(None, None)


def user(image: store.Image, *, running: bool) -> remove.User:
    return remove.User("web", image.id, running)


def test_removal_follows_dockers_rules(paths: Paths) -> None:
    image = add(paths, "app:1", "a", source=digest(b"s"))
    store.tag(paths, image, "app:2")
    with pytest.raises(Conflict, match="several names"):
        remove.remove(paths, image.id[7:19], [], force=False)
    assert remove.remove(paths, "app:2", [user(image, running=True)], force=False) == [
        "Untagged: app:2"]
    for running, force in ((False, False), (True, True)):
        with pytest.raises(Conflict, match="web"):
            remove.remove(paths, "app:1", [user(image, running=running)], force=force)
    assert remove.remove(paths, "app:1", [user(image, running=False)], force=True) == [
        "Untagged: app:1", f"Untagged: app@{digest(b's')}", f"Deleted: {image.id}",
        f"Deleted: {image.layers[0]}"]
    with pytest.raises(NotFound):
        remove.remove(paths, "app:1", [], force=True)
    assert os.listdir(paths.blobs) == []
