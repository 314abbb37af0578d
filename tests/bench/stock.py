"""Images that cases ask for, made and pushed when they do."""

from __future__ import annotations

import os
from pathlib import Path

from tests.integration.support import debian, images
from tests.integration.support.cache import cached, recipe_key
from tests.integration.support.images import Image, Layer, Tar

PACKAGES = "gcc,python3"
GIB = 1 << 30


def big_tar() -> Path:
    """About 126 MB when compressed."""
    def build(directory: Path) -> None:
        debian.mmdebstrap(directory / "big.tar", packages=PACKAGES, options=debian.SLIM)

    return cached("bench", recipe_key(PACKAGES, *debian.SLIM), build) / "big.tar"


def _big() -> list[Layer]:
    return [Layer(big_tar().read_bytes())]


def _twelve() -> list[Layer]:
    """About 20 MB each when compressed: the bytes of the big one, and some that do not shrink."""
    data = big_tar().read_bytes()
    part = len(data) // 12 // 64
    layers = []
    for n in range(12):
        tar = Tar().dir(f"part{n}")
        at = n * part * 64
        for m in range(64):
            tar.file(f"part{n}/{m}", data[at:at + part] + os.urandom(part // 4))
            at += part
        layers.append(Layer(tar.bytes()))
    return layers


def _zeros() -> list[Layer]:
    return [Layer(Tar().file("zeros", bytes(2 * GIB)).bytes())]


def _noise() -> list[Layer]:
    return [Layer(Tar().file("noise", os.urandom(2 * GIB)).bytes(), "none")]


STOCK = {"big": _big, "twelve": _twelve, "zeros": _zeros, "noise": _noise}


def image(address: str, name: str) -> str:
    """Its reference. `tiny` is always there."""
    if name in STOCK:
        layers = STOCK[name]()
        images.push(address, name, "latest", Image(layers, {"Cmd": ["bash"]}))
        sizes = ", ".join(f"{len(layer.blob) / 1e6:.0f}" for layer in layers)
        print(f"    ({name}: MB compressed: {sizes})", flush=True)
    return f"{address}/{name}:latest"
