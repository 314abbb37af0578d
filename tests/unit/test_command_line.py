"""The fast parser reads what docker's does, and click's help is made from the same tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.__main__ import find, load
from rootless.cli import command, help
from rootless.cli.command import FLAG, LIST, OPTIONAL, VALUE, Command, HelpWanted, Option, parse
from rootless.cli.table import GROUPS, SUBCOMMANDS, VERBS
from rootless.errors import UsageError

TABLE = Command("try", "ARG...", "For tests.", lambda options: 0, (
    Option("detach", FLAG, "", "d"), Option("tty", FLAG, "", "t"),
    Option("interactive", FLAG, "", "i"), Option("env", LIST, "", "e"),
    Option("name", VALUE, ""), Option("progress", OPTIONAL, "", default="auto"),
), interspersed=False)


@pytest.mark.parametrize(("argv", "flags", "args"), [
    (["-dit", "img"], {"detach", "interactive", "tty"}, ["img"]),
    (["--detach", "img", "-t"], {"detach"}, ["img", "-t"]),
    (["--detach=false", "img"], set(), ["img"]),
    (["-d=true", "img"], {"detach"}, ["img"]),
    (["--", "-d"], set(), ["-d"]),
    (["-"], set(), ["-"]),
])
def test_flags_and_arguments_are_told_apart(argv: list[str], flags: set[str],
                                            args: list[str]) -> None:
    options = parse(TABLE, argv)
    assert {n for n in ("detach", "tty", "interactive") if options.flag(n)} == flags
    assert options.args == args


@pytest.mark.parametrize("argv", [
    ["-e", "A=1", "-eB=2", "--env", "C=3", "--env=D=4", "-e=E=5", "x"],
])
def test_every_spelling_of_a_value_is_read(argv: list[str]) -> None:
    assert parse(TABLE, argv).list("env") == ["A=1", "B=2", "C=3", "D=4", "E=5"]


def test_a_value_may_follow_flags_in_one_cluster() -> None:
    options = parse(TABLE, ["-dteA=1", "x"])
    assert options.flag("detach") and options.flag("tty") and options.list("env") == ["A=1"]


def test_the_last_value_wins() -> None:
    assert parse(TABLE, ["--name", "a", "--name=b"]).value("name") == "b"


def test_an_optional_value_is_taken_only_after_an_equals_sign() -> None:
    assert parse(TABLE, ["--progress", "x"]).value("progress") == "auto"
    assert parse(TABLE, ["--progress=plain", "x"]).value("progress") == "plain"


@pytest.mark.parametrize(("argv", "message", "hint"), [
    (["--detatch"], "unknown flag: --detatch", "did you mean --detach?"),
    (["-x"], "unknown shorthand flag: -x", "rootless try --help"),
    (["--name"], "flag needs an argument: --name", "rootless try --help"),
    (["-e"], "flag needs an argument: -e", "rootless try --help"),
    (["--tty=maybe"], "invalid argument for --tty: maybe: neither true nor false", None),
])
def test_a_wrong_flag_is_named_with_what_to_type(argv: list[str], message: str,
                                                 hint: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        parse(TABLE, argv)
    assert caught.value.message == message
    assert caught.value.hint == hint


def test_help_is_asked_for_by_either_name_unless_the_letter_is_taken() -> None:
    for argv in (["--help"], ["-h"], ["-dh"]):
        with pytest.raises(HelpWanted):
            parse(TABLE, argv)
    assert parse(load("run"), ["-h", "box", "img"]).value("hostname") == "box"


@given(st.lists(st.one_of(st.sampled_from(["-d", "-dit", "--env", "-eA", "--name=x", "--", "-",
                                           "--progress", "img", "--help"]), st.text(max_size=8))))
def test_no_command_line_makes_the_parser_fail_otherwise(argv: list[str]) -> None:
    try:
        options = parse(TABLE, argv)
    except (UsageError, HelpWanted):
        return
    assert all(isinstance(a, str) for a in options.args)


EVERY = [*VERBS.keys() - SUBCOMMANDS.keys(), *(f"{g} {s}" for g, subs in SUBCOMMANDS.items()
                                               for s in subs)]


@pytest.mark.parametrize("name", sorted(EVERY))
def test_every_command_of_the_table_exists_and_documents_itself(
        name: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = load(name)
    assert made.name == name
    names = [o.name for o in made.options]
    shorts = [o.short for o in made.options if o.short]
    assert len(set(names)) == len(names) and len(set(shorts)) == len(shorts)
    assert help.show(name.split(" ")) == 0
    shown = capsys.readouterr().out
    for option in made.options:
        assert option.help and f"--{option.name}" in shown


@pytest.mark.parametrize(("argv", "name", "rest"), [
    (["ps", "-a"], "ps", ["-a"]),
    (["container", "ls", "-a"], "ps", ["-a"]),
    (["image", "rm", "x"], "rmi", ["x"]),
    (["system", "reset"], "system reset", []),
])
def test_group_words_lead_to_the_same_command(argv: list[str], name: str, rest: list[str]) -> None:
    assert find(argv) == (name, rest)


def test_an_unknown_command_suggests_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        find(["rnu"])
    assert caught.value.hint == "did you mean run?"
    assert {"container", "image", "network", "system", "volume"} <= set(GROUPS)


def test_click_reads_the_tables_as_the_fast_parser_does() -> None:
    argv = ["--env", "A=1", "-e", "B=2", "--name", "n", "-d"]
    fast = parse(TABLE, argv)
    slow = help.as_click(TABLE, "try").make_context("try", list(argv)).params
    assert list(slow["env"]) == fast.list("env")
    assert slow["name"] == fast.value("name")
    assert slow["detach"] is fast.flag("detach") is True
    assert command.see(TABLE) == "rootless try --help"
