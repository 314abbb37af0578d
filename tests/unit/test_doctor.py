"""The doctor's judgement of machines that are not this one, and the reading of their files."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rootless.cli.doctor import table
from rootless.doctor import host, ranges
from rootless.doctor.attempt import Running
from rootless.doctor.facts import Cgroup, Facts, Ids, Store, Tried
from rootless.doctor.judge import Line, able, conclusion, judge
from rootless.record import replace

if TYPE_CHECKING:
    from rootless.doctor.attempt import Attempt

ABLE = {"newuidmap": "able", "newgidmap": "able"}
IDS = Ids(65537, 65537, "", ABLE, False, 165536)
GOOD = Facts(
    user="ann", uid=1000, gids=(1000, 27), kernel="6.1.0", python="3.11.2", modules=(), outer="",
    packages="apt-get", systemd=True, launcher="/home/ann/.local/bin/rootless",
    sysctl={"net.ipv4.ping_group_range": "0\t2147483647",
            "net.ipv4.ip_unprivileged_port_start": "80", "user.max_user_namespaces": "9000"},
    calls=Tried(), userns=Tried(told="made"), seccomp=Tried(told="loaded"), ids=IDS,
    store=Store("/home/ann", "ext4", 50 * 10**9, ""), overlay=Tried(told="mounted"),
    fuse=Tried(told="opened"), tun=Tried(told="opened"),
    cgroup=Cgroup("v2", "/user.slice/x", ("cpu", "memory", "pids")),
    run="/run/user/1000/rootless", run_trouble="", xdg_run="/run/user/1000", linger=True)


def line(name: str, **changes: Any) -> Line:
    facts = replace(GOOD, **changes)
    (found,) = [one for one in judge(facts) if one.name == name]
    return found


def no(step: str, code: int, why: str = "") -> Tried:
    return Tried(step, code, why or os.strerror(code))


def test_a_good_machine_has_nothing_to_mend() -> None:
    lines = judge(GOOD)
    assert {one.status for one in lines} == {"ok"}
    assert not [one.fix for one in lines if one.fix]
    assert able(lines)
    assert conclusion(GOOD, lines) == "ann can run containers with 65537 user ids."


CLONE = {"kernel.unprivileged_userns_clone": "0"}
APPARMOR = {"kernel.apparmor_restrict_unprivileged_userns": "1"}
MAKE, MOUNT = "make a user namespace", "mount in a user namespace"


@pytest.mark.parametrize("changes, fix", [
    ({"userns": no(MAKE, errno.EPERM), "sysctl": CLONE},
     "echo 'kernel.unprivileged_userns_clone = 1' >> /etc/sysctl.d/90-rootless.conf"
     " && sysctl --system"),
    ({"userns": no(MAKE, errno.ENOSPC), "sysctl": {"user.max_user_namespaces": "0"}},
     "echo 'user.max_user_namespaces = 65536' >> /etc/sysctl.d/90-rootless.conf"
     " && sysctl --system"),
    ({"userns": no(MOUNT, errno.EACCES), "sysctl": APPARMOR},
     r"""printf 'abi <abi/4.0>,\ninclude <tunables/global>\nprofile rootless """
     r'''"/home/ann/.local/bin/rootless" flags=(unconfined) {\n  userns,\n}\n' > '''
     "/etc/apparmor.d/rootless && apparmor_parser -r /etc/apparmor.d/rootless"),
    ({"userns": no(MOUNT, errno.EACCES), "sysctl": APPARMOR, "launcher": ""},
     "echo 'kernel.apparmor_restrict_unprivileged_userns = 0' >> /etc/sysctl.d/90-rootless.conf"
     " && sysctl --system"),
    ({"userns": no(MAKE, errno.EPERM), "outer": "docker"},
     "docker run --security-opt seccomp=unconfined …"),
    ({"userns": no("mount /proc for a container", errno.EPERM), "outer": "podman"},
     "podman run --security-opt unmask=ALL …"),
    ({"userns": no("mount /proc for a container", errno.EPERM), "outer": "docker"},
     "docker run --security-opt systempaths=unconfined …"),
    ({"userns": no(MAKE, errno.EPERM), "outer": "a container"}, ""),
    ({"userns": no(MAKE, errno.EPERM), "outer": "a chroot"}, ""),
    ({"userns": no(MAKE, errno.EINVAL)}, ""),
], ids=["debian sysctl", "no namespaces left", "apparmor", "apparmor from a checkout",
        "docker's filter", "masked by podman",
        "masked by docker", "some filter", "chroot", "kernel without"])
def test_what_blocks_user_namespaces_is_named_with_the_line_that_mends_it(
        changes: dict[str, Any], fix: str) -> None:
    found = line("user namespaces", **changes)
    assert (found.status, found.fix) == ("missing", fix)
    assert not able(judge(replace(GOOD, **changes)))


