"""Names of images, as docker reads them (github.com/distribution/reference).

    name       [domain/]path[:tag][@digest]
    domain     docker.io unless the first part has a dot, a port or a capital, or is localhost
    path       components of [a-z0-9] joined by . _ __ or dashes; on docker.io one alone is library/
    tag        [A-Za-z0-9_][A-Za-z0-9_.-]{0,127}
    digest     sha256:<64 hex digits>

No regular expressions: this is on the path of `run`, and `re` costs 4 ms.
"""

from __future__ import annotations

from rootless.errors import UsageError
from rootless.record import record

DEFAULT_DOMAIN = "docker.io"
LONGEST_PATH = 255
LONGEST_TAG = 128

LOWER = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
ALPHANUMERIC = LOWER | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
WORD = ALPHANUMERIC | {"_"}
HEX = frozenset("0123456789abcdef")


@record(frozen=True)
class Reference:
    """A whole name. `tag` and `digest` may be empty; `named()` fills in `latest`."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def repository(self) -> str:
        return f"{self.domain}/{self.path}"

    @property
    def full(self) -> str:
        return (self.repository + (f":{self.tag}" if self.tag else "")
                + (f"@{self.digest}" if self.digest else ""))

    def named(self) -> Reference:
        if self.tag or self.digest:
            return self
        return Reference(self.domain, self.path, "latest")


def parse(text: str) -> Reference:
    """Raises UsageError that says which part is wrong."""
    rest, at, digest = text.partition("@")
    if at and not is_digest(digest):
        algorithm = digest.partition(":")[0]
        raise _invalid(text, "only sha256 digests are supported" if algorithm in (
            "sha512", "sha384") else "after @ must come sha256: and 64 hexadecimal digits")
    slash = rest.rfind("/")
    colon = rest.rfind(":")
    tag = ""
    if colon > slash:
        rest, tag = rest[:colon], rest[colon + 1:]
        if not _valid_tag(tag):
            raise _invalid(text, "a tag has up to 128 letters, digits and _ . -, and starts with "
                                 "neither . nor -")
    if not rest:
        raise _invalid(text, "the name is empty")
    if len(rest) == 64 and HEX.issuperset(rest):
        raise _invalid(text, "64 hexadecimal digits are an id, not a name")
    domain, path = _split_domain(rest)
    if path != path.lower() and all(map(_valid_component, path.lower().split("/"))):
        raise _invalid(text, "the name must be lower case", hint=text.replace(rest, rest.lower()))
    if len(path) > LONGEST_PATH:
        raise _invalid(text, f"the name is longer than {LONGEST_PATH} characters")
    if not all(_valid_component(part) for part in path.split("/")):
        raise _invalid(text, "a name has lower-case letters and digits, with single . or _, __ "
                             "or dashes between them")
    if not _valid_domain(domain):
        raise _invalid(text, f"{domain} is not a host name")
    return Reference(domain, path, tag, digest)


def familiar(name: str) -> str:
    """As people write it: without docker.io/ and library/."""
    prefix = DEFAULT_DOMAIN + "/"
    if not name.startswith(prefix):
        return name
    short = name[len(prefix):]
    if short.startswith("library/") and "/" not in short[8:]:
        short = short[8:]
    return short


def sha256(data: bytes) -> str:
    """Its digest."""
    import hashlib

    return "sha256:" + hashlib.sha256(data).hexdigest()


def is_digest(text: str) -> bool:
    return text.startswith("sha256:") and len(text) == 71 and HEX.issuperset(text[7:])


def _invalid(text: str, why: str, *, hint: str | None = None) -> UsageError:
    return UsageError(f"invalid reference format: {text or 'nothing'}: {why}",
                      hint=hint or "[HOST[:PORT]/]NAME[:TAG][@sha256:DIGEST]")


def _split_domain(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if not slash or ("." not in first and ":" not in first and first != "localhost"
                     and first.lower() == first):
        first, rest = DEFAULT_DOMAIN, name
    if first == "index.docker.io":
        first = DEFAULT_DOMAIN
    if first == DEFAULT_DOMAIN and "/" not in rest:
        rest = "library/" + rest
    return first, rest


def _valid_tag(tag: str) -> bool:
    return (0 < len(tag) <= LONGEST_TAG and tag[0] in WORD
            and all(c in WORD or c in ".-" for c in tag))


def _valid_component(part: str) -> bool:
    """[a-z0-9]+((\\.|_|__|-+)[a-z0-9]+)*"""
    if not part or part[0] not in LOWER or part[-1] not in LOWER:
        return False
    between = ""
    for c in part:
        if c not in LOWER:
            between += c
            continue
        if between not in ("", ".", "_", "__") and between.strip("-"):
            return False
        between = ""
    return True


def _valid_domain(domain: str) -> bool:
    """A host name or an IPv6 address in brackets, and perhaps a port."""
    host, colon, port = domain, "", ""
    if domain.startswith("["):
        host, bracket, rest = domain[1:].partition("]")
        if not bracket or not host or not frozenset("0123456789abcdefABCDEF:").issuperset(host):
            return False
        colon, port = rest[:1], rest[1:]
        if colon not in ("", ":"):
            return False
    else:
        host, colon, port = domain.partition(":")
        for label in host.split("."):
            if (not label or label[0] == "-" or label[-1] == "-"
                    or not all(c in ALPHANUMERIC or c == "-" for c in label)):
                return False
    return not colon or (port.isascii() and port.isdigit() and int(port) < 65536)
