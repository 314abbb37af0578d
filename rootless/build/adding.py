"""What a COPY or ADD brings in: from the context, a stage, an image, an address, an archive.

`gather` finds it and says what it is worth as a key of the cache; `write`, in the child
of `rootless.build.copying`, puts it in its place.
"""

from __future__ import annotations

import os
import stat
import time

from rootless.build import context, copying, modes
from rootless.build import instructions as ins
from rootless.build.context import Tree
from rootless.build.state import digest
from rootless.container.copying import Copier
from rootless.errors import BuildError, ImageError
from rootless.image.decompress import bounded, form_of
from rootless.image.tar import Reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Union

    from rootless.build.context import Found
    from rootless.build.download import Fetched
    from rootless.build.git import Address
    from rootless.build.stage import StageRun

    Wish = Union[ins.Copy, ins.Add]

_ARCHIVE_HEAD = 512


def is_address(source: str) -> bool:
    if source.startswith(("http://", "https://", "ftp://")):
        return True
    from rootless.build import git

    return git.parse(source) is not None


def gather(run: StageRun, wish: Wish) -> Foreign | Own:
    """Raises BuildError."""
    if isinstance(wish, ins.Copy) and wish.from_:
        return Foreign(run, wish)
    return Own(run, wish)


class _Sources:
    """`key` stands for all that `write` writes but the place. `trees`: layers of the one that has
    to be mounted, top first."""

    def __init__(self, run: StageRun, wish: Wish) -> None:
        self.run = run
        self.wish = wish
        self.trees: list[list[str]] = []

    def select(self, tree: Tree, sources: tuple[str, ...]) -> list[Found]:
        parents = isinstance(self.wish, ins.Copy) and self.wish.parents
        return tree.select(sources, where=self.wish.where, parents=parents,
                           excludes=self.wish.excludes) if sources else []

    def owner(self, *, keep: bool) -> copying.Owner:
        mode = modes.parse(self.wish.chmod) if self.wish.chmod else None
        return copying.Owner(self.wish.chown, mode, keep=keep)


class Foreign(_Sources):
    """COPY --from."""

    def __init__(self, run: StageRun, wish: ins.Copy) -> None:
        super().__init__(run, wish)
        self._from = wish.from_
        self._parents = wish.parents
        self._named = run.build.context_named(wish.from_)
        self._state = None if self._named else run.source(wish.from_)
        if self._state is not None:
            self.trees = [self._state.directories(run.build.paths)]

    def key(self) -> str:
        if self._named is not None:
            return context.digest(self._named, self.select(self._named, self.wish.sources))
        assert self._state is not None
        return digest("from", self._state.key(), str(self._parents), *self.wish.sources, "",
                      *self.wish.excludes)

    def write(self, dest: str, roots: list[int]) -> None:
        tree = self._named if self._named is not None else Tree(roots[0], name=self._from)
        copying.copy(tree, self.select(tree, self.wish.sources), dest,
                     self.owner(keep=self._named is None))


