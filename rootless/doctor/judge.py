"""From facts to lines. Pure: the same facts give the same lines on every machine.

A line is `ok`, `fallback` (it works in another way, which `detail` names) or `missing`; the last
two carry the command that mends it, where there is one. Without a `vital` line no container runs.
"""

from __future__ import annotations

import errno

from rootless.cgroup import advice
from rootless.doctor import ranges
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.doctor.facts import Facts

OK, FALLBACK, MISSING = "ok", "fallback", "missing"
EVERY_GID = "0 2147483647"
CONTROLLERS = ("cpu", "memory", "pids")
RARER_CONTROLLERS = ("cpuset", "io")
# What a file server makes of the owners and whiteouts of image files.
NETWORK = frozenset(("nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "9p",
                     "afs", "glusterfs", "fuse.glusterfs", "fuse.sshfs", "panfs", "pvfs2"))
LITTLE = 2 << 30


@record(frozen=True)
class Line:
    """`fix` is one command; `admin`: it takes root."""

    name: str
    status: str
    detail: str
    fix: str = ""
    admin: bool = True
    vital: bool = False


def judge(facts: Facts) -> list[Line]:
    return [_host(facts), _namespaces(facts), _ids(facts), _store(facts), _overlay(facts),
            _calls(facts), _seccomp(facts), _run(facts), _cgroup(facts), _fuse(facts),
            _tun(facts), _ping(facts), _ports(facts), *_linger(facts), _modules(facts)]


def able(lines: list[Line]) -> bool:
    return not any(line.vital and line.status == MISSING for line in lines)


def conclusion(facts: Facts, lines: list[Line]) -> str:
    """What this user can do now, in one sentence."""
    broken = [line.name for line in lines if line.vital and line.status == MISSING]
    if broken:
        return f"{facts.user} cannot run containers here yet: see {', '.join(broken)} above."
    ids = "one user id" if facts.ids.uids == 1 else f"{facts.ids.uids} user ids"
    lacking = [line.name for line in lines if line.status == MISSING]
    rest = f"; not available: {', '.join(lacking)}" if lacking else ""
    return f"{facts.user} can run containers with {ids}{rest}."


def _sysctl(name: str, value: str) -> str:
    return f"echo '{name} = {value}' >> /etc/sysctl.d/90-rootless.conf && sysctl --system"


def _install(facts: Facts, debian: str, fedora: str) -> str:
    if facts.packages == "apt-get":
        return f"apt-get install --yes {debian}"
    if facts.packages == "dnf":
        return f"dnf install --assumeyes {fedora}"
    return ""


def _outer_run(facts: Facts, option: str) -> str:
    """How the outer container should have been started, where its engine is known."""
    return f"{facts.outer} run {option} …" if facts.outer in ("docker", "podman") else ""


def _host(facts: Facts) -> Line:
    who = "root" if facts.uid == 0 else f"{facts.user} (uid {facts.uid})"
    where = f", inside {facts.outer}" if facts.outer else ""
    return Line("host", OK, f"Linux {facts.kernel}, Python {facts.python}, {who}{where}")


def _namespaces(facts: Facts) -> Line:
    tried, sysctl = facts.userns, facts.sysctl
    if tried.worked:
        return Line("user namespaces", OK, tried.told, vital=True)
    why, fix, admin = str(tried), "", True
    if tried.code in (errno.ENOSPC, errno.EUSERS):
        why += f" (user.max_user_namespaces is {sysctl.get('user.max_user_namespaces', '?')})"
        fix = _sysctl("user.max_user_namespaces", "65536")
    elif tried.code in (errno.ENOSYS, errno.EINVAL):
        why += ": this kernel is built without it"
    elif sysctl.get("kernel.unprivileged_userns_clone") == "0" and facts.uid != 0:
        why += " (kernel.unprivileged_userns_clone is 0)"
        fix = _sysctl("kernel.unprivileged_userns_clone", "1")
    elif sysctl.get("kernel.apparmor_restrict_unprivileged_userns", "0") != "0" and facts.uid != 0:
        why += " (AppArmor allows it to programs with a profile only)"
        fix = _apparmor(facts.launcher)
    elif tried.step.startswith("mount /proc"):
        why += ": an outer container hides parts of /proc"
        option = "systempaths=unconfined" if facts.outer == "docker" else "unmask=ALL"
        fix, admin = _outer_run(facts, f"--security-opt {option}"), False
    elif facts.outer == "a chroot":
        why += ": the kernel makes none in a chroot"
    elif facts.outer:
        why += ": the outer container does not allow it"
        fix, admin = _outer_run(facts, "--security-opt seccomp=unconfined"), False
    return Line("user namespaces", MISSING, why, fix, admin, vital=True)


