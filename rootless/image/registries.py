"""Where the images of a repository come from: what config.toml says of registries.

    [registries."docker.io"]                # host[:port][/prefix], or *.example.com
    mirrors = ["mirror.example:5000/hub"]   # asked first, in this order, for pulls only
    location = "hub.example/library"        # take this place instead of the prefix
    insecure = false                        # any certificate will do, and plain http
    blocked = false                         # nothing of it is pulled or pushed
    ca = "/path/ca.crt"                     # certificates: whom to trust, who we are
    cert = "/path/client.cert"
    key = "/path/client.key"

    [aliases]
    tool = "registry.example/team/tool"     # one word of a command line, a whole repository

The longest prefix that fits counts, alone; the person's file before the administrator's. An image
keeps the name that was typed wherever it comes from. Trust belongs to a host: a mirror uses the
certificates, the `insecure` and the password of its own place, never those of the registry it
stands for. The fall-back is that of containers-registries.conf: a mirror that has no such image,
or fails, is passed over for the next, and the registry itself is last.
"""

from __future__ import annotations

import os

from rootless import config
from rootless.config import Config, Table
from rootless.errors import RegistryError, UsageError
from rootless.image.reference import DEFAULT_DOMAIN, Reference, familiar, parse
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rootless.image.registry import Registry
    from rootless.paths import Paths

_TRUST = ("insecure", "ca", "cert", "key")
_KEYS = ("location", "blocked", "mirrors", *_TRUST)
_MIRROR_KEYS = ("location", "pull-from-mirror", *_TRUST)
_PULL_FROM = ("all", "digest-only", "tag-only")


@record(frozen=True)
class Trust:
    """How a host is spoken to. The files are paths, "" for none."""

    insecure: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""


@record(frozen=True)
class Place:
    """A repository at a host; `mirror`: of what was asked for, not the thing itself."""

    reference: Reference
    trust: Trust
    mirror: bool = False


class Registries:
    """The settings of all registries, checked."""

    def __init__(self, settings: Config) -> None:
        self._tables: dict[str, Table] = {}
        for section in settings.sections("registries"):
            for prefix in section.values:
                table = section.table(prefix)
                _check(table, section, prefix)
                self._tables.setdefault(prefix, table)
        self._aliases: dict[str, str] = {}
        for section in settings.sections("aliases"):
            for short in section.values:
                self._aliases.setdefault(short, _alias(section, short))

    def expand(self, name: str) -> str:
        """The name with an alias put in: its first part up to a tag or digest."""
        head, at, digest = name.partition("@")
        short, colon, tag = head.partition(":")
        whole = self._aliases.get(short)
        return name if whole is None or "/" in tag else f"{whole}{colon}{tag}{at}{digest}"

    def places(self, reference: Reference) -> list[Place]:
        """Where to pull it from, in order. Raises RegistryError when it is blocked."""
        prefix, table = self._of(reference.repository)
        if table is None:
            return [Place(reference, Trust())]
        found = []
        for item in table.items("mirrors"):
            mirror = _mirror(table, item)
            only = mirror.text("pull-from-mirror", "all")
            if only == ("tag-only" if reference.digest else "digest-only"):
                continue
            at = _moved(reference, prefix, mirror.text("location"))
            # What the configuration says of the mirror's own place holds where it is silent.
            found.append(Place(at, _trust(mirror, self._of(at.repository)[1]), True))
        return [*found, self._itself(reference, prefix, table)]

    def itself(self, reference: Reference) -> Place:
        """Where it is pushed to: never a mirror. Raises RegistryError when it is blocked."""
        prefix, table = self._of(reference.repository)
        return Place(reference, Trust()) if table is None else self._itself(
            reference, prefix, table)

    def _itself(self, reference: Reference, prefix: str, table: Table) -> Place:
        if table.flag("blocked"):
            raise RegistryError(f"cannot use {familiar(reference.full)}: {prefix} is blocked",
                                hint=f"{table.file}: {table.where} says blocked = true")
        location = table.text("location")
        if not location:
            return Place(reference, _trust(table, None))
        at = _moved(reference, prefix, location)
        return Place(at, _trust(table, self._of(at.repository)[1]))

    def _of(self, repository: str) -> tuple[str, Table | None]:
        best = max((p for p in self._tables if _fits(p, repository)), key=len, default="")
        return best, self._tables.get(best)


