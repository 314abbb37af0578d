"""Whatever is killed, full, gone or damaged: the next command works and nothing is left."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.support import filled, leftovers
from tests.integration.support.box import Box, eventually
from tests.integration.support.cli import COMMAND, Cli

_numbers = itertools.count(1)
FOREVER = ("sh", "-c", "echo up; exec sleep 1000")


def family(word: str) -> set[int]:
    """Living processes that we began with `word` on their command line: the command, its monitor
    and what they fork, until the container's own command takes the place of the last."""
    return {pid for pid, line in leftovers.descendants().items() if word in line}


def unique(word: str) -> str:
    """Not on the command line of another test, or of another run of these tests."""
    return f"{word}-{os.getpid()}-{next(_numbers)}"


def state(cli: Cli, name: str) -> dict[str, Any]:
    """What is on disk."""
    link = os.readlink(cli.store / "names" / name)
    found: dict[str, Any] = json.loads((cli.store / "containers" / link / "state.json").read_text())
    return found


def status(cli: Cli, name: str) -> str:
    return cli.ok("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", name).text


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def sound(box: Box, name: str) -> None:
    """All commands work, `name` can be removed if it is there, and then nothing is left of it."""
    cli = box.cli
    cli.ok("ps", "-a")
    cli.ok("rm", "-f", name)
    assert box.sh("echo works") == "works"
    assert name not in cli.ok("ps", "-a").text
    assert not os.path.lexists(cli.store / "names" / name)
    records = set(os.listdir(cli.store / "containers"))
    listed = set(cli.ok("ps", "-aq", "--no-trunc").text.split())
    assert records == listed
    eventually(lambda: not family(name), f"no process of {name}")
    eventually(lambda: not os.listdir(cli.store / "trash"), "the trash is empty")
    ours = {n for n in os.listdir(cli.runtime / "rootless") if n.endswith(".sock")}
    assert {n[:24] for n in ours} <= {cid[:24] for cid in listed}


MOMENTS = [ms / 1000 for ms in (0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 60, 80)]


# ---- kill -9 -----------------------------------------------------------------------------------

@pytest.mark.parametrize("user", ["0", "1000"])
@pytest.mark.parametrize("verb", [("run", "-d"), ("run", "--rm"), ("create",)], ids=" ".join)
def test_a_command_killed_at_any_moment(box: Box, verb: tuple[str, ...], user: str) -> None:
    for number, moment in enumerate(MOMENTS[::2]):
        name = unique(f"cut{number}")
        process = box.cli.popen(*verb, "--name", name, "-u", user, box.image, "sleep", "1000",
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moment)
        process.kill()
        process.wait()
        sound(box, name)


@pytest.mark.parametrize("user", ["0", "1000"])
def test_a_command_and_all_it_started_killed_at_any_moment(box: Box, user: str) -> None:
    for number, moment in enumerate(MOMENTS):
        name = unique(f"all{number}")
        process = box.cli.popen("run", "-d", "--name", name, "-u", user, box.image, "sleep",
                                "1000", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moment)
        while found := family(name):        # those forked while we looked, too
            for pid in found:
                kill(pid)
        process.wait()
        sound(box, name)


@pytest.mark.parametrize("verb", [("stop", "-t", "0"), ("kill",), ("rm", "-f")], ids=" ".join)
def test_a_command_that_ends_a_container_killed_at_any_moment(box: Box,
                                                              verb: tuple[str, ...]) -> None:
    for moment in MOMENTS[1:10:2]:
        box.cli.ok("run", "-d", "--name", "ending", box.image, "sleep", "1000")
        process = box.cli.popen(*verb, "ending", stdout=subprocess.DEVNULL)
        time.sleep(moment)
        process.kill()
        process.wait()
        sound(box, "ending")


@pytest.mark.parametrize("user", ["0", "1000"])
def test_a_killed_monitor_takes_its_container_along(box: Box, user: str) -> None:
    cli = box.cli
    with box.running("-u", user, name="orphan") as name:
        before = state(cli, name)
        kill(before["monitor"])
        eventually(lambda: not leftovers.alive(before["pid"]), "the container's process has ended")
        assert status(cli, name) == "exited 255"
        assert "monitor was killed" in cli.ok("inspect", "-f", "{{.State.Error}}", name).text
        assert cli.ok("wait", name).text == "255"
        cli.fails(1, "exec", name, "true", says="not running")
        cli.fails(1, "kill", name, says="not running")
        cli.ok("stop", name)
        cli.ok("start", name)
        assert status(cli, name) == "running 0"
    sound(box, "orphan")


