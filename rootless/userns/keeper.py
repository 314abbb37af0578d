"""One user namespace for all containers of a user, made once and joined cheaply.

newuidmap and newgidmap are set-user-ID programs that may ask a directory server; their work is
done once, and the namespace is held open by a small `sleep` process, the keeper. The keeper is a
cache and nothing else: it ends by itself after a while, a container keeps its namespaces without
it, and whoever finds it dead makes another, with the same map.

The record names the keeper by pid and start time. It is opened through a directory descriptor of
/proc/PID, which stays bound to that very process, so a reused pid is never taken for it.
"""

from __future__ import annotations

import errno
import os

from rootless import linux
from rootless.cgroup.apart import stand_apart
from rootless.errors import HostError, os_reason
from rootless.files import Lock, read_bytes, write_atomic
from rootless.record import record
from rootless.userns import subid
from rootless.userns.subid import Extent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.paths import Paths

LIFETIME = 900      # seconds
KEEP = b"k"


@record(frozen=True)
class Userns:
    """An open user namespace. `single`: it has one id only, for the reason `why`."""

    fd: int
    uids: tuple[Extent, ...]
    gids: tuple[Extent, ...]
    why: str

    @property
    def single(self) -> bool:
        return len(self.uids) == 1 and self.uids[0].count == 1


def open_userns(paths: Paths) -> Userns:
    """The user's namespace, from the keeper or new. Raises HostError when there can be none."""
    record_file = paths.run + "/keeper"
    stamp = _stamp(paths.uid)
    found = _join(record_file, stamp)
    if found is None:
        with Lock(record_file + ".lock"):
            found = _join(record_file, stamp) or _make(record_file, stamp, paths.uid)
    return found


def enter(userns: Userns) -> None:
    """Become root inside. Call in a child process: there is no way back."""
    linux.setns(userns.fd, linux.CLONE_NEWUSER)
    become_root(single=userns.single)


def become_root(*, single: bool) -> None:
    if not single:
        os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def stop(paths: Paths) -> bool:
    """End the keeper, if there is one. Containers are not touched."""
    found = _find(paths.run + "/keeper", _stamp(paths.uid))
    if found is None:
        return False
    proc, pid, _ = found
    os.close(proc)
    os.kill(pid, 9)
    os.unlink(paths.run + "/keeper")
    return True


def _stamp(uid: int) -> str:
    """Changes when the administrator changes the ranges."""
    parts = [str(uid)]
    for path in ("/etc/subuid", "/etc/subgid"):
        try:
            st = os.stat(path)
            parts.append(f"{st.st_mtime_ns}.{st.st_size}")
        except OSError:
            parts.append("-")
    return ",".join(parts)


def _start_time(proc: int) -> str:
    """Field 22 of /proc/PID/stat, by a descriptor of /proc/PID."""
    fd = os.open("stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    try:
        text = os.read(fd, 4096)
    finally:
        os.close(fd)
    return text[text.rindex(b")") + 2:].split()[19].decode()


def _find(record_file: str, stamp: str) -> tuple[int, int, list[str]] | None:
    """(descriptor of /proc/PID, pid, record lines) of a living keeper with the right map, or with
    any where `stamp` is empty."""
    try:
        lines = read_bytes(record_file, 65536).decode().split("\n")
        pid, start = lines[0].split(" ")
        if stamp and lines[1] != stamp:
            return None
        proc = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError, IndexError):
        return None
    try:
        if _start_time(proc) == start:
            return proc, int(pid), lines
    except (OSError, ValueError):
        pass
    os.close(proc)
    return None


