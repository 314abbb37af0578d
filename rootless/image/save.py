"""Images into files: the archives and directories that docker, podman, skopeo and umoci load.

    docker-archive   what Docker writes since 25: an OCI layout in a tar, and beside it the
                     manifest.json that everything older looks for. One archive for all readers.
    oci-archive      the same without manifest.json
    oci-dir          an OCI layout in a directory
    docker-dir       skopeo's `dir:`: manifest.json and blobs by digest, one image

Blobs go out as they lie in the store: nothing is inflated or compressed again, so that digests
stay what the registry knows, and a save costs one read. Each is checked while it is read, as an
archive that cannot be loaded is worse than none. The order is that of the command line and of the
layers, and no header has a time: the same images give the same bytes.
"""

from __future__ import annotations

import os
import stat

from rootless import jsontext
from rootless.errors import StorageError, UsageError, os_reason
from rootless.files import space_hint, write_all, write_atomic
from rootless.image import manifest as manifests
from rootless.image import shared, store
from rootless.image.archive import CONTAINERD_NAME
from rootless.image.reference import parse
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from rootless.image.pax import Writer
    from rootless.image.store import Image
    from rootless.paths import Paths

DOCKER_ARCHIVE, OCI_ARCHIVE, OCI_DIR, DOCKER_DIR = FORMATS = (
    "docker-archive", "oci-archive", "oci-dir", "docker-dir")
DIRECTORIES = frozenset((OCI_DIR, DOCKER_DIR))

LAYOUT = b'{"imageLayoutVersion": "1.0.0"}'
_READ = 1 << 20


@record(frozen=True)
class Chosen:
    """An image, the store it lies in, and the names it goes out with (full references)."""

    paths: Paths
    image: Image
    names: tuple[str, ...]


def choose(paths: Paths, texts: list[str]) -> list[Chosen]:
    """The images that are meant, each once; one that is named by its id goes out without a name.

    Raises NotFound, Conflict, UsageError, StorageError.
    """
    found: dict[str, Chosen] = {}
    for text in texts:
        image = shared.own(paths, text)
        names = found[image.digest].names if image.digest in found else ()
        if _is_name(image, text) and image.name not in names:
            names += (image.name,)
        found[image.digest] = Chosen(paths, image, names)
    return list(found.values())


def _is_name(image: Image, text: str) -> bool:
    """A digest says which image, and is no name that could be given again."""
    try:
        return image.tag != "" and parse(text).named().full == image.name
    except UsageError:
        return False


def archive(chosen: list[Chosen], form: str, write: Callable[[bytes | memoryview], None],
            progress: Callable[[str], None]) -> None:
    """The whole archive, piece by piece. The caller holds `store.hold`."""
    from rootless.image import pax

    tar = pax.Writer(write)
    folders(tar)
    # What describes the rest comes first, so that a reader of a stream may know what to keep.
    tar.text("index.json", _index(chosen))
    if form == DOCKER_ARCHIVE:
        tar.text("manifest.json", _listing(chosen))
    tar.text("oci-layout", LAYOUT)
    for digest, paths in _blobs(chosen).items():
        progress(digest)
        with _Blob(paths, digest) as blob:
            tar.entry(pax.plain(_member(digest), blob.size))
            for piece in blob:
                tar.body(piece)
    tar.finish()


def folders(tar: Writer) -> None:
    """Those of a layout. skopeo, without root, cannot read an archive that only implies them."""
    from rootless.image.tar import DIRECTORY, Entry

    for name in ("blobs", "blobs/sha256"):
        folder = Entry(name.encode(), DIRECTORY, 0)
        folder.mode = 0o755
        tar.entry(folder)


def directory(chosen: list[Chosen], form: str, target: str,
              progress: Callable[[str], None]) -> None:
    """A directory that was not there, or was empty. The caller holds `store.hold`."""
    if form == DOCKER_DIR:
        _docker_dir(chosen, target, progress)
        return
    _make(target + "/blobs/sha256")
    for digest, paths in _blobs(chosen).items():
        progress(digest)
        _copy(paths, digest, f"{target}/{_member(digest)}")
    write_atomic(target + "/oci-layout", LAYOUT, mode=0o644)
    write_atomic(target + "/index.json", _index(chosen), mode=0o644)


def _docker_dir(chosen: list[Chosen], target: str, progress: Callable[[str], None]) -> None:
    if len(chosen) != 1:
        raise UsageError(f"cannot save {len(chosen)} images as {DOCKER_DIR}: it holds one",
                         hint="--format oci-dir takes several")
    paths, image = chosen[0].paths, chosen[0].image
    _make(target)
    for digest in (image.manifest["config"]["digest"], *dict.fromkeys(image.blobs)):
        progress(digest)
        _copy(paths, digest, f"{target}/{digest[7:]}")
    write_atomic(target + "/version", b"Directory Transport Version: 1.1\n", mode=0o644)
    write_atomic(target + "/manifest.json", store.read_blob(paths, image.digest), mode=0o644)


