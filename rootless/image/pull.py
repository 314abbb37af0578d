"""Pull an image: manifest, configuration, layers, and at the very end the name.

    main process                       up to three workers, made by fork
      manifest, config
      numbers of layers  --pipe-->     take a number, download + unpack that layer, take the next
      progress, result   <--pipe--     one JSON line per event
      publish the name

Workers are processes, not threads: each forks the child that unpacks, and a process with threads
cannot fork safely. Nothing is trusted before its digest has been checked, and nothing has a name
before all of it is in the store; a pull that ends early, even by kill -9, leaves whole blobs,
whole layers and beginnings of downloads (`rootless.image.transfer`), from which the next goes on.
The kernel tells a worker when its parent is gone, and it ends.
"""

from __future__ import annotations

import json
import os
import signal
import sys

from rootless import errors, linux
from rootless.errors import ImageError, NotFound, RegistryError, RootlessError, StorageError
from rootless.image import gc, manifest, policy, registries, store
from rootless.image.manifest import Descriptor, Platform
from rootless.image.progress import Progress, for_stream
from rootless.image.reference import Reference, familiar, parse
from rootless.image.registry import Registry
from rootless.image.transfer import WrongFromDisk, download
from rootless.image.unpack import Unpacker, layer_present, unpack_blob
from rootless.userns import keeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn, TextIO

    from rootless.image.policy import Policy
    from rootless.image.store import Image
    from rootless.paths import Paths
    from rootless.userns.keeper import Userns

WORKERS = 3     # as docker and podman have it
REPORT_EVERY = 1 << 20
# One write of at most PIPE_BUF bytes is never mixed with another's.
LONGEST_REPORT = 4000


def pull(paths: Paths, name: str, *, platform: str = "", quiet: bool = False,
         tls_verify: bool | None = None, out: TextIO | None = None) -> Image:
    """`out`: where docker's lines go; standard error where none is given.

    Raises UsageError, RegistryError, AuthError, NotFound, ImageError, StorageError.
    """
    paths.ensure()
    known = registries.of_this_user(paths, os.environ)
    reference = parse(known.expand(name)).named()
    if reference.digest:
        # It says all; that the tag is of this digest is nobody's word.
        reference = Reference(reference.domain, reference.path, "", reference.digest)
    wanted = manifest.parse_platform(platform)
    rules = policy.of_this_user(paths)
    rules.allow(reference)
    places = known.places(reference)
    gc.tidy(paths)
    progress = for_stream(out or sys.stderr, quiet=quiet)
    userns = keeper.open_userns(paths)
    try:
        with store.hold(paths):
            for place in places:
                registry = registries.connect(place, tls_verify=tls_verify, env=os.environ,
                                              home=paths.home, say=progress.line)
                one = _Pull(paths, userns, registry, reference, wanted, progress,
                            rules, strict=bool(platform))
                try:
                    return one.run()
                except (RegistryError, NotFound, ImageError) as e:
                    if not place.mirror:
                        raise
                    progress.line(f"{registry.host}: passed over: {e.message}")
            raise NotFound(f"no place to pull {familiar(reference.full)} from")
    finally:
        progress.close()
        os.close(userns.fd)
        # A worker that was stopped between two steps may have left a lock.
        gc.tidy(paths)
        gc.settle(paths)


class Job:
    """One layer."""

    def __init__(self, blob: Descriptor, diff_id: str) -> None:
        self.blob = blob
        self.diff_id = diff_id
        self.label = blob.digest[7:19]


