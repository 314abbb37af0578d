"""Signatures made and demanded; what is altered, missing or for another is refused."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.support import images
from tests.integration.support.cli import COMMAND, Cli
from tests.integration.support.faults import Proxy
from tests.integration.support.images import Image, Layer, Tar
from tests.integration.support.registry import Registry

ANNOTATION = "dev.cosignproject.cosign/signature"


def openssl(*words: str, stdin: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *words], input=stdin, check=True,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout


def new_key(cli: Cli, name: str) -> Path:
    """PEM of a private key; the public one is beside it as .pub."""
    path = cli.home / name
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out",
            str(path))
    openssl("pkey", "-in", str(path), "-pubout", "-out", f"{path}.pub")
    return path


def demand(cli: Cli, prefix: str, *keys: Path) -> None:
    path = cli.home / ".config/rootless/policy.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ", ".join(f'"{k}.pub"' for k in keys)
    path.write_text(f'[repositories."{prefix}"]\nrule = "signed-by"\nkeys = [{names}]\n')


@pytest.fixture
def image(server: Registry) -> tuple[str, str]:
    """(name, digest) of an image that nobody has signed."""
    repository = "signed-" + os.urandom(4).hex()
    made = Image([Layer(Tar().file("f", os.urandom(9)).bytes())], {"Cmd": ["/x"]})
    digest = images.push(server.address, repository, "1", made)
    return f"{server.address}/{repository}:1", digest


def signature_of(cli: Cli, name: str, digest: str) -> Any:
    place = f"docker://{name.rpartition(':')[0]}:{digest.replace(':', '-')}.sig"
    done = subprocess.run(["skopeo", "inspect", "--raw", "--tls-verify=false", place],
                          env=cli.env, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def refused(cli: Cli, name: str, says: str) -> None:
    cli.fails(1, "pull", name, says=says)
    assert cli.ok("images", "-q").text == ""


def test_signed_image_is_pulled_and_an_unsigned_one_is_not(fresh: Cli, server: Registry,
                                                           image: tuple[str, str]) -> None:
    name, digest = image
    key = new_key(fresh, "key")
    demand(fresh, server.address, key)
    refused(fresh, name, "it is not signed")
    assert fresh.ok("image", "sign", "--key", str(key), name).text.endswith("@" + digest)
    fresh.ok("pull", name)
    fresh.ok("pull", f"{name.rpartition(':')[0]}@{digest}")


def test_signature_is_as_cosign_stores_it(fresh: Cli, server: Registry,
                                          image: tuple[str, str]) -> None:
    """Taken apart without our code: openssl verifies exactly the bytes of the payload."""
    name, digest = image
    key = new_key(fresh, "key")
    fresh.ok("image", "sign", "--key", str(key), name)
    (layer,) = signature_of(fresh, name, digest)["layers"]
    assert layer["mediaType"] == "application/vnd.dev.cosign.simplesigning.v1+json"
    payload = server.blob_file(layer["digest"]).read_bytes()
    assert json.loads(payload)["critical"] == {
        "identity": {"docker-reference": name.rpartition(":")[0]},
        "image": {"docker-manifest-digest": digest}, "type": "cosign container image signature"}
    (fresh.home / "signature").write_bytes(base64.b64decode(layer["annotations"][ANNOTATION]))
    assert b"Verified OK" in openssl("dgst", "-sha256", "-verify", f"{key}.pub", "-signature",
                                     str(fresh.home / "signature"), stdin=payload)


def test_one_of_several_signatures_and_keys_is_enough(fresh: Cli, server: Registry,
                                                      image: tuple[str, str]) -> None:
    name, digest = image
    first, second, third = (new_key(fresh, n) for n in ("first", "second", "third"))
    for key in (first, second):
        fresh.ok("image", "sign", "--key", str(key), name)
    assert len(signature_of(fresh, name, digest)["layers"]) == 2
    demand(fresh, server.address, third)
    refused(fresh, name, "of no key that policy.toml names")
    demand(fresh, server.address, third, second)
    fresh.ok("pull", name)


def test_altered_signature_is_refused(fresh: Cli, server: Registry, proxy: Proxy,
                                      image: tuple[str, str]) -> None:
    name, digest = image
    key = new_key(fresh, "key")
    there = name.replace(server.address, proxy.address)
    fresh.ok("image", "sign", "--key", str(key), name)
    manifest = signature_of(fresh, name, digest)
    payload = server.blob_file(manifest["layers"][0]["digest"]).read_bytes()
    # The same signature over a payload that names the proxy: the signature does not fit it.
    forged = payload.replace(server.address.encode(), proxy.address.encode())
    proxy.rule("/blobs/" + manifest["layers"][0]["digest"], body=forged)
    demand(fresh, proxy.address, key)
    refused(fresh, there, "was altered")


def test_signature_for_another_name_is_refused(fresh: Cli, proxy: Proxy, server: Registry,
                                               image: tuple[str, str]) -> None:
    name, _ = image
    key = new_key(fresh, "key")
    fresh.ok("image", "sign", "--key", str(key), name)
    demand(fresh, proxy.address, key)
    refused(fresh, name.replace(server.address, proxy.address),
            f"is for another name, {name.rpartition(':')[0]}")


def test_signature_of_another_image_is_refused(fresh: Cli, proxy: Proxy, server: Registry,
                                               image: tuple[str, str]) -> None:
    """Somebody has put a new image under the tag, and the old one's signature beside it."""
    name, digest = image
    key = new_key(fresh, "key")
    there = name.replace(server.address, proxy.address)
    fresh.ok("image", "sign", "--key", str(key), there)
    old = signature_of(fresh, name, digest)
    made = Image([Layer(Tar().file("evil", b"x").bytes())], {"Cmd": ["/x"]})
    images.push(server.address, name.partition("/")[2].rpartition(":")[0], "1", made)
    proxy.rule(r"/manifests/sha256-.*\.sig", body=json.dumps(old).encode(),
               headers={"Content-Type": images.OCI + "manifest.v1+json"})
    demand(fresh, proxy.address, key)
    refused(fresh, there, "is for another image")


