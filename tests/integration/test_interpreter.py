"""CVE-2019-5736: the engine's own program, where it is the user's to write, as conda's is."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.integration.support.cli import COMMAND, Cli

# Runs in the engine's own Python if a `#!/proc/self/exe` gets past the checks.
EVIL = """#!/proc/self/exe
import os, time
kept = os.open('/proc/self/exe', os.O_RDONLY)
os.close(os.open('/v/reached', os.O_WRONLY | os.O_CREAT))
if os.fork() == 0:
    os.setsid()
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        for path in ('/proc/self/exe', f'/proc/self/fd/{kept}'):
            for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
                try:
                    os.write(os.open(path, flags), b'overwritten')
                except OSError:
                    pass
"""


def test_the_interpreter_cannot_be_overwritten(cli: Cli, tmp_path: Path) -> None:
    """What runs our program inside is refused where it is seen; where it is not, the kernel
    stands in the way: a program that runs cannot be written (ETXTBSY), and the monitor, which
    outlives every process of its container, runs it."""
    python = tmp_path / "python"
    shutil.copy(os.path.realpath(sys.executable), python)
    before = hashlib.sha256(python.read_bytes()).digest()
    shared = tmp_path / "v"
    shared.mkdir()
    # A script, a script's script, and one by the name of a link.
    for name, text in (("evil", EVIL), ("second", "#!/v/evil\n"), ("third", "#!/v/second\n")):
        (shared / name).write_text(text)
        (shared / name).chmod(0o755)

    def outside(*args: str) -> int:
        return subprocess.run([str(python), *COMMAND[1:], *args], env=cli.env, cwd=cli.home,
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, check=False).returncode

    volume = ("-v", f"{shared}:/v")
    assert outside("run", "-d", "--name", "held", *volume, "host", "sleep", "1000") == 0
    try:
        for command in ("/v/evil", "/v/second", "/v/third"):
            outside("exec", "held", command)
            outside("run", "--rm", *volume, "host", command)
    finally:
        cli.ok("rm", "-f", "held")
    assert hashlib.sha256(python.read_bytes()).digest() == before
    assert not (shared / "reached").exists()
