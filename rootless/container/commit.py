"""`commit`: an image from what a container has changed, on the layers of its own image.

One walk over the upper directory becomes the tar of a layer, which is hashed, compressed and kept
as a blob as it passes; the layers below are only looked into where something was touched. The
blob is unpacked like any other, as the container goes on in the directory it came from. It is
paused meanwhile where its cgroup can be frozen, so that the files fit each other.
"""

from __future__ import annotations

from rootless import jsontext
from rootless.clock import now
from rootless.container import changes
from rootless.errors import NotFound, StorageError, UsageError
from rootless.image import changes as instructions
from rootless.image import gc, seal, store
from rootless.image.archive import Blob, put_manifest
from rootless.image.compress import form_of_blob
from rootless.image.pax import Writer
from rootless.image.reference import parse
from rootless.image.tree import pack
from rootless.record import record
from rootless.storage import merged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.container.store import Container
    from rootless.image.seal import Write
    from rootless.image.store import Image
    from rootless.paths import Paths
    from rootless.userns.keeper import Userns


@record(frozen=True)
class Wish:
    """Of the new image: its name or "", its author, a message for its history, and lines of a
    Dockerfile that change its configuration."""

    name: str = ""
    author: str = ""
    message: str = ""
    lines: tuple[str, ...] = ()


def commit(container: Container, userns: Userns, wish: Wish) -> Image:
    """Raises UsageError, NotFound when its image is gone, StorageError."""
    if wish.name and parse(wish.name).digest:
        raise UsageError(f"cannot commit as {wish.name}: a digest is not for us to give")
    layers = changes.own_layers(container, "commit")
    paths = container.paths
    settings = config_of(container)
    for line in wish.lines:
        instructions.apply(settings, line)
    made = False
    try:
        with store.hold(paths):
            base = _base(paths, container)
            layer = _layer(container, userns, layers)
            config = _whole(container, base, settings, wish, layer)
            below = [Blob(b["digest"], b["size"], form_of_blob(store.blob_path(paths, b["digest"])))
                     for b in base.manifest["layers"]]
            blobs = [*below, layer[1]] if layer is not None else below
            entry = put_manifest(paths, jsontext.dumps(config).encode(), blobs)
            store.ensure_layers(paths, userns, store.load(paths, entry))
            image = store.publish(paths, wish.name, entry)
            made = True
            return image
    finally:
        if not made:
            gc.sweep(paths, patience=0)     # blobs that nothing names


def _base(paths: Paths, container: Container) -> Image:
    name = container.data["image"]
    image = store.find(paths, container.data["image_id"])
    if image is None:
        raise NotFound(f"cannot commit {container.name}: its image is gone: {name}",
                       hint=f"rootless pull {name}")
    if list(image.layers) != container.data["layers"]:
        raise StorageError(f"cannot commit {container.name}: its image is another one now")
    return image


def _layer(container: Container, userns: Userns, layers: list[str]) -> tuple[str, Blob] | None:
    """(diffID, blob) of what was changed; None for nothing."""
    stubs = changes.mount_points(container)

    def send(write: Write) -> None:
        upper, (lower,) = changes.opened(container), merged.mount(container.paths, [layers])
        found = changes.changes(upper, lower, stubs)
        if not found:
            return
        # A whiteout lies at the path itself; what an opaque directory hides is told by its mark.
        tar = Writer(write)
        pack(upper, tar, layer=True, only=frozenset(c.path[1:] for c in found))
        tar.finish()

    sealed = seal.keep(container.paths, userns, send)
    return None if sealed is None else (sealed.diff_id, Blob(sealed.blob, sealed.size, "gzip"))


def config_of(container: Container) -> dict[str, Any]:
    """The container's configuration as docker would commit it: the image's, and over it what was
    asked for when the container was made. What the engine itself puts into the environment stays
    out."""
    config, data = container.config(), container.data
    proc, annotations = config["process"], config["annotations"]
    base = _base(container.paths, container).config["config"]
    given = {e.partition("=")[0] for e in base.get("Env") or []}
    own = {f"HOSTNAME={config['hostname']}", *(["TERM=xterm"] if data["tty"] else [])}
    env = [e for e in proc["env"] if e not in own or e.partition("=")[0] in given]
    entrypoint = data["entrypoint"]
    settings = {
        **base,
        "Env": env,
        "Cmd": data["command"][len(entrypoint):] or None,
        "Entrypoint": entrypoint or None,
        "WorkingDir": proc["cwd"] if proc["cwd"] != "/" or base.get("WorkingDir") else "",
        "User": annotations["org.rootless.user"],
        "Labels": data["labels"] or None,
        "StopSignal": data["stop_signal"],
        "Volumes": {**(base.get("Volumes") or {}),
                    **{m["destination"]: {} for m in data["mounts"] if m.get("anonymous")}},
    }
    return {k: v for k, v in settings.items() if v not in (None, "", [], {})}


def _whole(container: Container, base: Image, settings: dict[str, Any], wish: Wish,
           layer: tuple[str, Blob] | None) -> dict[str, Any]:
    """The configuration of the image."""
    created = now()
    step: dict[str, Any] = {
        "created": created,
        "created_by": " ".join(map(str, container.data["command"])),
        **({"author": wish.author} if wish.author else {}),
        **({"comment": wish.message} if wish.message else {}),
        **({} if layer is not None else {"empty_layer": True}),
    }
    history = [h for h in base.config.get("history") or [] if isinstance(h, dict)]
    kept = {k: base.config[k] for k in ("architecture", "os", "variant", "os.version")
            if base.config.get(k)}
    added = [layer[0]] if layer is not None else []
    return {
        "created": created,
        **kept,
        **({"author": wish.author} if wish.author else {}),
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [*base.layers, *added]},
        "history": [*history, step],
    }
