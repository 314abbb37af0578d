"""Networks on disk: what may be made, what is chosen, what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rootless.errors import Conflict, HostError, NotFound, StorageError, UsageError
from rootless.network import networks
from rootless.paths import Paths


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths({"HOME": str(tmp_path), "ROOTLESS_ROOT": str(tmp_path / "store")}, os.getuid())
    made.ensure()
    return made


def test_a_network_is_read_as_it_was_made(paths: Paths) -> None:
    made = networks.create(paths, "web", subnets=[("10.50.0.0/24", "10.50.0.9", "10.50.0.128/25"),
                                                  ("fd50::/64", "", "")], internal=True,
                           labels={"a": "b"}, options={"mtu": "1400"})
    strict = networks.create(paths, "strict", egress=("allow a.example 80 tcp",), deny=True)
    assert networks.load(paths, "strict") == strict
    assert (strict.egress, strict.deny) == (("allow a.example 80 tcp",), True)
    assert networks.load(paths, "web") == made
    assert networks.find(paths, made.id[:5]) == made
    assert [r.plain() for r in made.ranges] == [
        {"subnet": "10.50.0.0/24", "gateway": "10.50.0.9", "pool": "10.50.0.128/25"},
        {"subnet": "fd50::/64", "gateway": "fd50::1", "pool": "fd50::/64"}]
    assert made.mtu == 1400


def test_subnets_that_are_chosen_do_not_meet(paths: Paths) -> None:
    networks.default(paths)
    for number in range(20):
        networks.create(paths, f"n{number}", ipv6=number % 2 == 0)
    found = [r.subnet for n in networks.every(paths) for r in n.ranges]
    assert len(found) == 31
    for i, one in enumerate(found):
        assert not any(one.overlaps(other) for other in found[i + 1:])


def test_a_subnet_that_the_machine_reaches_is_not_chosen(tmp_path: Path) -> None:
    table = tmp_path / "route"
    table.write_text(
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "eth0\t0000590A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n")
    routes = networks.host_routes(str(table))
    assert [str(r) for r in routes] == ["10.89.0.0/16"]
    assert str(networks.free4([], routes, default=False).subnet) == "10.90.0.0/24"
    assert networks.host_routes(str(tmp_path / "none")) == []


def test_the_default_network_is_made_when_it_is_asked_for(paths: Paths) -> None:
    assert networks.names(paths) == []
    made = networks.find(paths, "default")
    assert made == networks.find(paths, "bridge") == networks.default(paths)
    assert str(made.ranges[0].subnet) == "10.88.0.0/16"


@pytest.mark.parametrize("name", ["", "-x", "a/b", "none", "host", "container", "default", "a b",
                                  "x" * 256, "..", "é"])
def test_a_name_that_means_something_else_is_refused(paths: Paths, name: str) -> None:
    with pytest.raises(UsageError, match="invalid network name"):
        networks.create(paths, name)


@pytest.mark.parametrize("subnet, gateway, pool", [
    ("10.50.0.0/24", "10.51.0.1", ""), ("10.50.0.0/24", "10.50.0.0", ""),
    ("10.50.0.0/24", "10.50.0.255", ""), ("10.50.0.0/24", "x", ""),
    ("10.50.0.0/24", "fd00::1", ""), ("10.50.0.0/24", "", "10.51.0.0/25"),
    ("10.50.0.0/24", "", "10.50.0.0/16"), ("10.50.0.0/32", "", ""), ("fd00::/64", "", "10.0.0.0/8"),
])
def test_a_range_that_makes_no_sense_is_refused(subnet: str, gateway: str, pool: str) -> None:
    with pytest.raises(UsageError, match="invalid"):
        networks.plan_range(subnet, gateway, pool)


def test_two_networks_share_no_address(paths: Paths) -> None:
    networks.create(paths, "one", subnets=[("10.50.0.0/16", "", "")])
    with pytest.raises(Conflict, match=r"overlaps with 10\.50\.0\.0/16 of network one"):
        networks.create(paths, "two", subnets=[("10.50.7.0/24", "", "")])
    with pytest.raises(Conflict, match="already exists"):
        networks.create(paths, "one")
    with pytest.raises(UsageError, match="several subnets of IPv4"):
        networks.create(paths, "three", subnets=[("10.60.0.0/24", "", ""),
                                                 ("10.61.0.0/24", "", "")])
    assert networks.names(paths) == ["one"]


def test_ipv6_is_refused_where_the_machine_has_none(paths: Paths, tmp_path: Path) -> None:
    none = str(tmp_path / "ipv6")
    for more in ({"ipv6": True}, {"subnets": [("fd00::/64", "", "")]}):
        with pytest.raises(HostError, match="this machine has no IPv6"):
            networks.create(paths, "six", ipv6_sysctls=none, **more)
    assert networks.names(paths) == []
    networks.create(paths, "four", ipv6_sysctls=none)


def test_a_network_that_is_removed_is_gone(paths: Paths) -> None:
    networks.create(paths, "one")
    networks.remove(paths, "one")
    with pytest.raises(NotFound):
        networks.load(paths, "one")
    with pytest.raises(NotFound):
        networks.remove(paths, "one")


@pytest.mark.parametrize("name", ["../x", "nothing", "", "abc"])
def test_what_is_not_there_is_not_found(paths: Paths, name: str) -> None:
    with pytest.raises(NotFound, match="no such network"):
        networks.find(paths, name)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"name": 1, "ranges": 3}',
                                  '{"name":"x","id":"","created":"","internal":false,'
                                  '"labels":{},"options":{},"ranges":[{"subnet":"x"}]}'])
def test_a_damaged_record_is_told_and_others_go_on(paths: Paths, text: str) -> None:
    networks.create(paths, "good")
    Path(paths.networks, "bad.json").write_text(text)
    with pytest.raises(StorageError, match="network bad is damaged"):
        networks.load(paths, "bad")
    assert [n.name for n in networks.every(paths)] == ["good"]
