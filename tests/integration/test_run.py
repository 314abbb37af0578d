"""`run`: exit codes, streams, signals, and nothing left behind."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from tests.integration.support import images
from tests.integration.support.box import Box, eventually
from tests.integration.support.cli import Cli
from tests.integration.support.images import Image, Layer, Tar
from tests.integration.support.registry import Registry


@pytest.mark.parametrize("code", [0, 1, 7, 125, 255])
def test_the_exit_code_is_the_commands(box: Box, code: int) -> None:
    assert box(then=("sh", "-c", f"exit {code}")).rc == code


@pytest.mark.parametrize("command", ["no-such-command", "/no/such", "./x", "bin/nothing", ""])
def test_a_command_that_is_not_there_is_127(box: Box, command: str) -> None:
    result = box.cli.fails(127, "run", "--rm", box.image, command, says=command)
    assert result.out == b""


@pytest.mark.parametrize("command", ["/etc/passwd", "/etc", "/proc/self/mem"])
def test_a_command_that_cannot_be_run_is_126(box: Box, command: str) -> None:
    box.cli.fails(126, "run", "--rm", box.image, command, says=command)


def test_a_missing_interpreter_is_told_apart_from_a_missing_command(box: Box,
                                                                    tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/usr/bin/none\n")
    script.chmod(0o755)
    box.cli.fails(127, "run", "--rm", "-v", f"{script}:/script", box.image, "/script", says="#!")


@pytest.mark.parametrize("options", [
    ("--no-such-option",), ("--name", "bad name"), ("--pull", "sometimes"),
    ("--network", "moon"), ("--userns", "keep-id"), ("-w", "relative"),
])
def test_an_option_that_makes_no_sense_is_125(box: Box, options: tuple[str, ...]) -> None:
    box.refuses(*options)


def test_an_image_that_is_not_there_is_125(box: Box) -> None:
    box.cli.fails(125, "run", "--rm", "--pull", "never", "no-such-image", "true",
                  says="no-such-image")


def test_a_command_that_a_signal_ends_is_128_and_the_signal(box: Box) -> None:
    with box.running() as name:
        box.cli.ok("kill", name)
        assert box.cli.ok("wait", name).text == "137"
    assert box("--init", then=("sh", "-c", "kill -SEGV $$")).rc == 139


def test_output_and_errors_stay_apart(box: Box) -> None:
    result = box(then=("sh", "-c", "echo out; echo err >&2"))
    assert (result.out, result.err) == (b"out\n", b"err\n")


def test_every_byte_passes_both_ways(box: Box) -> None:
    data = bytes(range(256)) * 8192 + os.urandom(1 << 20) + b"no newline at the end"
    result = box("-i", then=("sh", "-c", "tee /dev/stderr"), stdin=data)
    assert result.rc == 0
    assert result.out == data
    assert result.err == data


def test_without_interactive_there_is_no_standard_input(box: Box) -> None:
    assert box(then=("cat",), stdin=b"never seen").out == b""


def test_the_end_of_the_input_is_the_end_of_the_containers_input(box: Box) -> None:
    assert box("-i", then=("wc", "-c"), stdin=b"12345").text.strip() == "5"


def test_a_command_that_does_not_read_its_input_is_not_waited_for(box: Box) -> None:
    assert box("-i", then=("true",), stdin=bytes(5 << 20)).rc == 0


def test_a_gigabyte_passes_through_the_output(box: Box) -> None:
    start = time.monotonic()
    with box.popen("--log-driver", "none", then=("dd", "if=/dev/zero", "bs=1M", "count=1024"),
                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        count = 0
        while block := process.stdout.read1(1 << 20):   # type: ignore[attr-defined]
            count += len(block)
    assert (process.returncode, count) == (0, 1 << 30)
    # 2 to 3 s on two idle cores.
    assert time.monotonic() - start < 20


def test_a_slow_reader_loses_nothing(box: Box) -> None:
    script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done"
    with box.popen(then=("sh", "-c", script), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        time.sleep(0.3)
        data = process.stdout.read()
    assert data == b"".join(b"line %d\n" % i for i in range(20000))


def test_a_reader_that_went_away_ends_the_writer(box: Box) -> None:
    # Not as the first process: the kernel spares that one every signal it has no handler for.
    with box.popen(then=("sh", "-c", "yes; exit $?"), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"y\n"
        process.stdout.close()
        assert process.wait(20) == 128 + signal.SIGPIPE


@pytest.mark.parametrize("code", [0, 4])
def test_output_that_cannot_be_written_is_told(box: Box, code: int) -> None:
    with open("/dev/full", "wb") as full, box.popen(
            then=("sh", "-c", f"echo lost; echo kept >&2; exit {code}"), stdout=full,
            stderr=subprocess.PIPE) as process:
        _, err = process.communicate(timeout=20)
    assert process.returncode == (code or 1)
    assert err.startswith(b"kept\n")
    assert os.strerror(28).encode() in err


def test_what_a_verb_prints_cannot_be_written_is_told(box: Box) -> None:
    with open("/dev/full", "wb") as full, box.cli.popen(
            "ps", stdout=full, stderr=subprocess.PIPE) as process:
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert err.decode().splitlines() == [
        f"rootless: cannot write the output: {os.strerror(28)}"]


def test_a_hangup_that_is_ignored_outside_stays_ignored(box: Box) -> None:
    """As under nohup: the end of the caller's session does not end the container."""
    script = "trap 'echo got HUP' HUP; trap 'echo got USR1; exit 3' USR1; echo ready; " \
             "while :; do sleep 0.02; done"
    with box.popen(then=("sh", "-c", script), stdout=subprocess.PIPE,
                   preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.read() == b"got USR1\n"
    assert process.returncode == 3


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "USR1", "USR2", "ALRM", "TERM", "CONT"])
def test_a_signal_to_the_command_reaches_the_container(box: Box, name: str) -> None:
    script = f"trap 'echo got; exit 42' {name}; echo ready; while :; do sleep 0.02; done"
    with box.popen(then=("sh", "-c", script), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(getattr(signal, f"SIG{name}"))
        assert process.stdout.read() == b"got\n"
    assert process.returncode == 42


def test_a_signal_is_not_passed_on_when_that_is_not_wanted(box: Box) -> None:
    """It ends the command; the container runs on."""
    for verb in ("run", "attach"):
        with box.running("-i", then=("sleep", "1000")) as name:
            words = (("attach", "--sig-proxy=false", name) if verb == "attach" else
                     ("run", "--sig-proxy=false", "--name", "unproxied", box.image, "sh", "-c",
                      "echo begun; exec sleep 1000"))
            with box.cli.popen(*words, stdout=subprocess.PIPE) as process:
                if verb == "run":
                    assert process.stdout is not None
                    assert process.stdout.readline() == b"begun\n"
                    name = "unproxied"
                else:
                    time.sleep(0.5)
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == -signal.SIGTERM
            assert box.cli.ok("inspect", "-f", "{{.State.Status}}", name).text == "running"
            box.cli("rm", "-f", "unproxied")


def test_init_ends_what_ignores_nothing_and_handles_nothing(box: Box) -> None:
    """A first process without a handler never sees SIGTERM; --init makes another the first."""
    with box.popen("--init", then=("sh", "-c", "echo ready; exec sleep 1000"),
                   stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.terminate()
        assert process.wait(20) == 128 + signal.SIGTERM


def test_init_reaps_orphans(box: Box) -> None:
    script = ("for i in 1 2 3 4 5; do sh -c 'sleep 0.01 & exit' & done; wait; "
              "n=0; while ps -o stat,args | grep -q '^Z'; do n=$((n+1)); "
              "[ $n -lt 200 ] || { ps -o pid,ppid,stat,args; exit 1; }; sleep 0.02; done")
    box.sh(script, "--init")


def test_init_shows_nothing_of_the_machine(box: Box) -> None:
    script = ("readlink /proc/1/exe; cat /proc/1/environ /proc/1/maps; ls /proc/1/fd; "
              "ls /proc/1/cwd/; tr -d '\\0' < /proc/1/cmdline; echo; cat /proc/1/comm")
    result = box("--init", "-e", "SECRET=x", then=("sh", "-c", script))
    assert result.text.split() == ["init", "init"]
    assert b"denied" in result.err


def test_background_prints_the_id_and_keeps_the_output(box: Box) -> None:
    started = box.cli.ok("run", "-d", box.image, "sh", "-c", "echo out; echo err >&2; exit 9")
    cid = started.text
    assert len(cid) == 64
    assert box.cli.ok("wait", cid).text == "9"
    logs = box.cli.ok("logs", cid)
    assert (logs.out, logs.err) == (b"out\n", b"err\n")
    box.cli.ok("rm", cid)


def test_rm_leaves_nothing(box: Box) -> None:
    store = box.cli.store
    result = box("--name", "brief", then=("sh", "-c", "echo x > /made; mkdir -m 0 /closed"))
    assert result.rc == 0
    assert not (store / "names/brief").is_symlink()
    assert not box.cli.ok("ps", "-aq", "--filter", "name=brief").text
    eventually(lambda: not os.listdir(store / "trash"), "the trash is empty")
    # ... also when the container could not be started, or is killed.
    box.cli.fails(127, "run", "--rm", "--name", "brief", box.image, "nothing")
    with box.popen("--name", "brief", then=("sh", "-c", "echo up; exec sleep 1000"),
                   stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        box.cli.ok("kill", "brief")
    assert process.returncode == 137
    assert not box.cli.ok("ps", "-aq", "--filter", "name=brief").text
    eventually(lambda: not os.listdir(store / "trash"), "the trash is empty")


def test_rm_works_in_the_background_too(box: Box) -> None:
    cid = box.cli.ok("run", "-di", "--rm", box.image, "cat").text
    assert box.cli.ok("attach", cid, stdin=b"through\n").out == b"through\n"
    box.cli.fails(1, "inspect", cid)
    eventually(lambda: not (box.cli.store / "containers" / cid).exists(), "its directory is gone")


def test_a_failed_start_keeps_the_container(box: Box) -> None:
    box.cli.fails(125, "run", "--name", "failed", "-w", "/etc/passwd/x", box.image, "true",
                  says="/etc/passwd/x")
    assert box.cli.ok("inspect", "-f", "{{.State.Status}}", "failed").text in ("exited", "created")
    box.cli.ok("rm", "failed")


def test_what_a_container_writes_is_its_own(box: Box) -> None:
    with box.running() as name:
        box.cli.ok("exec", name, "sh", "-c", "echo changed > /etc/passwd; rm -r /home; touch /new")
        assert box.sh("ls -d /home; [ ! -e /new ]; wc -l < /etc/passwd") == "/home\n4"
        assert box.cli.ok("exec", name, "cat", "/etc/passwd").text == "changed"


def test_a_stopped_container_keeps_its_files(box: Box) -> None:
    with box.running(then=("sh", "-c", "cat /n 2>/dev/null; echo x >> /n")) as name:
        for lines in (0, 1, 3):
            box.cli.ok("wait", name)
            assert box.cli.ok("logs", name).text.count("x") == lines
            box.cli.ok("start", name)


def test_the_images_settings_are_the_default(cli: Cli, server: Registry) -> None:
    """ENTRYPOINT, CMD, ENV, USER, WORKDIR of an image, and what the command line makes of them."""
    name = f"{server.address}/set:latest"
    image = Image(_tiny_layers(server), {
        "Entrypoint": ["sh", "-c", "echo $0 $FLAVOUR $EXTRA; id -un; pwd"], "Cmd": ["default"],
        "Env": ["PATH=/bin", "FLAVOUR=set"], "User": "app", "WorkingDir": "/home/app",
        "Labels": {"from": "image"}})
    images.push(server.address, "set", "latest", image)
    assert cli.ok("run", "--rm", name).text == "default set\napp\n/home/app"
    assert cli.ok("run", "--rm", "-e", "EXTRA=1", "-e", "FLAVOUR=mine", name,
                  "given").text == "given mine 1\napp\n/home/app"
    assert cli.ok("run", "--rm", "--entrypoint", "", name, "id", "-u").text == "1000"
    assert cli.ok("run", "--rm", "--entrypoint", "echo", name).text == ""
    assert cli.ok("run", "--rm", "--entrypoint", "pwd", "-w", "/tmp", name).text == "/tmp"
    assert cli.ok("run", "--rm", "-u", "root", "--entrypoint", "id", name, "-u").text == "0"
    cli.fails(125, "run", "--rm", "--entrypoint", "", name, says="no command")
    cli.ok("rmi", name)


def _tiny_layers(server: Registry) -> list[Layer]:
    accept = {"Accept": images.OCI + "manifest.v1+json"}
    _, _, body = images.request(server.address, "GET", "/v2/tiny/manifests/latest", headers=accept)
    found = []
    for layer in json.loads(body)["layers"]:
        _, _, blob = images.request(server.address, "GET", f"/v2/tiny/blobs/{layer['digest']}")
        found.append(Layer(gzip.decompress(blob), "none"))
    return found


def test_an_image_without_layers_runs_what_is_mounted(cli: Cli, server: Registry,
                                                      tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(_tiny_layers(server)[0].blob)) as tar:
        busybox = tar.extractfile("bin/busybox")
        assert busybox is not None
        (tmp_path / "busybox").write_bytes(busybox.read())
    (tmp_path / "busybox").chmod(0o755)
    images.push(server.address, "empty", "latest", Image([], {"Cmd": ["/b/busybox", "ls", "/"]}))
    name = f"{server.address}/empty:latest"
    cli.fails(127, "run", "--rm", name, says="/b/busybox")
    mounted = cli.ok("run", "--rm", "-v", f"{tmp_path}:/b:ro", name, "/b/busybox", "ls", "/")
    assert mounted.text.split() == ["b", "dev", "etc", "proc", "sys"]
    cli.ok("rmi", name)


def test_an_image_with_unreadable_accounts_still_takes_numbers(cli: Cli,
                                                               server: Registry) -> None:
    layers = [*_tiny_layers(server), Layer(Tar().dir("etc").whiteout("etc/passwd")
                                           .fifo("etc/group").bytes())]
    images.push(server.address, "bare", "latest", Image(layers, {"Env": ["PATH=/bin"]}))
    name = f"{server.address}/bare:latest"
    told = cli.ok("run", "--rm", "-u", "5:6", name, "cat", "/proc/self/status").text
    assert "Uid:\t5\t5\t5\t5\nGid:\t6\t6\t6\t6\n" in told
    cli.fails(125, "run", "--rm", "-u", "ann", name, "true", says="ann")
    cli.ok("rmi", name)


@pytest.mark.parametrize("config, code", [
    ({"Env": ["=x", "", "BARE", "PATH=/bin"]}, 0), ({"WorkingDir": "/a\0b"}, 125),
    ({"WorkingDir": "/\ud800"}, 125), ({"User": "a\0\x1b[2J\nb"}, 125), ({"User": "\ud800"}, 125),
    ({"Env": ["PATH=/bin", "X=\ud800"]}, 125), ({"Cmd": ["\ud800"]}, 125),
    ({"StopSignal": "\0"}, 125), ({"Labels": {"\ud800": "\ud800"}}, 125),
    ({"WorkingDir": "relative"}, 0), ({"Cmd": [""]}, 127)])
def test_strange_settings_of_an_image_are_told_or_do_no_harm(
        cli: Cli, server: Registry, config: dict[str, object], code: int) -> None:
    images.push(server.address, "strange", "latest",
                Image(_tiny_layers(server), {"Cmd": ["pwd"], "Env": ["PATH=/bin"], **config}))
    name = f"{server.address}/strange:latest"
    cli("rmi", name)
    result = cli("run", "--rm", "-q", name)
    assert result.rc == code, result
    assert bool(code) == result.error.startswith("rootless: "), result
    told = result.error.split("\n")
    assert len(told) <= 2, result
    assert all(line.isprintable() for line in told), result
    assert bool(code) != bool(result.out), result
