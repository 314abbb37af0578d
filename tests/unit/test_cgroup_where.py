"""Where a container's cgroup goes, on machines of every kind, and what its files tell."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rootless.cgroup import tree, usage, where
from rootless.cgroup.limits import Setting
from rootless.cgroup.where import Machine, Place
from rootless.errors import HostError, RootlessError, UsageError

UID = os.getuid() or 1000
MANAGER = f"/user.slice/user-{UID}.slice/user@{UID}.service"
SOCKET = "/run/user/x/systemd/private"
MEMORY = [Setting("memory.max", "1", "--memory")]


def cgroup(root: Path, path: str, *, writable: bool, controllers: str = "cpu memory pids") -> str:
    here = Path(f"{root}{path}")
    here.mkdir(parents=True, exist_ok=True)
    for name in ("cgroup.procs", "cgroup.subtree_control"):
        (here / name).touch()
        (here / name).chmod(0o644 if writable else 0o444)
    (here / "cgroup.controllers").write_text(controllers + "\n")
    return path


def machine(root: Path, own: str, socket: str = "", *, uid: int = UID, v2: bool = True) -> Machine:
    return Machine(uid, v2, own, socket, True, str(root))


def test_a_session_with_a_manager_is_systemds(tmp_path: Path) -> None:
    own = cgroup(tmp_path, "/user.slice/session-1.scope", writable=False)
    place = where.find(machine(tmp_path, own, SOCKET))
    assert (place.how, place.parent, place.socket) == ("systemd", "rootless.slice", SOCKET)


def test_a_batch_job_stays_in_its_own_cgroup_although_a_manager_runs(tmp_path: Path) -> None:
    own = cgroup(tmp_path, "/system.slice/slurmstepd.scope/job_1/step_0", writable=True)
    place = where.find(machine(tmp_path, own, SOCKET))
    assert (place.how, place.parent) == ("direct", own)


def test_below_the_users_manager_systemd_is_asked_though_the_files_are_ours(
        tmp_path: Path) -> None:
    own = cgroup(tmp_path, MANAGER + "/app.slice/terminal.scope", writable=True)
    assert where.find(machine(tmp_path, own, SOCKET)).how == "systemd"


def test_root_of_a_machine_with_systemd_asks_it(tmp_path: Path) -> None:
    own = cgroup(tmp_path, "/user.slice/user-0.slice/session-1.scope", writable=True)
    assert where.find(machine(tmp_path, own, "/run/systemd/private", uid=0)).how == "systemd"


def test_root_without_systemd_divides_where_it_stands(tmp_path: Path) -> None:
    cgroup(tmp_path, "", writable=True)
    place = where.find(machine(tmp_path, "/", uid=0))
    assert (place.how, place.parent) == ("direct", "/")


def test_the_leaf_is_not_divided_but_what_is_above(tmp_path: Path) -> None:
    own = cgroup(tmp_path, "/job", writable=True)
    cgroup(tmp_path, "/job/rootless-leaf", writable=True)
    assert where.find(machine(tmp_path, "/job/rootless-leaf")).parent == own
    assert where.standing("/rootless-leaf") == "/"


def test_with_neither_there_is_none_and_it_says_why(tmp_path: Path) -> None:
    own = cgroup(tmp_path, "/system.slice/cron.service", writable=False)
    place = where.find(machine(tmp_path, own))
    assert place.how == ""
    assert "no systemd manager of yours runs" in place.why
    assert own in place.why
    assert place.hint


def test_cgroup_v1_is_none(tmp_path: Path) -> None:
    place = where.find(machine(tmp_path, "", v2=False))
    assert place.how == ""
    assert "not cgroup v2" in place.why


@pytest.mark.parametrize("policy, own, socket, how", [
    ("systemd", "/job", SOCKET, "systemd"), ("systemd", "/job", "", ""),
    ("direct", "/job", SOCKET, "direct"), ("direct", "/closed", SOCKET, ""),
    ("disabled", "/job", SOCKET, ""), ("auto", "/job", SOCKET, "direct")])
def test_the_configuration_decides(tmp_path: Path, policy: str, own: str, socket: str,
                                   how: str) -> None:
    cgroup(tmp_path, "/job", writable=True)
    cgroup(tmp_path, "/closed", writable=False)
    place = where.find(machine(tmp_path, own, socket), policy)
    assert place.how == how
    assert bool(place.why) == (not how)


@pytest.mark.parametrize("parent, how", [("mine.slice", "systemd"), ("/job", "direct"),
                                         ("/job/", "direct"), ("/job/rootless-leaf", "direct")])
def test_a_parent_can_be_named(tmp_path: Path, parent: str, how: str) -> None:
    cgroup(tmp_path, "/job", writable=True)
    place = where.find(machine(tmp_path, "/other", SOCKET), "auto", parent)
    assert (place.how, place.parent) == (how, "mine.slice" if how == "systemd" else "/job")


@pytest.mark.parametrize("policy, parent, socket, kind, says", [
    ("auto", "mine", SOCKET, UsageError, "NAME.slice"),
    ("auto", "/a/../b", SOCKET, UsageError, "NAME.slice"),
    ("auto", "a/mine.slice", SOCKET, UsageError, "NAME.slice"),
    ("auto", "/none", SOCKET, HostError, "there is no such cgroup"),
    ("auto", "/closed", SOCKET, HostError, "not yours to divide"),
    ("auto", "mine.slice", "", HostError, "no systemd manager"),
    ("direct", "mine.slice", SOCKET, HostError, "direct"),
    ("systemd", "/job", SOCKET, HostError, "systemd")])
def test_a_parent_that_cannot_be_is_refused(tmp_path: Path, policy: str, parent: str, socket: str,
                                            kind: type[RootlessError], says: str) -> None:
    cgroup(tmp_path, "/job", writable=True)
    cgroup(tmp_path, "/closed", writable=False)
    with pytest.raises(kind) as caught:
        where.find(machine(tmp_path, "/job", socket), policy, parent)
    assert says in str(caught.value) + (caught.value.hint or "")


def test_a_controller_that_is_not_there_is_named(tmp_path: Path) -> None:
    cgroup(tmp_path, "/job", writable=True, controllers="cpu pids")
    place = Place("direct", "/job")
    where.require(place, [Setting("cpu.max", "1 1", "--cpus"), Setting("memory.swap.max", "1", "")],
                  str(tmp_path))
    with pytest.raises(HostError) as caught:
        where.require(place, MEMORY, str(tmp_path))
    assert str(caught.value) == ("cannot set --memory: the memory controller is not delegated: the "
                                 "cgroup /job has cpu pids")
    assert "+memory" in (caught.value.hint or "")


def test_a_limit_without_a_cgroup_names_option_controller_reason_and_line() -> None:
    none = Place("", why="this machine is old", hint="buy another")
    where.require(none, [])
    with pytest.raises(HostError) as caught:
        where.require(none, MEMORY)
    assert str(caught.value) == \
        "cannot set --memory: no memory controller: this machine is old"
    assert caught.value.hint == "buy another"


@pytest.mark.parametrize("line, guarded", [
    ("26 25 0:23 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 "
     "rw,nsdelegate,memory_recursiveprot", True),
    ("26 25 0:23 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw", False),
    ("26 25 0:23 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate", False),
    ("26 25 0:23 / /sys/fs/cgroup rw - tmpfs tmpfs rw,nsdelegate", False)])
def test_a_container_may_write_only_what_the_kernel_guards(tmp_path: Path, line: str,
                                                           guarded: bool) -> None:
    file = tmp_path / "mountinfo"
    file.write_text("1 1 0:1 / / rw - ext4 /dev/sda rw\n" + line + "\n")
    assert where.nsdelegate(str(file)) is guarded


@pytest.mark.parametrize("text, path", [
    ("0::/user.slice/x.scope\n", "/user.slice/x.scope"), ("0::/\n", "/"),
    ("5:memory:/a\n0::/b\n", "/b"), ("5:memory:/a\n", ""), ("", "")])
def test_the_cgroup_of_a_process(tmp_path: Path, text: str, path: str) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cgroup").write_text(text)
    assert tree.of_process(7, str(tmp_path)) == path
    assert tree.of_process(8, str(tmp_path)) == ""


def test_usage_is_read_from_the_files(tmp_path: Path) -> None:
    one = tmp_path / "cg/a/one"
    one.mkdir(parents=True)
    (tmp_path / "cg/a/memory.max").write_text("50000\n")
    for name, text in {
            "cgroup.controllers": "cpu io memory pids\n",
            "cpu.stat": "usage_usec 1500\nuser_usec 1000\n", "memory.current": "40000\n",
            "memory.stat": "anon 1\ninactive_file 15000\nactive_file 9\n", "memory.max": "max\n",
            "pids.current": "3\n", "pids.max": "max\n",
            "io.stat": "8:0 rbytes=10 wbytes=20 rios=1\n8:16 rbytes=5 wbytes=0\n",
            "cpu.pressure": "some avg10=1.50 avg60=0.00 avg300=0.00 total=5\n"
                            "full avg10=9.00 avg60=0.00 avg300=0.00 total=5\n"}.items():
        (one / name).write_text(text)
    net = tmp_path / "proc/9/net"
    net.mkdir(parents=True)
    (net / "dev").write_text(
        "Inter-|   Receive |  Transmit\n face |bytes packets\n"
        "    lo: 99 1 0 0 0 0 0 0 99 1 0 0 0 0 0 0\n"
        "  eth0: 1000 1 0 0 0 0 0 0 2000 1 0 0 0 0 0 0\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal:    1000 kB\nMemFree:  1 kB\n")
    found = usage.usage("/a/one", 9, str(tmp_path / "cg"), str(tmp_path / "proc"))
    assert (found.cpu, found.memory, found.limit) == (1500, 25000, 50000)
    assert (found.pids, found.pids_limit, found.read, found.written) == (3, None, 15, 20)
    assert (found.received, found.sent) == (1000, 2000)
    assert found.pressure == (1.5, None, None)


def test_what_has_no_controller_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "cg/one").mkdir(parents=True)
    (tmp_path / "meminfo").write_text("MemTotal:    1000 kB\n")
    found = usage.usage("/one", 9, str(tmp_path / "cg"), str(tmp_path))
    assert (found.cpu, found.memory, found.pids, found.read) == (None, None, None, None)
    assert found.limit == 1000 << 10


def test_a_tree_is_removed_from_its_leaves(tmp_path: Path) -> None:
    (tmp_path / "a/b/c").mkdir(parents=True)
    tree.remove(str(tmp_path / "a"))
    assert os.listdir(tmp_path) == []
    tree.remove(str(tmp_path / "a"))
