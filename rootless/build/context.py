"""Trees that COPY and ADD take from: a context, a stage, an image.

A tree is a directory's descriptor and rules of what is not in it. Nothing is ever reached by a
path that could lead out: names are walked here, link by link, with the tree's root as the end of
every `..` and the beginning of every absolute link; what is opened is opened by openat2(2) without
links. So a tree of anybody's making is safe to read, and the same code runs in a process that has
given up every other root.

    select      sources of an instruction, wildcards and links resolved, to what was found
    entries     what was found, file by file, in an order that is always the same
    digest      what is worth a cache key: names, kinds, permissions, links, contents; no times,
                and no owners, which are the instruction's to give

A file is read twice, for the key and for the layer. One that changed in between is an error: the
cache would else give its new content for the old one, for ever.
"""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import stat

from rootless import linux
from rootless.build import gomatch
from rootless.build.ignore import Ignore
from rootless.build.near import nearest
from rootless.errors import BuildError, os_reason
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rootless.build.source import Where

    Stamp = tuple[int, int, int, int, int]      # device, inode, size, times of change

_READ = 1 << 20
_MOST_LINKS = 40
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_BENEATH = linux.RESOLVE_BENEATH | linux.RESOLVE_NO_SYMLINKS
_KINDS = {stat.S_IFREG: b"file", stat.S_IFDIR: b"directory", stat.S_IFLNK: b"link",
          stat.S_IFIFO: b"fifo", stat.S_IFCHR: b"char", stat.S_IFBLK: b"block"}


@record(frozen=True)
class Found:
    """One thing to be copied.

    `source`: its path, links resolved, "" for the root. `name`: what it is called where it is put
    into a directory. `directory`: its contents are copied, not itself. `only`: with --parents, the
    paths below `source` that are meant, each with the directories above it.
    """

    source: str
    name: str
    directory: bool
    excludes: Ignore
    only: tuple[str, ...] | None = None


@record(frozen=True)
class Entry:
    """`path` in the tree; `name` below the destination, "" for what was found itself. `link`: the
    target of a symbolic link."""

    path: str
    name: str
    st: os.stat_result
    link: str