def _join(record_file: str, stamp: str) -> Userns | None:
    found = _find(record_file, stamp)
    if found is None:
        return None
    proc, _, lines = found
    try:
        fd = os.open("ns/user", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
        return Userns(fd, _parse(lines[2]), _parse(lines[3]), lines[4])
    except (OSError, ValueError, IndexError):
        return None
    finally:
        os.close(proc)


def _parse(text: str) -> tuple[Extent, ...]:
    return tuple(Extent(*map(int, part.split(" "))) for part in text.split(","))


def _make(record_file: str, stamp: str, uid: int) -> Userns:
    gid = os.getegid()
    uids, gids, why = plan_maps(uid, gid)
    _retire(record_file)
    pid, release = _spawn_keeper()
    try:
        try:
            write_maps(pid, uids, gids, uid)
        except HelperRefused as e:
            # The range is there but the helper will not set it. One id still works, in a fresh
            # namespace: a map can be written only once.
            os.close(release)
            os.waitpid(pid, 0)
            pid, release = _spawn_keeper()
            uids, gids, why = [Extent(0, uid, 1)], [Extent(0, gid, 1)], str(e)
            write_maps(pid, uids, gids, uid)
        proc = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            start = _start_time(proc)
            fd = os.open("ns/user", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
        finally:
            os.close(proc)
        text = "\n".join([f"{pid} {start}", stamp, ",".join(e.line() for e in uids),
                          ",".join(e.line() for e in gids), why, ""])
        write_atomic(record_file, text.encode())
        # Without this word, as when we are killed before, it ends: nobody would find it.
        os.write(release, KEEP)
    except OSError as e:
        raise HostError(f"cannot set up a user namespace: {os_reason(e)}",
                        hint="rootless doctor tells what this machine allows") from None
    finally:
        os.close(release)
    return Userns(fd, tuple(uids), tuple(gids), why)


def _retire(record_file: str) -> None:
    """End a keeper whose map is no longer the right one."""
    found = _find(record_file, "")
    if found is not None:
        os.close(found[0])
        os.kill(found[1], 9)


def plan_maps(uid: int, gid: int) -> tuple[list[Extent], list[Extent], str]:
    """The maps this user can have and, where it is one id only, why."""
    import pwd

    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    granted_u = subid.ranges("/etc/subuid", name, uid) or subid.nss_ranges(name, groups=False)
    granted_g = subid.ranges("/etc/subgid", name, uid) or subid.nss_ranges(name, groups=True)
    if uid == 0:
        uids = subid.extents_for_root(granted_u, subid.own_extents("uid"))
        gids = subid.extents_for_root(granted_g, subid.own_extents("gid"))
        alone = len(uids) == 1 and uids[0].count == 1
        return uids, gids, "there is none but root's in the user namespace here" if alone else ""
    why = ""
    if not granted_u or not granted_g:
        missing = "/etc/subuid" if not granted_u else "/etc/subgid"
        why = f"{missing} has no range for {name}"
    else:
        for program in ("newuidmap", "newgidmap"):
            if subid.find_program(program) is None:
                why = f"{program} is not installed (package uidmap or shadow-utils)"
    if why:
        return [Extent(0, uid, 1)], [Extent(0, gid, 1)], why
    return subid.extents_for(uid, granted_u), subid.extents_for(gid, granted_g), ""


class HelperRefused(Exception):
    pass


def write_maps(pid: int, uids: list[Extent], gids: list[Extent], uid: int) -> None:
    """Raises OSError, or HelperRefused when newuidmap or newgidmap says no."""
    if uid == 0 or len(uids) == 1:
        if uid != 0:
            _write(f"/proc/{pid}/setgroups", "deny")
        _write(f"/proc/{pid}/uid_map", "\n".join(e.line() for e in uids) + "\n")
        _write(f"/proc/{pid}/gid_map", "\n".join(e.line() for e in gids) + "\n")
        return
    running = []
    for name, extents in (("newuidmap", uids), ("newgidmap", gids)):
        program = subid.find_program(name)
        if program is None:
            raise HelperRefused(f"{name} is not installed")
        argv = [name, str(pid)]
        for e in extents:
            argv += [str(e.inside), str(e.outside), str(e.count)]
        r, w = os.pipe()
        running.append((name, r, os.posix_spawn(program, argv, {"PATH": subid.SEARCH},
                                                file_actions=[(os.POSIX_SPAWN_DUP2, w, 2)])))
        os.close(w)
    complaint = ""
    for name, r, helper in running:
        with os.fdopen(r, encoding="utf-8", errors="replace") as f:
            said = " ".join(f.read().split())
        if os.waitpid(helper, 0)[1] != 0 and not complaint:
            complaint = said or f"{name} failed"
    if complaint:
        raise HelperRefused(complaint)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _spawn_keeper() -> tuple[int, int]:
    """(pid, release): a process in a new user namespace that ends with `release`, unless KEEP is
    written there first: then it sleeps on."""
    ready_r, ready_w = os.pipe()
    go_r, go_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        _be_keeper(ready_w, go_r, go_w)
    os.close(ready_w)
    os.close(go_r)
    answer = os.read(ready_r, 64)
    os.close(ready_r)
    if answer != b"ok":
        os.close(go_w)
        os.waitpid(pid, 0)
        raise userns_refused(int(answer or b"0"))
    return pid, go_w


def _be_keeper(ready: int, go: int, go_w: int) -> None:
    try:
        os.close(go_w)
        stand_apart("keeper")
        try:
            linux.unshare(linux.CLONE_NEWUSER)
        except OSError as e:
            os.write(ready, str(e.errno).encode())
            os._exit(1)
        os.setsid()
        os.chdir("/")
        os.write(ready, b"ok")
        if os.read(go, 1) != KEEP:
            os._exit(0)
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        linux.close_range(3)
        program = subid.find_program("sleep")
        if program:
            os.execv(program, ["sleep", str(LIFETIME)])
        import time

        time.sleep(LIFETIME)
    finally:
        os._exit(0)


def userns_refused(code: int) -> HostError:
    """Why unshare(CLONE_NEWUSER) failed, with the line that mends it."""
    reason = os.strerror(code) if code else "the process died"
    hint = "rootless doctor tells what this machine allows"
    if code in (errno.EPERM, errno.EACCES):
        for path, wanted, line in (
            ("/proc/sys/kernel/unprivileged_userns_clone", "1",
             "sysctl -w kernel.unprivileged_userns_clone=1"),
            ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "0",
             "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
        ):
            try:
                if read_bytes(path, 64).strip().decode() != wanted:
                    hint = f"ask the administrator to run: {line}"
            except OSError:
                continue
    elif code in (errno.ENOSPC, errno.EUSERS):
        hint = "ask the administrator to run: sysctl -w user.max_user_namespaces=65536"
    return HostError(f"cannot make a user namespace: {reason}", hint=hint)
