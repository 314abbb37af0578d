"""`exec`: a further process in a running container, as much inside as the first."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.support.box import Box, eventually
from tests.integration.support.cli import Cli, Process, Result


class Running:
    """`running(options..., then=command)` is `exec OPTIONS NAME COMMAND`."""

    def __init__(self, cli: Cli, name: str) -> None:
        self.cli = cli
        self.name = name

    def __call__(self, *options: str, then: tuple[str, ...], stdin: bytes | None = None) -> Result:
        return self.cli("exec", *options, self.name, *then, stdin=stdin)

    def sh(self, script: str, *options: str) -> str:
        return self.cli.ok("exec", *options, self.name, "sh", "-ec", script).text

    def popen(self, *options: str, then: tuple[str, ...]) -> Process:
        return self.cli.popen("exec", *options, self.name, *then, stdout=subprocess.PIPE)

    def has(self, words: str) -> bool:
        return words in self.sh("ps -o args")


@pytest.fixture(scope="module")
def running(box: Box) -> Iterator[Running]:
    """One container for all tests that leave it as it is."""
    with box.running("-e", "OF=container", "-w", "/tmp", "-h", "inside",
                     "--ulimit", "nofile=321") as name:
        yield Running(box.cli, name)


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_the_exit_code_is_the_commands(running: Running, code: int) -> None:
    assert running(then=("sh", "-c", f"exit {code}")).rc == code


def test_other_ends_have_dockers_exit_codes(running: Running) -> None:
    running.cli.fails(127, "exec", running.name, "no-such", says="no-such")
    running.cli.fails(127, "exec", running.name, "", says="empty")
    running.cli.fails(126, "exec", running.name, "/etc/passwd", says="/etc/passwd")
    assert running(then=("sh", "-c", "kill -KILL $$")).rc == 137


def test_streams_stay_apart_and_every_byte_passes(running: Running) -> None:
    data = bytes(range(256)) * 4096 + os.urandom(300_000)
    result = running("-i", then=("tee", "/dev/stderr"), stdin=data)
    assert (result.rc, result.out, result.err) == (0, data, data)


def test_without_interactive_there_is_no_standard_input(running: Running) -> None:
    assert running(then=("cat",), stdin=b"never seen").out == b""


def test_it_has_the_environment_directory_and_limits_of_the_container(running: Running,
                                                                     tmp_path: Path) -> None:
    assert running.sh("echo $OF $HOSTNAME $HOME; pwd; ulimit -n") == (
        "container inside /root\n/tmp\n321")
    (tmp_path / "env").write_text("FILE=1\n")
    assert running.sh("echo $OF $FILE; pwd", "-e", "OF=exec", "--env-file",
                      str(tmp_path / "env"), "-w", "/etc") == "exec 1\n/etc"


def test_a_working_directory_that_is_not_there_is_not_made(running: Running) -> None:
    running.cli.fails(126, "exec", "-w", "/not/there", running.name, "pwd", says="/not/there")
    assert running(then=("ls", "/not")).rc != 0
    running.cli.fails(125, "exec", "-w", "relative", running.name, "pwd", says="relative")


@pytest.mark.parametrize("user, told", [
    ("app", "1000 1000 1000 2000 /home/app"), ("1000:extra", "1000 2000 2000 /home/app"),
    ("77:88", "77 88 88 /")])
def test_it_runs_as_the_user_asked_for(running: Running, user: str, told: str) -> None:
    assert running.sh("echo $(id -u) $(id -g) $(id -G) $HOME", "-u", user) == told


def test_a_user_that_is_not_there_is_refused(running: Running) -> None:
    running.cli.fails(1, "exec", "-u", "ghost", running.name, "true", says="ghost")


def test_the_containers_user_is_the_default(box: Box) -> None:
    with box.running("-u", "app") as name:
        assert box.cli.ok("exec", name, "id", "-un").text == "app"
        assert box.cli.ok("exec", "-u", "0", name, "id", "-u").text == "0"


def test_it_is_in_every_namespace_of_the_container(running: Running) -> None:
    names = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
    paths = " ".join(f"/proc/1/ns/{n}" for n in names)
    own = " ".join(f"/proc/self/ns/{n}" for n in names)
    first, second = running.sh(f"echo $(for p in {paths}; do readlink $p; done); "
                               f"echo $(for p in {own}; do readlink $p; done)").splitlines()
    assert first == second
    for name, shown in zip(names, first.split()):
        assert shown != os.readlink(f"/proc/self/ns/{name}")


def test_it_is_confined_as_the_container_is(box: Box) -> None:
    lines = "grep -E '^(Cap|NoNewPrivs|Seccomp)' /proc/{}/status"
    with box.running("--cap-drop", "ALL", "--cap-add", "KILL", "--security-opt",
                     "no-new-privileges") as name:
        running = Running(box.cli, name)
        shown = running.sh(lines.format("self"))
        assert shown == running.sh(lines.format("1"))
        assert "NoNewPrivs:\t1" in shown
        assert "CapEff:\t0000000000000020" in shown


def test_privileged_has_all_capabilities_inside_only(running: Running) -> None:
    assert "CapEff:\t000001ffffffffff" in running.sh("cat /proc/self/status", "--privileged")
    assert running.sh("mount -t tmpfs x /tmp && umount /tmp && echo done",
                      "--privileged") == "done"
    assert running(then=("mount", "-t", "tmpfs", "x", "/tmp")).rc != 0


def test_nothing_of_the_callers_is_open(running: Running) -> None:
    """0, 1, 2 and the directory that ls reads."""
    assert running.sh("ls /proc/self/fd").split() == ["0", "1", "2", "3"]


def test_in_the_background_it_runs_on(running: Running) -> None:
    assert running.cli.ok("exec", "-d", running.name, "sh", "-c",
                          "sleep 1001 & echo $$ > /tmp/pid; wait").out == b""
    eventually(lambda: running.has("sleep 1001"), "the background command runs")
    running.sh("kill -9 $(cat /tmp/pid)")
    running.cli.fails(127, "exec", "-d", running.name, "no-such", says="no-such")


def test_a_command_that_is_killed_takes_its_process_along(running: Running) -> None:
    with running.popen(then=("sh", "-c", "echo up; exec sleep 1002")) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.kill()
    eventually(lambda: not running.has("sleep 1002"), "the process is gone")


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP"])
def test_a_signal_ends_the_command_and_its_process(running: Running, name: str) -> None:
    number = getattr(signal, f"SIG{name}")
    with running.popen(then=("sh", "-c", "echo up; exec sleep 1003")) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(number)
        assert process.wait(20) == -number
    eventually(lambda: not running.has("sleep 1003"), "the process is gone")


def test_the_end_of_the_container_is_its_end(box: Box) -> None:
    with box.running() as name, box.cli.popen(
            "exec", name, "sh", "-c", "echo up; exec sleep 1000", stdout=subprocess.PIPE) as p:
        assert p.stdout is not None
        assert p.stdout.readline() == b"up\n"
        box.cli.ok("kill", name)
        assert p.wait(20) == 137


def test_a_container_with_an_init_can_be_entered(box: Box) -> None:
    with box.running("--init") as name:
        assert box.cli.ok("exec", name, "cat", "/proc/1/comm").text == "init"
        box.cli.ok("kill", "-s", "TERM", name)
        assert box.cli.ok("wait", name).text == "143"


def test_many_at_once(running: Running) -> None:
    started = [running.popen(then=("sh", "-c", f"echo {n}; exit {n}")) for n in range(12)]
    for n, process in enumerate(started):
        assert process.communicate(timeout=30)[0] == f"{n}\n".encode()
        assert process.returncode == n


def test_a_reader_that_went_away_ends_the_writer(running: Running) -> None:
    with running.popen(then=("yes",)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"y\n"
        process.stdout.close()
        assert process.wait(20) == 128 + signal.SIGPIPE


@pytest.mark.parametrize("terminal", [(), ("-t",)])
def test_a_process_left_behind_is_not_waited_for(running: Running,
                                                 terminal: tuple[str, ...]) -> None:
    """It holds the output open, as a server started in the background does."""
    script = "trap '' HUP; sleep 1004 & echo $! > /tmp/left; seq 20000"
    with running.popen(*terminal, then=("sh", "-c", script)) as process:
        out = process.communicate(timeout=30)[0]
    assert process.returncode == 0
    assert [int(n) for n in out.split()] == list(range(1, 20001))
    assert running.has("sleep 1004")
    running.sh("kill -9 $(cat /tmp/left)")


@pytest.mark.parametrize("terminal", [(), ("-t",)])
def test_a_process_left_behind_that_writes_for_ever_is_left_too(
        running: Running, terminal: tuple[str, ...]) -> None:
    script = "trap '' HUP; yes & exit 6"
    with running.popen(*terminal, then=("sh", "-c", script)) as process:
        process.communicate(timeout=30)
    assert process.returncode == 6
    eventually(lambda: "yes" not in running.sh("ps -o args").split(), "who writes to nobody ends")


def test_output_that_cannot_be_written_is_told(running: Running) -> None:
    with open("/dev/full", "wb") as full, running.cli.popen(
            "exec", running.name, "echo", "lost", stdout=full, stderr=subprocess.PIPE) as process:
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert os.strerror(28).encode() in err


def test_only_what_runs_can_be_entered(box: Box) -> None:
    box.cli.fails(1, "exec", "none-such", "true", says="none-such")
    with box.running(then=("true",)) as name:
        box.cli.ok("wait", name)
        box.cli.fails(1, "exec", name, "true", says="not running")
    box.cli.fails(125, "exec", "only-a-name", says="at least 2")


def test_the_first_process_is_not_disturbed(running: Running) -> None:
    assert running.sh("cat /proc/1/cmdline | tr '\\0' ' '") == "sleep 1000 "
    assert running.sh("cat /proc/1/stat").split()[3] == "0"
