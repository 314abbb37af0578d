"""What somebody wants of a new container: the arguments of `create`, already checked for form."""

from __future__ import annotations

from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.cgroup.limits import Resources
    from rootless.network.endpoints import Endpoint
    from rootless.network.ports import Publish


@record(frozen=True)
class Mount:
    """One --volume, --mount or --tmpfs. `kind`: bind, volume or tmpfs. `options` are OCI mount
    options; of a volume also nocopy. `source` of a volume is at first its name, "" for one that is
    to get none, and then, with its name in `volume`, the directory of its files."""

    kind: str
    source: str
    destination: str
    options: tuple[str, ...] = ()
    volume: str = ""
    anonymous: bool = False
    secret: bool = False


@record(frozen=True)
class Watch:
    """What the monitor is to do. `restart`: policy and number of times. `timeout`: seconds after
    which it is killed, 0 for never."""

    restart: tuple[str, int] = ("no", 0)
    timeout: int = 0
    health: tuple[tuple[str, Any], ...] = ()    # see health.settings


@record(frozen=True)
class Wanted:
    """Named after the options of `run`; empty means: as the image or the default says."""

    image: str
    args: tuple[str, ...] = ()
    name: str = ""
    entrypoint: tuple[str, ...] | None = None
    env: tuple[tuple[str, str], ...] = ()
    workdir: str = ""
    user: str = ""
    group_add: tuple[str, ...] = ()
    tty: bool = False
    interactive: bool = False
    rm: bool = False
    hostname: str = ""
    domainname: str = ""
    add_host: tuple[tuple[str, str], ...] = ()
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_option: tuple[str, ...] = ()
    pid: str = ""                       # "", host or container:ID
    ipc: str = ""                       # the same, shareable or none
    network: str = "none"               # none, host, container:ID or the first of `endpoints`
    endpoints: tuple[Endpoint, ...] = ()
    publish: tuple[Publish, ...] = ()
    publish_all: bool = False
    network_rate: tuple[int, int] = (0, 0)      # bytes a second sent and received; 0: any
    links: tuple[tuple[str, str], ...] = ()     # container, alias
    mounts: tuple[Mount, ...] = ()
    volumes_from: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    read_only: bool = False
    shm_size: int = 64 << 20
    devices: tuple[tuple[str, str, str], ...] = ()
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    privileged: bool = False
    no_new_privileges: bool = False
    seccomp: str = ""                   # "", "unconfined" or the text of a profile
    unmask: bool = False
    ulimits: tuple[tuple[str, int, int], ...] = ()
    sysctl: tuple[tuple[str, str], ...] = ()
    init: bool = False
    userns: str = ""
    resources: Resources | None = None  # of the OCI configuration
    cgroupns: str = "private"           # or host
    cgroup_parent: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    stop_signal: str = ""
    stop_timeout: int | None = None
    oom_score_adj: int | None = None
    detach_keys: str = "ctrl-p,ctrl-q"
    log_driver: str = "k8s-file"
    log_limits: tuple[int, int] = (0, 1)        # bytes of a file, 0 for any; files
    platform: str = ""
    watch: Watch = Watch()
