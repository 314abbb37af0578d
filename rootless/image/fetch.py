"""Fetch an image: manifest, configuration, layers, and at the very end the name.

    main process               up to three workers (`rootless.image.workers`)
      manifest, config
      layers            -->      download + unpack one, take the next
      progress          <--
      publish the name

Nothing is trusted before its digest has been checked, and nothing has a name before all of it is
in the store; a fetch that ends early, even by kill -9, leaves whole blobs, whole layers and
beginnings of downloads (`rootless.image.transfer`), from which the next goes on. Only when the
image itself is refused the beginnings go too.
"""

from __future__ import annotations

import os

from rootless.errors import ImageError, NotFound, RegistryError, StorageError
from rootless.image import manifest, store
from rootless.image.manifest import Descriptor, Platform
from rootless.image.reference import Reference, familiar, sha256
from rootless.image.transfer import WrongFromDisk, download, forget
from rootless.image.unpack import Unpacker, layer_present, unpack_blob
from rootless.image.workers import spread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rootless.image.policy import Policy
    from rootless.image.progress import Progress
    from rootless.image.registry import Registry
    from rootless.image.store import Image
    from rootless.image.workers import Tell
    from rootless.paths import Paths
    from rootless.userns.keeper import Userns

REPORT_EVERY = 1 << 20


class Job:
    """One layer."""

    def __init__(self, blob: Descriptor, diff_id: str) -> None:
        self.blob = blob
        self.diff_id = diff_id
        self.label = blob.digest[7:19]