class _Pull:
    def __init__(self, paths: Paths, userns: Userns, registry: Registry, reference: Reference,
                 platform: Platform, progress: Progress, rules: Policy, *, strict: bool) -> None:
        self.paths = paths
        self.userns = userns
        self.registry = registry
        self.reference = reference
        self.platform = platform
        self.progress = progress
        self.strict = strict
        self.policy = rules
        self.what = familiar(reference.full)

    def run(self) -> Image:
        say, reference = self.progress.line, self.reference
        say(f"{reference.tag or reference.digest}: Pulling from {reference.path}")
        image = self._up_to_date()
        if image is not None:
            self.policy.check(self.registry, self.reference, [image.source])
        if image is None:
            image = self._fetch()
            status = "Downloaded newer image"
        else:
            status = "Image is up to date"
        say(f"Digest: {image.source}")
        say(f"Status: {status} for {self.what}")
        return image

    def _up_to_date(self) -> Image | None:
        """The image we have, when it is whole and still what the registry means by the name."""
        try:
            image = store.find(self.paths, self.reference.full)
        except StorageError:
            return None
        if image is None or not image.source or not self._whole(image) or store.platform_of(
                image.config) not in manifest.acceptable(self.platform):
            return None
        if self.reference.digest:
            return image
        answer = self.registry.request(f"/manifests/{self.reference.tag}", self.what,
                                       method="HEAD", accept=manifest.ACCEPT, stranger=True)
        known = answer.headers.get("Docker-Content-Digest")
        answer.close()
        return image if known == image.source else None

    def _whole(self, image: Image) -> bool:
        return all(layer_present(self.paths, self.userns, d) for d in image.layers) and all(
            os.path.exists(store.blob_path(self.paths, b)) for b in image.blobs)

    def _fetch(self) -> Image:
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
        if todo:
            self._spread(todo)

    def _spread(self, jobs: list[Job]) -> None:
        # What every worker needs is loaded once, before there are several.
        __import__("rootless.image.extraction")
        numbers_r, numbers_w = os.pipe()
        events_r, events_w = os.pipe()
        workers: list[int] = []
        try:
            os.write(numbers_w, b"".join(n.to_bytes(4, "big") for n in range(len(jobs))))
            os.close(numbers_w)
            numbers_w = -1
            for _ in range(min(WORKERS, len(jobs))):
                pid = os.fork()
                if pid == 0:
                    try:
                        os.close(events_r)
                        _Worker(self, jobs, numbers_r, events_w).run()
                    finally:
                        os._exit(1)
                workers.append(pid)
            os.close(events_w)
            events_w = -1
            self._follow(jobs, events_r)
            self._reap(workers)
        finally:
            for pid in workers:
                os.kill(pid, signal.SIGTERM)
            for fd in (numbers_r, numbers_w, events_r, events_w):
                if fd >= 0:
                    os.close(fd)
            for pid in workers:
                os.waitpid(pid, 0)

    def _follow(self, jobs: list[Job], events: int) -> None:
        """Show what the workers report, to their end. Raises what one of them failed with."""
        rest = b""
        while data := os.read(events, 65536):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                event = json.loads(line)
                if "error" in event:
                    kind = getattr(errors, event["error"])
                    raise kind(event["message"], hint=event["hint"])
                if "say" in event:
                    self.progress.line(event["say"])
                    continue
                job = jobs[event["layer"]]
                if event["state"] == "start":
                    self.progress.start(job.label, job.blob.size)
                elif event["state"] == "done":
                    self.progress.finish(job.label, "Pull complete")
                else:
                    self.progress.update(job.label, event["bytes"])

    def _reap(self, workers: list[int]) -> None:
        failed = ""
        while workers:
            code = os.waitstatus_to_exitcode(os.waitpid(workers.pop(), 0)[1])
            if code:
                failed = f"signal {-code}" if code < 0 else f"exit code {code}"
        if failed:
            raise StorageError(f"cannot pull {self.what}: a process that downloads ended with "
                               f"{failed}",
                               hint="look for the out-of-memory killer in the kernel's log")


class _Ended(KeyboardInterrupt):
    """Our parent wants no more, or is gone."""


class _Worker:
    """A child of the pull: works through the layers until no number is left."""

    def __init__(self, parent: _Pull, jobs: list[Job], numbers: int, events: int) -> None:
        self._parent = parent
        self._jobs = jobs
        self._numbers = numbers
        self._events = events

    def run(self) -> NoReturn:
        code = 1
        try:
            signal.signal(signal.SIGTERM, _end)
            linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGTERM)
            registry = self._parent.registry.fork(lambda text: self._tell(say=text))
            while word := os.read(self._numbers, 4):
                number = int.from_bytes(word, "big")
                self._tell(layer=number, state="start")
                self._layer(registry, number)
                self._tell(layer=number, state="done")
            code = 0
        except RootlessError as e:
            self._fail(e)
        except OSError as e:
            self._fail(StorageError(f"cannot pull {self._parent.what}: "
                                    f"{errors.os_reason(e)}"))
        except KeyboardInterrupt:
            pass
        finally:
            os._exit(code)

    def _tell(self, **event: Any) -> None:
        try:
            os.write(self._events, json.dumps(event).encode() + b"\n")
        except BrokenPipeError:
            raise _Ended from None

    def _fail(self, error: RootlessError) -> None:
        try:
            self._tell(error=type(error).__name__, message=error.message[:1500],
                       hint=error.hint[:500] if error.hint else None)
        except _Ended:
            pass

    def _layer(self, registry: Registry, number: int) -> None:
        job, paths, userns = self._jobs[number], self._parent.paths, self._parent.userns
        blob = store.blob_path(paths, job.blob.digest)
        if os.path.exists(blob):
            unpack_blob(paths, userns, blob, job.diff_id)
            return
        told = 0

        def progress(done: int) -> None:
            nonlocal told
            if done - told >= REPORT_EVERY or done == job.blob.size:
                told = done
                self._tell(layer=number, state="bytes", bytes=done)

        for last in (False, True):
            unpacker = Unpacker(paths, userns, expected=job.diff_id, blob_size=job.blob.size)
            try:
                download(paths, registry, job.blob, self._parent.what, unpacker.write, progress)
                unpacker.finish()
                return
            except WrongFromDisk:
                if last:
                    raise RegistryError(f"cannot pull {self._parent.what}: its layer {job.label} "
                                        "is downloaded by another process that gets it wrong"
                                        ) from None
            finally:
                unpacker.abort()


def _end(number: int, frame: object) -> None:
    raise _Ended


def sha256(data: bytes) -> str:
    import hashlib

    return "sha256:" + hashlib.sha256(data).hexdigest()
