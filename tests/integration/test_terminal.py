"""Terminals: what is typed and shown, sizes, detaching, and the caller's terminal afterwards."""

from __future__ import annotations

import hashlib
import os
import signal
import termios

import pytest

from tests.integration.support.box import Box, eventually
from tests.integration.support.cli import Terminal

PROMPT = "@ "
SHELL = ("-e", f"PS1={PROMPT}", "-it")


def shell(box: Box, *options: str, rows: int = 24, columns: int = 80) -> Terminal:
    return box.terminal(*SHELL, *options, rows=rows, columns=columns)


def told(t: Terminal, line: str) -> str:
    """What a line typed at the prompt prints."""
    t.send(line + "\n")
    t.expect("\r\n")        # the echo of the line
    return t.expect(PROMPT).decode().replace("\r\n", "\n").rstrip("\n")


def test_it_is_a_terminal_of_the_containers_own(box: Box) -> None:
    with shell(box) as t:
        t.expect(PROMPT)
        assert b"job control" not in t.output
        assert told(t, "for f in 0 1 2; do [ -t $f ] && echo $f; done") == "0\n1\n2"
        assert told(t, "tty") == "/dev/pts/0"
        assert told(t, "echo $TERM") == "xterm"
        assert told(t, "[ -c /dev/console ] && echo x > /dev/console") == "x"
        t.send("exit 7\n")
        assert t.wait() == 7


def test_the_size_is_the_callers_and_follows_it(box: Box) -> None:
    script = "trap 'stty size' WINCH; stty size; echo up; while :; do sleep 0.02; done"
    with box.terminal("-it", then=("sh", "-c", script), rows=31, columns=97) as t:
        t.expect("31 97\r\nup\r\n")
        t.resize(50, 120)
        t.expect("50 120\r\n")
        t.resize(10, 500)
        t.expect("10 500\r\n")
        t.send(b"\x03")
        assert t.wait() == 130


def test_what_is_typed_is_the_containers(box: Box) -> None:
    """Control-C, control-Z and control-D act inside and do not end the command outside."""
    with shell(box) as t:
        t.expect(PROMPT)
        t.send("sh -c 'echo up; exec sleep 1000'\n")
        t.expect("up\r\n")
        t.send(b"\x03")
        t.expect(PROMPT)
        assert told(t, "echo $?") == "130"
        t.send("sh -c 'echo up; exec sleep 1000'\n")
        t.expect("up\r\n")
        t.send(b"\x1a")
        t.expect(PROMPT)
        assert "Stopped" in told(t, "jobs")
        t.send("kill -9 %1; wait; exec sh -c 'echo ready; exec cat'\n")
        t.expect("ready\r\n")
        t.send("typed\n")
        t.expect("typed\r\ntyped\r\n")
        t.send(b"\x04")
        assert t.wait() == 0


def test_the_callers_terminal_is_raw_meanwhile_and_then_as_before(box: Box) -> None:
    with shell(box) as t:
        before = t.initial
        t.expect(PROMPT)
        assert termios.tcgetattr(t.fd)[3] & (termios.ECHO | termios.ICANON) == 0
        t.send("exit\n")
        t.wait()
        assert termios.tcgetattr(t.fd) == before


def test_a_command_that_is_not_found_leaves_the_terminal_alone(box: Box) -> None:
    with box.terminal("-it", then=("no-such",)) as t:
        before = t.initial
        assert t.wait() == 127
        assert termios.tcgetattr(t.fd) == before
        assert b"no-such" in t.output


def test_the_detach_keys_leave_it_running(box: Box) -> None:
    with shell(box, "--name", "left") as t:
        before = t.initial
        t.expect(PROMPT)
        t.send("KEPT=1\n")
        t.expect(PROMPT)
        t.send(b"\x10\x11")
        assert t.wait() == 0
        assert termios.tcgetattr(t.fd) == before
    try:
        assert box.cli.ok("inspect", "-f", "{{.State.Running}}", "left").text == "true"
        with box.cli.terminal("attach", "left", rows=20, columns=160) as t:
            t.send("echo kept=$KEPT; stty size\n")
            t.expect("kept=1\r\n20 160\r\n")
            t.send("exit 9\n")
            assert t.wait() == 9
    finally:
        box.cli("rm", "-f", "left")


def test_other_detach_keys_and_keys_that_only_begin_like_them(box: Box) -> None:
    with shell(box, "--detach-keys", "ctrl-x,q", "--name", "keys") as t:
        t.expect(PROMPT)
        t.send("stty raw -echo; echo ready; head -c 4 | od -An -tx1; stty sane\n")
        t.expect("ready\n")
        t.send(b"\x10\x11\x18z")
        assert t.expect(PROMPT).split()[-4:] == [b"10", b"11", b"18", b"7a"]
        t.send(b"\x18q")
        assert t.wait() == 0
    box.cli.ok("rm", "-f", "keys")
    box.refuses("--detach-keys", "ctrl-", says="detach keys")


