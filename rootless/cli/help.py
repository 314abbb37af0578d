"""`--help` and shell completion, by click, from the tables that the parser reads."""

from __future__ import annotations

import click

from rootless.__main__ import load
from rootless.cli import command as table
from rootless.cli.table import GROUPS, SUBCOMMANDS, VERBS

PROG = "rootless"


class _Lazy(click.Group):
    """A group whose commands are made when they are asked for."""

    def __init__(self, name: str, help: str, members: dict[str, tuple[str, str]]) -> None:
        """`members`: second word to (full name of the command, one line)."""
        super().__init__(name, help=help, options_metavar="")
        self.members = members

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.members)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if self.name == PROG and cmd_name in GROUPS:
            return _group(cmd_name)
        if cmd_name not in self.members:
            return None
        return as_click(load(self.members[cmd_name][0]), cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # From the table: the overview imports no command.
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.members.items()])


def _line(name: str) -> str:
    """What a command does, in one line."""
    verb, _, second = name.partition(" ")
    return SUBCOMMANDS[verb][second][1] if second else VERBS[verb][1]


def _group(name: str) -> _Lazy:
    text, same = GROUPS[name]
    members = {word: (verb, _line(verb)) for word, verb in same.items()}
    members.update({word: (f"{name} {word}", line)
                    for word, (_, line) in SUBCOMMANDS.get(name, {}).items()})
    return _Lazy(name, text, members)


def root() -> _Lazy:
    members = {verb: (verb, line) for verb, (_, line) in VERBS.items() if verb not in GROUPS}
    members.update({name: (name, text) for name, (text, _) in GROUPS.items()})
    group = _Lazy(PROG, "A container engine for people without root.", members)
    group.params += [
        click.Option(["--root"], metavar="DIR", help="Keep the store in DIR."),
        click.Option(["--debug"], is_flag=True,
                     help="Print the plan of a start: namespaces, mounts, process."),
        click.Option(["-v", "--version"], is_flag=True, help="Show the version."),
    ]
    return group


def as_click(command: table.Command, name: str) -> click.Command:
    options: list[click.Parameter] = [as_option(o) for o in command.options]
    usage = command.usage
    made = click.Command(name, params=options, help=command.help, options_metavar="[OPTIONS]")
    made.collect_usage_pieces = lambda ctx: ["[OPTIONS]", usage] if options else [usage]  # type: ignore[method-assign]
    return made


def as_option(option: table.Option) -> click.Option:
    names = [f"--{option.name}"] + ([f"-{option.short}"] if option.short else [])
    if option.kind == table.FLAG:
        return click.Option(names, is_flag=True, help=option.help)
    return click.Option(names, metavar=option.metavar or "VALUE", help=option.help,
                        multiple=option.kind == table.LIST)


def show(words: list[str]) -> int:
    """Print the help of a command, a group, or all."""
    group: click.Command = root()
    context = click.Context(group, info_name=PROG)
    for word in words:
        if not isinstance(group, _Lazy):
            break
        found = group.get_command(context, word)
        if found is None:
            click.echo(f"rootless: unknown command: {' '.join(words)}\n  hint: rootless --help",
                       err=True)
            return 125
        group = found
        context = click.Context(group, info_name=word, parent=context)
    click.echo(group.get_help(context))
    return 0


def complete() -> int:
    """Answer the shell's question in _ROOTLESS_COMPLETE (`bash_source`, `bash_complete` …)."""
    import os

    from click.shell_completion import shell_complete

    return shell_complete(root(), {}, PROG, "_ROOTLESS_COMPLETE",
                          os.environ["_ROOTLESS_COMPLETE"])
