"""Options of `run` and `create` about namespaces in common with others."""

from __future__ import annotations

from rootless.cli.command import VALUE, Option, Options
from rootless.container.sharing import WORD
from rootless.errors import UsageError

OPTIONS = (
    Option("ipc", VALUE, "private (default), shareable, none, host or container:NAME",
           metavar="MODE"),
    Option("pid", VALUE, "host or container:NAME", metavar="MODE"),
)
PID, IPC = ("", "private", "host"), ("", "private", "shareable", "none", "host")


def mode(options: Options, name: str) -> str:
    """Raises UsageError."""
    text = options.value(name) or ""
    allowed = PID if name == "pid" else IPC
    if text not in allowed and not (text.startswith(WORD) and text != WORD):
        raise UsageError(f"invalid argument for --{name}: {text}",
                         hint=", ".join([*allowed[1:], WORD + "NAME"]))
    return "" if text == "private" else text
