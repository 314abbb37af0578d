"""Repositories behind git's own server, as contexts and as sources of ADD."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootless.build import git
from rootless.build.git import Address
from rootless.errors import BuildError, HostError

ENV = {"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null",
       "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a",
       "GIT_COMMITTER_EMAIL": "a@b"}


class Served:
    """A repository behind git's own server on the loopback."""

    def __init__(self, directory: Path) -> None:
        self.work = directory / "work"
        self.work.mkdir()
        self.git("init", "--quiet", "--initial-branch=main", ".")
        self.commits: list[str] = []
        for name in ("one", "two"):
            (self.work / "dir").mkdir(exist_ok=True)
            (self.work / "dir" / name).write_text(name)
            (self.work / "out").unlink(missing_ok=True)
            (self.work / "out").symlink_to("/etc")
            self.git("add", ".")
            self.git("commit", "--quiet", "-m", name)
            self.commits.append(self.git("rev-parse", "HEAD").strip())
        self.git("tag", "v1", self.commits[0])
        self.git("branch", "other", self.commits[0])
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        programs = subprocess.run(["git", "--exec-path"], capture_output=True, text=True,
                                  check=True).stdout.strip()
        self.process = subprocess.Popen(
            [f"{programs}/git-daemon", "--reuseaddr", "--export-all", "--listen=127.0.0.1",
             f"--port={port}", f"--base-path={directory}"], env=ENV, stdin=subprocess.DEVNULL)
        self.address = f"git://127.0.0.1:{port}/work"
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline, "git daemon does not listen"
                time.sleep(0.02)

    def git(self, *words: str) -> str:
        return subprocess.run(["git", *words], cwd=self.work, env=ENV, capture_output=True,
                              text=True, check=True).stdout


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    found = Served(tmp_path_factory.mktemp("served"))
    yield found
    found.process.terminate()
    found.process.wait()


@pytest.mark.parametrize("ref, names", [
    ("", ["one", "two"]), ("main", ["one", "two"]), ("other", ["one"]), ("v1", ["one"]),
    ("refs/heads/other", ["one"]), ("0", ["one"]), ("short", ["one"]),
])
def test_a_ref_is_a_branch_a_tag_or_a_commit(ref: str, names: list[str], served: Served,
                                             tmp_path: Path) -> None:
    wanted = {"0": served.commits[0], "short": served.commits[0][:8]}.get(ref, ref)
    address = git.parse(f"{served.address}#{wanted}:dir")
    assert address
    found = git.fetch(address, str(tmp_path), env=ENV)
    assert sorted(os.listdir(found.path)) == names
    assert found.commit == served.commits[len(names) - 1]
    assert not (tmp_path / ".git").exists()


def test_the_repository_stays_when_asked(served: Served, tmp_path: Path) -> None:
    git.fetch(Address(served.address, "", ""), str(tmp_path), keep_git_dir=True, env=ENV)
    assert (tmp_path / ".git").is_dir()
    assert not os.path.exists(tmp_path / ".git" / "hooks")


@pytest.mark.parametrize("subdir", ["out", "nothing", "dir/one"])
def test_a_subdirectory_lies_in_the_repository(subdir: str, served: Served,
                                               tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=f"there is no directory {subdir} in it"):
        git.fetch(Address(served.address, "", subdir), str(tmp_path), env=ENV)


def test_a_ref_that_is_not_there_is_one_clear_error(served: Served, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="it has no nope"):
        git.fetch(Address(served.address, "nope", ""), str(tmp_path), env=ENV)


def test_a_server_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="cannot fetch: git fetch: "):
        git.fetch(Address("git://127.0.0.1:1/x", "", ""), str(tmp_path), env=ENV)


def test_without_git_the_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError) as caught:
        git.fetch(Address("git://127.0.0.1:1/x", "", ""), str(tmp_path), env={"PATH": "/nowhere"})
    assert caught.value.hint == "apt-get install git"
