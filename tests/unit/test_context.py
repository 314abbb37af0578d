"""What COPY finds in a tree, what .dockerignore leaves out, and what a digest depends on."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rootless.build import context, gomatch
from rootless.build.context import Tree
from rootless.build.ignore import Ignore
from rootless.build.parse import parse
from rootless.errors import BuildError, DockerfileError

WHERE = parse(b"FROM scratch\nCOPY x /y\n").stages[0].instructions[0].where


def make(root: Path, *names: str) -> None:
    """Files named by themselves; a name with a slash at its end is a directory."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir(exist_ok=True)
        else:
            path.write_text(name)


def listed(tree: Tree, *sources: str, parents: bool = False, excludes: tuple[str, ...] = ()
           ) -> list[str]:
    """Names below the destination, as they would be copied there."""
    names = []
    for found in tree.select(sources, where=WHERE, parents=parents, excludes=excludes):
        for entry in tree.entries(found):
            name = entry.name if found.directory else found.name
            if name:
                names.append(name + ("/" if os.path.isdir(f"/proc/self/fd/{tree.root}/{entry.path}")
                                     and not entry.link else ""))
    return names


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make(tmp_path, "a.txt", "b.txt", "dir/one", "dir/two", "dir/sub/three", "docs/x.md",
         "docs/README.md", ".env", "dir2/one")
    return tmp_path


def tree_of(root: Path, ignore: str = "") -> Tree:
    return context.open_directory(str(root), Ignore.parse(ignore))


# ---- COPY's sources -----------------------------------------------------------------------------

def test_a_directory_means_its_contents_in_a_fixed_order(root: Path) -> None:
    assert listed(tree_of(root), "dir") == ["one", "sub/", "sub/three", "two"]
    assert listed(tree_of(root), "/dir/") == ["one", "sub/", "sub/three", "two"]
    assert listed(tree_of(root), ".")[:3] == [".env", "a.txt", "b.txt"]


def test_wildcards_are_gos(root: Path) -> None:
    assert listed(tree_of(root), "*.txt") == ["a.txt", "b.txt"]
    assert listed(tree_of(root), "[!a].txt") == ["a.txt"]
    assert listed(tree_of(root), "[^a].txt") == ["b.txt"]
    assert listed(tree_of(root), "d*/one") == ["one", "one"]
    assert listed(tree_of(root), "d?") == []
    assert listed(tree_of(root), "nothing*") == []


def test_a_directory_that_a_wildcard_matches_means_its_contents_too(root: Path) -> None:
    assert listed(tree_of(root), "dir*") == ["one", "sub/", "sub/three", "two", "one"]


def test_a_source_that_is_not_there_is_an_error_with_what_is_near(root: Path) -> None:
    with pytest.raises(DockerfileError, match=r"cannot copy a\.tx: there is no such thing in the "
                                              "build context") as caught:
        tree_of(root).select(["a.tx"], where=WHERE)
    assert caught.value.hint == "did you mean a.txt?"
    with pytest.raises(DockerfileError) as caught:
        tree_of(root).select(["/dir/on"], where=WHERE)
    assert caught.value.hint == "did you mean /dir/one?"


@pytest.mark.parametrize("source", ["../x", "/../x", "dir/../../x", "../*"])
def test_a_source_outside_the_context_is_an_error(root: Path, source: str) -> None:
    with pytest.raises(DockerfileError, match="outside the build context"):
        tree_of(root).select([source], where=WHERE)


def test_what_is_left_out_cannot_be_copied_and_the_rule_is_named(root: Path) -> None:
    with pytest.raises(DockerfileError, match=r"left out by \.dockerignore") as caught:
        tree_of(root, "\n*.txt\n").select(["a.txt"], where=WHERE)
    assert caught.value.hint == "line 2 of it says *.txt"