def test_one_that_changed_its_user_survives_its_monitor_and_is_stopped_by_its_process(
        box: Box) -> None:
    """The kernel forgets PR_SET_PDEATHSIG when a process changes its user."""
    cli = box.cli
    script = "trap 'exit 4' TERM; echo up; while :; do sleep 0.02; done 2>/dev/null"
    with box.running(name="survivor", then=("su", "app", "-c", script)) as name:
        eventually(lambda: cli.ok("logs", name).text == "up", "it is up")
        before = state(cli, name)
        kill(before["monitor"])
        eventually(lambda: not leftovers.alive(before["monitor"]), "the monitor has ended")
        assert status(cli, name) == "running 0"
        assert cli.ok("exec", name, "id", "-u").text == "0"
        cli.fails(1, "attach", name, says="monitor")
        cli.ok("stop", name)
        assert not leftovers.alive(before["pid"])
        assert status(cli, name) == "exited 255"
    sound(box, "survivor")


def test_a_killed_first_process_is_recorded(box: Box) -> None:
    with box.running(name="headless") as name:
        kill(state(box.cli, name)["pid"])
        assert box.cli.ok("wait", name).text == "137"
        assert status(box.cli, name) == "exited 137"
    sound(box, "headless")


def test_a_killed_keeper_is_replaced_and_containers_go_on(box: Box) -> None:
    cli = box.cli
    with box.running(name="kept") as name:
        keeper = int((cli.runtime / "rootless/keeper").read_text().split()[0])
        kill(keeper)
        os.waitpid(keeper, 0)       # an orphan, so it is a child of ours
        assert box.sh("echo new") == "new"
        assert cli.ok("exec", name, "echo", "in").text == "in"
        assert status(cli, name) == "running 0"
        assert int((cli.runtime / "rootless/keeper").read_text().split()[0]) != keeper
    sound(box, "kept")


def test_a_client_that_dies_before_it_is_accepted_does_not_matter(box: Box) -> None:
    with box.running(name="rushed") as name:
        before = state(box.cli, name)
        os.kill(before["monitor"], signal.SIGSTOP)
        for _ in range(3):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(before["socket"])
        os.kill(before["monitor"], signal.SIGCONT)
        assert box.cli.ok("exec", name, "echo", "in").text == "in"
        assert status(box.cli, name) == "running 0"
        assert state(box.cli, name) == before


def test_a_client_that_talks_nonsense_is_sent_away(box: Box) -> None:
    with box.running("-i", name="babel", then=("cat",)) as name:
        before = state(box.cli, name)
        for nonsense in (b"\xff" * 64, b"W" + (3).to_bytes(4, "little") + b"a b", b"P", b"I\1"):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(before["socket"])
                client.sendall(nonsense)
                client.shutdown(socket.SHUT_WR)
                while client.recv(4096):
                    pass
        assert state(box.cli, name) == before
        assert box.cli.ok("exec", name, "echo", "in").text == "in"


# ---- at the same time --------------------------------------------------------------------------

def all_of(processes: list[subprocess.Popen[bytes]]) -> list[tuple[int, str, str]]:
    done = []
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert b"Traceback" not in err, err.decode()
        done.append((process.returncode, out.decode().strip(), err.decode()))
    return done


