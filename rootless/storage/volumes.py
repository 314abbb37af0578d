"""Volumes: directories that outlive the containers they are mounted into.

    volumes/<name>/volume.json      what is known of it; written last, so that it exists whole
    volumes/<name>/_data/           what containers see; its files belong to their ids
    volumes/<name>/filling, filled  an image's files on their way in (rootless.container.filling)

The directory is made first and locked (flock); one without a record is being made, or was left by
a killed maker and is finished by the next who wants the name. The lock is held by whoever makes a
container that uses the volume, until the container's record names it, and by whoever removes it.
So none is removed between being chosen and being used. Readers take no lock.
"""

from __future__ import annotations

import fcntl
import os

from rootless import events, jsontext
from rootless.errors import NotFound, StorageError, UsageError, os_reason
from rootless.files import lock_directory, read_bytes, space_hint, write_atomic
from rootless.record import record
from rootless.storage import trash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.paths import Paths
    from rootless.userns.keeper import Userns

_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
# docker's mark of a volume that nobody gave a name.
ANONYMOUS = "com.docker.volume.anonymous"


@record(frozen=True)
class Volume:
    """`path`: its directory in the store. `options`: those of the driver, as they were given."""

    name: str
    path: str
    created: str
    labels: dict[str, str]
    options: dict[str, str]

    @property
    def data(self) -> str:
        """Where its files are: in the store, or in the directory that it stands for."""
        return self.options.get("device") or self.path + "/_data"

    @property
    def anonymous(self) -> bool:
        return ANONYMOUS in self.labels


def valid_name(name: str) -> bool:
    """[a-zA-Z0-9][a-zA-Z0-9_.-]*, with room for a suffix in the trash."""
    return 1 <= len(name) <= 200 and _CHARS.issuperset(name) and name[0] not in "_.-"


def check_options(options: dict[str, str]) -> dict[str, str]:
    """Of docker's local driver, what a user without root can have: another directory.

    Raises UsageError.
    """
    if not options:
        return options
    unknown = sorted(set(options) - {"type", "o", "device"})
    if unknown:
        raise UsageError(f"invalid volume option: {unknown[0]}", hint="type, o and device")
    words = [w for w in options.get("o", "").split(",") if w]
    if options.get("type", "none") not in ("none", "bind", "") or set(words) - {"bind", "rbind"} \
            or not words:
        raise UsageError(
            f"cannot make a volume of type {options.get('type') or 'none'} with options "
            f"{options.get('o') or 'none'}: only root may mount it for all containers",
            hint="--opt type=none --opt o=bind --opt device=/a/directory; or run --tmpfs")
    device = options.get("device", "")
    if not device.startswith("/") or not os.path.isdir(device):
        raise UsageError(f"invalid volume option: device={device}: it is no directory",
                         hint="an absolute path of a directory that exists")
    return options


def open_locked(paths: Paths, userns: Userns, name: str, created: str,
                labels: dict[str, str] | None = None,
                options: dict[str, str] | None = None) -> tuple[Volume, int, bool]:
    """The volume, made where it is missing; its lock, to be closed by the caller; is it new?

    Raises UsageError, StorageError.
    """
    if not valid_name(name):
        raise UsageError(f"invalid volume name: {name}",
                         hint="letters, digits and _ . - after the first; a directory is given by "
                              "an absolute path or one that begins with ./")
    path = f"{paths.volumes}/{name}"
    try:
        while True:
            os.makedirs(paths.volumes, 0o711, exist_ok=True)
            try:
                os.mkdir(path, 0o711)
            except FileExistsError:
                pass
            lock = lock_directory(path)
            if lock >= 0:
                break
    except OSError as e:
        raise StorageError(f"cannot make volume {name}: {path}: {os_reason(e)}",
                           hint=space_hint(e, paths.data)) from None
    whole = False
    try:
        found = load(paths, name)
        new = found is None
        if found is None:
            _make(path, userns, created, labels or {}, options or {})
            found = load(paths, name)
        if found is None:
            raise StorageError(f"cannot make volume {name}: its record is gone again")
        if new:
            events.emit(paths.data, "volume", "create", name, {"driver": "local"})
        whole = True
        return found, lock, new
    except OSError as e:
        raise StorageError(f"cannot make volume {name}: {os_reason(e)}",
                           hint=space_hint(e, paths.data)) from None
    finally:
        if not whole:
            os.close(lock)


def _make(path: str, userns: Userns, created: str, labels: dict[str, str],
          options: dict[str, str]) -> None:
    data = path + "/_data"
    try:
        os.mkdir(data, 0o755)
    except FileExistsError:
        pass
    os.chmod(data, 0o755)
    give_to_root(data, userns)
    text = jsontext.dumps({"driver": "local", "created": created, "labels": labels,
                           "options": options})
    write_atomic(path + "/volume.json", text.encode())


def give_to_root(path: str, userns: Userns) -> None:
    """To the root of the user's containers, who for root is another id."""
    root, group = (next(e.outside for e in extents if e.inside == 0)
                   for extents in (userns.uids, userns.gids))
    if os.geteuid() == 0 and root != 0:
        os.chown(path, root, group)


def load(paths: Paths, name: str) -> Volume | None:
    """None where there is none, or not yet."""
    path = f"{paths.volumes}/{name}"
    try:
        data = jsontext.loads(read_bytes(path + "/volume.json", 1 << 20))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):
        data = None
    if not isinstance(data, dict) or not all(_texts(data.get(k)) for k in ("labels", "options")):
        data = {"labels": {}, "options": {}}    # lost its record: its files are still there
    return Volume(name, path, str(data.get("created", "")), data["labels"], data["options"])


def _texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(v, str) for v in value.values())


def every(paths: Paths) -> list[Volume]:
    """By name."""
    try:
        names = sorted(os.listdir(paths.volumes))
    except FileNotFoundError:
        return []
    return [v for v in (load(paths, n) for n in names if valid_name(n)) if v is not None]


def find(paths: Paths, name: str) -> Volume:
    """Raises NotFound."""
    volume = load(paths, name) if valid_name(name) else None
    if volume is None:
        raise NotFound(f"no such volume: {name}", hint="rootless volume ls lists all")
    return volume


def lock(volume: Volume) -> int:
    """The right to remove it; close it afterwards. Raises NotFound."""
    fd = lock_directory(volume.path)
    if fd < 0:
        raise NotFound(f"no such volume: {volume.name}: it was removed meanwhile")
    return fd


def remove(paths: Paths, volume: Volume) -> None:
    """Out of the store at once; `trash.empty` deletes the files. The caller holds the lock and
    knows that no container uses it."""
    trash.take(paths, volume.path)
    events.emit(paths.data, "volume", "destroy", volume.name, {"driver": "local"})


def sweep(paths: Paths) -> None:
    """Clear what makers left that were killed, when nobody is at it: directories without a
    record."""
    try:
        names = os.listdir(paths.volumes)
    except FileNotFoundError:
        return
    for name in names:
        path = f"{paths.volumes}/{name}"
        if not valid_name(name) or os.path.exists(path + "/volume.json"):
            continue
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.exists(path + "/volume.json"):
                trash.discard(paths, path)
        except BlockingIOError:
            continue
        finally:
            os.close(fd)
