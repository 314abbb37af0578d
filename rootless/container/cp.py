"""`cp`: between a container, running or not, and the host, or a tar on standard input or output.

Two processes and a pipe (`rootless.container.copying`): one stands in the container
(`rootless.container.view`), the other is the caller itself, with the caller's own rights. With
`archive` it is a child in the user's namespace, where owners are numbers as containers know them:
the user's own files belong to root there, those of subordinate ids to whom they belong inside.

Without it what goes in belongs to root of the container, as docker's manual has it, and what comes
out to the caller. A tar on standard input says itself whose its files are.
"""

from __future__ import annotations

import os
import stat

from rootless.container import copying, view
from rootless.container.copying import Chunks, Copier, Gathered, HostCopier, Placed, Source, place
from rootless.container.view import View
from rootless.errors import Conflict, NotFound, StorageError, os_reason
from rootless.files import space_hint, write_all
from rootless.image.pax import Writer
from rootless.image.tar import DIRECTORY
from rootless.image.tree import pack_one
from rootless.storage import merged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rootless.container.store import Container
    from rootless.userns.keeper import Userns

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def copy_in(container: Container, userns: Userns, path: str, destination: str, *, archive: bool,
            follow: bool) -> int:
    """Copy `path` of the host into the container; the bytes that went.

    Raises NotFound, Conflict, StorageError.
    """
    parent, name, source = _on_host(path, follow=follow)
    copied = os.memfd_create("copied")

    def send(out: int) -> None:
        _send(parent, name, copying.TOP, out, f"cannot copy {path}")

    def receive(root: int, r: int) -> None:
        _receive(container, userns, root, r, copied, destination, source,
                 owner=None if archive else (0, 0))

    try:
        _pass_on(container, userns, receive, send, inward=True, inside=archive)
        return int(os.pread(copied, 32, 0))
    finally:
        os.close(parent)
        os.close(copied)


def copy_stream_in(container: Container, userns: Userns, fd: int, destination: str) -> None:
    """Unpack a tar, compressed or not, in a directory of the container. Raises ImageError too."""
    from rootless.image.decompress import inflate

    def send(out: int) -> None:
        for data in inflate(lambda: os.read(fd, copying.READ)):
            write_all(out, data)

    def receive(root: int, r: int) -> None:
        _receive(container, userns, root, r, -1, destination, None, owner=None)

    _pass_on(container, userns, receive, send, inward=True, inside=False)


def copy_out(container: Container, userns: Userns, path: str, destination: str, *, archive: bool,
             follow: bool) -> int:
    """Copy `path` of the container to the host; the bytes that came. Raises as `copy_in`."""
    copied = os.memfd_create("copied")
    target = os.path.abspath(destination) + ("/" if destination.endswith(("/", "/.")) else "")

    def receive(r: int) -> None:
        _to_host(userns, r, copied, path, target, keep=archive)

    try:
        _pass_on(container, userns, _sender(container, path, copying.TOP, follow=follow), receive,
                 inward=False, inside=archive)
        return int(os.pread(copied, 32, 0) or b"0")
    finally:
        os.close(copied)


def copy_stream_out(container: Container, userns: Userns, path: str, out: int, *,
                    follow: bool) -> None:
    """Write it as a tar whose names begin with the last one of `path`."""
    def receive(r: int) -> None:
        for data in Chunks(r):
            write_all(out, data)

    top = os.fsencode(os.path.basename(path.rstrip("/"))) or copying.TOP
    _pass_on(container, userns, _sender(container, path, top, follow=follow), receive,
             inward=False, inside=False)


def _pass_on(container: Container, userns: Userns, there: Callable[[int, int], None],
             here: Callable[[int], None], *, inward: bool, inside: bool) -> None:
    """Run `there(root, fd)` in the container, `here(fd)` in this process or, with `inside`, in
    the user's namespace (for root, whose containers have other ids, numbers are just numbers)."""
    r, w = copying.wide_pipe()
    mine, theirs = (w, r) if inward else (r, w)

    def work(root: int) -> None:
        os.close(mine)
        there(root, theirs)

    waited = True
    try:
        child = View(container, userns, work)
        waited = False
        os.close(theirs)
        try:
            if inside and os.geteuid() != 0:
                merged.inside(container.paths, userns, lambda: here(mine))
            else:
                here(mine)
        except BrokenPipeError:
            if not inward:
                raise
            # Who receives has given up, and says why.
        os.close(mine)
        mine = -1
        waited = True
        child.wait()
    finally:
        if mine >= 0:
            os.close(mine)
        if not waited:
            child.abandon()


# ---- what is sent ------------------------------------------------------------------------------

