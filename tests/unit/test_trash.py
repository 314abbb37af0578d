"""Removing never follows a link, and no tree is too deep or too closed to be removed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rootless.paths import Paths
from rootless.storage import trash


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths({"HOME": str(tmp_path), "ROOTLESS_ROOT": str(tmp_path / "store")}, os.getuid())
    made.ensure()
    return made


def test_a_tree_is_gone_from_the_store_and_from_the_disk(paths: Paths) -> None:
    tree = paths.layers + "/x"
    os.makedirs(tree + "/a/b")
    os.mkdir(tree + "/closed", 0)
    trash.discard(paths, tree)
    assert not os.path.exists(tree) and os.listdir(paths.trash) == []


def test_what_a_link_points_to_stays(paths: Paths, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    tree = paths.layers + "/x"
    os.mkdir(tree)
    os.symlink(kept, tree + "/link")
    trash.discard(paths, tree)
    assert (kept / "file").read_text() == "x"


def test_a_tree_deeper_than_the_stack_is_removed(paths: Paths) -> None:
    tree = paths.layers + "/x"
    os.mkdir(tree)
    fd = os.open(tree, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        deeper = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(fd)
    trash.discard(paths, tree)
    assert os.listdir(paths.trash) == []


def test_what_a_killed_removal_left_goes_with_the_next(paths: Paths) -> None:
    os.makedirs(paths.trash + "/left.1/over")
    trash.discard(paths, paths.layers + "/does-not-exist")
    os.mkdir(paths.layers + "/y")
    trash.discard(paths, paths.layers + "/y")
    assert os.listdir(paths.trash) == []