def test_a_link_that_is_a_source_is_followed_within_the_tree(root: Path) -> None:
    (root / "link").symlink_to("dir")
    (root / "absolute").symlink_to("/dir/one")
    (root / "up").symlink_to("../../../a.txt")
    assert listed(tree_of(root), "link") == ["one", "sub/", "sub/three", "two"]
    found = tree_of(root).select(["absolute", "up"], where=WHERE)
    assert [(f.source, f.name) for f in found] == [("dir/one", "absolute"), ("a.txt", "up")]


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../../etc/passwd", "loop"])
def test_a_link_that_leads_out_is_an_error_that_says_where_to(root: Path, target: str) -> None:
    (root / "loop").symlink_to(target)
    with pytest.raises(DockerfileError, match=f"it is a link to {re.escape(target)}, which is not"):
        tree_of(root).select(["loop"], where=WHERE)


def test_a_link_inside_a_directory_is_copied_as_it_is(root: Path) -> None:
    (root / "dir" / "out").symlink_to("/etc/passwd")
    tree = tree_of(root)
    (found,) = tree.select(["dir"], where=WHERE)
    assert [e.link for e in tree.entries(found) if e.name == "out"] == ["/etc/passwd"]


def test_a_file_that_becomes_a_link_is_not_followed_out(root: Path) -> None:
    tree = tree_of(root)
    (root / "a.txt").unlink()
    (root / "a.txt").symlink_to("/etc/passwd")
    with pytest.raises(BuildError, match=r"cannot read a\.txt"):
        tree.open("a.txt")
    (root / "dir3").symlink_to("/etc")
    with pytest.raises(BuildError, match="cannot read dir3/passwd"):
        tree.open("dir3/passwd")


def test_a_pipe_does_not_block(root: Path) -> None:
    os.mkfifo(root / "pipe")
    with pytest.raises(BuildError, match="it is no file any more"):
        tree_of(root).open("pipe")


def test_excludes_are_relative_to_the_directory_that_is_copied(root: Path) -> None:
    assert listed(tree_of(root), "dir", excludes=("sub",)) == ["one", "two"]
    assert listed(tree_of(root), "dir", excludes=("**/th*",)) == ["one", "sub/", "two"]
    assert listed(tree_of(root), "*.txt", excludes=("a*",)) == ["b.txt"]


def test_parents_keep_the_path_behind_the_pivot(root: Path) -> None:
    assert listed(tree_of(root), "dir/sub/three", "./dir2/one", parents=True) == [
        "dir/", "dir/sub/", "dir/sub/three", "dir2/", "dir2/one"]
    assert listed(tree_of(root), "dir/./sub", parents=True) == ["sub/", "sub/three"]
    assert listed(tree_of(root), "*/./one", parents=True) == ["one", "one"]
    assert listed(tree_of(root), "**/three", parents=True) == ["dir/", "dir/sub/", "dir/sub/three"]
    assert listed(tree_of(root), "nothing/*", parents=True) == []
    with pytest.raises(DockerfileError, match="no such thing"):
        listed(tree_of(root), "dir/nothing", parents=True)


def test_an_unreadable_directory_is_one_clear_error(root: Path) -> None:
    assert os.geteuid(), "as root everything is readable"
    (root / "dir" / "sub").chmod(0)
    try:
        with pytest.raises(BuildError, match="cannot read dir/sub of the build context: "
                                             "Permission denied") as caught:
            listed(tree_of(root), ".")
        assert caught.value.hint and ".dockerignore" in caught.value.hint
        assert "dir/sub/" not in listed(tree_of(root, "dir/sub"), ".")
    finally:
        (root / "dir" / "sub").chmod(0o755)


def test_a_name_that_is_no_text_is_carried_through(root: Path) -> None:
    (root / "x" ).mkdir()
    name = os.fsdecode(b"\xff\n")
    (root / "x" / name).write_text("")
    assert listed(tree_of(root), "x") == [name]