def test_keys_that_might_have_become_a_detach_arrive_at_the_end(box: Box) -> None:
    result = box("-it", "--detach-keys", "a,b", stdin=b"xa", timeout=20, then=(
        "sh", "-c", "stty raw -echo; head -c 2 | od -An -tx1"))
    assert result.out.split()[-2:] == [b"78", b"61"]


@pytest.mark.parametrize("verb", ["run", "exec"])
@pytest.mark.parametrize("name", ["TERM", "HUP", "INT"])
def test_a_command_that_is_ended_gives_the_terminal_back(box: Box, verb: str, name: str) -> None:
    number = getattr(signal, f"SIG{name}")
    with box.running() as other:
        command = (("run", "--name", "given-back", *SHELL, box.image, "sh") if verb == "run"
                   else ("exec", *SHELL, other, "sh"))
        try:
            with box.cli.terminal(*command) as t:
                before = t.initial
                t.expect(PROMPT)
                assert termios.tcgetattr(t.fd)[3] & termios.ECHO == 0
                t.process.send_signal(number)
                assert t.wait() == -number
                assert termios.tcgetattr(t.fd) == before
        finally:
            if verb == "run":
                box.cli.ok("rm", "-f", "given-back")


def test_exec_has_a_terminal_of_its_own(box: Box) -> None:
    with box.running("-t") as name, box.cli.terminal(
            "exec", *SHELL, name, "sh", rows=30, columns=90) as t:
        t.expect(PROMPT)
        assert told(t, "tty; stty size") == "/dev/pts/1\n30 90"
        t.resize(10, 240)
        eventually(lambda: told(t, "stty size").endswith("10 240"), "the new size is seen")
        t.send("sh -c 'echo up; exec sleep 1000'\n")
        t.expect("up\r\n")
        t.send(b"\x03")
        t.expect(PROMPT)
        t.send("exit 4\n")
        assert t.wait() == 4


def test_a_terminal_without_input_shows_only(box: Box) -> None:
    with box.terminal("-t", then=("sh", "-c", "tty; read x; echo $?")) as t:
        t.expect("/dev/pts/0")
        t.send("typed\n")
        t.send(b"\x03")     # not passed on: it ends the command, as for any other
        assert t.wait() in (1, 130, -2)


def test_a_terminal_into_a_pipe_mixes_the_streams(box: Box) -> None:
    result = box("-t", then=("sh", "-c", "echo a; echo b >&2"))
    assert (result.rc, result.out, result.err) == (0, b"a\r\nb\r\n", b"")


def test_input_from_a_pipe_is_typed(box: Box) -> None:
    result = box("-it", then=("sh", "-c", "stty -echo; read x; echo got $x"), stdin=b"word\n")
    assert result.rc == 0
    assert b"got word\r\n" in result.out


def test_the_terminal_belongs_to_the_user(box: Box) -> None:
    with box.terminal("-it", "-u", "app", then=("sh", "-c", "stat -c %u $(tty); [ -w /dev/tty ] "
                                                            "&& echo open > /dev/tty")) as t:
        assert t.wait() == 0
        assert t.output.split() == [b"1000", b"open"]


def test_much_pasted_arrives_whole(box: Box) -> None:
    with shell(box) as t:
        t.expect(PROMPT)
        t.send("stty raw -echo; echo ready; head -c 200000 | md5sum; stty sane\n")
        t.expect("ready\n")
        text = b"0123456789" * 20_000
        at = 0
        while at < len(text):
            at += os.write(t.fd, text[at:at + 4096])
        t.expect(hashlib.md5(text).hexdigest())
        t.send("exit\n")


def test_a_window_that_is_closed_leaves_the_container(box: Box) -> None:
    try:
        t = shell(box, "--name", "window")
        t.expect(PROMPT)
        os.close(t.fd)
        t.process.wait(20)
        assert box.cli.ok("inspect", "-f", "{{.State.Running}}", "window").text == "true"
    finally:
        box.cli("rm", "-f", "window")


def test_the_log_has_what_the_terminal_showed(box: Box) -> None:
    with box.running("-t", then=("sh", "-c", "echo one; echo two >&2")) as name:
        box.cli.ok("wait", name)
        assert box.cli.ok("logs", name).out == b"one\r\ntwo\r\n"


@pytest.mark.parametrize("init", [(), ("--init",)])
def test_job_control_works_below_an_init_too(box: Box, init: tuple[str, ...]) -> None:
    with shell(box, *init) as t:
        t.expect(PROMPT)
        t.send("sh -c 'echo up; exec sleep 1000'\n")
        t.expect("up\r\n")
        t.send(b"\x03")
        t.expect(PROMPT)
        t.send("exit 5\n")
        assert t.wait() == 5
