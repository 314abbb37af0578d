"""The root directory of a container looks as the image's does.

An overlay shows the attributes of the uppermost directory of a name, so those of `/` are those of
the container's upper directory, which is new, whatever the layers say. The mode, owner, times and
attributes of the uppermost layer whose archive describes its root are copied to it, once, when the
container is made: what its processes change later is theirs.
"""

from __future__ import annotations

import errno
import os
import stat

from rootless.userns import keeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.paths import Paths
    from rootless.userns.keeper import Userns

# On a directory of a layer that hides what the layers below have there.
OPAQUE = "user.overlay.opaque"
# On the root of a layer whose archive says nothing of it.
IMPLIED = "user.rootless.implied"
# Of the layer as such, and of its place among others.
_OF_THE_LAYER = ("user.rootless.map", "user.rootless.size", "user.overlay.")


def dress(paths: Paths, userns: Userns, layers: list[str], upper: str) -> None:
    """`layers`: their directories, top first. Raises OSError."""
    for layer in layers:
        if not _implied(layer):
            break
    else:
        return
    st, own = os.stat(layer), os.stat(upper)
    if (st.st_uid, st.st_gid) == (own.st_uid, own.st_gid):
        try:
            _copy(layer, upper)
            return
        except PermissionError:
            pass                    # closed even to its owner; not so to the namespace's root
    child = os.fork()
    if child == 0:
        code = errno.EIO
        try:
            # For root, parents of the store may be closed to the namespace.
            os.chdir(paths.data)
            keeper.enter(userns)
            _copy(os.path.relpath(layer, paths.data), os.path.relpath(upper, paths.data))
            code = 0
        except OSError as e:
            code = e.errno or errno.EIO
        finally:
            os._exit(code)
    code = os.WEXITSTATUS(os.waitpid(child, 0)[1])
    if code:
        raise OSError(code, os.strerror(code), layer)


def _implied(layer: str) -> bool:
    try:
        os.getxattr(layer, IMPLIED)
        return True
    except OSError:
        return False


def _copy(source: str, target: str) -> None:
    st, there = os.stat(source), os.stat(target)
    if (st.st_uid, st.st_gid) != (there.st_uid, there.st_gid):
        os.chown(target, st.st_uid, st.st_gid)
    for name in os.listxattr(source):
        if name.startswith("user.") and not name.startswith(_OF_THE_LAYER):
            os.setxattr(target, name, os.getxattr(source, name))
    os.chmod(target, stat.S_IMODE(st.st_mode))
    os.utime(target, ns=(st.st_atime_ns, st.st_mtime_ns))
