"""Manifests, indexes and image configurations: read, checked, chosen from.

Everything here comes from a registry or an archive and is believed only as far as it is checked.
What passes `image_manifest` and `image_config` has the fields and types that the rest of the
engine uses without asking again.
"""

from __future__ import annotations

import os

from rootless import jsontext
from rootless.errors import ImageError, NotFound, UsageError
from rootless.image.reference import is_digest
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# The size at which registries cut off, too (distribution-spec).
LARGEST = 4 << 20
LARGEST_LAYER = 1 << 46
# What the kernel's overlay takes (OVL_MAX_STACK).
MOST_LAYERS = 500

OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."
OCI_MANIFEST = OCI + "manifest.v1+json"
OCI_INDEX = OCI + "index.v1+json"
OCI_CONFIG = OCI + "config.v1+json"
DOCKER_MANIFEST = DOCKER + "distribution.manifest.v2+json"
DOCKER_LIST = DOCKER + "distribution.manifest.list.v2+json"
DOCKER_CONFIG = DOCKER + "container.image.v1+json"
LAYER_GZIP = OCI + "layer.v1.tar+gzip"
ACCEPT = ", ".join((OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST))

LAYERS = frozenset([OCI + "layer.v1.tar" + c for c in ("", "+gzip", "+zstd")]
                   + [DOCKER + "image.rootfs.diff.tar" + c for c in ("", ".gzip", ".zstd")])


@record(frozen=True)
class Descriptor:
    """What a manifest says of a blob."""

    media_type: str
    digest: str
    size: int


@record(frozen=True)
class Platform:
    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(p for p in (self.os, self.architecture, self.variant) if p)


_SAME = {"x86_64": ("amd64", ""), "x86-64": ("amd64", ""), "i386": ("386", ""),
         "i486": ("386", ""), "i586": ("386", ""), "i686": ("386", ""),
         "aarch64": ("arm64", ""), "armhf": ("arm", "v7"), "armv7l": ("arm", "v7"),
         "armel": ("arm", "v6"), "armv6l": ("arm", "v6")}


def normal(system: str, architecture: str, variant: str = "") -> Platform:
    """Spellings that mean the same made one (containerd's platforms package)."""
    architecture, implied = _SAME.get(architecture.lower(), (architecture.lower(), ""))
    variant = variant.lower() or implied
    if architecture == "arm64" and variant in ("8", "v8"):
        variant = ""
    elif architecture == "arm":
        variant = "v" + variant.lstrip("v") if variant else "v7"
    elif architecture == "amd64" and variant == "v1":
        variant = ""
    return Platform(system.lower(), architecture, variant)


def parse_platform(text: str) -> Platform:
    """`linux/arm64/v8`, `arm64`, or "" for this machine. Raises UsageError."""
    here = os.uname().machine
    if not text:
        return normal("linux", here)
    parts = text.lower().split("/")
    if len(parts) > 3 or not all(p[:1].isalnum() and all(c.isalnum() or c in "_-." for c in p)
                                 for p in parts):
        raise UsageError(f"invalid platform: {text}", hint="--platform linux/amd64")
    if len(parts) == 1:
        return normal("linux", here) if parts[0] == "linux" else normal("linux", parts[0])
    return normal(*parts)


def acceptable(platform: Platform) -> list[Platform]:
    """What runs on `platform`, best first: a newer arm runs code of an older one, and so on."""
    system, name, variant = platform.os, platform.architecture, platform.variant
    found = [platform]
    number = int(variant[1:]) if variant[1:].isdigit() else 0
    if name == "arm64":
        found += [Platform(system, name, f"v{n}" if n > 8 else "")
                  for n in range(number - 1, 7, -1)]
        found += [Platform(system, "arm", f"v{n}") for n in (8, 7, 6, 5)]
    elif name == "arm":
        found += [Platform(system, name, f"v{n}") for n in range(number - 1, 4, -1)]
    elif name == "amd64":
        found += [Platform(system, name, f"v{n}" if n > 1 else "")
                  for n in range(number - 1, 0, -1)]
        found.append(Platform(system, "386"))
    return found


