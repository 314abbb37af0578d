"""Volumes, cp, commit and secrets when they are killed or the disk is full: what was told is there,
what was not told is whole or absent, and nothing is left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.integration.support import leftovers
from tests.integration.support.box import Box, eventually
from tests.integration.support.cli import Cli
from tests.integration.test_faults import AGAIN, FILL, script_in


def killed(box: Box, *words: str, within: float) -> None:
    """Run a command and kill it, with all it has forked, at some moment."""
    with box.cli.popen(*words, start_new_session=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL) as process:
        try:
            process.wait(random.uniform(0.01, within))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def quiet(word: str) -> None:
    eventually(lambda: not [line for line in leftovers.descendants().values() if word in line],
               f"no process of {word} is left")


def test_commit_killed_at_any_moment(box: Box) -> None:
    with box.running(then=("sh", "-c", "dd if=/dev/urandom of=/f bs=1M count=8; sleep 1000"),
                     name="commits") as name:
        box.cli.ok("exec", name, "sh", "-c",
                   "until test $(stat -c %s /f) = 8388608; do sleep 0.01; done")
        for number in range(12):
            killed(box, "commit", name, f"killed:{number}", within=0.6)
            made = box.cli.ok("images", "-q", f"killed:{number}").text
            if made:
                assert box.cli.ok("run", "--rm", f"killed:{number}", "wc", "-c", "/f").text \
                    .split()[0] == "8388608"
        quiet("killed:")
        box.cli.ok("commit", name, "whole:1")
        assert box.cli.ok("run", "--rm", "whole:1", "wc", "-c", "/f").text.split()[0] == "8388608"
    listed = box.cli.ok("images", "--format", "{{.Repository}}:{{.Tag}}").text.split()
    box.cli.ok("rmi", "-f", *(i for i in listed if i.startswith(("killed:", "whole:"))))
    box.cli.ok("image", "prune", "-f")
    box.cli.ok("system", "check", "--quick")


@pytest.mark.parametrize("running", [True, False])
def test_cp_killed_at_any_moment_leaves_the_container_free(box: Box, tmp_path: Path,
                                                           running: bool) -> None:
    (tmp_path / "big").write_bytes(os.urandom(20 << 20))
    box.cli.ok("create", "--name", "target", box.image, "sleep", "1000")
    try:
        if running:
            box.cli.ok("start", "target")
        for number in range(8):
            killed(box, "cp", str(tmp_path / "big"), f"target:/tmp/{number}", within=0.25)
        box.cli.ok("cp", str(tmp_path / "big"), "target:/tmp/whole")
        for number in range(4):
            killed(box, "cp", "target:/tmp/whole", str(tmp_path / f"out{number}"), within=0.25)
        box.cli.ok("cp", "target:/tmp/whole", str(tmp_path / "back"))
        assert (tmp_path / "back").read_bytes() == (tmp_path / "big").read_bytes()
        quiet("target:/tmp")
    finally:
        box.cli.ok("rm", "-f", "target")


def test_volume_and_secret_commands_killed_at_any_moment(box: Box) -> None:
    for number in range(10):
        killed(box, "volume", "create", f"killed-{number}", within=0.12)
        killed(box, "secret", "create", "--env", f"killed-{number}", "HOME", within=0.12)
    for kind, find in (("volume", "{{.Name}}"), ("secret", "{{.Spec.Name}}")):
        for number in range(10):
            name = f"killed-{number}"
            if box.cli(kind, "exists", name).rc == 0:
                assert box.cli.ok(kind, "inspect", "-f", find, name).text == name
    for number in range(10):
        # Half made or not at all: the name is free or usable.
        assert box.sh("echo x >/v/f; cat /v/f", "-v", f"killed-{number}:/v") == "x"
        box.cli.ok("volume", "rm", f"killed-{number}")
        box.cli.ok("secret", "create", "--replace", "--env", f"killed-{number}", "HOME")
        box.cli.ok("secret", "rm", f"killed-{number}")
    assert not [n for n in os.listdir(box.cli.store / "volumes") if n.startswith("killed")]


def test_what_a_killed_maker_left_of_a_volume_is_cleared(box: Box) -> None:
    half = box.cli.store / "volumes" / ("0" * 64)
    (half / "_data").mkdir(parents=True)
    assert half.name not in box.cli.ok("volume", "ls", "-q").text
    box.cli.ok("volume", "prune", "-f")
    assert not half.exists()


def test_a_container_and_its_volumes_killed_while_they_are_removed(box: Box) -> None:
    before = set(box.cli.ok("volume", "ls", "-q").text.split())
    for _ in range(8):
        box.cli.ok("create", "--name", "doomed", "-v", "/a", "-v", "/b", box.image)
        killed(box, "rm", "-v", "doomed", within=0.15)
        box.cli("rm", "-v", "doomed")
    box.cli.ok("volume", "prune", "-f")
    assert set(box.cli.ok("volume", "ls", "-q").text.split()) <= before
    box.cli.ok("ps", "-a")


def test_a_volume_is_removed_or_used_never_both(box: Box) -> None:
    """One command makes a container with it while another removes it."""
    for _ in range(10):
        box.cli.ok("volume", "create", "raced")
        commands = [("create", "--name", "user", "-v", "raced:/v", box.image, "ls", "/v"),
                    ("volume", "rm", "raced")]
        running = [box.cli.popen(*words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                   for words in commands]
        codes = [p.wait() for p in running]
        assert codes[0] == 0
        assert box.cli.ok("start", "-a", "user").rc == 0     # its volume is there in any case
        box.cli.ok("rm", "user")
        box.cli.ok("volume", "rm", "raced")


def test_a_full_disk_is_told_by_each(fresh: Cli, box: Box, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "big.tar", "w") as tar:
        (tmp_path / "big").write_bytes(os.urandom(4 << 20))
        tar.add(tmp_path / "big", "big")
    done = script_in(fresh, 'mount -t tmpfs -o size=24m,mode=755 tmpfs "$DISK"', fr"""
        rootless run --name c {box.image} sh -c 'echo 1 >/f'
        rootless create --name v -v v:/etc {box.image}; rootless rm v >/dev/null
        {FILL}
        rootless cp {tmp_path}/big c:/big; echo "cp $?"
        rootless cp - c:/tmp <{tmp_path}/big.tar; echo "tar $?"
        rootless commit c full:1; echo "commit $?"
        rootless volume create more; echo "volume $?"
        echo x | rootless secret create s -; echo "secret $?"
        rootless run --rm -v new:/etc {box.image} true; echo "fill $?"
        rootless volume ls -q
        rm "$DISK/fill"
        rootless cp {tmp_path}/big c:/big 2>/dev/null; echo "cp $?"
        rootless commit c full:1 >/dev/null; echo "commit $?"
        rootless run --rm -v new:/etc {box.image} cat /etc/passwd | head -n 1 | cut -d: -f1
        rootless rm c; rootless volume prune -af | tail -n 1 | cut -d: -f1
        rootless system check --quick
        """, inside=AGAIN)
    words = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    told = dict(w.split() for w in words if w.count(" ") == 1 and w.split()[1].isdigit())
    assert told["cp"] == "0" and told["commit"] == "0", done
    assert [w for w in words if w.startswith(("cp", "tar", "commit", "volume", "secret", "fill"))][
        :6] == ["cp 1", "tar 1", "commit 1", "volume 1", "secret 1", "fill 125"], done
    assert "root" in words and "Total reclaimed space" in words, done
    assert words[-1] == "no faults found", done
    assert done.stderr.count("No space left on device") == 6, done.stderr
    assert "Traceback" not in done.stderr