@pytest.mark.parametrize("changes, status, says, fix", [
    ({"why": "/etc/subuid has no range for ann", "uids": 1, "gids": 1}, "fallback", "no range",
     "usermod --add-subuids 165536-231071 --add-subgids 165536-231071 ann"),
    ({"why": "newuidmap is not installed", "uids": 1, "gids": 1,
      "helpers": {"newuidmap": "missing", "newgidmap": "missing"}}, "fallback", "not installed",
     "apt-get install --yes uidmap"),
    ({"why": "newuidmap: write to uid_map failed", "uids": 1, "gids": 1,
      "helpers": {"newuidmap": "unprivileged", "newgidmap": "able"}}, "fallback",
     "newuidmap neither", "chmod u+s $(command -v newuidmap)"),
    ({"why": "newuidmap: write to uid_map failed", "uids": 1, "gids": 1, "no_new_privs": True},
     "fallback", "no_new_privs", ""),
    ({"uids": 1001, "gids": 65537}, "fallback", "1001 ids",
     "usermod --add-subuids 165536-231071 --add-subgids 165536-231071 ann"),
    ({"why": "/etc/subuid has no range for ann", "uids": 1, "gids": 1, "free": 0}, "fallback",
     "no range", ""),
], ids=["no range", "no helper", "helper without power", "no_new_privs", "few ids", "none free"])
def test_why_there_are_few_ids_is_told(changes: dict[str, Any], status: str, says: str,
                                       fix: str) -> None:
    found = line("user ids", ids=replace(IDS, **changes))
    assert (found.status, found.fix) == (status, fix)
    assert says in found.detail
    assert able([found])


def test_each_distribution_gets_its_own_command() -> None:
    ids = replace(IDS, why="newuidmap is not installed", uids=1, gids=1,
                  helpers={"newuidmap": "missing", "newgidmap": "able"})
    assert line("user ids", ids=ids, packages="dnf").fix == \
        "dnf install --assumeyes shadow-utils"
    assert line("user ids", ids=ids, packages="").fix == ""


@pytest.mark.parametrize("cgroup, status, says, fix", [
    (Cgroup("hybrid", "", ()), "missing", "only v2",
     "sed -i 's/^GRUB_CMDLINE_LINUX=\"/&systemd.unified_cgroup_hierarchy=1 /' "
     "/etc/default/grub && update-grub && reboot"),
    (Cgroup("v1", "", ()), "missing", "cgroup v1", "update-grub"),
    (Cgroup("v2", "", ()), "missing", "no systemd user manager", "loginctl enable-linger ann"),
    (Cgroup("v2", "/x", ("memory", "pids")), "fallback", "not delegated: cpu", "Delegate="),
    (Cgroup("v2", "/x", ()), "missing", "no controller", "Delegate="),
    (Cgroup("v2", "/x", ("cpu", "io", "memory", "pids")), "ok", "not delegated: cpuset", ""),
    (Cgroup("none", "", ()), "missing", "no cgroups", ""),
], ids=["hybrid", "v1", "no manager", "some", "no controllers", "usual ones", "none"])
def test_limits_that_cannot_be_set_are_told_with_what_helps(
        cgroup: Cgroup, status: str, says: str, fix: str) -> None:
    found = line("limits", cgroup=cgroup)
    assert found.status == status
    assert says in found.detail
    assert fix in found.fix
    assert able([found])


@pytest.mark.parametrize("changes, says", [
    ({"overlay": no("mount the overlay", errno.EINVAL),
      "store": replace(GOOD.store, fstype="nfs4")}, "keeps no owners"),
    ({"overlay": no("mount the overlay", errno.EINVAL),
      "store": replace(GOOD.store, fstype="overlay")}, "on a volume"),
    ({"overlay": no("mount the overlay", errno.ENODEV)}, "kernel has no overlay"),
    ({"overlay": no("mount the overlay", errno.EPERM), "userns": no(MAKE, errno.EPERM)},
     "not tried"),
], ids=["nfs", "nested", "no module", "no namespace"])
def test_a_store_that_cannot_hold_layers_is_told(changes: dict[str, Any], says: str) -> None:
    found = line("overlay", **changes)
    assert found.status == "missing"
    assert says in found.detail
    assert not able([found])


def test_a_full_disk_is_told_with_another_place() -> None:
    found = line("store", store=replace(GOOD.store, free=10**6))
    assert (found.status, found.fix) == ("fallback", "export ROOTLESS_ROOT=/var/tmp/rootless-ann")
    found = line("store", store=replace(GOOD.store, trouble="cannot write: No space left"))
    assert found.status == "missing" and not able([found])


