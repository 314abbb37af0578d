"""The harness keeps its own promises: registries serve, faults happen, the images are as said."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import tarfile
import urllib.request
from io import BytesIO

import pytest

from tests.integration.support import filled, images, registry
from tests.integration.support.faults import Proxy
from tests.integration.support.images import Image, Index, Layer, Tar
from tests.integration.support.registry import Registry

MANIFESTS = {"Accept": ", ".join(
    images.OCI + kind for kind in ("manifest.v1+json", "index.v1+json")) + ", " + ", ".join(
    images.DOCKER + "distribution." + kind
    for kind in ("manifest.v2+json", "manifest.list.v2+json"))}


@pytest.mark.parametrize("name, layers", [
    ("debian:12", 1), ("tiny:latest", 2), ("tiny:docker", 2), ("tiny:zstd", 2), ("tiny:plain", 2),
    ("odd:latest", 5), ("multi:oci", 5), ("multi:docker", 5)])
def test_registry_holds_the_images(server: Registry, name: str, layers: int) -> None:
    repo, tag = name.split(":")
    assert filled.layer_count(server.address, repo, tag) >= layers


@pytest.mark.parametrize("tag", ["list", "dockerlist"])
def test_lists_name_two_platforms(server: Registry, tag: str) -> None:
    status, _, body = images.request(server.address, "GET", f"/v2/tiny/manifests/{tag}",
                                     headers=MANIFESTS)
    platforms = {m["platform"]["architecture"] for m in json.loads(body)["manifests"]}
    assert status == 200
    assert platforms == {images.ARCHITECTURE, filled.OTHER}


def test_buildah_image_has_whiteouts_and_its_config(server: Registry) -> None:
    _, _, body = images.request(server.address, "GET", "/v2/multi/manifests/docker",
                                headers=MANIFESTS)
    manifest = json.loads(body)
    names: set[str] = set()
    for layer in manifest["layers"][1:]:
        _, _, blob = images.request(server.address, "GET", f"/v2/multi/blobs/{layer['digest']}")
        with tarfile.open(fileobj=BytesIO(blob), errors="surrogateescape") as archive:
            names.update(archive.getnames())
    assert {"data/.wh.gone", "data/keep/.wh.two", "data/caf\udce9", "data/a\nb"} <= names
    _, _, config = images.request(server.address, "GET",
                                  f"/v2/multi/blobs/{manifest['config']['digest']}")
    settings = json.loads(config)["config"]
    assert settings["User"] == "worker"
    assert settings["StopSignal"] == "SIGINT"
    assert settings["Healthcheck"]["Test"] == ["CMD-SHELL", "true"]


def test_password_registry_refuses_strangers(password_server: Registry) -> None:
    status, headers, _ = images.request(password_server.address, "GET", "/v2/")
    assert status == 401
    assert headers["www-authenticate"].startswith("Basic")
    word = base64.b64encode(f"{registry.USER}:{registry.PASSWORD}".encode()).decode()
    status, _, _ = images.request(password_server.address, "GET", "/v2/",
                                  headers={"Authorization": f"Basic {word}"})
    assert status == 200


def test_tls_registry_is_trusted_with_its_authority_only(tls_server: Registry) -> None:
    url = f"https://{tls_server.address}/v2/"
    with pytest.raises(OSError, match="certificate verify failed"):
        urllib.request.urlopen(url, context=ssl.create_default_context())
    known = ssl.create_default_context(cafile=str(tls_server.ca))
    with urllib.request.urlopen(url, context=known) as answer:
        assert answer.status == 200


def test_proxy_cuts_and_then_serves_the_rest(server: Registry, proxy: Proxy) -> None:
    digest = images.push_blob(server.address, "harness", bytes(range(256)) * 1000)
    proxy.rule("/blobs/", cut_after=100_000, times=1)
    path = f"/v2/harness/blobs/{digest}"
    with pytest.raises(http.client.IncompleteRead) as cut:
        images.request(proxy.address, "GET", path)
    assert len(cut.value.partial) == 100_000
    status, _, rest = images.request(proxy.address, "GET", path,
                                     headers={"Range": "bytes=100000-"})
    assert status == 206
    assert cut.value.partial + rest == bytes(range(256)) * 1000


def test_proxy_answers_429_and_401_and_asks_for_a_token(server: Registry, proxy: Proxy) -> None:
    proxy.rule("/v2/$", status=429, headers={"Retry-After": "1"}, times=1)
    status, headers, _ = images.request(proxy.address, "GET", "/v2/")
    assert (status, headers["retry-after"]) == (429, "1")
    assert images.request(proxy.address, "GET", "/v2/")[0] == 200
    asking = Proxy(server.address, token=("ann", "secret"))
    try:
        status, headers, _ = images.request(asking.address, "GET", "/v2/tiny/manifests/latest",
                                            headers=MANIFESTS)
        assert status == 401
        assert 'scope="repository:tiny:pull"' in headers["www-authenticate"]
        status, _, _ = images.request(asking.address, "GET", "/v2/tiny/manifests/latest",
                                      headers={**MANIFESTS, "Authorization": "Bearer sesame"})
        assert status == 200
    finally:
        asking.close()


def test_hand_made_images_are_taken_by_the_registry(server: Registry) -> None:
    layer = Layer(Tar().dir("a").file(b"a/\xff", b"x").device("null", 1, 3).bytes(), "zstd")
    image = Image([layer], {"Cmd": ["/x"]})
    digest = images.push(server.address, "made", "one", Index([image]))
    status, headers, _ = images.request(server.address, "GET", "/v2/made/manifests/one",
                                        headers=MANIFESTS)
    assert status == 200
    assert headers["docker-content-digest"] == digest
    assert server.blob_file(images.digest_of(layer.blob)).read_bytes() == layer.blob
