"""What a push decides before it speaks to anybody, and what it makes of answers."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from pathlib import Path
from typing import Any

import pytest
import zstandard

from rootless.errors import RegistryError, StorageError, UsageError
from rootless.image import compress, search, upload
from rootless.image.push import Form
from rootless.image.registry import Registry
from rootless.image.upload import Blob
from rootless.paths import Paths
from tests.integration.support.images import digest_of


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths({"HOME": str(tmp_path), "ROOTLESS_ROOT": str(tmp_path / "store")}, os.getuid())
    made.ensure()
    return made


def blob(tmp_path: Path, data: bytes) -> Blob:
    file = tmp_path / "blob"
    file.write_bytes(data)
    return Blob(digest_of(data), len(data), str(file))


@pytest.mark.parametrize("form, level", [("gzip", None), ("gzip", 1), ("gzip", 9), ("zstd", None),
                                         ("zstd", 19)])
@pytest.mark.parametrize("before", [bytes, gzip.compress, zstandard.ZstdCompressor().compress])
def test_compressing_anew_keeps_every_byte_and_is_the_same_each_time(
        tmp_path: Path, paths: Paths, before: Any, form: str, level: int | None) -> None:
    text = b"layer of some words " * 200_000
    old = blob(tmp_path, before(text))
    new = compress.again(paths, old, digest_of(text), form, level)
    data = Path(new.path).read_bytes()
    inner = zlib.decompress(data, 31) if form == "gzip" else zstandard.ZstdDecompressor(
        ).decompressobj().decompress(data)
    assert inner == text
    assert (new.digest, new.size) == (digest_of(data), len(data))
    assert compress.form_of_blob(new.path) == form
    assert compress.again(paths, old, digest_of(text), form, level) == new
    assert os.listdir(paths.tmp) == []


def test_layer_that_is_not_what_it_should_be_is_not_compressed(tmp_path: Path,
                                                               paths: Paths) -> None:
    with pytest.raises(StorageError, match="damaged"):
        compress.again(paths, blob(tmp_path, b"x"), digest_of(b"y"), "gzip", None)
    assert os.listdir(paths.blobs) == os.listdir(paths.tmp) == []


def test_blob_is_compared_with_its_name(tmp_path: Path) -> None:
    good = blob(tmp_path, b"x" * 300_000)
    upload.check(good)
    Path(good.path).write_bytes(b"y" * 300_000)
    with pytest.raises(StorageError, match=good.digest):
        upload.check(good)


@pytest.mark.parametrize("form", [
    Form("docker"), Form("", "lz4"), Form("", "", 0), Form("", "gzip", 10), Form("", "zstd", 23),
    Form("v2s2", "zstd")])
def test_forms_that_cannot_be_are_refused(form: Form) -> None:
    with pytest.raises(UsageError):
        form.check()


@pytest.mark.parametrize("form", [
    Form(), Form("oci"), Form("v2s2"), Form("oci", "zstd", 22), Form("", "gzip", 1),
    Form("v2s2", "gzip", 9)])
def test_forms_that_can_be_are_taken(form: Form) -> None:
    form.check()


class Answer:
    def __init__(self, **headers: str) -> None:
        self.headers = {k.replace("_", "-"): v for k, v in headers.items()}


def registry(host: str, scheme: str) -> Registry:
    from rootless.image.reference import Reference

    made = Registry(Reference(host, "app"), tls_verify=None, env={}, home="/", say=print)
    made._schemes = [scheme]
    return made


@pytest.mark.parametrize("host, scheme, told, goes_to", [
    ("r.example", "https", "/v2/app/blobs/uploads/1?_state=x",
     "https://r.example/v2/app/blobs/uploads/1?_state=x"),
    ("r.example", "https", "https://r.example/v2/up", "https://r.example/v2/up"),
    # Behind a proxy that speaks TLS for it.
    ("r.example", "https", "http://r.example/v2/up", "https://r.example/v2/up"),
    ("r.example:5000", "https", "http://r.example:5000/up", "https://r.example:5000/up"),
    ("r.example", "https", "https://store.example/up", "https://store.example/up"),
    ("localhost:5000", "http", "http://localhost:5000/up", "http://localhost:5000/up")])
def test_upload_goes_where_the_registry_says(host: str, scheme: str, told: str,
                                             goes_to: str) -> None:
    answer: Any = Answer(Location=told)
    assert upload._location(registry(host, scheme), answer, "x") == goes_to


@pytest.mark.parametrize("told", ["", "http://store.example/up", "ftp://r.example/up",
                                  "file:///etc/passwd"])
def test_upload_never_leaves_tls_or_goes_nowhere(told: str) -> None:
    answer: Any = Answer(Location=told)
    with pytest.raises(RegistryError):
        upload._location(registry("r.example", "https"), answer, "x")


def test_digest_is_added_to_whatever_address_a_session_has() -> None:
    digest = "sha256:" + hashlib.sha256().hexdigest()
    coded = digest.replace(":", "%3A")
    assert upload._with_digest("http://r/up", digest) == f"http://r/up?digest={coded}"
    assert upload._with_digest("http://r/up?a=b", digest) == f"http://r/up?a=b&digest={coded}"


@pytest.mark.parametrize("link, target", [
    ('</v2/_catalog?last=b&n=2>; rel="next"', "/v2/_catalog?last=b&n=2"), ("", ""),
    ('</x>; rel="prev"', ""), ("nonsense", "")])
def test_next_page_is_found_in_the_link(link: str, target: str) -> None:
    assert search._next(link) == target
