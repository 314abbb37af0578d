"""`rmi` by docker's rules: names go one by one, the image with the last."""

from __future__ import annotations

from rootless.errors import Conflict, UsageError
from rootless.image import gc, shared, store
from rootless.image.reference import HEX, familiar, parse
from rootless.image.store import Image
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.paths import Paths


@record(frozen=True)
class User:
    """A container that was made from an image."""

    container: str
    image: str
    running: bool


def remove(paths: Paths, text: str, users: list[User], *, force: bool) -> list[str]:
    """What was done, as docker says it. Raises NotFound, Conflict.

    A name is taken away. The image goes with its last name, or at once when `text` is its id;
    not while a container runs from it, and only with `force` while one exists.
    """
    images = store.every(paths)
    named, identified = _target(paths, images, text)
    if named is not None:
        same = [i for i in images if i.id == named.id]
        others = [i for i in same if i.name != named.name]
        if others:
            store.drop(paths, [named])
            return untagged([named], others)
    else:
        same = [i for i in images if i.id == identified]
        tags = [i.shown for i in same if i.tag]
        if len(tags) > 1 and not force:
            raise Conflict(f"cannot remove image {text}: it has several names: {', '.join(tags)}",
                           hint=f"rootless rmi -f {text} removes them all")
    _check_users(text, [u for u in users if u.image == same[0].id], force=force)
    store.drop(paths, same)
    said = [*untagged(same, []), f"Deleted: {same[0].id}"]
    gone = gc.sweep(paths)
    return said + [f"Deleted: {diff_id}" for diff_id in gone or ()]


def _target(paths: Paths, images: list[Image], text: str) -> tuple[Image | None, str]:
    """(the name that is meant, "") or (None, the id that is meant)."""
    prefix = text[7:] if text.startswith("sha256:") else text
    is_hex = bool(prefix) and len(prefix) <= 64 and HEX.issuperset(prefix)
    if prefix is text and len(text) != 64:
        try:
            wanted = parse(text).named()
        except UsageError:
            if not is_hex:
                raise
        else:
            for image in images:
                if image.name and (image.name == wanted.full or (
                        wanted.digest and image.repository == wanted.repository
                        and wanted.digest in (image.digest, image.source))):
                    return image, ""
    ids = {i.id for i in images if is_hex and i.id[7:].startswith(prefix)}
    if len(ids) > 1:
        raise Conflict(f"several images have an id that starts with {prefix}",
                       hint="type more of the id")
    if not ids:
        whole = store.expand(paths, text)
        if whole != text:
            return _target(paths, images, whole)
        raise shared.missing(paths, text)
    return None, ids.pop()


def _check_users(text: str, users: list[User], *, force: bool) -> None:
    for user in users:
        if user.running:
            raise Conflict(f"cannot remove image {text}: container {user.container} runs from it",
                           hint=f"rootless rm -f {user.container} removes the container")
    if users and not force:
        raise Conflict(f"cannot remove image {text}: container {users[0].container} was made "
                       "from it", hint=f"rootless rm {users[0].container}, or rootless rmi -f "
                                       f"{text} and the container keeps its layers")


def untagged(gone: list[Image], left: list[Image]) -> list[str]:
    """Names, and the digests no name is left for."""
    said = [f"Untagged: {familiar(i.name)}" for i in gone if i.tag]
    kept = {(i.repository, i.source) for i in left}
    for image in gone:
        key = (image.repository, image.source)
        line = f"Untagged: {familiar(image.repository)}@{image.source}"
        if image.name and image.source and key not in kept and line not in said:
            said.append(line)
    return said
