"""Where a copy goes to. What is half there has no name.

    docker://NAME                 blobs first, then the manifest with its tag; what is in another
                                  repository of the same registry is mounted from there
    oci:DIR[:TAG]                 blobs by rename, index.json last; other images there stay
    oci-archive:FILE[:TAG]        a new file that takes its name when it is whole
    docker-archive:FILE[:NAME]    the same, readable for docker and as an OCI layout
    dir:PATH                      a new directory that takes its name when it is whole
    store:NAME                    our store: unpacked, then named

A manifest goes out as it came, unless the place knows another format only: an OCI layout has no
manifests of Docker's. Every blob is checked while it is written.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod

from rootless import jsontext
from rootless.errors import ImageError, StorageError, UsageError, os_reason
from rootless.files import Lock, space_hint, write_all, write_atomic
from rootless.image import manifest as manifests
from rootless.image import registries, store, upload
from rootless.image.archive import CONTAINERD_NAME
from rootless.image.manifest import Descriptor
from rootless.image.pax import Writer, plain
from rootless.image.reference import familiar, parse
from rootless.image.save import LAYOUT, Output, folders
from rootless.image.sources import read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from rootless.image.reference import Reference
    from rootless.paths import Paths
    from rootless.userns.keeper import Userns

READ = 1 << 20
_VERSION = b"Directory Transport Version: 1.1\n"


class Target(ABC):
    """Blobs, then manifests, then `commit`; `close` in a `finally`.

    `forms`: formats of manifests that it can hold. `lists`: can it hold an image for several
    platforms?
    """

    forms: tuple[str, ...] = ("oci", "v2s2")
    lists = True

    def comes_from(self, repository: Reference) -> None:  # noqa: B027
        """Before all else, where the source is a registry."""

    def take(self, blob: Descriptor) -> bool:
        """Can it get the blob from there by itself? Then it has it now."""
        return False

    @abstractmethod
    def has(self, blob: Descriptor) -> bool:
        """Is it there already?"""

    @abstractmethod
    def put_blob(self, blob: Descriptor, path: str) -> None:
        """`path`: a file with its bytes."""

    @abstractmethod
    def put_manifest(self, found: Descriptor, data: bytes, *, top: bool) -> None:
        """`top`: the one that gets the name; the last."""

    def commit(self) -> None:  # noqa: B027
        """It is whole: give it its name."""

    def close(self) -> None:  # noqa: B027
        """What has no name by now is gone."""


def pieces(blob: Descriptor, path: str) -> Iterator[memoryview]:
    """A blob in blocks. Raises ImageError at the end when it was not what it should be."""
    seen, size = hashlib.sha256(), 0
    view = memoryview(bytearray(READ))
    try:
        with open(path, "rb", buffering=0) as file:
            while count := file.readinto(view):
                seen.update(view[:count])
                size += count
                if size > blob.size:
                    break
                yield view[:count]
    except OSError as e:
        raise StorageError(f"cannot read {path}: {os_reason(e)}") from None
    if size != blob.size or "sha256:" + seen.hexdigest() != blob.digest:
        raise ImageError(f"blob {blob.digest} is damaged: {path} is not what its name says")


class ToRegistry(Target):
    def __init__(self, paths: Paths, name: str, *, tls_verify: bool | None,
                 say: Callable[[str], None]) -> None:
        known = registries.of_this_user(paths, os.environ)
        self._reference = parse(known.expand(name)).named()
        self._what = familiar(self._reference.full)
        self._registry = registries.connect(known.itself(self._reference), tls_verify=tls_verify,
                                            env=os.environ, home=paths.home, say=say)
        self._registry.verb = "push"
        self._registry.scopes = [f"repository:{self._registry.reference.path}:pull,push"]
        self._origin = ""

    def comes_from(self, repository: Reference) -> None:
        here = self._registry.reference
        if repository.domain == here.domain and repository.path != here.path:
            self._origin = repository.path
            self._registry.scopes.append(f"repository:{repository.path}:pull")

    def take(self, blob: Descriptor) -> bool:
        return bool(self._origin) and upload.mount(self._registry, blob.digest, self._origin,
                                                   self._what)

    def has(self, blob: Descriptor) -> bool:
        return upload.exists(self._registry, blob.digest, self._what)

    def put_blob(self, blob: Descriptor, path: str) -> None:
        # The registry checks the digest.
        upload.put_blob(self._registry, upload.Blob(blob.digest, blob.size, path), self._what)

    def put_manifest(self, found: Descriptor, data: bytes, *, top: bool) -> None:
        wanted = self._reference.digest
        if top and wanted and wanted != found.digest:
            raise UsageError(f"cannot copy to {self._what}: the image has the digest "
                             f"{found.digest}", hint="name a tag")
        upload.put_manifest(self._registry, data, found.media_type, found.digest, self._what,
                            tag=self._reference.tag if top else "")


# ---- directories -------------------------------------------------------------------------------

class _Directory(Target):
    """Files in a directory that is there, or in a new one that is renamed at the end."""

    def __init__(self, path: str, *, join: bool) -> None:
        self._path = os.path.abspath(path)
        head, tail = os.path.split(self._path)
        self._new = not join
        self._work = self._path if join else f"{head}/.{tail}.{os.urandom(4).hex()}"
        self.make("")

    def make(self, name: str) -> None:
        path = f"{self._work}/{name}"
        try:
            os.makedirs(path, exist_ok=True)
        except OSError as e:
            raise StorageError(f"cannot make {path}: {os_reason(e)}",
                               hint=space_hint(e, self._path)) from None

    def write(self, name: str, data: bytes) -> None:
        write_atomic(f"{self._work}/{name}", data, mode=0o644)

    def copy(self, blob: Descriptor, path: str, name: str) -> None:
        target = f"{self._work}/{name}"
        half = f"{os.path.dirname(target)}/.{os.path.basename(name)}.{os.urandom(4).hex()}"
        try:
            fd = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                for piece in pieces(blob, path):
                    write_all(fd, piece)
                os.rename(half, target)
                half = ""
            finally:
                os.close(fd)
                if half:
                    os.unlink(half)
        except OSError as e:
            raise StorageError(f"cannot write {target}: {os_reason(e)}",
                               hint=space_hint(e, self._path)) from None

    def present(self, name: str, size: int) -> bool:
        try:
            return os.stat(f"{self._work}/{name}").st_size == size
        except OSError:
            return False

    def commit(self) -> None:
        if not self._new:
            return
        old = f"{self._work}.old"
        try:
            try:
                os.rename(self._work, self._path)
            except OSError:
                # Not empty: what was there makes way.
                os.rename(self._path, old)
                os.rename(self._work, self._path)
        except OSError as e:
            raise StorageError(f"cannot write {self._path}: {os_reason(e)}") from None
        self._new = False
        _remove(old)

    def close(self) -> None:
        if self._new:
            _remove(self._work)


def _remove(path: str) -> None:
    import shutil

    shutil.rmtree(path, ignore_errors=True)


class ToLayout(_Directory):
    forms = ("oci",)

    def __init__(self, path: str, tag: str) -> None:
        there = os.path.exists(f"{path}/oci-layout")
        if not there and os.path.isdir(path) and os.listdir(path):
            raise UsageError(f"cannot copy to {path}: it is neither empty nor an OCI layout",
                             hint="name a directory that does not exist yet")
        self._tag = tag
        super().__init__(path, join=there)
        self.make("blobs/sha256")

    def has(self, blob: Descriptor) -> bool:
        return self.present(_member(blob.digest), blob.size)

    def put_blob(self, blob: Descriptor, path: str) -> None:
        self.copy(blob, path, _member(blob.digest))

    def put_manifest(self, found: Descriptor, data: bytes, *, top: bool) -> None:
        self.write(_member(found.digest), data)
        if not top:
            return
        # Two of us may add their images at once.
        with Lock(f"{self._work}/.rootless.lock") as lock:
            entries = []
            if not self._new:
                listed = manifests.document(read(f"{self._path}/index.json"),
                                            f"{self._path}/index.json").get("manifests")
                entries = [e for e in listed if isinstance(e, dict)] \
                    if isinstance(listed, list) else []
            kept = [e for e in entries
                    if (store.annotation(e, store.NAME) != self._tag if self._tag
                        else e.get("digest") != found.digest or store.annotation(e, store.NAME))]
            self.write("index.json", _index([*kept, _entry(found, self._tag)]))
            self.write("oci-layout", LAYOUT)
            os.unlink(lock.path)


class ToDirectory(_Directory):
    def __init__(self, path: str) -> None:
        if os.path.isdir(path) and os.listdir(path) and not os.path.exists(f"{path}/version"):
            raise UsageError(f"cannot copy to {path}: it is neither empty nor a dir: of an image",
                             hint="name a directory that does not exist yet")
        super().__init__(path, join=False)

    def has(self, blob: Descriptor) -> bool:
        return self.present(blob.digest[7:], blob.size)

    def put_blob(self, blob: Descriptor, path: str) -> None:
        self.copy(blob, path, blob.digest[7:])

    def put_manifest(self, found: Descriptor, data: bytes, *, top: bool) -> None:
        if top:
            self.write("version", _VERSION)
        self.write("manifest.json" if top else f"{found.digest[7:]}.manifest.json", data)


def _member(digest: str) -> str:
    return f"blobs/sha256/{digest[7:]}"


def _index(entries: list[dict[str, Any]]) -> bytes:
    return jsontext.dumps({"schemaVersion": 2, "mediaType": manifests.OCI_INDEX,
                           "manifests": entries}).encode()


def _entry(found: Descriptor, tag: str) -> dict[str, Any]:
    return {"mediaType": found.media_type, "digest": found.digest, "size": found.size,
            **({"annotations": {store.NAME: tag}} if tag else {})}


# ---- archives ----------------------------------------------------------------------------------

class ToArchive(Target):
    """`docker`: with the manifest.json that docker looks for, which has one image only."""

    forms = ("oci",)

    def __init__(self, path: str, name: str, *, docker: bool) -> None:
        self.lists = not docker
        self._docker = docker
        self._name = parse(name).named().full if docker and name else name
        if docker and name and parse(name).digest:
            raise UsageError(f"cannot copy as {name}: a digest is no name in an archive")
        self._out = Output(path)
        self._tar = Writer(self._out.write)
        folders(self._tar)
        self._seen: set[str] = set()

    def has(self, blob: Descriptor) -> bool:
        return blob.digest in self._seen

    def put_blob(self, blob: Descriptor, path: str) -> None:
        self._seen.add(blob.digest)
        self._tar.entry(plain(_member(blob.digest), blob.size))
        for piece in pieces(blob, path):
            self._tar.body(piece)

    def put_manifest(self, found: Descriptor, data: bytes, *, top: bool) -> None:
        if found.digest not in self._seen:
            self._seen.add(found.digest)
            self._tar.text(_member(found.digest), data)
        if not top:
            return
        entry = _entry(found, self._name)
        if self._docker:
            if self._name:
                entry["annotations"][CONTAINERD_NAME] = self._name
            config, layers = manifests.image_manifest(
                manifests.document(data, "the manifest"), "the manifest")
            self._tar.text("manifest.json", jsontext.dumps([{
                "Config": _member(config.digest),
                "RepoTags": [self._name] if self._name else None,
                "Layers": [_member(la.digest) for la in layers]}]).encode())
        self._tar.text("oci-layout", LAYOUT)
        self._tar.text("index.json", _index([entry]))

    def commit(self) -> None:
        self._tar.finish()
        self._out.commit()

    def close(self) -> None:
        self._out.close()


class ToStore(Target):
    """The caller holds `store.hold`."""

    lists = False

    def __init__(self, paths: Paths, userns: Userns, name: str) -> None:
        if parse(name).digest:
            raise UsageError(f"cannot copy to {name}: a digest is not for us to give",
                             hint="name a tag")
        self._paths = paths
        self._userns = userns
        self._name = parse(name).named().full
        self._entry: dict[str, Any] = {}

    def has(self, blob: Descriptor) -> bool:
        return os.path.exists(store.blob_path(self._paths, blob.digest))

    def put_blob(self, blob: Descriptor, path: str) -> None:
        writer = store.BlobWriter(self._paths)
        try:
            for piece in pieces(blob, path):
                writer.write(piece)
            writer.commit(blob.digest, blob.size)
        finally:
            writer.abort()

    def put_manifest(self, found: Descriptor, data: bytes, *, top: bool) -> None:
        store.put_blob(self._paths, data)
        self._entry = _entry(found, "")

    def commit(self) -> None:
        store.ensure_layers(self._paths, self._userns, store.load(self._paths, self._entry))
        store.publish(self._paths, self._name, self._entry)
