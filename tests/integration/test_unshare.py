"""`unshare` gives a shell in the user's namespace, where images can be mounted."""

from __future__ import annotations

import os

import pytest

from tests.integration.support.cli import COMMAND, Cli
from tests.integration.support.images import Image, Layer, Tar, docker_archive

FIRST = Layer(Tar().dir("d", uid=5).file("d/f", b"hello", uid=1000, gid=50).file("gone").bytes())
SECOND = Layer(Tar().file("second").whiteout("gone").bytes())


@pytest.fixture
def filled(fresh: Cli) -> Cli:
    fresh.ok("load", stdin=docker_archive(Image([FIRST, SECOND]), "two:1"))
    fresh.ok("load", stdin=docker_archive(Image([FIRST]), "one:1"))
    fresh.ok("load", stdin=docker_archive(Image([]), "none:1"))
    return fresh


def sh(cli: Cli, script: str) -> str:
    """A script in `unshare`, in which `rootless` is the command line."""
    quoted = " ".join("'" + word.replace("'", "'\\''") + "'" for word in COMMAND)
    return cli.ok("unshare", "sh", "-ec", f'rootless() {{ {quoted} "$@"; }}\n{script}').text


def test_the_command_is_root_with_all_ids_of_the_user(fresh: Cli) -> None:
    assert sh(fresh, "id -u; cat /proc/self/uid_map").splitlines()[0] == "0"
    assert len(sh(fresh, "cat /proc/self/uid_map").splitlines()) == 2
    assert fresh("unshare", "sh", "-c", "exit 7").rc == 7
    assert fresh.ok("unshare", "echo", "-n", "--help").out == b"--help"
    assert fresh.ok("unshare", env={"SHELL": "/bin/true"}).out == b""
    fresh.fails(127, "unshare", "no-such-command", says="no such command")
    fresh.fails(126, "unshare", "/etc/passwd", says="permission denied")


def test_files_of_other_owners_can_be_handled(fresh: Cli) -> None:
    assert sh(fresh, "touch f; chown 7:8 f; stat -c %u:%g f; rm f") == "7:8"


def test_its_mounts_are_its_own(fresh: Cli) -> None:
    sh(fresh, f"mount -t tmpfs none {fresh.home} && touch {fresh.home}/inside")
    assert not (fresh.home / "inside").exists()


def test_images_are_mounted_read_only_and_merged(filled: Cli) -> None:
    out = sh(filled, "m=$(rootless image mount two:1); cat $m/d/f; echo; ls $m; "
             "stat -c %u:%g $m/d/f; touch $m/x 2>&1 || true").splitlines()
    assert out[:4] == ["hello", "d", "second", "1000:50"] and "Read-only" in out[4]


@pytest.mark.parametrize("name, inside", [("one:1", "d gone"), ("none:1", "")])
def test_images_of_one_layer_or_none(name: str, inside: str, filled: Cli) -> None:
    assert sh(filled, f"cd $(rootless image mount {name}); echo $(ls)") == inside


def test_what_is_mounted_is_listed_and_can_be_unmounted(filled: Cli) -> None:
    out = sh(filled, "rootless image mount two:1 one:1; rootless image mount two:1; "
             "rootless image mount; rootless image unmount one:1 > /dev/null; "
             "echo left; rootless image mount; rootless image unmount --all > /dev/null; "
             "rootless image mount").splitlines()
    places = dict(line.split() for line in out[:2])
    assert out[2] == places["two:1"]
    assert sorted(out[3:5]) == sorted(f"{name} {place}" for name, place in places.items())
    assert out[5:] == ["left", f"two:1 {places['two:1']}"]


def test_one_that_is_in_use_is_not_unmounted(filled: Cli) -> None:
    out = sh(filled, "cd $(rootless image mount one:1); rootless image unmount one:1 2>&1 || true")
    assert "cannot unmount" in out and "stands in it" in out


def test_outside_one_clear_line_says_where_it_works(filled: Cli) -> None:
    found = filled.fails(1, "image", "mount", "one:1", says="nobody would see it")
    assert "rootless unshare" in found.error
    filled.fails(1, "image", "unmount", "one:1", says="not mounted")
    filled.fails(1, "image", "mount", "no:1", says="no such image")
    filled.fails(125, "image", "unmount", says="needs an image")
    assert filled.ok("image", "mount").out == b""


def test_the_store_is_the_users_own_inside(filled: Cli) -> None:
    assert sh(filled, "rootless images -q | wc -l") == "3"
    assert os.path.isdir(filled.store)
