"""One cgroup, by its directory (cgroups(7); Documentation/admin-guide/cgroup-v2.rst).

A path of a cgroup is as /proc/PID/cgroup shows it: absolute, from the root of the hierarchy.
"""

from __future__ import annotations

import errno
import os
import time

ROOT = "/sys/fs/cgroup"
# A container's, beside those of others; what else stood there goes to the leaf.
PREFIX = "rootless-"
LEAF = "rootless-leaf"
# Parts of a container's scope.
INNER, MONITOR = "container", "monitor"
GONE = (errno.ENOENT, errno.ENODEV)     # ENODEV: it was removed while a file of it was open


def directory(path: str, root: str = ROOT) -> str:
    return root + path.rstrip("/") if path != "/" else root


def of_process(pid: int | str, proc: str = "/proc") -> str:
    """Path of a process's cgroup, "" where it has none or the process is gone."""
    try:
        with open(f"{proc}/{pid}/cgroup", "rb") as f:
            for line in f.read().decode(errors="surrogateescape").splitlines():
                # After its removal the name has " (deleted)" behind it.
                if line.startswith("0::/"):
                    return line[3:]
    except OSError:
        pass
    return ""


def read(where: str, name: str) -> str:
    """A file of the cgroup, "" where there is none."""
    try:
        fd = os.open(f"{where}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        data = b""
        while True:
            part = os.read(fd, 1 << 16)
            if not part:
                return data.decode(errors="replace")
            data += part
    except OSError:
        return ""
    finally:
        os.close(fd)


def write(where: str, name: str, value: str) -> None:
    """Raises OSError: ENOENT where the controller is not there, EINVAL, ERANGE, EBUSY ..."""
    fd = os.open(f"{where}/{name}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    except OSError as e:
        e.filename = f"{where}/{name}"
        raise
    finally:
        os.close(fd)


def keyed(text: str) -> dict[str, int]:
    """A flat keyed file, as memory.events: `key number` in each line."""
    found = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if value.isdigit():
            found[key] = int(value)
    return found


def oom_kills(where: str) -> int:
    """How often the kernel has killed in it for want of memory."""
    return keyed(read(where, "memory.events")).get("oom_kill", 0)


def frozen(where: str) -> bool:
    """Is it, or is it being, frozen on somebody's order?"""
    return read(where, "cgroup.freeze").strip() == "1"


def freeze(where: str, on: bool, patience: float = 10.0) -> bool:
    """Stop or continue all its processes; False when that takes longer than `patience` seconds
    (a process waits in the kernel). Raises OSError."""
    write(where, "cgroup.freeze", "1" if on else "0")
    return _until(where, "frozen", 1 if on else 0, patience)


def kill(where: str) -> None:
    """SIGKILL to all in it and below, forks in flight included (Linux 5.14; before, the end of the
    process namespace is what kills). Raises OSError."""
    try:
        write(where, "cgroup.kill", "1")
    except FileNotFoundError:
        pass


def emptied(where: str, patience: float) -> bool:
    return _until(where, "populated", 0, patience)


def _until(where: str, key: str, value: int, patience: float) -> bool:
    """Wait for a line of cgroup.events, whose changes poll(2) tells as POLLPRI."""
    import select

    try:
        fd = os.open(f"{where}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as e:
        if e.errno in GONE:
            return True
        raise
    deadline = time.monotonic() + patience
    try:
        poll = select.poll()
        poll.register(fd, select.POLLPRI)
        while True:
            if keyed(os.pread(fd, 4096, 0).decode()).get(key, value) == value:
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            poll.poll(left * 1000)
    except OSError as e:
        if e.errno in GONE:
            return True
        raise
    finally:
        os.close(fd)


def remove(where: str) -> None:
    """Remove it with all below. Raises OSError: EBUSY while processes are in it, EACCES where a
    container gave a part to another of its ids."""
    try:
        names = [e.name for e in os.scandir(where) if e.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return
    for name in names:
        remove(f"{where}/{name}")
    try:
        os.rmdir(where)
    except FileNotFoundError:
        pass


def clear(where: str, userns: int) -> None:
    """At the end: kill what is left in it and remove it. `userns`: descriptor of the user's
    namespace, whose root may remove what the container gave to another of its ids."""
    try:
        kill(where)
        emptied(where, 5.0)
        remove(where)
    except PermissionError:
        _remove_as_root(where, userns)
    except OSError:
        pass        # a process that does not die is in it; the next start or `rm` tries again


def _remove_as_root(where: str, userns: int) -> None:
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        from rootless import linux

        linux.setns(userns, linux.CLONE_NEWUSER)
        os.setresuid(0, 0, 0)
        remove(where)
    except OSError:
        pass        # as above
    finally:
        os._exit(0)