class Tree:
    """`name` is for messages."""

    def __init__(self, root: int, ignore: Ignore | None = None,
                 name: str = "the build context") -> None:
        self.root = root
        self.ignore = ignore or Ignore()
        self.name = name
        self._digested: dict[str, Stamp] = {}

    # ---- selecting -----------------------------------------------------------------------------

    def select(self, sources: Sequence[str], *, where: Where, parents: bool = False,
               excludes: Sequence[str] = ()) -> list[Found]:
        """Raises DockerfileError for a source that is not there, is left out, or lies outside."""
        try:
            left_out = Ignore.of(excludes)
        except ValueError as e:
            raise where.error(str(e), token="--exclude") from None
        found: list[Found] = []
        for source in sources:
            one = self._with_parents if parents else self._plain
            found += one(source, where, left_out)
        return found

    def _plain(self, source: str, where: Where, left_out: Ignore) -> list[Found]:
        found = []
        for path in self._matching(_inside(source, where), source, where):
            real = self._resolve(path)
            st = None if real is None else self._lstat(real)
            if real is None or st is None or not self._is_in(real, st):
                raise self._missing(path, source, where)
            directory = stat.S_ISDIR(st.st_mode)
            name = posixpath.basename(path)
            if directory or not left_out.excludes(name):
                found.append(Found(real, name, directory, left_out))
        return found

    def _with_parents(self, source: str, where: Where, left_out: Ignore) -> list[Found]:
        """The path is kept, or its part behind the first /./ in it."""
        before, pivot, after = source.removeprefix("./").partition("/./")
        base = _inside(before, where) if pivot else ""
        pattern = _inside(after if pivot else before, where)
        found = []
        for start in self._matching(base, source, where) if base else [""]:
            real = self._resolve(start)
            if real is None:
                raise self._missing(start, source, where)
            paths = self._matching(pattern, source, where, below=real, deep=True)
            there = [path for path in paths if self._exists(path)]
            if paths != there and not gomatch.has_meta(source):
                raise self._missing(paths[0], source, where)
            if there:
                only = tuple(path[len(real):].lstrip("/") for path in there)
                found.append(Found(real, "", True, left_out, None if "" in only else only))
        return found

    def _matching(self, path: str, source: str, where: Where, *, below: str = "",
                  deep: bool = False) -> list[str]:
        """The paths that a pattern means, sorted; the path itself when it is none.

        `below`: a directory that it is relative to. `deep`: a part that is ** stands for any
        number of directories.
        """
        if not gomatch.has_meta(path):
            return ["/".join(part for part in (below, path) if part)]
        try:
            for part in path.split("/"):
                gomatch.compiled(part)
        except gomatch.PatternError as e:
            raise where.error(str(e), token=source) from None
        here = [below]
        for part in path.split("/"):
            after: list[str] = []
            for directory in here:
                prefix = f"{directory}/" if directory else ""
                if deep and part == "**":
                    after += [directory, *self._directories(directory)]
                elif not gomatch.has_meta(part):
                    after.append(prefix + part)
                else:
                    after += [prefix + name for name in self._names(directory)
                              if gomatch.match(part, name)]
            here = after
        return [p for p in sorted(dict.fromkeys(here)) if p and self._exists(p)]

    def _exists(self, path: str) -> bool:
        st = self._lstat(path)
        return st is not None and self._is_in(path, st)

    def _is_in(self, path: str, st: os.stat_result) -> bool:
        return not path or not self.ignore.excludes(path) or (
            stat.S_ISDIR(st.st_mode) and self.ignore.may_hold(path))

    def _names(self, directory: str) -> list[str]:
        real = self._resolve(directory)
        if real is None:
            return []
        try:
            fd = self._open(real, _DIRECTORY)
        except OSError:
            return []
        try:
            return sorted(os.listdir(fd))
        finally:
            os.close(fd)

    def _directories(self, top: str) -> list[str]:
        """All below a directory."""
        if self._resolve(top) != top:
            return []
        return [entry.path for entry in self._walk(top, "", Ignore(), None)
                if entry.name and stat.S_ISDIR(entry.st.st_mode)]

    def _lstat(self, path: str) -> os.stat_result | None:
        """Of a path without links in it but at its end."""
        try:
            return os.stat(path or ".", dir_fd=self.root, follow_symlinks=False)
        except OSError:
            return None

    def _resolve(self, path: str) -> str | None:
        """The path behind all links, within the tree; None where there is nothing."""
        todo = [part for part in reversed(path.split("/")) if part]
        real: list[str] = []
        links = 0
        while todo:
            part = todo.pop()
            if part == ".":
                continue
            if part == "..":
                del real[-1:]
                continue
            here = "/".join([*real, part])
            st = self._lstat(here)
            if st is None:
                return None
            if stat.S_ISLNK(st.st_mode):
                links += 1
                if links > _MOST_LINKS:
                    return None
                target = os.readlink(here, dir_fd=self.root)
                if target.startswith("/"):
                    real = []
                todo += [p for p in reversed(target.split("/")) if p]
                continue
            if todo and not stat.S_ISDIR(st.st_mode):
                return None
            real.append(part)
        return "/".join(real)

    def _missing(self, path: str, source: str, where: Where) -> BuildError:
        st = self._lstat(path)
        if st is not None and stat.S_ISLNK(st.st_mode):
            target = os.readlink(path, dir_fd=self.root)
            return where.error(f"cannot copy {source}: it is a link to {target}, which is not in "
                               f"{self.name}", token=source)
        rule = self.ignore.rule_for(path)
        if st is not None and rule is not None:
            return where.error(f"cannot copy {source}: it is left out by {self.ignore.name}",
                               token=source,
                               hint=f"line {rule.line} of it says {rule.pattern}")
        head, _, tail = path.rpartition("/")
        near = nearest(tail, self._names(head))
        above = "/" * source.startswith("/") + (f"{head}/" if head else "")
        hint = f"did you mean {above}{near}?" if near else None
        return where.error(f"cannot copy {source}: there is no such thing in {self.name}",
                           token=source, hint=hint)

    # ---- walking -------------------------------------------------------------------------------

    def entries(self, found: Found) -> Iterator[Entry]:
        """A directory before what is in it, names in order. What the tree leaves out is not there;
        a directory that is left out, but not all in it, comes with what is in. Raises BuildError.
        """
        if not found.directory:
            st = self._lstat(found.source)
            if st is None:
                raise BuildError(f"cannot read {found.source} of {self.name}: it has gone")
            yield Entry(found.source, "", st, self._link(found.source, st))
            return
        yield from self._walk(found.source, "", found.excludes, found.only)

    def _walk(self, top: str, name: str, left_out: Ignore,
              only: tuple[str, ...] | None) -> Iterator[Entry]:
        st = self._lstat(top)
        if st is None:
            raise BuildError(f"cannot read {top or '.'} of {self.name}: it has gone")
        todo = [(Entry(top, name, st, ""), False)]
        held: list[Entry] = []      # directories that are left out, and may yet be needed
        while todo:
            entry, out = todo.pop()
            while held and not entry.name.startswith(held[-1].name + "/"):
                held.pop()
            if out:
                held.append(entry)
            else:
                yield from held
                held.clear()
                yield entry
            if stat.S_ISDIR(entry.st.st_mode):
                todo += reversed(self._below(entry, left_out, only))

    def _below(self, directory: Entry, left_out: Ignore,
               only: tuple[str, ...] | None) -> list[tuple[Entry, bool]]:
        """What is in a directory and counts; and directories that are left out and not to be
        passed by."""
        found = []
        try:
            fd = self._open(directory.path, _DIRECTORY)
        except OSError as e:
            raise self._unreadable(directory.path, e) from None
        try:
            for child in sorted(os.listdir(fd)):
                path = f"{directory.path}/{child}" if directory.path else child
                name = f"{directory.name}/{child}" if directory.name else child
                if only is not None and not _meant(name, only):
                    continue
                out = self.ignore.excludes(path) or left_out.excludes(name)
                if out and not self._may_hold(path, name, left_out):
                    continue
                try:
                    st = os.stat(child, dir_fd=fd, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                except OSError as e:
                    raise self._unreadable(path, e) from None
                # A socket is left out as docker does it: nobody listens in an image.
                if stat.S_ISSOCK(st.st_mode) or (out and not stat.S_ISDIR(st.st_mode)):
                    continue
                found.append((Entry(path, name, st, self._link(path, st)), out))
        finally:
            os.close(fd)
        return found

    def _may_hold(self, path: str, name: str, left_out: Ignore) -> bool:
        return ((not self.ignore.excludes(path) or self.ignore.may_hold(path))
                and (not left_out.excludes(name) or left_out.may_hold(name)))

    def _unreadable(self, path: str, error: OSError) -> BuildError:
        hint = None
        if error.errno in (errno.EACCES, errno.EPERM):
            hint = f"make it readable, or leave it out: a line {path} in .dockerignore"
        return BuildError(f"cannot read {path or '.'} of {self.name}: {os_reason(error)}",
                          hint=hint)

    def _link(self, path: str, st: os.stat_result) -> str:
        return os.readlink(path, dir_fd=self.root) if stat.S_ISLNK(st.st_mode) else ""

    def _open(self, path: str, flags: int) -> int:
        return linux.openat2(self.root, path or ".", flags, resolve=_BENEATH)

    def open(self, path: str) -> int:
        """A descriptor of a regular file of the tree, as it was when `digest` read it. Raises
        BuildError."""
        fd, stamp = self._file(path)
        if self._digested and self._digested.get(path) != stamp:
            os.close(fd)
            raise BuildError(f"cannot copy {path} of {self.name}: it changed during the build",
                             hint="build again when nothing writes there")
        return fd

    def open_for_digest(self, path: str) -> int:
        fd, self._digested[path] = self._file(path)
        return fd

    def _file(self, path: str) -> tuple[int, Stamp]:
        try:
            fd = self._open(path, _FILE)
        except OSError as e:
            raise self._unreadable(path, e) from None
        st = os.fstat(fd)
        if not stat.S_ISREG(st.st_mode):
            os.close(fd)
            raise BuildError(f"cannot read {path} of {self.name}: it is no file any more")
        return fd, (st.st_dev, st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns)


def open_directory(path: str, ignore: Ignore | None = None,
                   name: str = "the build context") -> Tree:
    """Raises BuildError."""
    try:
        return Tree(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), ignore, name)
    except OSError as e:
        raise BuildError(f"cannot read {path} as {name}: {os_reason(e)}") from None


