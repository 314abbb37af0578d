"""Where `cp` puts what it copies: the table of docker-container-cp(1)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rootless.cli.cp import split
from rootless.container import view
from rootless.container.copying import Place, Source, place
from rootless.errors import Conflict, NotFound, StorageError

FILE, DIRECTORY = Source(b"x", False), Source(b"x", True)
CONTENTS = Source(b"x", True, contents=True)


@pytest.mark.parametrize(("source", "destination", "kind", "wanted"), [
    (FILE, "/new", "", Place(False, True)),
    (FILE, "/old", "file", Place(False, True)),
    (FILE, "/dir", "directory", Place(True, True)),
    (FILE, "/dir/", "directory", Place(True, True)),
    (DIRECTORY, "/new", "", Place(False, True)),
    (DIRECTORY, "/new/", "", Place(False, True)),
    (DIRECTORY, "/dir", "directory", Place(True, True)),
    (CONTENTS, "/dir", "directory", Place(False, False)),
    (CONTENTS, "/new", "", Place(False, True)),
])
def test_places(source: Source, destination: str, kind: str, wanted: Place) -> None:
    assert place(source, destination, kind, parent=True) == wanted


def test_a_directory_is_not_copied_to_a_file_nor_anything_to_nowhere() -> None:
    for source in (DIRECTORY, CONTENTS):
        with pytest.raises(Conflict, match="file"):
            place(source, "/old", "file", parent=True)
    with pytest.raises(Conflict, match="no directory"):
        place(FILE, "/old/", "file", parent=True)
    with pytest.raises(NotFound):
        place(FILE, "/new/", "", parent=True)
    for source in (FILE, DIRECTORY):
        with pytest.raises(NotFound, match="/gone"):
            place(source, "/gone/new", "", parent=False)


@pytest.mark.parametrize(("text", "wanted"), [
    ("c:/x", ("c", "/x")), ("c:x:y", ("c", "x:y")), ("/a:b", ("", "/a:b")),
    ("./a:b", ("", "./a:b")),
    ("../a:b", ("", "../a:b")), ("plain", ("", "plain")), ("-", ("", "-")), (":x", ("", ":x")),
    ("c:", ("c", ""))])
def test_what_names_a_container(text: str, wanted: tuple[str, str]) -> None:
    assert split(text) == wanted


def canonical(root: Path, path: str, *, follow: bool = True) -> str:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return os.fsdecode(b"/".join(view.canonical(fd, path.encode(), follow=follow)))
    finally:
        os.close(fd)


def test_links_are_taken_as_from_inside_the_root(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    for name, target in (("abs", "/a/b"), ("up", "../../../../../etc"), ("a/rel", "b"),
                         ("a/b/out", "../../../../a"), ("dangling", "no/where")):
        (tmp_path / name).symlink_to(target)
    for path, wanted in (("/abs", "a/b"), ("/up/passwd", "etc/passwd"), ("a/rel/../x", "a/x"),
                         ("/../../a/./b/", "a/b"), ("a/b/out/b", "a/b"), ("/", ""),
                         ("dangling", "no/where"), ("a/missing/../b", "a/b")):
        assert canonical(tmp_path, path) == wanted
    assert canonical(tmp_path, "/abs", follow=False) == "abs"
    assert canonical(tmp_path, "/a/rel/", follow=False) == "a/rel"


def test_links_in_a_circle_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to("y")
    (tmp_path / "y").symlink_to("x/z")
    with pytest.raises(StorageError):
        canonical(tmp_path, "x")


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "a/b", "a/c", "d"]),
                          st.text("abd./", min_size=1, max_size=12)), max_size=4),
       st.text("abcd./", max_size=20))
@settings(max_examples=150, deadline=None)
def test_no_tree_of_links_leads_out(tmp_path_factory: pytest.TempPathFactory,
                                    links: list[tuple[str, str]], path: str) -> None:
    root = tmp_path_factory.mktemp("root")
    (root / "a").mkdir()
    for name, target in links:
        if not os.path.lexists(root / name):
            try:
                (root / name).symlink_to(target)
            except OSError:
                continue
    try:
        found = canonical(root, path)
    except StorageError:
        return
    parts = found.split("/") if found else []
    assert ".." not in parts and "." not in parts
    for depth in range(1, len(parts) + 1):
        assert not os.path.islink(root / "/".join(parts[:depth])), (links, path, found)
