"""What was seen, before anybody judges it."""

from __future__ import annotations

from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


@record(frozen=True)
class Tried:
    """How an attempt went. `step` is where it failed, "" where it did not; `code` the errno, or
    0 where there is none (it took too long); `told` what it found out."""

    step: str = ""
    code: int = 0
    why: str = ""
    told: str = ""

    @property
    def worked(self) -> bool:
        return not self.step

    def __str__(self) -> str:
        return f"cannot {self.step}: {self.why}" if self.step else self.told


@record(frozen=True)
class Ids:
    """The ids that containers get. `why`: the reason where it is one only. `helpers`: newuidmap
    and newgidmap to "missing", "unprivileged" (neither set-user-ID nor with the capability) or
    "able". `free`: start of a range that nobody has."""

    uids: int
    gids: int
    why: str
    helpers: Mapping[str, str]
    no_new_privs: bool
    free: int


@record(frozen=True)
class Cgroup:
    """`version`: v2, hybrid, v1 or none. `controllers` are those of the cgroup `path`, which
    this user may divide; no path where there is none."""

    version: str
    path: str
    controllers: tuple[str, ...]


@record(frozen=True)
class Store:
    """The filesystem of `path`. `trouble`: why it cannot be written."""

    path: str
    fstype: str
    free: int
    trouble: str


@record(frozen=True)
class Facts:
    user: str
    uid: int
    gids: tuple[int, ...]
    kernel: str
    python: str
    modules: tuple[str, ...]        # optional ones that are missing
    outer: str                      # what we are inside of: docker, "a chroot" …, or ""
    packages: str                   # "apt-get", "dnf" or ""
    systemd: bool
    launcher: str
    sysctl: Mapping[str, str]       # those that exist
    calls: Tried                    # tells the system calls that the kernel refuses or lacks
    userns: Tried
    seccomp: Tried
    ids: Ids
    store: Store
    overlay: Tried
    fuse: Tried
    tun: Tried
    cgroup: Cgroup
    run: str                        # the run directory in use, "" where there is none
    run_trouble: str
    xdg_run: str                    # XDG_RUNTIME_DIR as it is set
    linger: bool
