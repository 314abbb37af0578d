"""`rootless run` and `rootless create`."""

from __future__ import annotations

import os
import sys

from rootless import jsontext
from rootless import paths as places
from rootless.cli import limits, sharing, watch
from rootless.cli.command import FLAG, LIST, OPTIONAL, VALUE, Command, Option, Options
from rootless.cli.environment import environment, lines
from rootless.container import (
    attach,
    cgroups,
    connect,
    create,
    life,
    mounts,
    signals,
    store,
)
from rootless.container.resolving import HOST_GATEWAY
from rootless.container.sharing import settled
from rootless.container.start import failure, start
from rootless.container.wanted import Mount, Wanted
from rootless.errors import HostError, RootlessError, StorageError, UsageError, os_reason
from rootless.files import read_bytes, write_atomic
from rootless.network import endpoints, networks, ports
from rootless.runtime import plan
from rootless.userns import keeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.container.store import Container
    from rootless.paths import Paths

_SHARED = (
    Option("add-host", LIST, "Add a line to /etc/hosts", metavar="HOST:IP"),
    Option("cap-add", LIST, "Add a capability, or ALL", metavar="CAP"),
    Option("cap-drop", LIST, "Drop a capability, or ALL", metavar="CAP"),
    Option("cidfile", VALUE, "Write the container's id to a file", metavar="FILE"),
    Option("detach-keys", VALUE, "Keys that detach (default ctrl-p,ctrl-q)", metavar="KEYS"),
    Option("device", LIST, "Give a device of the host", metavar="DEVICE"),
    Option("dns", LIST, "Name server", metavar="IP"),
    Option("dns-option", LIST, "Option of the resolver", metavar="OPTION"),
    Option("dns-search", LIST, "Search domain; . for none", metavar="DOMAIN"),
    Option("domainname", VALUE, "NIS domain name", metavar="NAME"),
    Option("entrypoint", VALUE, "Replace the image's entrypoint; a list in JSON has arguments",
           metavar="COMMAND"),
    Option("env", LIST, "Environment variable; without a value, the caller's", "e", "NAME=VALUE"),
    Option("env-file", LIST, "Read environment variables from a file", metavar="FILE"),
    Option("group-add", LIST, "Join another group", metavar="GROUP"),
    Option("hostname", VALUE, "Host name of the container", "h", "NAME"),
    Option("init", FLAG, "Run an init that passes on signals and reaps orphans"),
    Option("interactive", FLAG, "Keep standard input open", "i"),
    Option("ip", VALUE, "IPv4 address on the first network", metavar="ADDRESS"),
    Option("ip6", VALUE, "IPv6 address on the first network", metavar="ADDRESS"),
    Option("label", LIST, "Label", "l", "NAME=VALUE"),
    Option("label-file", LIST, "Read labels from a file", metavar="FILE"),
    Option("link", LIST, "Find another container of its networks by an alias of one's own",
           metavar="CONTAINER[:ALIAS]"),
    Option("mac-address", VALUE, "MAC address on the first network", metavar="MAC"),
    Option("mount", LIST, "Mount: type=volume|bind|tmpfs,source=,target=[,readonly]",
           metavar="SPEC"),
    Option("name", VALUE, "Name of the container", metavar="NAME"),
    Option("network", LIST, "A network with options ip=, ip6=, mac=, alias=; bridge (default), "
           "none, host, or container:NAME", metavar="NETWORK[:OPTIONS]"),
    Option("net", LIST, "Same as --network", metavar="NETWORK"),
    Option("network-alias", LIST, "Another name on the first network", metavar="NAME"),
    Option("network-rate", VALUE, "What it sends, and receives, in a second: 10mbit/50mbit",
           metavar="UP[/DOWN]"),
    Option("oom-score-adj", VALUE, "Preference of the host's OOM killer", metavar="NUMBER"),
    Option("platform", VALUE, "Platform of the image, as linux/arm64", metavar="PLATFORM"),
    Option("privileged", FLAG, "All capabilities within the user namespace, nothing masked, "
                               "your devices"),
    Option("publish", LIST, "Publish a port: [IP:][HOST:]CONTAINER[/tcp|udp]", "p", "PORT"),
    Option("publish-all", FLAG, "Publish all ports that the image exposes", "P"),
    Option("pull", VALUE, "always, missing (default) or never", metavar="POLICY"),
    Option("quiet", FLAG, "No progress of a pull", "q"),
    Option("read-only", FLAG, "Root filesystem read-only"),
    Option("replace", FLAG, "Remove a container that has the name, even if it runs"),
    Option("rm", FLAG, "Remove the container when it ends"),
    Option("secret", LIST, "Give a secret, as a file in /run/secrets or with type=env in the "
           "environment", metavar="NAME[,OPTIONS]"),
    Option("security-opt", LIST, "no-new-privileges, seccomp=FILE|unconfined, "
                                 "systempaths=unconfined", metavar="OPTION"),
    Option("shm-size", VALUE, "Size of /dev/shm (default 64m)", metavar="SIZE"),
    Option("stop-signal", VALUE, "Signal that stops the container", metavar="SIGNAL"),
    Option("stop-timeout", VALUE, "Seconds before SIGKILL", metavar="SECONDS"),
    Option("sysctl", LIST, "Kernel parameter of the container's namespaces", metavar="NAME=VALUE"),
    Option("tls-verify", OPTIONAL, "Check the registry's certificate (default true)",
           metavar="BOOL", default="true"),
    Option("tmpfs", LIST, "Mount a tmpfs", metavar="PATH[:OPTIONS]"),
    Option("tty", FLAG, "Give it a terminal", "t"),
    Option("ulimit", LIST, "Resource limit", metavar="NAME=SOFT[:HARD]"),
    Option("user", VALUE, "User, by name or number", "u", "USER[:GROUP]"),
    Option("userns", VALUE, "User namespace: host for the one that all containers share",
           metavar="MODE"),
    Option("volume", LIST, "Mount a volume, or a directory or file of the host", "v",
           "[SRC:]DST[:ro]"),
    Option("volumes-from", LIST, "Mount what another container has", metavar="CONTAINER[:ro]"),
    Option("workdir", VALUE, "Working directory", "w", "DIR"),
    *limits.OPTIONS,
    *watch.OPTIONS,
    *sharing.OPTIONS,
)


