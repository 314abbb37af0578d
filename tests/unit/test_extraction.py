"""How much a blob may become."""

from __future__ import annotations

import gzip
import hashlib
import os
import threading

import pytest

from rootless.errors import ImageError
from rootless.image.decompress import bounded
from rootless.image.extraction import Stage

FLOOR = 4 << 20


def staged(blob: bytes, expected: int = 0) -> tuple[int, str]:
    """(bytes that came out, their digest), through a pipe as the parent uses it."""
    r, w = os.pipe()

    def feed() -> None:
        with os.fdopen(w, "wb") as f:
            f.write(blob)

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        stage = Stage(bounded(r, expected, "the layer", FLOOR))
        total = sum(map(len, stage.chunks()))
        return total, stage.digest.hexdigest()
    finally:
        while os.read(r, 65536):
            pass
        feeder.join()
        os.close(r)


def test_a_bomb_is_stopped() -> None:
    bomb = gzip.compress(bytes(100 << 20))
    assert len(bomb) * 500 < 100 << 20
    with pytest.raises(ImageError, match="no honest one"):
        staged(bomb)


def test_small_layers_of_zeros_are_no_bombs() -> None:
    data = bytes(FLOOR)
    assert staged(gzip.compress(data)) == (FLOOR, hashlib.sha256(data).hexdigest())


def test_large_blobs_may_become_more() -> None:
    data = bytes(FLOOR) + os.urandom(100_000) + bytes(FLOOR)
    assert staged(gzip.compress(data))[0] == len(data)
    # What the manifest says of the size counts from the beginning.
    assert staged(gzip.compress(bytes(50 << 20)), expected=300_000)[0] == 50 << 20


def test_damage_is_raised_where_the_data_is_used() -> None:
    with pytest.raises(ImageError, match="cut off"):
        staged(gzip.compress(os.urandom(1000))[:500])
