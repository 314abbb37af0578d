"""Repositories behind git's own server, as contexts and as sources of ADD."""

from __future__ import annotations

import functools
import http.server
import io
import os
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootless.build import git
from rootless.build.git import Address
from rootless.errors import BuildError, HostError
from tests.integration.support.cli import Cli

ENV = {"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null",
       "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a",
       "GIT_COMMITTER_EMAIL": "a@b"}


class Served:
    """A repository behind git's own server on the loopback."""

    def __init__(self, directory: Path) -> None:
        self.work = directory / "work"
        self.work.mkdir()
        (self.work / "Dockerfile").write_text("FROM scratch\nCOPY dir /\n")
        (self.work / ".dockerignore").write_text("dir/two\n")
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


def names(cli: Cli, image: str) -> list[str]:
    """Files of an image of nothing but files."""
    cli.ok("create", "--name", "looked-at", image, "x")
    archive = cli.ok("export", "looked-at").out
    cli.ok("rm", "looked-at")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return sorted(member.name for member in tar if member.isfile())


def test_a_repository_is_a_context(served: Served, fresh: Cli) -> None:
    fresh.ok("build", "-t", "made", served.address)
    assert names(fresh, "made") == ["one"]
    result = fresh.fails(1, "build", f"{served.address}#nope", says="it has no nope")
    assert "Traceback" not in result.error
    assert os.listdir(fresh.store / "tmp") == []


def test_add_takes_a_repository(served: Served, fresh: Cli, tmp_path: Path) -> None:
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text(f"FROM scratch\nADD --checksum={served.commits[0]} "
                          f"{served.address}#v1:dir /x/\nADD {served.address} /y\n"
                          f"ADD --keep-git-dir=true {served.address} /z\n")
    fresh.ok("build", "-t", "made", str(tmp_path))
    found = names(fresh, "made")
    assert [n for n in found if not n.startswith("z/.git/")] == [
        "x/one", "y/.dockerignore", "y/Dockerfile", "y/dir/one", "y/dir/two", "z/.dockerignore",
        "z/Dockerfile", "z/dir/one", "z/dir/two"]
    assert "z/.git/HEAD" in found
    dockerfile.write_text(f"FROM scratch\nADD --checksum={served.commits[1]} "
                          f"{served.address}#v1 /x/\n")
    fresh.fails(1, "build", str(tmp_path), says=f"is at {served.commits[0]}, not at")


def test_an_address_is_a_context(fresh: Cli, tmp_path: Path) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, text in (("Dockerfile", "FROM scratch\nCOPY a /b\n"), ("a", "x")):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    (tmp_path / "context.tar.gz").write_bytes(archive.getvalue())
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY <<a /only\na\n")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        fresh.ok("build", "-t", "made", f"{address}/context.tar.gz")
        assert names(fresh, "made") == ["b"]
        fresh.ok("build", "-t", "made", f"{address}/Dockerfile")
        assert names(fresh, "made") == ["only"]
        fresh.ok("build", "-t", "other", "-f", f"{address}/Dockerfile", str(tmp_path))
        assert names(fresh, "other") == ["only"]
        fresh.fails(1, "build", f"{address}/nothing", says="the server answered 404")
        server.shutdown()
