"""Images made by hand: every byte of a tar, a manifest or an index is the test's to choose.

    tar = Tar().dir("etc").file("etc/hello", b"hi\\n")
    image = Image([Layer(tar.bytes())], config={"Cmd": ["/hello"]})
    push(registry_address, "repo", "tag", image)

Nothing here checks what it is told, because most of its users want something that is wrong.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import http.client
import io
import json
import os
import platform
import tarfile
from typing import Any

import zstandard

OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."
MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm",
            "ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64"}
ARCHITECTURE = MACHINES.get(platform.machine(), platform.machine())


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Tar:
    """A tar written entry by entry. Names may be bytes; `pax` forces that format."""

    def __init__(self, *, pax: bool = True) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.open(
            fileobj=self._buffer, mode="w",
            format=tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT,
            encoding="utf-8", errors="surrogateescape")

    def entry(self, name: str | bytes, kind: bytes, *, data: bytes = b"", mode: int = 0o644,
              uid: int = 0, gid: int = 0, link: str | bytes = "", major: int = 0, minor: int = 0,
              xattrs: dict[str, bytes] | None = None, size: int | None = None,
              mtime: int = 1_700_000_000, pax: dict[str, str] | None = None) -> Tar:
        info = tarfile.TarInfo(os.fsdecode(name))
        info.type, info.mode, info.uid, info.gid, info.mtime = kind, mode, uid, gid, mtime
        info.linkname = os.fsdecode(link)
        info.devmajor, info.devminor = major, minor
        info.size = len(data) if size is None else size
        info.pax_headers = {
            **{"SCHILY.xattr." + key: value.decode("utf-8", "surrogateescape")
               for key, value in (xattrs or {}).items()}, **(pax or {})}
        if size is None:
            self._tar.addfile(info, io.BytesIO(data))
        else:                               # a header that lies about what follows
            head = info.tobuf(self._tar.format or tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
            body = head + data + bytes(-len(data) % 512)
            self._buffer.write(body)
            self._tar.offset += len(body)
        return self

    def file(self, name: str | bytes, data: bytes = b"", **more: Any) -> Tar:
        return self.entry(name, tarfile.REGTYPE, data=data, **more)

    def dir(self, name: str | bytes, mode: int = 0o755, **more: Any) -> Tar:
        return self.entry(name, tarfile.DIRTYPE, mode=mode, **more)

    def symlink(self, name: str | bytes, target: str | bytes, **more: Any) -> Tar:
        return self.entry(name, tarfile.SYMTYPE, link=target, mode=0o777, **more)

    def hardlink(self, name: str | bytes, target: str | bytes, **more: Any) -> Tar:
        return self.entry(name, tarfile.LNKTYPE, link=target, **more)

    def fifo(self, name: str | bytes, **more: Any) -> Tar:
        return self.entry(name, tarfile.FIFOTYPE, **more)

    def device(self, name: str | bytes, major: int, minor: int, *, block: bool = False,
               **more: Any) -> Tar:
        kind = tarfile.BLKTYPE if block else tarfile.CHRTYPE
        return self.entry(name, kind, major=major, minor=minor, **more)

    def whiteout(self, name: str) -> Tar:
        folder, _, last = name.rpartition("/")
        return self.file(f"{folder}/.wh.{last}" if folder else f".wh.{last}")

    def opaque(self, name: str) -> Tar:
        return self.file(f"{name}/.wh..wh..opq")

    def bytes(self) -> bytes:
        self._tar.close()
        return self._buffer.getvalue()


class Layer:
    """A blob made of an uncompressed tar. `compression` is gzip, zstd or none."""

    def __init__(self, tar: bytes, compression: str = "gzip", *, diff_id: str = "") -> None:
        self.diff_id = diff_id or digest_of(tar)
        self.compression = compression
        if compression == "gzip":
            self.blob = gzip.compress(tar, 1, mtime=0)
        elif compression == "zstd":
            self.blob = zstandard.ZstdCompressor(level=1).compress(tar)
        else:
            self.blob = tar

    def media_type(self, *, docker: bool) -> str:
        if docker:
            gzipped = ".gzip" if self.compression == "gzip" else ""
            return DOCKER + "image.rootfs.diff.tar" + gzipped
        suffix = {"gzip": "+gzip", "zstd": "+zstd"}.get(self.compression, "")
        return OCI + "layer.v1.tar" + suffix


@dataclasses.dataclass
class Image:
    layers: list[Layer]
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    docker: bool = False                # Docker's schema 2 instead of OCI
    architecture: str = ARCHITECTURE
    os: str = "linux"
    variant: str = ""

    @property
    def config_blob(self) -> bytes:
        whole: dict[str, Any] = {
            "architecture": self.architecture, "os": self.os,
            "created": "2024-01-01T00:00:00Z", "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in self.layers]},
            "history": [{"created_by": "test"} for _ in self.layers],
        }
        if self.variant:
            whole["variant"] = self.variant
        return json.dumps(whole).encode()

    @property
    def media_type(self) -> str:
        return DOCKER + "distribution.manifest.v2+json" if self.docker else OCI + "manifest.v1+json"

    def manifest(self) -> dict[str, Any]:
        config_type = (DOCKER + "container.image.v1+json" if self.docker
                       else OCI + "config.v1+json")
        config = self.config_blob
        return {
            "schemaVersion": 2,
            "mediaType": self.media_type,
            "config": {"mediaType": config_type, "size": len(config), "digest": digest_of(config)},
            "layers": [{"mediaType": layer.media_type(docker=self.docker),
                        "size": len(layer.blob), "digest": digest_of(layer.blob)}
                       for layer in self.layers],
        }

    @property
    def manifest_blob(self) -> bytes:
        return json.dumps(self.manifest(), indent=1).encode()

    @property
    def digest(self) -> str:
        return digest_of(self.manifest_blob)


@dataclasses.dataclass
class Index:
    """A manifest list."""

    images: list[Image]
    docker: bool = False

    @property
    def media_type(self) -> str:
        return (DOCKER + "distribution.manifest.list.v2+json" if self.docker
                else OCI + "index.v1+json")

    @property
    def manifest_blob(self) -> bytes:
        entries = []
        for image in self.images:
            where = {"architecture": image.architecture, "os": image.os}
            if image.variant:
                where["variant"] = image.variant
            entries.append({"mediaType": image.media_type, "size": len(image.manifest_blob),
                            "digest": image.digest, "platform": where})
        return json.dumps({"schemaVersion": 2, "mediaType": self.media_type,
                           "manifests": entries}).encode()


# ---- into a registry ---------------------------------------------------------------------------

def request(address: str, method: str, path: str, body: bytes = b"",
            headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request(method, path, body or None, headers or {})
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def push_blob(address: str, repo: str, blob: bytes) -> str:
    digest = digest_of(blob)
    status, _, _ = request(address, "HEAD", f"/v2/{repo}/blobs/{digest}")
    if status == 200:
        return digest
    status, headers, body = request(address, "POST", f"/v2/{repo}/blobs/uploads/")
    assert status == 202, (status, body)
    place = headers["location"]
    if place.startswith("http"):
        place = "/" + place.split("/", 3)[3]
    status, _, body = request(
        address, "PUT", f"{place}{'&' if '?' in place else '?'}digest={digest}", blob,
        {"Content-Type": "application/octet-stream"})
    assert status == 201, (status, body)
    return digest


def push_manifest(address: str, repo: str, tag: str, manifest: bytes, media_type: str) -> str:
    """`tag` may be a digest. Gives the manifest's digest."""
    status, _, body = request(address, "PUT", f"/v2/{repo}/manifests/{tag}", manifest,
                              {"Content-Type": media_type})
    assert status == 201, (status, body)
    return digest_of(manifest)


