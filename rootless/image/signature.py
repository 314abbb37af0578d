"""Signatures of images with keys, as cosign stores them.

Beside an image of the digest sha256:HEX lies, in the same repository, an image with the tag
sha256-HEX.sig. Each of its layers is a payload, JSON in the form of simple signing:

    critical.type                           "cosign container image signature"
    critical.identity.docker-reference      the repository that the image was signed for
    critical.image.docker-manifest-digest   the digest that was signed

and the annotation dev.cosignproject.cosign/signature of the layer has the signature of exactly
these bytes, ECDSA with P-256 and SHA-256, in base64. One that is right in all of this, by a key we
trust, makes the image good; others beside it do not matter.
"""

from __future__ import annotations

import base64
import binascii

from rootless import jsontext
from rootless.errors import HostError, ImageError, NotFound, UsageError, os_reason
from rootless.files import read_bytes
from rootless.image import manifest as manifests
from rootless.image.reference import Reference, familiar, parse, sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cryptography.hazmat.primitives.asymmetric.ec import (
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )

    from rootless.image.registry import Registry

PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
ANNOTATION = "dev.cosignproject.cosign/signature"
KIND = "cosign container image signature"
LARGEST = 1 << 20
MOST = 100      # signatures of one image that are looked at


def tag_of(digest: str) -> str:
    return digest.replace(":", "-") + ".sig"


# ---- keys --------------------------------------------------------------------------------------

def _missing() -> HostError:
    return HostError("cannot use signatures: the Python package cryptography is not installed",
                     hint="pip install 'rootless[sign]', or apt-get install python3-cryptography")


def public_key(path: str) -> EllipticCurvePublicKey:
    """Raises HostError, UsageError."""
    try:
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError:
        raise _missing() from None
    try:
        key = load_pem_public_key(_read(path))
    except ValueError:
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise UsageError(f"cannot use the key {path}: it is no public key of ECDSA with P-256",
                         hint="-----BEGIN PUBLIC KEY-----, as cosign and openssl ec -pubout write")
    return key


