"""What config.toml may say of registries, and where an image then comes from."""

from __future__ import annotations

from pathlib import Path

import pytest

from rootless import config
from rootless.errors import HostError, RegistryError
from rootless.image.reference import parse
from rootless.image.registries import Registries
from rootless.paths import Paths


def settings(tmp_path: Path, user: str = "", system: str = "") -> Registries:
    for name, text in (("user/rootless", user), ("etc", system)):
        if text:
            (tmp_path / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / name / "config.toml").write_text(text)
    env = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "user")}
    return Registries(config.load(Paths(env, 1000), env, str(tmp_path / "etc")))


def places(known: Registries, name: str) -> list[str]:
    return [p.reference.full for p in known.places(parse(name).named())]


def test_without_a_file_an_image_comes_from_where_its_name_says(tmp_path: Path) -> None:
    known = settings(tmp_path)
    assert places(known, "tool") == ["docker.io/library/tool:latest"]
    assert known.expand("tool") == "tool"


def test_mirrors_come_first_in_order_and_the_registry_last(tmp_path: Path) -> None:
    known = settings(tmp_path, """
        [registries."docker.io"]
        mirrors = ["one:5000/hub", { location = "two.example", insecure = true }]
    """)
    assert places(known, "tool:1") == ["one:5000/hub/library/tool:1", "two.example/library/tool:1",
                                       "docker.io/library/tool:1"]
    found = known.places(parse("tool:1"))
    assert [p.mirror for p in found] == [True, True, False]
    assert [p.trust.insecure for p in found] == [False, True, False]


@pytest.mark.parametrize(("only", "name", "count"), [
    ("all", "r.example/x:1", 2), ("all", "r.example/x@sha256:" + "0" * 64, 2),
    ("digest-only", "r.example/x:1", 1), ("digest-only", "r.example/x@sha256:" + "0" * 64, 2),
    ("tag-only", "r.example/x:1", 2), ("tag-only", "r.example/x@sha256:" + "0" * 64, 1),
])
def test_mirror_may_be_for_digests_or_for_tags_alone(tmp_path: Path, only: str, name: str,
                                                     count: int) -> None:
    known = settings(tmp_path, f"""
        [registries."r.example"]
        mirrors = [{{ location = "m.example", pull-from-mirror = "{only}" }}]
    """)
    assert len(places(known, name)) == count


def test_longest_prefix_counts_alone(tmp_path: Path) -> None:
    known = settings(tmp_path, """
        [registries."r.example"]
        blocked = true
        [registries."r.example/team"]
        location = "other.example:5000/them"
        [registries."*.inner.example"]
        insecure = true
    """)
    assert places(known, "r.example/team/app:2") == ["other.example:5000/them/app:2"]
    with pytest.raises(RegistryError, match=r"r\.example is blocked"):
        known.places(parse("r.example/teams/app"))
    with pytest.raises(RegistryError, match="is blocked"):
        known.itself(parse("r.example/app"))
    assert known.itself(parse("a.b.inner.example:5000/x")).trust.insecure
    assert not known.itself(parse("inner.example/x")).trust.insecure


def test_a_mirror_is_trusted_as_its_own_place_is(tmp_path: Path) -> None:
    known = settings(tmp_path, """
        [registries."r.example"]
        insecure = true
        mirrors = ["m.example"]
        [registries."m.example"]
        ca = "/etc/m.crt"
    """)
    mirror, itself = known.places(parse("r.example/x:1"))
    assert (mirror.trust.insecure, mirror.trust.ca) == (False, "/etc/m.crt")
    assert (itself.trust.insecure, itself.trust.ca) == (True, "")


def test_nothing_is_pushed_to_a_mirror(tmp_path: Path) -> None:
    known = settings(tmp_path, '[registries."r.example"]\nmirrors = ["m.example"]\n')
    assert known.itself(parse("r.example/x:1")).reference.full == "r.example/x:1"


def test_the_persons_file_counts_before_the_administrators(tmp_path: Path) -> None:
    known = settings(tmp_path, """
        [aliases]
        tool = "mine.example/tool"
        [registries."r.example"]
        insecure = true
    """, """
        [aliases]
        tool = "theirs.example/tool"
        other = "theirs.example/a/other"
        [registries."r.example"]
        blocked = true
        [registries."s.example"]
        blocked = true
    """)
    assert known.expand("tool:1") == "mine.example/tool:1"
    assert known.expand("other@sha256:" + "0" * 64) == "theirs.example/a/other@sha256:" + "0" * 64
    assert known.expand("a/tool") == "a/tool"
    assert known.expand("tool:5000/x") == "tool:5000/x"
    assert places(known, "r.example/x:1") == ["r.example/x:1"]
    with pytest.raises(RegistryError):
        known.places(parse("s.example/x"))


@pytest.mark.parametrize(("text", "key", "allowed"), [
    ("colour = 1", "colour", "aliases, cgroups, registries, storage"),
    ('[registries."r.example"]\nmirors = []', 'registries."r.example".mirors', "mirrors"),
    ('[registries."r.example"]\nblocked = "yes"', 'registries."r.example".blocked', "true"),
    ('[registries."r.example"]\nmirrors = [1]', 'registries."r.example".mirrors', "host:port"),
    ('[registries."r.example"]\nmirrors = [{ insecure = true }]', "mirrors.location", "host"),
    ('[registries."r.example"]\nmirrors = [{ location = "m.example", blocked = true }]',
     "mirrors.blocked", "pull-from-mirror"),
    ('[registries."r.example"]\nmirrors = [{ location = "m.example", pull-from-mirror = "x" }]',
     "pull-from-mirror", "digest-only"),
    ('[registries."r.example"]\nlocation = "https://x.example"', "location", "host[:port]"),
    ('[registries."r.example"]\nca = "ca.crt"', "ca", "/path/to/file"),
    ('[registries."r.example"]\ncert = "/c"', "cert", "both"),
    ('[registries."library"]\nblocked = true', "library", "host[:port][/prefix]"),
    ('registries = 3', "registries", "[registries]"),
    ('[aliases]\n"a/b" = "r.example/x"', '"a/b"', 'name = "host/path"'),
    ('[aliases]\na = "r.example/x:1"', "aliases.a", "r.example/x"),
    ('[aliases]\na = 1', "aliases.a", '"..."'),
])
def test_error_names_the_file_the_key_and_what_is_allowed(tmp_path: Path, text: str, key: str,
                                                          allowed: str) -> None:
    with pytest.raises(HostError) as caught:
        settings(tmp_path, text)
    assert str(tmp_path / "user/rootless/config.toml") in caught.value.message
    assert key in caught.value.message
    assert allowed in (caught.value.hint or "")


def test_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"config.toml: it is not TOML: .*line 1"):
        settings(tmp_path, "= 1")
