"""The doctor on this machine, and on machines made poorer in a namespace of the test's own."""

from __future__ import annotations

import os
import pwd
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.support import leftovers
from tests.integration.support.cli import COMMAND, Cli

USER = pwd.getpwuid(os.getuid()).pw_name
# This user once more, inside the namespace that was prepared.
AGAIN = ["unshare", "--user", f"--map-user={os.getuid()}", f"--map-group={os.getgid()}"]


def lines(json: Any) -> dict[str, dict[str, str]]:
    return {one["name"]: one for one in json}


def poorer(cli: Cli, prepare: str, *args: str, again: bool = True) -> tuple[int, str]:
    """Exit code and output of the doctor after `prepare`, shell commands with power over a mount
    namespace; $1 is the home."""
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-e", "-c",
         prepare + '\nshift; exec "$@"', "sh", str(cli.home), *(AGAIN if again else ()), *COMMAND,
         "doctor", *args], env=cli.env, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=30, check=False)
    text = done.stdout.decode()
    assert "Traceback" not in text
    return done.returncode, text


def test_it_looks_at_all_within_a_second_and_leaves_nothing(fresh: Cli) -> None:
    before = sorted(fresh.home.rglob("*")), leftovers.mounts(), set(leftovers.descendants())
    begun = time.monotonic()
    result = fresh.ok("doctor")
    assert time.monotonic() - begun < 1
    assert result.text.splitlines()[-1].startswith(f"{USER} can run containers with 65537 user ids")
    assert result.error == ""
    assert (sorted(fresh.home.rglob("*")), leftovers.mounts(),
            set(leftovers.descendants())) == before


def test_json_has_the_same_lines(fresh: Cli) -> None:
    found = fresh.ok("doctor", "--json").json
    assert {tuple(one) for one in found} == {("name", "status", "detail", "fix")}
    assert {one["status"] for one in found} <= {"ok", "fallback", "missing"}
    assert all(one["fix"] is None for one in found if one["status"] == "ok")
    text = fresh.ok("doctor").text
    assert [one["name"] for one in found] == \
        [line.split("  ")[0] for line in text.split("\n\n")[0].splitlines() if line[0] != " "]
    for name in ("user namespaces", "user ids", "overlay", "system calls", "seccomp"):
        assert lines(found)[name]["status"] == "ok"


def test_a_store_in_use_is_tried_and_stays_as_it_is(fresh: Cli) -> None:
    fresh.ok("ps")
    (fresh.store / "images").mkdir(parents=True, exist_ok=True)
    before = sorted(fresh.store.iterdir())
    assert str(fresh.store) in lines(fresh.ok("doctor", "--json").json)["store"]["detail"]
    assert sorted(fresh.store.iterdir()) == before


def test_what_a_killed_run_left_is_removed_by_the_next(fresh: Cli) -> None:
    left = fresh.home / ".rootless-doctor-4194399"
    (left / "work/work").mkdir(parents=True)
    (left / "work/work").chmod(0)
    fresh.ok("doctor")
    assert not left.exists()


def test_without_a_run_directory_the_fallback_is_named(fresh: Cli) -> None:
    found = lines(fresh.ok("doctor", "--json", env={"XDG_RUNTIME_DIR": ""}).json)
    assert found["run directory"]["status"] == "fallback"
    used = found["run directory"]["detail"].split(":")[0]
    assert Path(used).stat().st_uid == os.getuid()


def test_without_home_the_account_tells_it(fresh: Cli) -> None:
    found = lines(fresh("doctor", "--json", env={"HOME": ""}).json)
    assert found["store"]["detail"].startswith(os.path.realpath(pwd.getpwuid(os.getuid()).pw_dir))


@pytest.mark.parametrize("prepare, says, fix", [
    (": >$1/none; mount --bind $1/none /etc/subuid", "/etc/subuid has no range for " + USER,
     "usermod --add-subuids "),
    ("mount --bind /dev/null /usr/bin/newuidmap", "newuidmap is not installed",
     "apt-get install --yes uidmap"),
    ("true", "newuidmap", None),
], ids=["no range", "no newuidmap", "newuidmap without power"])
def test_with_one_id_it_says_why_and_containers_still_run(fresh: Cli, prepare: str, says: str,
                                                         fix: str | None) -> None:
    rc, text = poorer(fresh, prepare)
    (at,) = [n for n, line in enumerate(text.splitlines()) if line.startswith("user ids ")]
    assert "fallback" in text.splitlines()[at] and says in text.splitlines()[at]
    if fix:
        assert f"the administrator types: {fix}" in text.splitlines()[at + 1]
    assert rc == 0, text
    assert text.splitlines()[-1].startswith(f"{USER} can run containers with one user id")


@pytest.mark.parametrize("prepare, name, says, fix", [
    ("echo 1 >/proc/sys/user/max_user_namespaces", "user namespaces", "No space left on device",
     "user.max_user_namespaces = 65536"),
    ("mount --bind $1 $1; mount -o remount,bind,ro $1", "store", "Read-only file system",
     "export ROOTLESS_ROOT="),
    ("mount -t tmpfs -o size=16k none $1", "store", "No space left on device",
     "export ROOTLESS_ROOT="),
    ("mount --bind $1 /tmp; mount -o remount,bind,ro /tmp; mount --bind $1 /run",
     "run directory", "cannot ", "export XDG_RUNTIME_DIR="),
], ids=["no namespaces left", "read-only home", "full disk", "no run directory"])
def test_what_stops_containers_is_named_and_the_exit_code_says_so(
        fresh: Cli, prepare: str, name: str, says: str, fix: str) -> None:
    fresh.env["XDG_RUNTIME_DIR"] = "/nowhere" if name == "run directory" \
        else fresh.env["XDG_RUNTIME_DIR"]
    rc, text = poorer(fresh, prepare)
    (at,) = [n for n, line in enumerate(text.splitlines()) if line.startswith(name + " ")]
    assert "missing" in text.splitlines()[at] and says in text.splitlines()[at], text
    assert fix in text.splitlines()[at + 1]
    assert rc == 1
    assert f"{USER} cannot run containers here yet: see " in text


def test_root_of_a_namespace_with_one_id_is_served(fresh: Cli) -> None:
    fresh.env["ROOTLESS_ROOT"] = str(fresh.home / "store")
    rc, text = poorer(fresh, "mount -t tmpfs -o mode=755 none /run", again=False)
    assert rc == 0, text
    assert "root can run containers with one user id" in text


# Mounts a filesystem on the home that never answers, and starts the rest of the line.
DEAD = """
import os, subprocess, sys
sys.path.insert(0, sys.argv[1])
from rootless import linux
fd = os.open("/dev/fuse", os.O_RDWR)
linux.mount("dead", sys.argv[2], "fuse", 0, f"fd={fd},rootmode=40000,user_id=0,group_id=0")
code = subprocess.run(sys.argv[3:]).returncode
linux.umount2(sys.argv[2], linux.MNT_DETACH)
sys.exit(code)
"""


def test_a_file_server_that_does_not_answer_is_not_waited_for(fresh: Cli) -> None:
    begun = time.monotonic()
    checkout = str(Path(__file__).parents[2])
    rc, text = poorer(fresh, f"""set -- x {COMMAND[0]} -c '{DEAD}' {checkout} "$@" """)
    assert time.monotonic() - begun < 10
    assert rc == 1
    assert "no answer within 3 seconds" in text, text
