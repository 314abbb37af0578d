"""Images out of files: what `docker save`, `podman save` and OCI tools write.

    docker-archive   manifest.json: a list of {Config, RepoTags, Layers}, names of members
    oci-archive      a tar of an OCI image layout: index.json, blobs/sha256/<hex>
    a directory      with an OCI image layout, or what skopeo calls dir: (docker-dir)

An archive comes as a stream, perhaps compressed, and in any order: its JSON is kept in memory
(bounded), everything else goes straight into the store as a blob, and only when the stream has
ended does anyone look what it means. A member that is probably a layer is unpacked on its way,
too. Nothing is copied to a temporary place. Layers are kept as they came: that of a docker-archive
is an uncompressed tar and stays one.

Members are names inside the archive and nothing more: links between them are followed as text.
"""

from __future__ import annotations

import os
import stat

from rootless.errors import ImageError, NotFound, StorageError, UsageError, os_reason
from rootless.image import manifest as manifests
from rootless.image import store
from rootless.image.decompress import bounded, form_of
from rootless.image.manifest import OCI, OCI_CONFIG, OCI_MANIFEST
from rootless.image.reference import HEX, parse, sha256
from rootless.image.tar import FILE, LINK, SYMLINK, Reader, show
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Union

    from rootless.image.store import Image
    from rootless.paths import Paths
    from rootless.userns.keeper import Userns

CONTAINERD_NAME = "io.containerd.image.name"

_LARGEST_TEXT = manifests.LARGEST
# Of all JSON of one archive together, and of its members.
_MOST_TEXT = 64 << 20
_MOST_MEMBERS = 100_000
_MOST_LINKS = 16
# Archives that become no larger than this are not asked how.
_FLOOR = 1 << 30
_READ = 1 << 20
# Smaller members are unpacked before a process for it would have started.
_WORTHWHILE = 1 << 20

LAYER_TYPES = {"": OCI + "layer.v1.tar", "gzip": OCI + "layer.v1.tar+gzip",
               "zstd": OCI + "layer.v1.tar+zstd"}


@record(frozen=True)
class Blob:
    """A part that is in the store. `form`: how it is compressed, "" for not at all."""

    digest: str
    size: int
    form: str


class Archive:
    """The parts of a tar, all of them read already. Without `userns` no layer is unpacked."""

    def __init__(self, paths: Paths, userns: Userns | None, chunks: Iterator[bytes]) -> None:
        self._paths = paths
        self._userns = userns
        self._texts: dict[str, bytes] = {}
        self._blobs: dict[str, Blob] = {}
        self._links: dict[str, str] = {}
        kept = 0
        reader = Reader(chunks)
        for count, entry in enumerate(reader):
            if count > _MOST_MEMBERS:
                raise ImageError("the archive is refused: it has more than "
                                 f"{_MOST_MEMBERS} members")
            name = _clean(os.fsdecode(entry.name))
            if entry.kind == SYMLINK:
                self._links[name] = os.path.dirname(name) + "/" + os.fsdecode(entry.link)
            elif entry.kind == LINK:
                self._links[name] = os.fsdecode(entry.link)
            elif entry.kind == FILE and entry.extents is None:
                kept += self._take(name, entry.size, reader)
                if kept > _MOST_TEXT:
                    raise ImageError("the archive is refused: it has more than "
                                     f"{_MOST_TEXT >> 20} MiB of JSON")
        # To the end, where compression keeps its checksum; and the writer of a pipe is not cut off.
        reader.drain()

    def _take(self, name: str, size: int, reader: Reader) -> int:
        """Keep a member; the bytes of memory it takes."""
        first = next(reader.body(), memoryview(b""))
        if size <= _LARGEST_TEXT and bytes(first[:1]) in (b"{", b"["):
            self._texts[name] = bytes(first) + b"".join(reader.body())
            return size
        writer = store.BlobWriter(self._paths)
        unpacking = _Unpacking(self._paths, self._userns, name, size)
        try:
            head = bytes(first[:6])
            writer.write(first)
            unpacking.write(first)
            for view in reader.body():
                if len(head) < 6:
                    head += bytes(view[:6])
                writer.write(view)
                unpacking.write(view)
            # While this waits for the disk, the layer's files are written.
            digest, size = writer.commit(None, None)
            unpacking.finish()
        finally:
            unpacking.abort()
            writer.abort()
        self._blobs[name] = Blob(digest, size, form_of(head))
        return 0

    def _resolve(self, name: str) -> str:
        name = _clean(name)
        for _ in range(_MOST_LINKS):
            if name not in self._links:
                return name
            name = _clean(self._links[name])
        raise ImageError(f"the archive is malformed: {show(name.encode())}: too many links")

    def text(self, name: str) -> bytes | None:
        return self._texts.get(self._resolve(name))

    def blob(self, name: str) -> Blob | None:
        real = self._resolve(name)
        data = self._texts.get(real)
        if data is not None:
            return Blob(store.put_blob(self._paths, data), len(data), "")
        return self._blobs.get(real)

    def names(self) -> list[str]:
        return [*self._texts, *self._blobs]


