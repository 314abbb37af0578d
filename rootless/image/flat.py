"""An image in one file: a squashfs of its merged tree, with its configuration behind the end.

On a filesystem that many machines share, one file is read where ten thousand would be opened. It
is made by mksquashfs, as root of the user's namespace, so that all owners are what they are; what
no namespace of the user can hold (`user.rootless.stat`) is given to mksquashfs in words.

A squashfs says in its superblock how long it is, and readers ignore what follows. There lies

    configuration (JSON), its length in 8 bytes (little endian), MAGIC (8 bytes)

so that any squashfs tool can read the file, and `run` needs no other.
"""

from __future__ import annotations

import os
import stat
import struct

from rootless import jsontext
from rootless.errors import (
    HostError,
    ImageError,
    NotFound,
    StorageError,
    UsageError,
    os_reason,
)
from rootless.image import manifest as manifests
from rootless.image.reference import is_digest, parse
from rootless.image.store import Image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.image.save import Output
    from rootless.paths import Paths
    from rootless.userns.keeper import Userns

MAGIC = b"RTLSFLAT"
SCHEME = "sqfs:"
_END = struct.Struct("<Q8s")
_SQUASHFS = b"hsqs"

_WORDS = ("-noappend", "-quiet", "-no-progress", "-comp", "zstd", "-b", "256K", "-mkfs-time", "0")


# ---- reading -----------------------------------------------------------------------------------

def path_of(name: str) -> str:
    """The file that the name of an image means; "" where it means none. No reference starts like
    a path."""
    if name.startswith(SCHEME):
        return os.path.abspath(name[len(SCHEME):])
    return os.path.abspath(name) if name.startswith(("/", "./", "../")) else ""


def load(path: str) -> Image:
    """Raises NotFound, ImageError, StorageError."""
    try:
        # A pipe in its place must not make us wait.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except FileNotFoundError:
        raise NotFound(f"no such file: {path}") from None
    except OSError as e:
        raise StorageError(f"cannot read {path}: {os_reason(e)}") from None
    try:
        whole = _trailer(fd, path)
    finally:
        os.close(fd)
    config = manifests.image_config(jsontext.dumps(whole.get("config")).encode(), 0, path)
    identity = whole.get("id")
    name = whole.get("name")
    return Image(identity if isinstance(identity, str) and is_digest(identity) else "", "",
                 _name(name) if isinstance(name, str) else "", (), config, {"layers": []},
                 os.path.getsize(path), file=path)


def _name(text: str) -> str:
    try:
        return parse(text).named().full if text else ""
    except UsageError:
        return ""


def _trailer(fd: int, path: str) -> dict[str, Any]:
    st = os.fstat(fd)
    if not stat.S_ISREG(st.st_mode) or os.pread(fd, 4, 0) != _SQUASHFS:
        raise ImageError(f"cannot run {path}: it is no squashfs file",
                         hint="rootless image flatten IMAGE -o FILE makes one")
    at = st.st_size - _END.size
    end = os.pread(fd, _END.size, max(0, at))
    length, magic = _END.unpack(end) if len(end) == _END.size else (0, b"")
    if magic != MAGIC or not 0 < length <= min(manifests.LARGEST, at):
        raise ImageError(f"cannot run {path}: it holds no configuration of an image",
                         hint="rootless image flatten IMAGE -o FILE makes one that does")
    return manifests.document(os.pread(fd, length, at - length), path)


# ---- writing -----------------------------------------------------------------------------------

def flatten(paths: Paths, userns: Userns, image: Image, output: Output) -> None:
    """Raises HostError, StorageError. The caller holds `store.hold`, and the layers are there."""
    from shutil import which

    from rootless.storage import merged

    program = which("mksquashfs", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise HostError("cannot make a squashfs file: mksquashfs is not installed",
                        hint="ask the administrator to run: apt-get install squashfs-tools")
    layers = [paths.layer(d) for d in reversed(image.layers)]

    def work() -> None:
        (root,) = merged.mount(paths, [layers])
        left_out, words = _remembered(root)
        for name, lines in (("left-out", left_out), ("words", words)):
            with open(name, "wb") as f:
                f.write(b"".join(lines))
        _run([program, f"/proc/self/fd/{root}/.", output.path, *_WORDS,
              "-ef", "left-out", "-pf", "words"], root)

    merged.inside(paths, userns, work)
    config = {**image.config, "rootfs": {"type": "layers", "diff_ids": []}}
    text = jsontext.dumps({"id": image.id, "name": image.name, "config": config}).encode()
    os.lseek(output.fileno(), 0, os.SEEK_END)
    output.write(text + _END.pack(len(text), MAGIC))


def _run(command: list[str], root: int) -> None:
    import subprocess

    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False, pass_fds=[root])
    if done.returncode:
        said = " ".join(done.stdout.decode(errors="replace").split())[:300]
        raise StorageError(f"cannot make a squashfs file: mksquashfs: {said}")


def _remembered(root: int) -> tuple[list[bytes], list[bytes]]:
    """(files to leave out, definitions) for mksquashfs of what only `user.rootless.stat` knows."""
    from rootless.image.tree import attributes, remembered, walk

    left_out, words = [], []
    for parent, name, path in walk(root):
        st = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if not (stat.S_ISREG(st.st_mode) or stat.S_ISDIR(st.st_mode)):
            continue
        mode, uid, gid, device = remembered(st, attributes(parent, name))
        if (mode, uid, gid) == (st.st_mode, st.st_uid, st.st_gid):
            continue
        if b"\n" in path:
            raise StorageError("cannot make a squashfs file: mksquashfs takes no owner for "
                               f"{os.fsdecode(path)!a}, whose name has a line break")
        quoted = b'"' + path.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
        rest = b"%o %d %d" % (mode & 0o7777, uid, gid)
        if stat.S_IFMT(mode) == stat.S_IFMT(st.st_mode):
            words.append(b"%s m %s\n" % (quoted, rest))
        else:
            left_out.append(path + b"\n")
            words.append(b"%s %s %s %d %d\n" % (quoted, b"c" if stat.S_ISCHR(mode) else b"b", rest,
                                                os.major(device), os.minor(device)))
    return left_out, words