class Fetch:
    """`strict`: an image for another platform is none."""

    def __init__(self, paths: Paths, userns: Userns, registry: Registry, reference: Reference,
                 platform: Platform, rules: Policy, progress: Progress, *, strict: bool) -> None:
        self.paths = paths
        self.userns = userns
        self.registry = registry
        self.reference = reference
        self.platform = platform
        self.policy = rules
        self.progress = progress
        self.strict = strict
        self.what = familiar(reference.full)

    def run(self) -> Image:
        source, found, body = self._manifest()
        what = self.what
        document = manifest.document(body, f"the manifest of {what}")
        if manifest.is_index(document, found.media_type, f"the manifest of {what}"):
            found = manifest.choose(document, self.platform, what)
            body = self._small(found, "/manifests/", f"the manifest of {what}")
            document = manifest.document(body, f"the manifest of {what}")
            if manifest.is_index(document, found.media_type, f"the manifest of {what}"):
                raise ImageError(f"the manifest of {what} is malformed: a list within a list")
        # cosign signs what the name stands for, others every image of a list.
        self.policy.check(self.registry, self.reference, list(dict.fromkeys(
            (source, found.digest))))
        config, layers = manifest.image_manifest(document, what)
        settings_text = self._small(config, "/blobs/", f"the configuration of {what}")
        settings = manifest.image_config(settings_text, len(layers), what)
        self._check_platform(settings)
        jobs = {(la.digest, d): Job(la, d) for la, d in zip(layers, settings["rootfs"]["diff_ids"])}
        self._layers(list(jobs.values()))
        store.put_blob(self.paths, settings_text)
        store.put_blob(self.paths, body)
        return store.publish(self.paths, self.reference.full, {
            "mediaType": found.media_type, "digest": found.digest, "size": len(body)},
            source=source)

    def _manifest(self) -> tuple[str, Descriptor, bytes]:
        """(digest in the registry, descriptor, bytes) of what the name stands for."""
        at = self.reference.digest or self.reference.tag
        body, answer = self.registry.small(f"/manifests/{at}", self.what, accept=manifest.ACCEPT,
                                           most=manifest.LARGEST)
        digest = sha256(body)
        stated = self.reference.digest or answer.headers.get("Docker-Content-Digest") or digest
        if stated != digest:
            raise ImageError(f"the manifest of {self.what} was altered on its way: its digest is "
                             f"{digest}, not {stated[:80]}")
        document = manifest.document(body, f"the manifest of {self.what}")
        kind = document.get("mediaType") or answer.headers.get("Content-Type", "").partition(
            ";")[0].strip()
        if not isinstance(kind, str) or not kind:
            kind = manifest.OCI_INDEX if "manifests" in document else manifest.OCI_MANIFEST
        return digest, Descriptor(kind, digest, len(body)), body

    def _small(self, blob: Descriptor, place: str, what: str) -> bytes:
        """A manifest or configuration, from the store or the registry; checked."""
        try:
            body = store.read_blob(self.paths, blob.digest)
            if sha256(body) == blob.digest:
                return body
        except StorageError:
            pass
        body, _ = self.registry.small(place + blob.digest, what, most=manifest.LARGEST,
                                      accept=manifest.ACCEPT if place == "/manifests/" else "")
        if len(body) != blob.size:
            raise ImageError(f"{what} has {len(body)} bytes, not {blob.size}")
        if sha256(body) != blob.digest:
            raise ImageError(f"{what} was altered on its way: its digest is {sha256(body)}, not "
                             f"{blob.digest}")
        return body

    def _check_platform(self, config: dict[str, Any]) -> None:
        there = store.platform_of(config)
        if there in manifest.acceptable(self.platform):
            return
        if self.strict:
            raise NotFound(f"{self.what} is not made for {self.platform}: there is {there}",
                           hint=f"--platform {there}")
        self.progress.line(f"WARNING: {self.what} is made for {there}, this machine is "
                           f"{self.platform}")

    # ---- layers --------------------------------------------------------------------------------

    def _layers(self, jobs: list[Job]) -> None:
        todo = []
        for job in jobs:
            if layer_present(self.paths, self.userns, job.diff_id) and os.path.exists(
                    store.blob_path(self.paths, job.blob.digest)):
                self.progress.finish(job.label, "Already exists")
            else:
                todo.append(job)
        if not todo:
            return
        try:
            self._spread(todo)
        except ImageError:
            # The next pull would end the same way: there is nothing to go on from.
            for job in todo:
                forget(self.paths, job.blob)
            raise

    def _spread(self, jobs: list[Job]) -> None:
        # What every worker needs is loaded once, before there are several.
        __import__("rootless.image.extraction")

        def begin(tell: Tell) -> Callable[[int], None]:
            registry = self.registry.fork(lambda text: tell(say=text))
            return lambda number: self._one(registry, jobs[number], number, tell)

        def hear(event: dict[str, Any]) -> None:
            if "say" in event:
                self.progress.line(event["say"])
                return
            job = jobs[event["layer"]]
            if "bytes" in event:
                self.progress.update(job.label, event["bytes"])
            elif event["done"]:
                self.progress.finish(job.label, "Pull complete")
            else:
                self.progress.start(job.label, job.blob.size)

        spread(len(jobs), begin, hear, f"pull {self.what}")

    def _one(self, registry: Registry, job: Job, number: int, tell: Tell) -> None:
        """In a worker."""
        tell(layer=number, done=False)
        told = 0

        def progress(done: int) -> None:
            nonlocal told
            if done - told >= REPORT_EVERY or done == job.blob.size:
                told = done
                tell(layer=number, bytes=done)

        self._layer(registry, job, progress)
        tell(layer=number, done=True)

    def _layer(self, registry: Registry, job: Job, progress: Callable[[int], None]) -> None:
        paths, userns = self.paths, self.userns
        blob = store.blob_path(paths, job.blob.digest)
        if os.path.exists(blob):
            unpack_blob(paths, userns, blob, job.diff_id)
            return
        for last in (False, True):
            unpacker = Unpacker(paths, userns, expected=job.diff_id, blob_size=job.blob.size)
            try:
                download(paths, registry, job.blob, self.what, unpacker.write, progress)
                unpacker.finish()
                return
            except WrongFromDisk:
                if last:
                    raise RegistryError(f"cannot pull {self.what}: its layer {job.label} is "
                                        "downloaded by another process that gets it wrong"
                                        ) from None
            finally:
                unpacker.abort()
