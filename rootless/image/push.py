"""Push an image: layers, configuration, and at the very end the manifest and its tag.

    main process                         up to three workers (`rootless.image.workers`)
      who are we, is anything there?
      numbers of layers   --pipe-->       compress where it must be, ask, mount or upload
      what became of each <--pipe--       one JSON line per event
      configuration, manifest

A layer goes out as it lies in the store, and a manifest as it came from its registry, so that
digests stay what they were; unless another format or compression is asked for. A layer that lies
uncompressed in the store (from the archive of an old docker) is compressed first. That blob then
takes the place of the bulky one, and the next push finds it.

Nothing in the registry has a name before all of it is there. A push that is interrupted leaves
whole blobs, which the next finds, and no session of an upload.
"""

from __future__ import annotations

import os
import sys

from rootless import jsontext
from rootless.errors import NotFound, StorageError, UsageError, os_reason
from rootless.files import write_atomic
from rootless.image import compress, gc, manifest, registries, shared, store, upload
from rootless.image.archive import LAYER_TYPES
from rootless.image.progress import PUSH, for_stream
from rootless.image.reference import Reference, familiar, parse, sha256
from rootless.image.upload import Blob
from rootless.image.workers import spread
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TextIO

    from rootless.image.progress import Progress
    from rootless.image.registry import Registry
    from rootless.image.store import Image
    from rootless.image.workers import Tell
    from rootless.paths import Paths

FORMATS = ("oci", "v2s2")
V2S2_LAYER = manifest.DOCKER + "image.rootfs.diff.tar.gzip"
REPORT_EVERY = 1 << 20
# Repositories that a token is asked for, so that layers can be mounted from there.
MOST_SCOPES = 5


@record(frozen=True)
class Form:
    """How it goes out. `manifest`: oci or v2s2, "" as it came. `compression`: gzip or zstd, ""
    as it lies. `level`: every layer is compressed anew with it."""

    manifest: str = ""
    compression: str = ""
    level: int | None = None

    def check(self) -> None:
        """Raises UsageError."""
        if self.manifest and self.manifest not in FORMATS:
            raise UsageError(f"invalid format: {self.manifest}", hint=", ".join(FORMATS))
        if self.compression or self.level is not None:
            compress.check(self.compression or "gzip", self.level)
        if self.manifest == "v2s2" and self.compression == "zstd":
            raise UsageError("cannot push as v2s2 with zstd: that format knows gzip only",
                             hint="--format oci")


def push(paths: Paths, name: str, target: str = "", *, form: Form, all_tags: bool = False,
         quiet: bool = False, tls_verify: bool | None = None,
         out: TextIO | None = None) -> list[tuple[str, str]]:
    """(full reference, digest) of what was pushed. `target`: where to, "" for where its name says.

    Raises UsageError, NotFound, RegistryError, AuthError, StorageError, ImageError.
    """
    form.check()
    paths.ensure()
    gc.tidy(paths)
    progress = for_stream(out or sys.stderr, quiet=quiet, words=PUSH)
    known = registries.of_this_user(paths, os.environ)
    pushed = []
    left = False
    try:
        with store.hold(paths):
            chosen = _chosen(paths, name, target, known.expand, all_tags=all_tags)
            place = known.itself(chosen[0][1])
            registry = registries.connect(place, tls_verify=tls_verify, env=os.environ,
                                          home=paths.home, say=progress.line)
            registry.verb = "push"
            progress.line(f"The push refers to repository [{chosen[0][1].repository}]")
            for image, reference in chosen:
                # What went before may have put better blobs into it.
                image = store.find(paths, image.name or image.id) or image
                one = _Push(paths, image, reference, registry, progress, form)
                try:
                    pushed.append((reference.full, one.run()))
                finally:
                    left = left or one.compressed
    finally:
        progress.close()
        if left:
            # Blobs that were replaced, and those that were made for this push alone.
            gc.sweep(paths, patience=0)
        gc.settle(paths)
    return pushed


def _chosen(paths: Paths, name: str, target: str, expand: Callable[[str], str], *,
            all_tags: bool) -> list[tuple[Image, Reference]]:
    """The images, and the names they get in the registry."""
    if all_tags:
        wanted = parse(expand(name))
        if wanted.tag or wanted.digest or target:
            raise UsageError(f"cannot push all tags of {name}: --all-tags takes a repository "
                             "alone",
                             hint=f"rootless push --all-tags {familiar(wanted.repository)}")
        found = [(i, parse(i.name)) for i in store.every(paths)
                 if i.repository == wanted.repository and i.tag]
        if not found:
            raise NotFound(f"no image of the repository {familiar(wanted.repository)}",
                           hint="rootless images lists what there is")
        found.sort(key=lambda pair: pair[1].tag)
        return found
    image = shared.own(paths, expand(name))
    if not target:
        try:
            reference = parse(expand(name)).named()
        except UsageError:
            reference = None
        if reference is None or reference.full != image.name or reference.digest:
            raise UsageError(f"cannot push {name}: that says which image, not where to",
                             hint=f"rootless push {name} HOST/NAME:TAG")
        return [(image, reference)]
    reference = parse(expand(target.removeprefix("docker://"))).named()
    if reference.digest:
        raise UsageError(f"cannot push to {target}: a digest is not for us to give",
                         hint=f"rootless push {name} {familiar(reference.repository)}:TAG")
    return [(image, reference)]


