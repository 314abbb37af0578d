"""A container's life: create, start, ps, logs, wait, attach, stop, kill, inspect, rm."""

from __future__ import annotations

import datetime
import itertools
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.support.box import Box, eventually
from tests.integration.support.cli import Cli, Result

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")
_labels = itertools.count(1)

Make = Callable[..., str]


@pytest.fixture
def label() -> str:
    """Marks the containers of one test: others may live in the same store."""
    return f"life={next(_labels)}"


@pytest.fixture
def make(box: Box, label: str) -> Iterator[Make]:
    """`make(VERB, options..., then=command)`: a container that is removed after the test."""
    def one(verb: str, *options: str, then: tuple[str, ...] = ("sleep", "1000")) -> str:
        words = ("run", "-d") if verb == "run" else (verb,)
        return box.cli.ok(*words, "--label", label, *options, box.image, *then).text

    yield one
    ids = box.cli.ok("ps", "-aq", "--filter", f"label={label}").text.split()
    if ids:
        box.cli.ok("rm", "-f", *ids)


def status(cli: Cli, name: str) -> str:
    return cli.ok("inspect", "-f", "{{.State.Status}}", name).text


def waiting(name: str, cli: Cli, text: str) -> None:
    """Until the container has written `text`."""
    with cli.popen("logs", "-f", name, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if text.encode() in line:
                process.kill()
                return
    raise AssertionError(f"{name} never wrote {text}")


# ---- create, start -----------------------------------------------------------------------------

def test_create_makes_a_container_and_runs_nothing(cli: Cli, make: Make, label: str) -> None:
    cid = make("create", then=("sh", "-c", "echo ran; exit 5"))
    assert re.fullmatch("[0-9a-f]{64}", cid)
    assert cli.ok("ps", "-q", "--filter", f"label={label}").text == ""
    assert cli.ok("ps", "-a", "--filter", f"label={label}", "--format",
                  "{{.ID}} {{.Status}} {{.State}}").text == f"{cid[:12]} Created created"
    assert cli.ok("logs", cid).out == b""
    (found,) = cli.ok("inspect", cid).json
    assert found["State"]["Running"] is False
    assert found["State"]["Pid"] == 0
    assert found["State"]["StartedAt"].startswith("0001-01-01")
    assert cli.ok("start", cid[:12]).text == cid[:12]
    assert cli.ok("wait", cid).text == "5"
    assert cli.ok("logs", cid).out == b"ran\n"
    assert status(cli, cid) == "exited"


def test_starting_what_runs_changes_nothing(cli: Cli, make: Make) -> None:
    cid = make("run")
    pid = cli.ok("inspect", "-f", "{{.State.Pid}}", cid).text
    assert cli.ok("start", cid).text == cid
    assert cli.ok("inspect", "-f", "{{.State.Pid}}", cid).text == pid


def test_one_that_cannot_be_started_does_not_keep_the_others(cli: Cli, make: Make) -> None:
    one, bad, two = make("create"), make("create", then=("/no/such",)), make("create")
    result = cli.fails(1, "start", one, "none-such", bad, two, says="no such container: none-such")
    assert result.text.split() == [one, two]
    assert "/no/such" in result.error
    assert [status(cli, c) for c in (one, bad, two)] == ["running", "exited", "running"]
    assert cli.ok("inspect", "-f", "{{.State.ExitCode}}", bad).text == "127"


def test_start_attached_shows_the_output_and_has_its_exit_code(cli: Cli, make: Make) -> None:
    cid = make("create", then=("sh", "-c", "echo out; echo err >&2; exit 6"))
    for _ in range(2):
        result = cli("start", "-a", cid)
        assert (result.rc, result.out, result.err) == (6, b"out\n", b"err\n")
    assert cli.ok("logs", cid).out == b"out\nout\n"


def test_start_interactive_passes_on_the_input(cli: Cli, make: Make) -> None:
    cid = make("create", "-i", then=("cat",))
    assert cli.ok("start", "-ai", cid, stdin=b"one\ntwo\n").out == b"one\ntwo\n"


def test_several_cannot_be_started_attached(cli: Cli, make: Make) -> None:
    one, two = make("create"), make("create")
    cli.fails(125, "start", "-a", one, two, says="several")
    assert status(cli, one) == status(cli, two) == "created"


def test_an_id_file_holds_the_id_and_is_never_overwritten(cli: Cli, make: Make,
                                                          tmp_path: Path) -> None:
    where = tmp_path / "cid"
    cid = make("create", "--cidfile", str(where))
    assert where.read_text() == cid
    cli.fails(125, "run", "--cidfile", str(where), "host", "true", says=str(where))
    assert where.read_text() == cid


# ---- names -------------------------------------------------------------------------------------

def test_a_name_is_one_containers_until_that_is_removed(cli: Cli, box: Box, make: Make) -> None:
    cid = make("create", "--name", "taken")
    assert cli.ok("inspect", "-f", "{{.Name}}", "taken").text == "/taken"
    result = cli.fails(1, "create", "--name", "taken", box.image, "true", says=cid[:12])
    assert "rootless rm taken" in result.error
    assert cli.ok("rm", "taken").text == "taken"
    cli.fails(1, "start", "taken", says="no such container: taken")
    assert make("create", "--name", "taken") != cid


@pytest.mark.parametrize("name", ["", "-a", ".hidden", "../up", "a/b", "a b", "a\nb", "ü", "..",
                                  "x" * 256])
def test_a_name_that_could_be_mistaken_is_refused(cli: Cli, box: Box, name: str) -> None:
    before = os.listdir(cli.store / "containers"), os.listdir(cli.store / "names")
    if name:
        cli.fails(125, "create", f"--name={name}", box.image, "true", says="name")
    cli.fails(1, "inspect", "--type", "container", "--", name)
    cli.fails(1, "rm", "--", name, says="no such container")
    assert (os.listdir(cli.store / "containers"), os.listdir(cli.store / "names")) == before


def test_one_without_a_name_gets_one(cli: Cli, make: Make) -> None:
    names = {cli.ok("inspect", "-f", "{{.Name}}", make("create")).text for _ in range(5)}
    assert len(names) == 5
    assert all(re.fullmatch("/[a-z]+_[a-z]+[0-9]*", n) for n in names), names


def test_the_start_of_an_id_will_do_while_it_is_of_one_only(cli: Cli, make: Make,
                                                            label: str) -> None:
    # Of seventeen, two begin with the same digit.
    ids = sorted(make("create") for _ in range(17))
    first, second = next((a, b) for a, b in zip(ids, ids[1:]) if a[0] == b[0])
    shared = first[:next(i for i, c in enumerate(first) if second[i] != c)]
    cli.fails(1, "inspect", "--type", "container", shared, says="several containers")
    cli.fails(1, "rm", shared, says="several containers")
    longer = first[:len(shared) + 1]
    assert cli.ok("inspect", "-f", "{{.Id}}", longer).text == first
    assert len(cli.ok("ps", "-aq", "--filter", f"label={label}").text.split()) == 17


def test_a_name_goes_before_the_start_of_an_id(cli: Cli, make: Make) -> None:
    one = make("create")
    other = make("create", "--name", one[:6])
    assert cli.ok("inspect", "-f", "{{.Id}}", one[:6]).text == other
    assert cli.ok("inspect", "-f", "{{.Id}}", one).text == one


# ---- ps ----------------------------------------------------------------------------------------

def test_ps_has_dockers_columns(cli: Cli, box: Box, make: Make, label: str) -> None:
    cid = make("run", "--name", "seen", then=("sh", "-c", "exec sleep 1000"))
    head, row = cli.ok("ps", "--filter", f"label={label}").text.splitlines()
    assert re.split(" {3,}", head) == ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS",
                                       "PORTS", "NAMES"]
    at = {name: head.index(name) for name in ("IMAGE", "COMMAND", "CREATED", "STATUS", "NAMES")}
    assert row[:at["IMAGE"]].rstrip() == cid[:12]
    assert row[at["IMAGE"]:at["COMMAND"]].rstrip() == box.image
    assert row[at["COMMAND"]:at["CREATED"]].rstrip() == '"sh -c exec sleep 10…"'
    assert re.match(r"(Less than a|\d+) seconds? ago ", row[at["CREATED"]:])
    assert re.match(r"Up (Less than a|\d+) seconds? ", row[at["STATUS"]:])
    assert row[at["NAMES"]:] == "seen"
    whole = cli.ok("ps", "--no-trunc", "--filter", f"label={label}").text
    assert cid in whole
    assert '"sh -c exec sleep 1000"' in whole


