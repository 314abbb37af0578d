"""RUN --mount: a line of key=value, separated by commas, quoted as CSV.

    type=bind      target= [source=] [from=] [rw]       from: stage, image or named context
    type=cache     target= [id=] [sharing=] [from=] [source=] [mode=] [uid=] [gid=]
    type=tmpfs     target= [size=]
    type=secret    id= [target=] [env=] [required] [mode=] [uid=] [gid=]
    type=ssh       [id=] [target=] [required] [mode=] [uid=] [gid=]
"""

from __future__ import annotations

import posixpath

from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

TYPES = ("bind", "cache", "tmpfs", "secret", "ssh")
SHARING = ("shared", "private", "locked")
_SAME = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly",
         "rw": "readwrite"}
KEYS = ("type", "from", "source", "target", "readonly", "readwrite", "id", "sharing", "required",
        "size", "mode", "uid", "gid", "env")
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
SECRETS = "/run/secrets"
SSH_AGENT = "/run/buildkit/ssh_agent.0"


class MountError(ValueError):
    """`given` was not among `known`: a near one may have been meant."""

    def __init__(self, message: str, given: str = "", known: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.given = given
        self.known = known


@record(frozen=True)
class Mount:
    """`target` may be relative to the working directory: see `path`. None: not said.

    `id` is filled in: a cache's is its target, a secret's the last part of it.
    `target` of a secret is empty where only `env` was asked for.
    """

    type: str
    target: str
    source: str
    from_: str
    readonly: bool
    id: str
    sharing: str
    required: bool
    mode: int | None
    uid: int | None
    gid: int | None
    size: int | None
    env: str

    def path(self, workdir: str) -> str:
        """Where it is mounted. Raises MountError for the root."""
        path = posixpath.normpath(posixpath.join("/", workdir, self.target)).replace("//", "/")
        if path == "/":
            raise MountError(f"a mount cannot have the target {self.target or 'that is empty'}: "
                             "it would cover everything")
        return path


def check(flag: str) -> None:
    """What can be known before variables are: raises MountError."""
    for field in fields(flag):
        key, _, value = field.partition("=")
        if key.lower() == "from" and "$" in value[:-1]:
            raise MountError("from does not expand variables: name a stage instead "
                             "(FROM $image AS name)", value)
    if "$" not in flag:
        parse(flag, lambda text: text)


def fields(flag: str) -> list[str]:
    """RFC 4180: "a,b" is one field, and "" in it a quote. Raises MountError."""
    found: list[str] = []
    at = 0
    while True:
        if flag.startswith('"', at):
            parts: list[str] = []
            while flag.startswith('"', at):
                end = flag.find('"', at + 1)
                if end < 0:
                    raise MountError(f"invalid mount {flag}: a quote is never closed")
                parts.append(flag[at + 1:end])
                at = end + 1
            found.append('"'.join(parts))
            if at < len(flag) and flag[at] != ",":
                raise MountError(f"invalid mount {flag}: something follows a closing quote")
        else:
            end = flag.find(",", at)
            end = len(flag) if end < 0 else end
            if '"' in flag[at:end]:
                raise MountError(f"invalid mount {flag}: a quote within a field")
            found.append(flag[at:end])
            at = end
        if at == len(flag):
            return found
        at += 1


def parse(flag: str, expand: Callable[[str], str]) -> Mount:
    """`expand` replaces the variables of a value. Raises MountError."""
    said: dict[str, str] = {}
    for field in fields(flag):
        key, equals, value = field.partition("=")
        key = key.lower()
        key = _SAME.get(key, key)
        if key not in KEYS:
            raise MountError(f"unexpected key '{key}' in '{field}'", key, KEYS)
        if equals:
            said[key] = expand(value)
        elif key in ("readonly", "readwrite", "required"):
            said[key] = "true"
        else:
            raise MountError(f"invalid field '{field}': it must be {key}=VALUE")
    kind = said.get("type", "bind").lower()
    if kind not in TYPES:
        raise MountError(f"unsupported mount type '{said['type']}'", kind, TYPES)
    _check_keys(kind, said)
    return _build(kind, said)


_ONLY = {"size": ("tmpfs",), "required": ("secret", "ssh"), "sharing": ("cache",),
         "env": ("secret",), "mode": ("cache", "secret", "ssh"), "uid": ("cache", "secret", "ssh"),
         "gid": ("cache", "secret", "ssh"), "from": ("bind", "cache")}


def _check_keys(kind: str, said: dict[str, str]) -> None:
    for key, kinds in _ONLY.items():
        if key in said and kind not in kinds:
            raise MountError(f"{key} makes no sense for a mount of type {kind}, only of type "
                             f"{' or '.join(kinds)}")
    if kind in ("bind", "cache", "tmpfs") and not said.get("target"):
        raise MountError(f"a mount of type {kind} needs a target=")
    if kind == "secret":
        if not any(said.get(k) for k in ("id", "source", "target")):
            raise MountError("a mount of type secret needs an id=, or a target= to take it from")
        if said.get("source") and said.get("id"):
            raise MountError("id and source of a secret are the same thing: give one")


def _build(kind: str, said: dict[str, str]) -> Mount:
    target, name = said.get("target", ""), said.get("id", "")
    if kind == "secret":
        name = name or said.get("source") or posixpath.basename(target)
        if not target and not said.get("env"):
            target = f"{SECRETS}/{posixpath.basename(name)}"
    elif kind == "ssh":
        name = name or "default"
        target = target or SSH_AGENT
    elif kind == "cache":
        name = name or posixpath.normpath(target)
    readonly = kind not in ("cache", "tmpfs")
    if "readwrite" in said:
        readonly = not _bool("readwrite", said["readwrite"])
    if "readonly" in said:
        readonly = _bool("readonly", said["readonly"])
    sharing = said.get("sharing", "shared" if kind == "cache" else "").lower()
    if sharing and sharing not in SHARING:
        raise MountError(f"unsupported sharing '{said['sharing']}'", sharing, SHARING)
    return Mount(
        type=kind, target=target, source=said.get("source", "") if kind != "secret" else "",
        from_=said.get("from", ""), readonly=readonly, id=name, sharing=sharing,
        required=_bool("required", said.get("required", "false")),
        mode=_number("mode", said, 8), uid=_number("uid", said, 10), gid=_number("gid", said, 10),
        size=_size(said["size"]) if "size" in said else None, env=said.get("env", ""))


def _bool(key: str, text: str) -> bool:
    """As Go's strconv.ParseBool."""
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise MountError(f"invalid value for {key}: {text or 'nothing'}: it is true or false")


def _number(key: str, said: dict[str, str], base: int) -> int | None:
    text = said.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and (base == 10 or not set(text) & {"8", "9"})) or (
            int(text, base) >> 32):
        raise MountError(f"invalid value for {key}: {text or 'nothing'}: it is a number"
                         + (" in octal" if base == 8 else ""))
    return int(text, base)


def _size(text: str) -> int:
    """Bytes: 64m, 1.5g, 100kb, 2GiB."""
    number = text.strip().lower()
    digits = number.rstrip("bikmgtp ")
    unit = number[len(digits):].strip()
    unit = unit[:-2] if unit.endswith("ib") and len(unit) > 2 else unit
    unit = unit[:-1] if unit.endswith("b") and len(unit) > 1 else unit
    whole, _, part = digits.partition(".")
    if unit not in _UNITS or not (whole + part).isdigit() or not digits.isascii() or not whole:
        raise MountError(f"invalid value for size: {text or 'nothing'}: it is like 64m")
    return int(float(digits) * _UNITS[unit])