class _Unpacking:
    """A member that is probably a layer is unpacked while it arrives, to the gain of time only:
    where it is none, or is no good, or is here already, nothing comes of it, and who needs the
    layer in the end has it unpacked from the blob and hears why that cannot be."""

    def __init__(self, paths: Paths, userns: Userns | None, name: str, size: int) -> None:
        stem = os.path.basename(name).partition(".")[0]
        likely = size >= _WORTHWHILE and len(stem) == 64 and HEX.issuperset(stem)
        digest = "sha256:" + stem
        self._unpacker = None
        # podman names a layer by its diffID, OCI's layout by its digest.
        if likely and userns is not None and not os.path.exists(store.blob_path(paths, digest)) \
                and not os.path.lexists(paths.layer(digest)):
            from rootless.image.unpack import Unpacker

            self._unpacker = Unpacker(paths, userns, expected="", blob_size=size)

    def write(self, data: memoryview) -> None:
        if self._unpacker is not None:
            try:
                self._unpacker.write(data)
            except ImageError:
                self.abort()

    def finish(self) -> None:
        if self._unpacker is not None:
            try:
                self._unpacker.finish()
            except ImageError:
                self.abort()

    def abort(self) -> None:
        if self._unpacker is not None:
            self._unpacker.abort()
            self._unpacker = None


