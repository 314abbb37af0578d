"""Pull an image: find where from, see whether it is there, fetch it.

What is there, whole and for the right platform, is not fetched again while the registry means it
by the name; `ask` finds that out without the modules that a download needs.
"""

from __future__ import annotations

import os
import sys

from rootless.errors import ImageError, NotFound, RegistryError, StorageError
from rootless.image import ask, gc, manifest, policy, registries, store
from rootless.image.progress import Progress, for_stream
from rootless.image.reference import Reference, familiar, parse
from rootless.image.unpack import layer_present
from rootless.userns import keeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

    from rootless.image.manifest import Platform
    from rootless.image.policy import Policy
    from rootless.image.registries import Place
    from rootless.image.registry import Registry
    from rootless.image.store import Image
    from rootless.paths import Paths
    from rootless.userns.keeper import Userns


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
            one = _Pull(paths, userns, reference, wanted, rules, progress, tls_verify,
                        strict=bool(platform))
            for place in places:
                try:
                    return one.run(place)
                except (RegistryError, NotFound, ImageError) as e:
                    if not place.mirror:
                        raise
                    progress.line(f"{place.reference.domain}: passed over: {e.message}")
            raise NotFound(f"no place to pull {familiar(reference.full)} from")
    finally:
        progress.close()
        os.close(userns.fd)
        # A worker that was stopped between two steps may have left a lock.
        gc.tidy(paths)
        gc.settle(paths)


class _Pull:
    def __init__(self, paths: Paths, userns: Userns, reference: Reference, platform: Platform,
                 rules: Policy, progress: Progress, tls_verify: bool | None, *,
                 strict: bool) -> None:
        self.paths = paths
        self.userns = userns
        self.reference = reference
        self.platform = platform
        self.policy = rules
        self.progress = progress
        self.tls_verify = tls_verify
        self.strict = strict
        self.what = familiar(reference.full)

    def run(self, place: Place) -> Image:
        say, reference = self.progress.line, self.reference
        say(f"{reference.tag or reference.digest}: Pulling from {reference.path}")
        registry: Registry | None = None
        image = self._present()
        if image is not None and reference.tag:
            means = ask.digest(place, self.tls_verify, os.environ, self.paths.home)
            if not means:
                registry = self._connect(place)
                means = self._means(registry)
            if means != image.source:
                image = None
        if image is None:
            from rootless.image.fetch import Fetch

            image = Fetch(self.paths, self.userns, registry or self._connect(place), reference,
                          self.platform, self.policy, self.progress, strict=self.strict).run()
            status = "Downloaded newer image"
        else:
            if self.policy.demands(reference):
                self.policy.check(registry or self._connect(place), reference, [image.source])
            status = "Image is up to date"
        say(f"Digest: {image.source}")
        say(f"Status: {status} for {self.what}")
        return image

    def _connect(self, place: Place) -> Registry:
        return registries.connect(place, tls_verify=self.tls_verify, env=os.environ,
                                  home=self.paths.home, say=self.progress.line)

    def _means(self, registry: Registry) -> str:
        """The digest that the tag stands for, "" where the registry does not tell."""
        answer = registry.request(f"/manifests/{self.reference.tag}", self.what, method="HEAD",
                                  accept=manifest.ACCEPT, stranger=True)
        answer.close()
        return answer.headers.get("Docker-Content-Digest") or ""

    def _present(self) -> Image | None:
        """The image we have by this name, when it is whole and for the platform."""
        try:
            image = store.find(self.paths, self.reference.full)
        except StorageError:
            return None
        if image is None or not image.source or not self._whole(image) or store.platform_of(
                image.config) not in manifest.acceptable(self.platform):
            return None
        return image

    def _whole(self, image: Image) -> bool:
        return all(layer_present(self.paths, self.userns, d) for d in image.layers) and all(
            os.path.exists(store.blob_path(self.paths, b)) for b in image.blobs)
