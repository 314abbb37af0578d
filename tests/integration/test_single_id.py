"""A user with no subordinate ids: containers have one id, and work.

In a namespace where only the user's own id exists, newuidmap is refused whatever /etc/subuid says.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest

from tests.integration.support.cli import COMMAND, Cli, Result

AGAIN = ("unshare", "--user", f"--map-user={os.getuid()}", f"--map-group={os.getgid()}")
Single = Callable[..., Result]


@pytest.fixture
def single(fresh: Cli) -> Single:
    """A command line in such a namespace. Each call is one, so nothing is kept but the store."""
    def run(*words: str, after: str = "rootless system stop >/dev/null") -> Result:
        line = " ".join(f'"{w}"' if "'" in w else f"'{w}'" for w in COMMAND)
        script = f'rootless() {{ {line} "$@"; }}\nrootless "$@"; code=$?\n{after}\nexit $code'
        done = subprocess.run([*AGAIN, "sh", "-c", script, "sh", *words], env=fresh.env,
                              cwd=fresh.home, capture_output=True, timeout=60, check=False,
                              stdin=subprocess.DEVNULL)
        assert b"Traceback" not in done.stderr, done
        return Result(words, done.returncode, done.stdout, done.stderr)

    return run


def ok(result: Result) -> str:
    assert result.rc == 0, result
    return result.text


def test_a_container_runs_and_the_reason_is_said_once(single: Single) -> None:
    first = single("run", "--rm", "host", "id", "-u")
    assert ok(first) == "0"
    assert first.error.count("one user id only") == 1
    assert "newuidmap" in first.error
    assert "rootless doctor" in first.error
    second = single("run", "--rm", "host", "id", "-u")
    assert (ok(second), second.error) == ("0", "")


def test_what_changes_owners_and_identities_answers_success(single: Single) -> None:
    script = """
        touch /made; chown 5:6 /made; chown -R daemon:mail /made; chgrp 7 /made
        mkdir /d; install -o 33 -g 33 -m 750 /etc/passwd /d/p
        python3 -c 'import os; os.setgroups([1, 2]); os.setresgid(5, 5, 5); os.setresuid(5, 5, 5)'
        tar -C / -cf /t.tar --owner=12 --group=34 etc/passwd; mkdir /u; tar -C /u -xpf /t.tar
        cat /u/etc/passwd | head -1 | cut -d: -f1"""
    assert ok(single("run", "--rm", "host", "sh", "-ec", script)) == "root"


def test_another_user_can_be_asked_for_by_number_only(single: Single) -> None:
    assert ok(single("run", "--rm", "-u", "1234:56", "host", "sh", "-c",
                     "id -u; id -g")).split() == ["1234", "56"]
    result = single("run", "--rm", "-u", "daemon", "host", "true")
    assert result.rc == 125
    assert "only numbers" in result.error


def test_files_written_to_a_volume_are_the_users(fresh: Cli, single: Single) -> None:
    given = fresh.home / "given"
    given.mkdir()
    ok(single("run", "--rm", "-v", f"{given}:/given", "host", "sh", "-c",
              "echo x > /given/new; chown 12:34 /given/new"))
    assert (given / "new").stat().st_uid == os.getuid()


def test_a_containers_life_is_the_same(single: Single) -> None:
    after = """
        rootless exec one sh -c 'echo in; id -u'
        rootless ps --format '{{.Names}} {{.State}}'
        rootless stop -t 0 one
        rootless logs one
        rootless rm one
        rootless ps -aq
        rootless system stop >/dev/null"""
    result = single("run", "-d", "--name", "one", "host", "sh", "-c", "echo up; exec sleep 1000",
                    after=after)
    assert ok(result).split("\n")[1:] == ["in", "0", "one running", "one", "up", "one"], result


def test_seccomp_still_refuses(single: Single) -> None:
    result = single("run", "--rm", "host", "sh", "-c",
                    "grep Seccomp: /proc/self/status; unshare -U true || echo refused")
    assert ok(result).split() == ["Seccomp:", "2", "refused"]