def test_ps_of_nothing_is_the_heading(cli: Cli) -> None:
    assert len(cli.ok("ps", "--filter", "label=of-nobody").text.splitlines()) == 1
    assert cli.ok("ps", "-q", "--filter", "label=of-nobody").out == b""


@pytest.fixture(scope="module")
def four(cli: Cli, box: Box) -> Iterator[dict[str, str]]:
    """Four containers with the label `four`, oldest first: created, exited 0, exited 3, running."""
    def one(name: str, *words: str) -> str:
        verb = ("create",) if name == "made" else ("run", "-d")
        at = words.index("--")
        return cli.ok(*verb, "--name", f"four-{name}", "--label", "four", *words[:at], box.image,
                      *words[at + 1:]).text

    ids = {"made": one("made", "--label", "size=small", "--", "true"),
           "good": one("good", "--label", "size=big", "--", "true"),
           "bad": one("bad", "--", "sh", "-c", "exit 3"),
           "up": one("up", "--label", "size=big", "--restart", "always", "-v", "/usr:/data", "--",
                     "sleep", "1000")}
    cli.ok("wait", ids["good"], ids["bad"])
    yield ids
    cli.ok("rm", "-f", *ids.values())


@pytest.mark.parametrize("options, expected", [
    ((), "up"),
    (("-a",), "up bad good made"),
    (("--filter", "status=exited"), "bad good"),
    (("--filter", "status=created"), "made"),
    (("--filter", "status=running"), "up"),
    (("--filter", "status=created", "--filter", "status=running"), "up made"),
    (("--filter", "exited=3"), "bad"),
    (("--filter", "exited=0"), "good"),
    (("-a", "--filter", "name=four-b"), "bad"),
    (("-a", "--filter", "name=four", "--filter", "label=size"), "up good made"),
    (("-a", "--filter", "label=size=big"), "up good"),
    (("-a", "--filter", "label=size=big", "--filter", "label=size=small"), ""),
    (("-a", "--filter", "before=four-bad"), "good made"),
    (("-a", "--filter", "since=four-good"), "up bad"),
    (("-a", "--filter", "ancestor=TINY"), "up bad good made"),
    (("-a", "--filter", "ancestor=tiny"), ""),
    (("-a", "--filter", "ancestor=host"), ""),
    (("-a", "--filter", "name=^four-up$"), "up"),
    (("-a", "--filter", "name=^/?four-(up|bad)$"), "up bad"),
    (("-a", "--filter", "name=^four-u$"), ""),
    (("-a", "--filter", "id=ID"), "up"),
    (("-a", "--filter", "volume=/data"), "up"),
    (("-a", "--filter", "volume=/home"), ""),
    (("-a", "--filter", "network=bridge"), "up bad good made"),
    (("-a", "--filter", "network=other"), ""),
    (("-a", "--filter", "label!=size"), "bad"),
    (("-a", "--filter", "until=0s"), "up bad good made"),
    (("-a", "--filter", "until=10m"), ""),
    (("-a", "--filter", "restart-policy=always"), "up"),
    (("--filter", "should-start-on-boot=true"), "up"),
    (("-a", "--filter", "expose=80"), ""),
])
def test_ps_lists_the_newest_first_and_what_the_filters_leave(
        cli: Cli, box: Box, four: dict[str, str], options: tuple[str, ...],
        expected: str) -> None:
    words = [w.replace("TINY", box.image).replace("=ID", f"={four['up'][:9]}") for w in options]
    listed = cli.ok("ps", "-q", "--no-trunc", "--filter", "label=four", *words).text.split()
    names = {cid: name for name, cid in four.items()}
    assert [names[cid] for cid in listed] == expected.split()


