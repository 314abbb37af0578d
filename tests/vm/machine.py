"""A virtual machine without network that runs cases and turns itself off.

QEMU emulates the processor in software, so it works wherever the tests do. The kernel talks on the
first serial port, the results come on the second, one JSON object per line. Drives are written to
in a scratch copy only: a boot changes nothing, and killing it loses nothing.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.vm import payload
from tests.vm.image import System, system

EMULATOR = "qemu-system-x86_64"
TIMEOUT = 240.0
TAIL = 60       # lines of the console that tell what went wrong


class Ended(NamedTuple):
    """What a boot left: `failures` has an entry for every case that ended, None if it passed."""
    failures: dict[str, str | None]
    console: str
    seconds: float
    timed_out: bool

    def __str__(self) -> str:
        how = f"was stopped after {self.seconds:.0f} s" if self.timed_out else \
            f"ended after {self.seconds:.0f} s"
        tail = "\n".join([line for line in self.console.splitlines() if line][-TAIL:])
        return f"the machine {how}; the last lines of its console:\n{tail}"


def run(cases: Sequence[str]) -> Ended:
    """Boot once, run `cases` inside."""
    if shutil.which(EMULATOR) is None:
        raise RuntimeError(f"cannot start the machine: {EMULATOR}: not found\n"
                           "hint: apt-get install qemu-system-x86")
    made = system()
    with tempfile.TemporaryDirectory(prefix="rootless-machine.", dir="/var/tmp") as name:
        work = Path(name)
        payload.make(work / "payload", made.python, cases)
        return boot(work, made, [_drive(work / "payload", "readonly=on")])


def boot(work: Path, made: System, drives: Sequence[str] = (), *, arguments: str = "",
         timeout: float = TIMEOUT) -> Ended:
    """Wait for the machine's end. `arguments` are added to the kernel's command line."""
    console, results = work / "console", work / "results"
    # A panic ends the machine: panic=-1 restarts at once, and -no-reboot makes that the end.
    line = f"root=/dev/vda rw console=ttyS0 loglevel=4 panic=-1 mitigations=off {arguments}"
    # Nehalem: what a newer processor has more costs more to emulate than it saves.
    command = [
        # The machine dies with the tests, however they end.
        "setpriv", "--pdeathsig", "KILL", EMULATOR, "-nodefaults", "-no-user-config",
        "-no-reboot", "-display", "none", "-nic", "none", "-accel", "tcg,thread=multi",
        "-cpu", "Nehalem", "-smp", "2", "-m", "2048", "-kernel", str(made.kernel),
        "-initrd", str(made.initrd), "-append", line,
        "-serial", f"file:{console}", "-serial", f"file:{results}",
        "-drive", _drive(made.drive, "snapshot=on"),
        *(word for drive in drives for word in ("-drive", drive))]
    start = time.monotonic()
    timed_out = False
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as emulator:
        try:
            said, _ = emulator.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            timed_out = True
            emulator.kill()
            said, _ = emulator.communicate()
        finally:
            emulator.kill()     # when we are interrupted; one that has ended is not harmed
    return Ended(read_results(results), _text(console) + said.decode(errors="replace"),
                 time.monotonic() - start, timed_out)


def read_results(path: Path) -> dict[str, str | None]:
    """A machine that was stopped may leave half a line: that case has no result."""
    failures: dict[str, str | None] = {}
    for line in _text(path).splitlines(keepends=True):
        if line.endswith("\n") and line.strip():
            result = json.loads(line)
            failures[result["case"]] = result["failure"]
    return failures


def _drive(path: Path, option: str) -> str:
    return f"file={path},if=virtio,format=raw,cache=unsafe,{option}"


def _text(path: Path) -> str:
    # A terminal's line ends are \r\n, after the kernel's own \r as well.
    return path.read_bytes().decode(errors="replace").replace("\r", "") if path.exists() else ""