def test_name_that_moves_to_an_unsigned_image_keeps_the_old_one(fresh: Cli, server: Registry,
                                                                image: tuple[str, str]) -> None:
    name, digest = image
    key = new_key(fresh, "key")
    demand(fresh, server.address, key)
    fresh.ok("image", "sign", "--key", str(key), name)
    fresh.ok("pull", name)
    made = Image([Layer(Tar().file("new", b"x").bytes())], {"Cmd": ["/x"]})
    images.push(server.address, name.partition("/")[2].rpartition(":")[0], "1", made)
    fresh.fails(1, "pull", name, says="it is not signed")
    assert fresh.ok("images", "--format", "{{.Digest}}", name).text == digest
    fresh.fails(1, "image", "sign", "--key", str(key), name, says="another image by this name")


def test_signed_list_makes_its_images_good(fresh: Cli, server: Registry) -> None:
    key = new_key(fresh, "key")
    name = f"{server.address}/signed-list-{os.urandom(4).hex()}:1"
    fresh.ok("copy", "--all", f"docker://{server.address}/tiny:list", f"docker://{name}")
    fresh.ok("image", "sign", "--key", str(key), name)
    demand(fresh, server.address, key)
    fresh.ok("pull", name)
    assert fresh.ok("run", "--rm", "--pull=never", name, "echo", "good").text == "good"


def test_copy_into_the_store_is_no_way_around(fresh: Cli, server: Registry,
                                              image: tuple[str, str]) -> None:
    demand(fresh, server.address, new_key(fresh, "key"))
    fresh.fails(1, "copy", f"docker://{image[0]}", "store:mine", says="it is not signed")
    assert fresh.ok("images", "-q").text == ""


def test_rejected_repository_is_not_asked(fresh: Cli, proxy: Proxy) -> None:
    path = fresh.home / ".config/rootless/policy.toml"
    path.parent.mkdir(parents=True)
    path.write_text(f'default = "reject"\n[repositories."{proxy.address}/tiny"]\n'
                    'rule = "accept"\n')
    fresh.ok("pull", f"{proxy.address}/tiny")
    proxy.seen.clear()
    fresh.fails(1, "pull", f"{proxy.address}/odd", says="the policy rejects it")
    assert not proxy.seen


@pytest.mark.parametrize(("text", "says"), [
    ('default = "maybe"', "default: unknown value"),
    ('[repositories."x.example"]\nrule = "signed-by"', "keys"),
    ('[repositories."x.example"]\nrule = "sign"', "rule: unknown value"),
    ('defualt = "reject"', "defualt: unknown key"),
])
def test_mistake_in_the_policy_stops_every_pull(fresh: Cli, server: Registry, text: str,
                                                says: str) -> None:
    path = fresh.home / ".config/rootless/policy.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    refused(fresh, f"{server.address}/tiny", says)


def test_key_that_cannot_be_used_is_named(fresh: Cli, server: Registry,
                                          image: tuple[str, str]) -> None:
    (fresh.home / "bad").write_text("no key")
    (fresh.home / "bad.pub").write_text("no key")
    fresh.fails(125, "image", "sign", "--key", "bad", image[0], says="bad")
    fresh.fails(125, "image", "sign", image[0], says="without a key")
    demand(fresh, server.address, fresh.home / "bad")
    fresh.fails(1, "pull", image[0], says="no public key of ECDSA")
    assert fresh.ok("images", "-q").text == ""


def test_key_with_a_passphrase_is_unlocked_by_a_file(fresh: Cli, image: tuple[str, str]) -> None:
    key = new_key(fresh, "key")
    openssl("pkcs8", "-topk8", "-in", str(key), "-out", f"{key}.locked", "-passout", "pass:open")
    (fresh.home / "word").write_text("open\n")
    fresh.fails(125, "image", "sign", "--key", f"{key}.locked", image[0],
                says="it has a passphrase")
    fresh.ok("image", "sign", "--key", f"{key}.locked", "--passphrase-file", "word", image[0])


def test_without_the_package_one_line_says_what_to_install(fresh: Cli, server: Registry,
                                                           image: tuple[str, str]) -> None:
    """Python is told where nothing is: a module of that name that cannot be imported."""
    key = new_key(fresh, "key")
    code = COMMAND[-1].replace("import sys;", "import sys; sys.modules['cryptography'] = None;", 1)
    done = subprocess.run([*COMMAND[:-1], code, "image", "sign", "--key", str(key), image[0]],
                          env=fresh.env, cwd=fresh.home, check=False, stdin=subprocess.DEVNULL,
                          capture_output=True)
    assert done.returncode == 1
    assert b"the Python package cryptography is not installed" in done.stderr
    assert b"rootless[sign]" in done.stderr
    assert b"Traceback" not in done.stderr