def run(options: Options) -> int:
    detach = options.flag("detach")
    wanted = from_options(options)
    proxied = options.boolean("sig-proxy") is not False
    paths = places.of_this_user()
    container, userns, lock = _make(paths, options, wanted)
    sent = False
    try:
        stdin = wanted.interactive and not detach
        size = attach.terminal_size(1) or attach.terminal_size(0) if wanted.tty else None
        start(container, userns, lock, options.monitor, stdin_once=stdin, size=size)
        sent = True
        link = attach.Attached(
            options.monitor, stdin=stdin, tty=wanted.tty, detach_keys=wanted.detach_keys,
            kill=None if (wanted.tty and stdin) or not proxied
            else lambda n: _proxy(container, n))
        said = link.wait_started()
        if said != b"S":
            raise _start_failed(container, failure(said))
    finally:
        if wanted.rm and not sent:
            store.remove(container, volumes=True)   # there is no monitor that would
        os.close(lock)
    if not detach:
        container.event("attach")
    if detach:
        sys.stdout.write(container.id + "\n")
        return 0
    try:
        return link.until_end()
    except attach.Detached:
        return 0


def _start_failed(container: Container, error: RootlessError) -> RootlessError:
    if not container.data["rm"] and error.exit_code is None and error.hint is None:
        error.hint = f"rootless rm {container.name} removes the container"
    return error


def _proxy(container: Container, number: int) -> None:
    life.send_signal(container, container.state(), number)


def make(options: Options) -> int:
    """`rootless create`."""
    wanted = from_options(options)
    container, _, lock = _make(places.of_this_user(), options, wanted)
    os.close(lock)
    sys.stdout.write(container.id + "\n")
    return 0


