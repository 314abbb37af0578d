"""What processes of a container try against others, the engine and the machine.

See also test_isolation.py (namespaces, what is masked, what is open) and test_confinement.py
(the engine's own program, links).
"""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.integration.support.box import Box
from tests.integration.support.cli import Cli

UNCONFINED = ("--security-opt", "seccomp=unconfined")


# ---- other containers, the engine ---------------------------------------------------------------

def test_root_of_one_cannot_enter_or_stop_another(box: Box) -> None:
    """With every capability, and the other's pids guessed."""
    with box.running("--privileged", *UNCONFINED) as attacker, box.running() as victim:
        pid = box.cli.ok("inspect", "-f", "{{.State.Pid}}", victim).text
        script = (f"kill -9 {pid} -1 2>/dev/null; nsenter -t {pid} -m true 2>/dev/null && echo in; "
                  f"ls /proc/{pid} 2>/dev/null; for p in /proc/[0-9]*; do cat $p/cmdline; done")
        box.cli("exec", attacker, "sh", "-c", script)
        shown = box.cli("exec", attacker, "sh", "-c", script).text
        assert "in" not in shown.split("\0"), shown
        assert box.cli.ok("inspect", "-f", "{{.State.Status}}", victim).text == "running"


def test_the_monitors_socket_obeys_its_own_user_only(box: Box) -> None:
    """Mounted into a container by mistake, it is of no use to the container's other users."""
    with box.running() as victim:
        cid = box.cli.ok("inspect", "-f", "{{.Id}}", victim).text
        socket = box.cli.runtime / "rootless" / f"{cid[:24]}.sock"
        assert stat.S_ISSOCK(socket.stat().st_mode)
        code = ("import os, socket\n"
                "os.setgroups([]); os.setresgid(1000, 1000, 1000); os.setresuid(1000, 1000, 1000)\n"
                "s = socket.socket(socket.AF_UNIX)\n"
                "try:\n"
                f"    s.connect({str(socket)!r})\n"
                "    s.sendall(b'N\\0\\0\\0\\0')\n"
                "    print(s.recv(9))\n"
                "except OSError as e:\n"
                "    print(type(e).__name__)\n")
        out = box.cli.ok("unshare", "python3", "-c", code).text
        assert out in ("PermissionError", "b''", "ConnectionResetError", "BrokenPipeError"), out
        assert box.cli.ok("inspect", "-f", "{{.State.Status}}", victim).text == "running"


@pytest.mark.parametrize("what", ["containers", "images", "layers", "log", "run", "events"])
def test_another_user_cannot_read_what_the_engine_keeps(box: Box, what: str) -> None:
    """A subordinate id is, to the machine, just another user."""
    with box.running(then=("sh", "-c", "echo secret; sleep 1000")) as name:
        where = {
            "log": box.cli.ok("inspect", "-f", "{{.LogPath}}", name).text,
            "run": str(box.cli.runtime / "rootless"),
        }.get(what, str(box.cli.store / what))
        code = ("import os, sys\n"
                "os.setgroups([]); os.setresgid(1000, 1000, 1000); os.setresuid(1000, 1000, 1000)\n"
                "try:\n"
                "    print(os.listdir(sys.argv[1]) if os.path.isdir(sys.argv[1])\n"
                "          else open(sys.argv[1]).read())\n"
                "except OSError as e:\n"
                "    print(type(e).__name__)\n")
        # The session's directories are open for the tests' sake; the engine's own are what counts.
        closed = box.cli.ok("unshare", "python3", "-c", code, where).text
        assert closed in ("PermissionError", "FileNotFoundError"), closed
        assert Path(where).exists()


# ---- capabilities -------------------------------------------------------------------------------

