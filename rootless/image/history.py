"""What an image was made of: its history, and the layers it shares with others."""

from __future__ import annotations

from rootless.image import store
from rootless.image.store import Image
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.paths import Paths


@record(frozen=True)
class Step:
    """`layer`: its diffID, "" for a step that changed no file. `created` as the image says it."""

    layer: str
    created: str
    by: str
    comment: str
    size: int


@record(frozen=True)
class Node:
    """A layer of an image. `users`: others that have it too; `top_of` those it is the top of."""

    layer: str
    size: int
    users: tuple[str, ...]
    top_of: tuple[str, ...]


def steps(paths: Paths, image: Image) -> list[Step]:
    """Newest first. Layers that the history does not tell of come as steps without words."""
    sizes = dict(zip(image.layers, store.layer_sizes(paths, image)))
    left = list(image.layers)
    found = []
    for entry in image.config.get("history") or []:
        if not isinstance(entry, dict):
            continue
        layer = left.pop(0) if left and not entry.get("empty_layer") else ""
        found.append(Step(layer, _text(entry, "created"), _text(entry, "created_by"),
                          _text(entry, "comment"), sizes.get(layer, 0)))
    found += [Step(layer, _text(image.config, "created"), "", "", sizes[layer]) for layer in left]
    found.reverse()
    return found


def _text(entry: dict[str, object], key: str) -> str:
    value = entry.get(key)
    return value if isinstance(value, str) else ""


def tree(paths: Paths, image: Image) -> list[Node]:
    """Bottom first."""
    others = [i for i in store.every(paths) if i.id != image.id]
    found = []
    for layer, size in zip(image.layers, store.layer_sizes(paths, image)):
        users = [i.shown for i in others if layer in i.layers]
        tops = [i.shown for i in others if i.layers and i.layers[-1] == layer]
        found.append(Node(layer, size, tuple(sorted(users)), tuple(sorted(tops))))
    return found