def _make(paths: Paths, options: Options, wanted: Wanted) -> tuple[Container, keeper.Userns, int]:
    policy = options.value("pull") or "missing"
    if policy not in ("always", "missing", "never"):
        raise UsageError(f"invalid argument for --pull: {policy}", hint="always, missing or never")
    cidfile = options.value("cidfile")
    if cidfile and os.path.lexists(cidfile):
        raise UsageError(f"the file for the container's id exists already: {cidfile}",
                         hint="delete it or choose another")
    paths.ensure()
    userns = keeper.open_userns(paths)
    if userns.single:
        _say_single(paths, userns)
        wanted = _fit_single(wanted)
    if wanted.resources or wanted.cgroup_parent:
        cgroups.require(paths, wanted.resources or {}, wanted.cgroup_parent)
    image = create.image_for(paths, wanted.image, pull=policy, platform=wanted.platform,
                             quiet=options.flag("quiet"),
                             tls_verify=options.boolean("tls-verify"))
    wanted = settled(paths, connect.settled(paths, wanted))
    watch.make_room(paths, options)
    if (wanted.publish or wanted.publish_all) and connect.cut_off(paths, wanted):
        sys.stderr.write("rootless: published ports are discarded: there is no way to an internal "
                         "network\n")
    container, lock = create.create(paths, userns, wanted, image)
    if cidfile:
        try:
            write_atomic(os.path.abspath(cidfile), container.id.encode(), mode=0o644, new=True)
        except StorageError:
            store.remove(container, volumes=True)
            os.close(lock)
            raise
    return container, userns, lock


def _say_single(paths: Paths, userns: keeper.Userns) -> None:
    """Once for each reason, not at every start."""
    said = paths.cache + "/said-single"
    try:
        if read_bytes(said).decode() == userns.why:
            return
    except OSError:
        pass
    sys.stderr.write(
        f"rootless: containers have one user id only: {userns.why}\n"
        "  hint: files of other owners show as yours; rootless doctor says what to ask the "
        "administrator for\n")
    write_atomic(said, userns.why.encode())


def _fit_single(wanted: Wanted) -> Wanted:
    user = wanted.user.partition(":")[0]
    if user and not user.isdigit() and user != "root":
        raise HostError(f"cannot run as user {user}: with one user id only numbers can be given",
                        hint=f"--user with the number of {user}")
    return wanted


def from_options(options: Options) -> Wanted:
    """The command line as a Wanted. Raises UsageError."""
    image, *args = options.args
    security = _security(options.list("security-opt"))
    network, joined = _networks(options)
    userns = options.value("userns") or ""
    if userns not in ("", "private", "host"):
        raise UsageError(
            f"cannot use --userns {userns}: the kernel's overlay shows image files with the ids "
            "they are stored with", hint="leave it out for a namespace of the container's own, "
                                         "or --userns host")
    keys = options.value("detach-keys")
    if keys is not None:
        attach.detach_sequence(keys)
    return Wanted(
        image=image,
        args=tuple(args),
        name=options.value("name") or "",
        entrypoint=_entrypoint(options.value("entrypoint")),
        env=tuple(environment(options)),
        workdir=_workdir(options.value("workdir")),
        user=options.value("user") or "",
        group_add=tuple(_word(g, "group") for g in options.list("group-add")),
        tty=options.flag("tty"),
        interactive=options.flag("interactive"),
        rm=options.flag("rm"),
        hostname=_hostname(options.value("hostname")),
        domainname=_domainname(options.value("domainname")),
        add_host=tuple(add_host(h) for h in options.list("add-host")),
        dns=tuple(_address(a) for a in options.list("dns")),
        dns_search=tuple(_word(d, "search domain") for d in options.list("dns-search")),
        dns_option=tuple(_word(o, "resolver option") for o in options.list("dns-option")),
        network=network,
        endpoints=joined,
        publish=tuple(p for text in options.list("publish") for p in ports.parse(text)),
        publish_all=options.flag("publish-all"),
        network_rate=_network_rate(options.value("network-rate"), network),
        links=tuple(_link(text) for text in options.list("link")),
        mounts=_mounts(options),
        volumes_from=tuple(options.list("volumes-from")),
        secrets=tuple(options.list("secret")),
        read_only=options.flag("read-only"),
        shm_size=mounts.size(options.value("shm-size") or "64m"),
        devices=tuple(d for text in options.list("device") for d in mounts.devices(text)),
        cap_add=tuple(options.list("cap-add")),
        cap_drop=tuple(options.list("cap-drop")),
        privileged=options.flag("privileged"),
        no_new_privileges=security[0],
        seccomp=security[1],
        unmask=security[2],
        ulimits=tuple(ulimit(u) for u in options.list("ulimit")),
        sysctl=tuple(_pair(s, "sysctl") for s in options.list("sysctl")),
        init=options.flag("init"),
        userns=userns,
        labels=tuple(_labels(options)),
        stop_signal=_stop_signal(options.value("stop-signal")),
        stop_timeout=options.integer("stop-timeout"),
        resources=limits.of_new(options),
        cgroupns=limits.namespace(options),
        cgroup_parent=limits.parent(options),
        oom_score_adj=_oom_score(options.integer("oom-score-adj")),
        detach_keys="ctrl-p,ctrl-q" if keys is None else keys,
        log_driver=watch.log_driver(options),
        log_limits=watch.log_limits(options),
        platform=options.value("platform") or "",
        watch=watch.watch(options),
        pid=sharing.mode(options, "pid"),
        ipc=sharing.mode(options, "ipc"),
    )


