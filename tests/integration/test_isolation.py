"""What a container may not see, reach or change, and attacks that worked on other engines."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.integration.support import images
from tests.integration.support.box import Box
from tests.integration.support.cli import Cli
from tests.integration.support.images import Image, Layer, Tar
from tests.integration.support.registry import Registry

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")


def layers_of(server: Registry, name: str = "tiny") -> list[Layer]:
    accept = {"Accept": images.OCI + "manifest.v1+json"}
    _, _, body = images.request(server.address, "GET", f"/v2/{name}/manifests/plain",
                                headers=accept)
    return [Layer(images.request(server.address, "GET", f"/v2/{name}/blobs/{la['digest']}")[2],
                  "none") for la in json.loads(body)["layers"]]


def pushed(cli: Cli, server: Registry, name: str, tar: Tar) -> str:
    """An image of the quick one and a layer above it."""
    images.push(server.address, name, "latest",
                Image([*layers_of(server), Layer(tar.bytes())], {"Env": ["PATH=/bin"]}))
    reference = f"{server.address}/{name}:latest"
    cli.ok("pull", "-q", reference)
    return reference


# ---- namespaces --------------------------------------------------------------------------------

def test_every_namespace_is_the_containers_own(box: Box) -> None:
    script = "for n in $0; do readlink /proc/self/ns/$n; done"
    outside = [os.readlink(f"/proc/self/ns/{n}") for n in NAMESPACES]
    with box.running() as one, box.running() as two:
        shown = [box.cli.ok("exec", n, "sh", "-c", script, " ".join(NAMESPACES)).text.split()
                 for n in (one, two)]
    for name, *three in zip(NAMESPACES, outside, *shown):
        assert len(set(three)) == 3, (name, three)


def test_processes_of_the_machine_and_of_others_are_not_there(box: Box) -> None:
    with subprocess.Popen(["sleep", "1000"]) as outside, box.running(
            "--cap-add", "KILL") as one, box.running(then=("sleep", "1004")):
        shown = box.cli.ok("exec", one, "ps", "-o", "pid,args").text
        assert shown.splitlines()[1].split()[0] == "1"
        assert len(shown.splitlines()) == 3, shown
        assert "sleep 1004" not in shown
        box.cli("exec", one, "kill", "-9", str(outside.pid), "-1")
        assert outside.poll() is None
        outside.kill()


def test_without_a_network_there_is_nothing(box: Box) -> None:
    told = box.sh("ls /sys/class/net; ip route | wc -l", "--network", "none").split()
    assert told == ["lo", "0"]


def test_shared_memory_and_queues_are_not_shared(box: Box) -> None:
    with box.running() as one:
        box.cli.ok("exec", one, "sh", "-c", "echo x > /dev/shm/mine; echo > /dev/mqueue/q; true")
        assert box.sh("ls /dev/shm /dev/mqueue | grep -v : | grep . || true") == ""
        assert not Path("/dev/shm/mine").exists()


# ---- what is masked ----------------------------------------------------------------------------

@pytest.mark.parametrize("path", ["/proc/kcore", "/proc/keys", "/proc/latency_stats",
                                  "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
                                  "/proc/interrupts", "/proc/asound", "/proc/acpi", "/proc/scsi",
                                  "/sys/firmware", "/sys/devices/virtual/powercap"])
def test_what_tells_of_the_machine_is_empty(box: Box, path: str) -> None:
    assert box.sh(f"if [ -d {path} ]; then ls -A {path}; elif [ -e {path} ]; then "
                  f"head -c 10 {path}; fi") == ""


@pytest.mark.parametrize("path", ["/proc/sys/kernel/domainname", "/proc/sysrq-trigger",
                                  "/proc/sys/net/ipv4/ip_forward", "/proc/irq/default_smp_affinity",
                                  "/sys/kernel/uevent_helper", "/proc/bus", "/proc/fs"])
def test_the_kernels_switches_cannot_be_turned(box: Box, path: str) -> None:
    result = box("--cap-add", "ALL", then=(
        "sh", "-c", f"if [ -d {path} ]; then mkdir {path}/x; else echo 1 > {path}; fi"))
    assert result.rc != 0


def test_only_safe_devices_are_there(box: Box) -> None:
    assert box.sh("cd /dev; for f in *; do [ ! -L $f ] && [ -c $f -o -b $f ] && echo $f; done; "
                  "true").split() == ["full", "null", "random", "tty", "urandom", "zero"]
    assert box("--cap-add", "ALL", then=("mknod", "/dev/sda", "b", "8", "0")).rc != 0


# ---- what is open ------------------------------------------------------------------------------

def test_no_descriptor_is_passed_in(box: Box) -> None:
    """0, 1, 2, and the directory that ls reads; also when the caller has more."""
    with open("/etc/passwd", "rb") as file, box.popen(
            then=("ls", "-l", "/proc/self/fd"), stdout=subprocess.PIPE,
            pass_fds=(file.fileno(),)) as process:
        assert process.stdout is not None
        out = process.stdout.read().decode()
    assert len([li for li in out.splitlines() if "->" in li]) == 3, out
    assert "passwd" not in out
    assert box.sh("ls /proc/1/fd | wc -l", "--init").strip() == "0"


def test_the_environment_is_not_passed_in(box: Box) -> None:
    out = box.sh("env; cat /proc/1/environ", env={"LEAK": "secret", "SSH_AUTH_SOCK": "/x"})
    assert "secret" not in out
    assert "SSH_AUTH_SOCK" not in out


# ---- power -------------------------------------------------------------------------------------

def test_root_inside_has_the_rights_of_the_user_outside(box: Box, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o700)
    script = ("cat /etc-outside/shadow 2>&1; echo x >> /etc-outside/passwd 2>&1; "
              "chown 0:0 /etc-outside/passwd 2>&1; echo > /v/closed/made; stat -c %u /v/closed")
    result = box("--privileged", "-v", "/etc:/etc-outside", "-v", f"{tmp_path}:/v",
                 then=("sh", "-c", script))
    assert "root:" not in result.text
    assert result.text.splitlines()[-1] == "0"
    assert (tmp_path / "closed/made").stat().st_uid == os.getuid()


def test_set_user_id_files_give_power_inside_only(box: Box, tmp_path: Path) -> None:
    """They make root of the container, who is the user outside; and on volumes nothing at all
    that the user could not do."""
    script = ("cp /bin/busybox /v/box; chmod 4755 /v/box; stat -c '%a %u' /v/box; "
              "cat /proc/self/uid_map")
    told = box.sh(script, "-v", f"{tmp_path}:/v").splitlines()
    assert told[0] == "4755 0"
    assert told[1].split() == ["0", "0", "1"]
    made = (tmp_path / "box").stat()
    assert (made.st_uid, made.st_mode & 0o7777) == (os.getuid(), 0o4755)


def test_dockers_profile_refuses_what_docker_refuses(cli: Cli) -> None:
    """By Python's ctypes, in the image that has one."""
    code = (
        "import ctypes, platform\n"
        "x = platform.machine() == 'x86_64'\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "for name, a, b in (('keyctl', 250, 219), ('bpf', 321, 280), ('mount', 165, 40),\n"
        "                   ('io_uring_setup', 425, 425), ('userfaultfd', 323, 282),\n"
        "                   ('perf_event_open', 298, 241), ('kexec_load', 246, 104),\n"
        "                   ('open_by_handle_at', 304, 265), ('setns', 308, 268)):\n"
        "    print(name, libc.syscall(a if x else b, -1, 0, 0, 0, 0), ctypes.get_errno())\n"
        "print('unshare', libc.unshare(0x10000000), ctypes.get_errno())\n")
    out = cli.ok("run", "--rm", "host", "python3", "-c", code).text
    assert {tuple(li.split()[1:]) for li in out.splitlines()} == {("-1", str(errno.EPERM))}, out
    assert len(out.splitlines()) == 10


def test_no_new_user_namespace_without_the_capability(box: Box) -> None:
    for kind in ("-U", "-m", "-n", "-p"):
        assert box(then=("unshare", kind, "true")).rc != 0


# ---- attacks -----------------------------------------------------------------------------------

@pytest.mark.parametrize("where", ["proc", "sys", "dev", "etc", "etc/hosts", "dev/shm", "dev/pts",
                                   "dev/null"])
def test_links_in_the_image_lead_no_mount_astray(box: Box, server: Registry, tmp_path: Path,
                                                 where: str) -> None:
    """CVE-2019-19921, CVE-2021-30465: the image has a link where something is to be mounted."""
    target = tmp_path / "outside"
    target.mkdir()
    tar = Tar().dir("trap")
    if "/" in where:
        tar.dir(where.rpartition("/")[0])
    tar.symlink(where, str(target))
    name = pushed(box.cli, server, "trap", tar)
    result = box.cli("run", "--rm", name, "sh", "-c", "mount; echo x > /etc/hosts")
    # Refused or resolved inside; the directory outside sees nothing either way.
    assert result.rc in (0, 1, 125), result
    assert os.listdir(target) == []
    if result.rc == 0:
        assert " /proc type proc" in result.text, result
    box.cli.ok("rmi", "-f", name)


@pytest.mark.parametrize("destination", ["/trap/x", "/trap", "/trap/../etc/x", "/up/x"])
def test_links_in_the_way_of_a_volume_stay_inside(box: Box, server: Registry, tmp_path: Path,
                                                  destination: str) -> None:
    (tmp_path / "source").mkdir()
    target = tmp_path / "outside"
    target.mkdir()
    name = pushed(box.cli, server, "way", Tar().symlink("trap", str(target)).symlink(
        "up", "../../../../../.." + str(target)))
    result = box.cli("run", "--rm", "-v", f"{tmp_path}/source:{destination}", name, "true")
    assert result.rc in (0, 125), result
    assert os.listdir(target) == []
    box.cli.ok("rmi", "-f", name)


def test_the_working_directory_is_never_outside(box: Box, server: Registry) -> None:
    """CVE-2024-21626: a working directory that names an open descriptor."""
    tar = Tar()
    for n in range(3, 12):
        tar.symlink(f"fd{n}", f"/proc/self/fd/{n}")
    name = pushed(box.cli, server, "cwd", tar)
    with box.running() as running:
        for n in range(3, 12):
            for path in (f"/proc/self/fd/{n}" if n % 2 else f"/fd{n}",):
                for result in (box.cli("run", "--rm", "-w", path, name, "cat", "etc/passwd"),
                               box.cli("exec", "-w", path, running, "cat", "etc/passwd")):
                    assert b"root:x:0:0:root:/root:/bin/bash" not in result.out, result
                    if result.rc == 0:
                        assert result.out.startswith(b"root:x:0:0:root:/root:/bin/sh\n"), result
    box.cli.ok("rmi", name)


def test_a_null_device_of_the_image_masks_nothing(box: Box, server: Registry) -> None:
    """CVE-2025-31133: /dev/null as a link to what should stay closed."""
    name = pushed(box.cli, server, "null", Tar().dir("dev").symlink(
        "dev/null", "/proc/sys/kernel/core_pattern"))
    assert box.cli.ok("run", "--rm", name, "sh", "-c",
                      "stat -c %F /dev/null; head -c 5 /proc/keys").text == (
        "character special file")
    box.cli.ok("rmi", name)


def test_the_store_and_other_containers_are_out_of_reach(box: Box) -> None:
    store = str(box.cli.store)
    with box.running("-h", "other"):
        script = (f"ls {store} /proc/1/root{store} /proc/self/root/../../..{store} 2>/dev/null; "
                  "cat /proc/1/mountinfo | grep -c /work; true")
        result = box("--privileged", then=("sh", "-c", script))
        assert "containers" not in result.text


def test_what_joins_cannot_be_traced_from_inside(box: Box) -> None:
    """While `exec` enters, its process and descriptors are closed to the container."""
    script = ("while :; do for p in /proc/[0-9]*; do case $p in /proc/1|/proc/$$) ;; *) "
              "readlink $p/exe 2>/dev/null; ls -l $p/fd 2>/dev/null | grep -o '/.*rootless.*';; "
              "esac; done; done")
    with box.running("--cap-add", "SYS_PTRACE", then=("sh", "-c", script)) as name:
        for _ in range(20):
            box.cli.ok("exec", name, "true")
        box.cli.ok("kill", name)
        seen = set(box.cli.ok("logs", name).text.split())
    assert not [s for s in seen if "python" in s or "rootless" in s], seen


def test_a_read_only_volume_has_no_way_around(box: Box, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("kept")
    script = ("exec 5< /v/f; echo x > /proc/self/fd/5; mount -o remount,bind,rw /v; echo x > /v/f; "
              "umount /v; mount --bind /v /tmp; echo x > /tmp/f; mount -t proc p /tmp; "
              "echo x > /tmp/1/root/v/f; true")
    # With SYS_ADMIN it could be mounted again, as in docker.
    box("--cap-add", "ALL", "--cap-drop", "SYS_ADMIN", "--security-opt", "seccomp=unconfined",
        "-v", f"{tmp_path}:/v:ro", then=("sh", "-c", script))
    assert (tmp_path / "f").read_text() == "kept"
