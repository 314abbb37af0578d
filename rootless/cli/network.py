"""`rootless network …` and `rootless port`."""

from __future__ import annotations

import sys
import time

from rootless import paths as places
from rootless.cli.command import FLAG, LIST, VALUE, Command, Option, Options
from rootless.cli.confirm import confirmed
from rootless.cli.ps import table
from rootless.clock import seconds_of
from rootless.container import connect, store
from rootless.errors import Conflict, NotFound, RootlessError, UsageError
from rootless.network import client, describe, endpoints, networks, ports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rootless.network.networks import Network
    from rootless.paths import Paths

# Names of one option in docker's and in our own words.
_OPTIONS = {"mtu": "mtu", "com.docker.network.driver.mtu": "mtu"}


def create(options: Options) -> int:
    driver = options.value("driver") or "bridge"
    if driver != "bridge":
        raise UsageError(f"cannot make a network with driver {driver}: it takes root",
                         hint="bridge is the only one")
    subnets = options.list("subnet")
    extra = {"gateway": options.list("gateway"), "ip-range": options.list("ip-range")}
    for name, given in extra.items():
        if len(given) > len(subnets):
            raise UsageError(f"--{name} needs a --subnet that it belongs to",
                             hint="--subnet 10.89.3.0/24")
    paths = places.of_this_user()
    paths.ensure()
    made = networks.create(
        paths, options.args[0],
        subnets=[(text, _belonging(text, extra["gateway"]), _belonging(text, extra["ip-range"]))
                 for text in subnets],
        ipv6=options.flag("ipv6"), internal=options.flag("internal"),
        labels=_pairs(options.list("label")), options=_driver_options(options.list("opt")),
        egress=tuple(options.list("egress")), deny=_deny(options))
    sys.stdout.write(made.id + "\n")
    return 0


def update(options: Options) -> int:
    if not options.given("egress") and not options.given("egress-default"):
        raise UsageError("nothing to change", hint='--egress "allow deb.debian.org 443 tcp", '
                                                   "--egress-default deny")
    paths = places.of_this_user()
    network = networks.find(paths, options.args[0])
    made = networks.set_rules(
        paths, network.name,
        tuple(options.list("egress")) if options.given("egress") else network.egress,
        deny=_deny(options) if options.given("egress-default") else network.deny)
    client.ask_if_there(paths.run, paths.data, {"do": "rules", "network": made.name})
    sys.stdout.write(made.name + "\n")
    return 0


def _deny(options: Options) -> bool:
    default = options.value("egress-default") or "allow"
    if default not in ("allow", "deny"):
        raise UsageError(f"invalid argument for --egress-default: {default}", hint="allow or deny")
    return default == "deny"


def _belonging(subnet: str, given: list[str]) -> str:
    """The gateway or range of the subnet's version."""
    return next((g for g in given if (":" in g) == (":" in subnet)), "")


