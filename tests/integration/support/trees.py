"""Whole trees of files, as different tools show them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.integration.support.cli import Cli

# Runs as root of the namespace: everything one can know of a tree, as JSON. What is mounted
# in it belongs to somebody else.
LIST = r"""
import hashlib, json, os, stat, sys
def look(path, st):
    kind = stat.S_IFMT(st.st_mode)
    digest = link = ""
    if kind == stat.S_IFREG:
        with open(path, "rb") as f:
            digest = hashlib.sha256(f.read()).hexdigest()
    if kind == stat.S_IFLNK:
        link = os.readlink(path).decode("latin-1")
    attributes = {n: os.getxattr(path, n, follow_symlinks=False).hex()
                  for n in os.listxattr(path, follow_symlinks=False)}
    return {"type": kind, "mode": oct(stat.S_IMODE(st.st_mode)), "uid": st.st_uid,
            "gid": st.st_gid, "size": 0 if kind == stat.S_IFDIR else st.st_size,
            "links": 0 if kind == stat.S_IFDIR else st.st_nlink, "digest": digest, "link": link,
            "xattrs": attributes, "mtime": st.st_mtime_ns}
os.chdir(sys.argv[1])
top = os.lstat(b".")
found = {".": look(b".", top)}
for base, dirs, files in os.walk(b"."):
    mounts = []
    for name in dirs + files:
        path = os.path.join(base, name)
        st = os.lstat(path)
        if st.st_dev == top.st_dev:
            found[path.decode("latin-1")] = look(path, st)
        else:
            mounts.append(name)
    dirs[:] = [name for name in dirs if name not in mounts]
json.dump(found, sys.stdout)
"""

Tree = dict[str, dict[str, Any]]


def as_root(*command: str) -> bytes:
    """In a namespace with the map that the engine uses, and mounts of its own."""
    done = subprocess.run(["unshare", "--map-root-user", "--map-auto", "--mount", *command],
                          stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def tree(path: Path) -> Tree:
    found: Tree = json.loads(as_root(sys.executable, "-c", LIST, str(path)))
    return found


def inside(cli: Cli, image: str) -> Tree:
    """What a container of the image sees, without what the engine mounts there."""
    container = cli.ok("run", "-d", "--network", "none", "--user", "0", "--entrypoint", "sleep",
                       image, "1000").text
    try:
        pid = cli.ok("inspect", "-f", "{{.State.Pid}}", container).text
        # Its user namespace, so that nothing is closed to us, and its files through /proc, as
        # there is no interpreter inside.
        done = subprocess.run(["nsenter", "-t", pid, "-U", sys.executable, "-c", LIST,
                               f"/proc/{pid}/root"], stdin=subprocess.DEVNULL,
                              capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        found: Tree = json.loads(done.stdout)
        return found
    finally:
        cli.ok("rm", "-f", container)


def differences(ours: Tree, theirs: Tree) -> dict[str, Any]:
    """By name: (ours, theirs) of each fact that differs, or which of the two lacks it."""
    found: dict[str, Any] = {}
    for name in sorted({*ours, *theirs}):
        if name not in ours or name not in theirs:
            found[name] = "only theirs" if name not in ours else "only ours"
        elif different := {key: (ours[name][key], theirs[name][key]) for key in ours[name]
                           if ours[name][key] != theirs[name][key]}:
            found[name] = different
    return found


class Podman:
    """The peer, with a home of its own. It knows no registry but those it is told of."""

    def __init__(self, home: Path) -> None:
        self.home = home
        runtime = home / "run"
        runtime.mkdir(parents=True, mode=0o700)
        config = home / ".config/containers"
        config.mkdir(parents=True)
        (config / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        (config / "storage.conf").write_text('[storage]\ndriver = "overlay"\n')
        # No user manager or journal has a part in this.
        (config / "containers.conf").write_text(
            '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n')
        self.env = {"HOME": str(home), "XDG_RUNTIME_DIR": str(runtime), "TMPDIR": str(home),
                    "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin", "LANG": "C.UTF-8"}

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["podman", *words], env=self.env, cwd=self.home, text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, check=False)

    def ok(self, *words: str) -> str:
        done = self(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def tree(self, image: str) -> Tree:
        script = 'exec "$2" -c "$3" "$(podman image mount "$1")"'
        found: Tree = json.loads(self.ok("unshare", "sh", "-ec", script, "sh", image,
                                         sys.executable, LIST))
        return found
