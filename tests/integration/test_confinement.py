"""What holds a container: capabilities, seccomp, read-only paths, links that stay inside."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from rootless.runtime import capabilities
from tests.integration.support import images
from tests.integration.support.box import Box, eventually
from tests.integration.support.cli import CHECKOUT, Cli
from tests.integration.support.images import Image, Layer, Tar
from tests.integration.support.registry import Registry

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
SHOW = f"for n in {' '.join(NAMESPACES)}; do readlink /proc/self/ns/$n; done"


# ---- namespaces --------------------------------------------------------------------------------

def test_what_is_shared_was_asked_for(box: Box) -> None:
    ours = [os.readlink(f"/proc/self/ns/{n}") for n in NAMESPACES]
    inside = box.sh(SHOW, "--network", "host").split()
    assert [n for n, a, b in zip(NAMESPACES, ours, inside) if a == b] == ["net"]
    with box.running("--userns", "host") as one, box.running("--userns", "host") as two:
        first, second = (box.cli.ok("exec", name, "readlink", "/proc/self/ns/user").text
                         for name in (one, two))
    assert first == second != os.readlink("/proc/self/ns/user")


def test_root_inside_is_the_user_outside(box: Box) -> None:
    with box.running() as root, box.running("-u", "1000") as other:
        owners = [os.stat(f"/proc/{pid}").st_uid for pid in box.cli.ok(
            "inspect", "-f", "{{.State.Pid}}", root, other).text.split()]
    assert owners[0] == os.getuid()
    assert owners[1] not in (os.getuid(), 1000, 0)


# ---- what is hidden or read-only ---------------------------------------------------------------

READ_ONLY = "/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger /sys"


def test_what_docker_makes_read_only_cannot_be_written(box: Box) -> None:
    script = (f"set +e; for p in {READ_ONLY}; do "
              "[ -e $p ] && grep -c \" $p [a-z0-9]* ro[ ,]\" /proc/mounts; done; "
              "for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/sys/vm/drop_caches "
              "/sys/kernel/uevent_helper; do ( echo x > $f ) 2>&1; done; "
              "mount -o remount,rw /proc/sys 2>&1; umount /proc/sys 2>&1; umount /proc/keys 2>&1; "
              "mount -t proc proc /tmp 2>&1; mount --bind / /tmp 2>&1; true")
    lines = box.sh(script).splitlines()
    count = sum(os.path.exists(p) for p in READ_ONLY.split())
    assert lines[:count] == ["1"] * count
    refusals = lines[count:]
    assert len(refusals) >= 9
    for line in refusals:
        assert any(why in line for why in ("Read-only", "Permission denied", "nonexistent",
                                           "permitted", "denied")), line


# ---- capabilities, seccomp, no_new_privs -------------------------------------------------------

def mask(*names: str) -> str:
    return f"{capabilities.mask(names):016x}"


DEFAULT = "00000000a80425fb"        # docker's, as every container of docker's shows it
NONE = "0" * 16


@pytest.mark.parametrize("options, expected", [
    ((), (NONE, DEFAULT, DEFAULT, DEFAULT, NONE)),
    (("-u", "1000"), (NONE, NONE, NONE, DEFAULT, NONE)),
    (("--cap-drop", "ALL"), (NONE,) * 5),
    (("--cap-drop", "ALL", "--cap-add", "CHOWN"),
     (NONE, mask("CAP_CHOWN"), mask("CAP_CHOWN"), mask("CAP_CHOWN"), NONE)),
    (("-u", "1000", "--cap-add", "ALL"), (NONE, NONE, NONE, mask(*capabilities.ALL), NONE)),
], ids=["root", "user", "none", "one", "user of all"])
def test_capabilities_are_dockers(box: Box, options: tuple[str, ...],
                                  expected: tuple[str, ...]) -> None:
    with box.running(*options) as name:
        for lines in (box.sh("cat /proc/self/status", *options),
                      box.cli.ok("exec", name, "cat", "/proc/self/status").text):
            found = dict(line.split(":\t") for line in lines.splitlines() if line[:3] == "Cap")
            assert tuple(found[f"Cap{k}"] for k in ("Inh", "Prm", "Eff", "Bnd", "Amb")) == expected


def test_seccomp_is_on_and_no_new_privileges_when_asked(box: Box) -> None:
    script = "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status"
    assert box.sh(script).split() == ["NoNewPrivs:", "0", "Seccomp:", "2"]
    assert box.sh(script, "--security-opt", "no-new-privileges").split() == [
        "NoNewPrivs:", "1", "Seccomp:", "2"]
    assert box.sh(script, "--security-opt", "seccomp=unconfined").split() == [
        "NoNewPrivs:", "0", "Seccomp:", "0"]
    assert box.sh(script, "--privileged").split() == ["NoNewPrivs:", "0", "Seccomp:", "0"]
    with box.running("--security-opt", "no-new-privileges") as name:
        assert box.cli.ok("exec", name, "sh", "-c", script).text.split() == [
            "NoNewPrivs:", "1", "Seccomp:", "2"]


REFUSED = ("acct add_key bpf clock_settime delete_module fsopen init_module kexec_load keyctl "
           "mount move_mount open_by_handle_at open_tree perf_event_open pivot_root quotactl "
           "reboot request_key setns settimeofday swapon umount2 unshare userfaultfd").split()
CALLS = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
for number in map(int, sys.argv[1:]):
    ctypes.set_errno(0)
    # Arguments that no call takes to succeed; unshare gets CLONE_NEWUSER.
    libc.syscall(ctypes.c_long(number), ctypes.c_long(0x10000000), *[ctypes.c_long(-1)] * 5)
    print(ctypes.get_errno())
"""


