"""All facts of this machine for this user, the slow ones gathered side by side."""

from __future__ import annotations

import os
import sys

from rootless.doctor import host, probes, ranges
from rootless.doctor.attempt import Running
from rootless.doctor.facts import Facts, Ids, Store, Tried
from rootless.errors import HostError
from rootless.files import write_all
from rootless.storage import trash
from rootless.userns import subid
from rootless.userns.subid import Extent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from rootless.doctor.attempt import Attempt
    from rootless.paths import Paths

_PROBE = ".rootless-doctor-"


def gather(paths: Paths, env: Mapping[str, str]) -> Facts:
    uid = paths.uid
    base = Running(probes.user_namespace)
    mapping = Running(lambda: probes.ids(uid))
    looking = Running(lambda: _look(paths.data))
    others = [Running(work) for work in (probes.seccomp, probes.calls, probes.fuse, probes.tun)]
    mapped = mapping.result()
    uids, gids, why = _maps(mapped, uid)
    store = _store(paths.data, looking.result())
    overlay = Tried("use " + store.path, 0, store.trouble)
    if not store.trouble:
        # Later than the map, which it needs; the directory is ours to remove whatever happens.
        parent = store.path
        place = f"{parent}/{_PROBE}{os.getpid()}"
        overlay = Running(lambda: _try_overlay(place, uids, gids, uid)).result()
        Running(lambda: _remove(parent)).result()
    userns = base.result()
    seccomp, calls, fuse, tun = (other.result() for other in others)
    try:
        run, run_trouble = paths.run, ""
    except HostError as e:
        run, run_trouble = "", e.message
    return Facts(
        user=_name(uid), uid=uid, gids=(os.getegid(), *os.getgroups()),
        kernel=os.uname().release, python=".".join(map(str, sys.version_info[:3])),
        modules=tuple(m for m in ("zstandard", "isal") if not _importable(m)),
        outer=host.outer_container(),
        packages=next((p for p in ("apt-get", "dnf") if subid.find_program(p)), ""),
        systemd=os.path.isdir("/run/systemd/system"),
        launcher=os.path.realpath(sys.argv[0]) if sys.argv[0].endswith("/rootless") else "",
        sysctl=host.sysctls(),
        calls=calls, userns=userns, seccomp=seccomp,
        ids=Ids(sum(e.count for e in uids), sum(e.count for e in gids), why, host.helpers(),
                host.no_new_privs(), _free_range()),
        store=store, overlay=overlay, fuse=fuse, tun=tun, cgroup=host.cgroup(uid),
        run=run, run_trouble=run_trouble, xdg_run=env.get("XDG_RUNTIME_DIR", ""),
        linger=os.path.exists(f"/var/lib/systemd/linger/{_name(uid)}"),
    )


def _name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _free_range() -> int:
    """0 where every id is taken."""
    try:
        return ranges.free()
    except HostError:
        return 0


def _importable(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return False
    return True


def _maps(mapped: Tried, uid: int) -> tuple[list[Extent], list[Extent], str]:
    if not mapped.worked:
        return [Extent(0, uid, 1)], [Extent(0, os.getegid(), 1)], str(mapped)
    uids, gids, why = mapped.told.split("|", 2)
    return _extents(uids), _extents(gids), why


def _extents(text: str) -> list[Extent]:
    return [Extent(*map(int, part.split(" "))) for part in text.split(",")]


def _look(data: str) -> Attempt:
    """`free bytes|directory`: the store, or the nearest directory above that exists."""
    place = data
    yield f"use {data}"
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    place = os.path.realpath(place)
    yield f"write in {place}"
    # By doing: a full or read-only filesystem and a quota refuse just this.
    probe = f"{place}/{_PROBE}{os.getpid()}.write"
    fd = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, b"x" * 65536)
        os.fsync(fd)
    finally:
        os.close(fd)
        os.unlink(probe)
    space = os.statvfs(place)
    return f"{space.f_bavail * space.f_frsize}|{place}"


def _store(data: str, looked: Tried) -> Store:
    mountinfo = host.text("/proc/self/mountinfo")
    if not looked.worked:
        return Store(data, host.mount_of(os.path.abspath(data), mountinfo), 0, str(looked))
    free, _, place = looked.told.partition("|")
    return Store(place, host.mount_of(place, mountinfo), int(free), "")


def _try_overlay(place: str, uids: list[Extent], gids: list[Extent], uid: int) -> Attempt:
    yield f"make a directory in {os.path.dirname(place)}"
    os.mkdir(place, 0o755 if uid == 0 else 0o700)
    return (yield from probes.overlay(place, uids, gids, uid))


def _remove(parent: str) -> Attempt:
    """What this run tried with, and what a killed run left."""
    yield f"clean up in {parent}"
    fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for name in os.listdir(fd):
        if name.startswith(_PROBE):
            pid = name[len(_PROBE):].partition(".")[0]
            if pid == str(os.getppid()) or not os.path.exists(f"/proc/{pid}"):
                trash.delete(fd, name, fd, 0)
    return ""
