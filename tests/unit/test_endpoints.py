"""--network and its companions are read as docker and podman read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rootless.errors import StorageError, UsageError
from rootless.network import endpoints
from rootless.network.endpoints import Endpoint


@pytest.mark.parametrize("texts, mode, wanted", [
    ([], "bridge", (Endpoint("bridge"),)),
    (["none"], "none", ()),
    (["host"], "host", ()),
    (["container:web"], "container:web", ()),
    (["web"], "web", (Endpoint("web"),)),
    (["web:ip=10.0.0.9,alias=a,alias=b,mac=02:42:0A:00:00:09"], "web",
     (Endpoint("web", "10.0.0.9", "", "02:42:0a:00:00:09", ("a", "b")),)),
    (["name=web,ip6=fd00:0::9,mac-address=02-42-0a-00-00-09"], "web",
     (Endpoint("web", "", "fd00::9", "02:42:0a:00:00:09"),)),
    (["one", "two:alias=x"], "one", (Endpoint("one"), Endpoint("two", aliases=("x",)))),
])
def test_networks_are_read(texts: list[str], mode: str, wanted: tuple[Endpoint, ...]) -> None:
    assert endpoints.parse(texts, "bridge") == (mode, wanted)


def test_the_options_of_their_own_are_for_the_first_network() -> None:
    _, found = endpoints.parse(["one"], "bridge", ip="10.0.0.5", ip6="fd00::5",
                               mac="02:00:00:00:00:05", aliases=("x",))
    assert found == (Endpoint("one", "10.0.0.5", "fd00::5", "02:00:00:00:00:05", ("x",)),)
    _, found = endpoints.parse([], "bridge", aliases=("x",))
    assert found == (Endpoint("bridge", aliases=("x",)),)


@pytest.mark.parametrize("texts, options", [
    (["one:ip=10.0.0"], {}), (["one:ip=fd00::1"], {}), (["one:ip6=10.0.0.1"], {}),
    (["one:mac=02"], {}), (["one:colour=blue"], {}), (["one:ip"], {}), (["one:alias="], {}),
    (["one:alias=a b"], {}), ([":ip=10.0.0.1"], {}), ([""], {}), (["container:"], {}),
    (["one", "none"], {}), (["host", "one"], {}), (["one", "one"], {}),
    (["none"], {"ip": "10.0.0.1"}), (["host"], {"mac": "02:00:00:00:00:01"}),
    (["container:x"], {"aliases": ("a",)}), (["one", "two"], {"ip": "10.0.0.1"}),
    (["one:ip=10.0.0.1"], {"ip": "10.0.0.2"}),
])
def test_what_makes_no_sense_is_refused(texts: list[str], options: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        endpoints.parse(texts, "bridge", **options)     # type: ignore[arg-type]


@pytest.mark.parametrize("mode, own", [("bridge", True), ("none", False), ("host", False),
                                       ("container:x", False), ("container", True)])
def test_who_has_networks_of_its_own(mode: str, own: bool) -> None:
    assert endpoints.joins(mode) == own


def test_a_wish_is_read_as_it_was_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        endpoints.wish(str(tmp_path))
    endpoints.write_wish(str(tmp_path), {"networks": {"a": {}}})
    assert endpoints.wish(str(tmp_path)) == {"networks": {"a": {}}}
    (tmp_path / "endpoints.json").write_text("[]")
    with pytest.raises(StorageError, match="damaged"):
        endpoints.wish(str(tmp_path))


def test_a_lease_that_is_no_more_or_damaged_is_none(tmp_path: Path) -> None:
    assert endpoints.lease(str(tmp_path)) is None
    endpoints.write_lease(str(tmp_path), {"networks": {}})
    assert endpoints.lease(str(tmp_path)) == {"networks": {}}
    (tmp_path / "lease.json").write_text("{")
    assert endpoints.lease(str(tmp_path)) is None
    endpoints.drop_lease(str(tmp_path))
    endpoints.drop_lease(str(tmp_path))
