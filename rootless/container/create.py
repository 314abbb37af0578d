"""Make a container: its directory, the files it is given, its name, its record."""

from __future__ import annotations

import os
import sys

from rootless.clock import now
from rootless.container import connect, resolving, sharing, spec, store
from rootless.container.store import Container
from rootless.errors import NotFound, StorageError, UsageError, os_reason
from rootless.files import space_hint, write_atomic
from rootless.network.endpoints import joins
from rootless.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.container.wanted import Wanted
    from rootless.image.store import Image
    from rootless.paths import Paths
    from rootless.userns.keeper import Userns

HOST_IMAGE = "host"


def create(paths: Paths, userns: Userns, wanted: Wanted, image: Image | None) -> tuple[
        Container, int]:
    """The new container, and its lock. `image` None: the machine's own root filesystem.

    Raises Conflict when the name is taken, UsageError, StorageError.
    """
    if image is None:
        return _create(paths, userns, wanted, None)
    from rootless.image import store as images

    # Until the record says that the container stands on them, only this keeps `rmi` from the
    # layers.
    with images.hold(paths):
        images.ensure_layers(paths, userns, image)
        return _create(paths, userns, wanted, image)


def _create(paths: Paths, userns: Userns, wanted: Wanted, image: Image | None) -> tuple[
        Container, int]:
    if wanted.name and not store.valid_name(wanted.name):
        raise UsageError(f"invalid container name: {wanted.name}",
                         hint="letters, digits and _ . - after the first")
    if image is None:
        from rootless.storage import hostroot

        image_config = hostroot.image_config(os.environ, os.getcwd())
    else:
        image_config = image.config.get("config") or {}
    try:
        cid, lock = store.new_id(paths)
    except OSError as e:
        raise StorageError(f"cannot make a container in {paths.containers}: {os_reason(e)}",
                           hint=space_hint(e, paths.data)) from None
    directory = paths.container(cid)
    name = wanted.name
    claimed = ""
    made = None
    attached = None
    secret = None
    try:
        if _wants_volumes(wanted, image_config):
            from rootless.container import volumes

            attached = volumes.attach(paths, userns, wanted, image_config, now())
            wanted = replace(wanted, mounts=tuple(attached.mounts))
        if wanted.secrets:
            from rootless.container import secrets

            secret = secrets.attach(paths, userns, wanted.secrets, directory)
            wanted = replace(wanted, mounts=(*wanted.mounts, *secret.mounts))
        config = spec.build(wanted, image_config, directory, cid, host_facts(paths, wanted))
        lay_out(directory, userns, wanted, config)
        if image is not None:
            from rootless.storage import rootdir

            rootdir.dress(paths, userns, [paths.layer(d) for d in reversed(image.layers)],
                          directory + "/upper")
        if not name:
            from rootless.container.names import generate

            name = generate(paths)
        store.claim_name(paths, name, cid)
        claimed = name
        if joins(wanted.network):
            connect.first_wish(directory, name, wanted, config, image_config)
        data = _record(cid, name, wanted, image, image_config, config)
        if image is not None:
            from rootless.image.unpack import covered

            data["covered"] = covered(paths, userns, image.layers)
        if secret is not None:
            data.update(secrets=secret.shown, secret_variables=secret.variables)
        if attached is not None and image is not None:
            volumes.fill(Container(paths, cid, data), userns, attached)
        made = store.publish(paths, cid, data, config)
        made.event("create")
        return made, lock
    except OSError as e:
        raise StorageError(f"cannot make the container: {os_reason(e)}",
                           hint=space_hint(e, paths.data)) from None
    finally:
        if attached is not None:
            attached.release(paths, published=made is not None)
        if made is None:
            _undo(paths, directory, claimed, cid)
            os.close(lock)


def _wants_volumes(wanted: Wanted, image_config: dict[str, Any]) -> bool:
    return bool(image_config.get("Volumes") or wanted.volumes_from
                or any(m.kind == "volume" for m in wanted.mounts))


def _undo(paths: Paths, directory: str, claimed: str, cid: str) -> None:
    from rootless.storage import trash

    store.release_name(paths, claimed, cid)
    trash.discard(paths, directory)


def host_facts(paths: Paths, wanted: Wanted) -> dict[str, Any]:
    return {
        "shared": _shared(paths, wanted),
        "joined": sharing.facts(paths, wanted),
        "ipc": [at for at in ("/dev/mqueue", "/dev/shm") if os.path.isdir(at)],
        "nodename": os.uname().nodename,
        "cgroup2": os.path.exists("/sys/fs/cgroup/cgroup.controllers"),
        "devices": spec.device_nodes() if wanted.privileged else [],
    }


