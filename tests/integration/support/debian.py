"""A small Debian root filesystem, made by mmdebstrap as the ordinary user."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.integration.support.cache import cached, recipe_key

SUITE = "bookworm"

# No documentation and no translations: fewer files, faster tests.
SLIM = tuple(f"--dpkgopt=path-exclude=/usr/share/{d}/*" for d in ("doc", "man", "locale", "info"))


def mmdebstrap(target: Path, *, packages: str = "", options: tuple[str, ...] = (),
               variant: str = "minbase") -> None:
    """Write the root filesystem to the tar `target`. Says what mmdebstrap said when it fails."""
    command = ["mmdebstrap", "--quiet", "--mode=unshare", f"--variant={variant}",
               # The namespace of the download helper's own user cannot be entered here.
               "--aptopt=APT::Sandbox::User \"root\"", *options]
    if packages:
        command.append(f"--include={packages}")
    done = subprocess.run([*command, SUITE, str(target)], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise RuntimeError(f"mmdebstrap failed:\n{done.stdout.decode(errors='replace')[-4000:]}")


def base_tar() -> Path:
    """Debian with busybox-static, about 120 MB, 6,000 files."""
    packages = "busybox-static,attr"

    def build(directory: Path) -> None:
        mmdebstrap(directory / "debian.tar", packages=packages, options=SLIM)

    key = recipe_key(SUITE, packages, *SLIM)
    return cached("debian", key, build) / "debian.tar"
