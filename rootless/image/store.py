"""Images on disk: an OCI image layout, and the layers unpacked beside it.

    images/oci-layout
    images/index.json           names: one descriptor a name, `org.opencontainers.image.ref.name`
    images/blobs/sha256/<hex>   manifests, configurations, layers as they came
    layers/<hex of diffID>/     unpacked, for the overlay

Any OCI tool can read it in place; therefore a manifest of Docker's schema 2 is put into OCI's
words, and kept beside as it came. A name appears in index.json when all that it needs is there;
what no name and no container needs is removed by `rootless.image.gc`. Two locks:

    .index.lock     exclusive, while index.json is replaced. Readers need none: it is a rename.
    .images.lock    shared by whoever makes something that nothing names yet (pull, load, create),
                    exclusive for who removes what nothing names. See `hold`.

This module is on the path of `run`.
"""

from __future__ import annotations

import os

from rootless import jsontext
from rootless.errors import Conflict, ImageError, NotFound, StorageError, UsageError, os_reason
from rootless.files import Lock, read_bytes, space_hint, sync_dir, write_all, write_atomic
from rootless.image import manifest as manifests
from rootless.image.reference import HEX, familiar, is_digest, parse
from rootless.record import record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rootless.paths import Paths
    from rootless.userns.keeper import Userns

    Entry = dict[str, Any]

NAME = "org.opencontainers.image.ref.name"
# The digest under which the registry knows it: of the list of platforms, where there is one.
SOURCE = "org.rootless.source"
# Docker's manifest that was put into OCI's words.
ORIGINAL = "org.rootless.original"
SIZE = "org.rootless.size"

# Files in tmp/: blobs on their way in, and the beginnings of downloads, which outlive a command.
BLOB_PREFIX = "blob-"
PARTIAL_PREFIX = "partial-"


@record(frozen=True)
class Image:
    """One name of an image. `name` is a full reference, or "" for one without any.

    `id` is the digest of the configuration, `digest` that of the manifest, `source` the digest in
    the registry or "". `size`: bytes of all files of all layers. `damaged`: why it cannot be used.
    `file`: the squashfs file in which it lies, instead of in the store.
    """

    id: str
    digest: str
    name: str
    layers: tuple[str, ...]
    config: dict[str, Any]
    manifest: dict[str, Any]
    size: int
    source: str = ""
    damaged: str = ""
    file: str = ""

    @property
    def repository(self) -> str:
        return parse(self.name).repository if self.name else ""

    @property
    def tag(self) -> str:
        return parse(self.name).tag if self.name else ""

    @property
    def shown(self) -> str:
        return familiar(self.name) if self.name else self.id[7:19]

    @property
    def blobs(self) -> tuple[str, ...]:
        """Digests of its layers as they lie in blobs/, bottom first."""
        return tuple(layer["digest"] for layer in self.manifest.get("layers", ()))


# ---- blobs -------------------------------------------------------------------------------------

def blob_path(paths: Paths, digest: str) -> str:
    """Raises ImageError where that is no digest, so that none can lead out of the store."""
    if not is_digest(digest):
        raise ImageError(f"not a sha256 digest: {digest[:80]}")
    return f"{paths.blobs}/{digest[7:]}"


def read_blob(paths: Paths, digest: str) -> bytes:
    """A small blob. Raises StorageError."""
    path = blob_path(paths, digest)
    try:
        return read_bytes(path, manifests.LARGEST)
    except OSError as e:
        raise StorageError(f"cannot read {path}: {os_reason(e)}") from None


def put_blob(paths: Paths, data: bytes) -> str:
    """Keep a small blob; its digest."""
    writer = BlobWriter(paths)
    try:
        writer.write(data)
        return writer.commit(None, None)[0]
    finally:
        writer.abort()


class BlobWriter:
    """A blob on its way in: a locked file in tmp/ that `commit` renames. Call `abort` in a
    `finally`: after `commit` it does nothing."""

    def __init__(self, paths: Paths) -> None:
        import hashlib

        self._paths = paths
        self._hash = hashlib.sha256()
        self.size = 0
        self._path = f"{paths.tmp}/{BLOB_PREFIX}{os.urandom(12).hex()}"
        try:
            self._file: Lock | None = Lock(self._path)
        except OSError as e:
            raise StorageError(f"cannot make {self._path}: {os_reason(e)}",
                               hint=space_hint(e, paths.tmp)) from None

    def write(self, data: bytes | memoryview) -> None:
        assert self._file is not None
        try:
            write_all(self._file.fileno(), data)
        except OSError as e:
            raise StorageError(f"cannot write {self._path}: {os_reason(e)}",
                               hint=space_hint(e, self._paths.tmp)) from None
        self._hash.update(data)
        self.size += len(data)

    def commit(self, digest: str | None, size: int | None) -> tuple[str, int]:
        """(digest, size) of what was written; ImageError when it is not what was expected."""
        found = "sha256:" + self._hash.hexdigest()
        if size is not None and size != self.size:
            raise ImageError(f"blob {digest or found} has {self.size} bytes, not {size}")
        if digest is not None and digest != found:
            raise ImageError(f"blob {digest} is not what it should be: its digest is {found}")
        assert self._file is not None
        keep_blob(self._paths, self._file, found)
        self._file = None
        return found, self.size

    def abort(self) -> None:
        if self._file is not None:
            os.unlink(self._path)
            self._file.release()
            self._file = None