def numbers(names: list[str]) -> list[int]:
    table = json.loads((CHECKOUT / "rootless/runtime/syscalls.json").read_text())
    column = table["abis"].index(os.uname().machine)
    return [table["syscalls"][name][column] for name in names]


def test_seccomp_refuses_what_dockers_profile_refuses(cli: Cli) -> None:
    wanted = [*map(str, numbers([*REFUSED, "clone3"])), "4000"]
    script = ("python3", "-c", CALLS, *wanted)
    found = cli.ok("run", "--rm", "host", *script).text.split()
    assert dict(zip(REFUSED, found)) == dict.fromkeys(REFUSED, "1")
    # EPERM would be final for a C library that can do without them.
    assert found[-2:] == ["38", "38"]
    free = cli.ok("run", "--rm", "--security-opt", "seccomp=unconfined", "host", *script)
    assert dict(zip(REFUSED, free.text.split()))["unshare"] == "0"


def test_root_of_a_user_namespace_made_inside_is_refused_too(box: Box) -> None:
    assert box(then=("unshare", "-U", "true")).rc != 0
    assert box("--security-opt", "seccomp=unconfined", then=("unshare", "-U", "true")).rc == 0


# ---- processes ---------------------------------------------------------------------------------

def test_an_abstract_socket_of_the_machine_cannot_be_reached(cli: Cli) -> None:
    name = f"rootless-test-{os.getpid()}"
    script = ("import socket; s = socket.socket(socket.AF_UNIX)\n"
              f"try: s.connect('\\0{name}'); print('reached')\n"
              "except ConnectionRefusedError: print('refused')")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + name)
        listener.listen()
        assert cli.ok("run", "--rm", "host", "python3", "-c", script).text == "refused"
        assert cli.ok("run", "--rm", "--network", "host", "host", "python3", "-c",
                      script).text == "reached"


