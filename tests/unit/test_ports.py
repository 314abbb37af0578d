"""Ports are read and shown as docker does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.errors import UsageError
from rootless.network import ports
from rootless.network.ports import Publish


@pytest.mark.parametrize("text, wanted", [
    ("80", [Publish("", 0, 0, 80, "tcp")]),
    ("8080:80", [Publish("", 8080, 8080, 80, "tcp")]),
    ("8080:80/UDP", [Publish("", 8080, 8080, 80, "udp")]),
    ("127.0.0.1:8080:80", [Publish("127.0.0.1", 8080, 8080, 80, "tcp")]),
    ("127.0.0.1::80", [Publish("127.0.0.1", 0, 0, 80, "tcp")]),
    ("[::1]:8080:80", [Publish("::1", 8080, 8080, 80, "tcp")]),
    ("[::]::53/udp", [Publish("::", 0, 0, 53, "udp")]),
    ("8000-8002:80-82", [Publish("", 8000 + n, 8000 + n, 80 + n, "tcp") for n in range(3)]),
    ("8000-8009:80", [Publish("", 8000, 8009, 80, "tcp")]),
    ("80-81", [Publish("", 0, 0, 80, "tcp"), Publish("", 0, 0, 81, "tcp")]),
])
def test_a_port_is_read_as_docker_reads_it(text: str, wanted: list[Publish]) -> None:
    assert ports.parse(text) == wanted


@pytest.mark.parametrize("text", [
    "", ":", "x", "0", "65536", "80:", "1:2:3", "1.2.3:80:80", "::1:80:80", "[::1]80", "80/icmp",
    "80/sctp", "81-80:1-2", "1-2:1-3", "-80", "80-", "1.2.3.4:80", "1:2:3:4", "8 0", "²"])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="invalid port"):
        ports.parse(text)


@given(st.text(alphabet="0123456789:-/[].tcpudx", max_size=24))
def test_no_text_makes_the_reader_fail_otherwise(text: str) -> None:
    try:
        found = ports.parse(text)
    except UsageError:
        return
    assert all(1 <= p.container <= 65535 and 0 <= p.host <= p.last <= 65535 for p in found)


@given(st.sampled_from(["", "127.0.0.1", "::1"]), st.integers(1, 65535), st.integers(1, 65535),
       st.sampled_from(["tcp", "udp"]))
def test_a_port_is_shown_as_it_is_read(ip: str, host: int, container: int, proto: str) -> None:
    wanted = Publish(ip, host, host, container, proto)
    assert ports.parse(str(wanted)) == [wanted]


def test_ps_shows_addresses_of_both_kinds() -> None:
    assert ports.summary([["0.0.0.0", 8080, 80, "tcp"], ["::", 53, 53, "udp"]]) == (
        "0.0.0.0:8080->80/tcp, [::]:53->53/udp")
