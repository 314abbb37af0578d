"""rename, top, wait --condition, what acts on many, --replace."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.integration.support.box import Box, eventually
from tests.integration.support.cli import Cli

_labels = itertools.count(1)
Make = Callable[..., str]


@pytest.fixture
def label() -> str:
    return f"verbs={next(_labels)}"


@pytest.fixture
def make(box: Box, label: str) -> Iterator[Make]:
    def one(verb: str, *options: str, then: tuple[str, ...] = ("sleep", "1000")) -> str:
        words = ("run", "-d") if verb == "run" else (verb,)
        return box.cli.ok(*words, "--label", label, *options, box.image, *then).text

    yield one
    ids = box.cli.ok("ps", "-aq", "--filter", f"label={label}").text.split()
    if ids:
        box.cli.ok("rm", "-f", *ids)


def status(cli: Cli, name: str) -> str:
    return cli.ok("inspect", "-f", "{{.State.Status}}", name).text


# ---- rename ------------------------------------------------------------------------------------

def test_another_name_is_its_only_one(cli: Cli, make: Make) -> None:
    cid = make("run", "--name", "before")
    assert cli.ok("rename", "before", "after").out == b""
    assert cli.ok("inspect", "-f", "{{.Id}} {{.Name}}", "after").text == f"{cid} /after"
    cli.fails(1, "inspect", "--type", "container", "before", says="no such container")
    other = make("create", "--name", "before")
    cli.fails(1, "rename", "before", "after", says="already in use")
    cli.fails(1, "rename", "after", "after", says="already")
    cli.fails(125, "rename", "after", "-x/y", says="unknown shorthand")
    cli.fails(125, "rename", "after", "x/y", says="invalid container name")
    assert cli.ok("ps", "-a", "--no-trunc", "-q", "--filter", "name=^before$").text == other
    assert sorted(n for n in os.listdir(cli.store / "names") if n in ("before", "after")) == [
        "after", "before"]


def test_a_new_name_goes_with_it_at_its_end(cli: Cli, make: Make) -> None:
    make("run", "--rm", "--name", "fleeting")
    cli.ok("rename", "fleeting", "gone")
    cli.ok("stop", "-t", "0", "gone")
    eventually(lambda: not {"fleeting", "gone"} & set(os.listdir(cli.store / "names")),
               "both names are free")


def test_of_several_that_rename_to_one_name_one_does(cli: Cli, make: Make) -> None:
    ids = [make("create") for _ in range(4)]
    running = [cli.popen("rename", i, "wanted", stderr=subprocess.PIPE) for i in ids]
    codes = []
    for process in running:
        _, err = process.communicate(timeout=60)
        codes.append(process.returncode)
        assert process.returncode == 0 or b"already in use" in err, err
    assert sorted(codes) == [0, 1, 1, 1]
    assert cli.ok("inspect", "-f", "{{.Id}}", "wanted").text in ids


# ---- top ---------------------------------------------------------------------------------------

def test_top_shows_the_processes_of_the_container_alone(cli: Cli, make: Make) -> None:
    cid = make("run", then=("sh", "-c", "sleep 1001 & sleep 1002 & wait"))
    make("run", then=("sleep", "1003"))
    make("run", "-u", "1000", then=("sleep", "1004"))
    eventually(lambda: "1002" in cli.ok("top", cid).text, "all have begun")
    with cli.popen("exec", cid, "sleep", "1005") as entered:
        eventually(lambda: "1005" in cli.ok("top", cid).text, "what has entered is shown")
        lines = cli.ok("top", cid).text.splitlines()
        entered.kill()
    assert lines[0].split() == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    shown = sorted(line.split(None, 7)[7] for line in lines[1:])
    assert shown == ["sh -c sleep 1001 & sleep 1002 & wait", "sleep 1001", "sleep 1002",
                     "sleep 1005"]
    pid = cli.ok("inspect", "-f", "{{.State.Pid}}", cid).text
    assert pid in [line.split()[1] for line in lines[1:]]


def test_top_takes_the_options_of_ps(cli: Cli, make: Make) -> None:
    cid = make("run", "-u", "1000")
    lines = cli.ok("top", cid, "-o", "pid,args").text.splitlines()
    assert [line.split(None, 1)[1] for line in lines] == ["COMMAND", "sleep 1000"]
    assert cli.ok("top", cid, "aux").text.splitlines()[0].split()[:2] == ["USER", "PID"]
    cli.fails(125, "top", cid, "-o", "args", says="PID")
    cli.fails(125, "top", cid, "--no-such", says="ps:")
    cli.ok("stop", "-t", "0", cid)
    cli.fails(1, "top", cid, says="not running")


# ---- wait --------------------------------------------------------------------------------------

@pytest.mark.parametrize("condition", ["stopped", "exited", "not-running", "next-exit", "removed"])
def test_wait_waits_for_what_it_was_told(cli: Cli, make: Make, condition: str) -> None:
    cid = make("run", *(["--rm"] if condition == "removed" else []),
               then=("sh", "-c", "trap 'exit 7' TERM; sleep 1000 & wait"))
    with cli.popen("wait", "--condition", condition, cid, stdout=subprocess.PIPE) as waiting:
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(0.3)
        cli.ok("stop", cid)
        assert waiting.communicate(timeout=20)[0] == b"7\n"


def test_wait_for_one_to_run_and_to_be_well(cli: Cli, make: Make) -> None:
    cid = make("create", "--health-cmd", "test -e /well", "--health-interval", "100ms",
               "--health-retries", "1")
    assert cli.ok("wait", "--condition", "created", cid).text == "0"
    with cli.popen("wait", "--condition", "running", cid, stdout=subprocess.PIPE) as waiting:
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(0.2)
        cli.ok("start", cid)
        assert waiting.communicate(timeout=20)[0] == b"-1\n"
    assert cli.ok("wait", "--condition", "unhealthy", cid).text == "-1"
    cli.ok("exec", cid, "touch", "/well")
    assert cli.ok("wait", "--condition", "healthy", cid).text == "-1"


def test_wait_for_what_makes_no_sense(cli: Cli) -> None:
    cli.fails(125, "wait", "--condition", "happy", "x", says="not-running")
    cli.fails(1, "wait", "none-such", says="no such container")
    assert cli.ok("wait", "--ignore", "none-such").text == "-1"


# ---- many --------------------------------------------------------------------------------------

def test_what_acts_on_containers_takes_those_that_match(cli: Cli, make: Make, label: str) -> None:
    ids = [make("run"), make("run"), make("create")]
    mine = ("--filter", f"label={label}")
    assert len(cli.ok("stop", "-t", "0", *mine).text.split()) == 3
    assert [status(cli, i) for i in ids] == ["exited", "exited", "created"]
    cli.ok("start", "--all", *mine, "--filter", "status=exited")
    assert [status(cli, i) for i in ids] == ["running", "running", "created"]
    cli.ok("kill", *mine, "--filter", "status=running")
    cli.ok("wait", *ids[:2])
    cli.ok("restart", "-t", "0", *mine, "--filter", "status=exited")
    assert [status(cli, i) for i in ids] == ["running", "running", "created"]
    cli.ok("rm", "-f", *mine)
    assert cli.ok("ps", "-aq", *mine).text == ""


def test_the_latest_is_the_last_created(cli: Cli, make: Make) -> None:
    make("create")
    cid = make("create")
    cli.ok("start", "-l")
    assert status(cli, cid) == "running"
    cli.ok("rm", "-f", "-l")
    assert cli.ok("ps", "-aq", "--no-trunc", "--filter", f"id={cid}").text == ""
    cli.fails(125, "stop", "-l", "x", says="named")
    cli.fails(125, "stop", says="at least 1")


def test_rm_can_be_patient_and_silent(cli: Cli, make: Make, tmp_path: object) -> None:
    make("run", "--name", "patient", "-v", f"{tmp_path}:/v",
         then=("sh", "-c", "trap 'echo ended > /v/x; exit' TERM; sleep 1000 & wait"))
    cli.ok("rm", "-f", "-t", "10", "patient", "none-such")
    assert os.path.exists(f"{tmp_path}/x")
    assert cli.ok("rm", "-i", "none-such").out == b""
    cli.fails(125, "rm", "-t", "3", "x", says="--force")


def test_replace_takes_the_place_of_one_with_the_name(cli: Cli, make: Make) -> None:
    first = make("run", "--name", "only", "--replace")
    second = make("run", "--name", "only", "--replace")
    assert first != second
    assert cli.ok("inspect", "-f", "{{.Id}}", "only").text == second
    assert cli.ok("ps", "-aq", "--filter", f"id={first}").text == ""
    cli.fails(125, "run", "--replace", "host", "true", says="--name")
