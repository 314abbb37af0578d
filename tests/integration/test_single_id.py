"""With one id only: a user without a subordinate range has working containers all the same.

Inside `unshare --map-current-user` newuidmap is refused, as it is where no range is granted.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.support.box import Box, eventually
from tests.integration.support.cli import Cli, Process
from tests.integration.support.registry import Registry

ALONE = ("unshare", "--user", "--map-current-user")


class LoneCli(Cli):
    """Every command is started in a namespace of one id."""

    inside: tuple[str, ...] = ALONE

    def popen(self, *args: str, before: tuple[str, ...] = (), **more: Any) -> Process:
        return super().popen(*args, before=before or self.inside, **more)


@pytest.fixture(scope="module")
def namespace() -> Iterator[tuple[str, ...]]:
    """Words that enter one namespace that stays: from another, containers cannot be entered."""
    with subprocess.Popen([*ALONE, "sleep", "1000"]) as process:
        eventually(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n", "asleep")
        yield ("nsenter", "--user", "--target", str(process.pid), "--preserve-credentials")
        process.kill()


@pytest.fixture(scope="module")
def alone(ground: Path, server: Registry, namespace: tuple[str, ...]) -> Iterator[Box]:
    """The quick image, for a user with one id."""
    cli = LoneCli(ground / "home-alone", ground / "run-alone")
    cli.inside = namespace
    name = f"{server.address}/tiny:latest"
    cli.ok("pull", "-q", name)
    yield Box(cli, name)
    listed = cli.ok("ps", "-aq").text.split()
    assert not listed
    cli("system", "stop")


def test_it_is_said_once_with_the_reason_and_what_to_do(ground: Path, server: Registry) -> None:
    cli = LoneCli(ground / "home-said", ground / "run-said")
    words = ("run", "--rm", f"{server.address}/tiny:latest", "true")
    first, second = cli.ok(*words), cli.ok(*words)
    (line,) = re.findall("^rootless: .*", first.error, re.M)
    assert "one user id" in line
    assert "newuidmap" in line
    assert "rootless doctor" in first.error
    assert "one user id" not in second.error
    cli("system", "stop")
    shutil.rmtree(cli.home)


def test_everything_in_the_store_is_the_users_own(alone: Box) -> None:
    owners = {os.lstat(os.path.join(at, name)).st_uid
              for at, names, files in os.walk(alone.cli.store) for name in (*names, *files)}
    assert owners == {os.getuid()}


def test_root_inside_is_the_user_with_all_that_run_does(alone: Box, tmp_path: Path) -> None:
    told = alone.sh("id -u; cat /proc/self/uid_map; hostname; echo x > /v/made; "
                    "mount | grep -c ' /t '; ls /sys/class/net; cat /proc/sys/kernel/shmmni; "
                    "grep -c root /etc/passwd", "-h", "named",
                    "-v", f"{tmp_path}:/v", "--tmpfs", "/t", "--sysctl", "kernel.shmmni=77",
                    "--init").split()
    assert told == ["0", "0", "0", "1", "named", "1", "eth0", "lo", "77", "1"]
    assert (tmp_path / "made").stat().st_uid == os.getuid()


def test_files_of_the_image_can_all_be_changed(alone: Box) -> None:
    assert alone.sh("cd /home/app && touch new; rm -r /home; echo x > /etc/passwd; rm /bin/vi; "
                    "mkdir -p /usr/lib/x; ls -d /home 2>/dev/null || echo gone") == "gone"


@pytest.mark.parametrize("command", [
    "chown 5:6 /etc/passwd", "chown -R app:app /home", "chgrp daemon /bin", "chown -h 7 /bin/sh",
    "su app -c true", "mknod /tmp/node c 1 3", "cp -a /home /home2",
    "tar cf - /home | tar xf - -C /tmp"])
def test_what_packages_do_at_their_installation_succeeds(alone: Box, command: str) -> None:
    assert alone.sh(f"{command} && echo done") == "done"


def test_other_changes_are_still_refused(alone: Box) -> None:
    """Only owners and identities are feigned."""
    for command in ("mount -t tmpfs x /tmp", "hostname other", "mkdir /proc/x", "rm /proc/1",
                    "cat /no-such"):
        assert alone(then=("sh", "-c", command)).rc != 0, command


def test_a_number_is_the_one_id_and_a_name_is_refused(alone: Box) -> None:
    assert alone.sh("id -u; cat /proc/self/uid_map; echo x > /tmp/f; stat -c %u /tmp/f",
                    "-u", "1000").split() == ["1000", "1000", "0", "1", "1000"]
    alone.refuses("-u", "app", says="--user with the number of app")
    assert alone.sh("id -u", "-u", "root") == "0"


def test_life_goes_as_with_many_ids(alone: Box) -> None:
    with alone.running(then=("sh", "-c", "trap 'exit 3' TERM; echo up; while :; do sleep 0.02; "
                                         "done")) as name:
        assert alone.cli.ok("exec", name, "sh", "-c", "id -u; chown 9 /bin; echo $?").text.split(
        ) == ["0", "0"]
        assert alone.cli.ok("exec", "-i", name, "cat", stdin=b"in").text == "in"
        alone.cli.ok("stop", name)
        assert alone.cli.ok("wait", name).text == "3"
        assert alone.cli.ok("logs", name).text == "up"
        alone.cli.ok("start", name)
        alone.cli.ok("kill", name)
    assert alone.cli.ok("ps", "-aq").text == ""


def test_terminals_work(alone: Box) -> None:
    result = alone("-t", then=("sh", "-c", "tty; [ -c /dev/console ] && echo console"))
    assert (result.rc, result.out) == (0, b"/dev/pts/0\r\nconsole\r\n")


def test_seccomp_unconfined_still_feigns(alone: Box) -> None:
    for options in (("--security-opt", "seccomp=unconfined"), ("--privileged",),
                    ("--security-opt", "no-new-privileges")):
        assert alone.sh("chown 5 /etc/passwd && echo done", *options) == "done"


def test_removing_needs_no_other_id(alone: Box) -> None:
    alone.cli.ok("run", "--name", "gone", alone.image, "sh", "-c",
                 "mkdir -p /a/b; touch /a/b/c; chmod 0 /a/b /a")
    alone.cli.ok("rm", "gone")
    assert os.listdir(alone.cli.store / "trash") == []
    assert os.listdir(alone.cli.store / "containers") == []


def test_the_machines_own_files_can_be_a_root(alone: Box) -> None:
    assert alone.cli.ok("run", "--rm", "host", "sh", "-c",
                        "id -u; touch /usr/bin/x; chown 5 /etc/group; echo done").text.split() == [
        "0", "done"]


def test_the_doctor_sees_it_too(alone: Box) -> None:
    told = alone.cli("doctor")
    assert "newuidmap" in told.text + told.error


def test_with_root_alone_the_reason_is_told(ground: Path, server: Registry) -> None:
    """Root of a namespace that has no other id."""
    class RootCli(LoneCli):
        inside = ("unshare", "--user", "--map-root-user")

    cli = RootCli(ground / "home-root", ground / "run-root")
    cli.env["ROOTLESS_ROOT"] = str(cli.store)
    told = cli.ok("run", "--rm", f"{server.address}/tiny:latest", "sh", "-c",
                  "chown 5 /bin; echo done")
    assert told.text == "done"
    assert "none but root's" in told.error
    cli("system", "stop")
    subprocess.run([*cli.inside, "rm", "-rf", str(cli.home)], check=True)
