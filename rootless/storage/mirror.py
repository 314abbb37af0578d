"""A layer that lets container root change what belongs to somebody else on the host.

Goal: the host's root owns /usr and /etc, and has no number in our user namespace, so the kernel
lets nobody in it create, rename or remove anything there (capable_wrt_inode_uidgid). A merged
directory of an overlay, though, is owned by its topmost layer. So a second lower layer is kept
above the host's tree that holds its directories and nothing else, owned by container root.

    directory of a system id     the same, ours
    directory we cannot read     an empty one (opaque)
    directory of a person        not entered; ours need no mirror
    file below a `copied` path   copied, so that it can be changed
    file there we cannot read    whited out: what you cannot read is not in the copy
    `masked` path                whited out

It is kept in the store's cache and brought up to date before a start by the change times of the
directories (a chmod or a new entry changes it). One lstat each is 50 ms for the 15,000 of a
developer's /usr, so a tree where nothing is copied may lag behind: a directory that is new to it
is seen, but cannot be changed yet. Changing a lower layer in use is safe for the kernel, and no
more surprising than the host's own upgrades, which containers see as well.
"""

from __future__ import annotations

import errno
import marshal
import os
import stat
import time

from rootless.errors import StorageError, os_reason
from rootless.files import Lock, read_bytes, space_hint, write_atomic
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    # Relative path: (change time, subdirectories, files and their change times).
    Known = dict[str, tuple[int, tuple[str, ...], dict[str, int]]]

LARGEST_COPY = 1 << 20
OPAQUE = "user.overlay.opaque"


@record(frozen=True)
class Mirror:
    """`source`: the host's directory. `path`: of the layer; beside it are its lock and state.

    `copied` and `masked`: absolute paths. `owner`: (uid, gid) of container root where that is not
    us, else None. `people`: ids whose directories are not entered, save that one in ours.
    """

    source: str
    path: str
    copied: tuple[str, ...]
    masked: tuple[str, ...]
    owner: tuple[int, int] | None
    people: range


def refresh(mirror: Mirror, lag: float = 0) -> None:
    """Make the layer agree with the host, as it was at most `lag` seconds ago.

    Raises StorageError.
    """
    try:
        if lag and _age(mirror.path + ".state") < lag:
            return
        os.makedirs(mirror.path, 0o755, exist_ok=True)
        with Lock(mirror.path + ".lock"):
            known = _load(mirror.path + ".state")
            fresh: Known = {}
            _Sync(mirror, known, fresh).directory("")
            if fresh != known:
                write_atomic(mirror.path + ".state", marshal.dumps(fresh))
            os.utime(mirror.path + ".state")
    except OSError as e:
        raise StorageError(f"cannot keep a mirror of {mirror.source}: {os_reason(e)}",
                           hint=space_hint(e, mirror.path)) from None


def _age(path: str) -> float:
    """Seconds since it was made; for ever, when there is none or the clock was set back."""
    try:
        age = time.time() - os.stat(path).st_mtime
    except FileNotFoundError:
        return 1e9
    return age if age >= 0 else 1e9


def _load(path: str) -> Known:
    try:
        known: Known = marshal.loads(read_bytes(path))
        return known if isinstance(known, dict) else {}
    except (OSError, ValueError, EOFError, TypeError):
        return {}