def _pairs(texts: list[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        key, _, value = text.partition("=")
        if not key.strip():
            raise UsageError(f"invalid label: {text}: its name is empty", hint="NAME=VALUE")
        found[key] = value
    return found


def _driver_options(texts: list[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        key, _, value = text.partition("=")
        name = _OPTIONS.get(key)
        if name is None:
            raise UsageError(f"unknown network option: {key}", hint="--opt mtu=BYTES")
        if not value.isdecimal() or not 1280 <= int(value) <= 65520:
            raise UsageError(f"invalid network option: {text}: from 1280 to 65520")
        found[name] = str(int(value))
    return found


def ls(options: Options) -> int:
    paths = places.of_this_user()
    tests = [_filter(text) for text in options.list("filter")]
    paths.ensure()
    networks.default(paths)
    rows = [_row(describe.network(found, {})) for found in networks.every(paths)]
    rows += [_row(describe.predefined(mode)) for mode in networks.MODES]
    rows = sorted((r for r in rows if all(test(r) for test in tests)), key=lambda r: str(r["Name"]))
    if not options.flag("no-trunc"):
        for row in rows:
            row["ID"] = row["ID"][:12]
    template = options.value("format")
    if options.flag("quiet"):
        lines = [row["ID"] for row in rows]
    elif template is not None:
        from rootless.cli.template import render_rows

        lines = render_rows(template, [{k: v for k, v in r.items() if k != "raw"} for r in rows])
    else:
        lines = table([("NETWORK ID", "NAME", "DRIVER", "SCOPE"),
                       *((r["ID"], r["Name"], r["Driver"], r["Scope"]) for r in rows)])
    sys.stdout.write("".join(line + "\n" for line in lines))
    return 0


def _row(plain: dict[str, Any]) -> dict[str, Any]:
    return {"ID": plain["Id"], "Name": plain["Name"], "Driver": plain["Driver"],
            "Scope": plain["Scope"], "IPv6": str(plain["EnableIPv6"]).lower(),
            "Internal": str(plain["Internal"]).lower(), "CreatedAt": plain["Created"],
            "Labels": ",".join(f"{k}={v}" for k, v in plain["Labels"].items()), "raw": plain}


def _filter(text: str) -> Callable[[dict[str, Any]], bool]:
    key, eq, value = text.partition("=")
    if not eq:
        raise UsageError(f"invalid filter: {text}", hint="KEY=VALUE")
    if key == "name":
        return lambda r: value in r["Name"]
    if key == "id":
        return lambda r: str(r["ID"]).startswith(value)
    if key in ("driver", "scope"):
        return lambda r: bool(r[key.capitalize()] == value)
    if key == "type" and value in ("custom", "builtin"):
        return lambda r: (r["Name"] in (*networks.MODES, networks.DEFAULT)) == (value == "builtin")
    if key == "label":
        name, has, wanted = value.partition("=")
        return lambda r: name in r["raw"]["Labels"] and (
            not has or r["raw"]["Labels"][name] == wanted)
    raise UsageError(f"unknown filter: {text}", hint="name, id, driver, scope, type or label")


def described(paths: places.Paths, name: str) -> dict[str, Any]:
    """As docker's `network inspect` shows it. Raises NotFound."""
    if name in networks.MODES:
        return describe.predefined(name)
    return describe.network(networks.find(paths, name), connect.leases(paths))


def inspect(options: Options) -> int:
    import json

    from rootless.__main__ import tell

    paths = places.of_this_user()
    found, worst = [], 0
    for name in options.args:
        try:
            found.append(described(paths, name))
        except RootlessError as e:
            tell(e)
            worst = 1
    template = options.value("format")
    if template is None:
        sys.stdout.write(json.dumps(found, indent=4, ensure_ascii=False) + "\n")
    else:
        from rootless.cli.template import render

        for item in found:
            text = json.dumps(item) if template == "json" else render(template, item)
            sys.stdout.write(text + "\n")
    return worst


def rm(options: Options) -> int:
    from rootless.__main__ import tell

    paths = places.of_this_user()
    in_use = connect.users(paths)
    worst = 0
    for name in options.args:
        try:
            if name in (*networks.MODES, networks.DEFAULT, "default"):
                raise Conflict(f"cannot remove network {name}: it is always there")
            connect.remove(paths, networks.find(paths, name), in_use)
            sys.stdout.write(name + "\n")
        except NotFound as e:
            if not options.flag("force"):
                tell(e)
                worst = 1
        except RootlessError as e:
            tell(e)
            worst = 1
    return worst


def prune(options: Options) -> int:
    paths = places.of_this_user()
    tests = [_prune_filter(text) for text in options.list("filter")]
    if not confirmed(options, "This removes all networks that no container is made for."):
        return 1
    gone, worst = prune_unused(paths, tests)
    if gone:
        sys.stdout.write("Deleted Networks:\n" + "".join(n + "\n" for n in gone) + "\n")
    return worst


def prune_unused(paths: Paths, tests: list[Callable[[Network], bool]]) -> tuple[list[str], int]:
    """Names of the networks that went, and the exit code."""
    from rootless.__main__ import tell

    in_use = connect.users(paths)
    gone: list[str] = []
    worst = 0
    for found in networks.every(paths):
        if found.name == networks.DEFAULT or found.name in in_use \
                or not all(test(found) for test in tests):
            continue
        try:
            connect.remove(paths, found, in_use)
            gone.append(found.name)
        except RootlessError as e:
            tell(e)
            worst = 1
    return gone, worst


def _prune_filter(text: str) -> Callable[[Network], bool]:
    key, eq, value = text.partition("=")
    if eq and key == "until":
        from rootless.image.prune import moment

        limit = moment(value, seconds_of, time.time())
        return lambda n: seconds_of(n.created) < limit
    if eq and key in ("label", "label!"):
        name, has, wanted = value.partition("=")
        return lambda n: (name in n.labels and (not has or n.labels[name] == wanted)) \
            == (key == "label")
    raise UsageError(f"unknown filter: {text}", hint="until=, label= or label!=")


def join(options: Options) -> int:
    """`rootless network connect`."""
    network, name = options.args
    paths = places.of_this_user()
    text = ",".join(f"{key}={value}" for key, value in (
        ("ip", options.value("ip")), ("ip6", options.value("ip6")),
        ("mac", options.value("mac-address")),
        *(("alias", a) for a in options.list("alias"))) if value is not None)
    _, wanted = endpoints.parse([f"{network}:{text}" if text else network], "")
    if not wanted:
        raise UsageError(f"cannot connect a container to {network}: it is no network of its own")
    connect.connect(store.find(paths, name), wanted[0])
    return 0


def leave(options: Options) -> int:
    """`rootless network disconnect`."""
    network, name = options.args
    paths = places.of_this_user()
    connect.disconnect(store.find(paths, name), network)
    return 0


def log(options: Options) -> int:
    paths = places.of_this_user()
    network = networks.find(paths, options.args[0])
    if network.internal:
        raise UsageError(f"nothing leaves network {network.name}: it is internal")
    template = options.value("format")
    last = 0
    while True:
        answer = client.ask_if_there(paths.run, paths.data, {
            "do": "log", "network": network.name, "since": last})
        entries = answer["entries"] if answer is not None else []
        for entry in entries:
            sys.stdout.write(_entry(entry, template) + "\n")
            last = entry["number"]
        sys.stdout.flush()
        if not entries:
            if not options.flag("follow"):
                return 0
            time.sleep(0.5)


def _entry(entry: dict[str, Any], template: str | None) -> str:
    if template is not None:
        from rootless.cli.template import render

        row = {key.capitalize(): value for key, value in entry.items()}
        if template == "json":
            import json

            return json.dumps(entry)
        return render(template, row)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(entry["time"]))
    name = f" ({entry['name']})" if entry["name"] else ""
    text = (f"{stamp} {entry['what']:<11} {entry['proto']:<4} "
            f"{entry['container'] or entry['from']} -> {entry['to']}{name}")
    if entry["what"] == "closed":
        text += f" {entry['sent']} out, {entry['received']} in, {entry['seconds']:.1f} s"
    return text


def port(options: Options) -> int:
    name, *wanted = options.args
    container = store.find(places.of_this_user(), name)
    lease = connect.lease(container)
    published = lease["ports"] if lease is not None else []
    if not wanted:
        for ip, host, inside, proto in published:
            sys.stdout.write(f"{inside}/{proto} -> {ports.show(ip, host)}\n")
        return 0
    number, slash, proto = wanted[0].partition("/")
    found = [(ip, host) for ip, host, inside, p in published
             if str(inside) == number and p == (proto if slash else "tcp")]
    if not found:
        raise NotFound(f"no public port {wanted[0]} published for {container.name}",
                       hint=f"rootless port {container.name} lists those there are")
    for ip, host in found:
        sys.stdout.write(f"{ports.show(ip, host)}\n")
    return 0


_FORMAT = Option("format", VALUE, "Go template, or json", "f", "FORMAT")
_EGRESS = (
    Option("egress", LIST, "What may be reached outside, the first rule that matches counts: "
           "allow|deny ADDRESS[/BITS]|NAME|any [PORTS] [tcp|udp|icmp]", metavar="RULE"),
    Option("egress-default", VALUE, "What counts when no rule matches: allow (default) or deny",
           metavar="WORD"))
_IP = Option("ip", VALUE, "IPv4 address", metavar="ADDRESS")
_IP6 = Option("ip6", VALUE, "IPv6 address", metavar="ADDRESS")

COMMANDS = {
    "network create": Command("network create", "NAME", "Make a network.", create, (
        Option("driver", VALUE, "bridge, the only one", "d", "DRIVER"),
        *_EGRESS,
        Option("gateway", LIST, "Gateway of the subnet", metavar="ADDRESS"),
        Option("internal", FLAG, "Without a way to other networks or the internet"),
        Option("ip-range", LIST, "Part of the subnet that addresses are given out of",
               metavar="ADDRESS/BITS"),
        Option("ipv6", FLAG, "With IPv6: a subnet of its own where none is given"),
        Option("label", LIST, "Label", metavar="NAME=VALUE"),
        Option("opt", LIST, "mtu=BYTES", "o", "NAME=VALUE"),
        Option("subnet", LIST, "Subnet, of IPv4 or IPv6", metavar="ADDRESS/BITS"),
    ), least=1, most=1),
    "network update": Command("network update", "NETWORK",
                              "Give a network other rules, in place of those it has, at once.",
                              update, _EGRESS, least=1, most=1),
    "network ls": Command("network ls", "", "List networks.", ls, (
        Option("filter", LIST, "Only those that match: name=, id=, driver=, scope=, type=, label=",
               metavar="KEY=VALUE"),
        Option("format", VALUE, "Go template, or json", metavar="FORMAT"),
        Option("no-trunc", FLAG, "Whole ids"),
        Option("quiet", FLAG, "Ids only", "q")), most=0),
    "network inspect": Command("network inspect", "NETWORK [NETWORK...]",
                               "Show all that is known of networks, as JSON.", inspect,
                               (_FORMAT,), least=1),
    "network rm": Command("network rm", "NETWORK [NETWORK...]", "Remove networks.", rm,
                          (Option("force", FLAG, "Say nothing of those that are not there", "f"),),
                          least=1),
    "network prune": Command("network prune", "", "Remove networks that no container is made for.",
                             prune, (
        Option("filter", LIST, "Only those that match: until=, label=, label!=",
               metavar="KEY=VALUE"),
        Option("force", FLAG, "Do not ask", "f")), most=0),
    "network connect": Command("network connect", "NETWORK CONTAINER",
                               "Connect a container, running or not, to a network.", join, (
        Option("alias", LIST, "Another name on this network", metavar="NAME"), _IP, _IP6,
        Option("mac-address", VALUE, "MAC address", metavar="MAC")), least=2, most=2),
    "network disconnect": Command("network disconnect", "NETWORK CONTAINER",
                                  "Take a container off a network.", leave, least=2, most=2),
    "network log": Command("network log", "NETWORK",
                           "Show what containers on a network have dialled outside, and what came "
                           "of it, while the network is up.", log, (
        Option("follow", FLAG, "Go on as it happens", "f"),
        Option("format", VALUE, "Go template, or json", metavar="FORMAT")), least=1, most=1),
    "port": Command("port", "CONTAINER [PORT[/PROTOCOL]]",
                    "Show where a container's ports are published.", port, least=1, most=2),
}
