"""`history`, `image tree`, `image diff`, `untag` and `image prune`."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from tests.integration.support.cli import Cli
from tests.integration.support.images import Image, Layer, Tar, docker_archive

BASE = Layer(Tar().dir("d").file("d/f", b"x" * 1000).file("same", b"same").bytes())


class Dated(Image):
    """An image whose configuration says more of itself."""

    def __init__(self, layers: list[Layer], *, created: str = "2024-01-01T00:00:00Z",
                 history: list[dict[str, Any]] | None = None,
                 labels: dict[str, str] | None = None) -> None:
        super().__init__(layers, {"Cmd": ["/x"], "Labels": labels or {}})
        self.more = {"created": created, **({"history": history} if history is not None else {})}

    @property
    def config_blob(self) -> bytes:
        return json.dumps({**json.loads(super().config_blob), **self.more}).encode()


def loaded(cli: Cli, one: Image, *names: str) -> None:
    cli.ok("load", stdin=docker_archive(one, names[0]))
    for name in names[1:]:
        cli.ok("tag", names[0], name)


def layer(name: str, data: bytes = b"", **more: Any) -> Layer:
    return Layer(Tar().file(name, data, **more).bytes())


def lines(text: str) -> list[list[str]]:
    return [[w.strip() for w in line.split("   ") if w.strip()] for line in text.splitlines()]


# ---- history -----------------------------------------------------------------------------------

HISTORY: list[dict[str, Any]] = [
    {"created": "2024-01-01T00:00:00Z", "created_by": "COPY base /"},
    {"created": "2024-01-01T00:00:00Z", "created_by": "ENV A=1", "empty_layer": True},
    {"created": "2024-01-02T03:04:05.678Z", "created_by": "/bin/sh -c " + "long " * 20,
     "comment": "by hand\x1b[2J"},
]


def test_history_has_a_line_for_every_step_newest_first(fresh: Cli) -> None:
    loaded(fresh, Dated([BASE, layer("g", b"y" * 500)], history=HISTORY), "h:1")
    head, *rows = fresh.ok("history", "h:1").text.splitlines()
    assert head.split() == ["IMAGE", "CREATED", "CREATED", "BY", "SIZE", "COMMENT"]
    assert [row.split()[0] for row in rows] == [
        fresh.ok("images", "-q", "h:1").text, "<missing>", "<missing>"]
    assert "500B" in rows[0] and "0B" in rows[1] and "1kB" in rows[2]
    assert "…" in rows[0] and "\x1b" not in rows[0] and "ENV A=1" in rows[1]
    assert fresh.ok("image", "history", "-q", "h:1").text == "\n".join(r.split()[0] for r in rows)


def test_history_can_be_whole_and_in_any_format(fresh: Cli) -> None:
    loaded(fresh, Dated([BASE, layer("g", b"y" * 500)], history=HISTORY), "h:1")
    whole = fresh.ok("history", "--no-trunc", "--human=false", "h:1").text
    assert "long " * 19 + "long" in whole and "2024-01-02T03:04:05Z" in whole
    assert fresh.ok("images", "-q", "--no-trunc").text in whole
    assert fresh.ok("history", "-H=false", "--format", "{{.Size}} {{.CreatedAt}} {{.Comment}}",
                    "h:1").text.splitlines()[0] == "500 2024-01-02T03:04:05Z by hand [2J"
    first = json.loads(fresh.ok("history", "--format", "json", "h:1").text.splitlines()[0])
    assert first["Size"] == "500B"


def test_layers_the_history_forgot_are_shown(fresh: Cli) -> None:
    loaded(fresh, Dated([BASE, layer("g", b"y" * 500)], history=[]), "h:1")
    assert fresh.ok("history", "--format", "{{.Size}}", "h:1").text.split() == ["500B", "1kB"]
    fresh.fails(1, "history", "no:1", says="no such image")


# ---- tree --------------------------------------------------------------------------------------

def test_the_tree_shows_who_shares_a_layer(fresh: Cli) -> None:
    loaded(fresh, Dated([BASE]), "base:1")
    loaded(fresh, Dated([BASE, layer("a")]), "a:1", "a:2")
    loaded(fresh, Dated([BASE, layer("b", b"b" * 2000)]), "b:1")
    out = fresh.ok("image", "tree", "b:1").text.splitlines()
    assert out[1:3] == ["Tags:     b:1", "Size:     3kB"]
    assert f"ID: {BASE.diff_id[7:19]} Size:" in out[4] and "1kB" in out[4]
    assert "Top Layer of: [base:1]" in out[4] and "Shared with: [a:1, a:2]" in out[4]
    assert "2kB" in out[5] and "of:" not in out[5] and "with:" not in out[5]
    assert fresh.ok("image", "tree").text.count("Image ID: ") == 3


# ---- diff --------------------------------------------------------------------------------------

OLD = Tar().dir("d").file("d/stays", b"1").file("d/grows", b"1").file("d/goes").dir("gone") \
    .file("gone/below").file("mode").file("owner").file("touched", b"t").symlink("l", "d") \
    .file("x", xattrs={"user.a": b"1"}).file("kind").dir("opaque").file("opaque/old") \
    .file("rewritten", b"abc")
NEW = Tar().file("d/grows", b"12").whiteout("d/goes").whiteout("gone").file("mode", mode=0o600) \
    .file("owner", uid=7).file("touched", b"t", mtime=1).symlink("l", "e") \
    .file("x", xattrs={"user.a": b"2"}).dir("kind").file("kind/new").opaque("opaque") \
    .file("opaque/new").dir("fresh/deep").file("fresh/deep/er").file("rewritten", b"abd")


def test_a_difference_names_every_file_and_how_it_differs(fresh: Cli) -> None:
    loaded(fresh, Image([Layer(OLD.bytes())]), "old:1")
    loaded(fresh, Image([Layer(OLD.bytes()), Layer(NEW.bytes())]), "new:1")
    assert fresh.ok("image", "diff", "old:1", "new:1").text.splitlines() == [
        "C /d", "D /d/goes", "C /d/grows", "A /fresh", "A /fresh/deep", "A /fresh/deep/er",
        "D /gone", "C /kind", "A /kind/new", "C /l", "C /mode", "C /opaque", "A /opaque/new",
        "D /opaque/old", "C /owner", "C /rewritten", "C /x"]
    back = fresh.ok("image", "diff", "--format", "json", "new:1", "old:1").json
    assert back["added"] == ["/d/goes", "/gone", "/gone/below", "/opaque/old"]
    assert back["deleted"] == ["/fresh", "/opaque/new"]
    assert fresh.ok("image", "diff", "old:1", "old:1").out == b""


def test_equal_trees_of_different_layers_do_not_differ(fresh: Cli) -> None:
    loaded(fresh, Image([Layer(Tar().file("a", b"1", mtime=5).bytes()), layer("b", b"2")]), "x:1")
    loaded(fresh, Image([Layer(Tar().file("b", b"2").file("a", b"1", mtime=6).bytes())]), "y:1")
    assert fresh.ok("image", "diff", "x:1", "y:1").out == b""
    assert os.listdir(fresh.store / "tmp") == []


def test_a_difference_is_found_among_more_directories_than_open_files(fresh: Cli) -> None:
    tar = Tar()
    for number in range(1500):
        tar.dir(f"d{number}")
    one = tar.bytes()
    loaded(fresh, Image([Layer(one)]), "x:1")
    loaded(fresh, Image([Layer(one), layer("d7/f")]), "y:1")
    assert fresh.ok("image", "diff", "x:1", "y:1").text == "C /d7\nA /d7/f"


# ---- untag and prune ---------------------------------------------------------------------------

def names(cli: Cli) -> list[str]:
    return sorted(cli.ok("images", "--format", "{{.Repository}}:{{.Tag}}").text.split())


def test_untag_takes_names_and_leaves_the_image(fresh: Cli) -> None:
    loaded(fresh, Dated([BASE]), "a:1", "a:2", "b:1")
    identity = fresh.ok("images", "-q", "a:1").text
    fresh.ok("untag", "a:1", "b:1")
    assert names(fresh) == ["a:1", "a:2"]
    fresh.fails(1, "untag", "a:1", "b:1", says="no such name")
    fresh.ok("image", "untag", "a:1")
    assert names(fresh) == ["<none>:<none>"]
    assert fresh.ok("images", "-q").text == identity
    fresh.ok("tag", identity, "again:1")
    assert names(fresh) == ["again:1"]


def test_prune_removes_what_has_no_tag_and_no_container(fresh: Cli) -> None:
    loaded(fresh, Dated([BASE, layer("one", b"1" * 4000)]), "moved:1")
    loaded(fresh, Dated([BASE, layer("two")]), "moved:1")
    loaded(fresh, Dated([layer("three")]), "used:1")
    fresh.ok("create", "--name", "c", "used:1")
    fresh.ok("untag", "used:1")
    assert names(fresh) == ["<none>:<none>", "<none>:<none>", "moved:1"]
    said = fresh.ok("image", "prune", "-f").text
    assert said.count("deleted: sha256:") == 2 and said.startswith("Deleted Images:\n")
    assert "Total reclaimed space: " in said and not said.endswith(" 0B")
    assert names(fresh) == ["<none>:<none>", "moved:1"]
    assert fresh.ok("image", "prune", "--force").text == "Total reclaimed space: 0B"
    fresh.ok("rm", "c")
    fresh.ok("image", "prune", "-af")
    assert names(fresh) == []
    for place in ("layers", "images/blobs/sha256", "cache"):
        assert os.listdir(fresh.store / place) == [], place


@pytest.mark.parametrize("words, left", [
    (("label=keep",), ["new:1", "old:1"]), (("label!=keep",), ["kept:1"]),
    (("label=keep=no",), ["kept:1", "new:1", "old:1"]), (("label=keep=yes",), ["new:1", "old:1"]),
    (("until=2022-06-01",), ["kept:1", "new:1"]), (("until=24h",), ["new:1"]),
    (("until=24h", "label!=keep"), ["kept:1", "new:1"]),
    (("until=2022-06-01T00:00:00+02:00",), ["kept:1", "new:1"])])
def test_prune_by_filters(words: tuple[str, ...], left: list[str], fresh: Cli) -> None:
    loaded(fresh, Dated([BASE], created="2022-01-01T00:00:00Z"), "old:1")
    loaded(fresh, Dated([BASE], labels={"keep": "yes"}), "kept:1")
    loaded(fresh, Dated([BASE], created="2100-01-01T00:00:00Z"), "new:1")
    fresh.ok("image", "prune", "-af", *(f"--filter={w}" for w in words))
    assert names(fresh) == left


@pytest.mark.parametrize("word", ["until", "until=soon", "until=", "dangling=true", "label!", "x=y",
                                  "until!=24h"])
def test_prune_refuses_a_filter_it_does_not_know(word: str, fresh: Cli) -> None:
    loaded(fresh, Dated([BASE]), "a:1")
    fresh.fails(125, "image", "prune", "-af", "--filter", word, says="invalid filter")
    assert names(fresh) == ["a:1"]


def test_prune_asks_first(fresh: Cli) -> None:
    loaded(fresh, Dated([BASE]), "a:1")
    fresh.fails(1, "image", "prune", "-a", says="not a terminal")
    with fresh.terminal("image", "prune", "-a") as t:
        t.expect("[y/N] ")
        t.send("n\n")
        assert t.wait() == 1
    assert names(fresh) == ["a:1"]
    with fresh.terminal("image", "prune", "-a") as t:
        t.expect("[y/N] ")
        t.send("y\n")
        assert t.wait() == 0
    assert names(fresh) == []