def push(address: str, repo: str, tag: str, image: Image | Index) -> str:
    """Blobs, then manifests. Gives the digest that `tag` names."""
    for one in image.images if isinstance(image, Index) else [image]:
        for layer in one.layers:
            push_blob(address, repo, layer.blob)
        push_blob(address, repo, one.config_blob)
        if one is not image:
            push_manifest(address, repo, one.digest, one.manifest_blob, one.media_type)
    return push_manifest(address, repo, tag, image.manifest_blob, image.media_type)


# ---- into a file -------------------------------------------------------------------------------

def oci_archive(image: Image, name: str) -> bytes:
    """What `podman save --format oci-archive` writes: an OCI layout in a tar."""
    blobs = [image.config_blob, image.manifest_blob, *(layer.blob for layer in image.layers)]
    index = {"schemaVersion": 2, "manifests": [
        {"mediaType": image.media_type, "size": len(image.manifest_blob), "digest": image.digest,
         "annotations": {"org.opencontainers.image.ref.name": name}}]}
    tar = Tar().file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    tar.file("index.json", json.dumps(index).encode()).dir("blobs").dir("blobs/sha256")
    for blob in blobs:
        tar.file("blobs/sha256/" + digest_of(blob)[7:], blob)
    return tar.bytes()


def docker_archive(image: Image, name: str) -> bytes:
    """What `docker save` writes: manifest.json, the config and uncompressed layers."""
    config = image.config_blob
    config_name = digest_of(config)[7:] + ".json"
    tar = Tar()
    names = []
    for number, layer in enumerate(image.layers):
        raw = layer.blob
        if layer.compression == "gzip":
            raw = gzip.decompress(raw)
        elif layer.compression == "zstd":
            raw = zstandard.ZstdDecompressor().decompressobj().decompress(raw)
        names.append(f"{number}/layer.tar")
        tar.file(names[-1], raw)
    tar.file(config_name, config)
    tar.file("manifest.json", json.dumps(
        [{"Config": config_name, "RepoTags": [name], "Layers": names}]).encode())
    return tar.bytes()