def _on_host(path: str, *, follow: bool) -> tuple[int, bytes, Source]:
    """(descriptor of the directory, name in it, what it is) of a path of the host."""
    contents = os.path.basename(path) == "."
    try:
        if follow or contents or path.endswith("/"):
            real = os.path.realpath(path)
        else:
            real = os.path.join(os.path.realpath(os.path.dirname(path) or "."),
                                os.path.basename(path))
        directory = stat.S_ISDIR(os.lstat(real).st_mode)
        parent = os.open(os.path.dirname(real), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(f"no such file or directory: {path}") from None
    except OSError as e:
        raise StorageError(f"cannot read {path}: {os_reason(e)}") from None
    name = os.fsencode(os.path.basename(real))
    if path.endswith("/") and not directory:
        os.close(parent)
        raise Conflict(f"cannot copy {path}: it is no directory")
    return parent, name or b".", Source(name, directory, contents or not name)


def _sender(container: Container, path: str, top: bytes, *,
            follow: bool) -> Callable[[int, int], None]:
    where = f"{container.name}:{path}"
    slash = path.endswith(("/", "/."))

    def send(root: int, out: int) -> None:
        parts = view.canonical(root, os.fsencode(path), follow=follow or slash)
        kind = _kind(root, parts)
        if not kind:
            raise NotFound(f"no such file or directory: {where}")
        if slash and kind != "directory":
            raise Conflict(f"cannot copy {where}: it is no directory")
        parent = view.resolve(root, b"/".join(parts[:-1]), os.O_PATH | os.O_DIRECTORY)
        _send(parent, parts[-1] if parts else b".", top, out, f"cannot copy {where}",
              view.engines_own(root, parts))
    return send


def _send(parent: int, name: bytes, top: bytes, out: int, what: str,
          avoid: frozenset[int] = frozenset()) -> None:
    gathered = Gathered(out)
    tar = Writer(gathered.write)
    try:
        pack_one(parent, name, top, tar, avoid)
        tar.finish()
        gathered.flush()
    except BrokenPipeError:
        raise
    except OSError as e:
        raise _failed(what, e, "") from None


# ---- what is received --------------------------------------------------------------------------

def _receive(container: Container, userns: Userns, root: int, r: int, copied: int,
             destination: str, source: Source | None, *, owner: tuple[int, int] | None) -> None:
    """In the container. `source` None: the names of the tar count."""
    os.umask(0)
    where = f"{container.name}:{destination}"
    parts = view.canonical(root, os.fsencode(destination), follow=True)
    kind = _kind(root, parts)
    chunks = Chunks(r)
    if source is None:
        if kind != "directory":
            raise NotFound(f"cannot copy to {where}: there is no such directory")
        reader = Placed(chunks, parts, top=False)
    else:
        found = place(source, where, kind, parent=_kind(root, parts[:-1]) == "directory")
        reader = Placed(chunks, [*parts, source.name] if found.into else parts, top=found.top)
    try:
        Copier(userns, root, owner).write(reader)
        reader.drain()
    except OSError as e:
        raise _failed(f"cannot copy to {where}", e, container.dir) from None
    if copied >= 0:
        os.pwrite(copied, b"%d" % chunks.total, 0)


def _to_host(userns: Userns, r: int, copied: int, path: str, destination: str, *,
             keep: bool) -> None:
    """`keep`: the owners. Nothing comes where the sender failed, who says why."""
    os.umask(0)
    chunks = Chunks(r)
    reader = Placed(chunks, [], top=True)
    first = reader.peek()
    if first is None:
        return
    source = Source(os.fsencode(os.path.basename(path.rstrip("/"))), first.kind == DIRECTORY,
                    os.path.basename(path) == "." or not path.strip("/"))
    real = os.path.realpath(destination)
    kind = "directory" if os.path.isdir(real) else "file" if os.path.lexists(real) else ""
    found = place(source, destination, kind, parent=os.path.isdir(os.path.dirname(real)))
    reader.top = found.top
    try:
        if kind == "directory":
            root = os.open(real, _DIRECTORY)
            reader.prefix = [source.name] if found.into else []
        else:
            root = os.open(os.path.dirname(real), _DIRECTORY)
            reader.prefix = [os.fsencode(os.path.basename(real))]
        copier = Copier(userns, root) if keep else HostCopier(userns, root)
        copier.write(reader)
        reader.drain()
    except OSError as e:
        raise _failed(f"cannot copy to {destination}", e, os.path.dirname(real)) from None
    os.pwrite(copied, b"%d" % chunks.total, 0)
    if isinstance(copier, HostCopier) and copier.left_out:
        raise StorageError(
            f"cannot make {len(copier.left_out)} of the files, which are devices, such as "
            f"{os.fsdecode(copier.left_out[0])}: only root may; all else was copied")


def _kind(root: int, parts: list[bytes]) -> str:
    """Of what is there in the container: directory, file, or "" for nothing."""
    try:
        fd = view.resolve(root, b"/".join(parts), os.O_PATH | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    try:
        return "directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"
    finally:
        os.close(fd)


def _failed(what: str, error: OSError, where: str) -> StorageError:
    name = error.filename
    named = f"{os.fsdecode(name)}: " if isinstance(name, (str, bytes)) else ""
    return StorageError(f"{what}: {named}{os_reason(error)}", hint=space_hint(error, where))