def _apparmor(launcher: str) -> str:
    """A profile that confines nothing and allows user namespaces, for the launcher by its path."""
    if not launcher:
        return _sysctl("kernel.apparmor_restrict_unprivileged_userns", "0")
    text = (r"abi <abi/4.0>,\ninclude <tunables/global>\n"
            rf'profile rootless "{launcher}" flags=(unconfined) {{\n  userns,\n}}\n')
    return (f"printf '{text}' > /etc/apparmor.d/rootless && "
            "apparmor_parser -r /etc/apparmor.d/rootless")


def _ids(facts: Facts) -> Line:
    ids, name = facts.ids, "user ids"
    grant = ranges.command(facts.user, ids.free) if ids.free else ""
    few = min(ids.uids, ids.gids)
    if not ids.why and (few >= ranges.COUNT or facts.uid == 0):
        return Line(name, OK, f"{ids.uids} user ids and {ids.gids} group ids")
    if not ids.why:
        return Line(name, FALLBACK, f"{few} ids: images with higher ones lose them", grant)
    detail, fix = f"one id: {ids.why}", grant
    absent = [helper for helper, state in ids.helpers.items() if state == "missing"]
    weak = [helper for helper, state in ids.helpers.items() if state == "unprivileged"]
    if absent:
        # The range is of no use without the programs that hand it out.
        fix = _install(facts, "uidmap", "shadow-utils")
    elif weak:
        detail += f" ({' and '.join(weak)} neither set-user-ID nor with capabilities)"
        fix = f"chmod u+s {' '.join('$(command -v ' + helper + ')' for helper in weak)}"
    elif ids.no_new_privs:
        detail += " (this session has no_new_privs: set-user-ID programs do nothing)"
        fix = ""
    elif "has no range" not in ids.why:
        fix = ""
    return Line(name, FALLBACK, detail, fix)


def _elsewhere(facts: Facts) -> str:
    return f"export ROOTLESS_ROOT=/var/tmp/rootless-{facts.user}"


def _store(facts: Facts) -> Line:
    store, name = facts.store, "store"
    kind = store.fstype or "unknown filesystem"
    if store.trouble:
        return Line(name, MISSING, f"{store.trouble} ({kind})", _elsewhere(facts), admin=False,
                    vital=True)
    told = f"{store.path} on {kind}, {_size(store.free)} free"
    if store.free < LITTLE:
        return Line(name, FALLBACK, f"{told}: little for images", _elsewhere(facts), admin=False)
    return Line(name, OK, told)


def _size(count: int) -> str:
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count // 1000} kB"


def _overlay(facts: Facts) -> Line:
    tried, kind = facts.overlay, facts.store.fstype
    if tried.worked:
        return Line("overlay", OK, f"{tried.told} on {kind}", vital=True)
    if facts.store.trouble or not facts.userns.worked:
        return Line("overlay", MISSING, "not tried, for the reason above", vital=True)
    detail = str(tried)
    if kind in NETWORK:
        detail += f" ({kind}: the server keeps no owners or whiteouts for us)"
    elif kind == "overlay":
        detail += " (an outer container's filesystem: put the store on a volume)"
    elif tried.code == errno.ENODEV:
        return Line("overlay", MISSING, f"{detail} (the kernel has no overlay)",
                    "modprobe overlay", vital=True)
    return Line("overlay", MISSING, detail, _elsewhere(facts), admin=False, vital=True)


def _calls(facts: Facts) -> Line:
    if not facts.calls.worked:
        return Line("system calls", MISSING, f"not all tried: {facts.calls}", vital=True)
    if not facts.calls.told:
        return Line("system calls", OK, "all that the engine uses", vital=True)
    why = (f"the filter of {facts.outer} or this kernel" if facts.outer
           else f"Linux {facts.kernel} (5.12 is needed)")
    return Line("system calls", MISSING, f"{facts.calls.told}: not in {why}", vital=True)


def _seccomp(facts: Facts) -> Line:
    if facts.seccomp.worked:
        return Line("seccomp", OK, facts.seccomp.told)
    return Line("seccomp", MISSING, f"{facts.seccomp} (containers start only with "
                                    "--security-opt seccomp=unconfined)")


