"""What the host's files say. `root` is where its tree begins: "" for the real one."""

from __future__ import annotations

import os
import stat

from rootless.doctor.facts import Cgroup
from rootless.files import read_bytes
from rootless.userns import subid

SYSCTLS = ("kernel.unprivileged_userns_clone", "kernel.apparmor_restrict_unprivileged_userns",
           "user.max_user_namespaces", "net.ipv4.ping_group_range",
           "net.ipv4.ip_unprivileged_port_start")
_CGROUP = "/sys/fs/cgroup"


def text(path: str) -> str:
    """The file's content, "" where it cannot be read."""
    try:
        return read_bytes(path, 4 << 20).decode(errors="replace")
    except OSError:
        return ""


def sysctls(root: str = "") -> dict[str, str]:
    found = {name: text(f"{root}/proc/sys/{name.replace('.', '/')}").strip() for name in SYSCTLS}
    return {name: value for name, value in found.items() if value}


# Inode of the first process namespace, the machine's own (PROC_PID_INIT_INO of the kernel).
_FIRST_PID_NAMESPACE = "pid:[4026531836]"


def outer_container(root: str = "") -> str:
    """docker, podman, what systemd calls it, "a container" where nobody says, "a chroot", or ""
    outside.

    A virtual machine's disk may have been made from an image and still hold the marks.
    """
    mountinfo = text(f"{root}/proc/self/mountinfo")
    if mountinfo and not mount_of("/", mountinfo):
        return "a chroot"
    try:
        processes = os.readlink(f"{root}/proc/self/ns/pid")
    except OSError:
        processes = ""
    if processes == _FIRST_PID_NAMESPACE:
        return ""
    if os.path.exists(f"{root}/.dockerenv"):
        return "docker"
    if os.path.exists(f"{root}/run/.containerenv"):
        # podman's and buildah's; only a privileged one names the engine and its version.
        for line in text(f"{root}/run/.containerenv").splitlines():
            key, _, value = line.partition("=")
            if key == "engine":
                return value.strip('"').partition("-")[0]
        return "podman"
    return text(f"{root}/run/systemd/container").strip() or ("a container" if processes else "")


def no_new_privs(root: str = "") -> bool:
    return "\nNoNewPrivs:\t1\n" in text(f"{root}/proc/self/status")


def helpers() -> dict[str, str]:
    found = {}
    for name in ("newuidmap", "newgidmap"):
        program = subid.find_program(name)
        if program is None:
            found[name] = "missing"
            continue
        found[name] = "able" if os.stat(program).st_mode & stat.S_ISUID else "unprivileged"
        try:
            os.getxattr(program, "security.capability")
            found[name] = "able"
        except OSError:
            pass
    return found


def mount_of(path: str, mountinfo: str) -> str:
    """Type of the filesystem that holds the absolute `path` (proc_pid_mountinfo(5))."""
    best, fstype = "", ""
    for line in mountinfo.splitlines():
        head, sep, tail = line.partition(" - ")
        words = head.split(" ")
        if not sep or len(words) < 5:
            continue
        at = _unescape(words[4])
        # The later of two on one point lies on top.
        if (path == at or path.startswith(at.rstrip("/") + "/")) and len(at) >= len(best):
            best, fstype = at, tail.split(" ")[0]
    return fstype


def _unescape(word: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        word = word.replace(code, char)
    return word


def cgroup(uid: int, root: str = "") -> Cgroup:
    """The cgroup that this user may divide: where we stand, or the user's systemd manager."""
    types = {}
    for line in text(f"{root}/proc/self/mountinfo").splitlines():
        head, sep, tail = line.partition(" - ")
        if sep and head.split(" ")[4].startswith(_CGROUP):
            types[head.split(" ")[4]] = tail.split(" ")[0]
    if types.get(_CGROUP) != "cgroup2":
        kinds = set(types.values())
        version = ("hybrid" if {"cgroup", "cgroup2"} <= kinds else "v1" if "cgroup" in kinds
                   else "none")
        return Cgroup(version, "", ())
    own = next((line[3:] for line in text(f"{root}/proc/self/cgroup").splitlines()
                if line.startswith("0::")), "/")
    manager = f"/user.slice/user-{uid}.slice/user@{uid}.service"
    for candidate in (own.rstrip("/"), manager):
        directory = f"{root}{_CGROUP}{candidate}"
        if _divisible(directory):
            return Cgroup("v2", candidate or "/",
                          tuple(text(directory + "/cgroup.controllers").split()))
    return Cgroup("v2", "", ())


def _divisible(directory: str) -> bool:
    """Can a cgroup be made in it, and processes be moved?"""
    probe = f"{directory}/rootless-doctor-{os.getpid()}"
    try:
        os.mkdir(probe)
        os.rmdir(probe)
    except OSError:
        return False
    return os.access(directory + "/cgroup.procs", os.W_OK)
