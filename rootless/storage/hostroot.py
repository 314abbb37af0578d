"""The embedded image `host`: this machine's own files below a throw-away layer.

Goal: `rootless run host CMD` runs CMD on a copy of this machine, with no registry and no image.
Nothing is copied: the host's directories are the lower layers of overlays, read-only by nature.

What the kernel asks for shapes it (fs/namespace.c, fs/overlayfs/super.c):
- A directory with other mounts below cannot be a layer in a user namespace, as it would show what
  they cover. So the root is cut into parts: a directory with nothing mounted below is one overlay;
  one with mounts below is an ordinary directory of a skeleton, and its entries are parts.
- A layer may not hold the overlay's own upper directory. The part that holds the store is mounted
  through another overlay, whose tree has no such ancestor (`through`).
- Above each part lies its mirror (`rootless.storage.mirror`): container root may change what the
  host's root owns.

What is seen: everything the user may read on disks and network filesystems, the user's home and
the current directory as they are. Not seen: /proc, /sys, /dev and /run, which are the
container's own; /tmp, except on the way to the current directory; the store itself.
"""

from __future__ import annotations

import binascii
import os
import stat

from rootless.errors import StorageError, os_reason
from rootless.files import Lock
from rootless.record import record
from rootless.storage import mirror

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from rootless.paths import Paths
    from rootless.userns.keeper import Userns

    # Path, mode, and for a symbolic link what it names.
    Place = tuple[str, int, str]

DISKS = frozenset("ext2 ext3 ext4 xfs btrfs zfs f2fs bcachefs jfs reiserfs overlay erofs 9p "
                  "virtiofs fuseblk nfs nfs4 lustre gpfs beegfs ceph glusterfs".split())
# The container has its own, or they hold what others left.
EMPTY = frozenset(("/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp", "/lost+found"))
KERNEL = ("/proc/", "/sys/", "/dev/")
COPIED = ("/etc", "/var/cache/debconf", "/var/lib/dpkg/triggers", "/var/lib/apt/lists",
          "/var/cache/apt/archives", "/var/log")
