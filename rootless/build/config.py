"""What instructions do to an image's configuration, without running anything.

The keys are docker's (image-spec config.md, and Healthcheck, OnBuild, Shell, ArgsEscaped beside
it). Texts of history are BuildKit's, so that `docker history` reads the same.
"""

from __future__ import annotations

import posixpath

from rootless import jsontext
from rootless.build.instructions import (
    DEFAULT_SHELL,
    Add,
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Label,
    Maintainer,
    Onbuild,
    Run,
    Shell,
    Stopsignal,
    User,
    Volume,
    Workdir,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from rootless.build.instructions import Command, Instruction
    from rootless.build.scope import Scope

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def scratch() -> dict[str, Any]:
    """The configuration of an image of nothing."""
    return {"Env": [f"PATH={DEFAULT_PATH}"], "WorkingDir": "/"}


class Settings:
    """The configuration of a stage while its instructions are walked.

    `values` is the image's; `author` belongs beside it. A copy is taken of what is given.
    """

    def __init__(self, base: Mapping[str, Any], author: str = "") -> None:
        self.values: dict[str, Any] = jsontext.loads(jsontext.dumps(dict(base)))
        self.values.pop("OnBuild", None)        # triggers fire once, and are not inherited
        self.author = author
        self.cmd_said = False       # CMD stood in this stage: an ENTRYPOINT leaves it alone

    @property
    def shell(self) -> tuple[str, ...]:
        return tuple(self.values.get("Shell") or DEFAULT_SHELL)

    @property
    def workdir(self) -> str:
        return str(self.values.get("WorkingDir") or "/")

    @property
    def user(self) -> str:
        return str(self.values.get("User") or "")

    def take(self, one: Instruction) -> None:
        """Apply a resolved instruction; one that only changes files changes nothing here."""
        change = _CHANGES.get(one.word)
        if change:
            change(self, one)


def absolute(workdir: str, path: str) -> str:
    """A path of WORKDIR, relative to the one before, without . and .. in it."""
    return posixpath.normpath(posixpath.join("/", workdir, path)).replace("//", "/")


def _env(s: Settings, one: Env) -> None:
    entries: list[str] = list(s.values.get("Env") or ())
    for key, value in one.pairs:
        entry = f"{key}={value}"
        for i, old in enumerate(entries):
            if old.split("=", 1)[0] == key:
                entries[i] = entry
                break
        else:
            entries.append(entry)
    s.values["Env"] = entries


def _label(s: Settings, one: Label) -> None:
    s.values["Labels"] = {**(s.values.get("Labels") or {}), **dict(one.pairs)}


def _set(s: Settings, key: str, names: tuple[str, ...]) -> None:
    s.values[key] = {**(s.values.get(key) or {}), **{name: {} for name in names}}


def _cmd(s: Settings, one: Cmd) -> None:
    s.values["Cmd"] = list(one.command.argv(s.shell))
    s.values["ArgsEscaped"] = True
    s.cmd_said = True


def _entrypoint(s: Settings, one: Entrypoint) -> None:
    s.values["Entrypoint"] = list(one.command.argv(s.shell))
    if not s.cmd_said:
        s.values.pop("Cmd", None)


def _healthcheck(s: Settings, one: Healthcheck) -> None:
    found = {"Test": list(one.test), "Interval": one.interval, "Timeout": one.timeout,
             "StartPeriod": one.start_period, "StartInterval": one.start_interval,
             "Retries": one.retries}
    s.values["Healthcheck"] = {key: value for key, value in found.items() if value}


def _onbuild(s: Settings, one: Onbuild) -> None:
    s.values["OnBuild"] = [*(s.values.get("OnBuild") or ()), one.trigger]


def _workdir(s: Settings, one: Workdir) -> None:
    s.values["WorkingDir"] = absolute(s.workdir, one.path)


def _maintainer(s: Settings, one: Maintainer) -> None:
    s.author = one.name


def _user(s: Settings, one: User) -> None:
    s.values["User"] = one.user


def _stopsignal(s: Settings, one: Stopsignal) -> None:
    s.values["StopSignal"] = one.signal


def _shell(s: Settings, one: Shell) -> None:
    s.values["Shell"] = list(one.words)


def _volume(s: Settings, one: Volume) -> None:
    _set(s, "Volumes", one.paths)


def _expose(s: Settings, one: Expose) -> None:
    _set(s, "ExposedPorts", one.ports)


_CHANGES: dict[str, Callable[[Settings, Any], None]] = {
    "CMD": _cmd, "ENTRYPOINT": _entrypoint, "ENV": _env, "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck, "LABEL": _label, "MAINTAINER": _maintainer, "ONBUILD": _onbuild,
    "SHELL": _shell, "STOPSIGNAL": _stopsignal, "USER": _user, "VOLUME": _volume,
    "WORKDIR": _workdir,
}


def created_by(one: Instruction, scope: Scope, settings: Settings) -> str:
    """The text of history. `settings` after the instruction was taken.

    ONBUILD has an entry of its own here; BuildKit writes none for it.
    """
    if isinstance(one, Run):
        args = scope.used_args()
        words = [*([f"|{len(args)}", *args] if args else []), *one.argv(settings.shell)]
        return f"RUN {' '.join(words)} # buildkit"
    if isinstance(one, (Copy, Add)):
        words = [f"--{flag}={value}" for flag, value in (("chown", one.chown), ("chmod", one.chmod))
                 if value]
        words += ["--parents"] if isinstance(one, Copy) and one.parents else []
        words += [*one.sources, *(f"<<{file.name}" for file in one.files), one.dest]
        return f"{one.word} {' '.join(words)} # buildkit"
    return f"{one.word} {_said(one, settings)}"


def _said(one: Instruction, settings: Settings) -> str:
    if isinstance(one, (Env, Label)):
        return " ".join(f"{key}={value}" for key, value in one.pairs)
    if isinstance(one, Arg):
        return " ".join(key if value is None else f"{key}={value}" for key, value in one.pairs)
    if isinstance(one, (Cmd, Entrypoint)):
        return _quoted(one.command, settings.shell)
    if isinstance(one, Expose):
        return f"[{' '.join(one.ports)}]"
    if isinstance(one, Volume):
        return f"[{' '.join(one.paths)}]"
    if isinstance(one, Shell):
        return f"[{' '.join(one.words)}]"
    if isinstance(one, Workdir):
        return settings.workdir
    if isinstance(one, Healthcheck):
        times = " ".join(f"{name}:{_duration(value)}" for name, value in (
            ("Interval", one.interval), ("Timeout", one.timeout),
            ("StartPeriod", one.start_period), ("StartInterval", one.start_interval)))
        return f"{{Test:[{' '.join(one.test)}] {times} Retries:{one.retries}}}"
    if isinstance(one, User):
        return one.user
    if isinstance(one, Stopsignal):
        return one.signal
    if isinstance(one, Maintainer):
        return one.name
    assert isinstance(one, Onbuild)
    return one.trigger


def _quoted(command: Command, shell: tuple[str, ...]) -> str:
    """As Go prints a list of quoted strings."""
    return f"[{' '.join(map(_quote, command.argv(shell)))}]"


_ESCAPES = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t",
            "\v": "\\v", "\\": "\\\\", '"': '\\"'}


def _quote(text: str) -> str:
    """Go's strconv.Quote."""
    return '"' + "".join(_ESCAPES.get(c) or (c if c.isprintable() else ascii(c)[1:-1])
                         for c in text) + '"'


def _duration(ns: int) -> str:
    """As Go prints a time.Duration."""
    if ns < 10**9:
        for unit, size in (("ms", 10**6), ("µs", 10**3)):
            if ns >= size:
                return f"{ns / size:.9f}".rstrip("0").rstrip(".") + unit
        return f"{ns}ns" if ns else "0s"
    minutes, rest = divmod(ns, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest // 10**9}.{rest % 10**9:09d}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds
