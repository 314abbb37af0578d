"""The last steps before a command runs in a container, for its first process and for `exec`.

Order matters: files of the container are read as its root, the user is changed with the bounding
set already cut, seccomp comes as late as no_new_privs allows, and nothing of ours stays open.
"""

from __future__ import annotations

import errno
import fcntl
import marshal
import os
import sys

from rootless import linux
from rootless.errors import (
    CommandNotExecutable,
    CommandNotFound,
    RootlessError,
    StartError,
    os_reason,
)
from rootless.runtime import users

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    Process = dict[str, Any]

LAST_CAP = 40       # CAP_CHECKPOINT_RESTORE; newer kernels only add


def become_mapped_root(*, single: bool) -> None:
    """Root by the ids of the namespace just entered. With one id it may not be number 0."""
    if single:
        return
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def oom_score(proc: Process) -> None:
    """Set the preference of the OOM killer, which children inherit. Done first of all: once a
    process is not dumpable, its files in /proc are the machine's root's."""
    wanted = proc["oom_score_adj"]
    if wanted is None:
        return
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, str(wanted).encode())
        finally:
            os.close(fd)
    except OSError as e:
        raise StartError(f"cannot set the OOM score to {wanted}: {os_reason(e)}",
                         hint="from 0 to 1000; only root may go below what it was given"
                         ) from None


def preload(proc: Process) -> None:
    """Import what is needed after pivot_root, while the interpreter's files can be reached."""
    if proc["rlimits"]:
        import resource  # noqa: F401
    if proc["init"]:
        from rootless.runtime import reaper  # noqa: F401
    import _signal  # noqa: F401
    import select  # noqa: F401


def run(proc: Process, status: int, slave: int) -> NoReturn:
    """Take on the process's identity and exec it. Raises before the exec; then never returns."""
    if slave >= 0:
        _take_terminal(slave)
    user = users.resolve(proc["user"], proc["groups"])
    env = dict(proc["env"])
    env.setdefault("HOME", user.home)
    _limits(proc)
    _work_directory(proc["cwd"], make=proc["first"])
    if slave >= 0 and not proc["single"]:
        os.fchown(0, user.uid, -1)
    for number in range(LAST_CAP + 1):
        if not proc["caps"] >> number & 1:
            _drop_bound(number)
    nnp = proc["no_new_privileges"]
    if nnp:
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    elif proc["seccomp"]:
        linux.seccomp_filter(proc["seccomp"])
    if not proc["single"]:
        # A namespace of one id has no other to change to, and may not set groups.
        os.setgroups(user.groups)
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    held = proc["caps"] if user.uid == 0 else 0
    linux.prctl(linux.PR_CAP_AMBIENT, linux.PR_CAP_AMBIENT_CLEAR_ALL)
    linux.capset(held, held, 0)
    if proc["die_with_parent"]:
        # After the change of user, which clears it.
        linux.prctl(linux.PR_SET_PDEATHSIG, 9)
    _inside("/")
    if nnp and proc["seccomp"]:
        linux.seccomp_filter(proc["seccomp"])
    _default_signals()
    if status != 3:
        os.dup2(status, 3, inheritable=False)
    linux.close_range(4)
    if proc["die_with_parent"]:
        _parent_lives()
    if proc["init"]:
        from rootless.runtime import reaper

        reaper.start()
    try:
        execute(proc["args"], env)
    except RootlessError as e:
        # The caller knows the pipe by a number that is closed by now.
        report(3, e)
    finally:
        give_up(3)


def _parent_lives() -> None:
    """Who waits for us may have died before PR_SET_PDEATHSIG: nobody reads the status pipe."""
    import select

    poll = select.poll()
    poll.register(3, 0)
    if poll.poll(0):
        os._exit(1)


def report(status: int, error: RootlessError) -> None:
    """Tell who waits at the other end of the status pipe why there will be no command."""
    os.write(status, marshal.dumps((type(error).__name__, error.message, error.hint)))


def give_up(status: int) -> NoReturn:
    """The end of a process that did not become the command. For a `finally`: what nobody caught
    is told too, as silence on the status pipe would mean that the command runs."""
    kind, error, _ = sys.exc_info()
    if kind is not None:
        report(status, StartError(f"cannot start the command: {kind.__name__}: {error}"))
    os._exit(1)


def _drop_bound(number: int) -> None:
    try:
        linux.prctl(linux.PR_CAPBSET_DROP, number)
    except OSError as e:
        if e.errno != errno.EINVAL:     # an older kernel that has no such capability
            raise


def _take_terminal(slave: int) -> None:
    fcntl.ioctl(slave, linux.TIOCSCTTY, 0)
    for fd in (0, 1, 2):
        os.dup2(slave, fd)
    if slave > 2:
        os.close(slave)


