"""Runs the command line as its installed launcher does, in a home of its own."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import sys
import sysconfig
import termios
import time
from pathlib import Path
from types import TracebackType
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[3]
START = ("import sys; sys.path[:0] = [{!r}, {!r}]; from rootless.__main__ import main; main()"
         .format(str(CHECKOUT), sysconfig.get_path("purelib")))
COMMAND = [sys.executable, "-I", "-S", "-c", START]


@dataclasses.dataclass(frozen=True)
class Result:
    args: tuple[str, ...]
    rc: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        return self.out.decode().rstrip("\n")

    @property
    def error(self) -> str:
        return self.err.decode(errors="replace").rstrip("\n")

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def __str__(self) -> str:
        return f"rootless {' '.join(self.args)}: exit {self.rc}\n{self.out!r}\n{self.error}"


class Process(subprocess.Popen[bytes]):
    """A command line that is running; a `with` that fails does not wait for its end."""

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, value, trace)


def expect_signals() -> None:
    """Under nohup and in the background of a script some are ignored, by what we start as well."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


class Cli:
    """One user's view: `home` holds everything, `run(...)` runs a command to its end."""

    def __init__(self, home: Path, runtime: Path, **extra: str) -> None:
        self.home = home
        self.runtime = runtime
        home.mkdir(parents=True, exist_ok=True)
        runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.env = {"HOME": str(home), "XDG_RUNTIME_DIR": str(runtime), "LANG": "C.UTF-8",
                    "USER": os.environ.get("USER", "user"), "TERM": "xterm",
                    "PATH": os.environ.get("PATH", "/usr/bin:/bin"), **extra}

    @property
    def store(self) -> Path:
        return self.home / ".local/share/rootless"

    def popen(self, *args: str, before: tuple[str, ...] = (), **more: Any) -> Process:
        """`before`: words of a program that runs the command line, as unshare does."""
        more.setdefault("stdin", subprocess.DEVNULL)
        more.setdefault("env", self.env)
        more.setdefault("cwd", self.home)
        more.setdefault("preexec_fn", expect_signals)
        return Process([*before, *COMMAND, *args], **more)

    def __call__(self, *args: str, stdin: bytes | None = None, timeout: float = 60,
                 env: dict[str, str] | None = None, cwd: Path | None = None) -> Result:
        """Run to the end. Whatever happened, no traceback may have reached the user."""
        with self.popen(*args, stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=cwd or self.home,
                        env={**self.env, **(env or {})}) as process:
            try:
                out, err = process.communicate(stdin, timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
                raise AssertionError(f"no end after {timeout} s: rootless {' '.join(args)}\n"
                                     f"{out!r}\n{err!r}") from None
        result = Result(args, process.returncode, out, err)
        assert b"Traceback" not in err, result
        assert b"Traceback" not in out, result
        return result

    def ok(self, *args: str, **more: Any) -> Result:
        result = self(*args, **more)
        assert result.rc == 0, result
        return result

    def fails(self, rc: int, *args: str, says: str = "", **more: Any) -> Result:
        """Must end with `rc` and one clear line (and a hint) that contains `says`."""
        result = self(*args, **more)
        assert result.rc == rc, result
        lines = [line for line in result.error.splitlines() if line.startswith("rootless: ")]
        assert lines, result
        assert says.lower() in result.error.lower(), result
        return result

    def terminal(self, *args: str, rows: int = 24, columns: int = 80) -> Terminal:
        return Terminal([*COMMAND, *args], self.env, self.home, rows, columns)


class Terminal:
    """An interactive session on a pseudo-terminal.

        with cli.terminal("run", "-it", image, "sh") as t:
            t.expect("# ")
            t.send("exit 3\\n")
            assert t.wait() == 3
    """

    def __init__(self, command: list[str], env: dict[str, str], cwd: Path, rows: int,
                 columns: int) -> None:
        self.fd, slave = os.openpty()
        self.output = b""
        self._read_to = 0
        try:
            self.resize(rows, columns)
            self.initial = termios.tcgetattr(slave)
            # setsid gives it the terminal as its controlling one; it does not fork here.
            self.process = subprocess.Popen(["setsid", "--ctty", *command], stdin=slave,
                                            stdout=slave, stderr=slave, env=env, cwd=cwd,
                                            preexec_fn=expect_signals)
        finally:
            os.close(slave)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def send(self, text: str | bytes) -> None:
        os.write(self.fd, text.encode() if isinstance(text, str) else text)

    def _read(self, timeout: float) -> bool:
        """False at the end of the terminal."""
        ready, _, _ = select.select([self.fd], [], [], timeout)
        if not ready:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:         # EIO: the last process that had the terminal open is gone
            return False
        self.output += data
        return bool(data)

    def expect(self, text: str | bytes, timeout: float = 20) -> bytes:
        """Read until `text` appears after what was matched before."""
        wanted = text.encode() if isinstance(text, str) else text
        end = time.monotonic() + timeout
        more = True
        while True:
            at = self.output.find(wanted, self._read_to)
            if at >= 0:
                before = self.output[self._read_to:at]
                self._read_to = at + len(wanted)
                return before
            left = end - time.monotonic()
            assert more and left > 0, (f"{wanted!r} did not appear; the terminal shows "
                                       f"{self.output[self._read_to:]!r}")
            more = self._read(min(left, 0.5))

    def wait(self, timeout: float = 20) -> int:
        end = time.monotonic() + timeout
        open_ = True
        while self.process.poll() is None:
            assert time.monotonic() < end, f"still running; the terminal shows {self.output!r}"
            if open_:
                open_ = self._read(0.02)
            else:
                time.sleep(0.02)
        while open_ and select.select([self.fd], [], [], 0)[0]:
            open_ = self._read(0)
        assert b"Traceback" not in self.output, self.output
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        os.close(self.fd)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