def private_key(path: str, passphrase: bytes | None) -> EllipticCurvePrivateKey:
    """Raises HostError, UsageError."""
    try:
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError:
        raise _missing() from None
    data = _read(path)
    if b"ENCRYPTED SIGSTORE" in data or b"ENCRYPTED COSIGN" in data:
        raise UsageError(f"cannot use the key {path}: cosign has locked it in a format of its own",
                         hint="make one with: openssl genpkey -algorithm EC -pkeyopt "
                              "ec_paramgen_curve:P-256 -out KEY")
    try:
        key = load_pem_private_key(data, passphrase)
    except TypeError:
        raise UsageError(f"cannot use the key {path}: " + (
            "it has a passphrase" if passphrase is None else "it has no passphrase"),
            hint="--passphrase-file FILE, for a key that has one") from None
    except ValueError:
        raise UsageError(f"cannot use the key {path}: it is damaged, or the passphrase is wrong"
                         ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise UsageError(f"cannot use the key {path}: it is no key of ECDSA with P-256")
    return key


def _read(path: str) -> bytes:
    try:
        return read_bytes(path, LARGEST)
    except OSError as e:
        raise UsageError(f"cannot read the key {path}: {os_reason(e)}") from None


# ---- verify ------------------------------------------------------------------------------------

def verify(registry: Registry, reference: Reference, digests: list[str],
           keys: list[EllipticCurvePublicKey]) -> None:
    """One of the digests (of a list, of the image in it) must be signed. `reference`: what the
    person asked for, wherever `registry` is. Raises ImageError that says what is wrong."""
    what = familiar(reference.full)
    faults: list[str] = []
    for digest in digests:
        try:
            found = _signatures(registry, digest, f"the signatures of {what}")
        except NotFound:
            continue
        for payload, signature in found:
            fault = _fault(payload, signature, reference, digest, keys)
            if not fault:
                return
            faults.append(fault)
    why = "; ".join(dict.fromkeys(faults)) or f"it is not signed ({digests[0][:19]})"
    raise ImageError(f"{what} is refused: {why}",
                     hint="policy.toml wants it signed by a key that it names")


def _signatures(registry: Registry, digest: str, what: str) -> list[tuple[bytes, str]]:
    """(payload, signature in base64). Raises NotFound, ImageError, RegistryError."""
    body, _ = registry.small(f"/manifests/{tag_of(digest)}", what, accept=manifests.ACCEPT,
                             most=manifests.LARGEST)
    layers = manifests.document(body, what).get("layers")
    found = []
    for layer in (layers if isinstance(layers, list) else [])[:MOST]:
        if not isinstance(layer, dict) or layer.get("mediaType") != PAYLOAD:
            continue
        notes = layer.get("annotations")
        signature = notes.get(ANNOTATION) if isinstance(notes, dict) else None
        blob = manifests.descriptor(layer, what, most=LARGEST)
        payload, _ = registry.small(f"/blobs/{blob.digest}", what, most=LARGEST)
        found.append((payload, signature if isinstance(signature, str) else ""))
    return found


def _fault(payload: bytes, signature: str, reference: Reference, digest: str,
           keys: list[EllipticCurvePublicKey]) -> str:
    """Why this signature does not count; "" when it does. What it says is looked at only when a
    key of ours has said it."""
    if not any(_made_by(key, signature, payload) for key in keys):
        return "its signature is of no key that policy.toml names, or was altered"
    try:
        critical = jsontext.loads(payload)["critical"]
        kind, identity = critical["type"], critical["identity"]["docker-reference"]
        signed = critical["image"]["docker-manifest-digest"]
        name = parse(identity)
    except (ValueError, KeyError, TypeError, UsageError):
        return "its signature is malformed"
    if kind != KIND:
        return "its signature is of another kind"
    if signed != digest:
        return f"its signature is for another image, {str(signed)[:19]}"
    if name.repository != reference.repository or (
            name.tag and reference.tag and name.tag != reference.tag):
        return f"its signature is for another name, {familiar(name.full)}"
    return ""


def _made_by(key: EllipticCurvePublicKey, signature: str, payload: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        key.verify(base64.b64decode(signature, validate=True), payload, ec.ECDSA(SHA256()))
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True


# ---- sign --------------------------------------------------------------------------------------

def sign(registry: Registry, reference: Reference, digest: str,
         key: EllipticCurvePrivateKey) -> None:
    """Put a signature beside the image; those that are there stay."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256

    from rootless.image import upload

    what = f"the signature of {familiar(reference.full)}"
    payload = jsontext.dumps({"critical": {
        "identity": {"docker-reference": reference.repository},
        "image": {"docker-manifest-digest": digest}, "type": KIND}, "optional": None}).encode()
    signature = base64.b64encode(key.sign(payload, ec.ECDSA(SHA256()))).decode()
    layers: list[dict[str, Any]] = []
    try:
        body, _ = registry.small(f"/manifests/{tag_of(digest)}", what, accept=manifests.ACCEPT,
                                 most=manifests.LARGEST)
        old = manifests.document(body, what).get("layers")
        layers = [la for la in old if isinstance(la, dict)] if isinstance(old, list) else []
    except NotFound:
        pass
    layers.append({"mediaType": PAYLOAD, "digest": sha256(payload), "size": len(payload),
                   "annotations": {ANNOTATION: signature}})
    config = jsontext.dumps({
        "architecture": "", "os": "", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [la["digest"] for la in layers]}}).encode()
    data = jsontext.dumps({
        "schemaVersion": 2, "mediaType": manifests.OCI_MANIFEST,
        "config": {"mediaType": manifests.OCI_CONFIG, "digest": sha256(config),
                   "size": len(config)}, "layers": layers}).encode()
    registry.verb = "push"
    registry.scopes = [f"repository:{registry.reference.path}:pull,push"]
    upload.put_bytes(registry, payload, sha256(payload), what)
    upload.put_bytes(registry, config, sha256(config), what)
    upload.put_manifest(registry, data, manifests.OCI_MANIFEST, sha256(data), what,
                        tag=tag_of(digest))