def _limits(proc: Process) -> None:
    if proc["rlimits"]:
        import resource

        for name, number, soft, hard in proc["rlimits"]:
            try:
                resource.setrlimit(number, (soft, hard))
            except (OSError, ValueError) as e:
                raise StartError(
                    f"cannot set ulimit {name} to {soft}:{hard}: {e}",
                    hint="a user without root can lower limits, and raise them up to "
                         "what `ulimit -H` shows") from None


def _work_directory(path: str, *, make: bool) -> None:
    """Enter the working directory, which docker makes for a container's first process."""
    done = ""
    for part in path.split("/") if make else ():
        if part in ("", "."):
            continue
        done = f"{done}/{part}"
        try:
            os.mkdir(done, 0o755)
        except FileExistsError:
            pass
        except OSError as e:
            if not os.path.isdir(done):
                raise StartError(f"cannot make the working directory: {path}: {os_reason(e)}",
                                 hint="choose another with --workdir") from None
    try:
        os.chdir(path or "/")
    except OSError as e:
        # docker sees to a container's own before anything runs (125); to that of exec the runtime.
        kind = StartError if make else CommandNotExecutable
        raise kind(f"cannot enter the working directory: {path}: {os_reason(e)}",
                   hint="choose another with --workdir") from None


def _inside(root: str) -> None:
    """The working directory can be named from the root: it is not outside (CVE-2024-21626)."""
    try:
        if os.getcwd().startswith(root):
            return
    except OSError:
        pass
    raise StartError("the working directory is outside the container's root filesystem")


def _default_signals() -> None:
    """The interpreter ignores SIGPIPE and SIGXFSZ, and a parent may have ignored others."""
    from _signal import SIG_DFL, SIG_SETMASK, pthread_sigmask, signal

    for number in range(1, 32):
        if number not in (9, 19):
            signal(number, SIG_DFL)
    pthread_sigmask(SIG_SETMASK, [])


def execute(args: list[str], env: dict[str, str]) -> NoReturn:
    """execvpe(3) with the container's PATH. Raises CommandNotFound or CommandNotExecutable."""
    name = args[0]
    if not name:
        raise CommandNotFound("cannot run '': the name of the command is empty")
    candidates = [name] if "/" in name else [
        f"{d or '.'}/{name}" for d in env.get("PATH", "").split(":")]
    denied: OSError | None = None
    for path in candidates:
        try:
            _stays_inside(path)
            os.execve(path, args, env)
        except (FileNotFoundError, NotADirectoryError) as e:
            if e.errno == errno.ENOENT and os.path.isfile(path):
                raise CommandNotFound(
                    f"cannot run {name}: the program that {path} needs to run (its #! line or "
                    "dynamic loader) is not in the image") from None
        except OSError as e:
            denied = e
            if e.errno not in (errno.EACCES,):
                break
    if denied is not None:
        raise CommandNotExecutable(f"cannot run {name}: {os_reason(denied)}")
    if "/" in name:
        raise CommandNotFound(f"cannot run {name}: no such file in the container")
    raise CommandNotFound(f"cannot run {name}: not found in the container's PATH")


def _stays_inside(path: str) -> None:
    """Refuse a command, and a script's interpreter, behind a link of the kernel's like
    /proc/self/exe: it leads to our interpreter on the machine, which the container could then
    write where it is the user's own (CVE-2019-5736)."""
    name = path
    for _ in range(6):      # an interpreter may be a script again, five times (fs/exec.c)
        try:
            os.close(linux.openat2(linux.AT_FDCWD, name, os.O_PATH | os.O_CLOEXEC,
                                   resolve=linux.RESOLVE_NO_MAGICLINKS))
        except OSError as e:
            if e.errno == errno.ELOOP:
                raise
            # What else is wrong execve tells better.
        name = _interpreter(name)
        if not name:
            return


def _interpreter(path: str) -> str:
    """What the #! line of a script names."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return ""
    try:
        head = os.read(fd, 256)
    except OSError:
        return ""
    finally:
        os.close(fd)
    words = head[2:].split(b"\n", 1)[0].split() if head[:2] == b"#!" else []
    return os.fsdecode(words[0]) if words else ""


def winsize(rows: int, columns: int) -> bytes:
    """struct winsize."""
    return b"".join(n.to_bytes(2, "little") for n in (rows, columns, 0, 0))


def send_fd(sock: int, fd: int) -> None:
    """Pass a descriptor over a Unix socket (SCM_RIGHTS)."""
    import _socket

    s = _socket.socket(fileno=sock)
    try:
        s.sendmsg([b"t"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fd.to_bytes(4, "little"))])
    finally:
        s.detach()


def receive_fd(sock: int) -> int:
    """The descriptor sent by `send_fd`, or -1 when the other side ended instead."""
    import _socket

    s = _socket.socket(fileno=sock)
    try:
        _, control, _, _ = s.recvmsg(1, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
        for level, kind, value in control:
            if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
                return int.from_bytes(value[:4], "little")
        return -1
    finally:
        s.detach()
