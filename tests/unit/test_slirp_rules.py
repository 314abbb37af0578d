"""Rules of egress, the names they are about, and the journal."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slirp import wire
from slirp.api import Api
from slirp.forward import Forwards
from slirp.journal import Journal
from slirp.options import SlirpError
from slirp.reach import pack
from slirp.rules import Learned, Rules
from slirp.wire import SYN, UDP
from tests.unit.slirp_inside import HOST4, ME4, Inside

DEBIAN = pack("192.0.2.80")


def allows(lines: list[str], to: str, port: int = 443, proto: str = "tcp", *names: str,
           default: bool = False) -> bool:
    return Rules(lines, allow=default).allows(pack(to), port, proto, names)


def test_the_first_rule_that_matches_decides() -> None:
    lines = ["deny 192.0.2.9", "allow 192.0.2.0/24 80,443,8000-8999 tcp", "allow 2001:db8::/32"]
    assert allows(lines, "192.0.2.1")
    assert allows(lines, "192.0.2.1", 8500)
    assert not allows(lines, "192.0.2.1", 22)
    assert not allows(lines, "192.0.2.1", 443, "udp")
    assert not allows(lines, "192.0.2.9")
    assert allows(lines, "2001:db8::1", 1, "udp")
    assert not allows(lines, "198.51.100.1")
    assert allows(lines, "198.51.100.1", default=True)
    assert allows(["allow any"], "198.51.100.1", 0, "icmp")


def test_names_are_whole_or_all_below() -> None:
    lines = ["allow deb.debian.org", "allow *.Example.org. 443"]
    assert allows(lines, "192.0.2.1", 80, "tcp", "deb.debian.org")
    assert not allows(lines, "192.0.2.1", 80, "tcp", "debian.org", "xdeb.debian.org")
    assert allows(lines, "192.0.2.1", 443, "tcp", "a.b.example.org")
    assert not allows(lines, "192.0.2.1", 443, "tcp", "example.org", "badexample.org")
    assert not allows(lines, "192.0.2.1", 443, "tcp")


@pytest.mark.parametrize("line", [
    "", "allow", "permit any", "allow any 80 tcp x", "allow any 0", "allow any 9-8",
    "allow any 70000", "allow any http", "allow any 80 sctp", "allow 10.0.0.0/40",
    "allow 1.2.3.4.5", "allow a..b", "allow *", "allow a*.b", "allow any 80,"])
def test_a_line_that_makes_no_sense_is_said(line: str) -> None:
    with pytest.raises(SlirpError):
        Rules([line])


def answer(*records: tuple[bytes, int, int, bytes], name: bytes = b"\3deb\6debian\3org\0",
           rcode: int = 0) -> bytes:
    """A DNS answer; records are (owner, type, ttl, data)."""
    return (b"\xab\xcd\x81" + bytes([0x80 | rcode]) + b"\0\1" + len(records).to_bytes(2, "big")
            + bytes(4) + name + b"\0\1\0\1" + b"".join(
                owner + kind.to_bytes(2, "big") + b"\0\1" + ttl.to_bytes(4, "big")
                + len(data).to_bytes(2, "big") + data for owner, kind, ttl, data in records))


def test_addresses_belong_to_the_name_that_was_asked_for() -> None:
    time = [0.0]
    learned = Learned(lambda: time[0])
    learned.learn(answer((b"\xc0\x0c", 5, 60, b"\3cdn\xc0\x10"),
                         (b"\3cdn\xc0\x10", 1, 60, DEBIAN),
                         (b"\xc0\x0c", 28, 600, pack("2001:db8::80"))))
    assert learned.names(DEBIAN) == ["deb.debian.org"], "and not to its alias"
    assert learned.names(pack("2001:db8::80")) == ["deb.debian.org"]
    time[0] = 400
    assert learned.names(DEBIAN) == [], "its time is over"
    assert learned.names(pack("2001:db8::80")) == ["deb.debian.org"]


def test_records_of_other_names_teach_nothing() -> None:
    learned = Learned(lambda: 0.0)
    learned.learn(answer((b"\4evil\3com\0", 1, 60, DEBIAN)))
    learned.learn(answer((b"\xc0\x0c", 1, 60, DEBIAN), rcode=3))
    assert learned.names(DEBIAN) == []


@given(st.binary(max_size=80), st.booleans())
def test_no_answer_can_do_harm(raw: bytes, shaped: bool) -> None:
    learned = Learned(lambda: 0.0)
    learned.learn(b"\0\0\x81\x80\0\1\0\3\0\0\0\0" + raw if shaped else raw)
    assert len(learned._names) <= 3


def test_what_is_learned_is_bounded() -> None:
    learned = Learned(lambda: 0.0)
    for i in range(5000):
        name = b"\6n%05d\0" % i
        learned.learn(answer((b"\xc0\x0c", 1, 60, i.to_bytes(4, "big")), name=name))
        learned.learn(answer((b"\xc0\x0c", 1, 60, DEBIAN), name=name))
    assert len(learned._names) <= 4096
    assert len(learned._names[DEBIAN]) <= 16
    assert learned.names(DEBIAN)[-1] == "n04999"


def test_the_journal_keeps_the_latest_with_their_numbers() -> None:
    journal = Journal(lambda address: ["a.example"], clock=lambda: 12.5)
    for port in range(1, 5001):
        journal.add("closed", "tcp", (ME4, port), (pack("2001:db8::1"), 443), 1, 2, 0.5)
    first = journal.since(0)
    assert (len(first), first[0]["number"]) == (500, 5000 - 4096 + 1)
    assert journal.since(4999) == [{
        "number": 5000, "time": 12.5, "what": "closed", "proto": "tcp", "from": "10.0.2.100:5000",
        "to": "[2001:db8::1]:443", "name": "a.example", "sent": 1, "received": 2, "seconds": 0.5}]
    assert journal.since(5000) == []


# ---- in the stack -------------------------------------------------------------------------------

def entries(inside: Inside, since: int = 0) -> list[dict[str, Any]]:
    return inside.stack.journal.since(since)


def test_a_denied_connection_is_told_and_noted() -> None:
    inside = Inside(deny=True)
    inside.send(SYN)
    assert inside.one().flags & wire.RST
    noted, = entries(inside)
    assert (noted["what"], noted["to"]) == ("denied", f"10.0.2.2:{inside.port}")
    inside.close()


def test_a_name_opens_the_way_to_its_addresses() -> None:
    inside = Inside(deny=True, rules=["allow deb.debian.org"])
    inside.send(SYN)
    assert inside.one().flags & wire.RST
    inside.stack.learned.learn(answer((b"\xc0\x0c", 1, 60, HOST4)))
    inside.connect()
    inside.write(b"question")
    assert inside.outside.recv(9) == b"question"
    inside.outside.sendall(b"yes")
    assert inside.read(3) == b"yes"
    with socket.socket(socket.AF_UNIX) as unused:
        api = Api(inside.stack, Forwards(inside.stack), unused)
        now, = api.connections({})["entries"]
        assert api.log({"since": 1})["entries"] == []
    assert (now["name"], now["sent"], now["received"]) == ("deb.debian.org", 8, 3)
    # A rule less, and what it had allowed ends.
    inside.stack.set_rules(Rules(allow=False))
    assert inside.got()[-1].flags & wire.RST
    assert [e["what"] for e in entries(inside)] == ["denied", "closed"]
    assert entries(inside)[1]["sent"] == 8
    inside.close()


def test_datagrams_obey_as_well() -> None:
    inside = Inside(listen=False, deny=True, rules=["allow any 7 udp"])
    for port in (7, 8):
        body = wire.udp(ME4, HOST4, 4000, port, b"x") + b"x"
        inside.put(wire.ip(ME4, HOST4, UDP, len(body)) + body)
    assert len(inside.stack.udp.table) == 1
    assert [e["what"] for e in entries(inside)] == ["denied"]
    inside.stack.set_rules(Rules(allow=False))
    assert not inside.stack.udp.table
    assert entries(inside)[1]["sent"] == 1
    inside.close()


def test_refused_is_noted() -> None:
    inside = Inside(listen=False)
    inside.send(SYN)
    inside.until(lambda: inside.device.sent, "an answer")
    assert [e["what"] for e in entries(inside)] == ["refused"]
    inside.close()
