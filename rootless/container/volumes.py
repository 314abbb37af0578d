"""The volumes of a container: chosen when it is made, filled from its image, removed with it.

`attach` turns what was asked for into mounts: a named volume, made where it is missing; one without
a name for `--volume /path` and for every VOLUME of the image on which nothing else is mounted; what
`--volumes-from` names. The volumes stay locked until the container is published, in the order of
their names, so that two commands cannot wait for each other.

A volume that is empty gets what the image has at its place, once (`fill`). The copy is made aside
and moved into the volume entry by entry when it is whole; who was killed in between is finished
by the next:

    filling/new      being copied; thrown away by the next who finds it
    filling/whole    copied; its entries are moved to _data, then it gets the directory's attributes
"""

from __future__ import annotations

import os
import posixpath

from rootless.container import store
from rootless.container.wanted import Mount
from rootless.errors import StorageError, UsageError, os_reason
from rootless.record import replace
from rootless.storage import trash, volumes
from rootless.storage.volumes import ANONYMOUS, Volume

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.container.store import Container
    from rootless.container.wanted import Wanted
    from rootless.paths import Paths
    from rootless.userns.keeper import Userns

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Where the kernel's own filesystems are: an image has no say there.
_KERNEL = ("/proc", "/sys")


class Attached:
    """What `attach` found: `mounts` for the container, and volumes that may have to be filled."""

    def __init__(self) -> None:
        self.mounts: list[Mount] = []
        self.fillable: list[tuple[Volume, str]] = []
        self._locks: list[int] = []
        self._made: list[Volume] = []

    def add(self, paths: Paths, userns: Userns, mount: Mount, name: str, created: str) -> Mount:
        labels = {} if mount.source else {ANONYMOUS: ""}
        volume, lock, new = volumes.open_locked(paths, userns, name, created, labels)
        self._locks.append(lock)
        if new and not mount.source:
            self._made.append(volume)
        if "nocopy" not in mount.options and "device" not in volume.options:
            self.fillable.append((volume, mount.destination))
        return replace(mount, source=volume.data, volume=name, anonymous=not mount.source,
                       options=("rbind", *(o for o in mount.options if o != "nocopy")))

    def release(self, paths: Paths, *, published: bool) -> None:
        """Give the locks back; without a container, its nameless volumes go too."""
        for volume in self._made if not published else ():
            volumes.remove(paths, volume)
        for lock in self._locks:
            os.close(lock)
        self._locks = []
        if not published:
            trash.empty(paths)


def attach(paths: Paths, userns: Userns, wanted: Wanted, image: dict[str, Any],
           created: str) -> Attached:
    """`image`: its `config` object. Raises NotFound, UsageError, StorageError."""
    mounts = list(wanted.mounts)
    taken = [m.destination for m in mounts]
    for destination in taken:
        if taken.count(destination) > 1:
            raise UsageError(f"duplicate mount point: {destination}")
    for mount in _from_others(paths, wanted.volumes_from):
        if mount.destination not in taken:
            mounts.append(mount)
            taken.append(mount.destination)
    for path in image.get("Volumes") or {}:
        destination = posixpath.normpath("/" + str(path).strip("/"))
        if destination not in taken:
            mounts.append(Mount("volume", "", destination))
            taken.append(destination)
    for mount in mounts:
        at = mount.destination
        if mount.kind == "volume" and (at == "/" or "\0" in at
                                       or any((at + "/").startswith(k + "/") for k in _KERNEL)):
            raise UsageError(f"invalid mount target: {at}: no volume can be there")
    attached = Attached()
    whole = False
    try:
        named = {i: m.source or os.urandom(32).hex() for i, m in enumerate(mounts)
                 if m.kind == "volume" and not m.volume}
        by_name: dict[str, list[int]] = {}
        for number, name in named.items():
            by_name.setdefault(name, []).append(number)
        for name in sorted(by_name):
            first, *others = by_name[name]
            mounts[first] = attached.add(paths, userns, mounts[first], name, created)
            for number in others:       # at a second place: locked and filled already
                mounts[number] = replace(mounts[first], destination=mounts[number].destination,
                                         options=("rbind", *(o for o in mounts[number].options
                                                             if o != "nocopy")))
        attached.mounts = mounts
        whole = True
        return attached
    finally:
        if not whole:
            attached.release(paths, published=False)


def _from_others(paths: Paths, names: tuple[str, ...]) -> list[Mount]:
    """Mounts of other containers: `NAME[:ro|rw]`."""
    found: dict[str, Mount] = {}
    for text in names:
        name, colon, mode = text.partition(":")
        if colon and mode not in ("ro", "rw", "z"):
            raise UsageError(f"invalid argument for --volumes-from: {text}",
                             hint="--volumes-from CONTAINER[:ro|rw]")
        for m in store.find(paths, name).data["mounts"]:
            if m["type"] not in ("volume", "bind"):
                continue
            options = [o for o in m["options"] if o not in ("ro", "rw")]
            if mode == "ro" or (mode != "rw" and "ro" in m["options"]):
                options.append("ro")
            found[m["destination"]] = Mount(
                m["type"], m["source"], m["destination"], tuple(options),
                volume=m.get("volume", ""))
    return list(found.values())


