"""An image as docker's `image inspect` shows it (Engine API, ImageInspect)."""

from __future__ import annotations

from rootless.image import store
from rootless.image.reference import familiar
from rootless.image.store import Image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.paths import Paths


def describe(paths: Paths, image: Image) -> dict[str, Any]:
    names = [i for i in ([image] if image.file else store.every(paths))
             if i.id == image.id and i.name]
    config, inner = image.config, image.config["config"]
    history = [h for h in config.get("history") or [] if isinstance(h, dict)]
    manifest = next((e for e in store.read_index(paths) if e["digest"] == image.digest), {})
    layers = [paths.layer(d) for d in image.layers]
    return {
        "Id": image.id,
        "RepoTags": tags(names),
        "RepoDigests": digests(names),
        "Parent": "",
        "Comment": str(history[-1].get("comment") or "") if history else "",
        "Created": config.get("created") or "",
        "DockerVersion": str(config.get("docker_version") or ""),
        "Author": config.get("author") or "",
        "Config": {
            "User": inner.get("User") or "",
            "ExposedPorts": inner.get("ExposedPorts"),
            "Env": inner.get("Env") or [],
            "Cmd": inner.get("Cmd"),
            "Healthcheck": inner.get("Healthcheck"),
            "ArgsEscaped": bool(inner.get("ArgsEscaped")),
            "Volumes": inner.get("Volumes"),
            "WorkingDir": inner.get("WorkingDir") or "",
            "Entrypoint": inner.get("Entrypoint"),
            "OnBuild": inner.get("OnBuild"),
            "Labels": inner.get("Labels"),
            "StopSignal": inner.get("StopSignal") or "",
            "Shell": inner.get("Shell"),
        },
        "Architecture": config["architecture"],
        "Variant": config.get("variant") or "",
        "Os": config["os"],
        "OsVersion": str(config.get("os.version") or ""),
        "Size": image.size,
        "GraphDriver": {"Name": "overlay", "Data": {
            **({"UpperDir": layers[-1]} if layers else {}),
            **({"LowerDir": ":".join(reversed(layers[:-1]))} if len(layers) > 1 else {}),
        }},
        "RootFS": {"Type": "layers", "Layers": list(image.layers)},
        "Descriptor": {k: manifest[k] for k in ("mediaType", "digest", "size") if k in manifest},
        "Metadata": {"LastTagTime": "0001-01-01T00:00:00Z"},
    }


def tags(names: list[Image]) -> list[str]:
    return sorted(familiar(i.name) for i in names if i.tag)


def digests(names: list[Image]) -> list[str]:
    return sorted({f"{familiar(i.repository)}@{i.source}" for i in names if i.source})
