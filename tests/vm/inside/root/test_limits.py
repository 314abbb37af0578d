"""Limits for root, and for a user in a cgroup that was delegated to them, as a batch system does
it: no systemd manager of theirs runs, and all controllers are there."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.support.cli import Cli, Process
from tests.vm.inside import limits
from tests.vm.inside.limits import CGROUP, cgroup_of, eventually, inspect, number

ALL = ("cpu", "cpuset", "io", "memory", "pids")
UID = 1000


class Job(Cli):
    """The command line of an ordinary user who stands in the cgroup `where`, or in its leaf once
    the engine has moved there what stood in it."""

    where: Path

    def popen(self, *args: str, before: tuple[str, ...] = (), **more: Any) -> Process:
        leaf = self.where / "rootless-leaf"
        where = leaf if leaf.exists() else self.where
        step = ("sh", "-c", 'echo 0 >"$0/cgroup.procs" && exec "$@"', str(where), "setpriv",
                f"--reuid={UID}", f"--regid={UID}", "--init-groups")
        return super().popen(*args, before=(*before, *step), **more)


@pytest.fixture(scope="module")
def no_manager() -> Iterator[None]:
    subprocess.run(["systemctl", "stop", f"user@{UID}.service"], check=True)
    yield
    subprocess.run(["systemctl", "start", f"user@{UID}.service"], check=True)


def enable(where: Path) -> None:
    for controller in ALL:
        (where / "cgroup.subtree_control").write_text(f"+{controller}")


def empty(where: Path) -> None:
    eventually(lambda: "populated 0" in (where / "cgroup.events").read_text(), "all have ended")


@pytest.fixture
def job(no_manager: None) -> Iterator[Job]:
    enable(CGROUP)
    where = CGROUP / "job"
    where.mkdir()
    for file in ("", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"):
        os.chown(where / file, UID, UID)
    one = Job(Path(pwd.getpwuid(UID).pw_dir), Path("/tmp/job-run"))
    os.chown("/tmp/job-run", UID, UID)
    one.where = where
    yield one
    listed = one("ps", "-aq").text.split()
    one("rm", "-f", *listed)
    one("system", "stop")
    (where / "cgroup.kill").write_text("1")
    empty(where)
    left = [p for p in where.iterdir() if p.is_dir()]
    for path in left:
        path.rmdir()
    where.rmdir()
    assert [p.name for p in left] in ([], ["rootless-leaf"])


def test_a_job_kills_a_hog(job: Job) -> None:
    limits.hog_is_killed(job, "one")


def test_a_job_gives_half_a_processor(job: Job) -> None:
    limits.half_a_processor(job, "one")
    assert cgroup_of(job, "one").parent == job.where


def test_a_job_stops_a_fork_bomb(job: Job) -> None:
    limits.fork_bomb(job, "one")


def test_a_job_can_update_and_divide(job: Job) -> None:
    limits.update(job, "one")
    limits.inside(job, "two")
    job.ok("exec", "one", "true")


def test_what_a_killed_monitor_left_is_removed(job: Job) -> None:
    """By `rm` of the container, and by the next start beside it."""
    for name, clear in (("one", ("rm", "one")), ("two", ("run", "--rm", "host", "true"))):
        job.ok("run", "-d", "--name", name, "host", "sh", "-c", "setsid sleep 100 & sleep 100")
        where, pid = cgroup_of(job, name), inspect(job, name)["State"]["Pid"]
        monitor = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        os.kill(int(monitor), signal.SIGKILL)
        empty(where)
        job.ok(*clear)
        assert not where.exists()


def test_a_processor_is_pinned(job: Job) -> None:
    job.ok("run", "-d", "--name", "one", "--cpuset-cpus", "1", "host", "sleep", "100")
    pid = inspect(job, "one")["State"]["Pid"]
    assert os.sched_getaffinity(pid) == {1}
    job.fails(125, "run", "--rm", "--cpuset-cpus", "7", "host", "true", says="there are 0-1")


def test_a_device_is_read_at_its_limit(job: Job) -> None:
    """Three megabytes at one a second, past the page cache."""
    script = "dd if=/dev/vda of=/dev/null bs=1M count=3 iflag=direct"
    os.chmod("/dev/vda", 0o644)
    begin = time.monotonic()
    job.ok("run", "--rm", "--device", "/dev/vda", "--device-read-bps", "/dev/vda:1m", "host",
           "sh", "-c", script)
    assert time.monotonic() - begin > 2


def test_a_files_of_the_cgroup_can_be_set(job: Job) -> None:
    job.ok("run", "-d", "--name", "one", "--cgroup-conf", "memory.high=50331648", "host", "sleep",
           "100")
    assert (cgroup_of(job, "one") / "memory.high").read_text() == "50331648\n"
    job.fails(125, "run", "--rm", "--cgroup-conf", "memory.nonsense=1", "host", "true",
              says="this kernel has no memory.nonsense")
    job.fails(125, "run", "--rm", "--cgroup-conf", "memory.high=x", "host", "true",
              says="does not take 'x'")


def test_a_parent_can_be_named(job: Job) -> None:
    inner = job.where / "inner"
    job.ok("run", "--rm", "host", "true")
    inner.mkdir()
    for file in ("", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"):
        os.chown(inner / file, UID, UID)
    job.ok("run", "-d", "--name", "one", "--cgroup-parent", "/job/inner", "--memory", "32m",
           "host", "sleep", "100")
    assert cgroup_of(job, "one").parent == inner
    job.fails(125, "run", "--rm", "--cgroup-parent", "/no/such", "host", "true",
              says="there is no such cgroup")
    job.fails(125, "run", "--rm", "--cgroup-parent", "/init.scope", "host", "true",
              says="not yours to divide")
    job.fails(125, "run", "--rm", "--cgroup-parent", "my.slice", "host", "true",
              says="no systemd manager of yours")
    job.ok("rm", "-f", "one")
    inner.rmdir()


def test_where_nothing_is_delegated_a_limit_is_an_error_that_says_what_mends_it(job: Job) -> None:
    own = job.where
    job.where = CGROUP / "closed"
    job.where.mkdir()
    try:
        job.ok("run", "--rm", "host", "true")
        failed = job.fails(125, "run", "--rm", "--memory", "64m", "host", "true",
                           says="cannot set --memory: no memory controller: no systemd manager")
        assert "loginctl enable-linger user" in failed.error
        found = {one["name"]: one for one in job.ok("doctor", "--json").json}
        assert found["limits"]["status"] == "missing"
        assert found["limits"]["fix"] == "loginctl enable-linger user"
    finally:
        job.ok("system", "stop")
        empty(job.where)
        job.where.rmdir()
        job.where = own


def test_roots_containers_are_scopes_of_the_systems_manager(cli: Cli) -> None:
    cli.ok("run", "-d", "--name", "one", "--memory", "64m", "--cpuset-cpus", "1", "--blkio-weight",
           "250", "host", "sleep", "100")
    try:
        where = cgroup_of(cli, "one")
        assert where.parent.parent == CGROUP / "rootless.slice"
        assert (where / "memory.max").read_text() == f"{64 << 20}\n"
        # The container's root has another id here, and yet may divide what is its own.
        cli.ok("exec", "one", "mkdir", "/sys/fs/cgroup/inner")
        pid = inspect(cli, "one")["State"]["Pid"]
        assert os.sched_getaffinity(pid) == {1}
        assert number(where, "memory.events oom_kill") == 0
    finally:
        cli.ok("rm", "-f", "one")
    eventually(lambda: not where.exists(), "its cgroup is gone")
