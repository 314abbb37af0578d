"""Lists of images for several platforms, in the making.

    images/lists/<sha256 of the name>.json      {"name", "index", "origins"}

`index` is the OCI index that will be pushed. `origins` says of each digest where its image can be
copied from: a registry (docker://NAME@DIGEST) or our store (store:NAME). A list holds no blobs:
an image of the store that is removed is missed when the list is pushed, and said to be.
"""

from __future__ import annotations

import hashlib
import os

from rootless import jsontext
from rootless.errors import Conflict, ImageError, NotFound, StorageError, UsageError, os_reason
from rootless.files import Lock, read_bytes, write_atomic
from rootless.image import manifest as manifests
from rootless.image import sources, store
from rootless.image.copy import Copy, place, source
from rootless.image.manifest import Descriptor
from rootless.image.reference import familiar, parse, sha256
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rootless.image.sources import Source
    from rootless.image.targets import Target
    from rootless.paths import Paths


@record(frozen=True)
class Facts:
    """What is said of an entry; empty where nothing is."""

    os: str = ""
    arch: str = ""
    variant: str = ""
    os_version: str = ""
    features: tuple[str, ...] = ()
    os_features: tuple[str, ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()


class ManifestList:
    """One list, read from the disk."""

    def __init__(self, name: str, index: dict[str, Any], origins: dict[str, str]) -> None:
        self.name = name
        self.index = index
        self.origins = origins

    @property
    def entries(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.index["manifests"]
        return found

    @property
    def text(self) -> bytes:
        return jsontext.dumps(self.index).encode()

    @property
    def digest(self) -> str:
        return sha256(self.text)

    def put(self, entry: dict[str, Any], origin: str) -> None:
        kept = [e for e in self.entries if e["digest"] != entry["digest"]]
        self.index["manifests"] = [*kept, entry]
        self.origins[entry["digest"]] = origin

    def find(self, text: str) -> dict[str, Any]:
        """By digest, or by the name it was added with. Raises NotFound."""
        for entry in self.entries:
            if text == entry["digest"] or _same(text, self.origins.get(entry["digest"], "")):
                return entry
        raise NotFound(f"no such image in {familiar(self.name)}: {text}",
                       hint=f"rootless manifest inspect {familiar(self.name)} shows their digests")


def _same(text: str, origin: str) -> bool:
    """Is it the name of the origin, in whatever spelling?"""
    known = origin.partition(":")[2].lstrip("/")
    try:
        wanted = parse(text.removeprefix("docker://").removeprefix("store:")).named()
        return wanted.full == known or wanted.full == parse(
            known.partition("@")[0]).named().full
    except UsageError:
        return text == known


# ---- on disk -----------------------------------------------------------------------------------

def _directory(paths: Paths) -> str:
    return paths.images + "/lists"


def _path(paths: Paths, full: str) -> str:
    return f"{_directory(paths)}/{_file(full)}"


def _file(full: str) -> str:
    return hashlib.sha256(full.encode()).hexdigest() + ".json"


def lock(paths: Paths) -> Lock:
    """While a list is changed."""
    os.makedirs(_directory(paths), exist_ok=True)
    return Lock(paths.data + "/.lists.lock")


def _full(name: str) -> str:
    wanted = parse(name)
    if wanted.digest:
        raise UsageError(f"cannot name a list {name}: a digest is not for us to give")
    return wanted.named().full


def find(paths: Paths, name: str) -> ManifestList | None:
    """Raises StorageError when it is damaged."""
    try:
        return _load(_path(paths, _full(name)))
    except (FileNotFoundError, UsageError):
        return None


def get(paths: Paths, name: str) -> ManifestList:
    found = find(paths, name)
    if found is None:
        raise NotFound(f"no such manifest list: {name}",
                       hint=f"rootless manifest create {name}, or rootless manifest ls")
    return found


def every(paths: Paths) -> list[ManifestList]:
    """Raises StorageError when one is damaged."""
    found = []
    for path in files(paths):
        try:
            found.append(_load(path))
        except FileNotFoundError:
            continue
    return sorted(found, key=lambda one: one.name)


def files(paths: Paths) -> list[str]:
    try:
        names = os.listdir(_directory(paths))
    except FileNotFoundError:
        return []
    return [f"{_directory(paths)}/{n}" for n in names if n.endswith(".json") and n[0] != "."]


def damage(path: str) -> str:
    """What is wrong with the file of a list, "" for nothing."""
    try:
        made = _load(path)
    except FileNotFoundError:
        return ""
    except StorageError:
        return "is damaged, or cannot be read"
    return "" if path.endswith(f"/{_file(made.name)}") else "has another's name"


def _load(path: str) -> ManifestList:
    try:
        value = jsontext.loads(read_bytes(path))
        if all(isinstance(e["digest"], str) for e in value["index"]["manifests"]):
            return ManifestList(str(value["name"]), value["index"], dict(value["origins"]))
    except FileNotFoundError:
        raise
    except OSError as e:
        raise StorageError(f"cannot read {path}: {os_reason(e)}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise StorageError(f"a manifest list is damaged: {path}", hint=f"rm {path}")


def save(paths: Paths, made: ManifestList) -> None:
    """The caller holds `lock`."""
    data = {"name": made.name, "index": made.index, "origins": made.origins}
    write_atomic(_path(paths, made.name), jsontext.dumps(data).encode(), mode=0o644, durable=True)


def create(paths: Paths, name: str, *, amend: bool) -> ManifestList:
    """An empty list, or with `amend` the one there is; not saved yet. Raises Conflict."""
    full = _full(name)
    old = find(paths, full)
    if old is not None and not amend:
        raise Conflict(f"the manifest list {familiar(full)} exists already",
                       hint="--amend adds to it")
    if old is None:
        if store.find(paths, full) is not None:
            raise Conflict(f"the name {familiar(full)} is that of an image",
                           hint=f"another name, or rootless rmi {familiar(full)}")
        old = ManifestList(full, {"schemaVersion": 2, "mediaType": manifests.OCI_INDEX,
                                  "manifests": []}, {})
    return old


def remove(paths: Paths, name: str) -> None:
    """Raises NotFound. The caller holds `lock`."""
    os.unlink(_path(paths, get(paths, name).name))


# ---- entries -----------------------------------------------------------------------------------

def add(paths: Paths, made: ManifestList, text: str, *, every: bool, tls_verify: bool | None,
        say: Callable[[str], None]) -> None:
    """An image of the store or a registry, or all of a list there. The caller holds `lock` and
    `store.hold`, and saves."""
    origin = _source(paths, text, tls_verify=tls_verify, say=say)
    found, data = origin.top()
    what = f"the manifest of {origin.what}"
    document = manifests.document(data, what)
    if not manifests.is_index(document, found.media_type, what):
        made.put(_entry(origin, found, data, what), _origin(origin, text, found))
        return
    entries = document.get("manifests")
    chosen = entries if isinstance(entries, list) else []
    if not every:
        mine = manifests.choose(document, manifests.parse_platform(""), origin.what)
        chosen = [e for e in chosen if e.get("digest") == mine.digest][:1]
    for number, value in enumerate(chosen, 1):
        one = manifests.descriptor(value, f"{what}: entry {number}", most=manifests.LARGEST)
        made.put(dict(value), _origin(origin, text, one))


def _source(paths: Paths, text: str, *, tls_verify: bool | None,
            say: Callable[[str], None]) -> Source:
    """A bare name is the store's image, or else the registry's, as docker and podman have it."""
    at = place(text)
    if at.transport == "store" and store.find(paths, at.name) is None \
            and not text.startswith("store:"):
        at = place(f"docker://{text}")
    if at.transport not in ("docker", "store"):
        raise UsageError(f"cannot add {text}: a list takes images of a registry or of the store",
                         hint=f"rootless copy {text} NAME, and add that")
    return source(paths, at, tls_verify=tls_verify, say=say)


def _origin(origin: Source, text: str, found: Descriptor) -> str:
    if isinstance(origin, sources.FromRegistry):
        repository = parse(origin.name)
        tag = f":{repository.tag}" if repository.tag else ""
        return f"docker://{repository.repository}{tag}@{found.digest}"
    return f"store:{text.removeprefix('store:')}"


def _entry(origin: Source, found: Descriptor, data: bytes, what: str) -> dict[str, Any]:
    document = manifests.document(data, what)
    config, layers = manifests.image_manifest(document, what)
    settings = manifests.image_config(
        origin.check(config, sources.read(origin.file(config))), len(layers), what)
    system = store.platform_of(settings)
    return {"mediaType": document.get("mediaType") or found.media_type, "digest": found.digest,
            "size": found.size, "platform": {
                "architecture": system.architecture, "os": system.os,
                **({"variant": system.variant} if system.variant else {})}}


def annotate(made: ManifestList, text: str, facts: Facts) -> None:
    """Raises NotFound."""
    entry = made.find(text)
    where = dict(entry.get("platform") or {})
    for key, value in (("os", facts.os), ("architecture", facts.arch), ("variant", facts.variant),
                       ("os.version", facts.os_version), ("features", list(facts.features)),
                       ("os.features", list(facts.os_features))):
        if value:
            where[key] = value
    if where:
        entry["platform"] = where
    if facts.annotations:
        entry["annotations"] = {**(entry.get("annotations") or {}), **dict(facts.annotations)}


# ---- push --------------------------------------------------------------------------------------

class Whole(sources.Source):
    """The list with all its images, as one thing to copy."""

    def __init__(self, paths: Paths, made: ManifestList, *, tls_verify: bool | None,
                 say: Callable[[str], None]) -> None:
        super().__init__(familiar(made.name), made.name)
        self._made = made
        self._paths = paths
        self._verify = tls_verify
        self._say = say
        self._now: Source | None = None

    def top(self) -> tuple[Descriptor, bytes]:
        data = self._made.text
        return Descriptor(manifests.OCI_INDEX, sha256(data), len(data)), data

    def manifest(self, found: Descriptor) -> bytes:
        """Its blobs are asked for next."""
        origin = self._made.origins.get(found.digest, "")
        try:
            if origin.startswith("store:"):
                # By digest: the name may be another image's by now.
                self._now = sources.FromStored(self._paths, self.what, "", found.digest)
            else:
                self._now = source(self._paths, place(origin), tls_verify=self._verify,
                                   say=self._say)
            _, data = self._now.top()
            return self.check(found, data)
        except (NotFound, StorageError, ImageError) as e:
            raise NotFound(f"cannot push {self.what}: its image {found.digest[:19]} from "
                           f"{origin or 'nowhere'} is gone: {e.message}",
                           hint=f"rootless manifest remove {self.what} {found.digest}") from None

    def file(self, blob: Descriptor) -> str:
        assert self._now is not None
        return self._now.file(blob)


def push(paths: Paths, made: ManifestList, there: Target, *, form: str, every: bool,
         tls_verify: bool | None, say: Callable[[str], None]) -> str:
    """The digest it has there. Without `every` the list alone, whose images must be there. The
    caller commits the target and holds `store.hold`."""
    if not made.entries:
        raise UsageError(f"cannot push {familiar(made.name)}: it is empty",
                         hint=f"rootless manifest add {familiar(made.name)} IMAGE")
    whole = Whole(paths, made, tls_verify=tls_verify, say=say)
    copy = Copy(whole, there, form=form, every=True, say=say)
    if every:
        return copy.run()
    found, data = whole.top()
    if form == "v2s2":
        raise UsageError(f"cannot push {familiar(made.name)} alone as v2s2: its images would get "
                         "other digests", hint="leave --all=false away")
    if not there.lists:
        raise UsageError(f"cannot push {familiar(made.name)}: that place holds no lists")
    there.put_manifest(found, data, top=True)
    return found.digest