def _run(facts: Facts) -> Line:
    name = "run directory"
    if not facts.run:
        return Line(name, MISSING, facts.run_trouble,
                    'export XDG_RUNTIME_DIR="$(mktemp -d)"', admin=False, vital=True)
    base = facts.run.rpartition("/")[0]
    if base == facts.xdg_run.rstrip("/") or facts.uid == 0:
        return Line(name, OK, facts.run)
    if not facts.xdg_run:
        return Line(name, FALLBACK, f"{facts.run}: XDG_RUNTIME_DIR is not set")
    return Line(name, FALLBACK, f"{facts.run}: XDG_RUNTIME_DIR={facts.xdg_run} is not a private "
                                "directory of yours", "unset XDG_RUNTIME_DIR", admin=False)


def _cgroup(facts: Facts) -> Line:
    cgroup, name = facts.cgroup, "limits"
    if cgroup.version == "none":
        return Line(name, MISSING, "no cgroups are mounted in /sys/fs/cgroup")
    if cgroup.version != "v2":
        return Line(name, MISSING, f"cgroup {cgroup.version}: only v2 can be delegated to a user",
                    _unified(facts))
    if not cgroup.path:
        detail = "cgroup v2, but no cgroup that you may divide"
        if facts.systemd and facts.uid != 0:
            return Line(name, MISSING, f"{detail} (no systemd user manager runs)",
                        advice.linger(facts.user))
        return Line(name, MISSING, detail)
    lacking = [c for c in CONTROLLERS if c not in cgroup.controllers]
    if not lacking:
        rarer = " ".join(c for c in RARER_CONTROLLERS if c not in cgroup.controllers)
        return Line(name, OK, f"cgroup v2, {' '.join(cgroup.controllers)} in {cgroup.path}"
                    + (f"; not delegated: {rarer}" if rarer else ""))
    fix = advice.DELEGATE if facts.systemd else ""
    have = " ".join(cgroup.controllers) or "no controller"
    return Line(name, MISSING if not cgroup.controllers else FALLBACK,
                f"cgroup v2, {have} in {cgroup.path}; not delegated: {' '.join(lacking)}", fix)


def _unified(facts: Facts) -> str:
    """Only systemd reads the option."""
    if not facts.systemd or facts.outer:
        return ""
    return advice.unified(facts.packages)


def _fuse(facts: Facts) -> Line:
    return _device(facts, "FUSE", facts.fuse.step, str(facts.fuse), "/dev/fuse", "fuse")


def _tun(facts: Facts) -> Line:
    return _device(facts, "TUN", facts.tun.step, str(facts.tun), "/dev/net/tun", "tun")


def _device(facts: Facts, name: str, step: str, told: str, path: str, module: str) -> Line:
    if not step:
        return Line(name, OK, told)
    if step != f"open {path}":
        return Line(name, MISSING, told)
    if facts.outer:
        return Line(name, MISSING, told, _outer_run(facts, f"--device {path}"), admin=False)
    return Line(name, MISSING, told, f"modprobe {module} && chmod 0666 {path}")


def _ping(facts: Facts) -> Line:
    name, text = "ping", facts.sysctl.get("net.ipv4.ping_group_range", "")
    low, high = ([int(word) for word in text.split()] + [1, 0])[:2]
    if any(low <= gid <= high for gid in facts.gids):
        return Line(name, OK, f"groups {low} to {high}")
    return Line(name, MISSING, "no group of yours is in net.ipv4.ping_group_range",
                _sysctl("net.ipv4.ping_group_range", EVERY_GID))


def _ports(facts: Facts) -> Line:
    name, text = "low ports", facts.sysctl.get("net.ipv4.ip_unprivileged_port_start", "1024")
    first = int(text)
    if first <= 80 or facts.uid == 0:
        return Line(name, OK, f"from {0 if facts.uid == 0 else first}")
    return Line(name, FALLBACK, f"from {first}: publish 8080 where you would 80",
                _sysctl("net.ipv4.ip_unprivileged_port_start", "80"))


def _linger(facts: Facts) -> list[Line]:
    """Only systemd ends what a user left running."""
    if not facts.systemd or facts.uid == 0:
        return []
    if facts.linger:
        return [Line("after logout", OK, "containers stay (linger)")]
    return [Line("after logout", FALLBACK, "containers may end with your last session",
                 f"loginctl enable-linger {facts.user}", admin=False)]


def _modules(facts: Facts) -> Line:
    meaning = {"zstandard": "zstandard is missing: layers packed with zstd cannot be read",
               "isal": "isal is missing: zlib reads gzip layers, at less than half the speed"}
    if not facts.modules:
        return Line("decompression", OK, "gzip by isal, zstd")
    # What the installer could not get, it cannot get by being run again.
    return Line("decompression", MISSING if "zstandard" in facts.modules else FALLBACK,
                "; ".join(meaning[m] for m in facts.modules),
                "" if facts.launcher else "./install.sh", admin=False)