class _Sync:
    def __init__(self, mirror: Mirror, known: Known, fresh: Known) -> None:
        self.mirror = mirror
        self.known = known
        self.fresh = fresh
        self.device = os.stat(mirror.source).st_dev
        self.me = os.geteuid()
        self.times: list[tuple[str, int, int]] = []

    def directory(self, name: str) -> None:
        """Bring `name` (relative, "" for the top) and all below up to date."""
        waiting = [name]
        while waiting:
            name = waiting.pop()
            here = f"{self.mirror.source}/{name}" if name else self.mirror.source
            try:
                st = os.lstat(here)
            except OSError:
                continue        # gone this instant; the next refresh sees it
            seen = self.known.get(name)
            if seen is None or seen[0] != st.st_ctime_ns:
                seen = self._change(name, here, st)
            elif seen[2]:
                seen = (seen[0], seen[1], self._files(name, here, seen[2]))
            self.fresh[name] = seen
            prefix = name + "/" if name else ""
            waiting += [prefix + sub for sub in seen[1]]
        # Last, as each new subdirectory changes its parent's.
        for there, accessed, modified in self.times:
            os.utime(there, ns=(accessed, modified))

    def _change(self, name: str, here: str, st: os.stat_result) -> tuple[
            int, tuple[str, ...], dict[str, int]]:
        there = f"{self.mirror.path}/{name}" if name else self.mirror.path
        readable = self._reads(st, 5)
        self._make(there, st, opaque=not readable)
        subs: list[str] = []
        files: dict[str, int] = {}
        if readable:
            try:
                entries = list(os.scandir(here))
            except OSError:
                entries = []
            copied = self._within(here, self.mirror.copied)
            for entry in entries:
                path = f"{here}/{entry.name}"
                if path in self.mirror.masked:
                    _whiteout(f"{there}/{entry.name}")
                    continue
                if entry.is_dir(follow_symlinks=False):
                    try:
                        below = entry.stat(follow_symlinks=False)
                    except OSError:
                        continue        # gone this instant
                    if self._wanted(path, below):
                        subs.append(entry.name)
                elif copied and entry.is_file(follow_symlinks=False):
                    files[entry.name] = 0
            files = self._files(name, here, files)
        keep = {*subs, *files, *(m[len(here) + 1:] for m in self.mirror.masked
                                 if m.startswith(here + "/") and "/" not in m[len(here) + 1:])}
        for old in os.listdir(there):
            if old not in keep:
                _remove(f"{there}/{old}")
        self.times.append((there, st.st_atime_ns, st.st_mtime_ns))
        return st.st_ctime_ns, tuple(subs), files

    def _make(self, there: str, st: os.stat_result, *, opaque: bool) -> None:
        mode = stat.S_IMODE(st.st_mode) & 0o1777 | 0o700
        if opaque:
            mode = 0o755
        try:
            os.mkdir(there)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(there).st_mode):
                os.unlink(there)
                os.mkdir(there)
        os.chmod(there, mode)
        if opaque:
            os.setxattr(there, OPAQUE, b"y")
        else:
            try:
                os.removexattr(there, OPAQUE)
            except OSError as e:
                if e.errno != errno.ENODATA:
                    raise
        self._own(there)

    def _wanted(self, path: str, st: os.stat_result) -> bool:
        if st.st_dev != self.device:
            return False
        if any(m.startswith(path + "/") for m in self.mirror.masked):
            return True
        return st.st_uid not in self.mirror.people

    def _files(self, name: str, here: str, seen: dict[str, int]) -> dict[str, int]:
        """Copy what changed; the change time of each."""
        out = {}
        for file, before in seen.items():
            try:
                st = os.lstat(f"{here}/{file}")
            except OSError:
                continue
            out[file] = st.st_ctime_ns
            if st.st_ctime_ns != before:
                there = f"{self.mirror.path}/{name + '/' if name else ''}{file}"
                self._copy(f"{here}/{file}", there, st)
        return out

    def _copy(self, here: str, there: str, st: os.stat_result) -> None:
        if not self._reads(st, 4):
            _whiteout(there)
            return
        if st.st_size > LARGEST_COPY or not stat.S_ISREG(st.st_mode):
            _remove(there)
            return
        temporary = there + ".rootless-new"
        try:
            data = read_bytes(here, LARGEST_COPY)
        except OSError:
            return
        _remove(temporary)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, data)
            # Never more than it had: setuid stays behind, as its owner does.
            os.fchmod(fd, stat.S_IMODE(st.st_mode) & 0o777 | 0o600)
        finally:
            os.close(fd)
        os.utime(temporary, ns=(st.st_atime_ns, st.st_mtime_ns))
        self._own(temporary)
        if os.path.isdir(there) and not os.path.islink(there):
            _remove(there)
        os.rename(temporary, there)

    def _reads(self, st: os.stat_result, bits: int) -> bool:
        """Container root, who is nobody to the host where we are root, must be granted `bits`."""
        if self.mirror.owner is None and st.st_uid == self.me:
            return st.st_mode >> 6 & bits == bits
        if st.st_mode & bits == bits:
            return True
        return (self.mirror.owner is None and st.st_gid in (os.getegid(), *os.getgroups())
                and st.st_mode >> 3 & bits == bits)

    def _within(self, path: str, trees: tuple[str, ...]) -> bool:
        return any(path == t or path.startswith(t + "/") for t in trees)

    def _own(self, path: str) -> None:
        if self.mirror.owner is not None:
            os.lchown(path, *self.mirror.owner)


def _whiteout(path: str) -> None:
    """A character device 0:0; anybody may make one (Linux 5.8)."""
    try:
        os.mknod(path, stat.S_IFCHR, 0)
    except FileExistsError:
        if not stat.S_ISCHR(os.lstat(path).st_mode):
            _remove(path)
            os.mknod(path, stat.S_IFCHR, 0)


def _remove(path: str) -> None:
    """All of it is ours and made by us: directories, copies, whiteouts."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except (IsADirectoryError, PermissionError):
        for name in os.listdir(path):
            _remove(f"{path}/{name}")
        os.rmdir(path)