def keep_blob(paths: Paths, file: Lock, digest: str) -> None:
    """A whole file of tmp/, which its maker has locked and checked, becomes a blob, durably."""
    try:
        os.fchmod(file.fileno(), 0o644)
        os.fsync(file.fileno())
        os.rename(file.path, blob_path(paths, digest))
        sync_dir(paths.blobs)
    except OSError as e:
        raise StorageError(f"cannot keep blob {digest}: {os_reason(e)}",
                           hint=space_hint(e, paths.blobs)) from None
    file.release()


# ---- names -------------------------------------------------------------------------------------

def hold(paths: Paths) -> Lock:
    """While it is held nothing is garbage, named or not. Cheap; many may hold it at once."""
    return Lock(paths.data + "/.images.lock", shared=True)


def index_lock(paths: Paths) -> Lock:
    return Lock(paths.data + "/.index.lock")


def read_index(paths: Paths) -> list[Entry]:
    """The descriptors of index.json. Raises StorageError when it is damaged."""
    path = paths.images + "/index.json"
    try:
        value = jsontext.loads(read_bytes(path))
        entries = value["manifests"]
        if all(isinstance(e, dict) and is_digest(e["digest"]) for e in entries):
            return list(entries)
    except FileNotFoundError:
        return []
    except OSError as e:
        raise StorageError(f"cannot read the list of images: {path}: {os_reason(e)}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise StorageError(f"the list of images is damaged: {path}",
                       hint=f"move it away and pull again: mv {path} {path}.damaged")


def write_index(paths: Paths, entries: list[Entry]) -> None:
    """The caller holds `index_lock`."""
    text = jsontext.dumps({"schemaVersion": 2, "mediaType": manifests.OCI_INDEX,
                           "manifests": entries})
    write_atomic(paths.images + "/index.json", text.encode(), mode=0o644, durable=True)


def annotation(entry: Entry, key: str) -> str:
    values = entry.get("annotations")
    value = values.get(key) if isinstance(values, dict) else None
    return value if isinstance(value, str) else ""


def name_of(entry: Entry) -> str:
    """Its full reference. Another tool may have written a short one, or none we can read."""
    text = annotation(entry, NAME)
    try:
        return parse(text).named().full if text else ""
    except UsageError:
        return ""


def load(paths: Paths, entry: Entry) -> Image:
    """Raises StorageError or ImageError when a part is missing or damaged."""
    name, digest = name_of(entry), str(entry["digest"])
    what = f"image {familiar(name) or digest[7:19]}"
    document = manifests.document(read_blob(paths, digest), what)
    if manifests.is_index(document, str(entry.get("mediaType") or ""), what):
        # Not ours: another tool has put a list of platforms here.
        digest = manifests.choose(document, manifests.parse_platform(""), what).digest
        document = manifests.document(read_blob(paths, digest), what)
    config, layers = manifests.image_manifest(document, what)
    settings = manifests.image_config(read_blob(paths, config.digest), len(layers), what)
    size = annotation(entry, SIZE)
    return Image(config.digest, digest, name, tuple(settings["rootfs"]["diff_ids"]), settings,
                 document, int(size) if size.isdigit() else sum(la.size for la in layers),
                 annotation(entry, SOURCE))


def _or_damaged(paths: Paths, entry: Entry) -> Image:
    """Enough to list and remove an image that has lost a part."""
    try:
        return load(paths, entry)
    except (StorageError, ImageError, NotFound) as e:
        digest = str(entry["digest"])
        return Image(digest, digest, name_of(entry), (), {}, {}, 0, annotation(entry, SOURCE),
                     damaged=e.message)


def every(paths: Paths) -> list[Image]:
    """One for each name, newest image first; those that are damaged say so."""
    found: list[Image] = []
    known: dict[tuple[str, str], Image] = {}
    for entry in read_index(paths):
        # Another name of what was read is not read again.
        key = str(entry["digest"]), annotation(entry, SIZE)
        image = known.get(key)
        if image is None:
            image = known[key] = _or_damaged(paths, entry)
        else:
            image = replace(image, name=name_of(entry), source=annotation(entry, SOURCE))
        found.append(image)
    found.sort(key=lambda i: i.name)
    found.sort(key=lambda i: str(i.config.get("created") or ""), reverse=True)
    return found