# ---- removal -----------------------------------------------------------------------------------

def users(paths: Paths) -> dict[str, list[Container]]:
    """Containers by the name of the volume they use."""
    found: dict[str, list[Container]] = {}
    for container in store.every(paths):
        for mount in container.data.get("mounts", ()):
            if mount.get("volume"):
                found.setdefault(mount["volume"], []).append(container)
    return found


def nameless(data: dict[str, Any]) -> list[str]:
    """Volumes that go with the container, by its record."""
    return [m["volume"] for m in data.get("mounts", ()) if m.get("anonymous")]


def discard(paths: Paths, names: list[str]) -> list[Volume]:
    """Remove volumes, except those that a container uses; which went."""
    gone = []
    for name in names:
        volume = volumes.load(paths, name)
        if volume is None:
            continue
        lock = volumes.lock(volume)
        try:
            if name not in users(paths):
                volumes.remove(paths, volume)
                gone.append(volume)
        finally:
            os.close(lock)
    if gone:
        trash.empty(paths)
    return gone


# ---- filling -----------------------------------------------------------------------------------

def fill(container: Container, userns: Userns, attached: Attached) -> None:
    """Give empty volumes what the image has. The container is not yet published, and locked.

    Raises StorageError.
    """
    for volume, destination in attached.fillable:
        if not _filled(volume):
            _fill(container, userns, volume, destination)


def _filled(volume: Volume) -> bool:
    """Does anything lie there? A directory that is closed to us is some container's, used."""
    try:
        return bool(os.listdir(volume.data)) and not os.path.exists(volume.path + "/filling")
    except PermissionError:
        return not os.path.exists(volume.path + "/filling")
    except OSError as e:
        raise StorageError(f"cannot read volume {volume.name}: {volume.data}: {os_reason(e)}",
                           hint=f"rootless volume rm {volume.name}") from None


def _fill(container: Container, userns: Userns, volume: Volume, destination: str) -> None:
    from rootless.container import copying, view
    from rootless.image.pax import Writer
    from rootless.image.tree import pack_one
    from rootless.storage import merged

    aside = volume.path + "/filling"
    try:
        os.mkdir(aside, 0o700)
        volumes.give_to_root(aside, userns)
    except FileExistsError:
        pass
    r, w = copying.wide_pipe()
    opened = [os.open(p, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
              for p in (aside, volume.data)]

    def send(root: int) -> None:
        os.close(r)
        parts = view.canonical(root, os.fsencode(destination), follow=True)
        try:
            here = view.resolve(root, b"/".join(parts), os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return
        out = copying.Gathered(w)
        tar = Writer(out.write)
        pack_one(here, copying.TOP, copying.TOP, tar)
        tar.finish()
        out.flush()

    def receive() -> None:
        os.close(w)
        os.umask(0)
        filling, data = (os.open(".", _DIRECTORY, dir_fd=fd) for fd in opened)
        if not _exists(filling, "whole"):
            trash.delete(filling, "new", filling, 0)
            os.mkdir("new", 0o700, dir_fd=filling)
            new = os.open("new", _DIRECTORY, dir_fd=filling)
            copier = copying.Copier(userns, new)
            reader = copying.Placed(copying.Chunks(r), [], top=True)
            copier.write(reader)
            if reader.seen:
                copier.finish_root()
                os.rename("new", "whole", src_dir_fd=filling, dst_dir_fd=filling)
            else:
                os.rmdir("new", dir_fd=filling)
                return
        _move(filling, data)

    sender = None
    receiver = None
    done = False
    try:
        sender = view.stopped(container, userns, send, [])
        receiver = merged.Child(container.paths, userns, receive)
        os.close(r)
        os.close(w)
        receiver.wait()
        receiver = None
        sender.wait()
        sender = None
        os.rmdir(aside)
        done = True
    except OSError as e:
        raise StorageError(f"cannot fill volume {volume.name}: {os_reason(e)}") from None
    finally:
        for child in (sender, receiver) if not done else ():
            if child is not None:
                child.abandon()
        for fd in opened:
            os.close(fd)


def _exists(parent: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
        return True
    except FileNotFoundError:
        return False


def _move(filling: int, data: int) -> None:
    """From filling/whole into _data, which ends up with its attributes."""
    whole = os.open("whole", _DIRECTORY, dir_fd=filling)
    names = os.listdir(whole)
    if names or not os.listdir(data):
        st = os.fstat(whole)
        for name in names:
            if not _exists(data, name):
                os.rename(name, name, src_dir_fd=whole, dst_dir_fd=data)
        for key in os.listxattr(whole):
            if key.startswith("user."):
                os.setxattr(data, key, os.getxattr(whole, key))
        os.chown(data, st.st_uid, st.st_gid)
        os.chmod(data, st.st_mode & 0o7777)
        os.utime(data, ns=(st.st_atime_ns, st.st_mtime_ns))
    os.close(whole)
    trash.delete(filling, "whole", filling, 0)
