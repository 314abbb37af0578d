"""`--volume`, `--mount`, `--tmpfs` and `--device`, read as docker reads them."""

from __future__ import annotations

import os
import stat

from rootless.container.wanted import Mount
from rootless.errors import UsageError, os_reason

PROPAGATION = frozenset(("private", "rprivate", "slave", "rslave"))
_FLAGS = frozenset(("ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "bind",
                    "rbind", "z", "Z", "cached", "delegated", "consistent"))
_TRUE = frozenset(("", "true", "1"))
_FALSE = frozenset(("false", "0"))


def volume(text: str) -> Mount:
    """`[SRC:]DST[:OPTIONS]`. SRC is a path, which is made where it is missing, as docker does, or
    the name of a volume; without it the volume gets no name."""
    parts = text.split(":")
    if len(parts) == 1 and text.startswith("/"):
        return Mount("volume", "", _absolute(text))
    if len(parts) not in (2, 3) or not parts[0] or not parts[1]:
        raise UsageError(f"invalid volume: {text}",
                         hint="--volume /host/path:/path[:ro], or NAME:/path")
    source, destination = parts[0], parts[1]
    options = parts[2].split(",") if len(parts) == 3 else []
    if {"ro", "rw"} <= set(options):
        raise UsageError(f"invalid volume: {text}: both ro and rw")
    if source.startswith((".", "~")) and "/" not in source.strip("./~"):
        source = os.path.expanduser(source)
    if source.startswith("."):
        source = os.path.abspath(source)
    if not source.startswith("/"):
        from rootless.storage.volumes import valid_name

        if not valid_name(source):
            raise UsageError(f"invalid volume name: {source}",
                             hint=f"for a directory give a path: --volume ./{source}:{destination}")
        return Mount("volume", source, _absolute(destination),
                     tuple(_checked(options, text, named=True)))
    if not os.path.lexists(source):
        try:
            os.makedirs(source)
        except OSError as e:
            raise UsageError(f"cannot make the volume's directory: {source}: "
                             f"{e.strerror}") from None
    return Mount("bind", os.path.normpath(source), _absolute(destination),
                 ("rbind", *_checked(options, text, named=False)))


def _checked(options: list[str], text: str, *, named: bool) -> list[str]:
    kept = []
    for o in options:
        if o in ("z", "Z"):
            if os.path.exists("/sys/fs/selinux/enforce"):
                raise UsageError(f"cannot relabel for SELinux without root: {text}",
                                 hint="chcon -Rt container_file_t the directory, and leave out z")
            continue
        if o in ("cached", "delegated", "consistent", "bind", "rbind"):
            continue
        if o in PROPAGATION or o in _FLAGS:
            kept.append(o)
        elif o in ("shared", "rshared"):
            raise _shared(text)
        elif o == "nocopy" and named:
            kept.append(o)
        elif o == "nocopy":
            raise UsageError(f"invalid volume option: {o}: it is for named volumes")
        elif o:
            raise UsageError(f"invalid volume option: {o}", hint="ro, rw, nosuid, nodev, noexec, "
                                                                 "rprivate, rslave")
    return kept


def _shared(text: str) -> UsageError:
    return UsageError(f"cannot share mounts back to the host: {text}: a user namespace may not",
                      hint="use rslave: the host's mounts appear in the container")


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise UsageError(f"invalid mount target: {path}: it must be absolute")
    clean = os.path.normpath(path)
    clean = "/" + clean.lstrip("/")
    if clean == "/":
        raise UsageError("invalid mount target: the root itself cannot be replaced")
    return clean


def mount(text: str) -> Mount:
    """`type=volume|bind|tmpfs,source=…,target=…[,readonly][,tmpfs-size=…][,volume-nocopy]`."""
    values: dict[str, str] = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        values[key.strip().lower()] = value
    kind = values.pop("type", "volume")
    source = values.pop("source", values.pop("src", ""))
    destination = values.pop("target", values.pop("destination", values.pop("dst", "")))
    if not destination:
        raise UsageError(f"invalid mount: {text}: target is missing")
    options = []
    for key in ("readonly", "ro"):
        if _yes(values, key, text):
            options.append("ro")
    if kind == "bind":
        if not source:
            raise UsageError(f"invalid mount: {text}: source is missing")
        source = os.path.abspath(source)
        if not os.path.lexists(source):
            raise UsageError(f"invalid mount: {text}: {source} does not exist",
                             hint=f"mkdir -p {source}")
        options.insert(0, "bind" if _yes(values, "bind-nonrecursive", text) else "rbind")
        spread = values.pop("bind-propagation", "")
        if spread:
            if spread in ("shared", "rshared"):
                raise _shared(text)
            if spread not in PROPAGATION:
                raise UsageError(f"invalid mount: {text}: bind-propagation={spread}")
            options.append(spread)
    elif kind == "tmpfs":
        if source:
            raise UsageError(f"invalid mount: {text}: a tmpfs has no source")
        source = "tmpfs"
        options = ["nosuid", "nodev", "noexec", *options]
        if "tmpfs-size" in values:
            options.append(f"size={size(values.pop('tmpfs-size'))}")
        if "tmpfs-mode" in values:
            options.append(f"mode={values.pop('tmpfs-mode')}")
    elif kind == "volume":
        from rootless.storage.volumes import valid_name

        if source and not valid_name(source):
            raise UsageError(f"invalid mount: {text}: {source} is no name of a volume",
                             hint="--mount type=bind,source=/host/path,target=/path")
        if _yes(values, "volume-nocopy", text):
            options.append("nocopy")
        if values.pop("volume-driver", "local") not in ("local", ""):
            raise UsageError(f"invalid mount: {text}: there is one driver of volumes: local")
    else:
        raise UsageError(f"invalid mount: {text}: unknown type {kind}",
                         hint="volume, bind or tmpfs")
    if values:
        raise UsageError(f"invalid mount: {text}: unknown field {next(iter(values))}")
    return Mount(kind, source, _absolute(destination), tuple(options))


