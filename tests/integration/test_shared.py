"""Images in a directory of another user: found, run and left alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.support.box import Box
from tests.integration.support.cli import Cli


@pytest.fixture(scope="module")
def store(box: Box) -> Iterator[Path]:
    """A shared store with the quick image, which nobody can write."""
    directory = box.cli.home / "shared"
    directory.mkdir()
    box.cli.ok("tag", box.image, "example.com/shared/tiny:1")
    (path,) = box.cli.ok("image", "share", "shared", "example.com/shared/tiny:1").text.splitlines()
    assert Path(path).stat().st_mode & 0o777 == 0o644
    box.cli.ok("rmi", "example.com/shared/tiny:1")
    directory.chmod(0o555)
    yield directory
    directory.chmod(0o755)


@pytest.fixture
def reader(fresh: Cli, store: Path) -> Cli:
    """A user with nothing but the configuration."""
    place = fresh.home / ".config/rootless"
    place.mkdir(parents=True)
    (place / "config.toml").write_text(f'[storage]\nadditional = ["/not/mounted", "{store}"]\n')
    return fresh


def test_a_shared_image_is_listed_as_read_only(reader: Cli) -> None:
    lines = reader.ok("images").text.splitlines()
    assert lines[0].split()[-1] == "R/O"
    assert lines[1].split()[0:2] == ["example.com/shared/tiny", "1"]
    assert lines[1].split()[-1] == "true"


def test_it_runs_in_place_and_the_store_is_left_as_it_was(reader: Cli, store: Path) -> None:
    def state() -> list[tuple[str, int, int]]:
        return [(n, (store / n).stat().st_mtime_ns, (store / n).stat().st_size)
                for n in sorted(os.listdir(store))]

    before = state()
    script = "id -u; stat -c %u /bin; echo x > /new; cat /new"
    assert reader.ok("run", "--rm", "example.com/shared/tiny:1", "sh", "-ec",
                     script).text == "0\n0\nx"
    identity = reader.ok("images", "-q").text
    assert reader.ok("run", "--rm", identity, "echo", "by-id").text == "by-id"
    assert reader.ok("run", "--rm", "--pull=never", "example.com/shared/tiny:1", "true").rc == 0
    assert state() == before
    assert os.listdir(reader.store / "layers") == []


def test_it_is_shown_and_what_needs_layers_says_where_it_lies(reader: Cli) -> None:
    name = "example.com/shared/tiny:1"
    assert "IMAGE" in reader.ok("history", name).text
    assert reader.ok("image", "inspect", "-f", "{{.RepoTags}}", name).text == f"[{name}]"
    assert reader("image", "exists", name).rc == 0
    for words in (("save", "-o", "x", name), ("tag", name, "b:1"), ("push", name, "r.example/b"),
                  ("copy", name, "oci:x"), ("rmi", name), ("image", "tree", name),
                  ("image", "diff", name, name), ("image", "flatten", name, "-o", "x")):
        found = reader.fails(1, *words, says="lies in a shared store")
        assert ".sqfs" in found.error


def test_an_image_of_ones_own_comes_first(reader: Cli, box: Box) -> None:
    archive = box.cli.ok("save", box.image).out
    reader.ok("load", stdin=archive)
    reader.ok("tag", box.image, "example.com/shared/tiny:1")
    reader.ok("run", "--name", "c", "example.com/shared/tiny:1", "true")
    assert os.listdir(reader.store / "layers") != []
    reader.ok("rmi", "-f", "example.com/shared/tiny:1")
    reader.ok("rm", "c")
    reader.ok("run", "--rm", "example.com/shared/tiny:1", "true")


def test_what_is_no_image_there_is_passed_over(reader: Cli, box: Box) -> None:
    other = reader.home / "more"
    other.mkdir()
    (other / "broken.sqfs").write_text("nothing")
    (reader.home / ".config/rootless/config.toml").write_text(
        f'[storage]\nadditional = ["{other}"]\n')
    assert reader.ok("images", "-q").text == ""


@pytest.mark.parametrize("text, says", [
    ("[storage]\nadditional = 3", "storage.additional"),
    ("[storage]\nadditional = ['relative']", "not an absolute path"),
    ("[storage]\naditional = []", "storage.aditional"), ("[storage", "config.toml")])
def test_a_wrong_setting_names_file_and_key(text: str, says: str, reader: Cli) -> None:
    (reader.home / ".config/rootless/config.toml").write_text(text)
    found = reader.fails(1, "images", says=says)
    assert "config.toml" in found.error


def test_what_cannot_be_shared_is_said(box: Box) -> None:
    box.cli.fails(1, "image", "share", "/no/such/directory", box.image, says="no directory")
    box.cli.fails(1, "image", "share", "/tmp", "no:1", says="no such image")