# ---- .dockerignore ------------------------------------------------------------------------------

@pytest.mark.parametrize("rules, out, kept", [
    # The rules of docker's reference, "Syntax" of .dockerignore files.
    ("*/temp*", ["a/temp", "a/temporary.txt", "a/temp/x"], ["temp", "a/b/temp"]),
    ("*/*/temp*", ["a/b/temporary"], ["a/temp", "a/b/c/temp"]),
    ("temp?", ["tempa", "tempb/x"], ["temp", "tempab"]),
    ("**/*.go", ["x.go", "a/x.go", "a/b/x.go"], ["x.gox"]),
    ("*.md\n!README.md", ["x.md"], ["README.md"]),
    ("*.md\n!README*.md\nREADME-secret.md", ["README-secret.md"], ["README.md", "README-2.md"]),
    ("*.md\nREADME-secret.md\n!README*.md", ["x.md"], ["README-secret.md"]),
    ("# comment\n #x", ["#x"], ["comment"]),
    ("/a/", ["a", "a/b"], ["b/a"]),
    ("a/../b", ["b"], ["a"]),
    ("a\n!a/b", ["a", "a/c"], ["a/b", "a/b/c"]),
    ("**", ["a", "a/b", ".git"], []),
    ("a/**", ["a/b", "a/b/c"], ["a"]),
    ("**/a", ["a", "b/a", "b/a/c"], ["b/aa"]),
    ("a/**/b", ["a/b", "a/x/b", "a/x/y/b/z"], ["a/bb"]),
    ("[a-c]x", ["ax", "cx"], ["dx"]),
    ("x\\*", ["x*"], ["xy"]),
    ("\ufeffa\r\n!b\r\n", ["a"], ["b"]),
])
def test_ignore_rules(rules: str, out: list[str], kept: list[str]) -> None:
    ignore = Ignore.parse(rules)
    assert [p for p in out + kept if ignore.excludes(p)] == out


@pytest.mark.parametrize("text, says", [
    ("a\n[\n", ":2: syntax error in pattern: \\["), ("!", ":1: illegal exclusion pattern")])
def test_a_bad_rule_is_an_error_with_its_line(text: str, says: str) -> None:
    with pytest.raises(BuildError, match=says):
        Ignore.parse(text)


def test_the_ignore_file_beside_the_dockerfile_goes_before(root: Path) -> None:
    (root / ".dockerignore").write_text("a.txt")
    assert Ignore.load(str(root)).excludes("a.txt")
    (root / "my.Dockerfile.dockerignore").write_text("b.txt")
    ignore = Ignore.load(str(root), str(root / "my.Dockerfile"))
    assert not ignore.excludes("a.txt")
    assert ignore.excludes("b.txt")


def test_a_directory_that_is_left_out_comes_with_what_is_in_again(root: Path) -> None:
    assert listed(tree_of(root, "dir\n!dir/sub/three"), ".") == [
        ".env", "a.txt", "b.txt", "dir/", "dir/sub/", "dir/sub/three", "dir2/", "dir2/one",
        "docs/", "docs/README.md", "docs/x.md"]
    assert listed(tree_of(root, "*\n!**/*.md"), ".") == ["docs/", "docs/README.md", "docs/x.md"]


def test_a_directory_that_is_left_out_is_not_even_looked_into(root: Path) -> None:
    (root / "dir").chmod(0)
    try:
        assert "dir2/one" in listed(tree_of(root, "dir\n!docs"), ".")
    finally:
        (root / "dir").chmod(0o755)


# ---- digests ------------------------------------------------------------------------------------

def digest(root: Path, *sources: str, ignore: str = "") -> str:
    tree = tree_of(root, ignore)
    return context.digest(tree, tree.select(sources, where=WHERE))