def _inside(source: str, where: Where) -> str:
    """A path relative to the root. Raises DockerfileError for one that leads above it."""
    path = posixpath.normpath(source.lstrip("/") or ".")
    if path == ".." or path.startswith("../"):
        raise where.error(f"cannot copy {source}: it lies outside the build context", token=source,
                          hint="sources are below the context; --build-context NAME=DIRECTORY adds "
                               "another, and COPY --from=NAME takes from it")
    return "" if path == "." else path


def _meant(name: str, only: tuple[str, ...]) -> bool:
    """It is one of them, or above one, or below."""
    return any(name == one or one.startswith(name + "/") or name.startswith(one + "/")
               for one in only)


def digest(tree: Tree, found: Sequence[Found]) -> str:
    """sha256 in hexadecimal. Raises BuildError for what cannot be read."""
    total = hashlib.sha256()
    buffer = bytearray(_READ)
    for one in found:
        total.update(_field(b"found", one.name, one.directory))
        for entry in tree.entries(one):
            st = entry.st
            kind = _KINDS.get(stat.S_IFMT(st.st_mode), b"other")
            if one.source == entry.path == "":
                # The root of a context is whatever directory it happens to lie in.
                total.update(_field(b"root", "", 0))
                continue
            mode = 0 if entry.link else stat.S_IMODE(st.st_mode)
            total.update(_field(kind, entry.name, mode, entry.link, st.st_rdev))
            if stat.S_ISREG(st.st_mode):
                total.update(_content(tree.open_for_digest(entry.path), buffer))
    return total.hexdigest()


def _field(kind: bytes, *values: object) -> bytes:
    """No two lists of values have the same bytes."""
    parts = [str(v).encode("utf-8", "surrogateescape") for v in values]
    return b"%s %s:" % (kind, b" ".join(b"%d" % len(p) for p in parts)) + b"".join(parts)


def _content(fd: int, buffer: bytearray) -> bytes:
    """Digest of a file and of the attributes that a layer keeps; closes it."""
    one = hashlib.sha256()
    try:
        view = memoryview(buffer)
        while count := os.readv(fd, [buffer]):
            one.update(view[:count])
            if count < _READ:
                break
        for name in sorted(os.listxattr(fd)):
            if name == "security.capability" or name.startswith("user."):
                one.update(_field(b"attribute", name) + os.getxattr(fd, name))
    except OSError as e:
        raise BuildError(f"cannot read a file of the build context: {os_reason(e)}") from None
    finally:
        os.close(fd)
    return one.digest()
