"""What an overlay's upper directory says was changed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from rootless.container.changes import changes


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    for top in (upper, lower):
        (top / "etc").mkdir(parents=True)
    for name in ("etc/passwd", "etc/hosts"):
        (lower / name).write_text("old\n")
    return upper, lower


def told(trees: tuple[Path, Path], *stubs: str) -> list[str]:
    upper, lower = (os.open(t, os.O_RDONLY | os.O_DIRECTORY) for t in trees)
    try:
        return [f"{c.kind} {os.fsdecode(c.path)}"
                for c in changes(upper, lower, frozenset(map(os.fsencode, stubs)))]
    finally:
        os.close(upper)
        os.close(lower)


def whiteout(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR, 0)


def test_a_directory_that_only_came_along_is_no_change(trees: tuple[Path, Path]) -> None:
    assert told(trees) == []
    os.chmod(trees[0] / "etc", 0o700)
    assert told(trees) == ["C /etc"]


def test_added_changed_and_deleted_with_the_directories_they_are_in(
        trees: tuple[Path, Path]) -> None:
    upper, _ = trees
    (upper / "etc/passwd").write_text("new\n")
    whiteout(upper / "etc/hosts")
    whiteout(upper / "etc/never-was")
    (upper / "a/b").mkdir(parents=True)
    (upper / "a/b/c").symlink_to("x")
    assert told(trees) == ["A /a", "A /a/b", "A /a/b/c", "C /etc", "D /etc/hosts",
                           "C /etc/passwd"]


def test_an_opaque_directory_tells_what_it_hides(trees: tuple[Path, Path]) -> None:
    upper, lower = trees
    (lower / "d/sub").mkdir(parents=True)
    (lower / "d/f").write_text("")
    (lower / "d/g").write_text("")
    (upper / "d").mkdir()
    (upper / "d/g").write_text("x")
    os.setxattr(upper / "d", "user.overlay.opaque", b"y")
    assert told(trees) == ["C /d", "D /d/f", "C /d/g", "D /d/sub"]


def test_a_directory_in_the_place_of_a_file_or_link_holds_only_what_is_new(
        trees: tuple[Path, Path]) -> None:
    upper, lower = trees
    (lower / "link").symlink_to("/etc")
    for name in ("etc/passwd", "link"):
        (upper / name).mkdir()
        (upper / name / "passwd").write_text("x")
    assert told(trees) == ["C /etc", "C /etc/passwd", "A /etc/passwd/passwd", "C /link",
                           "A /link/passwd"]


def test_mount_points_that_the_engine_made_are_no_change(trees: tuple[Path, Path]) -> None:
    upper, _ = trees
    for name in ("v/a/b", "proc", "full"):
        (upper / name).mkdir(parents=True)
    for name in ("etc/resolv.conf", "etc/written"):
        (upper / name).write_text("")
    (upper / "full/x").write_text("")
    (upper / "etc/written").write_text("by the container before")
    mounts = "/v/a/b", "/proc", "/full", "/etc/resolv.conf", "/etc/written"
    assert told(trees, *mounts) == ["C /etc", "A /etc/written", "A /full", "A /full/x"]
    (upper / "v/mine").write_text("")
    assert told(trees, *mounts)[-2:] == ["A /v", "A /v/mine"]