@pytest.mark.parametrize("changes, status, says", [
    ({"xdg_run": ""}, "fallback", "not set"),
    ({"xdg_run": "/run/user/0"}, "fallback", "XDG_RUNTIME_DIR=/run/user/0 is not"),
    ({"run": "", "run_trouble": "cannot use /tmp/rootless-1000"}, "missing", "cannot use"),
])
def test_the_run_directory_in_use_is_named(changes: dict[str, Any], status: str,
                                           says: str) -> None:
    found = line("run directory", **changes)
    assert found.status == status
    assert says in found.detail


def test_devices_that_cannot_be_opened_are_told_apart_from_those_that_do_nothing() -> None:
    shut = line("FUSE", fuse=no("open /dev/fuse", errno.EACCES))
    assert shut.fix == "modprobe fuse && chmod 0666 /dev/fuse"
    inside = line("TUN", tun=no("open /dev/net/tun", errno.ENOENT), outer="podman")
    assert inside.fix == "podman run --device /dev/net/tun …"
    assert line("TUN", tun=no("make a TUN device", errno.EPERM)).fix == ""


def test_ping_needs_one_of_the_users_groups_in_the_range() -> None:
    closed = {**GOOD.sysctl, "net.ipv4.ping_group_range": "1\t0"}
    assert line("ping", sysctl=closed).status == "missing"
    admins = {**GOOD.sysctl, "net.ipv4.ping_group_range": "27\t27"}
    assert line("ping", sysctl=admins).status == "ok"
    assert line("ping", sysctl={}).status == "missing"


def test_missing_system_calls_stop_containers_and_are_named() -> None:
    found = line("system calls", calls=Tried(told="openat2, mount_setattr"), kernel="5.4.0")
    assert not able([found])
    assert "openat2, mount_setattr" in found.detail and "5.4.0" in found.detail
    found = line("system calls", calls=no(MAKE, errno.EPERM))
    assert not able([found])
    assert found.detail == "not all tried: cannot make a user namespace: Operation not permitted"


def test_missing_decompressors_tell_what_that_means() -> None:
    assert line("decompression", modules=("isal",)).status == "fallback"
    gone = line("decompression", modules=("zstandard", "isal"), launcher="")
    assert (gone.status, gone.fix) == ("missing", "./install.sh")
    assert "zstd cannot be read" in gone.detail and "zlib reads gzip" in gone.detail


def test_the_conclusion_names_what_is_lacking() -> None:
    facts = replace(GOOD, cgroup=Cgroup("v1", "", ()), ids=replace(IDS, uids=1, gids=1, why="x"))
    assert conclusion(facts, judge(facts)) == \
        "ann can run containers with one user id; not available: limits."
    facts = replace(GOOD, userns=no(MAKE, errno.ENOSYS))
    assert conclusion(facts, judge(facts)).startswith("ann cannot run containers here yet: see ")


def test_the_table_is_aligned_and_says_who_types_what() -> None:
    text = table([Line("a", "ok", "fine"), Line("long name", "missing", "gone", "do x"),
                  Line("b", "fallback", "other", "do y", admin=False)])
    assert text.splitlines() == [
        "a          ok        fine",
        "long name  missing   gone",
        "                     the administrator types: do x",
        "b          fallback  other",
        "                     you type: do y"]


# ---- files of other machines -------------------------------------------------------------------

def machine(root: Path, **files: str) -> str:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


def test_a_free_range_touches_nobodys_ids(tmp_path: Path) -> None:
    root = machine(tmp_path, etc__subuid="ann:100000:65536\nbob:300000:65536\nbroken\n",
                   etc__subgid="ann:165536:65536\n", etc__passwd="ldap:x:240000:1::/:/bin/sh\n")
    assert ranges.free(root) == 365536
    assert ranges.free(machine(tmp_path / "empty")) == 100000


def test_a_free_range_lies_in_a_gap_that_is_large_enough(tmp_path: Path) -> None:
    root = machine(tmp_path, etc__subuid="a:100000:1\nb:165537:10\nlxd:1000000:1000000000\n")
    assert ranges.free(root) == 100001
    root = machine(tmp_path, etc__subuid="a:100000:1\nb:165536:10\n", etc__subgid="")
    assert ranges.free(root) == 165546


MOUNTS = (r"22 1 8:1 / / rw - ext4 /dev/a rw" "\n"
          r"23 22 0:5 / /home rw shared:1 - nfs4 s:/home rw" "\n"
          r"24 22 0:6 / /mnt/with\040space rw - xfs /dev/b rw" "\n"
          r"25 22 0:7 / /home rw - tmpfs none rw" "\n")


@pytest.mark.parametrize("path, fstype", [
    ("/", "ext4"), ("/homeless", "ext4"), ("/mnt/with space/x", "xfs"), ("/home/ann", "tmpfs")])