def find(paths: Paths, name: str) -> Image | None:
    """By name, name@digest, id or unique start of an id. Raises Conflict, UsageError and, when
    the image is damaged, StorageError."""
    entries = read_index(paths)
    prefix = name[7:] if name.startswith("sha256:") else name
    is_hex = bool(prefix) and len(prefix) <= 64 and HEX.issuperset(prefix)
    if not (is_hex and (len(prefix) == 64 or prefix is not name)):
        try:
            entry = _by_name(entries, name)
        except UsageError:
            if not is_hex:
                raise
            entry = None
        if entry is None and "/" not in name:
            whole = expand(paths, name)
            entry = _by_name(entries, whole) if whole != name else None
        if entry is not None:
            return _usable(paths, entry)
    if not is_hex:
        return None
    matches: dict[str, Entry] = {}
    for entry in entries:
        image = _or_damaged(paths, entry)
        if image.id[7:].startswith(prefix):
            matches.setdefault(image.id, entry)
    if len(matches) > 1:
        raise Conflict(f"several images have an id that starts with {prefix}",
                       hint="type more of the id")
    return _usable(paths, next(iter(matches.values()))) if matches else None


def expand(paths: Paths, name: str) -> str:
    """What an alias of config.toml stands for; asked only when nothing has the name as typed."""
    from rootless.image.registries import of_this_user

    return of_this_user(paths, os.environ).expand(name)


def _by_name(entries: list[Entry], name: str) -> Entry | None:
    wanted = parse(name).named()
    if not wanted.digest:
        return next((e for e in entries if name_of(e) == wanted.full), None)
    for entry in entries:
        full = name_of(entry)
        if full and parse(full).repository == wanted.repository \
                and wanted.digest in (entry["digest"], annotation(entry, SOURCE),
                                      annotation(entry, ORIGINAL)):
            return entry
    return None


def _usable(paths: Paths, entry: Entry) -> Image:
    try:
        return load(paths, entry)
    except (StorageError, ImageError) as e:
        name = familiar(name_of(entry))
        raise StorageError(f"the stored image is damaged: {e.message}",
                           hint=f"rootless rmi {name or str(entry['digest'])}, then pull it again"
                           ) from None


def matches(image: Image, platform: str) -> bool:
    """Is the image for `linux/arm64` and the like, or for what such a machine runs too?"""
    wanted = manifests.parse_platform(platform)
    return platform_of(image.config) in manifests.acceptable(wanted)


def platform_of(config: dict[str, Any]) -> manifests.Platform:
    return manifests.normal(config["os"], config["architecture"], config.get("variant") or "")


def publish(paths: Paths, reference: str, descriptor: dict[str, Any], *, source: str = "") -> Image:
    """Give the image of a manifest a name, which may be "". All its blobs are in the store.

    Whoever had the name before keeps its digest as its name, or becomes nameless. `source`: the
    digest the registry gave. The caller holds `hold`.
    """
    full = parse(reference).named().full if reference else ""
    original = ""
    entry: Entry = {k: descriptor[k] for k in ("mediaType", "digest", "size")}
    image = load(paths, entry)
    if entry["mediaType"] == manifests.DOCKER_MANIFEST:
        original = entry["digest"]
        text = jsontext.dumps(manifests.as_oci(image.manifest)).encode()
        entry = {"mediaType": manifests.OCI_MANIFEST, "digest": put_blob(paths, text),
                 "size": len(text)}
    for digest in image.blobs:
        if not os.path.exists(blob_path(paths, digest)):
            raise StorageError(f"image {familiar(full)} lacks its blob {digest}")
    system = platform_of(image.config)
    entry["platform"] = {"architecture": system.architecture, "os": system.os,
                         **({"variant": system.variant} if system.variant else {})}
    entry["annotations"] = {k: v for k, v in (
        (NAME, full), (SOURCE, source), (ORIGINAL, original),
        (SIZE, str(sum(layer_sizes(paths, image))))) if v}
    _note_blobs(paths, image)
    with index_lock(paths):
        write_index(paths, _plain(paths, _with(read_index(paths), entry, full)))
    return load(paths, entry)


def drop(paths: Paths, gone: list[Image]) -> None:
    """Take names away. What nothing names any more is swept by `rootless.image.gc`."""
    keys = {(i.digest, i.name) for i in gone}
    with index_lock(paths):
        entries = read_index(paths)
        write_index(paths, [e for e in entries if (_manifest_of(paths, e), name_of(e)) not in keys])