class _Directory:
    """The parts of an OCI image layout on disk; what is asked for is copied into the store."""

    def __init__(self, paths: Paths, path: str) -> None:
        self._paths = paths
        self._path = path

    def _open(self, name: str) -> int | None:
        try:
            # A pipe in the place of a file must not make us wait.
            fd = os.open(f"{self._path}/{_clean(name)}",
                         os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        except FileNotFoundError:
            return None
        except OSError as e:
            raise StorageError(f"cannot read {self._path}/{name}: {os_reason(e)}") from None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise ImageError(f"cannot read {self._path}/{name}: it is not a regular file")
        return fd

    def text(self, name: str) -> bytes | None:
        fd = self._open(name)
        if fd is None:
            return None
        with os.fdopen(fd, "rb") as f:
            data = f.read(_LARGEST_TEXT + 1)
        if len(data) > _LARGEST_TEXT:
            raise ImageError(f"cannot read {self._path}/{name}: it has more than "
                             f"{_LARGEST_TEXT >> 20} MiB")
        return data

    def blob(self, name: str) -> Blob | None:
        fd = self._open(name)
        if fd is None:
            return None
        writer = store.BlobWriter(self._paths)
        try:
            head = b""
            while data := os.read(fd, _READ):
                head = head or data[:6]
                writer.write(data)
            return Blob(*writer.commit(None, None), form_of(head))
        except OSError as e:
            raise StorageError(f"cannot read {self._path}/{name}: {os_reason(e)}") from None
        finally:
            writer.abort()
            os.close(fd)

    def names(self) -> list[str]:
        return os.listdir(self._path)


if TYPE_CHECKING:
    Parts = Union[Archive, _Directory]


def _clean(name: str) -> str:
    """A member's name, the root of the archive being the root of all."""
    return os.path.normpath("/" + name).lstrip("/")


def load(paths: Paths, userns: Userns, path: str | None, fd: int, *, platform: str = "",
         progress: Callable[[str], None] | None = None) -> list[tuple[str, Image]]:
    """(name or "", image) of all that was loaded from the directory `path` or from the
    descriptor. The caller holds `store.hold`. Raises ImageError, StorageError, NotFound."""
    parts: Parts = (Archive(paths, userns, contents(fd)) if path is None
                    else _Directory(paths, path))
    listing = parts.text("manifest.json")
    if listing is not None and parts.text("version") is not None:
        found = [_plain_directory(parts, listing, platform)]
    elif listing is not None and not has_manifests(parts):
        found = list(docker_images(paths, parts, listing))
    elif parts.text("index.json") is not None:
        found = list(_oci(paths, parts, platform))
    elif "repositories" in parts.names():
        raise ImageError("the archive is in the format of Docker before 1.10",
                         hint="load and save it again with a Docker of this decade")
    else:
        seen = ", ".join(sorted(show(os.fsencode(n)) for n in parts.names())[:3])
        raise ImageError("this is no archive of images: it has neither manifest.json nor "
                         f"index.json{', but ' + seen if seen else ''}",
                         hint="rootless import makes an image from an archive of a filesystem")
    if not found:
        raise ImageError("the archive holds no image")
    loaded: list[tuple[str, Image]] = []
    for entry, names in found:
        store.ensure_layers(paths, userns, store.load(paths, entry), progress)
        for name in names or [""]:
            loaded.append((name, store.publish(paths, name, entry)))
    return loaded


def contents(fd: int) -> Iterator[bytes]:
    """The tar that comes out of a descriptor. Raises ImageError for a bomb: an archive has no
    excuse to grow as a layer may, as what is in it is mostly compressed itself."""
    st = os.fstat(fd)
    return bounded(fd, st.st_size if stat.S_ISREG(st.st_mode) else 0, "the archive", _FLOOR)


def has_manifests(parts: Parts) -> bool:
    """Docker since 25, and rootless, write an OCI layout too. Its manifests keep their digests;
    but an entry that is a list for many machines may name what the archive lacks."""
    data = parts.text("index.json")
    entries = None if data is None else manifests.document(data, "index.json").get("manifests")
    return bool(entries) and isinstance(entries, list) and all(
        isinstance(e, dict) and e.get("mediaType") in (OCI_MANIFEST, manifests.DOCKER_MANIFEST)
        for e in entries)


def docker_images(paths: Paths, parts: Parts,
            listing: bytes) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """(descriptor of a manifest of ours, names) for each image of manifest.json."""
    for number, item in enumerate(_list(listing), 1):
        what = f"image {number} of the archive"
        config_name, layers = item.get("Config"), item.get("Layers")
        if not isinstance(config_name, str) or not isinstance(layers, list):
            raise ImageError(f"{what} is malformed: it lacks Config or Layers")
        config = parts.text(config_name)
        if config is None:
            raise ImageError(f"{what} is malformed: the archive lacks its Config, "
                             f"{show(config_name.encode())}")
        manifests.image_config(config, len(layers), what)
        blobs = []
        for name in layers:
            blob = parts.blob(name) if isinstance(name, str) else None
            if blob is None:
                raise ImageError(f"{what} is malformed: the archive lacks its layer "
                                 f"{show(str(name).encode())}")
            blobs.append(blob)
        names = item.get("RepoTags") or []
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise ImageError(f"{what} is malformed: RepoTags is not a list of texts")
        yield put_manifest(paths, config, blobs), [_name(n, what) for n in names]


def put_manifest(paths: Paths, config: bytes, layers: list[Blob]) -> dict[str, Any]:
    """Make the manifest of an image whose layers are in the store; its descriptor."""
    from rootless import jsontext

    data = jsontext.dumps({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": store.put_blob(paths, config),
                   "size": len(config)},
        "layers": [{"mediaType": _layer_type(b), "digest": b.digest, "size": b.size}
                   for b in layers]}).encode()
    return {"mediaType": OCI_MANIFEST, "digest": store.put_blob(paths, data), "size": len(data)}


def _layer_type(blob: Blob) -> str:
    kind = LAYER_TYPES.get(blob.form)
    if kind is None:
        raise ImageError(f"layer {blob.digest} is compressed with {blob.form}, which images do "
                         "not know")
    return kind


