"""The embedded image `host`: this machine, to look at and to change without changing it."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from tests.integration.support import images
from tests.integration.support.box import Box
from tests.integration.support.cli import Cli


@pytest.fixture(scope="module")
def host(cli: Cli) -> Box:
    return Box(cli, "host")


def digests(*paths: str) -> list[str]:
    return [hashlib.sha256(Path(p).read_bytes()).hexdigest() for p in paths]


def test_it_has_the_machines_programs_and_files(host: Box) -> None:
    paths = ("/bin/sh", "/etc/issue", "/usr/bin/env")
    assert host.sh("sha256sum " + " ".join(paths)).split()[::2] == digests(*paths)
    assert host.sh("id -u; ps -e -o pid= | wc -l; python3 -c 'print(6 * 7)'").split() == [
        "0", "3", "42"]


def test_nothing_that_is_written_reaches_the_machine(host: Box) -> None:
    script = ("echo changed > /etc/issue; touch /usr/bin/new-program /etc/new /new; "
              "mkdir /opt/new; rm /usr/bin/env; chmod 0 /etc/passwd; chown 5:5 /etc/group; "
              "cat /etc/issue; ls -d /usr/bin/new-program /new /opt/new; "
              "[ ! -e /usr/bin/env ]; stat -c %u /etc/group")
    before = digests("/etc/issue"), os.stat("/etc/passwd"), os.stat("/etc/group")
    assert host.sh(script).split() == ["changed", "/new", "/opt/new", "/usr/bin/new-program", "5"]
    assert (digests("/etc/issue"), os.stat("/etc/passwd"), os.stat("/etc/group")) == before
    assert Path("/usr/bin/env").exists()
    assert not [p for p in ("/usr/bin/new-program", "/etc/new", "/new", "/opt/new")
                if os.path.lexists(p)]


def test_the_next_container_sees_the_machine_again(host: Box) -> None:
    host.sh("echo changed > /etc/issue")
    assert host.sh("sha256sum < /etc/issue").split()[0] == digests("/etc/issue")[0]


def test_one_that_is_kept_keeps_its_changes(host: Box) -> None:
    with host.running(then=("sh", "-c", "cat /etc/issue; echo mine > /etc/issue")) as n:
        host.cli.ok("wait", n)
        assert host.cli.ok("start", "-a", n).text == "mine"


def test_users_can_be_added(host: Box) -> None:
    assert host.sh("useradd -m added && su added -c 'id -un; cd; touch f; stat -c %U f'") == (
        "added\nadded")


def test_what_the_user_may_not_read_is_not_there(host: Box) -> None:
    assert not os.access("/etc/shadow", os.R_OK)
    result = host(then=("cat", "/etc/shadow"))
    real = subprocess.run(["ls", "-l", "/etc/shadow"], check=True, stdout=subprocess.PIPE).stdout
    assert b"root" in real
    assert not any(line.startswith(b"root:$") for line in result.out.splitlines()), result.out


def test_home_and_working_directory_are_as_outside(host: Box) -> None:
    home = host.cli.home
    (home / "mine").write_text("of the home\n")
    deep = home / "a b" / "c"
    deep.mkdir(parents=True)
    (deep / "here").write_text("of the directory\n")
    assert host.sh("echo $HOME; cat ~/mine; pwd; cat here; echo x > here; cat here",
                   cwd=deep).splitlines() == [
        str(home), "of the home", str(deep), "of the directory", "x"]
    assert (deep / "here").read_text() == "of the directory\n"


def test_the_store_is_not_seen(host: Box) -> None:
    shown = host.sh(f"ls -A {host.cli.store}/containers {host.cli.store}/layers 2>/dev/null | "
                    "grep -v : | grep . || true")
    assert shown == ""


def test_kernel_filesystems_are_the_containers_own(host: Box) -> None:
    assert host.sh("ls /tmp /run | grep -v : | grep . || true; ls -d /proc/1 /dev/null; "
                   "ls /sys/class/net") == "/dev/null\n/proc/1\neth0\nlo"


def test_options_apply_to_it_as_to_any_image(host: Box, tmp_path: Path) -> None:
    assert host("--read-only", then=("sh", "-c", "touch /etc/x; touch /usr/x; touch /x; "
                                                 "ls -d /etc/x /usr/x /x")).rc != 0
    assert host.sh("touch /v/made; id -u; hostname", "-v", f"{tmp_path}:/v", "-h", "named",
                   "--tmpfs", "/opt").split() == ["0", "named"]
    assert (tmp_path / "made").exists()
    assert host.sh("id -u; touch /tmp/x; stat -c %u /tmp/x", "-u", "65534").split() == [
        "65534", "65534"]
    with host.running() as name:
        assert host.cli.ok("exec", name, "sh", "-c", "echo in").text == "in"


def test_it_is_of_this_machines_platform(host: Box) -> None:
    here = images.ARCHITECTURE
    assert host("--platform", f"linux/{here}").rc == 0
    host.refuses("--platform", "linux/s390x" if here != "s390x" else "linux/arm64", says=here)


def test_no_layer_can_be_pulled_under_its_name(cli: Cli) -> None:
    assert cli.ok("inspect", "-f", "{{.Config.Image}}",
                  cli.ok("create", "--name", "of-host", "host", "true").text).text == "host"
    cli.ok("rm", "of-host")
