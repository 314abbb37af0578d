"""DNS messages, as far as a server of a few names needs them (RFC 1035, section 4).

    header:   id  flags  questions  answers  authorities  additionals    (2 bytes each)
    question: name  type  class
    answer:   name  type  class  ttl (4 bytes)  length (2)  data
    name:     length (1 byte)  label ... 0

A query has one question; the answer's name points to it. What is not for us is passed on whole.
"""

from __future__ import annotations

import struct

from rootless.network import address
from rootless.record import record

_HEADER = struct.Struct("!HHHHHH")
_TAIL = struct.Struct("!HH")            # type, class
_RECORD = struct.Struct("!HHHIH")       # pointer to the name, type, class, ttl, length

A, PTR, AAAA = 1, 12, 28
IN = 1
RESPONSE, AUTHORITATIVE, TRUNCATED = 0x8000, 0x0400, 0x0200
RECURSION_DESIRED, RECURSION_AVAILABLE, OPCODE = 0x0100, 0x0080, 0x7800
NOERROR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 2, 3, 4, 5
LARGEST = 65535
LARGEST_UDP = 512       # without EDNS, section 2.3.4


@record(frozen=True)
class Query:
    """`name` in lower case, without the last dot. `question`: the bytes of that section."""

    id: int
    flags: int
    name: str
    kind: int
    question: bytes


def parse(data: bytes) -> Query:
    """Raises ValueError for what is no query of one question."""
    if len(data) < _HEADER.size:
        raise ValueError("too short")
    number, flags, questions, _, _, _ = _HEADER.unpack_from(data)
    if flags & RESPONSE or questions != 1:
        raise ValueError("not one question")
    name, at = _name(data, _HEADER.size)
    if at + _TAIL.size > len(data):
        raise ValueError("the question is cut off")
    kind, space = _TAIL.unpack_from(data, at)
    if space not in (IN, 255):
        kind = 0        # nothing of ours is in another class
    return Query(number, flags, name, kind, data[_HEADER.size:at + _TAIL.size])


def _name(data: bytes, at: int) -> tuple[str, int]:
    labels: list[str] = []
    total = 0
    while True:
        if at >= len(data):
            raise ValueError("the name is cut off")
        length = data[at]
        at += 1
        if length == 0:
            return ".".join(labels), at
        total += length + 1
        if length > 63 or total > 254 or at + length > len(data):
            raise ValueError("no such label in a question")
        # A dot or a byte that is no letter within a label belongs to no name of ours.
        labels.append(data[at:at + length].decode("latin-1").replace(".", "\\.").lower())
        at += length


def answer(query: Query, code: int, records: list[tuple[int, bytes]], ttl: int = 5,
           limit: int = LARGEST) -> bytes:
    """`records`: (type, data) each. Those beyond `limit` bytes are left out, and it says so."""
    flags = (RESPONSE | AUTHORITATIVE | RECURSION_AVAILABLE | code
             | query.flags & (RECURSION_DESIRED | OPCODE))
    body = b""
    count = 0
    for kind, data in records:
        more = _RECORD.pack(0xC00C, kind, IN, ttl, len(data)) + data
        if _HEADER.size + len(query.question) + len(body) + len(more) > limit:
            flags |= TRUNCATED
            break
        body += more
        count += 1
    return _HEADER.pack(query.id, flags, 1, count, 0, 0) + query.question + body


def matches(query: Query, data: bytes) -> bool:
    """Is this the response to that query?"""
    if len(data) < _HEADER.size + len(query.question):
        return False
    number, flags, _, _, _, _ = _HEADER.unpack_from(data)
    asked = data[_HEADER.size:_HEADER.size + len(query.question)]
    return bool(number == query.id and flags & RESPONSE
                and asked.lower() == query.question.lower())


def name_data(name: str) -> bytes:
    """A name as the data of a PTR record."""
    return b"".join(bytes((len(label),)) + label for label in name.encode().split(b".")) + b"\0"


def reverse(name: str) -> bytes | None:
    """The address that a name of in-addr.arpa or ip6.arpa asks for."""
    labels = name.split(".")
    if labels[-2:] == ["in-addr", "arpa"] and len(labels) == 6:
        return address.parse(".".join(reversed(labels[:4])))
    if labels[-2:] == ["ip6", "arpa"] and len(labels) == 34:
        digits = "".join(reversed(labels[:32]))
        try:
            return bytes.fromhex(digits) if len(digits) == 32 else None
        except ValueError:
            return None
    return None
