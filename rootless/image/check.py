"""Is the store what it says? And how it becomes so again (`system check`).

Looked at: every blob against its digest; every name, down to its configuration; every layer that
an image or a container needs, that it is there and unpacked under this user's map of ids; every
manifest list in the making; what lies about and belongs to nobody. Without `quick` each layer is
also compared with the tar it came from, entry by entry: type, mode, owner, size, target, attributes
and content.

A layer is not compared with itself: it is unpacked once more, beside the old one, in the way every
layer is made, and both trees are walked together. So there is one place that knows how an entry
becomes a file.

Repair takes nothing away that could be read. A layer is made again from its blob; a blob that is
damaged goes, as the registry has it and nothing here can use it, and with it the names that need
it; a layer directory stays as long as a container stands on it.
"""

from __future__ import annotations

import os
from functools import partial

from rootless import jsontext
from rootless.errors import Conflict, ImageError, StorageError, os_reason
from rootless.files import Lock, read_bytes
from rootless.image import gc, store, usage
from rootless.image.difference import compare
from rootless.image.reference import familiar
from rootless.image.unpack import layer_present, unpack_blob
from rootless.paths import Paths
from rootless.record import record
from rootless.storage import trash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rootless.image.difference import Change
    from rootless.image.store import Image
    from rootless.userns.keeper import Userns

_READ = 1 << 20
_SHOWN = 5


@record(frozen=True)
class Fault:
    """`what` and `why` for a person; `mend`: how repair does it, None where it cannot."""

    what: str
    why: str
    mend: Callable[[], str] | None


