"""Copy an image from one place to another, whatever the two are.

Blobs go first and the manifest last; what the target has already is not sent. Digests stay where
the format does. With `every` an image for several platforms goes whole, else the one that is for
this machine or for `platform`.
"""

from __future__ import annotations

from rootless import jsontext
from rootless.errors import ImageError, UsageError
from rootless.image import manifest as manifests
from rootless.image import sources, targets
from rootless.image.manifest import Descriptor
from rootless.image.reference import sha256
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rootless.image.sources import Source
    from rootless.image.targets import Target
    from rootless.paths import Paths
    from rootless.userns.keeper import Userns

    Say = Callable[[str], None]

TRANSPORTS = ("docker", "oci", "oci-archive", "docker-archive", "dir", "store")
FORMATS = ("oci", "v2s2")


@record(frozen=True)
class Place:
    """`transport`:`path`:`name`, as it was typed."""

    transport: str
    path: str
    name: str


def place(text: str) -> Place:
    """Raises UsageError. What has no transport is a name in our store."""
    transport, colon, rest = text.partition(":")
    if transport == "docker" and rest.startswith("//"):
        if not rest[2:]:
            raise UsageError(f"cannot copy: {text}: it names no image", hint="docker://HOST/NAME")
        return Place("docker", "", rest[2:])
    if colon and transport in ("containers-storage", "docker-daemon", "http", "https", "docker"):
        raise UsageError(f"cannot copy: {text}: there is no transport {transport}:",
                         hint="docker://NAME, oci:DIR, oci-archive:FILE, docker-archive:FILE, "
                              "dir:PATH or store:NAME")
    if not colon or transport not in TRANSPORTS:
        return Place("store", "", text)
    if not rest:
        raise UsageError(f"cannot copy: {text}: nothing follows the transport")
    if transport == "store":
        return Place("store", "", rest)
    if transport == "dir":
        return Place("dir", rest, "")
    path, _, name = rest.partition(":")
    return Place(transport, path, name)


def source(paths: Paths, at: Place, *, tls_verify: bool | None, say: Say) -> Source:
    if at.transport == "docker":
        return sources.FromRegistry(paths, at.name, tls_verify=tls_verify, say=say)
    if at.transport == "oci":
        return sources.from_layout(at.path, at.name)
    if at.transport == "oci-archive":
        return sources.from_oci_archive(paths, at.path, at.name)
    if at.transport == "docker-archive":
        return sources.from_docker_archive(paths, at.path, at.name)
    if at.transport == "dir":
        return sources.FromDirectory(at.path)
    return sources.from_store(paths, at.name, tls_verify=tls_verify, say=say)


def target(paths: Paths, at: Place, userns: Callable[[], Userns], *, tls_verify: bool | None,
           say: Say) -> Target:
    if at.transport == "docker":
        return targets.ToRegistry(paths, at.name, tls_verify=tls_verify, say=say)
    if at.transport == "oci":
        return targets.ToLayout(at.path, at.name)
    if at.transport == "dir":
        return targets.ToDirectory(at.path)
    if at.transport == "store":
        return targets.ToStore(paths, userns(), at.name)
    return targets.ToArchive(at.path, at.name, docker=at.transport == "docker-archive")