def test_ps_can_be_limited_to_the_last(cli: Cli, four: dict[str, str]) -> None:
    def names(*options: str) -> list[str]:
        return cli.ok("ps", "--filter", "label=four", *options,
                      "--format", "{{.Names}}").text.split()

    assert names("-l") == ["four-up"]
    assert names("-n", "3") == ["four-up", "four-bad", "four-good"]
    assert names("-a", "--filter", f"id={four['bad'][:20]}") == ["four-bad"]


@pytest.mark.parametrize("text", [
    "status=melted", "colour=red", "status", "before=none-such", "exited=no", "until=whenever",
    "name=(", "expose=http", "should-start-on-boot=perhaps"])
def test_a_filter_that_makes_no_sense_is_told(cli: Cli, four: dict[str, str], text: str) -> None:
    cli.fails(125, "ps", "-a", "--filter", text, says=text.partition("=")[2])


def test_ps_formats(cli: Cli, box: Box, four: dict[str, str]) -> None:
    def ps(template: str) -> str:
        return cli.ok("ps", "-a", "--filter", "name=four-bad", "--format", template).text

    cid = four["bad"]
    assert ps("{{.ID}}|{{.Names}}|{{.Image}}|{{.Command}}") == \
        f'{cid[:12]}|four-bad|{box.image}|"sh -c exit 3"'
    assert re.fullmatch(r"Exited \(3\) (Less than a|\d+) seconds? ago", ps("{{.Status}}"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \+0000 UTC", ps("{{.CreatedAt}}"))
    assert ps("{{upper .State}} {{.Labels}} {{.Networks}}") == "EXITED four= bridge"
    assert re.split(" {2,}|\n", ps("table {{.Names}}\t{{.State}}")) == ["NAMES", "STATE",
                                                                       "four-bad", "exited"]
    row = json.loads(ps("json"))
    assert (row["ID"], row["Names"], row["State"]) == (cid[:12], "four-bad", "exited")
    again = json.loads(ps("{{json .}}"))
    assert {**again, "Status": "", "RunningFor": ""} == {**row, "Status": "", "RunningFor": ""}
    cli.fails(125, "ps", "--format", "{{.ID", says="invalid format")


def test_ps_tells_what_each_has_written(cli: Cli, box: Box, make: Make, label: str) -> None:
    make("run", then=("sh", "-c", "head -c 3000000 /dev/zero > /big; sleep 1000"))
    eventually(lambda: "3MB (virtual " in cli.ok("ps", "-s", "--filter", f"label={label}").text,
               "its size is told")
    lines = cli.ok("ps", "-s", "--filter", f"label={label}").text.splitlines()
    assert re.split(" {3,}", lines[0])[-2:] == ["NAMES", "SIZE"]
    size = cli.ok("ps", "--filter", f"label={label}", "--format", "{{.Size}}").text
    assert re.fullmatch(r"3MB \(virtual [4-9](\.\d+)?MB\)", size), size


# ---- logs --------------------------------------------------------------------------------------

COUNT = ("sh", "-c", "for i in 1 2 3 4 5; do echo line $i; echo error $i >&2; done")


def test_logs_keep_streams_apart_and_in_order(cli: Cli, make: Make) -> None:
    cid = make("run", then=COUNT)
    cli.ok("wait", cid)
    result = cli.ok("logs", cid)
    assert result.out == b"".join(b"line %d\n" % i for i in range(1, 6))
    assert result.err == b"".join(b"error %d\n" % i for i in range(1, 6))


@pytest.mark.parametrize("tail, expected", [
    ("0", ""), ("1", "5"), ("3", "3 4 5"), ("99", "1 2 3 4 5"), ("all", "1 2 3 4 5")])
def test_logs_tail(cli: Cli, make: Make, tail: str, expected: str) -> None:
    cid = make("run", then=("sh", "-c", "for i in 1 2 3 4 5; do echo $i; done"))
    cli.ok("wait", cid)
    assert cli.ok("logs", "--tail", tail, cid).text.split() == expected.split()
    assert cli.ok("logs", "-n", tail, "-f", cid).text.split() == expected.split()


def test_a_tail_counts_lines_not_the_pieces_they_came_in(cli: Cli, make: Make) -> None:
    long = "dd if=/dev/zero bs=1000 count=300 2>/dev/null | tr '\\0' x"
    cid = make("run", then=("sh", "-c", f"echo first; {long}; echo end; printf unfinished"))
    cli.ok("wait", cid)
    assert cli.ok("logs", "--tail", "1", cid).out == b"unfinished"
    assert cli.ok("logs", "--tail", "2", cid).out == b"x" * 300_000 + b"end\nunfinished"
    assert cli.ok("logs", cid).out == b"first\n" + b"x" * 300_000 + b"end\nunfinished"


def test_logs_keep_every_byte(cli: Cli, make: Make, tmp_path: Path) -> None:
    data = os.urandom(200_000) + bytes(range(256)) + b"\r\n\n\0 P F \n"
    (tmp_path / "data").write_bytes(data)
    cid = make("run", "-v", f"{tmp_path}:/given:ro", then=("cat", "/given/data"))
    cli.ok("wait", cid)
    assert cli.ok("logs", cid).out == data


def test_logs_with_times(cli: Cli, make: Make) -> None:
    cid = make("run", then=("sh", "-c", "echo one; echo two >&2; printf three"))
    cli.ok("wait", cid)
    result = cli.ok("logs", "-t", cid)
    started, ended = (cli.ok("inspect", "-f", f"{{{{.State.{w}}}}}", cid).text
                      for w in ("StartedAt", "FinishedAt"))
    stamps = []
    for line, text in zip([*result.text.splitlines(), result.error], ["one", "three", "two"]):
        stamp, _, rest = line.partition(" ")
        assert STAMP.fullmatch(stamp)
        assert rest == text
        stamps.append(stamp)
    assert started[:19] <= min(stamps)[:19]
    assert max(stamps) <= ended


def test_logs_between_two_times(cli: Cli, make: Make) -> None:
    cid = make("run", "-i", then=("sh", "-c", "echo early; read x; echo late"))
    waiting(cid, cli, "early")
    between = datetime.datetime.now(datetime.timezone.utc)
    assert cli.ok("attach", cid, stdin=b"go\n").text == "late"
    stamp = between.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    unix = f"{between.timestamp():.6f}"
    for moment in (stamp, unix):
        assert cli.ok("logs", "--since", moment, cid).text == "late"
        assert cli.ok("logs", "--until", moment, cid).text == "early"
    assert cli.ok("logs", "--since", "1h", cid).text == "early\nlate"
    assert cli.ok("logs", "--since", "1h", "--until", "30m", cid).text == ""
    cli.fails(125, "logs", "--since", "yesterday", cid, says="yesterday")


def test_following_logs_shows_what_comes_and_ends_with_the_container(cli: Cli,
                                                                     make: Make) -> None:
    cid = make("run", "-i", then=("sh", "-c", "echo ready; read x; echo got $x; echo err >&2"))
    with cli.popen("logs", "-f", cid, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == b"ready\n"
        cli.ok("attach", cid, stdin=b"word\n")
        out, err = following.communicate(timeout=20)
    assert (following.returncode, out, err) == (0, b"got word\n", b"err\n")
    assert cli.ok("logs", "-f", cid).out == b"ready\ngot word\n"


def test_many_follow_one_container(cli: Cli, make: Make) -> None:
    script = "read x; i=0; while [ $i -lt 2000 ]; do echo number $i; i=$((i+1)); done"
    cid = make("run", "-i", then=("sh", "-c", "echo ready; " + script))
    readers = [cli.popen("logs", "-f", cid, stdout=subprocess.PIPE) for _ in range(5)]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"ready\n"
    cli.ok("attach", "--sig-proxy=false", cid, stdin=b"go\n")
    expected = b"".join(b"number %d\n" % i for i in range(2000))
    for reader in readers:
        assert reader.communicate(timeout=20)[0] == expected


@pytest.mark.parametrize("driver", ["k8s-file", "json-file"])
def test_a_log_with_a_size_keeps_the_end(cli: Cli, make: Make, driver: str) -> None:
    script = "i=0; while [ $i -lt 20000 ]; do echo line number $i; i=$((i+1)); done"
    cid = make("run", "--log-driver", driver, "--log-opt", "max-size=100k", "--log-opt",
               "max-file=3", then=("sh", "-c", script))
    cli.ok("wait", cid)
    (found,) = cli.ok("inspect", cid).json
    assert found["HostConfig"]["LogConfig"] == {
        "Type": driver, "Config": {"max-size": "102400", "max-file": "3"}}
    path = Path(found["LogPath"])
    files = [path, *(path.with_name(f"{path.name}.{n}") for n in (1, 2))]
    assert all(0 < f.stat().st_size <= 102400 for f in files)
    assert sorted(path.parent.glob("log*")) == sorted(files)
    shown = cli.ok("logs", cid).text.splitlines()
    assert shown == [f"line number {n}" for n in range(20000 - len(shown), 20000)]
    assert cli.ok("logs", "-n", "3000", cid).text.splitlines() == shown[-3000:]


@pytest.mark.parametrize("driver", ["k8s-file", "json-file"])
def test_ten_thousand_lines_a_second_are_followed_over_every_file(cli: Cli, make: Make,
                                                                  driver: str,
                                                                  tmp_path: Path) -> None:
    script = ("read x; i=0; while [ $i -lt 30000 ]; do echo $i; i=$((i+1)); "
              "[ $((i % 1000)) = 0 ] && sleep 0.1; done")
    cid = make("run", "-i", "--log-driver", driver, "--log-opt", "max-size=200k", "--log-opt",
               "max-file=5", then=("sh", "-c", script))
    with (tmp_path / "out").open("wb") as out, cli.popen("logs", "-f", cid, stdout=out) as follower:
        assert attached(cli, cid).rc == 0
        follower.wait(60)
    assert (tmp_path / "out").read_text().split() == [str(n) for n in range(30000)]


def test_dockers_format_is_dockers(cli: Cli, make: Make) -> None:
    cid = make("run", "--log-driver", "json-file", then=(
        "sh", "-c", "printf 'a\\tb \"c\" \\303\\244\\n'; echo err >&2; printf end"))
    cli.ok("wait", cid)
    path = Path(cli.ok("inspect", "-f", "{{.LogPath}}", cid).text)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert {(r["log"], r["stream"]) for r in rows} == {
        ('a\tb "c" ä\n', "stdout"), ("err\n", "stderr"), ("end", "stdout")}
    assert all(STAMP.fullmatch(r["time"]) for r in rows)
    result = cli.ok("logs", cid)
    assert (result.out.decode(), result.err) == ('a\tb "c" ä\nend', b"err\n")


def test_options_of_a_log_that_make_no_sense_are_refused(box: Box) -> None:
    for options in (("--log-opt", "max-size=much"), ("--log-opt", "max-file=3"),
                    ("--log-opt", "max-size=1m", "--log-opt", "max-file=0"),
                    ("--log-opt", "colour=red"), ("--log-driver", "gelf"),
                    ("--log-driver", "none", "--log-opt", "max-size=1m")):
        box.refuses(*options)


def test_one_that_keeps_no_log_says_so(cli: Cli, make: Make) -> None:
    cid = make("run", "--log-driver", "none", then=("echo", "unseen"))
    cli.ok("wait", cid)
    cli.fails(1, "logs", cid, says="--log-driver none")
    cli.fails(1, "logs", "none-such", says="no such container: none-such")
    cli.fails(125, "logs", "--tail", "few", cid, says="few")


# ---- wait, stop, kill --------------------------------------------------------------------------

def test_wait_prints_the_codes_in_order(cli: Cli, make: Make) -> None:
    ids = [make("run", then=("sh", "-c", f"exit {n}")) for n in (4, 0, 9)]
    for _ in range(2):
        assert cli.ok("wait", *ids).text.split() == ["4", "0", "9"]
    result = cli.fails(1, "wait", ids[0], "none-such", ids[2], says="none-such")
    assert result.text.split() == ["4", "9"]


def test_wait_waits(cli: Cli, make: Make) -> None:
    cid = make("run", "-i", then=("sh", "-c", "read x; exit 8"))
    with cli.popen("wait", cid, stdout=subprocess.PIPE) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
        cli("attach", cid, stdin=b"\n")
        assert process.communicate(timeout=20)[0] == b"8\n"


TRAPS = "trap 'echo TERM; exit 3' TERM; trap 'echo INT; exit 4' INT; trap 'echo USR1' USR1; "
LOOP = "echo ready; while :; do sleep 0.02; done"


@pytest.mark.parametrize("made, given, code, said", [
    ((), (), "3", "TERM"),
    (("--stop-signal", "SIGINT"), (), "4", "INT"),
    ((), ("--signal", "INT"), "4", "INT"),
    (("--stop-signal", "INT"), ("-s", "TERM"), "3", "TERM"),
    ((), ("-s", "USR1", "-t", "0"), "137", "USR1"),
])
def test_stop_sends_the_signal_that_was_asked_for(
        cli: Cli, make: Make, made: tuple[str, ...], given: tuple[str, ...], code: str,
        said: str) -> None:
    cid = make("run", *made, then=("sh", "-c", TRAPS + LOOP))
    waiting(cid, cli, "ready")
    assert cli.ok("stop", *given, cid).text == cid
    assert cli.ok("inspect", "-f", "{{.State.ExitCode}} {{.State.Running}}",
                  cid).text == f"{code} false"
    if code != "137":
        assert cli.ok("logs", cid).text == f"ready\n{said}"


@pytest.mark.parametrize("made, given", [((), ("-t", "1")), (("--stop-timeout", "1"), ())])
def test_what_does_not_stop_is_killed_when_its_time_is_over(
        cli: Cli, make: Make, made: tuple[str, ...], given: tuple[str, ...]) -> None:
    cid = make("run", *made, then=("sh", "-c", "trap '' TERM; " + LOOP))
    waiting(cid, cli, "ready")
    start = time.monotonic()
    cli.ok("stop", *given, cid)
    assert time.monotonic() - start >= 1
    assert cli.ok("wait", cid).text == "137"


def test_stop_and_kill_take_several_and_go_on_after_a_failure(cli: Cli, make: Make) -> None:
    one, two, ended = make("run"), make("run"), make("run", then=("true",))
    cli.ok("wait", ended)
    result = cli.fails(1, "kill", one, "none-such", ended, two, says="not running")
    assert "no such container: none-such" in result.error
    assert result.text.split() == [one, two]
    assert cli.ok("wait", one, two).text.split() == ["137", "137"]
    assert cli.ok("stop", one, ended).text.split() == [one, ended]
    result = cli.fails(1, "stop", "none-such", one, says="no such container: none-such")
    assert result.text == one


@pytest.mark.parametrize("signal", ["USR1", "SIGUSR1", "10", "sigusr1"])
def test_kill_sends_any_signal(cli: Cli, make: Make, signal: str) -> None:
    cid = make("run", then=("sh", "-c", "trap 'echo got; exit 5' USR1; " + LOOP))
    waiting(cid, cli, "ready")
    cli.ok("kill", "--signal", signal, cid)
    assert cli.ok("wait", cid).text == "5"
    assert cli.ok("logs", cid).text == "ready\ngot"


def test_a_signal_that_does_not_exist_is_not_sent(cli: Cli, make: Make) -> None:
    cid = make("run")
    for words in (("kill", "-s", "KLIL"), ("kill", "-s", "0"), ("stop", "-s", "65")):
        cli.fails(125, *words, cid, says="invalid signal")
    assert status(cli, cid) == "running"


def test_one_that_runs_as_another_user_can_be_stopped(cli: Cli, make: Make) -> None:
    cid = make("run", "-u", "1000", then=("sh", "-c", TRAPS + LOOP))
    waiting(cid, cli, "ready")
    cli.ok("stop", cid)
    assert cli.ok("wait", cid).text == "3"
    cli.ok("start", cid)
    cli.ok("kill", cid)
    assert cli.ok("wait", cid).text == "137"


# ---- rm ----------------------------------------------------------------------------------------

def test_rm_refuses_what_runs_unless_forced(cli: Cli, make: Make) -> None:
    cid = make("run", "--name", "lively")
    result = cli.fails(1, "rm", "lively", says="it is running")
    assert "rootless rm -f lively" in result.error
    assert status(cli, cid) == "running"
    pid = int(cli.ok("inspect", "-f", "{{.State.Pid}}", cid).text)
    assert cli.ok("rm", "-f", "lively").text == "lively"
    assert not os.path.exists(f"/proc/{pid}/ns")
    assert not (cli.store / "containers" / cid).exists()
    assert not (cli.store / "names/lively").is_symlink()


def test_rm_takes_several_and_goes_on_after_a_failure(cli: Cli, make: Make, label: str) -> None:
    one, up, two = make("create"), make("run"), make("create")
    result = cli.fails(1, "rm", one, "none-such", up, two, says="no such container: none-such")
    assert result.text.split() == [one, two]
    assert cli.ok("ps", "-aq", "--no-trunc", "--filter", f"label={label}").text == up
    assert cli.ok("rm", "-f", "none-such", up).text.split() == [up]


def test_rm_removes_files_of_every_owner_and_mode(cli: Cli, make: Make) -> None:
    script = ("mkdir -p /d/e/f; touch /d/e/f/g; chown -R 1000:65534 /d; chmod 0 /d/e/f /d/e /d; "
              "mkfifo /p; ln -s / /l; mkdir -m 0 /root/closed")
    cid = make("run", then=("sh", "-ec", script))
    assert cli.ok("wait", cid).text == "0"
    cli.ok("rm", cid)
    assert not (cli.store / "containers" / cid).exists()
    eventually(lambda: not os.listdir(cli.store / "trash"), "the trash is empty")


# ---- inspect -----------------------------------------------------------------------------------

def test_inspect_tells_what_was_asked_for(cli: Cli, box: Box, make: Make,
                                          tmp_path: Path) -> None:
    cid = make("run", "--name", "known", "-e", "COLOUR=blue", "-w", "/tmp", "-u", "1000",
               "-v", f"{tmp_path}:/given:ro", "--hostname", "inner", "--cap-drop", "ALL",
               "--read-only", "--label", "a=b", "--stop-signal", "INT",
               "--entrypoint", "sleep", then=("1000",))
    (found,) = cli.ok("inspect", "known").json
    assert found["Id"] == cid
    assert found["Name"] == "/known"
    assert (found["Path"], found["Args"]) == ("sleep", ["1000"])
    assert found["State"]["Status"] == "running"
    assert Path(f"/proc/{found['State']['Pid']}/comm").read_text() == "sleep\n"
    assert found["State"]["StartedAt"] >= found["Created"]
    config, host = found["Config"], found["HostConfig"]
    assert "COLOUR=blue" in config["Env"]
    assert "FLAVOUR=tiny" in config["Env"]
    assert (config["Hostname"], config["User"], config["WorkingDir"]) == ("inner", "1000", "/tmp")
    assert (config["Image"], config["Labels"]["a"]) == (box.image, "b")
    assert (config["Entrypoint"], config["Cmd"]) == (["sleep"], ["1000"])
    assert config["StopSignal"] == "INT"
    assert host["Binds"] == [f"{tmp_path}:/given:ro"]
    assert (host["CapDrop"], host["ReadonlyRootfs"]) == (["ALL"], True)
    assert host["NetworkMode"] == "bridge"
    (mount,) = found["Mounts"]
    assert (mount["Source"], mount["Destination"], mount["RW"]) == (str(tmp_path), "/given", False)
    (image,) = cli.ok("inspect", "--type", "image", box.image).json
    assert found["Image"] == image["Id"]
    assert cli.ok("inspect", "-f", "{{.State.Running}} {{json .Config.Labels}}",
                  cid[:10]).text.startswith('true {"')


def test_inspect_of_several_shows_those_there_are(cli: Cli, make: Make) -> None:
    one, two = make("create"), make("create")
    result = cli.fails(1, "inspect", one, "none-such", two, says="none-such")
    assert [c["Id"] for c in result.json] == [one, two]
    assert cli.fails(1, "inspect", "none-such").json == []
    cli.fails(1, "inspect", "--type", "image", one, says="no such image")


# ---- attach ------------------------------------------------------------------------------------

def attached(cli: Cli, cid: str, *options: str) -> Result:
    return cli("attach", *options, cid, stdin=b"word\n")


def test_attach_passes_input_and_output_and_the_exit_code(cli: Cli, make: Make) -> None:
    cid = make("run", "-i", then=("sh", "-c", "read x; echo got $x; echo err >&2; exit 7"))
    result = attached(cli, cid)
    assert (result.rc, result.out, result.err) == (7, b"got word\n", b"err\n")
    cli.fails(1, "attach", cid, says="not running")
    cli.fails(1, "attach", "none-such", says="no such container")


def test_attach_without_input_leaves_it_to_others(cli: Cli, make: Make) -> None:
    cid = make("run", "-i", then=("sh", "-c", "read x; echo got $x"))
    with cli.popen("attach", "--no-stdin", cid, stdin=subprocess.PIPE,
                   stdout=subprocess.PIPE) as silent:
        assert silent.stdin is not None
        silent.stdin.write(b"unheard\n")
        silent.stdin.flush()
        with pytest.raises(subprocess.TimeoutExpired):
            silent.wait(0.2)
        assert attached(cli, cid).text == "got word"
        assert silent.communicate(timeout=20)[0] == b"got word\n"


def test_detaching_by_keys_leaves_it_running(cli: Cli, make: Make) -> None:
    cid = make("run", "-it", then=("sh", "-c", "stty -echo; while read x; do echo [$x]; done"))
    for keys, typed in (("ctrl-p,ctrl-q", b"\x10\x11"), ("ctrl-a,d", b"\x01d")):
        with cli.terminal("attach", "--detach-keys", keys, cid) as terminal:
            terminal.send("hello\n")
            terminal.expect("[hello]")
            terminal.send(typed)
            assert terminal.wait() == 0
        assert status(cli, cid) == "running"


def test_an_attached_command_that_is_killed_does_not_end_the_container(cli: Cli,
                                                                       make: Make) -> None:
    cid = make("run", "-i", then=("sh", "-c", "echo ready; while read x; do echo [$x]; done"))
    with cli.popen("attach", cid, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdin is not None and first.stdout is not None
        first.stdin.write(b"one\n")
        first.stdin.flush()
        assert first.stdout.readline() == b"[one]\n"
        first.kill()
    assert attached(cli, cid).text == "[word]"
    cli.ok("wait", cid)
    assert cli.ok("logs", cid).text == "ready\n[one]\n[word]"