def test_the_filesystem_of_a_path_is_the_topmost_mount_above_it(path: str, fstype: str) -> None:
    assert host.mount_of(path, MOUNTS) == fstype


def test_cgroups_of_either_version_are_told_apart(tmp_path: Path) -> None:
    v1 = "30 1 0:1 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    v2 = "31 1 0:2 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    for name, mountinfo, version in (("a", v1, "v1"), ("b", v1 + v2, "hybrid"), ("c", "", "none")):
        root = machine(tmp_path / name, proc__self__mountinfo=mountinfo)
        assert host.cgroup(1000, root) == Cgroup(version, "", ())


def test_the_cgroup_found_is_one_that_can_be_divided(tmp_path: Path) -> None:
    manager = "user.slice/user-1000.slice/user@1000.service"
    root = machine(tmp_path, proc__self__mountinfo="30 1 0:1 / /sys/fs/cgroup rw - cgroup2 x rw\n",
                   proc__self__cgroup="0::/session\n")
    assert host.cgroup(1000, root) == Cgroup("v2", "", ())
    directory = tmp_path / "sys/fs/cgroup" / manager
    directory.mkdir(parents=True)
    (directory / "cgroup.procs").touch()
    (directory / "cgroup.controllers").write_text("cpu pids\n")
    assert host.cgroup(1000, root) == Cgroup("v2", f"/{manager}", ("cpu", "pids"))
    assert not [p for p in directory.iterdir() if p.is_dir()]


def test_outer_containers_are_recognised(tmp_path: Path) -> None:
    assert host.outer_container(machine(tmp_path / "none")) == ""
    assert host.outer_container(machine(tmp_path / "c", proc__self__mountinfo=(
        "21 1 0:5 / /proc rw - proc proc rw\n"))) == "a chroot"
    assert host.outer_container(machine(tmp_path / "d", **{".dockerenv": ""})) == "docker"
    assert host.outer_container(machine(
        tmp_path / "p", **{"run__.containerenv": 'a=1\nengine="buildah-1.28"\n'})) == "buildah"
    assert host.outer_container(machine(
        tmp_path / "r", **{"run__.containerenv": "rootless=1"})) == "podman"
    assert host.outer_container(machine(
        tmp_path / "n", run__systemd__container="systemd-nspawn\n")) == "systemd-nspawn"


def test_a_machine_made_from_an_image_is_no_container(tmp_path: Path) -> None:
    root = machine(tmp_path, **{".dockerenv": ""})
    (tmp_path / "proc/self/ns").mkdir(parents=True)
    (tmp_path / "proc/self/ns/pid").symlink_to("pid:[4026531836]")
    assert host.outer_container(root) == ""


def test_a_process_namespace_without_marks_is_a_container(tmp_path: Path) -> None:
    (tmp_path / "proc/self/ns").mkdir(parents=True)
    (tmp_path / "proc/self/ns/pid").symlink_to("pid:[4026532999]")
    assert host.outer_container(str(tmp_path)) == "a container"


def test_sysctls_that_do_not_exist_are_left_out(tmp_path: Path) -> None:
    root = machine(tmp_path, proc__sys__kernel__unprivileged_userns_clone="0\n")
    assert host.sysctls(root) == {"kernel.unprivileged_userns_clone": "0"}


# ---- attempts ----------------------------------------------------------------------------------

def test_an_attempt_tells_the_step_that_failed() -> None:
    def work() -> Attempt:
        yield "walk"
        yield "open the door"
        os.open("/nonexistent/door", os.O_RDONLY)
        return "never"

    assert Running(work).result() == Tried("open the door", errno.ENOENT,
                                           os.strerror(errno.ENOENT))


def test_an_attempt_that_hangs_is_ended_with_all_it_started() -> None:
    seconds = f"9{os.getpid()}"

    def work() -> Attempt:
        yield "wait for ever"
        read, _ = os.pipe()
        if os.fork() == 0:
            os.execv("/bin/sleep", ["sleep", seconds])
        os.read(read, 1)
        return "never"

    begun = time.monotonic()
    tried = Running(work, 0.2).result()
    assert (tried.step, tried.why) == ("wait for ever", "no answer within 0.2 seconds")
    assert time.monotonic() - begun < 1
    end = time.monotonic() + 2
    wanted = f"sleep\0{seconds}".encode()
    while any(wanted in _command(pid) for pid in os.listdir("/proc") if pid.isdigit()):
        assert time.monotonic() < end
        time.sleep(0.01)


def _command(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_an_attempt_that_is_killed_is_no_success() -> None:
    def work() -> Attempt:
        yield "die"
        os.kill(os.getpid(), 9)
        return "never"

    assert not Running(work).result().worked
