"""A squashfs file as a layer: served by squashfuse, seen by one container only.

The kernel lets nobody but root mount squashfs itself. squashfuse serves it through /dev/fuse, and
everything here is about its life being the container's:

- It must not hold the mount namespace in which the file is mounted, or the mount would live as
  long as it does and it as long as the mount. So the launcher starts it before it takes that
  namespace, gives it the open /dev/fuse (libfuse takes `/dev/fd/N` for a mount point), and mounts
  by mount(2) itself, afterwards. With the container's last process the namespace goes, with it
  the mount; squashfuse reads the end from /dev/fuse, and ends.
- The descriptor belongs to the user namespace that opens it, and only there it can be mounted.
- Nobody else keeps /dev/fuse open: were squashfuse killed, whoever looks at a file gets an error
  at once, and does not wait for ever.
"""

from __future__ import annotations

import os

from rootless import linux
from rootless.errors import StartError, os_reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

PROGRAMS = ("squashfuse_ll", "squashfuse")


def serve(program: str, file: str) -> tuple[int, int]:
    """Get squashfuse ready for `file`: (/dev/fuse, which it will serve; where `mount` tells it to
    begin). Called as root of the user's namespace, still in the mount namespace of all.

    Raises StartError.
    """
    try:
        fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as e:
        raise StartError(f"cannot mount {file}: /dev/fuse: {os_reason(e)}",
                         hint="rootless doctor tells what this machine allows") from None
    go_r, go_w = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go_w)
        _serve(program, file, fuse, go_r)
    os.waitpid(child, 0)
    os.close(go_r)
    return fuse, go_w


def _serve(program: str, file: str, fuse: int, go: int) -> NoReturn:
    try:
        os.setsid()
        if os.fork():           # it is nobody's child: the container's own wait(2) never sees it
            os._exit(0)
        os.chdir("/")
        # Who reads from /dev/fuse before there is a mount is refused, and libfuse gives up.
        if os.read(go, 1) != b"g":
            os._exit(1)
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        keep = 3
        if fuse != keep:
            os.dup2(fuse, keep)
        linux.close_range(keep + 1)
        os.set_inheritable(keep, True)
        os.execv(program, [os.path.basename(program), "-f", file, f"/dev/fd/{keep}"])
    finally:
        os._exit(1)


def mount(fuse: int, go: int, where: str, file: str) -> None:
    """In the container's mount namespace. Closes both descriptors. Raises StartError."""
    try:
        linux.mount("squashfuse", where, "fuse.squashfuse",
                    linux.MS_RDONLY | linux.MS_NODEV,
                    f"fd={fuse},rootmode=40000,user_id=0,group_id=0,allow_other,"
                    "default_permissions")
        os.write(go, b"g")
    except OSError as e:
        raise StartError(f"cannot mount {file}: {os_reason(e)}",
                         hint="rootless doctor tells what this machine allows") from None
    finally:
        os.close(fuse)
        os.close(go)
    try:
        os.stat(where)
    except OSError as e:
        raise StartError(f"cannot mount {file}: squashfuse gave up: {os_reason(e)}",
                         hint=f"to see why: squashfuse -f {file} DIRECTORY") from None