def _make(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as e:
        raise StorageError(f"cannot make {path}: {os_reason(e)}",
                           hint=space_hint(e, path)) from None


def _copy(paths: Paths, digest: str, target: str) -> None:
    try:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            with _Blob(paths, digest) as blob:
                for piece in blob:
                    write_all(fd, piece)
        finally:
            os.close(fd)
    except OSError as e:
        raise StorageError(f"cannot write {target}: {os_reason(e)}",
                           hint=space_hint(e, os.path.dirname(target))) from None


# ---- what describes it -------------------------------------------------------------------------

def _member(digest: str) -> str:
    return f"blobs/sha256/{digest[7:]}"


def _blobs(chosen: list[Chosen]) -> dict[str, Paths]:
    """Digests of all parts, each once, and the store that has them: manifest, configuration and
    layers of one image after another."""
    found: dict[str, Paths] = {}
    for c in chosen:
        for digest in (c.image.digest, c.image.manifest["config"]["digest"], *c.image.blobs):
            found.setdefault(digest, c.paths)
    return found


def _index(chosen: list[Chosen]) -> bytes:
    """podman and umoci look for the whole name where Docker writes the tag alone, and all of them
    read containerd's annotation first."""
    entries: list[dict[str, Any]] = []
    for one in chosen:
        manifest = one.image.manifest
        system = store.platform_of(one.image.config)
        entry = {"mediaType": manifest.get("mediaType") or manifests.OCI_MANIFEST,
                 "digest": one.image.digest, "size": _size(one.paths, one.image.digest),
                 "platform": {"architecture": system.architecture, "os": system.os,
                              **({"variant": system.variant} if system.variant else {})}}
        for name in one.names or ("",):
            notes = {store.NAME: name, CONTAINERD_NAME: name} if name else {}
            entries.append({**entry, **({"annotations": notes} if notes else {})})
    return jsontext.dumps({"schemaVersion": 2, "mediaType": manifests.OCI_INDEX,
                           "manifests": entries}).encode()


def _size(paths: Paths, digest: str) -> int:
    return len(store.read_blob(paths, digest))


def _listing(chosen: list[Chosen]) -> bytes:
    """Whole names: podman takes a short one for its own localhost's."""
    return jsontext.dumps([{
        "Config": _member(c.image.manifest["config"]["digest"]),
        "RepoTags": list(c.names) or None,
        "Layers": [_member(digest) for digest in c.image.blobs]} for c in chosen]).encode()


# ---- in and out --------------------------------------------------------------------------------

class _Blob:
    """A blob of the store in pieces. Raises StorageError when it is not what its name says."""

    def __init__(self, paths: Paths, digest: str) -> None:
        import hashlib

        self._digest = digest
        self._path = store.blob_path(paths, digest)
        self._hash = hashlib.sha256()
        try:
            self._file = open(self._path, "rb", buffering=0)
        except OSError as e:
            raise StorageError(f"cannot read blob {digest}: {os_reason(e)}",
                               hint="rootless system check --repair") from None
        self.size = os.fstat(self._file.fileno()).st_size

    def __enter__(self) -> _Blob:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[memoryview]:
        buffer = bytearray(_READ)
        view = memoryview(buffer)
        while count := self._file.readinto(buffer):
            self._hash.update(view[:count])
            yield view[:count]
        if "sha256:" + self._hash.hexdigest() != self._digest:
            raise StorageError(f"blob {self._digest} is damaged: {self._path}",
                               hint="rootless system check --repair")


class Output:
    """Where an archive goes: a new file that appears when it is whole, or what is there already
    (a pipe, a device, standard output for "")."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._temporary = ""
        try:
            if not path:
                self._fd = 1
            elif _is_special(path):
                self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
            else:
                head, tail = os.path.split(os.path.abspath(path))
                self._temporary = f"{head}/.{tail}.{os.urandom(4).hex()}"
                self._fd = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL
                                   | os.O_CLOEXEC, 0o666)
        except OSError as e:
            raise self._failed(e) from None

    def _failed(self, error: OSError) -> StorageError:
        return StorageError(f"cannot write {self._path or 'standard output'}: {os_reason(error)}",
                            hint=space_hint(error, os.path.dirname(os.path.abspath(self._path))))

    def write(self, data: bytes | memoryview) -> None:
        try:
            write_all(self._fd, data)
        except BrokenPipeError:
            raise
        except OSError as e:
            raise self._failed(e) from None

    @property
    def path(self) -> str:
        """Of the file as long as it is not whole, for a program that writes it."""
        return self._temporary

    def fileno(self) -> int:
        return self._fd

    def commit(self) -> None:
        if self._temporary:
            try:
                os.rename(self._temporary, os.path.abspath(self._path))
            except OSError as e:
                raise self._failed(e) from None
            self._temporary = ""

    def close(self) -> None:
        """In a `finally`: what was not committed is gone."""
        if self._fd != 1:
            os.close(self._fd)
        if self._temporary:
            os.unlink(self._temporary)


def _is_special(path: str) -> bool:
    try:
        st = os.stat(path)
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(st.st_mode):
        raise IsADirectoryError(21, os.strerror(21), path)
    return not stat.S_ISREG(st.st_mode)


def check_target(target: str) -> None:
    """A directory to write must be new or empty. Raises UsageError, StorageError."""
    try:
        if os.listdir(target):
            raise UsageError(f"cannot save to {target}: it is not empty",
                             hint="name a directory that does not exist yet")
    except FileNotFoundError:
        return
    except OSError as e:
        raise StorageError(f"cannot write {target}: {os_reason(e)}") from None