@pytest.mark.parametrize("tty", [(), ("-t",)], ids=["pipes", "terminal"])
def test_no_descriptor_of_ours_is_left_open(box: Box, tty: tuple[str, ...]) -> None:
    script = "for f in /proc/self/fd/*; do echo ${f##*/} $(readlink $f); done"
    r, w = os.pipe()
    leak = os.open(str(box.cli.store), os.O_RDONLY)
    given = (r, w, leak)
    for fd in given:
        os.set_inheritable(fd, True)
    try:
        shown = [box("-i", *tty, then=("sh", "-c", script), stdin=b"")]
        with box.running() as name:
            with box.cli.popen("exec", *tty, name, "sh", "-c", script, pass_fds=given,
                               stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                shown_exec = process.stdout.read().decode()
            with box.popen(*tty, then=("sh", "-c", script), pass_fds=given,
                           stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                shown_run = process.stdout.read().decode()
    finally:
        for fd in given:
            os.close(fd)
    for text in (shown[0].text, shown_exec, shown_run):
        # The fourth is the shell's own, of the directory it lists; gone by the time of readlink.
        fds = dict([*line.split(), "gone"][:2] for line in text.splitlines())
        assert set(fds) - {"3"} == {"0", "1", "2"}, text
        assert fds.get("3", "gone") in ("gone", "/proc/1/fd") or fds["3"].startswith("/proc/")
        for target in (fds["0"], fds["1"], fds["2"]):
            assert target.startswith(("/dev/null", "pipe:", "/dev/pts/", "/dev/console")), text


# ---- files -------------------------------------------------------------------------------------

def derived(server: Registry, name: str, tar: Tar, **config: object) -> str:
    """The quick image and one more layer, in the registry."""
    accept = {"Accept": images.OCI + "manifest.v1+json"}
    _, _, body = images.request(server.address, "GET", "/v2/tiny/manifests/latest", headers=accept)
    layers = [Layer(gzip.decompress(images.request(
        server.address, "GET", f"/v2/tiny/blobs/{layer['digest']}")[2]))
        for layer in json.loads(body)["layers"]]
    images.push(server.address, name, "latest", Image(
        [*layers, Layer(tar.bytes())], {"Env": ["PATH=/bin"], "Cmd": ["sh"], **config}))
    return f"{server.address}/{name}:latest"


@pytest.fixture
def victim(ground: Path) -> Path:
    """A file of the machine that this user may write."""
    path = ground / "victim"
    path.write_text("untouched")
    return path


@pytest.mark.parametrize("command", ["/proc/self/exe", "/proc/1/exe", "/script", "script", "/link"])
def test_the_engines_own_program_cannot_be_run_as_the_command(
        cli: Cli, server: Registry, command: str) -> None:
    """CVE-2019-5736: run by a script or link of the image, it would be open to its process."""
    image = derived(server, "selfexe", Tar().file(
        "script", b"#!/proc/self/exe\n", mode=0o755).symlink("bin/script", "/script")
        .symlink("link", "/proc/self/exe"))
    cli.fails(126, "run", "--rm", image, command, says=command)
    cli.ok("run", "-d", "--name", "selfexe", image, "sleep", "1000")
    if command != "/proc/1/exe":        # there, that is busybox
        cli.fails(126, "exec", "selfexe", command, says=command)
    cli.ok("rm", "-f", "selfexe")
    cli.ok("rmi", image)


@pytest.mark.parametrize("link", ["/tmp", "/../../../../tmp", "../outside", "/no/such"])
@pytest.mark.parametrize("name", ["proc", "sys"])
def test_proc_and_sys_are_never_mounted_through_a_link(cli: Cli, server: Registry, name: str,
                                                       link: str) -> None:
    """CVE-2019-19921: what is mounted elsewhere is not protected."""
    image = derived(server, "linked", Tar().whiteout(name).symlink(name, link).dir("outside"))
    cli.fails(125, "run", "--rm", image, "true", says=f"/{name}")
    cli.ok("rmi", image)


def test_links_of_an_image_stay_inside_it(cli: Cli, server: Registry, victim: Path) -> None:
    """Mount points of ours are made, and files are mounted, where the container's root says."""
    up = "../" * 20
    tar = (Tar().symlink("etc/hosts", f"{up}{victim}").symlink("etc/hostname", str(victim))
           .symlink("etc/resolv.conf", f"/proc/1/root{victim}")
           .symlink("away", f"{up}{victim.parent}").symlink("abs", str(victim.parent)))
    image = derived(server, "links", tar)
    before = sorted(os.listdir(victim.parent))
    script = "for f in /etc/hosts /etc/hostname; do echo changed > $f; done; ls /away/made"
    result = cli("run", "--rm", "-v", f"{cli.home}:/away/made/x", "-v", f"{cli.home}:/abs/made/y",
                 "--tmpfs", "/away/tmp", image, "sh", "-c", script)
    assert result.rc in (0, 125), result
    assert victim.read_text() == "untouched"
    assert sorted(os.listdir(victim.parent)) == before
    plain = derived(server, "plainlinks", Tar().symlink("etc/hosts", f"{up}{victim}")
                    .symlink("away", f"{up}{victim.parent}"))
    shown = cli.ok("run", "--rm", "-v", f"{victim}:/away/made/x:ro", plain, "sh", "-ec",
                   f"grep -c localhost /etc/hosts; echo changed > {victim}; cat /away/made/x")
    assert shown.text.split()[1:] == ["untouched"]
    assert victim.read_text() == "untouched"
    cli.ok("rmi", image, plain)


@pytest.mark.parametrize("to", ["../run/systemd/resolve/stub-resolv.conf", "/run/stub", "next",
                                "../../../../../run/x"])
def test_a_link_that_leads_nowhere_is_made_to_lead_somewhere(cli: Cli, server: Registry,
                                                             to: str) -> None:
    image = derived(server, "nowhere", Tar().symlink("etc/hosts", to)
                    .symlink("etc/next", "../var/last"))
    assert cli.ok("run", "--rm", image, "grep", "-c", "localhost", "/etc/hosts").text == "2"
    cli.ok("rmi", image)


def test_links_in_a_circle_are_refused(cli: Cli, server: Registry) -> None:
    image = derived(server, "circle", Tar().symlink("etc/hosts", "other")
                    .symlink("etc/other", "hosts"))
    cli.fails(125, "run", "--rm", image, "true", says="/etc/hosts")
    cli.ok("rmi", image)


def test_a_set_user_id_file_of_an_image_gives_nobody_power_outside(cli: Cli, server: Registry,
                                                                  box: Box) -> None:
    """On the disk it is this user's and runs as this user: nobody else may come to it."""
    busybox = cli.ok("run", "--rm", box.image, "cat", "/bin/busybox").out
    image = derived(server, "setuid", Tar().dir("power").file("power/id", busybox, mode=0o4755))
    cli.ok("pull", image)
    (layer,) = (p for p in (cli.store / "layers").iterdir() if (p / "power/id").exists())
    assert (layer / "power/id").stat().st_mode & 0o4000
    assert cli.store in layer.parents
    assert not cli.store.stat().st_mode & 0o077
    cli.ok("rmi", image)


def test_a_set_user_id_file_works_inside_unless_new_privileges_are_refused(cli: Cli) -> None:
    script = ("sh", "-ec", "cp /usr/bin/id /x; chmod 4755 /x; setpriv --reuid 1000 /x -u")
    assert cli.ok("run", "--rm", "host", *script).text == "0"
    assert cli.ok("run", "--rm", "--security-opt", "no-new-privileges", "host",
                  *script).text == "1000"


def test_a_container_cannot_end_its_monitor_or_keeper(box: Box) -> None:
    with box.running(then=("sh", "-c", "trap '' TERM; kill -9 -1; echo still; sleep 1000")) as name:
        eventually(lambda: box.cli.ok("logs", name).text == "still", "it lives on")
        assert box.cli.ok("exec", name, "echo", "in").text == "in"
