"""Every option of `run`, by what it changes inside the container."""

from __future__ import annotations

import json
import os
import pwd
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from rootless.cli.run import COMMANDS
from tests.integration.support import images
from tests.integration.support.box import Box

STATUS = "cat /proc/self/status"


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory of the host with a file in it, for --volume."""
    directory = tmp_path / "shared"
    directory.mkdir()
    (directory / "file").write_text("of the host\n")
    return directory


def field(status: str, name: str) -> str:
    return next(li.split(":", 1)[1].strip() for li in status.splitlines()
                if li.startswith(name + ":"))


# Environment and what runs

def test_env_sets_passes_on_and_overrides(box: Box, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("# comment\n\nFROM_FILE=1\nBOTH=first\nPASSED\nSPACED=a b\n")
    second.write_text("BOTH=second\n")
    out = box.sh("env", "-e", "PLAIN=x=y", "-e", "EMPTY=", "-e", "PASSED2", "-e", "UNSET",
                 "--env-file", str(first), "--env-file", str(second), "-e", "FLAVOUR=mine",
                 env={"PASSED": "of the caller", "PASSED2": "two\nlines"})
    lines = out.splitlines()
    for line in ("PLAIN=x=y", "EMPTY=", "FROM_FILE=1", "BOTH=second", "PASSED=of the caller",
                 "SPACED=a b", "FLAVOUR=mine", "PASSED2=two", "lines",
                 "PATH=/usr/local/bin:/bin", "HOME=/root"):
        assert line in lines, out
    assert not [li for li in lines if li.startswith(("UNSET", "XDG_RUNTIME_DIR", "#"))], out


def test_env_file_that_is_missing_or_wrong_is_refused(box: Box, tmp_path: Path) -> None:
    box.refuses("--env-file", str(tmp_path / "none"), says="none")
    wrong = tmp_path / "wrong"
    wrong.write_text("a b=c\n")
    box.refuses("--env-file", str(wrong), says="a b")


def test_a_file_of_variables_beats_nothing_that_is_said_on_the_command_line(
        box: Box, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("A=file\n")
    assert box.sh("echo $A", "-e", "A=line", "--env-file", str(tmp_path / "f")) == "line"


@pytest.mark.parametrize("entrypoint, args, printed", [
    ("echo", ("a", "b"), "a b"), ("", ("echo", "c"), "c"), ("/bin/echo", (), ""),
    ('["echo", "x"]', ("y",), "x y")])
def test_entrypoint_comes_before_the_arguments(box: Box, entrypoint: str, args: tuple[str, ...],
                                               printed: str) -> None:
    assert box("--entrypoint", entrypoint, then=args).text == printed


@pytest.mark.parametrize("where", ["/tmp", "/made/on/demand", "/etc/../home"])
def test_workdir_is_entered_and_made(box: Box, where: str) -> None:
    assert box.sh("pwd", "-w", where) == os.path.normpath(where)


# Users

@pytest.mark.parametrize("user, told", [
    ("", "0 0 0 /root"), ("app", "1000 1000 1000,2000 /home/app"),
    ("1000", "1000 1000 1000,2000 /home/app"), ("app:extra", "1000 2000 2000 /home/app"),
    ("app:0", "1000 0 0 /home/app"), ("4242", "4242 0 0 /"), ("4242:4343", "4242 4343 4343 /"),
    ("nobody", "65534 65534 65534 /nonexistent"), ("0:1000", "0 1000 1000 /root")])
def test_user_is_looked_up_in_the_image(box: Box, user: str, told: str) -> None:
    options = ("-u", user) if user else ()
    assert box.sh("echo $(id -u) $(id -g) $(id -G | tr ' ' ,) $HOME", *options) == told


@pytest.mark.parametrize("user", ["ghost", "app:ghost", "70000000000", "-1"])
def test_a_user_that_is_not_there_is_refused(box: Box, user: str) -> None:
    box.refuses(f"--user={user}")


def test_an_id_that_is_not_mapped_is_refused(box: Box) -> None:
    box.refuses("-u", "4000000000")


def test_group_add_joins_by_name_and_number(box: Box) -> None:
    assert box.sh("id -G", "-u", "4242", "--group-add", "extra",
                  "--group-add", "77").split() == ["0", "77", "2000"]


def test_a_user_writes_files_as_itself(box: Box) -> None:
    assert box.sh("touch /tmp/x; stat -c %u:%g /tmp/x", "-u", "app") == "1000:1000"


# Names of the machine

def test_hostname_domainname_and_their_files(box: Box) -> None:
    told = box.sh("hostname; cat /proc/sys/kernel/domainname /etc/hostname; echo $HOSTNAME; "
                  "grep -c box1 /etc/hosts", "-h", "box1", "--domainname", "example.org")
    assert told.split() == ["box1", "example.org", "box1", "box1", "1"]
    with box.running() as name:
        cid = box.cli.ok("inspect", "-f", "{{.Id}}", name).text
        assert box.cli.ok("exec", name, "hostname").text == cid[:12]


def test_hosts_and_name_servers(box: Box) -> None:
    told = box.sh("cat /etc/hosts /etc/resolv.conf", "--add-host", "db:10.1.2.3", "--add-host",
                  "six:[2001:db8::1]", "--dns", "192.0.2.53", "--dns-search", "example.org",
                  "--dns-option", "ndots:3", "--network", "none").splitlines()
    assert {"10.1.2.3\tdb", "2001:db8::1\tsix", "127.0.0.1\tlocalhost"} <= set(told)
    assert {"nameserver 192.0.2.53", "search example.org", "options ndots:3"} <= set(told)
    assert len([li for li in told if li.startswith("nameserver")]) == 1
    assert box.sh("grep -c search /etc/resolv.conf || true", "--dns-search", ".") == "0"
    for options in (("--add-host", "db"), ("--add-host", "db:no-address"), ("--dns", "no")):
        box.refuses(*options)


def test_the_containers_own_files_of_etc_can_be_written(box: Box) -> None:
    assert box.sh("echo 1.2.3.4 x >> /etc/hosts; tail -1 /etc/hosts") == "1.2.3.4 x"


# Files

def test_volume_shows_the_hosts_directory(box: Box, shared: Path) -> None:
    assert box.sh("cat /v/file; echo new > /v/new; id -u", "-v", f"{shared}:/v") == (
        "of the host\n0")
    assert (shared / "new").read_text() == "new\n"
    # Root of the container is the user outside.
    assert (shared / "new").stat().st_uid == os.getuid()


def test_volume_read_only_stays_read_only(box: Box, shared: Path) -> None:
    told = box.sh("cat /v/file; touch /v/x 2>&1 || echo refused; "
                  "mount -o remount,rw /v 2>/dev/null || echo no remount",
                  "-v", f"{shared}:/v:ro", "--cap-add", "SYS_ADMIN",
                  "--security-opt", "seccomp=unconfined")
    assert told.splitlines()[0] == "of the host"
    assert told.splitlines()[-2:] == ["refused", "no remount"]
    assert sorted(os.listdir(shared)) == ["file"]


def test_volume_of_a_file_relative_and_missing_sources(box: Box, shared: Path) -> None:
    assert box.sh("cat /new/place/f", "-v", f"{shared}/file:/new/place/f") == "of the host"
    assert box.sh("ls /v", "-v", "./shared:/v", cwd=shared.parent) == "file"
    assert box.sh("ls /v | wc -l", "-v", f"{shared}/made/here:/v").strip() == "0"
    assert (shared / "made/here").is_dir()
    box.refuses("-v", "na/me:/v", says="name")
    box.refuses("-v", f"{shared}:v")
    box.refuses("-v", f"{shared}:/v", "-v", f"{shared}:/v", says="/v")
    box.refuses("-v", f"{shared}:/v:wrong", says="wrong")


def test_volumes_may_lie_in_each_other_in_any_order(box: Box, shared: Path) -> None:
    (shared / "in").mkdir()
    other = shared.parent / "other"
    other.mkdir()
    (other / "deep").write_text("")
    assert box.sh("ls /v /v/in", "-v", f"{other}:/v/in", "-v", f"{shared}:/v").split() == [
        "/v:", "file", "in", "/v/in:", "deep"]


def test_mounts_of_the_host_do_not_come_back(box: Box, shared: Path) -> None:
    """What a privileged container mounts below a volume, the host never sees."""
    (shared / "in").mkdir()
    box.sh("mount -t tmpfs x /v/in; touch /v/in/inside", "-v", f"{shared}:/v", "--privileged")
    assert os.listdir(shared / "in") == []


def test_mount_binds_and_makes_tmpfs(box: Box, shared: Path) -> None:
    told = box.sh("cat /m/file; touch /m/x 2>/dev/null || echo ro; df -k /t | tail -1; "
                  "stat -c %a /t; mount | grep ' /t '",
                  "--mount", f"type=bind,source={shared},target=/m,readonly",
                  "--mount", "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=700").splitlines()
    assert told[:2] == ["of the host", "ro"]
    assert told[2].split()[1] == "1024"
    assert told[3] == "700"
    assert "noexec" in told[4]
    box.refuses("--mount", f"type=bind,source={shared}/none,target=/m", says="none")
    box.refuses("--mount", "type=volume,target=/m,volume-driver=nfs", says="driver")


def test_read_only_closes_the_root_but_not_what_is_mounted(box: Box, shared: Path) -> None:
    told = box.sh("for f in /x /etc/x /tmp/x /dev/shm/x /v/x; do "
                  "touch $f 2>/dev/null && echo $f; done; true",
                  "--read-only", "--tmpfs", "/tmp", "-v", f"{shared}:/v")
    assert told.split() == ["/tmp/x", "/dev/shm/x", "/v/x"]


def test_tmpfs_takes_the_options_of_mount(box: Box) -> None:
    told = box.sh("mount | grep ' /t '; mount | grep ' /u '; stat -c %a /t",
                  "--tmpfs", "/t:size=2m,mode=1700,exec", "--tmpfs", "/u:ro").splitlines()
    assert "size=2048k" in told[0]
    assert "noexec" not in told[0]
    assert "(ro," in told[1]
    assert "noexec" in told[1]
    assert told[2] == "1700"
    box.refuses("--tmpfs", "/t:color=blue", says="color")


def test_shm_size(box: Box) -> None:
    assert box.sh("df -k /dev/shm | tail -1").split()[1] == "65536"
    assert box.sh("df -k /dev/shm | tail -1", "--shm-size", "1m").split()[1] == "1024"
    box.refuses("--shm-size", "big")


def test_device_gives_one_of_the_hosts(box: Box) -> None:
    assert box.sh("[ -c /dev/zilch ]; echo x > /dev/zilch; ls -l /dev/zilch | cut -c1",
                  "--device", "/dev/null:/dev/zilch") == "c"
    assert box("--device", "/dev/fuse", then=("sh", "-c", "exec 5<>/dev/fuse")).rc == 0
    assert box(then=("ls", "/dev/fuse")).rc != 0
    assert box.sh("[ -c /all/null ]; cd /all; for f in shm pts console null zero; do "
                  "[ ! -e $f ] || echo $f; done", "--device", "/dev:/all").split() == [
        "null", "zero"]
    box.refuses("--device", "/dev/no-such", says="/dev/no-such")
    box.refuses("--device", "/dev/null:r", says="cgroup")


# Power

def caps(box: Box, *options: str) -> int:
    return int(field(box.sh(STATUS, *options), "CapEff"), 16)


def test_capabilities_are_dockers_more_or_fewer(box: Box) -> None:
    assert caps(box) == 0xA80425FB
    assert caps(box, "--cap-add", "SYS_ADMIN") == 0xA80425FB | 1 << 21
    assert caps(box, "--cap-drop", "CHOWN") == 0xA80425FB & ~1
    assert caps(box, "--cap-drop", "ALL") == 0
    assert caps(box, "--cap-drop", "all", "--cap-add", "net_raw") == 1 << 13
    assert caps(box, "--cap-add", "ALL") == (1 << 41) - 1
    box.refuses("--cap-add", "NONSENSE", says="NONSENSE")


def test_other_users_hold_no_capability_and_may_not_gain_those_dropped(box: Box) -> None:
    status = box.sh(STATUS, "-u", "app", "--cap-drop", "ALL", "--cap-add", "KILL")
    assert [int(field(status, f"Cap{n}"), 16) for n in ("Eff", "Prm", "Inh", "Amb", "Bnd")] == [
        0, 0, 0, 0, 1 << 5]


def test_capabilities_work_on_what_is_the_containers(box: Box) -> None:
    assert box.sh("mount -t tmpfs x /tmp; mount | grep -c ' /tmp '", "--cap-add", "SYS_ADMIN",
                  "--security-opt", "seccomp=unconfined") == "1"
    assert box("--cap-drop", "CHOWN", then=("chown", "5", "/etc/passwd")).rc == 1
    assert box.sh("chown 5 /etc/passwd; stat -c %u /etc/passwd") == "5"
    assert box("--cap-drop", "NET_ADMIN", then=("ip", "link", "set", "lo", "down")).rc != 0
    assert "UP" not in box.sh("ip link set lo down; ip link show lo", "--cap-add", "NET_ADMIN")
    assert "UP" in box.sh("ip link show lo")


def test_privileged_has_all_and_nothing_is_masked(box: Box) -> None:
    told = box.sh(f"{STATUS}; mount | grep -c ' /proc/' || true", "--privileged").splitlines()
    assert int(field("\n".join(told), "CapEff"), 16) == (1 << 41) - 1
    assert field("\n".join(told), "Seccomp") == "0"
    assert told[-1] == "0"
    assert box.sh("mount -t proc p /tmp; ls -d /tmp/self; ls /dev/fuse", "--privileged") == (
        "/tmp/self\n/dev/fuse")


def test_no_new_privileges(box: Box) -> None:
    assert field(box.sh(STATUS), "NoNewPrivs") == "0"
    for text in ("no-new-privileges", "no-new-privileges:true", "no-new-privileges=true"):
        status = box.sh(STATUS, "--security-opt", text)
        assert (field(status, "NoNewPrivs"), field(status, "Seccomp")) == ("1", "2")


def test_seccomp_unconfined_and_profiles_of_ones_own(box: Box, tmp_path: Path) -> None:
    assert field(box.sh(STATUS), "Seccomp") == "2"
    assert field(box.sh(STATUS, "--security-opt", "seccomp=unconfined"), "Seccomp") == "0"
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO",
                      "errnoRet": 40}]}))
    result = box("--security-opt", f"seccomp={profile}", then=("mkdir", "/x"))
    assert result.rc == 1
    assert os.strerror(40) in result.error
    profile.write_text("{]")
    box.refuses("--security-opt", f"seccomp={profile}", says="seccomp")
    box.refuses("--security-opt", f"seccomp={tmp_path}/none", says="none")
    box.refuses("--security-opt", "nonsense", says="nonsense")


def test_unmasked_paths(box: Box) -> None:
    assert box.sh("mount | grep -c ' /proc/' || true", "--security-opt",
                  "systempaths=unconfined") == "0"
    assert int(box.sh("mount | grep -c ' /proc/'")) >= 5


def test_ulimits(box: Box) -> None:
    told = box.sh("ulimit -Sn; ulimit -Hn; ulimit -c", "--ulimit", "nofile=100:200", "--ulimit",
                  "core=0")
    assert told.split() == ["100", "200", "0"]
    box.refuses("--ulimit", "nofile=200:100", says="soft")
    box.refuses("--ulimit", "coffee=1", says="coffee")
    box.refuses("--ulimit", "nofile=1000000000", says="ulimit")


def test_sysctls_of_the_containers_namespaces(box: Box) -> None:
    assert box.sh("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmni",
                  "--sysctl", "net.ipv4.ip_unprivileged_port_start=80",
                  "--sysctl", "kernel.shmmni=77").split() == ["80", "77"]
    box.refuses("--sysctl", "vm.swappiness=1", says="vm.swappiness")
    box.refuses("--sysctl", "net.ipv4", says="net.ipv4")


def test_oom_score_adj(box: Box) -> None:
    assert box.sh("cat /proc/self/oom_score_adj", "--oom-score-adj", "500") == "500"
    box.refuses("--oom-score-adj", "-1000", says="oom")
    box.refuses("--oom-score-adj", "many", says="many")


# Namespaces

def test_network_none_has_a_loopback_of_its_own(box: Box) -> None:
    told = box.sh("ls /sys/class/net; ip -o addr show lo | grep -c 127.0.0.1; "
                  "ping -c 1 -W 1 127.0.0.1 >/dev/null; echo $?", "--network", "none").split()
    assert told == ["lo", "1", "0"]


def test_network_host_is_the_hosts(box: Box) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = str(server.getsockname()[1])
        with box.popen("--network", "host", then=("nc", "127.0.0.1", port),
                       stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            server.settimeout(20)
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"through\n")
            assert process.stdout.read() == b"through\n"
    inside = box.sh("readlink /proc/self/ns/net; ls /sys/class/net", "--network", "host")
    assert inside.splitlines()[0] == os.readlink("/proc/self/ns/net")
    assert sorted(inside.splitlines()[1:]) == sorted(
        n for n in os.listdir("/sys/class/net") if Path(f"/sys/class/net/{n}").is_dir())
    assert box.sh("hostname", "--net", "host") == os.uname().nodename


def test_userns_host_shares_the_users_namespace(box: Box) -> None:
    with box.running("--userns", "host") as one, box.running("--userns", "host") as two, \
            box.running() as three:
        shown = [box.cli.ok("exec", n, "readlink", "/proc/self/ns/user").text
                 for n in (one, two, three)]
        assert shown[0] == shown[1] != shown[2]
        assert box.cli.ok("exec", one, "cat", "/proc/self/uid_map").text.split()[:3] == [
            "0", str(os.getuid()), "1"]
    box.refuses("--userns", "keep-id", says="keep-id")


# Records

def test_cidfile(box: Box, tmp_path: Path) -> None:
    path = tmp_path / "cid"
    cid = box.cli.ok("run", "-d", "--cidfile", str(path), box.image, "true").text
    assert path.read_text() == cid
    box.refuses("--cidfile", str(path), says=str(path))
    assert path.read_text() == cid
    box.cli.ok("rm", "-f", cid)
    box.refuses("--cidfile", str(tmp_path / "no/dir/cid"), says="cid")
    together = [box.popen("--cidfile", str(tmp_path / "one"), then=("true",),
                          stderr=subprocess.PIPE) for _ in range(4)]
    for process in together:
        process.communicate(timeout=30)
    assert sorted(p.returncode for p in together) == [0, 125, 125, 125]
    assert sorted(os.listdir(tmp_path)) == ["cid", "one"]


def test_labels_from_line_and_file(box: Box, tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("of.file=1\nboth=file\n")
    with box.running("-l", "a=b=c", "--label", "bare", "--label-file", str(tmp_path / "labels"),
                     "-l", "both=line") as name:
        assert box.cli.ok("inspect", "-f", "{{json .Config.Labels}}", name).json == {
            "a": "b=c", "bare": "", "of.file": "1", "both": "line"}
        for text in ("label=bare", "label=of.file=1"):
            assert box.cli.ok("ps", "-f", text, "--format", "{{.Names}}").text == name
        assert not box.cli.ok("ps", "-q", "-f", "label=of.file=2").text


def test_log_driver_none_keeps_nothing(box: Box) -> None:
    with box.running("--log-driver", "none", then=("echo", "x")) as name:
        box.cli.ok("wait", name)
        box.cli.fails(1, "logs", name, says="none")
    assert box("--log-driver", "none", then=("echo", "shown")).text == "shown"
    box.refuses("--log-driver", "journald", says="journald")


def test_stop_signal_and_stop_timeout(box: Box) -> None:
    script = "trap 'exit 5' USR1; trap '' TERM; while :; do sleep 0.02; done"
    with box.running("--stop-signal", "USR1", then=("sh", "-c", script)) as name:
        box.cli.ok("exec", name, "true")
        box.cli.ok("stop", name)
        assert box.cli.ok("wait", name).text == "5"
    with box.running("--stop-timeout", "0", then=("sh", "-c", script)) as name:
        box.cli.ok("stop", name, timeout=5)
        assert box.cli.ok("wait", name).text == "137"
    box.refuses("--stop-signal", "SIGNONSENSE", says="SIGNONSENSE")


def test_pull_never_takes_what_is_there(box: Box) -> None:
    assert box("--pull", "never").rc == 0
    assert box("--pull", "missing").rc == 0
    pulled = box("--pull", "always", then=("echo", "x"))
    assert (pulled.rc, pulled.out) == (0, b"x\n")
    assert b"Digest: sha256:" in pulled.err
    assert box("--pull", "always", "-q", then=("true",)).err == b""


def test_a_platform_that_the_image_is_not_is_refused(box: Box) -> None:
    other = "arm64" if images.ARCHITECTURE != "arm64" else "amd64"
    box.refuses("--platform", f"linux/{other}", "--pull", "never")
    assert box("--platform", f"linux/{images.ARCHITECTURE}", "--pull", "never").rc == 0


def test_debug_shows_the_plan(box: Box) -> None:
    told = box.cli.ok("--debug", "run", "--rm", box.image, "echo", "done")
    assert told.text == "done"
    assert "namespaces: pid ipc uts mount" in told.error
    assert "overlay on /:" in told.error


def test_the_hosts_owner_of_what_a_user_inside_writes(box: Box, shared: Path) -> None:
    shared.chmod(0o777)
    box.sh("touch /v/by-app", "-u", "app", "-v", f"{shared}:/v")
    me = pwd.getpwuid(os.getuid()).pw_name
    first = next(int(li.split(":")[1]) for li in Path("/etc/subuid").read_text().splitlines()
                 if li.startswith(me + ":"))
    assert (shared / "by-app").stat().st_uid == first + 999
    assert stat.S_ISREG((shared / "by-app").stat().st_mode)


NONSENSE = [
    ("add-host", ":10.0.0.1"), ("add-host", "a b:10.0.0.1"), ("add-host", "a\nb:10.0.0.1"),
    ("blkio-weight", "9"), ("blkio-weight", "1001"), ("cgroup-conf", "memory.high"),
    ("cgroup-conf", "cgroup.procs=1"), ("cgroup-conf", "../memory.max=1"),
    ("cgroup-conf", "memory.high=1\n2"), ("cgroup-parent", "relative"),
    ("cgroup-parent", "/../other"), ("cgroup-parent", ".slice"), ("cgroupns", "moon"),
    ("cpu-period", "999"), ("cpu-quota", "999"), ("cpu-shares", "1"), ("cpus", "-1"),
    ("cpus", "1e1"), ("cpus", "100000"), ("cpuset-cpus", "2-0"), ("cpuset-cpus", "0,,1"),
    ("cpuset-mems", "a"), ("device-read-bps", "/dev/null:1m"), ("device-read-bps", "sda:1m"),
    ("device-read-iops", "/no/such:1"), ("device-write-bps", "/dev/none:1m"),
    ("device-write-iops", "/dev/null:x"), ("memory", "1x"), ("memory", "1m"),
    ("memory-reservation", "x"), ("network-rate", "fast"), ("network-rate", "1bit"),
    ("network-rate", "1mbit/"), ("network-rate", "10mb"), ("memory-swap", "64m"),
    ("oom-kill-disable", "true"),
    ("pids-limit", "many"),
    ("cap-drop", "NONSENSE"), ("cap-add", ""), ("detach-keys", "ctrl-p,"), ("device", ""),
    ("device", "/dev/null:relative"), ("device", "/etc/passwd"), ("device", "/etc"),
    ("detach", "x"), ("dns", ""),
    ("cidfile", "/none/cid"), ("env-file", "/none"), ("interactive", "x"), ("network", "moon"),
    ("quiet", "x"),
    ("dns-search", "a b"), ("dns-search", ""), ("dns-option", "a\nb"),
    ("domainname", "x" * 65), ("entrypoint", "no-such"), ("env", "=x"), ("env", ""),
    ("group-add", "ghost"), ("group-add", ""), ("group-add", "-1"), ("hostname", "a b"),
    ("hostname", "x" * 64), ("init", "maybe"),
    ("health-interval", "soon"), ("health-timeout", "-1s"), ("health-start-period", "1"),
    ("health-start-interval", "x"), ("health-retries", "0"), ("health-on-failure", "cry"),
    ("no-healthcheck", "maybe"), ("log-opt", "max-size"), ("log-opt", "max-file=3"),
    ("log-opt", "colour=blue"), ("restart", "sometimes"), ("restart", "always"),
    ("restart", "on-failure:x"), ("timeout", "-1"), ("timeout", "x"), ("replace", "true"),
    ("sig-proxy", "maybe"), ("pid", "ghost"), ("pid", "container:ghost"), ("ipc", "moon"),
    ("ip", "10.1.2"), ("ip6", "10.88.0.9"),
    ("link", "nobody"), ("link", "a:b c"),
    ("mac-address", "02:42"), ("network", "bridge:ip=10.1.2"), ("network", "bridge:colour=blue"),
    ("network-alias", "a b"), ("publish", ""), ("publish", "65536:80"), ("publish", "80-70:1-11"),
    ("publish", "80/sctp"), ("publish", "1-2:1-3"), ("publish", "300.0.0.1:1:1"),
    ("publish-all", "maybe"), ("label", "=x"), ("label", ""),
    ("label-file", "/none"), ("log-driver", "syslog"), ("mount", ""), ("mount", "type=bind"),
    ("mount", "type=tmpfs,target=relative"), ("mount", "type=tmpfs,target=/m,source=/x"),
    ("mount", "type=tmpfs,target=/m,color=blue"), ("mount", "type=tmpfs,target=/m,ro=maybe"),
    ("mount", "type=moon,target=/m"), ("name", "-x"), ("name", "a/b"), ("net", "moon"),
    ("oom-score-adj", "1001"), ("oom-score-adj", "1.5"), ("platform", "a/b/c/d"),
    ("privileged", "maybe"), ("pull", "often"), ("read-only", "2"), ("rm", "maybe"),
    ("secret", ""), ("secret", "ghost"), ("secret", "a,b=c"), ("volumes-from", "ghost"),
    ("volumes-from", "a:b"),
    ("security-opt", ""), ("security-opt", "seccomp="), ("security-opt", "seccomp=/"),
    ("security-opt", "no-new-privileges=maybe"), ("security-opt", "apparmor=docker-default"),
    ("security-opt", "label=type:x"), ("shm-size", "-1"), ("shm-size", "1x"),
    ("stop-signal", "0"), ("stop-signal", "65"), ("stop-timeout", "soon"), ("sysctl", "=1"),
    ("sysctl", "kernel.shmmni="), ("sysctl", "kernel/../../1/oom_score_adj=1"),
    ("sysctl", "net.ipv4.ip_unprivileged_port_start=text"), ("tls-verify", "maybe"),
    ("tmpfs", ""), ("tmpfs", "relative"), ("tmpfs", "/"), ("tmpfs", "/t:size=x"),
    ("tmpfs", "/t:mode=9"), ("tty", "x"), ("ulimit", "nofile"), ("ulimit", "nofile=1:2:3"),
    ("ulimit", "nofile=-2"), ("ulimit", "nofile=2:-2"), ("user", "ghost"), ("userns", "auto"),
    ("volume", ""), ("volume", "a/b:/v"), ("volume", "/etc:/"), ("volume", "/etc:/v:ro,rw"),
    ("volume", "/etc/passwd/x:/v"), ("workdir", "relative"), ("workdir", "/etc/passwd")]


@pytest.mark.parametrize("option, value", NONSENSE)
def test_a_value_that_makes_no_sense_is_refused(box: Box, option: str, value: str) -> None:
    code = 127 if option == "entrypoint" else 125
    result = box.refuses(f"--{option}={value}", rc=code)
    assert "Errno" not in result.error
    assert "Error:" not in result.error


def test_of_every_option_something_is_refused() -> None:
    # What a shell makes of the command for the health is not known before it runs.
    every = {o.name for o in COMMANDS["run"].options} - {"health-cmd"}
    assert {name for name, _ in NONSENSE} == every


def test_an_option_given_twice_is_the_last(box: Box) -> None:
    assert box.sh("hostname", "-h", "one", "-h", "two") == "two"


def test_options_after_the_image_belong_to_the_command(box: Box) -> None:
    done = box.cli.ok("run", "--rm", box.image, "echo", "--name", "x", "-d")
    assert done.text == "--name x -d"


def test_quiet_and_tls_verify_are_about_pulling(box: Box) -> None:
    assert box("-q", "--tls-verify=false", then=("true",)).err == b""