def _oci(paths: Paths, parts: Parts,
         platform: str) -> Iterator[tuple[dict[str, Any], list[str]]]:
    index = manifests.document(parts.text("index.json") or b"", "index.json")
    entries = index.get("manifests")
    if not isinstance(entries, list):
        raise ImageError("index.json is malformed: it lists no manifests")
    for number, entry in enumerate(entries, 1):
        what = f"image {number} of the archive"
        top = manifests.descriptor(entry, what, most=manifests.LARGEST)
        chosen, document = top, _document(parts, top.digest, what)
        if manifests.is_index(document, top.media_type, what):
            chosen = manifests.choose(document, manifests.parse_platform(platform), what)
            document = _document(parts, chosen.digest, what)
        yield (_taken(parts, chosen, document, what, _blob_name(chosen.digest), _blob_name),
               _oci_names(entry, what))


def _plain_directory(parts: Parts, data: bytes,
                     platform: str) -> tuple[dict[str, Any], list[str]]:
    """manifest.json, <hex>.manifest.json of each image in a list, <hex> of each blob; no names."""
    what, member = "the image", "manifest.json"
    document = manifests.document(data, what)
    kind = document.get("mediaType")
    chosen = manifests.Descriptor(kind if isinstance(kind, str) else OCI_MANIFEST, sha256(data),
                                  len(data))
    if manifests.is_index(document, chosen.media_type, what):
        chosen = manifests.choose(document, manifests.parse_platform(platform), what)
        member = f"{chosen.digest[7:]}.manifest.json"
        document = manifests.document(parts.text(member) or b"", what)
    return _taken(parts, chosen, document, what, member, lambda digest: digest[7:]), []


def _taken(parts: Parts, chosen: manifests.Descriptor, document: dict[str, Any], what: str,
           member: str, place: Callable[[str], str]) -> dict[str, Any]:
    """Bring a manifest, which is in `member`, and its blobs into the store; its descriptor."""
    config, layers = manifests.image_manifest(document, what)
    members = {digest: place(digest) for digest in (config.digest, *(la.digest for la in layers))}
    for digest, name in {chosen.digest: member, **members}.items():
        blob = parts.blob(name)
        if blob is None:
            raise ImageError(f"{what} is malformed: the archive lacks its blob {digest}")
        if blob.digest != digest:
            raise ImageError(f"{what} is damaged: blob {digest} has the digest {blob.digest}")
    return {"mediaType": chosen.media_type, "digest": chosen.digest, "size": chosen.size}


def _blob_name(digest: str) -> str:
    return f"blobs/sha256/{digest[7:]}"


def _document(parts: Parts, digest: str, what: str) -> dict[str, Any]:
    data = parts.text(_blob_name(digest))
    if data is None:
        raise ImageError(f"{what} is malformed: the archive lacks its manifest {digest}")
    return manifests.document(data, what)


def _oci_names(entry: dict[str, Any], what: str) -> list[str]:
    """containerd and docker write the whole name beside the tag, podman writes it instead."""
    whole = store.annotation(entry, CONTAINERD_NAME)
    text = whole or store.annotation(entry, store.NAME)
    # A lone tag, as the specification means it, names no image.
    if not text or (not whole and (text == "latest" or text[0].isdigit())
                    and "/" not in text and ":" not in text):
        return []
    return [_name(text, what)]


def _name(text: str, what: str) -> str:
    try:
        return parse(text).named().full
    except UsageError as e:
        raise ImageError(f"{what} has an impossible name: {e.message}") from None


def _list(data: bytes) -> list[dict[str, Any]]:
    from rootless import jsontext

    try:
        value = jsontext.loads(data)
    except ValueError as e:
        raise ImageError(f"manifest.json is malformed: it is not JSON: {e}") from None
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ImageError("manifest.json is malformed: it is not a list of objects")
    return value


def open_input(name: str) -> tuple[str | None, int]:
    """(a directory, -1) or (None, a descriptor to read); `-` is standard input.

    Raises NotFound, StorageError, UsageError.
    """
    if name == "-":
        if os.isatty(0):
            raise UsageError("cannot read an archive from the terminal",
                             hint="-i FILE, or redirect standard input: < FILE")
        return None, 0
    if os.path.isdir(name):
        return name, -1
    try:
        return None, os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except FileNotFoundError:
        raise NotFound(f"no such file: {name}") from None
    except OSError as e:
        raise StorageError(f"cannot read {name}: {os_reason(e)}") from None
