"""`rootless image sign`."""

from __future__ import annotations

import os
import sys

from rootless import paths as places
from rootless.cli.command import OPTIONAL, VALUE, Command, Option, Options
from rootless.errors import Conflict, UsageError, os_reason
from rootless.image import store
from rootless.image.reference import familiar, parse, sha256


def sign(options: Options) -> int:
    """What is in the registry is signed: where the store has the image, only the same one."""
    from rootless.image import manifest, registries, signature

    path = options.value("key")
    if path is None:
        raise UsageError("cannot sign without a key", hint="--key FILE")
    paths = places.of_this_user()
    key = signature.private_key(path, _passphrase(options.value("passphrase-file")))
    known = registries.of_this_user(paths, os.environ)
    for name in options.args:
        reference = parse(known.expand(name)).named()
        what = familiar(reference.full)
        registry = registries.connect(
            known.itself(reference), tls_verify=options.boolean("tls-verify"), env=os.environ,
            home=paths.home, say=_say)
        body, _ = registry.small(f"/manifests/{reference.digest or reference.tag}", what,
                                 accept=manifest.ACCEPT, most=manifest.LARGEST)
        digest = sha256(body)
        image = store.find(paths, reference.full)
        if (reference.digest and reference.digest != digest) or (
                image is not None and image.source and image.source != digest):
            raise Conflict(f"cannot sign {what}: the registry has another image by this name, "
                           f"{digest[:19]}", hint=f"rootless pull {what}, and look at it")
        signature.sign(registry, reference, digest, key)
        sys.stdout.write(f"{reference.repository}@{digest}\n")
    return 0


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def _passphrase(path: str | None) -> bytes | None:
    from rootless.files import read_bytes

    if path is None:
        return None
    try:
        return read_bytes(path, 4096).rstrip(b"\r\n")
    except OSError as e:
        raise UsageError(f"cannot read {path}: {os_reason(e)}") from None


COMMANDS = {
    "image sign": Command(
        "image sign", "IMAGE...", "Sign images in a registry, as cosign stores signatures.", sign, (
            Option("key", VALUE, "Private key: PEM, ECDSA with P-256", "k", "FILE"),
            Option("passphrase-file", VALUE, "The first line unlocks the key", "", "FILE"),
            Option("tls-verify", OPTIONAL, "Check the certificate (default true)", "", "BOOL",
                   "true"),
        ), least=1),
}
