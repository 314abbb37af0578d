"""`rootless system reset` and `rootless system stop`."""

from __future__ import annotations

import os
import sys

from rootless import paths as places
from rootless.cli.command import Command, Options
from rootless.cli.confirm import FORCE, confirmed
from rootless.container import life, store
from rootless.errors import NotFound, StorageError
from rootless.paths import MARKER, STORE_NAMES
from rootless.storage import trash
from rootless.userns import keeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.paths import Paths


def reset(options: Options) -> int:
    """Needs nothing to work but the marker that says the store is ours."""
    paths = places.of_this_user()
    if not os.path.isfile(f"{paths.data}/{MARKER}"):
        raise StorageError(f"cannot reset: {paths.data} is not a store of rootless",
                           hint="set ROOTLESS_ROOT to the store you mean")
    if not confirmed(options, f"This removes all containers, images, volumes and secrets in "
                              f"{paths.data}."):
        return 1
    for container in store.every(paths):
        try:
            life.remove(container, force=True)
        except NotFound:
            continue
    kept = {"venv", "bin", MARKER}
    for name in sorted(STORE_NAMES - kept - {"trash"}):
        if os.path.lexists(f"{paths.data}/{name}"):
            trash.discard(paths, f"{paths.data}/{name}")
    os.unlink(f"{paths.data}/{MARKER}")
    try:
        os.rmdir(paths.trash)
    except OSError:
        pass        # what could not be deleted stays there, for the next reset
    _stop_networks(paths)
    keeper.stop(paths)
    sys.stdout.write(f"removed all containers, images and volumes in {paths.data}\n")
    return 0


def _stop_networks(paths: Paths) -> bool:
    """End the network keeper, if there is one. Containers on networks have another started."""
    from rootless.network import client

    return os.path.isdir(paths.data) and client.ask_if_there(
        paths.run, paths.data, {"do": "stop"}) is not None


def stop(options: Options) -> int:
    """Containers keep running; the next command starts others."""
    paths = places.of_this_user()
    ended = _stop_networks(paths)
    ended = keeper.stop(paths) or ended
    sys.stdout.write("stopped\n" if ended else "nothing to stop\n")
    return 0


COMMANDS = {
    "system reset": Command("system reset", "", "Remove all containers, images, volumes and "
                            "secrets of this user.", reset, (FORCE,), most=0),
    "system stop": Command("system stop", "",
                           "End the processes that keep the user namespace and the networks. "
                           "Containers go on; the next command starts them again.", stop, most=0),
}