class Own(_Sources):
    """From the context, what the Dockerfile holds itself, and addresses."""

    def __init__(self, run: StageRun, wish: Wish) -> None:
        super().__init__(run, wish)
        self._add = isinstance(wish, ins.Add)
        addresses = [s for s in wish.sources if self._add and is_address(s)]
        local = tuple(s for s in wish.sources if s not in addresses)
        self._tree = run.build.context()
        self._found = self.select(self._tree, local)
        self._many = len(wish.sources) + len(wish.files) > 1
        self._fetched: list[Fetched] = []
        self._repositories: list[tuple[Tree, str]] = []
        for address in addresses:
            from rootless.build import git
            from rootless.build.download import download

            assert isinstance(wish, ins.Add)
            place = run.build.workspace.fresh()
            repository = git.parse(address)
            if repository:
                self._repositories.append(_repository(repository, wish, place))
            else:
                self._fetched.append(download(address, wish, place))
        if self._add:
            # What unpacks an archive, while modules can still be loaded.
            import bz2  # noqa: F401
            import lzma  # noqa: F401

            from rootless.image.decompress import preload

            preload()

    def key(self) -> str:
        parts = [context.digest(self._tree, self._found)] if self._found else []
        return digest("own", *parts, *(f"{f.name} {f.digest}" for f in self._fetched),
                      *(key for _, key in self._repositories), str(self._unpack()))

    def _unpack(self) -> tuple[bool, bool]:
        """(local archives, those from an address)"""
        if not isinstance(self.wish, ins.Add):
            return False, False
        wanted = self.wish.unpack
        return wanted is not False, wanted is True

    def write(self, dest: str, roots: list[int]) -> None:
        owner = self.owner(keep=False)
        local, remote = self._unpack()
        plain = []
        for one in self._found:
            fd = self._tree.open(one.source) if local and not one.directory and _is_file(
                self._tree, one) else -1
            if fd >= 0 and _is_archive(fd):
                _unpack(self.run, fd, dest, owner)
            else:
                plain.append(one)
            if fd >= 0:
                os.close(fd)
        if self._many and not dest.endswith("/"):
            dest += "/"
        if plain:
            copying.copy(self._tree, plain, dest, owner)
        elif dest.endswith("/"):
            copying.make_directories(dest, owner)       # even for a wildcard without a match
        into = dest.endswith("/") or os.path.isdir(dest)
        epoch = self.run.build.options.epoch
        for file in self.wish.files:
            target = f"{dest.rstrip('/')}/{file.name}" if into else dest
            copying.make_directories(os.path.dirname(target), owner)
            copying.text_file(target, file.content.encode("utf-8", "surrogateescape"), owner, 0o644,
                              int(time.time()) if epoch is None else epoch)
        for tree, _ in self._repositories:
            copying.copy(tree, self.select(tree, (".",)), dest, owner)
        for fetched in self._fetched:
            if remote and _is_archive(fetched.fd):
                _unpack(self.run, fetched.fd, dest, owner)
                continue
            target = f"{dest.rstrip('/')}/{fetched.name}" if into else dest
            copying.make_directories(os.path.dirname(target), owner)
            copying.fetched_file(target, fetched.fd, owner)


def _repository(address: Address, wish: ins.Add, place: str) -> tuple[Tree, str]:
    """(its files, what they are worth as a key). Raises DockerfileError."""
    from rootless.build import git

    try:
        found = git.fetch(address, place, keep_git_dir=wish.keep_git_dir)
    except BuildError as e:
        raise wish.where.error(e.message, token=address.remote, hint=e.hint) from None
    if wish.checksum and not found.commit.startswith(wish.checksum):
        raise wish.where.error(f"{address.remote} is at {found.commit}, not at {wish.checksum}",
                               token=wish.checksum)
    return (context.open_directory(found.path, name="the repository"),
            f"{found.commit} {address.subdir} {wish.keep_git_dir}")


def _is_file(tree: Tree, found: Found) -> bool:
    first = next(iter(tree.entries(found)), None)
    return first is not None and stat.S_ISREG(first.st.st_mode)


def _is_archive(fd: int) -> bool:
    """A tar, compressed or not, by its first header. The descriptor is at the start again."""
    try:
        return _has_header(fd)
    finally:
        os.lseek(fd, 0, os.SEEK_SET)


def _has_header(fd: int) -> bool:
    head = os.pread(fd, _ARCHIVE_HEAD, 0)
    if not form_of(head) and head[257:262] != b"ustar":
        return False
    try:
        return next(Reader(bounded(fd, os.fstat(fd).st_size, "the archive")), None) is not None
    except ImageError:
        return False


def _unpack(run: StageRun, fd: int, dest: str, owner: copying.Owner) -> None:
    """Below `dest`, with the owners that the archive has, or those of --chown."""
    copying.make_directories(dest, owner)
    root = os.open(dest, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    writer = Copier(run.build.userns, root, owner.chosen)
    try:
        writer.write(Reader(bounded(fd, os.fstat(fd).st_size, "the archive")))
        writer.finish_root()
    except ImageError as e:
        raise BuildError(f"cannot unpack the archive: {e.message}") from None
    finally:
        os.close(root)