def document(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object. Raises ImageError."""
    try:
        value = jsontext.loads(data)
    except ValueError as e:
        raise ImageError(f"{what} is malformed: it is not JSON: {e}") from None
    if not isinstance(value, dict):
        raise ImageError(f"{what} is malformed: it is not a JSON object")
    if b"\\u" in data and not _is_text(value):
        raise ImageError(f"{what} is malformed: it holds a half of a character")
    return value


def _is_text(value: Any) -> bool:
    """JSON can escape one half of a surrogate pair, which no file or terminal can be given."""
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            todo += item.keys()
            todo += item.values()
        elif isinstance(item, list):
            todo += item
        elif isinstance(item, str):
            try:
                item.encode()
            except UnicodeEncodeError:
                return False
    return True


def descriptor(value: Any, what: str, *, most: int) -> Descriptor:
    """Raises ImageError."""
    if not isinstance(value, dict):
        raise ImageError(f"{what} is malformed: it is not an object")
    digest, size, kind = value.get("digest"), value.get("size"), value.get("mediaType")
    if not isinstance(digest, str) or not is_digest(digest):
        algorithm = digest.partition(":")[0] if isinstance(digest, str) else ""
        raise ImageError(f"{what} has the digest {str(digest)[:80]!r}: "
                         + ("only sha256 is supported" if algorithm in ("sha512", "sha384")
                            else "that is no sha256 digest"))
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= most:
        raise ImageError(f"{what} has the size {str(size)[:40]}: not a number up to {most}")
    if not isinstance(kind, str):
        raise ImageError(f"{what} has no media type")
    return Descriptor(kind, digest, size)


def is_index(manifest: dict[str, Any], media_type: str, what: str) -> bool:
    """Is it a list of manifests, or one image? Raises ImageError for anything else.

    `media_type`: what the transport said; the document's own word counts first.
    """
    if manifest.get("schemaVersion") == 1:
        raise ImageError(f"{what} is in Docker's schema 1, which registries gave up in 2020",
                         hint="its author has to push it again with a current tool")
    kind = manifest.get("mediaType") or media_type.partition(";")[0].strip()
    # One document that can be read both ways is an attack (GHSA-qq97-vm5h-rrhg).
    if "manifests" in manifest and ("layers" in manifest or "config" in manifest):
        raise ImageError(f"{what} is malformed: it is an image and a list of images at once")
    if kind in (OCI_INDEX, DOCKER_LIST):
        return True
    if kind in (OCI_MANIFEST, DOCKER_MANIFEST):
        return False
    if manifest.get("schemaVersion") == 2 and ("manifests" in manifest or "layers" in manifest) \
            and not manifest.get("mediaType"):
        return "manifests" in manifest
    raise ImageError(f"{what} is of a kind that is not supported: {str(kind)[:100] or 'unknown'}")


def choose(index: dict[str, Any], platform: Platform, what: str) -> Descriptor:
    """The image for a platform. Raises NotFound naming those that there are, ImageError."""
    entries = index.get("manifests")
    if not isinstance(entries, list):
        raise ImageError(f"{what} is malformed: it lists no manifests")
    found: list[tuple[Platform, dict[str, Any]]] = []
    for entry in entries:
        where = entry.get("platform") if isinstance(entry, dict) else None
        if isinstance(where, dict) and isinstance(where.get("os"), str) \
                and isinstance(where.get("architecture"), str) and where["os"] != "unknown":
            found.append((normal(where["os"], where["architecture"],
                                 str(where.get("variant") or "")), entry))
    for wanted in acceptable(platform):
        for there, entry in found:
            if there == wanted:
                chosen = descriptor(entry, f"{what}: the entry for {there}", most=LARGEST)
                if chosen.media_type not in (OCI_MANIFEST, DOCKER_MANIFEST):
                    raise ImageError(f"{what}: the entry for {there} is of a kind that is not "
                                     f"supported: {chosen.media_type[:100]}")
                return chosen
    names = sorted({str(p) for p, _ in found})
    raise NotFound(f"{what} is not made for {platform}: there is {', '.join(names) or 'nothing'}",
                   hint=f"--platform {names[0]}" if names else None)


def image_manifest(manifest: dict[str, Any], what: str) -> tuple[Descriptor, list[Descriptor]]:
    """(configuration, layers from the bottom up). Raises ImageError."""
    config = descriptor(manifest.get("config"), f"{what}: its configuration", most=LARGEST)
    if config.media_type not in (OCI_CONFIG, DOCKER_CONFIG):
        raise ImageError(f"{what} is not a container image: its configuration is of the type "
                         f"{config.media_type[:100]}")
    listed = manifest.get("layers")
    if not isinstance(listed, list):
        raise ImageError(f"{what} is malformed: it has no list of layers")
    if len(listed) > MOST_LAYERS:
        raise ImageError(f"{what} has {len(listed)} layers: more than {MOST_LAYERS} cannot be "
                         "mounted")
    layers = []
    for number, value in enumerate(listed, 1):
        layer = descriptor(value, f"{what}: layer {number}", most=LARGEST_LAYER)
        if "foreign" in layer.media_type or "nondistributable" in layer.media_type:
            raise ImageError(f"{what}: layer {number} is foreign: it may be fetched from its "
                             "owner only, as parts of Windows are")
        if layer.media_type not in LAYERS:
            raise ImageError(f"{what}: layer {number} is of a kind that is not supported: "
                             f"{layer.media_type[:100]}")
        layers.append(layer)
    return config, layers


_AS_OCI = {DOCKER_MANIFEST: OCI_MANIFEST, DOCKER_CONFIG: OCI_CONFIG,
           **{DOCKER + "image.rootfs.diff.tar" + c: OCI + "layer.v1.tar" + c.replace(".", "+")
              for c in ("", ".gzip", ".zstd")}}


def as_oci(manifest: dict[str, Any]) -> dict[str, Any]:
    """A checked manifest of Docker's schema 2 in OCI's words: the blobs are the same."""
    def renamed(value: dict[str, Any]) -> dict[str, Any]:
        return {**value, "mediaType": _AS_OCI.get(value["mediaType"], value["mediaType"])}

    return {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": renamed(manifest["config"]),
            "layers": [renamed(layer) for layer in manifest["layers"]]}


def as_docker(manifest: dict[str, Any], what: str) -> dict[str, Any]:
    """A checked manifest of OCI in Docker's words. Raises ImageError where it has none."""
    words = {oci: docker for docker, oci in _AS_OCI.items() if not docker.endswith(".zstd")}

    def renamed(value: dict[str, Any]) -> dict[str, Any]:
        kind = value["mediaType"]
        if kind not in words and kind not in words.values():
            raise ImageError(f"{what} cannot be put into Docker's schema 2: it has no word for "
                             f"{kind}", hint="--format oci")
        return {"mediaType": words.get(kind, kind), "digest": value["digest"],
                "size": value["size"]}

    return {"schemaVersion": 2, "mediaType": DOCKER_MANIFEST,
            "config": renamed(manifest["config"]),
            "layers": [renamed(layer) for layer in manifest["layers"]]}


_TEXT = ("User", "WorkingDir", "StopSignal")
_LISTS = ("Env", "Cmd", "Entrypoint", "OnBuild", "Shell")
_OBJECTS = ("Labels", "ExposedPorts", "Volumes")


def image_config(data: bytes, layers: int, what: str) -> dict[str, Any]:
    """The configuration of an image that has `layers` layers. Raises ImageError."""
    where = f"{what}: its configuration"
    config = document(data, where)
    for name in ("os", "architecture"):
        if not isinstance(config.get(name), str):
            raise ImageError(f"{where} is malformed: {name} is not a text")
    if config["os"].lower() != "linux":
        raise ImageError(f"{what} is for {config['os'][:40]}, not for Linux")
    rootfs = config.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if diff_ids is None and not layers:
        diff_ids = []
    if not isinstance(diff_ids, list) or not all(
            isinstance(d, str) and is_digest(d) for d in diff_ids):
        raise ImageError(f"{where} is malformed: rootfs.diff_ids is not a list of sha256 digests")
    if len(diff_ids) != layers:
        raise ImageError(f"{where} names {len(diff_ids)} layers, its manifest {layers}")
    config["rootfs"] = {"type": "layers", "diff_ids": diff_ids}
    inner = config.get("config")
    if inner is None:
        inner = config["config"] = {}
    if not isinstance(inner, dict):
        raise ImageError(f"{where} is malformed: config is not an object")
    for name in _TEXT:
        text = inner.get(name) or ""
        if not isinstance(text, str):
            raise ImageError(f"{where} is malformed: {name} is not a text")
        if not text.isprintable():
            raise ImageError(f"{where} is malformed: {name} holds a control character")
    for name in _LISTS:
        words = inner.get(name) or []
        if not isinstance(words, list) or not all(isinstance(w, str) for w in words):
            raise ImageError(f"{where} is malformed: {name} is not a list of texts")
        if any("\0" in w for w in words):
            raise ImageError(f"{where} is malformed: {name} holds a zero byte")
    for name in _OBJECTS:
        if not isinstance(inner.get(name) or {}, dict):
            raise ImageError(f"{where} is malformed: {name} is not an object")
    if not all(isinstance(v, str) for v in (inner.get("Labels") or {}).values()):
        raise ImageError(f"{where} is malformed: a label is not a text")
    for name in ("created", "author", "variant"):
        if not isinstance(config.get(name) or "", str):
            raise ImageError(f"{where} is malformed: {name} is not a text")
    if not isinstance(config.get("history") or [], list):
        raise ImageError(f"{where} is malformed: history is not a list")
    return config
