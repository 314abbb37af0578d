"""install.sh, as somebody who has just cloned the project: from wheels, without network."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.support import cache, filled
from tests.integration.support.cli import CHECKOUT

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def wheels() -> Path:
    """What the installer would download, and pip itself."""
    def build(place: Path) -> None:
        text = (CHECKOUT / "pyproject.toml").read_text()
        wanted = text.split("\ndependencies = [")[1].split("\n]")[0]
        names = [line.split('"')[1] for line in wanted.splitlines() if '"' in line]
        subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--use-pep517",
                        "--wheel-dir", str(place), "pip", *names], check=True, env={
                            **os.environ, "PIP_CACHE_DIR": str(cache.root() / "pip")})

    key = cache.recipe_key((CHECKOUT / "pyproject.toml").read_text(), sys.version, "1")
    return cache.cached("wheels", key, build)


class Account:
    """A home with a space in its name and a checkout of its own."""

    def __init__(self, ground: Path, wheels: Path) -> None:
        number = next(_numbers)
        self.home = ground / f"new comer {number}"
        self.home.mkdir(0o755)
        self.project = self.home / "my project"
        self.project.mkdir()
        for name in ("rootless", "slirp", "fuse_overlay"):
            shutil.copytree(CHECKOUT / name, self.project / name,
                            ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("install.sh", "pyproject.toml", "LICENSE"):
            shutil.copy2(CHECKOUT / name, self.project / name)
        self.runtime = ground / f"run-new-{number}"
        self.runtime.mkdir(0o700)
        self.env = {"HOME": str(self.home), "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
                    "XDG_RUNTIME_DIR": str(self.runtime), "SHELL": "/bin/bash", "LANG": "C.UTF-8"}
        self.wheels = wheels
        self.launcher = self.home / ".local/bin/rootless"
        self.base = self.home / ".local/share/rootless"

    def run(self, *words: str, rc: int | None = 0, prefix: tuple[str, ...] = ()) -> str:
        """Output and errors of a command, whose exit code must be `rc`."""
        done = subprocess.run([*prefix, *words], env=self.env, cwd=self.home, timeout=120,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, check=False)
        text = done.stdout.decode()
        assert rc is None or done.returncode == rc, f"exit {done.returncode}\n{text}"
        assert "Traceback" not in text, text
        return text

    def install(self, *words: str, rc: int = 0, prefix: tuple[str, ...] = ()) -> str:
        return self.run(str(self.project / "install.sh"), "--find-links", str(self.wheels), *words,
                        rc=rc, prefix=prefix)

    def version(self) -> str:
        return self.run(str(self.launcher), "version").strip()

    def environments(self) -> list[str]:
        return sorted(p.name for p in self.base.glob(".venv-*"))

    def set_version(self, version: str) -> None:
        path = self.project / "rootless/__init__.py"
        path.write_text(path.read_text().replace("0.1.0", version))


@pytest.fixture
def account(ground: Path, wheels: Path) -> Iterator[Account]:
    made = Account(ground, wheels)
    yield made
    filled.remove_tree(made.home)
    shutil.rmtree(made.runtime)


def tree(directory: Path) -> list[Path]:
    return sorted(p for p in directory.rglob("*"))


def test_a_newcomer_installs_looks_and_uninstalls(account: Account) -> None:
    before, checkout = tree(account.home), tree(account.project)
    told = account.install()
    assert f"is installed: {account.launcher}" in told
    assert "can run containers with" in told
    assert f"export PATH=\"{account.launcher.parent}:$PATH\"' >> ~/.bashrc" in told
    assert account.version() == "rootless version 0.1.0"
    assert "user namespaces" in account.run(str(account.launcher), "doctor")
    assert "rootless-slirp" in account.run(f"{account.launcher}-slirp", "--version")
    assert tree(account.project) == checkout, "the checkout has been written to"
    assert "uninstalled" in account.install("--uninstall")
    assert tree(account.home) == before
    assert "nothing to uninstall" in account.install("--uninstall")


def test_shells_complete_its_verbs(account: Account) -> None:
    account.install()
    data = account.home / ".local/share"
    assert (data / "zsh/site-functions/_rootless").read_text().startswith("#compdef rootless")
    assert "complete" in (data / "fish/vendor_completions.d/rootless.fish").read_text()
    script = data / "bash-completion/completions/rootless"
    account.env["PATH"] = f"{account.launcher.parent}:{account.env['PATH']}"
    shown = account.run("bash", "-ec", f"""
        source '{script}'
        COMP_WORDS=(rootless doc) COMP_CWORD=1
        _rootless_completion rootless
        echo "${{COMPREPLY[@]}}" """)
    assert shown.split() == ["doctor"]


def test_only_its_own_packages_and_the_standard_library_are_on_its_path(account: Account) -> None:
    account.install()
    trap = account.home / "trap"
    trap.mkdir()
    (trap / "rootless.py").write_text("raise RuntimeError('taken from the outside')")
    account.env.update(PYTHONPATH=str(trap), PYTHONSTARTUP=str(trap / "rootless.py"))
    assert account.version() == "rootless version 0.1.0"


def test_every_module_is_compiled_beforehand(account: Account) -> None:
    account.install()
    (site,) = (account.base / "venv/lib").glob("python*/site-packages")
    before = tree(site)
    assert list((site / "rootless/cli/__pycache__").glob("version.*.pyc"))
    account.version()
    assert tree(site) == before


def test_another_run_upgrades_and_keeps_one_environment_for_what_still_runs(
        account: Account) -> None:
    seen: list[str] = []
    for version in ("0.1.0", "0.2.0", "0.3.0"):
        if version != "0.1.0":
            path = account.project / "rootless/__init__.py"
            path.write_text(f'"""Newer."""\n\n__version__ = "{version}"\n')
        account.install()
        assert account.version() == f"rootless version {version}"
        seen.append(os.readlink(account.base / "venv"))
    assert account.environments() == sorted(seen[1:])


def test_a_run_that_fails_leaves_the_installation_as_it_was(account: Account) -> None:
    account.install()
    kept, empty = account.environments(), account.home / "no wheels"
    empty.mkdir()
    account.set_version("0.2.0")
    told = account.run(str(account.project / "install.sh"), "--find-links", str(empty), rc=1)
    assert "install.sh: cannot install the Python packages" in told
    (account.project / "rootless/__main__.py").write_text("import nothing_of_that_name\n")
    told = account.install(rc=1)
    assert "install.sh: the new installation does not work" in told
    assert account.environments() == kept
    assert account.version() == "rootless version 0.1.0"


def test_a_run_that_is_killed_leaves_the_installation_as_it_was(account: Account) -> None:
    account.install()
    (kept,) = account.environments()
    account.set_version("0.2.0")
    for moment in (0.2, 0.6, 1.0):
        process = subprocess.Popen(
            [account.project / "install.sh", "--find-links", str(account.wheels)],
            env={**account.env, "TMPDIR": str(account.home)}, cwd=account.home,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(moment)
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert account.version() == "rootless version 0.1.0"
    assert len(account.environments()) > 1
    account.install()
    assert account.version() == "rootless version 0.2.0"
    assert account.environments() == sorted({kept, os.readlink(account.base / "venv")})


def test_runs_at_the_same_time_take_turns(account: Account) -> None:
    running = [subprocess.Popen([account.project / "install.sh", "--find-links", account.wheels],
                                env=account.env, cwd=account.home, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL) for _ in range(3)]
    assert [process.wait(120) for process in running] == [0, 0, 0]
    assert account.version() == "rootless version 0.1.0"
    assert len(account.environments()) == 2
    account.install("--uninstall")
    assert not (account.home / ".local").exists()


def test_uninstalling_keeps_images_and_containers_and_says_where_they_are(
        account: Account) -> None:
    account.install()
    account.base.joinpath("rootless-store").write_text("A store of rootless. Format 1.\n")
    (account.base / "images").mkdir()
    told = account.install("--uninstall")
    assert f"still in {account.base}" in told and "rootless system reset" in told
    assert sorted(p.name for p in account.base.iterdir()) == ["images", "rootless-store"]


def test_a_program_of_that_name_which_is_not_ours_is_left_alone(account: Account) -> None:
    account.launcher.parent.mkdir(parents=True)
    account.launcher.write_text("#!/bin/sh\necho mine\n")
    told = account.install(rc=1)
    assert f"cannot install {account.launcher}: another program" in told
    assert "left alone" in account.install("--uninstall")
    assert account.launcher.read_text() == "#!/bin/sh\necho mine\n"


def test_a_prefix_holds_everything(account: Account) -> None:
    prefix = account.home / "opt here"
    account.install(f"--prefix={prefix}")
    assert account.run(str(prefix / "bin/rootless"), "version") == "rootless version 0.1.0\n"
    assert not (account.home / ".local").exists()
    account.install("--uninstall", "--prefix", str(prefix))
    assert not prefix.exists()


def test_root_installs_for_all_users(account: Account) -> None:
    prefix = account.home / "usr"
    old = os.umask(0o077)
    try:
        account.install("--prefix", str(prefix), prefix=(
            "unshare", "--user", "--map-root-user", "--mount", "sh", "-ec",
            'mount -t tmpfs -o mode=755 none /run; exec "$@"', "sh"))
    finally:
        os.umask(old)
    shut = [p for p in tree(prefix) if not p.is_symlink()
            and p.stat().st_mode & (0o005 if p.is_dir() else 0o004) == 0]
    assert not shut
    assert account.run(str(prefix / "bin/rootless"), "version") == "rootless version 0.1.0\n"


def test_a_python_at_an_odd_path_gets_a_launcher_that_copes(account: Account) -> None:
    odd = account.home / "it's a long way" / ("x" * 120)
    odd.mkdir(parents=True)
    (odd / "python3").symlink_to("/usr/bin/python3")
    account.install("--python", str(odd / "python3"))
    assert account.launcher.read_text().startswith("#!/bin/sh\n")
    assert account.version() == "rootless version 0.1.0"
    assert account.run(str(account.launcher), "run", "--nme=a b", "x", rc=125).startswith(
        "rootless: unknown flag: --nme")


HIDE = """
for place in /usr/lib/python3*/ensurepip /usr/lib/python3/dist-packages/pip; do
    [ ! -d $place ] || mount --bind '{}' $place
