"""What a stage has come to: layers and an image configuration; and how that becomes an image.

A state crosses from the process of a stage to the build as plain data.
"""

from __future__ import annotations

import time

from rootless import jsontext
from rootless.build import config
from rootless.image import manifest, store
from rootless.image.steps import Made

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.image.manifest import Platform
    from rootless.image.store import Image
    from rootless.paths import Paths

    Document = dict[str, Any]

COMMENT = "buildkit.dockerfile.v0"


class State:
    """`layers`: (diffID, descriptor of the blob), bottom first; the first `covered` of them are
    hidden whole by one above. `image`: the image's configuration (image-spec, config.md), without
    `rootfs`. `time`: of the last thing that was made."""

    def __init__(self, layers: list[tuple[str, Document]], image: Document, time: str,
                 covered: int = 0) -> None:
        self.layers = layers
        self.image = image
        self.time = time
        self.covered = covered

    @property
    def config(self) -> Document:
        """What containers get of it."""
        found: Document = self.image.setdefault("config", {})
        return found

    @property
    def diff_ids(self) -> list[str]:
        return [diff_id for diff_id, _ in self.layers]

    def key(self) -> str:
        """The same for the same files."""
        return digest("layers", *self.diff_ids)

    def directories(self, paths: Paths) -> list[str]:
        """Of the layers that are seen, top first."""
        return [paths.layer(d) for d in reversed(self.diff_ids[self.covered:])]

    def copy(self) -> State:
        return from_plain(jsontext.loads(jsontext.dumps(self.plain())))

    def plain(self) -> list[Any]:
        return [[list(la) for la in self.layers], self.image, self.time, self.covered]

    def add(self, made: Made, created_by: str) -> None:
        """A step that changed files."""
        self.layers.append((made.diff_id, {"mediaType": manifest.LAYER_GZIP,
                                           "digest": made.blob, "size": made.size}))
        self.time = made.created
        self._history({"created": made.created, "created_by": created_by, "comment": COMMENT})

    def note(self, created_by: str) -> None:
        """A step that changed none."""
        self._history({"created": self.time, "created_by": created_by, "comment": COMMENT,
                       "empty_layer": True})

    def _history(self, entry: Document) -> None:
        self.image.setdefault("history", []).append(entry)


def from_plain(value: Any) -> State:
    layers, image, when, covered = value
    return State([(diff_id, descriptor) for diff_id, descriptor in layers], image, when, covered)


def scratch(platform: Platform, now: str) -> State:
    return State([], {"architecture": platform.architecture, "os": platform.os,
                      **({"variant": platform.variant} if platform.variant else {}),
                      "config": config.scratch(), "history": []}, now)


def of_image(image: Image, covered: int) -> State:
    """`covered`: see `image.unpack.covered`."""
    found: Document = jsontext.loads(jsontext.dumps(image.config))
    found.pop("rootfs", None)
    # Those of docker's own builder describe the container it was made in.
    for name in ("container", "container_config", "docker_version", "id", "parent"):
        found.pop(name, None)
    if not isinstance(found.get("config"), dict):
        found["config"] = {}
    if not isinstance(found.get("history"), list):
        found["history"] = []
    layers = [(diff_id, {k: la[k] for k in ("mediaType", "digest", "size")})
              for diff_id, la in zip(image.layers, image.manifest["layers"])]
    return State(layers, found, str(found.get("created") or "1970-01-01T00:00:00Z"), covered)


def write(paths: Paths, state: State, *, epoch: int | None) -> Document:
    """The image's blobs into the store; the descriptor of its manifest. Raises StorageError."""
    image = {**state.image, "created": state.time if epoch is None else rfc3339(epoch),
             "rootfs": {"type": "layers", "diff_ids": state.diff_ids}}
    if epoch is not None:
        limit = rfc3339(epoch)
        image["history"] = [{**h, "created": min(str(h.get("created") or limit), limit)}
                            for h in image["history"]]
    text = jsontext.dumps(image).encode()
    document = {"schemaVersion": 2, "mediaType": manifest.OCI_MANIFEST,
                "config": {"mediaType": manifest.OCI_CONFIG, "digest": store.put_blob(paths, text),
                           "size": len(text)},
                "layers": [descriptor for _, descriptor in state.layers]}
    body = jsontext.dumps(document).encode()
    return {"mediaType": manifest.OCI_MANIFEST, "digest": store.put_blob(paths, body),
            "size": len(body)}


def digest(*parts: str) -> str:
    """Hex digits that stand for these words, in this order."""
    import hashlib

    found = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape")
        found.update(b"%d:" % len(data) + data)
    return found.hexdigest()


def rfc3339(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