class _Layer:
    """One blob to push, and what became of it."""

    def __init__(self, entry: dict[str, Any], diff_id: str, blob: Blob) -> None:
        self.entry = entry              # its descriptor in the stored manifest
        self.diff_id = diff_id
        self.blob = blob
        self.label = diff_id[7:19]
        self.form = compress.form_of_blob(blob.path)
        self.wanted = self.form         # how it shall be compressed
        self.anew = False
        self.made: Blob | None = None   # what was pushed instead

    def descriptor(self, *, v2s2: bool) -> dict[str, Any]:
        """In a manifest of what was pushed."""
        if self.made is None and not v2s2:
            return self.entry
        blob = self.made or self.blob
        return {"mediaType": V2S2_LAYER if v2s2 else LAYER_TYPES[self.wanted],
                "digest": blob.digest, "size": blob.size}


class _Push:
    def __init__(self, paths: Paths, image: Image, reference: Reference, registry: Registry,
                 progress: Progress, form: Form) -> None:
        self.paths = paths
        self.image = image
        self.reference = reference
        self.registry = registry
        self.progress = progress
        self.form = form
        self.what = familiar(reference.full)
        self.compressed = False
        self._origins: dict[str, list[str]] = {}

    def run(self) -> str:
        """The digest in the registry."""
        layers = self._plan()
        for layer in layers.values():
            self.progress.line(f"{layer.label}: Preparing")
        config = self._config()
        if layers:
            self._learn_origins()
            # Proves who we are before there are several of us.
            upload.exists(self.registry, config.digest, self.what)
            self._spread(list(layers.values()))
        data, kind = self._manifest(layers)
        self._keep(layers)
        upload.put_blob(self.registry, config, self.what)
        digest = sha256(data)
        upload.put_manifest(self.registry, data, kind, digest, self.what,
                            tag=self.reference.tag)
        self._note(digest)
        self.progress.line(f"{self.reference.tag}: digest: {digest} size: {len(data)}")
        return digest

    def _plan(self) -> dict[str, _Layer]:
        """By digest, each once, from the bottom up."""
        layers: dict[str, _Layer] = {}
        for entry, diff_id in zip(self.image.manifest["layers"], self.image.layers):
            if entry["digest"] in layers:
                continue
            path = store.blob_path(self.paths, entry["digest"])
            layer = _Layer(entry, diff_id, Blob(entry["digest"], _size(path, self.image), path))
            layer.wanted = self.form.compression or (
                layer.form if layer.form in compress.LEVELS else "gzip")
            if self.form.manifest == "v2s2" and layer.wanted == "zstd":
                layer.wanted = "gzip"
            layer.anew = layer.wanted != layer.form or self.form.level is not None
            layers[entry["digest"]] = layer
        return layers

    def _config(self) -> Blob:
        digest = self.image.manifest["config"]["digest"]
        path = store.blob_path(self.paths, digest)
        return Blob(digest, _size(path, self.image), path)

    def _learn_origins(self) -> None:
        """Which other repositories of this registry probably have a blob: those that images with
        it are named after, first those it has come from or gone to."""
        there = self.registry.reference
        for other in sorted(store.every(self.paths), key=lambda i: (not i.source, i.name)):
            name = parse(other.name) if other.name else None
            if name is not None and name.domain == there.domain and name.path != there.path:
                for digest in other.blobs:
                    known = self._origins.setdefault(digest, [])
                    if name.path not in known:
                        known.append(name.path)
        useful = {path for digest in self.image.blobs
                  for path in self._origins.get(digest, ())[:upload.MOST_ORIGINS]}
        self.registry.scopes = [f"repository:{there.path}:pull,push",
                                *(f"repository:{p}:pull" for p in sorted(useful)[:MOST_SCOPES])]

    # ---- layers --------------------------------------------------------------------------------

    def _spread(self, layers: list[_Layer]) -> None:
        def begin(tell: Tell) -> Callable[[int], None]:
            registry = self.registry.fork(lambda text: tell(say=text))
            return lambda number: self._one(registry, layers[number], number, tell)

        def hear(event: dict[str, Any]) -> None:
            if "say" in event:
                self.progress.line(event["say"])
                return
            layer = layers[event["layer"]]
            if "size" in event:
                self.progress.start(layer.label, event["size"])
            elif "bytes" in event:
                self.progress.update(layer.label, event["bytes"])
            elif "digest" in event:
                self.compressed = True
                layer.made = Blob(event["digest"], event["length"],
                                  store.blob_path(self.paths, event["digest"]))
            else:
                self.progress.finish(layer.label, event["done"])

        spread(len(layers), begin, hear, f"push {self.what}")

    def _one(self, registry: Registry, layer: _Layer, number: int, tell: Tell) -> None:
        """In a worker."""
        blob, told = layer.blob, 0
        if layer.anew:
            blob = compress.again(self.paths, blob, layer.diff_id, layer.wanted, self.form.level)
            tell(layer=number, digest=blob.digest, length=blob.size)
        tell(layer=number, size=blob.size)

        def progress(done: int) -> None:
            nonlocal told
            if done - told >= REPORT_EVERY or done == blob.size or done < told:
                told = done
                tell(layer=number, bytes=done)

        done = upload.put_blob(registry, blob, self.what, progress=progress,
                               origins=self._origins.get(blob.digest, ()))
        tell(layer=number, done=done)

    # ---- the manifest --------------------------------------------------------------------------

    def _manifest(self, layers: dict[str, _Layer]) -> tuple[bytes, str]:
        """(bytes, media type): those that we have where nothing in them changes."""
        changed = any(layer.made is not None for layer in layers.values())
        original = _original(self.paths, self.image.digest)
        v2s2 = self.form.manifest == "v2s2" or (not self.form.manifest and original != "")
        if not changed and v2s2 and original:
            return store.read_blob(self.paths, original), manifest.DOCKER_MANIFEST
        kind = self.image.manifest.get("mediaType") or manifest.OCI_MANIFEST
        if not changed and not v2s2 and kind == manifest.OCI_MANIFEST:
            return store.read_blob(self.paths, self.image.digest), kind
        # Only OCI's can say zstd.
        v2s2 = v2s2 and all(layer.wanted == "gzip" for layer in layers.values())
        found = [layers[d].descriptor(v2s2=v2s2) for d in self.image.blobs]
        return self._document(found, v2s2=v2s2), (manifest.DOCKER_MANIFEST if v2s2
                                                  else manifest.OCI_MANIFEST)

    def _document(self, layers: list[dict[str, Any]], *, v2s2: bool) -> bytes:
        old = self.image.manifest
        whole = {
            "schemaVersion": 2,
            "mediaType": manifest.DOCKER_MANIFEST if v2s2 else manifest.OCI_MANIFEST,
            "config": {"mediaType": manifest.DOCKER_CONFIG if v2s2 else manifest.OCI_CONFIG,
                       "digest": old["config"]["digest"], "size": old["config"]["size"]},
            "layers": layers}
        if not v2s2 and old.get("annotations"):
            whole["annotations"] = old["annotations"]
        return jsontext.dumps(whole).encode()

    def _keep(self, layers: dict[str, _Layer]) -> None:
        """Blobs that were made of uncompressed ones take their place, under every name."""
        if all(la.made is None or la.form in compress.LEVELS for la in layers.values()):
            return
        data = self._document(
            [la.entry if la.form in compress.LEVELS else la.descriptor(v2s2=False)
             for la in (layers[digest] for digest in self.image.blobs)], v2s2=False)
        entry = {"mediaType": manifest.OCI_MANIFEST, "digest": store.put_blob(self.paths, data),
                 "size": len(data)}
        old = self.image.digest
        self.image = store.load(self.paths, entry)
        for diff_id, digest in zip(self.image.layers, self.image.blobs):
            write_atomic(store.note_path(self.paths, diff_id), digest.encode())
        with store.index_lock(self.paths):
            entries = [{**_without(e, store.ORIGINAL), **entry} if e["digest"] == old
                       else e for e in store.read_index(self.paths)]
            store.write_index(self.paths, entries)

    def _note(self, digest: str) -> None:
        """The name, if it is one of ours, stands for that digest in its registry now."""
        with store.index_lock(self.paths):
            entries = store.read_index(self.paths)
            for entry in entries:
                if store.name_of(entry) == self.reference.full \
                        and entry["digest"] == self.image.digest:
                    entry["annotations"] = {**entry["annotations"], store.SOURCE: digest}
                    store.write_index(self.paths, entries)


def _original(paths: Paths, digest: str) -> str:
    """Of Docker's manifest that this one was made of, "" where there is none."""
    for entry in store.read_index(paths):
        if entry["digest"] == digest:
            known = store.annotation(entry, store.ORIGINAL)
            if known and os.path.exists(store.blob_path(paths, known)):
                return known
    return ""


def _size(path: str, image: Image) -> int:
    try:
        return os.stat(path).st_size
    except OSError as e:
        raise StorageError(f"image {image.shown} has lost a blob: {path}: {os_reason(e)}",
                           hint="rootless system check --repair") from None


def _without(entry: dict[str, Any], key: str) -> dict[str, Any]:
    notes = {k: v for k, v in (entry.get("annotations") or {}).items() if k != key}
    return {**entry, "annotations": notes}
