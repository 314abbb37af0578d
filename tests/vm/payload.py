"""The second drive: the checkout, the packages it depends on, and which cases to run.

    checkout/               rootless slirp fuse_overlay tests pyproject.toml
    venv/                   an environment of the machine's interpreter
    cases-user cases-root   one pytest id per line
"""

from __future__ import annotations

import compileall
import importlib.metadata
import os
import py_compile
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import tomli
from packaging.requirements import Requirement

from tests.integration.support import cache
from tests.vm.image import as_namespace_root

CHECKOUT = Path(__file__).resolve().parents[2]
PARTS = ("rootless", "slirp", "fuse_overlay", "tests", "pyproject.toml")
USERS = ("user", "root")    # each has a directory of cases


def user_of(case: str) -> str:
    """tests/vm/inside/root/test_x.py::test_y: root"""
    return case.split("/")[3]


def make(target: Path, python: str, cases: Sequence[str]) -> None:
    """Write the drive to `target`; `python` as in `image.System`."""
    with tempfile.TemporaryDirectory(prefix="payload.", dir=target.parent) as name:
        tree = Path(name)
        tree.chmod(0o755)
        checkout = tree / "checkout"
        checkout.mkdir()
        for part in PARTS:
            source = CHECKOUT / part
            if source.is_dir():
                shutil.copytree(source, checkout / part,
                                ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, checkout)
        # Compiling costs the emulated processor seconds, and the drive is read-only there.
        compileall.compile_dir(checkout, quiet=2, stripdir=str(tree), prependdir="/payload",
                               invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
        _environment(tree / "venv", python)
        for user in USERS:
            chosen = [case for case in cases if user_of(case) == user]
            (tree / f"cases-{user}").write_text("".join(f"{case}\n" for case in chosen))
        as_namespace_root(f"mke2fs -q -F -t ext4 -O ^has_journal -d {tree.name} {target.name} 512M",
                          target.parent, ids=False)


def _environment(venv: Path, python: str) -> None:
    """What the project and pytest need, from the environment of this process."""
    packages = venv / "lib" / python / "site-packages"
    packages.mkdir(parents=True)
    (venv / "bin").mkdir()
    (venv / "bin/python").symlink_to("/usr/bin/python3")
    (venv / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    project = tomli.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    ours = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for distribution in _with_dependencies([*project["dependencies"], "pytest"]):
        files = distribution.files or ()
        if ours != python and any(file.suffix == ".so" for file in files):
            _fetch(distribution, packages, python)
            continue
        for file in files:
            # Commands go to ../../../bin; an egg lists the sources it was built from as well.
            if ".." not in file.parts and Path(str(file.locate())).is_file():
                copy = packages / file
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(str(file.locate()), copy)


def _fetch(distribution: importlib.metadata.Distribution, packages: Path, python: str) -> None:
    """The same version, compiled for the machine's interpreter."""
    wanted = f"{distribution.metadata['Name']}=={distribution.version}"
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
         "--no-deps", "--only-binary=:all:", "--python-version", python[len("python"):],
         "--target", str(packages), wanted],
        env={**os.environ, "PIP_CACHE_DIR": str(cache.root() / "pip")}, check=False,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise RuntimeError(f"cannot fetch {wanted} for {python}:\n"
                           f"{done.stdout.decode(errors='replace')[-4000:]}")


def _with_dependencies(wanted: list[str]) -> Iterator[importlib.metadata.Distribution]:
    seen = set()
    while wanted:
        requirement = Requirement(wanted.pop())
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        marker = requirement.marker
        if name in seen or (marker is not None and not marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            raise RuntimeError(f"{name} is not installed for {sys.executable}") from None
        wanted += distribution.requires or ()
        yield distribution