def _fits(prefix: str, repository: str) -> bool:
    if prefix.startswith("*."):
        return repository.partition("/")[0].partition(":")[0].endswith(prefix[1:])
    return repository == prefix or repository.startswith(prefix + "/")


def _moved(reference: Reference, prefix: str, location: str) -> Reference:
    """The same image where `location` takes the place of `prefix`."""
    if prefix.startswith("*."):
        prefix = reference.domain
    host, _, folder = location.partition("/")
    rest = reference.repository[len(prefix):].strip("/")
    path = "/".join(p for p in (folder, rest) if p)
    return Reference(host, path, reference.tag, reference.digest)


def _trust(table: Table, other: Table | None) -> Trust:
    """By the whole: a client key of one table and the certificate of another make no pair."""
    if other is not None and not any(k in table.values for k in _TRUST):
        table = other
    home = os.path.expanduser
    return Trust(table.flag("insecure"), *(home(table.text(k)) for k in _TRUST[1:]))


# ---- what a file may say -----------------------------------------------------------------------

def _check(table: Table, section: Table, prefix: str) -> None:
    host, _, path = prefix.partition("/")
    name = host[2:] if host.startswith("*.") else host
    try:
        # Any path will do where there is none: only the host is in question.
        known = parse(f"{name}/{path or 'x'}")
    except UsageError:
        known = None
    if known is None or known.domain != name or known.tag or known.digest \
            or (path and host.startswith("*.")):
        raise section.wrong(prefix, "no place of images",
                            'allowed: "host[:port][/prefix]" and "*.domain"')
    table.only(*_KEYS)
    table.flag("blocked")
    _check_location(table, required=False)
    _check_trust(table)
    for item in table.items("mirrors"):
        mirror = _mirror(table, item)
        mirror.only(*_MIRROR_KEYS)
        _check_location(mirror, required=True)
        _check_trust(mirror)
        if mirror.text("pull-from-mirror", "all") not in _PULL_FROM:
            raise mirror.wrong("pull-from-mirror", "unknown value",
                               "allowed: " + ", ".join(_PULL_FROM))


def _mirror(table: Table, item: object) -> Table:
    """A text is the location alone."""
    where = table.name("mirrors")
    if isinstance(item, str):
        return Table(table.file, where, {"location": item})
    if isinstance(item, dict):
        return Table(table.file, where, item)
    raise table.wrong("mirrors", "holds what is no mirror",
                      'mirrors = ["host:port", { location = "host/prefix", insecure = true }]')


def _check_location(table: Table, *, required: bool) -> None:
    text = table.text("location")
    if not text and not required and "location" not in table.values:
        return
    host, _, path = text.partition("/")
    try:
        known = parse(f"{host}/{path or 'x'}")
    except UsageError:
        known = None
    if known is None or known.domain != host or known.tag or known.digest:
        raise table.wrong("location", f"{text!r} is no place of images",
                          'location = "host[:port][/prefix]"')


def _check_trust(table: Table) -> None:
    table.flag("insecure")
    for name in _TRUST[1:]:
        path = os.path.expanduser(table.text(name))
        if path and not path.startswith("/"):
            raise table.wrong(name, f"{path} is no absolute path", f'{name} = "/path/to/file"')
    if bool(table.text("cert")) != bool(table.text("key")):
        raise table.wrong("cert" if table.text("cert") else "key",
                          "cert and key go together", "name both files")


def _alias(section: Table, short: str) -> str:
    whole = section.text(short)
    known = None
    try:
        plain = parse(short)
        known = parse(whole)
    except UsageError:
        pass
    if known is None or plain.path != f"library/{short}" or plain.domain != DEFAULT_DOMAIN:
        raise section.wrong(short, "an alias is one word for a repository",
                            'allowed: name = "host/path"')
    if known.tag or known.digest:
        raise section.wrong(short, "an alias names a repository, without tag and digest",
                            f'{short} = "{known.repository}"')
    return known.repository


# ---- connections -------------------------------------------------------------------------------

def of_this_user(paths: Paths, env: Mapping[str, str]) -> Registries:
    return Registries(config.load(paths, env))


def connect(place: Place, *, tls_verify: bool | None, env: Mapping[str, str], home: str,
            say: Callable[[str], None]) -> Registry:
    """`tls_verify`: what the command line says, which counts before the file."""
    from rootless.image.registry import Registry

    if tls_verify is None and place.trust.insecure:
        tls_verify = False
    return Registry(place.reference, tls_verify=tls_verify, env=env, home=home, say=say,
                    trust=place.trust)
