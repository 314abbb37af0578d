"""Where everything of one user lives.

Data (`$XDG_DATA_HOME/rootless`, for root `/var/lib/rootless`) holds all truth, the state of
running containers included: it is stamped with the host's name and boot id, so it needs no run
directory to survive a missing or foreign `XDG_RUNTIME_DIR` (su, sudo, cron, a batch job) and two
hosts that share a home directory do not mistake each other's containers for dead ones.
The run directory holds only sockets and the keeper's record, which can all be made again.
"""

from __future__ import annotations

import os
import stat

from rootless.errors import HostError, StorageError, os_reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

MARKER = "rootless-store"


def _private_dir(path: str, uid: int) -> bool:
    """Is `path` a real directory of ours that nobody else may write?"""
    try:
        st = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(st.st_mode) and st.st_uid == uid and not st.st_mode & 0o022


class Paths:
    """Names of the places; `ensure()` makes those that must exist."""

    def __init__(self, env: Mapping[str, str], uid: int) -> None:
        home = env.get("HOME") or ""
        if not home.startswith("/"):
            import pwd

            try:
                home = pwd.getpwuid(uid).pw_dir
            except KeyError:
                raise HostError("cannot find a home directory: HOME is not set",
                                hint="export HOME=/path/to/a/directory/of/yours") from None
        self.uid = uid
        self.home = home
        data = env.get("XDG_DATA_HOME") or ""
        if env.get("ROOTLESS_ROOT"):
            self.data = os.path.abspath(env["ROOTLESS_ROOT"])
        elif uid == 0:
            self.data = "/var/lib/rootless"
        else:
            self.data = (data if data.startswith("/") else home + "/.local/share") + "/rootless"
        config = env.get("XDG_CONFIG_HOME") or ""
        self.config = (config if config.startswith("/") else home + "/.config") + "/rootless"
        self._xdg_run = env.get("XDG_RUNTIME_DIR") or ""
        self._run = ""

        self.images = self.data + "/images"
        self.blobs = self.images + "/blobs/sha256"
        self.layers = self.data + "/layers"
        self.containers = self.data + "/containers"
        self.names = self.data + "/names"
        self.networks = self.data + "/networks"
        self.volumes = self.data + "/volumes"
        self.secrets = self.data + "/secrets"
        self.cache = self.data + "/cache"
        self.tmp = self.data + "/tmp"
        self.trash = self.data + "/trash"

    @property
    def run(self) -> str:
        """A private directory on a local filesystem, made on first use."""
        if self._run:
            return self._run
        candidates = [self._xdg_run, f"/run/user/{self.uid}"]
        if self.uid == 0:
            candidates = ["/run", self._xdg_run]
        for base in candidates:
            if base.startswith("/") and _private_dir(base, self.uid):
                return self._make_run(base + "/rootless")
        # Never another user's directory left behind by su or sudo.
        return self._make_run(f"/tmp/rootless-{self.uid}")

    def _make_run(self, path: str) -> str:
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if not _private_dir(path, self.uid):
                raise HostError(f"cannot use {path}: it is not a private directory of yours",
                                hint=f"remove it, or set XDG_RUNTIME_DIR to a directory that only "
                                     f"you (uid {self.uid}) can write") from None
        except OSError as e:
            raise HostError(f"cannot make the run directory: {path}: {os_reason(e)}",
                            hint="set XDG_RUNTIME_DIR to a writable directory of yours") from None
        self._run = path
        return path

    def container(self, cid: str) -> str:
        return f"{self.containers}/{cid}"

    def layer(self, diff_id: str) -> str:
        """Directory of an unpacked layer; `diff_id` is `sha256:<hex>`."""
        return f"{self.layers}/{diff_id.split(':', 1)[1]}"

    def ensure(self) -> None:
        """Make the store's directories. Raises StorageError when the place cannot be ours."""
        marker = f"{self.data}/{MARKER}"
        if os.path.exists(marker):
            return
        try:
            # Closed: a set-user-ID file of an image belongs to us on the disk, and whoever can
            # reach it can run it as us. Only the ids that root's containers use must pass.
            os.makedirs(self.data, 0o711 if self.uid == 0 else 0o700, exist_ok=True)
            foreign = [n for n in os.listdir(self.data)
                       if n not in STORE_NAMES and not n.startswith(".")]
            if foreign:
                raise StorageError(
                    f"cannot use {self.data} as the store: it already holds other files "
                    f"({', '.join(sorted(foreign)[:3])})",
                    hint="set ROOTLESS_ROOT or XDG_DATA_HOME to another directory")
            for d in (self.images, self.images + "/blobs", self.blobs, self.layers,
                      self.containers, self.names, self.cache, self.tmp, self.trash):
                os.makedirs(d, 0o711, exist_ok=True)
            from rootless.files import write_atomic

            layout = self.images + "/oci-layout"
            if not os.path.exists(layout):
                write_atomic(layout, b'{"imageLayoutVersion":"1.0.0"}', mode=0o644)
            write_atomic(marker, b"A store of rootless. Format 1.\n", mode=0o644)
        except OSError as e:
            raise StorageError(f"cannot make the store: {self.data}: {os_reason(e)}",
                               hint="set ROOTLESS_ROOT to a directory that you can write") from None


# What a store may hold at its top; `venv` and `bin` are the installer's, which by default
# shares the directory.
STORE_NAMES = frozenset((MARKER, "images", "layers", "containers", "names", "cache", "tmp",
                         "trash", "volumes", "networks", "secrets", "events", "venv", "bin"))


def of_this_user() -> Paths:
    return Paths(os.environ, os.geteuid())