def _yes(values: dict[str, str], key: str, text: str) -> bool:
    """Takes a field that is true where it is only named."""
    value = values.pop(key, "false").lower()
    if value not in _TRUE | _FALSE:
        raise UsageError(f"invalid mount: {text}: {key}={value}: neither true nor false")
    return value in _TRUE


_TMPFS = frozenset(("ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "noatime",
                    "size", "mode", "uid", "gid", "nr_inodes", "nr_blocks"))


def tmpfs(text: str) -> Mount:
    """`/path[:options]`, options as mount(8) takes them for tmpfs."""
    path, _, given = text.partition(":")
    options = ["nosuid", "nodev", "noexec"]
    for o in given.split(",") if given else []:
        key, _, value = o.partition("=")
        if key not in _TMPFS:
            raise UsageError(f"invalid tmpfs option: {o}")
        if key in ("suid", "dev", "exec"):
            options = [x for x in options if x != "no" + key]
        elif key == "size":
            options.append(f"size={size(value) if not value.endswith('%') else value}")
        else:
            options.append(o)
    return Mount("tmpfs", "tmpfs", _absolute(path), tuple(options))


_UNITS = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30, "t": 40}


def size(text: str) -> int:
    """`64m`, `1.5g`, `10MiB`, `100` to bytes. Raises UsageError."""
    low = text.strip().lower()
    number = low.rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = low[len(number):].strip()
    for ending in ("ib", "b"):
        if len(unit) > len(ending) - 1 and unit.endswith(ending) and unit != "b":
            unit = unit[:-len(ending)]
            break
    try:
        value = int(float(number) * (1 << _UNITS[unit]))
    except (ValueError, KeyError, OverflowError):
        raise UsageError(f"invalid size: {text}", hint="a number with b, k, m or g") from None
    if value < 0:
        raise UsageError(f"invalid size: {text}")
    return value


def devices(text: str) -> list[tuple[str, str, str]]:
    """`/dev/x[:/dev/y][:rwm]` as (source, destination, permissions); of a directory, those in
    it."""
    parts = text.split(":")
    source, destination, access = parts[0], parts[0], "rwm"
    if len(parts) == 2:
        if parts[1].startswith("/"):
            destination = parts[1]
        else:
            access = parts[1]
    elif len(parts) == 3:
        destination, access = parts[1], parts[2]
    if not source.startswith("/") or len(parts) > 3 or not access or set(access) - set("rwm"):
        raise UsageError(f"invalid device: {text}", hint="--device /dev/name[:/dev/name[:rwm]]")
    if access not in ("rwm", "rw"):
        raise UsageError(f"cannot limit a device to {access}: {text}: that takes a device cgroup, "
                         "which users without root are not given",
                         hint=f"--device {source}:{destination}")
    destination = _absolute(destination)
    try:
        mode = os.stat(source).st_mode
    except OSError as e:
        raise UsageError(f"no such device: {source}: {os_reason(e)}") from None
    if stat.S_ISDIR(mode):
        inside = [(d, destination + d[len(source.rstrip("/")):], access)
                  for d in _below(source) if _is_device(os.lstat(d).st_mode)]
        if not inside:
            raise UsageError(f"no device in the directory: {source}")
        return inside
    if not _is_device(mode):
        raise UsageError(f"not a device: {source}",
                         hint=f"--volume {source}:{destination} for a file")
    return [(source, destination, access)]


def _below(directory: str) -> list[str]:
    """Files in a directory of devices, without those that the container has of its own."""
    found = []
    for at, directories, names in os.walk(directory):
        directories[:] = [d for d in directories if d not in ("pts", "shm", "fd", "mqueue")]
        found += [os.path.join(at, name) for name in names if name != "console"]
    return sorted(found)


def _is_device(mode: int) -> bool:
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