done
exec "$@"
"""


def test_without_pip_it_is_taken_from_the_wheels_or_one_line_says_what_to_install(
        account: Account) -> None:
    nothing = account.home / "nothing"
    nothing.mkdir()
    hidden = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-ec",
              HIDE.format(nothing), "sh", "unshare", "--user", f"--map-user={os.getuid()}",
              f"--map-group={os.getgid()}")
    told = account.run(str(account.project / "install.sh"), rc=1, prefix=hidden)
    assert told.splitlines()[-2:] == [
        "install.sh: cannot install Python packages: /usr/bin/python3 has no pip",
        "  hint: as root: apt-get install --yes python3-venv; "
        "or put a pip wheel in --find-links DIR"]
    account.install(prefix=hidden)
    assert account.version() == "rootless version 0.1.0"


def test_a_platform_without_compiled_wheels_gets_the_rest(account: Account) -> None:
    some = account.home / "some wheels"
    some.mkdir()
    for wheel in account.wheels.iterdir():
        if not wheel.name.startswith(("isal", "zstandard")):
            (some / wheel.name).symlink_to(wheel)
    account.wheels = some
    told = account.install()
    assert "Left out: isal" in told and "Left out: zstandard" in told
    assert "zstandard is missing" in told
    assert account.version() == "rootless version 0.1.0"


@pytest.mark.parametrize("words, says", [
    (["--frobnicate"], "unknown option: --frobnicate"),
    (["now"], "unexpected argument: now"),
    (["--prefix"], "option needs an argument: --prefix"),
    (["--user="], "option needs an argument: --user"),
])
def test_what_it_does_not_know_is_one_line_and_exit_2(account: Account, words: list[str],
                                                     says: str) -> None:
    assert account.run(str(account.project / "install.sh"), *words, rc=2).splitlines() == [
        f"install.sh: {says}", "  hint: ./install.sh --help"]


def test_an_old_python_is_refused_by_name(account: Account) -> None:
    old = account.home / "python3.8"
    old.write_text("#!/bin/sh\necho older than 3.9\nexit 1\n")
    old.chmod(old.stat().st_mode | stat.S_IXUSR)
    told = account.install("--python", str(old), rc=1)
    assert f"install.sh: cannot use the Python {old}: older than 3.9" in told


def test_a_full_disk_is_told_before_anything_is_written(account: Account) -> None:
    small = account.home / "small"
    small.mkdir()
    told = account.install("--prefix", str(small / "x"), rc=1, prefix=(
        "unshare", "--user", "--map-root-user", "--mount", "sh", "-ec",
        f"mount -t tmpfs -o size=9m none '{small}'; exec \"$@\"", "sh"))
    assert told.splitlines() == [
        f"install.sh: cannot install in {small}/x/lib/rootless: only 9 MB are free",
        "  hint: ./install.sh --prefix DIR"]


def test_subordinate_ids_are_for_root_to_give(account: Account) -> None:
    told = account.install("--user", "daemon", rc=1)
    assert told.splitlines() == ["install.sh: cannot give daemon subordinate ids: only root can",
                                 "  hint: sudo ./install.sh --user daemon"]


def test_the_installer_is_clean_posix_shell() -> None:
    subprocess.run(["shellcheck", "--shell=sh", str(CHECKOUT / "install.sh")], check=True)
