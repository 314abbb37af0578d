"""The command `rootless`: finds the verb, imports only that verb's module, maps errors to exits."""

from __future__ import annotations

import os
import sys

from rootless.cli.table import GROUPS, STARTERS, SUBCOMMANDS, VERBS
from rootless.errors import RootlessError, UsageError, os_reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from rootless.cli.command import Command

USAGE_EXIT = 125


def main() -> NoReturn:
    """Never returns. Exit codes are docker's."""
    code = USAGE_EXIT
    _open_standard_streams()
    try:
        code = _main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader went away (`rootless ps | head -1`): die as SIGPIPE would have us.
        code = 141
    except KeyboardInterrupt:
        code = 130
    except OSError as e:
        tell(RootlessError(f"cannot write the output: {os_reason(e)}"))
        code = code or 1
    # No interpreter shutdown: it costs milliseconds and all is written.
    try:
        sys.stderr.flush()
    except OSError:
        pass
    os._exit(code)


def _open_standard_streams() -> None:
    """Where the caller closed 0, 1 or 2, the next file opened would take its place."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            # The lowest free number is this one.
            os.set_inheritable(os.open("/dev/null", os.O_RDWR), True)
            setattr(sys, name, open(fd, "r" if fd == 0 else "w", closefd=False))


def _main(argv: list[str]) -> int:
    if "_ROOTLESS_COMPLETE" in os.environ:
        from rootless.cli.help import complete

        return complete()
    error_exit = USAGE_EXIT
    try:
        argv = _global_options(argv)
        if not argv or argv[0] in ("--help", "-h", "help"):
            from rootless.cli.help import show

            return show(argv[1:] if argv else [])
        if argv[0] in ("--version", "-v"):
            argv = ["version", *argv[1:]]
        name, rest = find(argv)
        link = -1
        if name in STARTERS:
            from rootless.container.early import fork_early

            link = fork_early()
        command = load(name)
        from rootless.cli.command import HelpWanted, parse

        try:
            options = parse(command, rest)
        except HelpWanted:
            from rootless.cli.help import show

            return show(name.split(" "))
        options.monitor = link
        error_exit = command.error_exit
        return command.run(options)
    except RootlessError as e:
        tell(e)
        if e.exit_code is not None:
            return e.exit_code
        return USAGE_EXIT if isinstance(e, UsageError) else error_exit
    except OSError as e:
        # What no layer below could explain better is still told in one line.
        if isinstance(e, BrokenPipeError):
            raise
        # The name is a number where a descriptor could not be used.
        thing = f": {os.fsdecode(e.filename)}" if isinstance(e.filename, (str, bytes)) else ""
        tell(RootlessError(f"{e.strerror or e}{thing}"))
        return error_exit


def _global_options(argv: list[str]) -> list[str]:
    """Takes `--root DIR` and `--debug` off the front; they act through the environment."""
    while argv and argv[0].startswith("--"):
        name, eq, value = argv[0].partition("=")
        if name == "--root":
            if not eq:
                if len(argv) < 2:
                    raise UsageError("flag needs an argument: --root")
                value, argv = argv[1], argv[1:]
            os.environ["ROOTLESS_ROOT"] = value
        elif name == "--debug" and not eq:
            os.environ["ROOTLESS_DEBUG"] = "1"
        else:
            break
        argv = argv[1:]
    return argv


def find(argv: list[str]) -> tuple[str, list[str]]:
    """(name of the command, its arguments). Raises UsageError."""
    verb = argv[0]
    if verb in GROUPS:
        second = argv[1] if len(argv) > 1 else ""
        if second in SUBCOMMANDS.get(verb, {}):
            return f"{verb} {second}", argv[2:]
        same = GROUPS[verb][1].get(second)
        if same is not None:
            return same, argv[2:]
        if not second or second in ("--help", "-h"):
            from rootless.cli.help import show

            os._exit(show([verb]))
        raise UsageError(f"unknown command: rootless {verb} {second}",
                         hint=f"rootless {verb} --help")
    if verb in VERBS:
        return verb, argv[1:]
    from rootless.cli.command import near

    if verb.startswith("-"):
        raise UsageError(f"unknown flag: {verb}", hint="rootless --help")
    raise UsageError(f"unknown command: rootless {verb}",
                     hint=near(verb, [*VERBS, *GROUPS]) or "rootless --help")


def load(name: str) -> Command:
    verb, _, second = name.partition(" ")
    module = SUBCOMMANDS[verb][second][0] if second else VERBS[verb][0]
    command: Command = __import__(module, fromlist=["COMMANDS"]).COMMANDS[name]
    return command


def tell(error: RootlessError) -> None:
    """One line, and a second that says what to type."""
    for stream, text in ((sys.stdout, ""), (sys.stderr, f"rootless: {_line(error.message)}\n"),
                         (sys.stderr, f"  hint: {_line(error.hint)}\n" if error.hint else "")):
        try:
            stream.write(text)
            stream.flush()
        except OSError:
            pass        # nobody to tell, or a full disk below


_LONGEST = 1200


def _line(text: str) -> str:
    """What an image or a registry said may not steer the terminal, nor fill it."""
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST // 2]}...{text[-_LONGEST // 4:]}"
    return text if text.isprintable() else "".join(
        c if c.isprintable() else ascii(c)[1:-1] for c in text)


if __name__ == "__main__":
    main()
