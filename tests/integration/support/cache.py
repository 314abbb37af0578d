"""What takes long to build is built once and kept between runs.

An entry is a directory `NAME-KEY` under $ROOTLESS_TESTS_CACHE; KEY is a hash of the recipe's text,
so a changed recipe is a new entry and the old one is removed. An entry appears by rename: it is
whole or absent.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Callable


def root() -> Path:
    chosen = os.environ.get("ROOTLESS_TESTS_CACHE")
    if not chosen:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        chosen = base + "/rootless-tests"
    path = Path(chosen)
    path.mkdir(parents=True, exist_ok=True)
    return path


def recipe_key(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
        digest.update(b"\0")
    return digest.hexdigest()[:16]


def cached(name: str, key: str, build: Callable[[Path], None]) -> Path:
    """The directory of `name`; `build(directory)` fills it when there is none with this key."""
    base = root()
    final = base / f"{name}-{key}"
    with open(base / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not final.exists():
            work = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=base))
            try:
                build(work)
                os.rename(work, final)
            finally:
                shutil.rmtree(work, ignore_errors=True)
        for old in base.glob(f"{name}-*"):
            if old != final:
                shutil.rmtree(old, ignore_errors=True)
    return final
