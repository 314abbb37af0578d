"""Where a copy takes an image from. Nothing is believed before its digest is right.

    docker://NAME                   a registry, through its mirrors
    oci:DIR[:TAG]                   an OCI layout
    oci-archive:FILE[:TAG]          a tar of one
    docker-archive:FILE[:NAME]      what docker save writes
    dir:PATH                        skopeo's: manifest.json and blobs by digest
    store:NAME, or NAME             our store

A blob is a file when a target gets it: in the directory where it lies, or in our store, into
which registries and archives are read as a stream and which forgets it after the copy. So memory
is bounded, and an upload that breaks can go on in the middle.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod

from rootless.errors import ImageError, NotFound, RegistryError, StorageError, os_reason
from rootless.files import read_bytes
from rootless.image import archive, policy, registries, shared, store
from rootless.image import manifest as manifests
from rootless.image.manifest import Descriptor
from rootless.image.reference import familiar, parse, sha256
from rootless.image.transfer import WrongFromDisk, download

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rootless.image.reference import Reference
    from rootless.image.registries import Place
    from rootless.paths import Paths

READ = 1 << 20


class Source(ABC):
    """`what`: its name in messages. `name`: the full reference it has there, or ""."""

    def __init__(self, what: str, name: str = "") -> None:
        self.what = what
        self.name = name

    @abstractmethod
    def top(self) -> tuple[Descriptor, bytes]:
        """The image, or the list of images, that is meant."""

    @abstractmethod
    def file(self, blob: Descriptor) -> str:
        """Path of a file with the bytes, which whoever reads them checks."""

    def repository(self) -> Reference | None:
        """Where in a registry it is, once `top` has been asked; None where it is in none."""
        return None

    def manifest(self, found: Descriptor) -> bytes:
        """Of one image in a list; checked."""
        return self.check(found, read(self.file(found)))

    def check(self, found: Descriptor, data: bytes) -> bytes:
        if sha256(data) != found.digest:
            raise ImageError(f"{self.what} is damaged: {found.digest} has the digest "
                             f"{sha256(data)}")
        return data

    def describe(self, data: bytes, kind: str = "") -> Descriptor:
        """Of a manifest that nothing but itself describes."""
        document = manifests.document(data, f"the manifest of {self.what}")
        told = document.get("mediaType") or kind
        if not isinstance(told, str) or not told:
            told = manifests.OCI_INDEX if "manifests" in document else manifests.OCI_MANIFEST
        return Descriptor(told, sha256(data), len(data))


def read(path: str) -> bytes:
    """A small file. Raises NotFound, StorageError."""
    try:
        return read_bytes(path, manifests.LARGEST)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"no such file: {path}") from None
    except OSError as e:
        raise StorageError(f"cannot read {path}: {os_reason(e)}") from None


# ---- registries --------------------------------------------------------------------------------

class FromRegistry(Source):
    def __init__(self, paths: Paths, name: str, *, tls_verify: bool | None,
                 say: Callable[[str], None]) -> None:
        known = registries.of_this_user(paths, os.environ)
        reference = parse(known.expand(name)).named()
        super().__init__(familiar(reference.full), reference.full)
        self._paths = paths
        self._say = say
        self._verify = tls_verify
        self._rules = policy.of_this_user(paths)
        self._rules.allow(reference)
        self._reference = reference
        self._places = known.places(reference)

    def _connect(self, place: Place) -> None:
        self._registry = registries.connect(place, tls_verify=self._verify, env=os.environ,
                                            home=self._paths.home, say=self._say)

    def top(self) -> tuple[Descriptor, bytes]:
        for place in self._places:
            self._connect(place)
            try:
                return self._top()
            except (RegistryError, NotFound, ImageError) as e:
                if not place.mirror:
                    raise
                self._say(f"{self._registry.host}: passed over: {e.message}")
        raise NotFound(f"no place to copy {self.what} from")

    def _top(self) -> tuple[Descriptor, bytes]:
        reference = self._registry.reference
        body, answer = self._registry.small(f"/manifests/{reference.digest or reference.tag}",
                                            self.what, accept=manifests.ACCEPT,
                                            most=manifests.LARGEST)
        found = self.describe(body, answer.headers.get("Content-Type", "").partition(";")[0])
        stated = reference.digest or answer.headers.get("Docker-Content-Digest")
        if stated and stated != found.digest:
            raise ImageError(f"the manifest of {self.what} was altered on its way: its digest is "
                             f"{found.digest}, not {stated[:80]}")
        self._rules.check(self._registry, self._reference, [found.digest])
        return found, body

    def repository(self) -> Reference | None:
        return self._registry.reference

    def manifest(self, found: Descriptor) -> bytes:
        body, _ = self._registry.small(f"/manifests/{found.digest}", self.what,
                                       accept=manifests.ACCEPT, most=manifests.LARGEST)
        return self.check(found, body)

    def file(self, blob: Descriptor) -> str:
        path = store.blob_path(self._paths, blob.digest)
        if not os.path.exists(path):
            try:
                download(self._paths, self._registry, blob, self.what, _forget, _forget)
            except WrongFromDisk:
                download(self._paths, self._registry, blob, self.what, _forget, _forget)
        return path


def _forget(data: object) -> None:
    pass


# ---- directories and archives ------------------------------------------------------------------

class FromLayout(Source):
    """An OCI layout: a directory or an archive. `locate` finds the file of a digest."""

    def __init__(self, what: str, index: bytes, tag: str, locate: Callable[[str], str]) -> None:
        super().__init__(what)
        self._locate = locate
        entries = manifests.document(index, f"{what}: index.json").get("manifests")
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise ImageError(f"{what} is malformed: index.json lists no manifests")
        found = [e for e in entries if not tag or tag in _names(e)]
        if len(found) != 1:
            known = ", ".join(n for e in entries for n in _names(e)[:1]) or "no names"
            why = f"no image named {tag}" if tag else f"{len(entries)} images"
            raise NotFound(f"{what} has {why}: there is {known}",
                           hint="name the one that is meant after another colon")
        self._entry: dict[str, Any] = found[0]

    def top(self) -> tuple[Descriptor, bytes]:
        found = manifests.descriptor(self._entry, self.what, most=manifests.LARGEST)
        return found, self.manifest(found)

    def file(self, blob: Descriptor) -> str:
        return self._locate(blob.digest)


def _names(entry: dict[str, Any]) -> list[str]:
    found = (store.annotation(entry, key) for key in (store.NAME, archive.CONTAINERD_NAME))
    return [name for name in found if name]


def from_layout(path: str, tag: str) -> Source:
    return FromLayout(path, read(f"{path}/index.json"), tag,
                      lambda digest: f"{path}/blobs/sha256/{digest[7:]}")


class FromDirectory(Source):
    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._path = path

    def top(self) -> tuple[Descriptor, bytes]:
        data = read(f"{self._path}/manifest.json")
        return self.describe(data), data

    def manifest(self, found: Descriptor) -> bytes:
        return self.check(found, read(f"{self._path}/{found.digest[7:]}.manifest.json"))

    def file(self, blob: Descriptor) -> str:
        return f"{self._path}/{blob.digest[7:]}"


def _parts(paths: Paths, path: str) -> archive.Archive:
    directory, fd = archive.open_input(path)
    if directory is not None:
        raise ImageError(f"cannot read {path}: it is a directory, not an archive",
                         hint=f"oci:{path} or dir:{path}")
    try:
        return archive.Archive(paths, None, archive.contents(fd))
    finally:
        if fd > 0:
            os.close(fd)


def _from_parts(paths: Paths, path: str, parts: archive.Archive, index: bytes,
                tag: str) -> Source:
    def locate(digest: str) -> str:
        blob = parts.blob(f"blobs/sha256/{digest[7:]}")
        if blob is None:
            raise ImageError(f"{path} is malformed: it lacks its blob {digest}")
        return store.blob_path(paths, blob.digest)

    return FromLayout(path, index, tag, locate)


def from_oci_archive(paths: Paths, path: str, tag: str) -> Source:
    parts = _parts(paths, path)
    index = parts.text("index.json")
    if index is None:
        raise ImageError(f"{path} is no OCI archive: it has no index.json")
    return _from_parts(paths, path, parts, index, tag)


def from_docker_archive(paths: Paths, path: str, name: str) -> Source:
    whole = parse(name).named().full if name else ""
    parts = _parts(paths, path)
    listing = parts.text("manifest.json")
    if listing is None:
        raise ImageError(f"{path} is no docker archive: it has no manifest.json")
    index = parts.text("index.json")
    if index is not None and archive.has_manifests(parts):
        # Docker since 25, and rootless: there the manifests have kept their digests.
        return _from_parts(paths, path, parts, index, whole)
    found = list(archive.docker_images(paths, parts, listing))
    wanted = [(entry, names) for entry, names in found if not whole or whole in names]
    if len(wanted) != 1:
        known = ", ".join(familiar(n) for _, names in found for n in names) or "no names"
        raise NotFound(f"{path} has {'no image named ' + name if name else 'several images'}: "
                       f"there is {known}", hint="name the one that is meant after another colon")
    entry, names = wanted[0]
    return FromStored(paths, path, names[0] if names else "", entry["digest"])


# ---- our store ---------------------------------------------------------------------------------

class FromStored(Source):
    """A manifest of our store."""

    def __init__(self, paths: Paths, what: str, name: str, digest: str) -> None:
        super().__init__(what, name)
        self._paths = paths
        self._digest = digest

    def top(self) -> tuple[Descriptor, bytes]:
        data = store.read_blob(self._paths, self._digest)
        return self.describe(data), data

    def file(self, blob: Descriptor) -> str:
        return store.blob_path(self._paths, blob.digest)


def from_store(paths: Paths, name: str, *, tls_verify: bool | None,
               say: Callable[[str], None]) -> Source:
    """An image, with Docker's manifest as it came where it has been put into OCI's words; or a
    list in the making."""
    from rootless.image import manifest_list

    listed = manifest_list.find(paths, name)
    if listed is not None:
        return manifest_list.Whole(paths, listed, tls_verify=tls_verify, say=say)
    image = store.find(paths, name)
    if image is None:
        raise shared.missing(paths, name, f"; docker://{name} means a registry's")
    digest = image.digest
    for entry in store.read_index(paths):
        original = store.annotation(entry, store.ORIGINAL)
        if entry["digest"] == digest and original and os.path.exists(
                store.blob_path(paths, original)):
            digest = original
            break
    return FromStored(paths, image.shown, image.name, digest)
