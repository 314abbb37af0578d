"""build --output: where the result goes, besides or instead of the store.

    type=image[,name=NAME]      the store, as without --output
    type=local,dest=DIRECTORY   the files, as the caller's own
    type=tar[,dest=FILE]        the files as a tar
    type=oci[,dest=FILE]        the image as an OCI archive
    type=docker[,dest=FILE]     the image as `docker save` writes it
    DIRECTORY, -                short for type=local, and for type=tar on standard output
"""

from __future__ import annotations

import os

from rootless.container.copying import Chunks, HostCopier, Placed
from rootless.errors import StorageError, UsageError, os_reason
from rootless.files import space_hint, write_all
from rootless.image import save
from rootless.image.pax import Writer
from rootless.image.reference import parse as parse_name
from rootless.image.save import Chosen
from rootless.image.tree import pack
from rootless.record import record
from rootless.storage import merged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.image.store import Image
    from rootless.paths import Paths
    from rootless.userns.keeper import Userns

KINDS = ("image", "local", "tar", "oci", "docker")
_FORMS = {"oci": save.OCI_ARCHIVE, "docker": save.DOCKER_ARCHIVE}
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@record(frozen=True)
class Output:
    """`dest`: a path, "" for standard output. `name`: of the image."""

    kind: str
    dest: str
    name: str


def parse(text: str) -> Output:
    """Raises UsageError."""
    if "=" not in text:
        return Output("tar", "", "") if text == "-" else Output("local", os.path.abspath(text), "")
    words = dict(w.partition("=")[::2] for w in text.split(","))
    kind, dest, name = words.get("type", ""), words.get("dest", ""), words.get("name", "")
    unknown = set(words) - {"type", "dest", "name"}
    if kind not in KINDS or unknown:
        raise UsageError(f"invalid output: {text}", hint="type=" + "|".join(KINDS)
                         + "[,dest=PATH][,name=NAME]")
    if kind == "local" and dest in ("", "-"):
        raise UsageError(f"invalid output: {text}: it wants a directory",
                         hint="type=local,dest=DIRECTORY")
    if kind == "image" and dest:
        raise UsageError(f"invalid output: {text}: an image goes to the store")
    if kind in ("local", "tar") and name:
        raise UsageError(f"invalid output: {text}: files have no name")
    return Output(kind, "" if dest in ("", "-") else os.path.abspath(dest), name)


def write(paths: Paths, userns: Userns, image: Image, layers: list[str], wish: Output,
          names: tuple[str, ...]) -> None:
    """`layers`: directories, top first. The caller holds `store.hold`. Raises StorageError."""
    if wish.kind == "local":
        _files(paths, userns, layers, wish.dest)
        return
    out = save.Output(wish.dest)
    try:
        if wish.kind == "tar":
            merged.inside(paths, userns, lambda: _tar(paths, layers, out.fileno()))
        else:
            full = tuple(parse_name(n).named().full for n in ((wish.name,) if wish.name else names))
            save.archive([Chosen(paths, image, full)], _FORMS[wish.kind], out.write,
                         lambda digest: None)
        out.commit()
    finally:
        out.close()


def _tar(paths: Paths, layers: list[str], fd: int) -> None:
    (root,) = merged.mount(paths, [layers])
    tar = Writer(lambda data: write_all(fd, data))
    pack(root, tar)
    tar.finish()


def _files(paths: Paths, userns: Userns, layers: list[str], dest: str) -> None:
    """A child, which may read everything, sends; what comes is written with the caller's rights."""
    r, w = os.pipe()
    umask = os.umask(0)
    child = merged.Child(paths, userns, lambda: _tar(paths, layers, w))
    done = False
    os.close(w)
    try:
        os.makedirs(dest, 0o755, exist_ok=True)
        reader = Placed(Chunks(r), [], top=False)
        copier = HostCopier(userns, os.open(dest, _DIRECTORY))
        copier.write(reader)
        reader.drain()
        done = True
    except OSError as e:
        raise StorageError(f"cannot write the result to {dest}: {os_reason(e)}",
                           hint=space_hint(e, os.path.dirname(dest))) from None
    finally:
        os.close(r)
        os.umask(umask)
        if not done:
            child.abandon()
    child.wait()
    if copier.left_out:
        raise StorageError(f"cannot make {len(copier.left_out)} of the files, which are devices: "
                           "only root may; all else was written")