def _shared(paths: Paths, wanted: Wanted) -> tuple[str, str, str] | None:
    """Of `--network container:ID`: see spec.build."""
    if not wanted.network.startswith("container:"):
        return None
    other = store.find(paths, wanted.network.partition(":")[2])
    config = other.config()
    own = any(n["type"] == "user" for n in config["linux"]["namespaces"])
    if wanted.hostname:
        raise UsageError("cannot have a host name of its own with --network container")
    return other.dir, config["hostname"], "user" if own else "network"


def lay_out(directory: str, userns: Userns, wanted: Wanted, config: dict[str, Any]) -> None:
    """Directories of the overlay and the files under /etc that are the container's own."""
    for name in ("upper", "work", "rootfs"):
        os.mkdir(f"{directory}/{name}", 0o755)
    hostname = config["hostname"]
    files = {
        "hostname": hostname + "\n",
        "hosts": resolving.hosts(wanted, hostname),
        "resolv.conf": resolving.resolv_conf(wanted),
    }
    for name, text in files.items():
        write_atomic(f"{directory}/{name}", text.encode(), mode=0o644)
        os.chmod(f"{directory}/{name}", 0o644)
    if wanted.seccomp and wanted.seccomp != "unconfined":
        write_atomic(f"{directory}/seccomp.json", wanted.seccomp.encode())
    root = userns.uids[0].outside
    if os.geteuid() == 0 and root != 0:
        for name in ("upper", "work", *files):
            os.chown(f"{directory}/{name}", root, userns.gids[0].outside)


def _record(cid: str, name: str, wanted: Wanted, image: Image | None,
            image_config: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """`container.json`: what stays the same from creation to removal."""
    labels = {**(image_config.get("Labels") or {}), **dict(wanted.labels)}
    entrypoint = (list(wanted.entrypoint) if wanted.entrypoint is not None
                  else image_config.get("Entrypoint") or [])
    return {
        "id": cid,
        "name": name,
        "created": now(),
        "image": wanted.image,
        "image_id": image.id if image is not None else "",
        "layers": list(image.layers) if image is not None else [],
        "host_root": image is None,
        "flat": image.file if image is not None else "",
        "command": config["process"]["args"],
        "entrypoint": [e for e in entrypoint if e],
        "tty": wanted.tty,
        "stdin": wanted.interactive,
        "rm": wanted.rm,
        "network": wanted.network,
        "pid": wanted.pid,
        "ipc": wanted.ipc,
        "labels": labels,
        "mounts": [{"type": m.kind, "source": m.source, "destination": m.destination,
                    "options": list(m.options), "volume": m.volume, "anonymous": m.anonymous}
                   for m in wanted.mounts if not m.secret],
        "privileged": wanted.privileged,
        "cap_add": list(wanted.cap_add),
        "cap_drop": list(wanted.cap_drop),
        "userns": wanted.userns,
        "stop_signal": wanted.stop_signal or str(image_config.get("StopSignal") or ""),
        "stop_timeout": wanted.stop_timeout,
        "detach_keys": wanted.detach_keys,
        "log_driver": wanted.log_driver,
        "log_limits": list(wanted.log_limits),
        "restart": list(wanted.watch.restart),
        "timeout": wanted.watch.timeout,
        "health": _health(image_config, wanted),
        "ports": sorted(image_config.get("ExposedPorts") or {}),
    }


def _health(image_config: dict[str, Any], wanted: Wanted) -> dict[str, Any] | None:
    if not wanted.watch.health and not image_config.get("Healthcheck"):
        return None
    from rootless.container import health

    return health.settings(image_config, dict(wanted.watch.health))


def _host_is(platform: str) -> None:
    from rootless.image.manifest import acceptable, parse_platform

    here = parse_platform("")
    if here not in acceptable(parse_platform(platform)):
        raise NotFound(f"{HOST_IMAGE} is not made for {platform}: it is this machine, {here}")


def image_for(paths: Paths, name: str, *, pull: str, platform: str, quiet: bool,
              tls_verify: bool | None) -> Image | None:
    """The image a container is made from; None for the embedded `host`.

    `pull`: always, missing or never. Raises NotFound.
    """
    if name == HOST_IMAGE:
        if platform:
            _host_is(platform)
        return None
    from rootless.image import store as images

    if name.startswith(("/", "./", "../", "sqfs:")):
        from rootless.image import flat

        image = flat.load(flat.path_of(name))
        if platform and not images.matches(image, platform):
            raise NotFound(f"{name} is not made for {platform}")
        return image
    found = None if pull == "always" else images.find(paths, name)
    if found is None and pull != "always":
        from rootless.image import shared

        found = shared.find(paths, name)
    if found is not None and (not platform or images.matches(found, platform)):
        return found
    if pull == "never":
        raise NotFound(f"no such image: {name}", hint=f"rootless pull {name}")
    from rootless.image.pull import pull as pull_image

    if found is None and pull == "missing" and not quiet:
        sys.stderr.write(f"Unable to find image '{name}' locally\n")
        sys.stderr.flush()
    return pull_image(paths, name, platform=platform, quiet=quiet, tls_verify=tls_verify)
