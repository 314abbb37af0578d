"""rtnetlink messages say what they mean: both ways, and as pyroute2 understands them."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from rootless.linux import netlink as nl
from rootless.linux.netlink import Framed, Message

Table = dict[str, tuple[int, Any]]

words = st.text("abcdefghij0123456789.", min_size=1, max_size=15)


def values(table: Table, depth: int = 3) -> st.SearchStrategy[dict[str, Any]]:
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for name, (_, kind) in table.items():
        if isinstance(kind, struct.Struct):
            fields[name] = st.integers(0, 256 ** kind.size - 1)
        elif kind == nl.TEXT:
            fields[name] = words
        elif kind == nl.BYTES:
            fields[name] = st.binary(max_size=16)
        elif depth and isinstance(kind, Framed):
            fields[name] = values(kind.table, depth - 1).map(
                lambda v: {"header": (0, 7, 0, 0, 0), **v})
    return st.fixed_dictionaries({}, optional=fields)


@given(values(nl.LINK))
def test_a_link_that_is_packed_is_unpacked_again(wanted: dict[str, Any]) -> None:
    assert nl.unpack(nl.LINK, nl.pack(nl.LINK, wanted)) == wanted


@given(values(nl.ROUTE))
def test_a_route_that_is_packed_is_unpacked_again(wanted: dict[str, Any]) -> None:
    assert nl.unpack(nl.ROUTE, nl.pack(nl.ROUTE, wanted)) == wanted


@given(st.sampled_from(["bridge", "veth"]), values(nl.BRIDGE), values(nl.VETH))
def test_the_data_of_a_link_is_of_its_kind(kind: str, bridge: dict[str, Any],
                                           veth: dict[str, Any]) -> None:
    wanted = {"kind": kind, kind: bridge if kind == "bridge" else veth}
    assert nl.unpack(nl.LINKINFO, nl.pack(nl.LINKINFO, wanted)) == wanted


@given(st.binary(max_size=200))
def test_no_bytes_make_the_reader_fail_otherwise(data: bytes) -> None:
    try:
        assert isinstance(nl.unpack(nl.LINK, data), dict)
    except ValueError:
        pass


def test_every_attribute_is_aligned_and_padded_with_zeros() -> None:
    packed = nl.pack(nl.LINK, {"ifname": "ab", "mtu": 1500})
    assert packed.hex() == "0700030061620000" + "08000400dc050000"


# ---- as pyroute2 reads them --------------------------------------------------------------------

def decoded(message: Message, kind: type[Any]) -> Any:
    head = nl.HEADER.pack(nl.HEADER.size + len(message.body), message.kind, message.flags, 1, 0)
    found = kind(head + message.body)
    found.decode()
    return found


def test_a_bridge_as_another_reads_it() -> None:
    link = decoded(nl.new_bridge("br0", b"\x02\x42\x0a\x58\x00\x01", 1400), ifinfmsg)
    assert link.get_attr("IFLA_IFNAME") == "br0"
    assert link.get_attr("IFLA_MTU") == 1400
    assert link.get_attr("IFLA_ADDRESS") == "02:42:0a:58:00:01"
    info = link.get_attr("IFLA_LINKINFO")
    assert info.get_attr("IFLA_INFO_KIND") == "bridge"
    assert info.get_attr("IFLA_INFO_DATA").get_attr("IFLA_BR_STP_STATE") == 0


def test_a_veth_as_another_reads_it() -> None:
    link = decoded(nl.new_veth("eth0", bytes(6), 1500, "peer0", 77), ifinfmsg)
    info = link.get_attr("IFLA_LINKINFO")
    assert info.get_attr("IFLA_INFO_KIND") == "veth"
    peer = info.get_attr("IFLA_INFO_DATA").get_attr("VETH_INFO_PEER")
    assert peer.get_attr("IFLA_IFNAME") == "peer0"
    assert peer.get_attr("IFLA_NET_NS_FD") == 77


def test_a_device_that_is_brought_up_as_another_reads_it() -> None:
    link = decoded(nl.set_link(5, up=True, master=3), ifinfmsg)
    assert (link["index"], link["flags"] & 1, link["change"] & 1) == (5, 1, 1)
    assert link.get_attr("IFLA_MASTER") == 3
    assert decoded(nl.set_link(5, mtu=9000), ifinfmsg)["change"] == 0


@pytest.mark.parametrize("text, prefix, broadcast", [
    ("10.88.0.2", 16, "10.88.255.255"), ("10.0.0.0", 31, None), ("fd00::2", 64, None)])
def test_an_address_as_another_reads_it(text: str, prefix: int, broadcast: str | None) -> None:
    import socket

    raw = socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    found = decoded(nl.new_address(4, raw, prefix), ifaddrmsg)
    assert (found["index"], found["prefixlen"]) == (4, prefix)
    assert found.get_attr("IFA_LOCAL" if ":" not in text else "IFA_ADDRESS") == text
    assert found.get_attr("IFA_BROADCAST") == broadcast


def test_a_default_route_as_another_reads_it() -> None:
    route = decoded(nl.new_default_route(7, bytes((10, 88, 0, 1))), rtmsg)
    assert (route["family"], route["dst_len"], route["type"]) == (2, 0, 1)
    assert route.get_attr("RTA_GATEWAY") == "10.88.0.1"
    assert route.get_attr("RTA_OIF") == 7
    into = decoded(nl.new_default_route(7), rtmsg)
    assert into.get_attr("RTA_GATEWAY") is None
    assert into["scope"] == nl.RT_SCOPE_LINK


def test_a_token_bucket_as_another_reads_it() -> None:
    queue = decoded(nl.new_tbf(7, 10**10, 70000, 90000), tcmsg)
    assert (queue["index"], queue["parent"]) == (7, 0xFFFFFFFF)
    assert queue.get_attr("TCA_KIND") == "tbf"
    options = queue.get_attr("TCA_OPTIONS")
    parms = options.get_attr("TCA_TBF_PARMS")
    assert (parms["rate"], parms["limit"]) == (0xFFFFFFFF, 90000)


# ---- with the kernel ---------------------------------------------------------------------------

PROBE = """
import os
from rootless.linux import netlink as nl
link = nl.Netlink(nl.open_socket())
link.do(nl.new_bridge("br7", b"\\x02\\0\\0\\0\\0\\x07", 1400))
at = link.index("br7")
link.do(nl.set_link(at, up=True), nl.new_address(at, bytes((10, 9, 8, 1)), 24))
links = {a["ifname"]: a for _, a in link.dump(nl.RTM_GETLINK, nl.IFINFO, nl.LINK)}
print(links["br7"]["mtu"], links["br7"]["linkinfo"]["kind"])
print([nl.text(a["local"]) for _, a in link.dump(nl.RTM_GETADDR, nl.IFADDR, nl.ADDRESS)
       if "local" in a])
for wrong in (nl.new_bridge("br7", b"\\x02\\0\\0\\0\\0\\x08", 1400), nl.delete_link(999)):
    try:
        link.do(wrong)
    except OSError as e:
        print(e.strerror, e.filename)
link.do(nl.new_tbf(at, 10**7, 70000, 90000))
queue = next(a for head, a in link.dump(nl.RTM_GETQDISC, nl.TCMSG, nl.QDISC) if head[1] == at)
parms = nl.TBF_PARMS.unpack(queue["tbf"]["parms"])
print(queue["kind"], parms[5], parms[12])
link.do(nl.delete_link(at))
try:
    link.index("br7")
except OSError as e:
    print(e.strerror)
"""


def test_the_kernel_does_what_it_is_told_and_its_refusals_name_the_step() -> None:
    done = subprocess.run(["unshare", "-rn", sys.executable, "-c", PROBE], capture_output=True,
                          text=True, check=False, cwd=os.path.dirname(nl.__file__) + "/../..")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "1400 bridge", "['10.9.8.1']", "File exists link add br7 type bridge",
        "No such device link delete 999", "tbf 10000000 90000", "No such device"]
