"""`system check`: what is wrong with the store is found, told and mended; `system df` counts it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Callable

import pytest

from tests.integration.support.box import Box
from tests.integration.support.cli import Cli
from tests.integration.support.images import Image, Layer, Tar, digest_of, docker_archive

FIRST = Layer(Tar().dir("d", uid=0).file("d/f", b"hello").file("mine", b"1234", uid=0).symlink(
    "link", "d").file("gone").bytes())
SECOND = Layer(Tar().file("second", b"2" * 5000).whiteout("gone").bytes())
IMAGE = Image([FIRST, SECOND], {"Cmd": ["/x"]})
# Docker's lines of `system df`.
KINDS = ["Images", "Containers", "Local Volumes", "Build Cache"]


@pytest.fixture
def filled(fresh: Cli) -> Cli:
    fresh.ok("load", stdin=docker_archive(IMAGE, "a:1"))
    assert fresh.ok("system", "check").text == "no faults found"
    return fresh


def directory(cli: Cli, layer: Layer) -> Path:
    return cli.store / "layers" / layer.diff_id[7:]


def blob(cli: Cli, digest: str) -> Path:
    return cli.store / "images/blobs/sha256" / digest[7:]


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def whole(cli: Cli) -> None:
    assert cli.ok("system", "check").text == "no faults found"


def content(cli: Cli) -> None:
    f = directory(cli, FIRST)
    assert (f / "d/f").read_bytes() == b"hello" and (f / "mine").read_bytes() == b"1234"
    assert os.readlink(f / "link") == "d" and (f / "mine").stat().st_mode & 0o777 == 0o644


def shorter(root: Path) -> None:
    (root / "mine").write_bytes(b"123")


def other(root: Path) -> None:
    """Same size and times."""
    st = (root / "mine").stat()
    (root / "mine").write_bytes(b"1294")
    os.utime(root / "mine", ns=(st.st_atime_ns, st.st_mtime_ns))


def opened(root: Path) -> None:
    (root / "mine").chmod(0o4777)


def elsewhere(root: Path) -> None:
    (root / "link").unlink()
    (root / "link").symlink_to("/etc")


def added(root: Path) -> None:
    (root / "d/new").write_bytes(b"")


def lost(root: Path) -> None:
    (root / "d/f").unlink()


def directory_changed(root: Path) -> None:
    (root / "d").chmod(0o700)


def attribute(root: Path) -> None:
    os.setxattr(root / "mine", "user.x", b"1")


def root_changed(root: Path) -> None:
    root.chmod(0o777)


@pytest.mark.parametrize("change, says", [
    (shorter, "/mine changed"), (other, "/mine changed"), (opened, "/mine changed"),
    (elsewhere, "/link changed"), (added, "/d/new added"), (lost, "/d/f missing"),
    (directory_changed, "/d changed"), (attribute, "/mine changed"), (root_changed, "/ changed")])
def test_a_layer_that_differs_from_its_blob_is_found_and_made_again(
        change: Callable[[Path], None], says: str, filled: Cli) -> None:
    change(directory(filled, FIRST))
    assert filled.ok("system", "check", "--quick").text == "no faults found"
    found = filled.fails(1, "system", "check", says="1 fault")
    assert f"layer {FIRST.diff_id}: differs from its blob: " in found.text and says in found.text
    assert "unpacked again" in filled.ok("system", "check", "--repair").text
    content(filled)
    whole(filled)


def test_a_whiteout_that_is_missing_is_found(filled: Cli) -> None:
    subprocess.run(["rm", str(directory(filled, SECOND) / "gone")], check=True)
    found = filled.fails(1, "system", "check", says="1 fault")
    assert "/gone missing" in found.text
    filled.ok("system", "check", "--repair")
    whole(filled)


def test_a_lost_layer_is_unpacked_again(filled: Cli) -> None:
    directory(filled, SECOND).rename(filled.home / "away")
    found = filled.fails(1, "system", "check", "--quick")
    assert found.text == f"layer {SECOND.diff_id}: is not unpacked"
    filled.ok("system", "check", "--quick", "--repair")
    assert (directory(filled, SECOND) / "second").read_bytes() == b"2" * 5000
    whole(filled)


def test_a_layer_that_was_not_finished_is_unpacked_again(filled: Cli) -> None:
    os.setxattr(directory(filled, FIRST), "user.rootless.map", b"unfinished")
    filled.fails(1, "system", "check", "--quick")
    filled.ok("system", "check", "--quick", "--repair")
    whole(filled)


def test_a_damaged_blob_goes_with_the_names_that_need_it(filled: Cli) -> None:
    good = Image([FIRST], {"Cmd": ["/y"]})
    filled.ok("load", stdin=docker_archive(good, "good:1"))
    damage(blob(filled, SECOND.diff_id))            # a docker-archive's layer is its own blob
    found = filled.fails(1, "system", "check", "--quick").text.splitlines()
    assert any(line.startswith(f"blob {SECOND.diff_id}: is damaged") for line in found)
    assert any(line.startswith("image a:1: needs a blob that is damaged") for line in found)
    said = filled.ok("system", "check", "--repair").text
    assert "name removed; rootless pull a:1" in said
    assert filled.ok("images", "--format", "{{.Repository}}").text == "good"
    assert not blob(filled, SECOND.diff_id).exists() and not directory(filled, SECOND).exists()
    whole(filled)


@pytest.mark.parametrize("digest", [digest_of(IMAGE.config_blob), FIRST.diff_id])
def test_an_image_that_has_lost_a_part_is_told_and_dropped(digest: str, filled: Cli) -> None:
    blob(filled, digest).unlink()
    found = filled.fails(1, "system", "check")
    assert "image a:1: " in found.text
    filled.ok("system", "check", "--repair")
    assert filled.ok("images", "-q").text == ""
    whole(filled)


def test_a_container_keeps_its_layers_and_is_told_when_they_are_gone(filled: Cli) -> None:
    filled.ok("create", "--name", "c", "a:1")
    filled.ok("rmi", "-f", "a:1")
    whole(filled)
    directory(filled, FIRST).rename(filled.home / "away")
    filled.ok("system", "check", "--repair")                # its blob is kept for that
    content(filled)
    blob(filled, FIRST.diff_id).unlink()
    whole(filled)                                           # it can live without
    directory(filled, FIRST).rename(filled.home / "away-too")
    found = filled.fails(1, "system", "check", "--repair", says="not mended: container c")
    assert f"stands on layer {FIRST.diff_id}, which is gone" in found.text
    filled.ok("rm", "c")


def test_what_belongs_to_nothing_is_found_and_swept(filled: Cli) -> None:
    stray = b"a blob of nobody"
    blob(filled, digest_of(stray)).write_bytes(stray)
    (filled.store / "layers" / ("0" * 64)).mkdir()
    found = filled.fails(1, "system", "check", "--quick", says="2 faults").text
    assert f"blob {digest_of(stray)}: belongs to nothing" in found
    assert f"layer sha256:{'0' * 64}: belongs to nothing" in found
    filled.ok("system", "check", "--repair")
    assert not blob(filled, digest_of(stray)).exists()
    whole(filled)


def test_a_damaged_list_of_images_is_told_and_nothing_is_removed(filled: Cli) -> None:
    (filled.store / "images/index.json").write_bytes(b"{")
    before = os.listdir(filled.store / "layers"), os.listdir(filled.store / "images/blobs/sha256")
    filled.fails(1, "system", "check", "--repair", says="list of images is damaged")
    assert before == (os.listdir(filled.store / "layers"),
                      os.listdir(filled.store / "images/blobs/sha256"))


def test_a_damaged_manifest_list_is_found_and_goes_alone(filled: Cli) -> None:
    for name in ("one:1", "two:1"):
        filled.ok("manifest", "create", name, "a:1")
    whole(filled)
    bad, good = sorted((filled.store / "images/lists").iterdir())
    text = bad.read_text()
    for damaged in (text[:-20], "{}", good.read_text()):
        bad.write_text(damaged)
        found = filled.fails(1, "system", "check", "--quick", says="1 fault")
        assert f"manifest list {bad.name}: " in found.text
    filled.ok("system", "check", "--repair", "--quick")
    assert list((filled.store / "images/lists").iterdir()) == [good]
    assert len(filled.ok("manifest", "ls").text.split()) == 1
    filled.ok("system", "reset", "--force")
    assert filled.ok("manifest", "ls").text == ""
    assert not (filled.store / "images/lists").exists()


def test_a_layer_under_a_running_container_is_not_replaced(box: Box) -> None:
    with box.running() as name:
        config = json.loads((next((box.cli.store / "containers").iterdir())
                             / "container.json").read_bytes())
        top = box.cli.store / "layers" / config["layers"][-1][7:]
        (top / "stray-file").write_bytes(b"")
        try:
            result = box.cli("system", "check", "--repair")
            assert "stray-file added" in result.text and f"container {name} runs" in result.error
        finally:
            (top / "stray-file").unlink()
        assert box.cli.ok("exec", name, "echo", "alive").text == "alive"


def test_a_check_that_is_killed_leaves_what_the_next_command_clears(filled: Cli) -> None:
    big = Image([Layer(Tar().file("big", os.urandom(60 << 20)).bytes(), "none")])
    filled.ok("load", stdin=docker_archive(big, "big:1"))
    with filled.popen("system", "check") as process:
        end = time.monotonic() + 20
        while not any("unpack-check" in n for n in os.listdir(filled.store / "tmp")):
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.001)
        process.kill()
    filled.ok("rmi", "big:1")
    assert os.listdir(filled.store / "tmp") == []
    whole(filled)


# ---- df ----------------------------------------------------------------------------------------

def test_df_counts_images_and_what_containers_have_written(box: Box) -> None:
    with box.running(then=("sh", "-c", "head -c 3000000 /dev/zero > /x; ln /x /y; touch /done; "
                           "sleep 1000")) as name:
        box.cli.ok("exec", name, "sh", "-c", "until [ -e /done ]; do sleep 0.1; done")
        rows = {line.split()[0]: line.split() for line in
                box.cli.ok("system", "df").text.splitlines()}
        assert rows["TYPE"] == ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]
        assert rows["Containers"] == ["Containers", "1", "1", "3MB", "0B", "(0%)"]
        assert rows["Images"][2] == "1"
        out = box.cli.ok("system", "df", "-v").text
        assert "SHARED SIZE" in out and "UNIQUE SIZE" in out
        assert [line for line in out.splitlines() if line.endswith(name) and " 3MB " in line]
    found = [json.loads(line) for line in box.cli.ok("system", "df", "--format",
                                                     "json").text.splitlines()]
    assert [f["Type"] for f in found] == KINDS


def test_df_of_a_store_that_is_not_there_yet_is_nothing(fresh: Cli) -> None:
    assert fresh.ok("system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Size}}"
                    ).text.splitlines() == [f"{kind} 0 0B" for kind in KINDS]