def test_dropped_capabilities_do_not_come_back(box: Box) -> None:
    """By a set-user-ID file, by exec, by another user's, by a new user namespace."""
    script = ("cp /bin/busybox /su; chmod 4755 /su; grep Cap /proc/self/status; "
              "/su grep Cap /proc/self/status; "
              "unshare -U grep CapBnd /proc/self/status 2>/dev/null || true")
    for options in ((), UNCONFINED, ("--user", "1000")):
        out = box("--cap-drop", "ALL", *options, then=("sh", "-c", script)).text
        sets = {tuple(line.split()) for line in out.splitlines() if line.startswith("Cap")}
        bounds = {value for name, value in sets if name == "CapBnd:"}
        assert bounds - {"000001ffffffffff"} == {"0" * 16}, out
        if not options:
            assert {value for _, value in sets} == {"0" * 16}, out


def test_exec_has_no_more_capabilities_than_the_container(box: Box) -> None:
    with box.running("--cap-drop", "ALL") as name:
        out = box.cli.ok("exec", name, "grep", "Cap", "/proc/self/status").text
        assert {line.split()[1] for line in out.splitlines()} == {"0" * 16}


# ---- mounts -------------------------------------------------------------------------------------

@pytest.mark.parametrize("what", [
    "-t proc proc /mnt", "-t sysfs sysfs /mnt", "-t tmpfs tmpfs /mnt", "-t cgroup2 none /mnt",
    "-t devpts devpts /mnt", "-t mqueue mqueue /mnt", "--bind / /mnt", "-o remount,rw /proc/sys",
    "-o remount,rw /sys", "-t overlay -o lowerdir=/etc:/usr none /mnt"])
def test_nothing_is_mounted_without_the_capability(box: Box, what: str) -> None:
    result = box(*UNCONFINED, then=("sh", "-c", f"mkdir -p /mnt; mount {what}"))
    assert result.rc != 0, result


@pytest.mark.parametrize("what", [
    "-t ext4 /dev/vda /mnt", "-t nfs 127.0.0.1:/ /mnt", "-t debugfs none /mnt",
    "-t securityfs none /mnt", "-t tracefs none /mnt", "-t configfs none /mnt"])
def test_the_machines_filesystems_are_not_mounted_with_it_either(box: Box, what: str) -> None:
    result = box("--privileged", then=("sh", "-c", f"mkdir -p /mnt; mount {what}"))
    assert result.rc != 0, result


def test_the_kernels_settings_stay_the_machines(box: Box) -> None:
    """With all power over its own namespaces, and nothing masked."""
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    script = ("for f in kernel/core_pattern kernel/modprobe vm/overcommit_memory fs/file-max; do "
              "echo '|/x' > /proc/sys/$f && echo wrote $f; done; "
              "echo b > /proc/sysrq-trigger && echo wrote; true")
    result = box("--privileged", *UNCONFINED, then=("sh", "-c", script))
    assert "wrote" not in result.text, result
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


def test_no_way_out_by_open_directories_of_the_caller(box: Box, tmp_path: Path) -> None:
    """CVE-2024-21626: whatever the caller has open and stands in, none of it is reached."""
    (tmp_path / "mark").write_text("")
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(fd, True)
    try:
        script = ("for d in /proc/self/fd/* /proc/1/fd/* /proc/self/cwd /proc/1/cwd; do "
                  "ls $d/mark $d/../mark 2>/dev/null; done; true")
        for options in ((), ("--init",), ("-w", f"/proc/self/fd/{fd}")):
            with box.popen(*options, then=("sh", "-c", script), stdout=subprocess.PIPE,
                           stderr=subprocess.DEVNULL, pass_fds=(fd,), cwd=tmp_path) as process:
                out, _ = process.communicate(timeout=60)
            assert out == b"", (options, out)
    finally:
        os.close(fd)


def test_a_container_cannot_reach_its_own_record(cli: Cli, box: Box) -> None:
    """Its log, its configuration and state are the engine's: also as root with all capabilities."""
    script = f"ls {cli.store} 2>/dev/null; find / -name container.json -o -name state.json | head"
    assert box("--privileged", *UNCONFINED, then=("sh", "-c", script)).text == ""