def untag(paths: Paths, names: set[str]) -> None:
    """Take names (full references) away and nothing else: an image that loses its last stays."""
    with index_lock(paths):
        entries = read_index(paths)
        kept = [e for e in entries if name_of(e) not in names]
        for entry in entries:
            if all(e["digest"] != entry["digest"] for e in kept):
                notes = {k: v for k, v in (entry.get("annotations") or {}).items() if k != NAME}
                kept.append({**entry, "annotations": notes})
        write_index(paths, _plain(paths, kept))


def _manifest_of(paths: Paths, entry: Entry) -> str:
    """The digest an Image of this entry has."""
    return _or_damaged(paths, entry).digest


def tag(paths: Paths, image: Image, name: str) -> None:
    """Another name for the same image. Raises UsageError."""
    wanted = parse(name)
    if wanted.digest:
        raise UsageError(f"cannot tag as {name}: a digest is not for us to give")
    full = wanted.named().full
    with hold(paths), index_lock(paths):
        entries = read_index(paths)
        old = next((e for e in entries if name_of(e) == image.name
                    and _manifest_of(paths, e) == image.digest), None)
        if old is None:
            raise NotFound(f"no such image: {image.shown}: it was removed meanwhile")
        values = {k: v for k, v in old.get("annotations", {}).items()
                  if k in (SIZE, SOURCE, ORIGINAL)}
        if wanted.repository != image.repository:
            values.pop(SOURCE, None)        # that repository may not hold it
        new = {**old, "annotations": {NAME: full, **values}}
        write_index(paths, _plain(paths, _with(entries, new, full)))


def _with(entries: list[Entry], new: Entry, full: str) -> list[Entry]:
    kept: list[Entry] = []
    loser: Entry | None = None
    for entry in entries:
        if full and name_of(entry) == full:
            loser = entry if entry["digest"] != new["digest"] else None
        elif entry["digest"] != new["digest"] or name_of(entry):
            kept.append(entry)
    if loser is not None and all(e["digest"] != loser["digest"] for e in kept):
        values = {k: v for k, v in loser.get("annotations", {}).items() if k != NAME}
        if values.get(SOURCE):
            values[NAME] = f"{parse(full).repository}@{values[SOURCE]}"
        kept.append({**loser, "annotations": values})
    if full or all(e["digest"] != new["digest"] for e in kept):
        kept.append(new)
    return kept


def _plain(paths: Paths, entries: list[Entry]) -> list[Entry]:
    """Without what has no name and is an image that has one, in another form: its layers were
    compressed otherwise when it came by another way."""
    if all(annotation(e, NAME) for e in entries):
        return entries
    known = {_identity(paths, e) for e in entries if annotation(e, NAME)}
    kept: list[Entry] = []
    for entry in reversed(entries):         # of nameless forms the latest
        identity = "" if annotation(entry, NAME) else _identity(paths, entry)
        if not identity or identity not in known:
            kept.append(entry)
        known.add(identity)
    return kept[::-1]


def _identity(paths: Paths, entry: Entry) -> str:
    """The image's id, "" where that cannot be read."""
    try:
        config = manifests.document(read_blob(paths, entry["digest"]), "").get("config")
    except (StorageError, ImageError):
        return ""
    return str(config.get("digest") or "") if isinstance(config, dict) else ""


def layer_sizes(paths: Paths, image: Image) -> list[int]:
    """Bytes of the unpacked files; of the blob where a layer's directory does not tell."""
    found = []
    for diff_id, layer in zip(image.layers, image.manifest["layers"]):
        try:
            found.append(int(os.getxattr(paths.layer(diff_id), "user.rootless.size")))
        except (OSError, ValueError):
            found.append(int(layer["size"]))
    return found


# ---- layers ------------------------------------------------------------------------------------

def note_path(paths: Paths, diff_id: str) -> str:
    """A file that names the blob a layer was made of: they stay or go together."""
    return f"{paths.cache}/blob-of-{diff_id[7:]}"


def _note_blobs(paths: Paths, image: Image) -> None:
    for diff_id, digest in zip(image.layers, image.blobs):
        path = note_path(paths, diff_id)
        if not os.path.exists(path):
            write_atomic(path, digest.encode())


def ensure_layers(paths: Paths, userns: Userns, image: Image,
                  progress: Callable[[str], None] | None = None) -> None:
    """Unpack every layer that has no directory, or one with the owners of another map of ids.

    Raises StorageError when its blob is gone. The caller holds `hold`.
    """
    from rootless.image.unpack import layer_present, unpack_blob

    for diff_id, digest in zip(image.layers, image.blobs):
        if layer_present(paths, userns, diff_id):
            continue
        blob = blob_path(paths, digest)
        if not os.path.exists(blob):
            raise StorageError(f"image {image.shown} has lost its layer {digest[7:19]}",
                               hint=f"rootless pull {image.shown}")
        if progress is not None:
            progress(digest)
        unpack_blob(paths, userns, blob, diff_id)