def at_once(cli: Cli, *commands: tuple[str, ...]) -> list[tuple[int, str, str]]:
    return all_of([cli.popen(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                   for words in commands])


def test_twenty_at_once(box: Box) -> None:
    done = at_once(box.cli, *[("run", "--rm", box.image, "sh", "-c", f"echo {n}; exit {n}")
                              for n in range(20)])
    assert [(code, out) for code, out, _ in done] == [(n, str(n)) for n in range(20)]


def test_the_first_commands_of_a_user_at_once(fresh: Cli, box: Box) -> None:
    """They make the store, pull the image and start the keeper all together."""
    done = at_once(fresh, *[("run", "--rm", box.image, "echo", str(n)) for n in range(6)])
    assert [(code, out) for code, out, _ in done] == [(0, str(n)) for n in range(6)], done
    keepers = [pid for pid in leftovers.descendants()
               if leftovers.command_line(pid) == "sleep 900"
               and f"XDG_RUNTIME_DIR={fresh.runtime}" in environment(pid)]
    assert len(keepers) <= 1, "one keeper is enough"


def environment(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/environ").read_text().split("\0")
    except OSError:
        return []


def test_of_several_that_want_one_name_one_gets_it(box: Box) -> None:
    words = ("create", "--name", "wanted", box.image, "true")
    done = at_once(box.cli, *[words] * 8)
    assert sorted(code for code, _, _ in done) == [0] + [1] * 7
    assert all("already in use" in err for code, _, err in done if code)
    (cid,) = (out for code, out, _ in done if code == 0)
    assert box.cli.ok("inspect", "-f", "{{.Id}}", "wanted").text == cid
    sound(box, "wanted")


def test_started_by_several_it_runs_once(box: Box) -> None:
    cli = box.cli
    cli.ok("create", "--name", "once", box.image, *FOREVER)
    assert at_once(cli, *[("start", "once")] * 5) == [(0, "once", "")] * 5
    before = state(cli, "once")
    eventually(lambda: cli.ok("logs", "once").text, "it writes")
    assert cli.ok("logs", "once").text == "up"
    done = at_once(cli, *[("stop", "-t", "0", "once")] * 3, *[("kill", "once")] * 2)
    assert [d[0] for d in done[:3]] == [0] * 3
    assert not leftovers.alive(before["pid"])
    sound(box, "once")


def test_removed_by_several_it_is_gone(box: Box) -> None:
    for _ in range(3):
        box.cli.ok("run", "-d", "--name", "doomed", box.image, "sleep", "1000")
        done = at_once(box.cli, *[("rm", "-f", "doomed")] * 4)
        assert all(code == 0 or "no such container" in err for code, _, err in done), done
        sound(box, "doomed")


@pytest.mark.parametrize("force", [(), ("-f",)], ids=["rm", "rm -f"])
def test_removed_while_it_starts(box: Box, force: tuple[str, ...]) -> None:
    cli = box.cli
    for moment in MOMENTS[:8]:
        cli.ok("create", "--name", "torn", box.image, "sleep", "1000")
        starting = cli.popen("start", "torn", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        time.sleep(moment)
        removed = cli("rm", *force, "torn")
        (started,) = all_of([starting])
        if removed.rc:
            assert not force, removed
            assert "running" in removed.error
            assert started[:2] == (0, "torn")
            assert status(cli, "torn") == "running 0"
        else:
            assert started[0] == 0 or "no such container" in started[2], started
            cli.fails(1, "inspect", "--type", "container", "torn")
        sound(box, "torn")


# ---- things that are gone, full, closed --------------------------------------------------------

def delete_run_directory(cli: Cli) -> None:
    # Without its record the keeper would sleep for a while, known to nobody.
    kill(int((cli.runtime / "rootless/keeper").read_text().split()[0]))
    shutil.rmtree(cli.runtime / "rootless")


def test_the_run_directory_is_deleted(box: Box) -> None:
    cli = box.cli
    with box.running(name="unrooted", then=FOREVER) as name:
        delete_run_directory(cli)
        assert status(cli, name) == "running 0"
        assert cli.ok("exec", name, "echo", "in").text == "in"
        cli.fails(1, "attach", name, says="monitor")
        assert box.sh("echo new") == "new"
        eventually(lambda: cli.ok("logs", name).text == "up", "the log is there")
        cli.ok("stop", "-t", "0", name)
        assert status(cli, name) == "exited 137"
        cli.ok("start", name)
        delete_run_directory(cli)
    sound(box, "unrooted")


def test_a_container_whose_directory_is_gone_is_no_container(box: Box) -> None:
    cli = box.cli
    cli.ok("run", "-d", "--name", "hollow", box.image, "sleep", "1000")
    before = state(cli, "hollow")
    directory = cli.store / "containers" / os.readlink(cli.store / "names/hollow")
    filled.remove_tree(directory)
    cli.ok("ps", "-a")
    cli.fails(1, "stop", "hollow", says="no such container")
    kill(before["pid"])
    eventually(lambda: not leftovers.alive(before["monitor"]), "the monitor ends")
    cli.ok("create", "--name", "hollow", box.image, "true")
    sound(box, "hollow")


CLOSED = ["<&-", ">&-", "2>&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-"]


@pytest.mark.parametrize("closed", CLOSED)
@pytest.mark.parametrize("options", [(), ("-i",), ("-d",)], ids=["run", "run -i", "run -d"])
def test_closed_standard_streams(box: Box, closed: str, options: tuple[str, ...]) -> None:
    cli = box.cli
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND, "run", *options, "--name", "closed",
         box.image, "sh", "-c", "cat; echo out; echo err >&2; exit 3"],
        env=cli.env, cwd=cli.home, stdin=subprocess.DEVNULL, capture_output=True,
        timeout=30, check=False)
    detached = options == ("-d",)
    assert done.returncode == (0 if detached else 3), done
    assert cli.ok("wait", "closed").text == "3"
    logs = cli.ok("logs", "closed")
    assert (logs.out, logs.err) == (b"out\n", b"err\n")
    if not detached:
        assert done.stdout == (b"" if ">&-" in closed.replace("2>&-", "") else b"out\n")
        assert done.stderr == (b"" if "2>&-" in closed else b"err\n")
    cli.ok("rm", "closed")


@pytest.mark.parametrize("words", [("ps", "-a"), ("logs", "full"), ("inspect", "full"),
                                   ("wait", "full")], ids=" ".join)
def test_a_reader_that_is_gone_ends_a_listing_without_a_word(box: Box,
                                                             words: tuple[str, ...]) -> None:
    cli = box.cli
    cli.ok("run", "--name", "full", box.image, "true")
    r, w = os.pipe()
    os.close(r)
    with cli.popen(*words, stdout=w, stderr=subprocess.PIPE) as process:
        os.close(w)
        _, err = process.communicate(timeout=20)
    assert err == b""
    assert process.returncode == (0 if words[0] == "logs" else 141)
    cli.ok("rm", "full")


@pytest.mark.parametrize("where", ["", "/", "relative", "/no/such", "/proc", "OTHERS"])
def test_a_run_directory_that_cannot_be_ours(box: Box, where: str, tmp_path: Path) -> None:
    """su, sudo, cron: there is none, or it is somebody else's."""
    cli = box.cli
    if where == "OTHERS":
        tmp_path.chmod(0o777)       # others may write it
        where = str(tmp_path)
    env = {"XDG_RUNTIME_DIR": where}
    places = [Path(f"/run/user/{os.getuid()}/rootless"), Path(f"/tmp/rootless-{os.getuid()}")]
    before = [p.exists() for p in places]
    try:
        assert box(then=("echo", "in"), env=env).text == "in"
        cid = cli.ok("run", "-d", "--name", "placed", box.image, "sleep", "1000", env=env).text
        # The same user with the right one sees it, too.
        assert cli.ok("ps", "-q", "--no-trunc", "--filter", "name=placed").text == cid
        assert cli.ok("exec", cid, "echo", "in").text == "in"
        assert where in ("", "/proc") or not (cli.home / where / "rootless").exists()
    finally:
        sound(box, "placed")
        cli("system", "stop", env=env)
        for place, was in zip(places, before):
            if not was:
                shutil.rmtree(place, ignore_errors=True)


AGAIN = ("unshare", "--user", f"--map-user={os.getuid()}", f"--map-group={os.getgid()}")


def script_in(cli: Cli, prepare: str, script: str, maps: tuple[str, ...] = (),
              inside: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run a script that calls `rootless` where `prepare` made the mounts. $DISK is a directory,
    and the store lies in it."""
    disk = cli.home / "disk"
    disk.mkdir(exist_ok=True)
    words = " ".join(f'"{w}"' if "'" in w else f"'{w}'" for w in COMMAND)
    body = f'rootless() {{ {words} "$@"; }}\n{script}\nrootless system stop >/dev/null'
    return subprocess.run(
        ["unshare", "--map-root-user", *maps, "--mount", "sh", "-ec", prepare + '\nexec "$@"',
         "sh", *inside, "sh", "-c", body],
        env={**cli.env, "DISK": str(disk), "ROOTLESS_ROOT": f"{disk}/store"}, cwd="/", check=False,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)


FILL = 'dd if=/dev/zero of="$DISK/fill" bs=4k 2>/dev/null'


def test_a_full_disk_is_told_and_nothing_breaks(fresh: Cli, box: Box) -> None:
    done = script_in(fresh, 'mount -t tmpfs -o size=10m,mode=755 tmpfs "$DISK"', fr"""
        rootless run --rm {box.image} true
        rootless run -d --name up {box.image} sh -c \
            'echo up; trap "exit 7" TERM; while :; do sleep 0.02; done'
        while ! rootless logs up | grep -q up; do :; done
        while [ -n "$(ls "$DISK/store/trash")" ]; do :; done     # of the first one's --rm
        {FILL}
        rootless run --name late {box.image} true; echo "run $?"
        rootless create --name late {box.image} true; echo "create $?"
        rootless ps --format '{{{{.Names}}}} {{{{.State}}}}'
        rootless exec up echo in
        rootless exec up sh -c 'dd if=/dev/zero of=/x bs=1M count=100' 2>&1 | grep -o 'No space.*'
        rootless stop up
        rootless ps -a --format '{{{{.Names}}}} {{{{.Status}}}}' | cut -d' ' -f1-3
        rootless rm up; echo "rm $?"
        rm "$DISK/fill"
        rootless run --rm {box.image} echo again
        rootless ps -aq | wc -l
        while [ -n "$(ls "$DISK/store/trash")" ]; do :; done
        ls "$DISK/store/containers" "$DISK/store/tmp" | grep -v :
        """, inside=AGAIN)
    words = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    assert words[1:] == ["run 125", "create 1", "up running", "in", "No space left on device", "up",
                         "up Exited (7)", "up", "rm 0", "again", "0"], done
    assert done.stderr.count("No space left on device") == 2, done.stderr
    assert "free some space" in done.stderr
    assert "Traceback" not in done.stderr


# ---- damage ------------------------------------------------------------------------------------

DAMAGE = [b"", b"{", b"\0" * 300, b"\xff\xfe", b"[]", b"{}", b"null", b'{"status":"running"}',
          b'{"id":1,"name":2,"image":3,"command":4,"created":5,"labels":6,"status":7}',
          b"[" * 100_000]


@pytest.fixture
def wrecked(box: Box) -> Iterator[Path]:
    """The directory of a container that has run, to be damaged."""
    box.cli.ok("run", "--name", "wrecked", box.image, "echo", "out")
    yield box.cli.store / "containers" / os.readlink(box.cli.store / "names/wrecked")
    sound(box, "wrecked")


@pytest.mark.parametrize("damage", DAMAGE, ids=range(len(DAMAGE)))
@pytest.mark.parametrize("file", ["container.json", "state.json", "config.json"])
def test_a_damaged_file_is_told_and_the_container_can_be_removed(
        box: Box, wrecked: Path, file: str, damage: bytes) -> None:
    cli = box.cli
    (wrecked / file).write_bytes(damage)
    cid = wrecked.name
    assert cid in cli.ok("ps", "-aq", "--no-trunc").text.split()
    assert cid[:12] in cli.ok("ps", "-a").text
    assert cli.ok("logs", cid).text == "out"
    cli.ok("stop", cid)
    cli.fails(1, "exec", cid, "true")
    if file == "state.json":
        assert cli.ok("inspect", "-f", "{{.State.Status}}", cid).text == "exited"
        assert cli.ok("start", "-a", cid).text == "out"
    else:
        cli.fails(1, "start", "-a", cid, says="damaged")


def test_a_running_container_with_a_damaged_record_can_be_stopped(box: Box) -> None:
    cli = box.cli
    cli.ok("run", "-d", "--name", "blurred", box.image, "sleep", "1000")
    before = state(cli, "blurred")
    directory = cli.store / "containers" / os.readlink(cli.store / "names/blurred")
    (directory / "container.json").write_bytes(b"\0" * 512)
    assert "<damaged>" in cli.ok("ps").text
    cli.ok("stop", "-t", "0", "blurred")
    assert not leftovers.alive(before["pid"])
    sound(box, "blurred")


def test_a_damaged_keepers_record_is_replaced(box: Box) -> None:
    record = box.cli.runtime / "rootless/keeper"
    old = int(record.read_text().split()[0])
    for damage in (b"", b"1 1\n", b"\0" * 100, b"999999999 1\nx\n0 0 1\n0 0 1\n\n"):
        record.write_bytes(damage)
        assert box.sh("id -u") == "0"
        kill(int(record.read_text().split()[0]))
    kill(old)
    assert box.sh("id -u") == "0"


# ---- where uid 0 is all there is ---------------------------------------------------------------

@pytest.mark.parametrize("maps", [("--map-auto",), ()], ids=["with more ids", "alone"])
def test_as_root_of_a_namespace(fresh: Cli, box: Box, maps: tuple[str, ...]) -> None:
    """A job's container often has no other user than root, whose root is not the machine's."""
    done = script_in(fresh, "mount -t tmpfs -o mode=755 tmpfs /run", f"""
        rootless run --rm {box.image} id -u
        rootless run --rm {box.image} sh -c 'echo x > /made; chown 5:6 /made && cat /made'
        rootless run -d --name one {box.image} sleep 1000 | wc -c
        rootless exec one echo in
        rootless stop -t 0 one
        rootless ps -aq --filter exited=137 | wc -l
        rootless rm one
        while [ -n "$(ls "$DISK/store/trash")" ]; do :; done
        ls "$DISK/store/containers" | grep -v :
        """, maps)
    words = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    assert words == ["0", "x", "65", "in", "one", "1", "one"], done
    filled.remove_tree(fresh.home / "disk")
