"""`diff` and `commit`: what a container changed, and an image of it."""

from __future__ import annotations

import os
from pathlib import Path

from tests.integration.support.box import Box
from tests.integration.support.cli import Cli
from tests.integration.test_volumes import with_volumes

CHANGE = """mkdir -p /new/d; echo x >/new/d/f; rm /data/f; rm -r /data/sub; mkdir /data/sub
echo 1 >/data/sub/n; chmod 700 /empty; echo more >>/etc/passwd; ln -s x /lnk; chown 5:6 /new/d/f
ln /new/d/f /new/hard; rm -r /root; echo file >/root; touch /home; mkfifo /new/pipe
echo name >"/new/a
b"
"""
CHANGES = ["C /data", "D /data/f", "C /data/sub", "D /data/sub/deep", "A /data/sub/n", "C /empty",
           "C /etc", "C /etc/passwd", "A /lnk", "A /new", "A /new/a", "b", "A /new/d",
           "A /new/d/f", "A /new/hard", "A /new/pipe", "C /root"]
LOOK = """cd /; stat -c '%n %F %u:%g %a %h' /data/* /data/sub/* /empty /new/* /new/d/f /lnk /root
tail -n 1 /etc/passwd; cat /root /new/hard; test /new/d/f -ef /new/hard"""


def test_diff_and_commit_tell_the_same_and_nothing_of_mount_points(fresh: Cli) -> None:
    image = with_volumes(fresh)
    fresh.ok("run", "--name", "c", "-v", "/mounted/here", "--tmpfs", "/t", "-w", "/home", image,
             "sh", "-ec", CHANGE + "echo no >/mounted/here/f; echo no >/t/f")
    assert fresh.ok("diff", "c").text.splitlines() == CHANGES
    assert fresh.ok("diff", "--format", "json", "c").json["deleted"] == [
        "/data/f", "/data/sub/deep"]
    made = fresh.ok("commit", "-m", "a message", "-a", "me", "c", "made:1").text
    assert made.startswith("sha256:") and len(made) == 71
    assert fresh.ok("image", "diff", image, "made:1").text.splitlines() == CHANGES
    (one,) = fresh.ok("image", "inspect", "made:1").json
    assert (one["Id"], one["Author"], one["Comment"]) == (made, "me", "a message")
    assert len(one["RootFS"]["Layers"]) == 4
    assert fresh.ok("history", "--format", "{{.Comment}}", "made:1").text.splitlines()[0] \
        == "a message"
    fresh.ok("start", "c")          # it is none the worse for it
    look = fresh.ok("run", "--rm", "made:1", "sh", "-ec", LOOK).text
    assert "/new/d/f regular file 5:6" in look and "file" in look.splitlines()[-2]
    fresh.ok("rm", "-v", "c")
    fresh.ok("rmi", image)
    assert fresh.ok("run", "--rm", "made:1", "sh", "-ec", LOOK).text == look


def test_an_image_made_by_commit_is_read_by_others_as_well(fresh: Cli, tmp_path: Path) -> None:
    image = with_volumes(fresh)
    fresh.ok("run", "--name", "c", image, "sh", "-ec", CHANGE)
    fresh.ok("commit", "c", "made:1")
    look = fresh.ok("run", "--rm", "made:1", "sh", "-ec", LOOK).text
    fresh.ok("save", "-o", str(tmp_path / "a.tar"), "made:1")
    fresh.ok("rm", "c")
    fresh.ok("rmi", "made:1", image)
    fresh.ok("load", "-i", str(tmp_path / "a.tar"))
    assert fresh.ok("run", "--rm", "made:1", "sh", "-ec", LOOK).text == look


def test_lines_of_a_dockerfile_change_the_configuration(fresh: Cli) -> None:
    image = with_volumes(fresh)
    fresh.ok("create", "--name", "c", "-e", "GIVEN=1", "--label", "from=run", "-u", "7", "-t",
             image, "echo", "said")
    changes = ('CMD ["ls", "/"]', "ENV A=b", "LABEL l=1", "EXPOSE 80", "USER 5", "WORKDIR /new",
               "STOPSIGNAL SIGINT", "VOLUME /v", 'ENTRYPOINT ["/bin/busybox"]', "ONBUILD RUN x")
    fresh.ok("commit", *(w for c in changes for w in ("-c", c)), "c", "made:1")
    (one,) = fresh.ok("image", "inspect", "made:1").json
    config = one["Config"]
    assert (config["Cmd"], config["Entrypoint"]) == (["ls", "/"], ["/bin/busybox"])
    assert config["Env"] == ["PATH=/bin", "GIVEN=1", "A=b"]
    assert config["Labels"] == {"from": "run", "l": "1"}
    assert (config["User"], config["WorkingDir"], config["StopSignal"]) == ("5", "/new", "SIGINT")
    assert config["ExposedPorts"] == {"80/tcp": {}} and config["Volumes"] == {"/v": {}}
    fresh.ok("commit", "c", "plain:1")
    (one,) = fresh.ok("image", "inspect", "plain:1").json
    assert (one["Config"]["Cmd"], one["Config"]["User"]) == (["echo", "said"], "7")
    assert len(one["RootFS"]["Layers"]) == 3
    fresh.fails(125, "commit", "-c", "RUN x", "c", says="RUN")
    fresh.fails(125, "commit", "c", "Bad Name", says="name")
    assert "<none>" in fresh.ok("images", "-f", "dangling=true").text \
        or fresh.ok("commit", "c").text


def test_a_running_container_is_committed_and_goes_on(box: Box) -> None:
    with box.running(then=("sh", "-c", "while :; do date >>/tmp/now; sleep 0.01; done")) as name:
        box.cli.ok("commit", name, "live:1")
        assert box.cli.ok("exec", name, "cat", "/tmp/now").text
        assert "A /tmp/now" in box.cli.ok("diff", name).text
        assert box.cli.ok("run", "--rm", "live:1", "ls", "/tmp").text == "now"
    box.cli.ok("rmi", "live:1")


def test_what_a_commit_costs_is_what_changed(box: Box) -> None:
    with box.running(then=("sh", "-c", "echo small >/f; exec sleep 1000")) as name:
        before = sum(p.stat().st_size for p in (box.cli.store / "images/blobs/sha256").iterdir())
        box.cli.ok("commit", name, "small:1")
        after = sum(p.stat().st_size for p in (box.cli.store / "images/blobs/sha256").iterdir())
        assert after - before < 10_000
    box.cli.ok("rmi", "small:1")


def test_containers_of_this_machine_and_missing_ones_are_refused(box: Box) -> None:
    box.cli.ok("create", "--name", "here", "host", "true")
    try:
        box.cli.fails(125, "commit", "here", says="machine's own")
        box.cli.fails(125, "diff", "here", says="machine's own")
    finally:
        box.cli.ok("rm", "here")
    box.cli.fails(1, "diff", "nobody", says="no such container")
    box.cli.fails(1, "commit", "nobody", says="no such container")


def test_pausing_on_demand_is_refused_where_it_cannot_be_done(box: Box) -> None:
    with box.running() as name:
        has_cgroup = '"cgroup":""' not in (
            box.cli.store / "containers" / os.readlink(box.cli.store / "names" / name)
            / "state.json").read_text()
        result = box.cli("commit", "--pause", name, "paused:1")
        assert (result.rc == 0) == has_cgroup, result
        box.cli.ok("commit", "--pause=false", name, "paused:1")
    box.cli.ok("rmi", "paused:1")
