"""What there is in a registry: the tags of a repository, the repositories of a registry.

Docker Hub, and what is like it, answers a search (/v1/search). A plain registry has a list of all
its repositories at most (/v2/_catalog), which is looked through here; most public ones have
neither. Everything comes in pages, and nothing that is said is believed to be a name unless it
is one.
"""

from __future__ import annotations

import json
from urllib.parse import urlencode, urljoin, urlsplit

from rootless.errors import ImageError, NotFound, RegistryError, UsageError
from rootless.image.reference import DEFAULT_DOMAIN, Reference, parse
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from rootless.image.registry import Registry

HUB = "index.docker.io"
LARGEST = 16 << 20      # of a page
MOST_PAGES = 1000
PAGE = 1000


@record(frozen=True)
class Found:
    name: str
    description: str = ""
    stars: int = 0
    official: bool = False
    automated: bool = False


def tags(registry: Registry) -> list[str]:
    """Of the registry's repository, sorted. Raises NotFound when there are none."""
    path = registry.reference.repository
    found = set()
    for page in _pages(registry, "/tags/list", f"the tags of {path}"):
        for tag in page.get("tags") or ():
            if isinstance(tag, str) and _is_name(f"{path}:{tag}"):
                found.add(tag)
    if not found:
        raise NotFound(f"{path} has no tags")
    return sorted(found)


def search(connect: Callable[[Reference], Registry], text: str, limit: int) -> list[Found]:
    """`text`: a term to look for at Docker Hub, or HOST/TERM. At most `limit`, best first.

    Raises UsageError, RegistryError.
    """
    host, slash, term = text.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        host, term = DEFAULT_DOMAIN, text
    if not _is_name(f"{host}/x"):
        raise UsageError(f"invalid registry: {host}")
    if host == DEFAULT_DOMAIN and not term:
        raise UsageError("cannot search for nothing at Docker Hub", hint="rootless search TERM")
    registry = connect(Reference(HUB if host == DEFAULT_DOMAIN else host, ""))
    registry.verb = "search"
    found = _ask(registry, host, term, limit) if term else None
    if found is None:
        found = _look_through(registry, host, term)
    return found[:limit]


def _ask(registry: Registry, host: str, term: str, limit: int) -> list[Found] | None:
    """None where the registry answers no searches."""
    query = urlencode({"q": term, "n": limit})
    try:
        body, answer = registry.small(f"/v1/search?{query}", host, most=LARGEST)
    except (RegistryError, NotFound):
        if host == DEFAULT_DOMAIN:
            raise
        return None
    if "json" not in (answer.headers.get("Content-Type") or ""):
        return None
    results = _object(body, host).get("results")
    found = []
    for item in results if isinstance(results, list) else ():
        name = item.get("name") if isinstance(item, dict) else None
        if isinstance(name, str) and _is_name(f"{host}/{name}"):
            stars = item.get("star_count")
            found.append(Found(
                name if host == DEFAULT_DOMAIN else f"{host}/{name}",
                str(item.get("description") or ""), stars if isinstance(stars, int) else 0,
                item.get("is_official") is True, item.get("is_automated") is True))
    return found


def _look_through(registry: Registry, host: str, term: str) -> list[Found]:
    found = []
    try:
        for page in _pages(registry, "_catalog", host):
            for name in page.get("repositories") or ():
                if isinstance(name, str) and term in name and _is_name(f"{host}/{name}"):
                    found.append(Found(f"{host}/{name}"))
    except NotFound:
        raise RegistryError(f"cannot search {host}: it answers no searches and has no list of "
                            "its repositories",
                            hint="its web page may know more") from None
    return found


def _pages(registry: Registry, path: str, what: str) -> Iterator[dict[str, Any]]:
    path += f"?n={PAGE}"
    for _ in range(MOST_PAGES):
        body, answer = registry.small(path, what, most=LARGEST)
        yield _object(body, what)
        follow = _next(answer.headers.get("Link") or "")
        if not follow:
            return
        # Only its query: a registry behind a proxy may not know its own name.
        path = f"{path.partition('?')[0]}?{urlsplit(urljoin('http://x/', follow)).query}"
    raise RegistryError(f"cannot {registry.verb} {what}: the list has more than {MOST_PAGES} "
                        "pages")


def _next(link: str) -> str:
    """The target of `<...>; rel="next"` (RFC 8288)."""
    target, _, rest = link.strip().partition(">")
    return target[1:] if target.startswith("<") and "next" in rest else ""


def _object(data: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ImageError(f"cannot read {what}: the answer is malformed")
    return value


def _is_name(text: str) -> bool:
    try:
        parse(text)
    except UsageError:
        return False
    return True