def _networks(options: Options) -> tuple[str, tuple[endpoints.Endpoint, ...]]:
    mode, found = _parse_networks(options)
    if not found and (options.list("publish") or options.flag("publish-all")):
        if mode.startswith("container:"):
            raise UsageError(f"cannot publish ports with --network {mode}",
                             hint=f"publish them when {mode.partition(':')[2]} is made")
        sys.stderr.write(f"rootless: published ports are discarded with --network {mode}\n")
    return mode, found


def _network_rate(text: str | None, network: str) -> tuple[int, int]:
    if text is None:
        return 0, 0
    from rootless.network import rate

    if not endpoints.joins(network):
        raise UsageError(f"cannot use --network-rate with --network {network}: the container has "
                         "no device of its own", hint="--network bridge")
    return rate.parse(text)


def _link(text: str) -> tuple[str, str]:
    other, colon, alias = text.partition(":")
    return other, endpoints.alias(alias if colon else other)


def _parse_networks(options: Options) -> tuple[str, tuple[endpoints.Endpoint, ...]]:
    return endpoints.parse(
        [*options.list("network"), *options.list("net")], networks.DEFAULT,
        ip=options.value("ip") or "", ip6=options.value("ip6") or "",
        mac=options.value("mac-address") or "",
        aliases=tuple(endpoints.alias(a) for a in options.list("network-alias")))


def _mounts(options: Options) -> tuple[Mount, ...]:
    return (*(mounts.volume(v) for v in options.list("volume")),
            *(mounts.mount(m) for m in options.list("mount")),
            *(mounts.tmpfs(t) for t in options.list("tmpfs")))


def _entrypoint(text: str | None) -> tuple[str, ...] | None:
    """A command, or as podman has it a command and arguments as a list in JSON."""
    if text is None:
        return None
    if text.startswith("["):
        try:
            words = jsontext.loads(text)
        except ValueError:
            words = None
        if isinstance(words, list) and all(isinstance(w, str) for w in words):
            return tuple(words)
    return (text,)


def _workdir(text: str | None) -> str:
    if text and not text.startswith("/"):
        raise UsageError(f"invalid working directory: {text}: it must be absolute")
    return os.path.normpath(text) if text else ""


def _hostname(text: str | None) -> str:
    if text and (len(text) > 63 or not text.isascii() or set(text) & set(" /\n\t\0")):
        raise UsageError(f"invalid host name: {text}")
    return text or ""


def _domainname(text: str | None) -> str:
    if text and len(text.encode()) > 64:
        raise UsageError(f"invalid domain name: {text}: it is longer than 64 bytes")
    return text or ""


def _word(text: str, what: str) -> str:
    """A word of a line: what holds a blank would say something else there."""
    if not text or any(c.isspace() for c in text):
        raise UsageError(f"invalid {what}: {text!r}")
    return text


def _stop_signal(text: str | None) -> str:
    if text:
        signals.number(text)
    return text or ""


def _oom_score(number: int | None) -> int | None:
    if number is not None and not -1000 <= number <= 1000:
        raise UsageError(f"invalid argument for --oom-score-adj: {number}", hint="-1000 to 1000")
    return number