def test_times_and_the_directory_itself_do_not_count(root: Path, tmp_path_factory: pytest.
                                                     TempPathFactory) -> None:
    before = digest(root, ".")
    other = tmp_path_factory.mktemp("clone")
    make(other, *(str(p.relative_to(root)) for p in sorted(root.rglob("*"), reverse=True)
                  if p.is_file()))
    other.chmod(0o755)
    os.utime(other / "a.txt", (1, 1))
    assert digest(other, ".") == before


@pytest.mark.parametrize("change", [
    lambda r: (r / "dir/one").write_text("else"),
    lambda r: (r / "dir/one").chmod(0o755),
    lambda r: (r / "dir/one").rename(r / "dir/uno"),
    lambda r: (r / "dir/new").mkdir(),
    lambda r: (r / "dir/new").symlink_to("one"),
    lambda r: (r / "dir/two").unlink(),
    lambda r: os.setxattr(r / "dir/one", "user.x", b"1"),
], ids=["content", "mode", "name", "directory", "link", "removal", "attribute"])
def test_what_a_build_could_notice_counts(root: Path, change: object) -> None:
    before = digest(root, "dir")
    assert callable(change)
    change(root)
    assert digest(root, "dir") != before


def test_a_links_target_counts(root: Path) -> None:
    (root / "dir/link").symlink_to("one")
    before = digest(root, "dir")
    (root / "dir/link").unlink()
    (root / "dir/link").symlink_to("two")
    assert digest(root, "dir") != before


def test_a_file_that_changes_between_key_and_layer_is_an_error(root: Path) -> None:
    tree = tree_of(root)
    found = tree.select(["dir"], where=WHERE)
    context.digest(tree, found)
    os.close(tree.open("dir/one"))
    (root / "dir/one").write_text("else")
    (root / "dir/new").write_text("new")
    for path in ("dir/one", "dir/new"):
        with pytest.raises(BuildError, match=f"cannot copy {path} of .*: it changed during the"):
            tree.open(path)
    os.close(tree.open("dir/two"))


def test_what_is_left_out_does_not_count(root: Path) -> None:
    before = digest(root, ".", ignore="dir2")
    (root / "dir2/one").write_text("else")
    assert digest(root, ".", ignore="dir2") == before


NAMES = st.text("ab*", min_size=1, max_size=2).filter(lambda n: n not in (".", ".."))
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(PATHS, st.lists(st.builds("{}{}".format, st.sampled_from(["", "!"]), st.lists(
    st.sampled_from(["a", "b", "*", "**", "?", "[ab]", "a*"]), min_size=1, max_size=3).map(
        "/".join)), max_size=4))
def test_a_walk_may_pass_by_only_where_nothing_is_in(path: str, rules: list[str]) -> None:
    """Pruning never changes what is found."""
    ignore = Ignore.parse("\n".join(rules))
    parent = path.rpartition("/")[0]
    while parent:
        if not ignore.excludes(path):
            assert not ignore.excludes(parent) or ignore.may_hold(parent)
        parent = parent.rpartition("/")[0]


@given(st.text("ab*?[]-^\\/", max_size=12), st.text("ab/-]", max_size=8))
def test_any_pattern_matches_or_is_refused(pattern: str, name: str) -> None:
    try:
        gomatch.match(pattern, name)
        Ignore.of([pattern]).excludes(name)
    except ValueError:
        pass


def test_many_stars_cost_no_time() -> None:
    random.seed(1)
    name = "".join(random.choice("ab") for _ in range(200))
    assert not Ignore.of(["*a" * 3 + "**/" * 3 + "c"]).excludes(name)
    assert not gomatch.match("*" * 50 + "c", name)


@pytest.mark.parametrize("pattern", ["[]a]", "[-]", "[x-]", "[-x]", "\\", "[a-b-c]", "[", "[^",
                                     "[^bc", "a["])
def test_a_pattern_that_makes_no_sense_is_refused(pattern: str) -> None:
    with pytest.raises(gomatch.PatternError):
        gomatch.match(pattern, "a")
