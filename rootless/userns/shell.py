"""This very process becomes root of the user's namespace, with mounts of its own (`unshare`)."""

from __future__ import annotations

import os

from rootless import linux
from rootless.errors import CommandNotExecutable, CommandNotFound, HostError, os_reason
from rootless.userns import keeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from rootless.paths import Paths
    from rootless.userns.keeper import Userns


def become(paths: Paths, userns: Userns, command: list[str]) -> NoReturn:
    """Run `command` in this process' place. Raises HostError, CommandNotFound.

    The command finds the same store: as root it would look in root's.
    """
    env = {**os.environ, "ROOTLESS_ROOT": paths.data, "XDG_RUNTIME_DIR": os.path.dirname(paths.run)}
    try:
        keeper.enter(userns)
        linux.unshare(linux.CLONE_NEWNS)
        # What is mounted here is not seen outside; what is mounted outside is seen here.
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_SLAVE)
    except OSError as e:
        raise HostError(f"cannot enter your user namespace: {os_reason(e)}",
                        hint="rootless doctor tells what this machine allows") from None
    from shutil import which

    program = command[0] if "/" in command[0] else which(command[0])
    if program is None:
        raise CommandNotFound(f"cannot run {command[0]}: no such command in PATH")
    try:
        os.execve(program, command, env)
    except (FileNotFoundError, NotADirectoryError):
        raise CommandNotFound(f"cannot run {command[0]}: no such command") from None
    except OSError as e:
        raise CommandNotExecutable(f"cannot run {command[0]}: {os_reason(e)}") from None