def _pair(text: str, what: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    if not key or not value:
        raise UsageError(f"invalid {what}: {text}", hint=f"--{what} NAME=VALUE")
    return key, value


def _labels(options: Options) -> list[tuple[str, str]]:
    from_files = [line for name in options.list("label-file") for line in lines(name)]
    found = []
    for text in [*from_files, *options.list("label")]:
        key, _, value = text.partition("=")
        if not key.strip():
            raise UsageError(f"invalid label: {text}: its name is empty",
                             hint="--label NAME=VALUE")
        found.append((key, value))
    return found


def add_host(text: str) -> tuple[str, str]:
    name, sep, address = text.partition("=" if "=" in text else ":")
    if not name or not sep:
        raise UsageError(f"invalid host: {text}", hint="--add-host NAME:IP")
    if address == HOST_GATEWAY:
        return _word(name, "host"), address
    return _word(name, "host"), _address(address.strip("[]"))


def _address(text: str) -> str:
    import _socket

    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            _socket.inet_pton(family, text)
            return text
        except OSError:
            continue
    raise UsageError(f"invalid IP address: {text}")


def ulimit(text: str) -> tuple[str, int, int]:
    name, eq, value = text.partition("=")
    soft, colon, hard = value.partition(":")
    hint = "--ulimit nofile=1024:2048; unlimited is -1"
    if name not in plan.RLIMITS or not eq:
        raise UsageError(f"invalid ulimit: {text}", hint=hint)
    try:
        low = -1 if soft == "unlimited" else int(soft)
        high = low if not colon else -1 if hard == "unlimited" else int(hard)
    except ValueError:
        raise UsageError(f"invalid ulimit: {text}", hint=hint) from None
    if low < -1 or high < -1:
        raise UsageError(f"invalid ulimit: {text}", hint=hint)
    if high != -1 and (low == -1 or low > high):
        raise UsageError(f"invalid ulimit: {text}: the soft limit is above the hard one")
    return name, low, high


def _security(given: list[str]) -> tuple[bool, str, bool]:
    """(no_new_privileges, seccomp choice or profile text, nothing masked)."""
    nnp, profile, unmask = False, "", False
    for text in given:
        key, eq, value = text.partition("=")
        if not eq and ":" in text:
            key, eq, value = text.partition(":")
        if key == "no-new-privileges" and value in ("", "true", "false"):
            nnp = value != "false"
        elif key == "seccomp" and value == "unconfined":
            profile = value
        elif key == "seccomp" and value == "builtin":
            profile = ""
        elif key == "seccomp" and value:
            try:
                profile = read_bytes(value, 4 << 20).decode()
            except (OSError, UnicodeDecodeError) as e:
                why = os_reason(e) if isinstance(e, OSError) else "it is not UTF-8 text"
                raise UsageError(f"cannot read the seccomp profile: {value}: {why}") from None
            if not profile.lstrip().startswith("{"):
                raise UsageError(f"invalid seccomp profile: {value}: not a JSON object")
        elif key in ("systempaths", "unmask") and value in ("unconfined", "ALL", "all"):
            unmask = True
        elif key in ("label", "apparmor"):
            if value not in ("disable", "unconfined"):
                raise UsageError(f"cannot set {text}: it takes root to confine with {key}",
                                 hint=f"{key}=unconfined is what containers without root have")
        else:
            raise UsageError(f"unknown security option: {text}",
                             hint="no-new-privileges, seccomp=FILE|unconfined, "
                                  "systempaths=unconfined")
    return nnp, profile, unmask


_HELP = """Make a container from IMAGE and run COMMAND in it.

IMAGE is a name as docker knows it, or `host`: a copy of this machine whose files are read from
the machine itself and whose changes are thrown away or kept in the container.

Exit codes: the command's own; 125 when the container could not be made, 126 when the command
cannot be run, 127 when it is not found, 128+N when signal N ended it."""

COMMANDS = {
    "run": Command("run", "IMAGE [COMMAND] [ARG...]", _HELP, run,
                   (*_SHARED, Option("detach", FLAG, "Print the id and leave it running", "d"),
                    Option("sig-proxy", OPTIONAL, "Pass on signals (default true)",
                           metavar="BOOL", default="true")),
                   least=1, interspersed=False, error_exit=125),
    "create": Command("create", "IMAGE [COMMAND] [ARG...]",
                      "Make a container without starting it.", make, _SHARED,
                      least=1, interspersed=False),
}
