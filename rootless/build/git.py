"""Repositories as contexts and as sources of ADD, fetched by the program git.

    https://HOST/PATH.git   git://HOST/PATH   ssh://USER@HOST/PATH   USER@HOST:PATH   github.com/...
    #REF:DIRECTORY at the end, or ?ref=REF&subdir=DIRECTORY (branch, tag and commit mean ref)

Only the commit that is asked for is fetched, where the server allows it. git runs as the user, with
the user's configuration and keys, and asks nothing. What comes is somebody else's: hooks do not
exist in a repository made with an empty template, submodules may not name local paths (git's own
rule), and links are not followed here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from urllib.parse import parse_qsl

from rootless.errors import BuildError, HostError
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_SCHEMES = ("git://", "ssh://", "git+ssh://")
_NAMES = {"ref": "ref", "branch": "ref", "tag": "ref", "commit": "ref", "subdir": "subdir"}
# What would make git work on another repository than the one it is told.
_MISLEADING = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY",
               "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE", "GIT_TEMPLATE_DIR")
_HEX = frozenset("0123456789abcdef")


@record(frozen=True)
class Address:
    """`ref`: a branch, a tag or a commit; empty for what the server calls HEAD."""

    remote: str
    ref: str
    subdir: str


@record(frozen=True)
class Checkout:
    path: str
    commit: str


def parse(text: str) -> Address | None:
    """None for what is no repository's address. Raises BuildError for one that is wrong."""
    remote, _, fragment = text.partition("#")
    remote, _, query = remote.partition("?")
    if remote.startswith("github.com/"):
        remote = f"https://{remote}"
    elif not (remote.startswith(_SCHEMES) or _is_scp(remote) or (
            remote.startswith(("http://", "https://")) and remote.endswith(".git"))):
        return None
    ref, _, subdir = fragment.partition(":")
    for name, value in parse_qsl(query):
        if name not in _NAMES:
            raise BuildError(f"cannot fetch {text}: unknown parameter {name}",
                             hint=f"it is one of {', '.join(_NAMES)}")
        ref, subdir = (value, subdir) if _NAMES[name] == "ref" else (ref, value)
    parts = [part for part in subdir.split("/") if part not in ("", ".")]
    if ref.startswith("-") or ".." in parts or remote.startswith("-"):
        raise BuildError(f"cannot fetch {text}: it makes no sense as an address of git")
    return Address(remote, ref, "/".join(parts))


def _is_scp(text: str) -> bool:
    """USER@HOST:PATH, as ssh and scp take it."""
    user, at, rest = text.partition("@")
    host, colon, path = rest.partition(":")
    return bool(user and at and host and colon and path) and "/" not in user + host and not any(
        c.isspace() for c in text)


def fetch(address: Address, place: str, *, keep_git_dir: bool = False,
          env: Mapping[str, str] | None = None) -> Checkout:
    """Into the directory `place`; the path is that of the subdirectory. Raises BuildError, and
    HostError where there is no git."""
    git = _Git(place, os.environ if env is None else env)
    git.run("init", "--quiet", "--template=", ".")
    wanted = address.ref or "HEAD"
    commit = "FETCH_HEAD"
    if git.fails("fetch", "--quiet", "--no-tags", "--depth=1", "--", address.remote, wanted):
        # A server may refuse a lone commit, or cannot count; a short number has to be looked up.
        git.run("fetch", "--quiet", "--tags", "--", address.remote,
                "+refs/heads/*:refs/remotes/origin/*")
        commit = next((name for name in (f"refs/remotes/origin/{wanted}", f"refs/tags/{wanted}",
                                         *([wanted] if _HEX.issuperset(wanted) else []))
                       if not git.fails("rev-parse", "--quiet", "--verify", f"{name}^{{commit}}")),
                      "")
        if not commit:
            raise BuildError(f"cannot fetch {address.remote}: it has no {wanted}")
    git.run("checkout", "--quiet", "--force", "--detach", commit)
    if os.path.lexists(f"{place}/.gitmodules"):
        git.run("submodule", "--quiet", "update", "--init", "--recursive", "--depth=1")
    number = git.run("rev-parse", "HEAD").strip()
    if not keep_git_dir:
        _forget(place)
    path = os.path.realpath(os.path.join(place, address.subdir))
    if not (path + "/").startswith(os.path.realpath(place) + "/") or not os.path.isdir(path):
        raise BuildError(f"cannot fetch {address.remote}: there is no directory {address.subdir} "
                         "in it")
    return Checkout(path, number)


def _forget(place: str) -> None:
    """Take away what makes it a repository, submodules included."""
    for where, directories, files in os.walk(place):
        if ".git" in directories:
            shutil.rmtree(f"{where}/.git")
            directories.remove(".git")
        if ".git" in files:
            os.unlink(f"{where}/.git")


class _Git:
    def __init__(self, place: str, env: Mapping[str, str]) -> None:
        self._place = place
        self._env = {name: value for name, value in env.items() if name not in _MISLEADING}
        self._env.update(GIT_TERMINAL_PROMPT="0", LC_ALL="C")
        self._env.setdefault("GIT_SSH_COMMAND", "ssh -o BatchMode=yes")

    def fails(self, *words: str) -> bool:
        return self._do(words).returncode != 0

    def run(self, *words: str) -> str:
        """What it prints. Raises BuildError with what it complained about."""
        done = self._do(words)
        if done.returncode:
            lines = [line.removeprefix("fatal: ") for line in done.stderr.splitlines()
                     if line.strip()]
            raise BuildError(f"cannot fetch: git {words[0]}: "
                             + (lines[-1] if lines else f"exit code {done.returncode}"))
        return done.stdout

    def _do(self, words: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(["git", *words], cwd=self._place, env=self._env, check=False,
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                  errors="replace")
        except FileNotFoundError:
            raise HostError("cannot fetch a repository: the program git is not installed",
                            hint="apt-get install git") from None
