"""Layers as one tree, seen by one process only.

Goal: look at the files of an image or a container as its processes would see them, without
unpacking or copying anything. A child joins the user's namespace, where every owner can be read,
takes a mount namespace of its own and mounts the layers there as an overlay that cannot be
written: no upper directory, so nothing of the store can change, and a container may run from the
same directories meanwhile. When the child ends, however it ends, the mounts are gone.

The trees lie on a tmpfs over the store's tmp/, which only the child sees covered. Layers are named
by descriptor, because a mount's options must fit in one page.
"""

from __future__ import annotations

import marshal
import os

from rootless import errors, linux
from rootless.errors import RootlessError, StorageError, os_reason
from rootless.files import write_all
from rootless.storage.rootdir import OPAQUE
from rootless.userns import keeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rootless.paths import Paths
    from rootless.userns.keeper import Userns


def inside(paths: Paths, userns: Userns, work: Callable[[], None]) -> None:
    """Run `work` in such a child and wait for it. What it raises is raised here: errors of ours
    by kind and text, BrokenPipeError as itself, any other OSError as StorageError."""
    Child(paths, userns, work).wait()


class Child:
    """One that runs while its maker goes on. `before` is called when it is root of the namespace
    and still in the mount namespace of all."""

    def __init__(self, paths: Paths, userns: Userns, work: Callable[[], None],
                 before: Callable[[], None] | None = None) -> None:
        r, w = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            code = 1
            try:
                os.close(r)
                code = _child(paths, userns, before, work, w)
            finally:
                os._exit(code)
        os.close(w)
        self._said = r

    def wait(self) -> None:
        """Raises what it raised."""
        ended = False
        try:
            with os.fdopen(self._said, "rb") as f:
                said = f.read()
            status = os.waitpid(self._pid, 0)[1]
            ended = True
        finally:
            if not ended:           # Ctrl-C
                self._kill()
        if said:
            kind, message, hint, excerpt = marshal.loads(said)
            if kind == "BrokenPipeError":
                raise BrokenPipeError
            error = getattr(errors, kind)(message, hint=hint)
            if isinstance(error, errors.DockerfileError):
                error.excerpt = excerpt
            raise error
        if status:
            raise StorageError("cannot look into the layers: the process that does it died",
                               hint="look for the out-of-memory killer in the kernel's log")

    def abandon(self) -> None:
        """End it, instead of `wait`."""
        os.close(self._said)
        self._kill()

    def _kill(self) -> None:
        os.kill(self._pid, 9)
        os.waitpid(self._pid, 0)


def _child(paths: Paths, userns: Userns, before: Callable[[], None] | None,
           work: Callable[[], None], report: int) -> int:
    try:
        # For root, parents of the store may be closed to the unprivileged range: the working
        # directory leads in.
        os.chdir(paths.data)
        keeper.enter(userns)
        if before is not None:
            before()
        linux.unshare(linux.CLONE_NEWNS)
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_SLAVE)
        work()
        return 0
    except RootlessError as e:
        kind = next(k.__name__ for k in type(e).__mro__ if hasattr(errors, k.__name__))
        said = (kind, e.message, e.hint, getattr(e, "excerpt", ""))
    except BrokenPipeError:
        said = ("BrokenPipeError", "", None, "")
    except OSError as e:
        name = f"{os.fsdecode(e.filename)}: " if isinstance(e.filename, (str, bytes)) else ""
        said = ("StorageError", f"cannot look into the layers: {name}{os_reason(e)}", None, "")
    write_all(report, marshal.dumps(said))
    return 1


def mount(paths: Paths, trees: list[list[str]]) -> list[int]:
    """In the child: mount each list of layers (paths, top first); descriptors of the roots."""
    # The kernel takes no layer twice; of the same two, the upper one hides the lower.
    opened = [[_open(paths, layer) for layer in dict.fromkeys(layers)] for layers in trees]
    ground = os.open("tmp", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    linux.mount("tmpfs", f"/proc/self/fd/{ground}", "tmpfs", 0, "mode=755")
    os.chdir("tmp")
    os.mkdir("empty")
    found = []
    for number, layers in enumerate(opened):
        os.mkdir(str(number))
        overlay(layers, os.open("empty", os.O_PATH | os.O_CLOEXEC), os.path.abspath(str(number)))
        found.append(os.open(str(number), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    return found


def bare(paths: Paths, layer: str) -> int:
    """In the child: a layer as it lies in the store; a descriptor that can be read."""
    return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=_open(paths, layer))


def _open(paths: Paths, layer: str) -> int:
    if layer.startswith(paths.data + "/"):
        layer = layer[len(paths.data) + 1:]
    try:
        return os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise StorageError(f"cannot look into the layers: one is missing: {layer}",
                           hint="rootless system check --repair") from None


def _seen(layers: list[int]) -> list[int]:
    """Without those below an opaque root: the kernel obeys that mark in every directory but the
    roots of layers."""
    for depth, fd in enumerate(layers, 1):
        try:
            if os.getxattr(f"/proc/self/fd/{fd}", OPAQUE) == b"y":
                return layers[:depth]
        except OSError:
            continue
    return layers


def overlay(layers: list[int], empty: int, target: str) -> None:
    """Mount layers, top first, read-only at `target`. Fewer than two are filled up with
    `empty`, as an overlay without an upper directory has at least two."""
    layers = _seen(layers)
    names = [str(fd) for fd in layers] + [str(empty)] * (len(layers) < 2)
    if len(names) < 2:
        # Nothing at all: the kernel takes no directory twice.
        linux.mount(f"/proc/self/fd/{empty}", target, None, linux.MS_BIND)
        return
    place = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.chdir("/proc/self/fd")
    try:
        linux.mount("overlay", target, "overlay", linux.MS_RDONLY,
                    f"lowerdir={':'.join(names)},userxattr")
    except OSError as e:
        raise StorageError(f"cannot mount the layers (overlay): {os_reason(e)}",
                           hint="rootless doctor tells whether this filesystem can hold the "
                                "store") from None
    finally:
        os.fchdir(place)
        os.close(place)
