"""Two engines that are driven the same way, each with a home of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from tests.integration.support import filled, leftovers


class Engine:
    """`program`: the command's first words. Its images and containers live below `home`."""

    def __init__(self, name: str, program: list[str], home: Path, runtime: Path) -> None:
        self.name = name
        self.program = program
        self.home = home
        self.runtime = runtime
        home.mkdir(parents=True)
        runtime.mkdir(mode=0o700, parents=True)
        self.env = {"HOME": str(home), "XDG_RUNTIME_DIR": str(runtime), "LANG": "C.UTF-8",
                    "USER": os.environ.get("USER", "user"), "TMPDIR": str(home),
                    "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}

    def __call__(self, *args: str) -> str:
        done = subprocess.run([*self.program, *args], env=self.env, cwd=self.home, text=True,
                              stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{self.name} {' '.join(args)}: exit {done.returncode}\n"
                               f"{done.stderr}")
        return done.stdout

    def seconds(self, *args: str) -> float:
        """Wall time of the whole command, with nothing of ours between start and end."""
        command = [*self.program, *args]
        null = [(os.POSIX_SPAWN_OPEN, n, "/dev/null", os.O_RDWR, 0) for n in (0, 1, 2)]
        os.chdir(self.home)
        begin = time.perf_counter()
        pid = os.posix_spawnp(command[0], command, self.env, file_actions=null)
        _, status = os.waitpid(pid, 0)
        taken = time.perf_counter() - begin
        if status:
            self(*args)     # once more, to hear why
            raise RuntimeError(f"{self.name} {' '.join(args)} failed once")
        return taken

    def another(self, number: int) -> Engine:
        """The same program with a new home."""
        return Engine(self.name, self.program, Path(f"{self.home}-{number}"),
                      Path(f"{self.runtime}-{number}"))

    def popen(self, *args: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*self.program, *args], env=self.env, cwd=self.home,
                                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL)

    def remove(self) -> None:
        if self.name == "podman":
            self("system", "migrate")       # ends the process that holds its namespaces
        for pid, line in leftovers.descendants().items():
            if str(self.home) in line or str(self.runtime) in line or "sleep" in line:
                os.kill(pid, 9)
        filled.remove_tree(self.home)
        shutil.rmtree(self.runtime, ignore_errors=True)


def rootless(base: Path) -> Engine:
    """The installed command: $ROOTLESS, or the one in PATH or ~/.local/bin."""
    found = os.environ.get("ROOTLESS") or shutil.which("rootless") or shutil.which(
        "rootless", path=os.path.expanduser("~/.local/bin"))
    if found is None:
        raise SystemExit("rootless is not installed: ./install.sh")
    return Engine("rootless", [found], base / "rootless", base / "rootless-run")


def podman(base: Path) -> Engine:
    found = shutil.which("podman")
    if found is None:
        raise SystemExit("podman is not installed: apt-get install podman")
    # crun refuses a hybrid hierarchy of cgroups, which runc takes.
    program = [found, "--runtime", "runc"] if shutil.which("runc") else [found]
    return Engine("podman", program, base / "podman", base / "podman-run")