class Copy:
    """One copy. `run` gives the digest that the image has in the target. The caller holds
    `store.hold`, commits and closes the target."""

    def __init__(self, origin: Source, there: Target, *, form: str = "", platform: str = "",
                 every: bool = False, say: Say) -> None:
        if form and form not in FORMATS:
            raise UsageError(f"invalid format: {form}", hint=", ".join(FORMATS))
        if form and form not in there.forms:
            raise UsageError(f"cannot copy as {form}: that place holds {there.forms[0]} only")
        self._origin = origin
        self._target = there
        self._form = form or (there.forms[0] if len(there.forms) == 1 else "")
        self._platform = manifests.parse_platform(platform)
        self._every = every
        self._say = say
        self._what = origin.what

    def run(self) -> str:
        top, data = self._origin.top()
        repository = self._origin.repository()
        if repository is not None:
            self._target.comes_from(repository)
        document = manifests.document(data, f"the manifest of {self._what}")
        if not self._is_list(document, top):
            return self._image(top, data, top=True).digest
        if not self._every:
            chosen = manifests.choose(document, self._platform, self._what)
            return self._image(chosen, self._origin.manifest(chosen), top=True).digest
        if not self._target.lists:
            raise UsageError(f"cannot copy all of {self._what}: that place holds one image for "
                             "one platform", hint="leave --all away, or name an oci: target")
        return self._list(top, data, document).digest

    def _is_list(self, document: dict[str, Any], found: Descriptor) -> bool:
        return manifests.is_index(document, found.media_type, f"the manifest of {self._what}")

    def _list(self, top: Descriptor, data: bytes, document: dict[str, Any]) -> Descriptor:
        entries = document.get("manifests")
        if not isinstance(entries, list):
            raise ImageError(f"{self._what} is malformed: it lists no manifests")
        made = []
        for number, entry in enumerate(entries, 1):
            found = manifests.descriptor(entry, f"{self._what}: entry {number}",
                                         most=manifests.LARGEST)
            new = self._image(found, self._origin.manifest(found), top=False)
            made.append({**entry, "mediaType": new.media_type, "digest": new.digest,
                         "size": new.size})
        kind = {"oci": manifests.OCI_INDEX, "v2s2": manifests.DOCKER_LIST}.get(
            self._form, top.media_type)
        if made != entries or kind != top.media_type:
            data = jsontext.dumps({**document, "mediaType": kind, "manifests": made}).encode()
            top = Descriptor(kind, sha256(data), len(data))
        self._target.put_manifest(top, data, top=True)
        return top

    def _image(self, found: Descriptor, data: bytes, *, top: bool) -> Descriptor:
        what = f"the manifest {found.digest[7:19]} of {self._what}"
        document = manifests.document(data, what)
        if self._is_list(document, found):
            raise ImageError(f"{what} is malformed: a list within a list")
        layers = document.get("layers")
        if not isinstance(layers, list):
            raise ImageError(f"{what} is malformed: it has no list of layers")
        # Attestations in a list are no images: only what names the blobs is looked at.
        parts = [manifests.descriptor(document.get("config"), f"{what}: its configuration",
                                      most=manifests.LARGEST),
                 *(manifests.descriptor(la, f"{what}: layer {n}", most=manifests.LARGEST_LAYER)
                   for n, la in enumerate(layers, 1))]
        kind = document.get("mediaType") or found.media_type
        if self._form and kind != _KINDS[self._form]:
            document = _converted(document, self._form, what)
            data, kind = jsontext.dumps(document).encode(), _KINDS[self._form]
        for n, part in enumerate(parts):
            if part not in parts[:n]:
                self._blob(part, "config" if n == 0 else "blob")
        self._say("Writing manifest")
        made = Descriptor(kind, sha256(data), len(data))
        self._target.put_manifest(made, data, top=top)
        return made

    def _blob(self, blob: Descriptor, word: str) -> None:
        if self._target.has(blob):
            self._say(f"Copying {word} {blob.digest[:19]}: already there")
            return
        if self._target.take(blob):
            self._say(f"Copying {word} {blob.digest[:19]}: mounted")
            return
        self._say(f"Copying {word} {blob.digest[:19]}")
        self._target.put_blob(blob, self._origin.file(blob))


_KINDS = {"oci": manifests.OCI_MANIFEST, "v2s2": manifests.DOCKER_MANIFEST}


def _converted(document: dict[str, Any], form: str, what: str) -> dict[str, Any]:
    """Raises ImageError where the other format has no word for it."""
    manifests.image_manifest(document, what)
    return manifests.as_oci(document) if form == "oci" else manifests.as_docker(document, what)