class Checker:
    """One look at the whole store. `busy`: diffIDs that running containers stand on, with the
    name of one: these directories may not be replaced."""

    def __init__(self, paths: Paths, userns: Userns, *, quick: bool, busy: dict[str, str],
                 progress: Callable[[str], None]) -> None:
        self._paths = paths
        self._userns = userns
        self._quick = quick
        self._busy = busy
        self._progress = progress
        self._bad_blobs: set[str] = set()
        # diffID: digest of the blob it can be made of, "" where none is known.
        self._needed: dict[str, str] = {}

    def faults(self) -> list[Fault]:
        """Raises StorageError when there is no looking."""
        with store.hold(self._paths):
            found = self._blobs()
            try:
                found += self._names()
            except StorageError as e:
                # Without the list nobody knows what is needed.
                return [*found, Fault("the list of images", e.message, None)]
            found += self._lists()
            found += self._containers()
            for diff_id, digest in self._needed.items():
                found += self._layer(diff_id, digest)
        return [*found, *self._leftovers()]

    # ---- blobs ---------------------------------------------------------------------------------

    def _blobs(self) -> list[Fault]:
        found = []
        for digest in sorted(usage.blob_sizes(self._paths)):
            why = self._blob(digest)
            if why:
                self._bad_blobs.add(digest)
                found.append(Fault(f"blob {digest}", why, partial(self._drop_blob, digest)))
        return found

    def _blob(self, digest: str) -> str:
        import hashlib

        self._progress(f"blob {digest[7:19]}")
        hashed = hashlib.sha256()
        try:
            with open(store.blob_path(self._paths, digest), "rb", buffering=0) as f:
                while data := f.read(_READ):
                    hashed.update(data)
        except FileNotFoundError:
            return ""           # removed while we looked
        except OSError as e:
            return f"cannot be read: {os_reason(e)}"
        real = "sha256:" + hashed.hexdigest()
        return "" if real == digest else f"is damaged: its digest is {real}"

    def _drop_blob(self, digest: str) -> str:
        os.unlink(store.blob_path(self._paths, digest))
        return "removed; pull the image again"

    # ---- names ---------------------------------------------------------------------------------

    def _names(self) -> list[Fault]:
        found = []
        for image in store.every(self._paths):
            why = image.damaged or self._lacks(image)
            if why:
                found.append(Fault(f"image {image.shown}", why, partial(self._drop_name, image)))
            for diff_id, digest in zip(image.layers, image.blobs):
                self._needed.setdefault(diff_id, digest)
        return found

    def _lacks(self, image: Image) -> str:
        for digest in (image.digest, image.id, *image.blobs):
            if digest in self._bad_blobs:
                return f"needs a blob that is damaged: {digest}"
            if not os.path.exists(store.blob_path(self._paths, digest)):
                return f"has lost its blob {digest}"
        return ""

    def _drop_name(self, image: Image) -> str:
        store.drop(self._paths, [image])
        name = familiar(image.name)
        return f"name removed; rootless pull {name}" if name else "removed"

    def _lists(self) -> list[Fault]:
        from rootless.image import manifest_list

        return [Fault(f"manifest list {os.path.basename(path)}", why,
                      partial(self._drop_list, path))
                for path in manifest_list.files(self._paths)
                if (why := manifest_list.damage(path))]

    def _drop_list(self, path: str) -> str:
        from rootless.image import manifest_list

        with manifest_list.lock(self._paths):
            os.unlink(path)
        return "removed; rootless manifest create makes it again"

    # ---- layers --------------------------------------------------------------------------------

    def _containers(self) -> list[Fault]:
        """Layers that only containers need are needed too."""
        found = []
        for cid in sorted(os.listdir(self._paths.containers)):
            try:
                data = jsontext.loads(read_bytes(f"{self._paths.containers}/{cid}/container.json"))
                name, layers = str(data["name"]), [str(d) for d in data["layers"]]
            except (FileNotFoundError, NotADirectoryError):
                continue        # being made, or left by a killed maker: its own sweep clears it
            except (OSError, ValueError, KeyError, TypeError):
                found.append(Fault(f"container {cid[:12]}", "has a damaged record", None))
                continue
            for diff_id in layers:
                digest = self._needed.setdefault(diff_id, self._noted(diff_id))
                if not os.path.lexists(self._paths.layer(diff_id)) and not self._usable(digest):
                    found.append(Fault(f"container {name or cid[:12]}",
                                       f"stands on layer {diff_id}, which is gone", None))
        return found

    def _noted(self, diff_id: str) -> str:
        try:
            return read_bytes(store.note_path(self._paths, diff_id), 256).decode()
        except (OSError, ValueError):
            return ""

    def _usable(self, digest: str) -> bool:
        try:
            return bool(digest) and digest not in self._bad_blobs and os.path.exists(
                store.blob_path(self._paths, digest))
        except ImageError:
            return False

    def _layer(self, diff_id: str, digest: str) -> list[Fault]:
        what = f"layer {diff_id}"
        mend = partial(self._unpack_again, diff_id, digest) if self._usable(digest) else None
        if not os.path.lexists(self._paths.layer(diff_id)):
            # Without a blob an image that needs it was told of already.
            return [Fault(what, "is not unpacked", mend)] if mend else []
        if not layer_present(self._paths, self._userns, diff_id):
            return [Fault(what, "was unpacked under another map of ids, or not to its end", mend)]
        if self._quick or mend is None:
            return []
        self._progress(f"layer {diff_id[7:19]}")
        why = self._compared(diff_id, digest)
        return [Fault(what, why, mend)] if why else []

    def _compared(self, diff_id: str, digest: str) -> str:
        """How the directory differs from one made afresh; "" where it does not."""
        try:
            with Lock(f"{self._paths.tmp}/unpack-check-{diff_id[7:]}.lock") as lock:
                try:
                    changes = self._changes(lock.path[:-5], diff_id, digest)
                finally:
                    trash.discard(self._paths, lock.path[:-5])
                    os.unlink(lock.path)
        except ImageError as e:
            return f"cannot be compared with its blob: {e.message}"
        if not changes:
            return ""
        words = {"A": "added", "C": "changed", "D": "missing"}
        shown = [f"{os.fsdecode(c.path)} {words[c.kind]}" for c in changes[:_SHOWN]]
        more = f" and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
        return f"differs from its blob: {', '.join(shown)}{more}"

    def _changes(self, place: str, diff_id: str, digest: str) -> list[Change]:
        """Between the directory and one made afresh in a store of its own in tmp/, which has the
        form of an unpacking's leftovers: when we are killed the next command clears it."""
        os.makedirs(place, 0o711)
        scratch = Paths({**os.environ, "ROOTLESS_ROOT": place}, self._paths.uid)
        scratch.ensure()
        unpack_blob(scratch, self._userns, store.blob_path(self._paths, digest), diff_id)
        return compare(self._paths, self._userns, [scratch.layer(diff_id)],
                       [self._paths.layer(diff_id)], raw=True)

    def _unpack_again(self, diff_id: str, digest: str) -> str:
        if diff_id in self._busy:
            raise Conflict(f"cannot replace layer {diff_id}: container {self._busy[diff_id]} runs "
                           "from it", hint=f"rootless stop {self._busy[diff_id]}")
        with store.hold(self._paths):
            trash.discard(self._paths, self._paths.layer(diff_id))
            unpack_blob(self._paths, self._userns, store.blob_path(self._paths, digest), diff_id)
        return "unpacked again"

    # ---- leftovers -----------------------------------------------------------------------------

    def _leftovers(self) -> list[Fault]:
        alone = gc.exclusive(self._paths, 0)
        if alone is None:
            return []           # something is being made: what nothing names yet is no leftover
        with alone:
            blobs, layers = gc.unneeded(self._paths)
        found = [Fault(f"blob {d}", "belongs to nothing", self._sweep) for d in sorted(blobs)
                 if d not in self._bad_blobs]
        found += [Fault(f"layer {d}", "belongs to nothing", self._sweep) for d in sorted(layers)]
        if os.listdir(self._paths.trash):
            found.append(Fault("the trash", "is not empty: a removal was killed", self._sweep))
        return found

    def _sweep(self) -> str:
        if gc.sweep(self._paths) is None:
            raise StorageError("something is being pulled or made just now",
                               hint="rootless system check --repair again later")
        return "removed"
