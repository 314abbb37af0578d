"""Subnets hold what they should, and addresses are given out once."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.errors import UsageError
from rootless.network import address
from rootless.network.address import Subnet

networks = st.one_of(
    st.builds(lambda n, p: ipaddress.ip_network((n, p), strict=False),
              st.integers(0, 2**32 - 1), st.integers(1, 32)),
    st.builds(lambda n, p: ipaddress.ip_network((n, p), strict=False),
              st.integers(2**96, 2**128 - 1), st.integers(1, 128)))


@given(networks)
def test_a_subnet_is_what_the_standard_library_says(wanted: ipaddress.IPv4Network) -> None:
    found = address.subnet(str(wanted))
    assert str(found) == str(wanted)
    assert found.first == int(wanted.network_address)
    assert found.last == int(wanted.broadcast_address)
    assert found.has(wanted.network_address.packed) and found.has(wanted.broadcast_address.packed)


@given(networks, networks)
def test_overlapping_is_what_the_standard_library_says(a: ipaddress.IPv4Network,
                                                       b: ipaddress.IPv4Network) -> None:
    same = a.version == b.version
    assert address.subnet(str(a)).overlaps(address.subnet(str(b))) == (same and a.overlaps(b))


def test_bits_beyond_the_prefix_are_cleared() -> None:
    assert str(address.subnet("10.89.3.77/24")) == "10.89.3.0/24"


@pytest.mark.parametrize("text", ["", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0.0/8", "::/129",
                                  "10.0.0.0/-1", "10.0.0.0/0", "x/8", "10.0.0.0/8/8", "10.0.0.0/²"])
def test_what_is_no_subnet_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="invalid subnet"):
        address.subnet(text)


@given(st.integers(2, 30).map(lambda p: Subnet(bytes((10, 0, 0, 0)), p) if p <= 8 else
                              Subnet(bytes((10, 1, 0, 0)), max(p, 16))), st.data())
def test_an_address_is_given_to_one_host_only(whole: Subnet, data: st.DataObject) -> None:
    low, high = whole.hosts()
    taken: set[bytes] = set()
    last = b""
    for _ in range(min(data.draw(st.integers(1, 20)), high - low + 1)):
        found = address.choose(whole, whole, taken, last)
        assert found is not None and found not in taken
        assert low <= int.from_bytes(found, "big") <= high
        taken.add(found)
        last = found


def test_a_full_subnet_has_no_more() -> None:
    whole = address.subnet("10.0.0.0/29")
    taken: set[bytes] = set()
    while (found := address.choose(whole, whole, taken, b"")) is not None:
        taken.add(found)
    assert sorted(address.show(a) for a in taken) == [f"10.0.0.{n}" for n in range(1, 7)]


def test_what_was_given_back_is_given_out_last() -> None:
    whole = address.subnet("10.0.0.0/29")
    first = address.choose(whole, whole, set(), b"")
    assert first is not None
    again = address.choose(whole, whole, set(), first)
    assert again is not None and again != first
    end = address.parse("10.0.0.6") or b""
    assert address.choose(whole, whole, {end}, end) == first


def test_the_pool_of_a_subnet_limits_what_is_given() -> None:
    whole, pool = address.subnet("10.0.0.0/24"), address.subnet("10.0.0.64/31")
    one = address.choose(whole, pool, set(), b"")
    assert one is not None and address.show(one) == "10.0.0.64"
    two = address.choose(whole, pool, {one}, one)
    assert two is not None and address.show(two) == "10.0.0.65"
    assert address.choose(whole, pool, {one, two}, two) is None


@pytest.mark.parametrize("text", ["", "02:42", "02:42:0a:58:00:02:01", "02:42:0a:58:00:zz",
                                  "03:00:00:00:00:01", "0242.0a58.0002", "ff:ff:ff:ff:ff:ff"])
def test_what_is_no_mac_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="invalid MAC"):
        address.mac(text)


@given(st.binary(min_size=6, max_size=6).map(lambda b: bytes((b[0] & 0xFE,)) + b[1:]))
def test_a_mac_is_shown_as_it_is_read(raw: bytes) -> None:
    assert address.mac(address.show_mac(raw)) == raw
    assert address.mac(address.show_mac(raw).upper().replace(":", "-")) == raw


def test_the_mac_of_an_address_is_a_hosts_own() -> None:
    made = address.mac_of(bytes((10, 88, 0, 2)))
    assert address.show_mac(made) == "02:42:0a:58:00:02"
    assert address.mac(address.show_mac(made)) == made