LAG = 600.0
PEOPLE = range(1000, 1 << 32)       # login.defs(5): lower ids are the system's
# More parts than this mean a mount for each user or image; what is beyond the way to the home
# and current directory is left out.
MOST_PARTS = 96
SHELL_VARIABLES = ("HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "SHELL", "USER")


@record(frozen=True)
class Mount:
    """An overlay of the root: `at` (relative, "" the root itself), `lower` top first."""

    at: str
    lower: tuple[str, ...]
    upper: str
    work: str
    through: bool


@record(frozen=True)
class Cut:
    """`parts`: directories that are overlays. `skeleton`: what is not, in order of making."""

    parts: tuple[str, ...]
    skeleton: tuple[Place, ...]


def image_config(env: Mapping[str, str], cwd: str) -> dict[str, Any]:
    """What an image's config would say: the caller's shell, home and place."""
    kept = [f"{k}={v}" for k, v in sorted(env.items())
            if k in SHELL_VARIABLES or k.startswith("LC_")]
    return {"Env": kept, "Cmd": [env.get("SHELL") or "/bin/sh"],
            "WorkingDir": cwd if _reachable(cwd) else "/"}


def _reachable(path: str) -> bool:
    """Can container root get there? It is us, or for root somebody whom no mode knows."""
    if os.geteuid():
        return os.access(path, os.X_OK)
    while path != "/":
        if not os.stat(path).st_mode & 1:
            return False
        path = os.path.dirname(path)
    return True


def _readable(path: str) -> bool:
    if os.geteuid():
        return os.access(path, os.R_OK | os.X_OK)
    return os.stat(path).st_mode & 5 == 5


def prepare(paths: Paths, userns: Userns, where: str) -> list[Mount]:
    """The overlays of a container in directory `where`, in the order of mounting.

    Raises StorageError.
    """
    keep = tuple(os.path.realpath(p) for p in (paths.home, os.getcwd()))
    cut = cut_root(mount_points(), tuple(k for k in keep if not k.startswith(KERNEL)))
    base = paths.cache + "/host"
    owner = None
    if os.geteuid() == 0 and userns.uids[0].outside:
        owner = userns.uids[0].outside, userns.gids[0].outside
    try:
        os.makedirs(base, 0o711, exist_ok=True)
        # What leads to the current directory below /tmp is this container's only.
        whole = [*cut.skeleton, *((part, 0o755, "") for part in cut.parts)]
        passing = [s for s in whole if os.path.dirname(s[0]).startswith(tuple(EMPTY))]
        skeleton = _skeleton(base, [s for s in whole if s not in passing], owner)
        _make(where + "/upper", passing, owner)
        made = [Mount("", (skeleton,), where + "/upper", where + "/work", False)]
        store = os.path.realpath(paths.data)
        for part in cut.parts:
            holds = store.startswith(part + "/")
            masked = tuple(f"{store}/{name}" for name in
                           ("cache", "containers", "images", "layers", "names", "tmp", "trash")
                           ) if holds else ()
            lower: tuple[str, ...] = (part,)
            if holds or not _is_ours(part):
                layer = f"{base}/{part[1:].replace('/', '+')}"
                copies = any(f"{c}/".startswith(part + "/") for c in COPIED)
                mirror.refresh(mirror.Mirror(part, layer, COPIED, masked, owner, PEOPLE),
                               lag=0 if copies else LAG)
                lower = (layer, part)
            own = f"{where}/parts/{part[1:].replace('/', '+')}"
            for name in ("upper", "work"):
                os.makedirs(f"{own}/{name}", 0o755, exist_ok=True)
                if owner is not None:
                    os.chown(f"{own}/{name}", *owner)
            made.append(Mount(part[1:], lower, own + "/upper", own + "/work", holds))
    except OSError as e:
        raise StorageError(f"cannot prepare a copy of this machine: {os_reason(e)}") from None
    return made


def mount_points(mountinfo: str = "/proc/self/mountinfo") -> dict[str, str]:
    """Mount point to filesystem type, the topmost of each (proc_pid_mountinfo(5))."""
    found = {}
    with open(mountinfo, encoding="utf-8", errors="surrogateescape") as f:
        for line in f:
            fields = line.split(" ")
            point = fields[4]
            for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
                point = point.replace(code, char)
            found[point] = fields[fields.index("-", 6) + 1]
    return found


def cut_root(mounts: dict[str, str], keep: tuple[str, ...]) -> Cut:
    """Which directories become overlays. `keep`: paths that shall be seen in any case."""
    parts: list[str] = []
    skeleton: list[Place] = []

    def on_the_way(path: str) -> bool:
        return any(k == path or k.startswith(path + "/") for k in keep)

    def within(path: str) -> bool:
        return any(k == path or path.startswith(k + "/") for k in keep)

    def visit(path: str) -> None:
        """`path` is a directory that is no symbolic link."""
        wanted = within(path) or on_the_way(path)
        kind = mounts.get(path)
        closed = path in EMPTY or (kind is not None and kind not in DISKS and path != "/")
        if (closed or len(parts) >= MOST_PARTS) and not wanted:
            skeleton.append((path, _mode_of(path), ""))
            return
        crowded = any(m.startswith(path.rstrip("/") + "/") for m in mounts)
        if not crowded and not (closed and not within(path)) and path != "/":
            if _readable(path):
                parts.append(path)
            else:
                skeleton.append((path, 0o700 if path == "/root" else 0o755, ""))
            return
        if path != "/":
            skeleton.append((path, _mode_of(path), ""))
        try:
            entries = sorted(os.scandir(path), key=lambda e: e.name)
        except OSError:
            return
        for entry in entries:
            below = f"{path.rstrip('/')}/{entry.name}"
            if closed and not on_the_way(below):
                continue
            if entry.is_symlink():
                skeleton.append((below, 0, os.readlink(below)))
            elif entry.is_dir(follow_symlinks=False):
                visit(below)

    visit("/")
    return Cut(tuple(parts), tuple(skeleton))


def _is_ours(path: str) -> bool:
    return os.geteuid() != 0 and os.lstat(path).st_uid == os.geteuid()


def _skeleton(base: str, wanted: list[Place], owner: tuple[int, int] | None) -> str:
    """A layer with the directories that are no overlays, and the places of those that are."""
    text = "\0".join(f"{path}\0{mode}\0{link}" for path, mode, link in wanted)
    final = f"{base}/root.{binascii.crc32(text.encode('utf-8', 'surrogateescape')):08x}"
    if os.path.isdir(final):
        return final
    with Lock(base + "/root.lock"):
        if not os.path.isdir(final):
            work = base + "/root.new"
            _clear(work)
            os.mkdir(work, 0o755)
            _make(work, wanted, owner)
            os.rename(work, final)
    return final


def _make(root: str, wanted: list[Place], owner: tuple[int, int] | None) -> None:
    for path, mode, link in wanted:
        place = root
        for name in path.split("/")[1:-1]:
            place += "/" + name
            if not os.path.isdir(place):
                os.mkdir(place)
                os.chmod(place, _mode_of(place))
                _own(place, owner)
        place = root + path
        if link:
            os.symlink(link, place)
        else:
            if not os.path.isdir(place):
                os.mkdir(place)
            os.chmod(place, mode)
        _own(place, owner)
    _own(root, owner)


def _mode_of(path: str) -> int:
    return 0o1777 if path.endswith("/tmp") else 0o755


def _own(path: str, owner: tuple[int, int] | None) -> None:
    if owner is not None:
        os.lchown(path, *owner)


def _clear(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        for name in os.listdir(path):
            _clear(f"{path}/{name}")
        os.rmdir(path)
    else:
        os.unlink(path)
