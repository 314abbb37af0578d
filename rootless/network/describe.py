"""Networks and containers' places on them, as docker's `inspect` shows them (Engine API)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.network.networks import Network

    Plain = dict[str, Any]


def endpoint_id(network: str, container: str) -> str:
    """docker gives a random one; ours follows from the two ids that it joins."""
    return f"{int(network, 16) ^ int(container, 16):064x}"


def network(found: Network, leases: dict[str, Plain]) -> Plain:
    """`leases`: those of running containers by their id."""
    containers = {}
    for cid, lease in leases.items():
        place = lease["networks"].get(found.name)
        if place is not None:
            containers[cid] = {
                "Name": lease["name"], "EndpointID": endpoint_id(found.id, cid),
                "MacAddress": place["mac"], "IPv4Address": _with_prefix(place, ""),
                "IPv6Address": _with_prefix(place, "6")}
    return {
        "Name": found.name,
        "Id": found.id,
        "Created": found.created,
        "Scope": "local",
        "Driver": "bridge",
        "EnableIPv6": found.range_of(6) is not None,
        "IPAM": {"Driver": "default", "Options": {}, "Config": [
            {"Subnet": str(r.subnet), "Gateway": r.plain()["gateway"],
             **({} if r.pool == r.subnet else {"IPRange": str(r.pool)})} for r in found.ranges]},
        "Internal": found.internal,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": containers,
        "Options": found.options,
        "Labels": found.labels,
        "Egress": {"Rules": list(found.egress), "Default": "deny" if found.deny else "allow"},
    }


def predefined(mode: str) -> Plain:
    """`none` and `host`, which are no networks of ours but are listed among them."""
    return {"Name": mode, "Id": predefined_id(mode), "Created": "0001-01-01T00:00:00Z",
            "Scope": "local", "Driver": {"none": "null"}.get(mode, mode), "EnableIPv6": False,
            "IPAM": {"Driver": "default", "Options": {}, "Config": []}, "Internal": False,
            "Attachable": False, "Ingress": False, "ConfigFrom": {"Network": ""},
            "ConfigOnly": False, "Containers": {}, "Options": {}, "Labels": {}}


def predefined_id(mode: str) -> str:
    return mode.encode().hex().ljust(64, "0")


def _with_prefix(place: Plain, version: str) -> str:
    return f"{place['ip' + version]}/{place['prefix' + version]}" if place["ip" + version] else ""


def settings(cid: str, mode: str, wish: Plain | None, lease: Plain | None) -> Plain:
    """`NetworkSettings` of a container. `wish` and `lease`: see `rootless.network.endpoints`."""
    wanted = wish["networks"] if wish is not None else {}
    places = lease["networks"] if lease is not None else {}
    networks = {name: _endpoint(cid, wanted.get(name, {}), places.get(name), wish)
                for name in {**wanted, **places}}
    first: Plain = next(iter(networks.values()), {})
    if not networks and wish is None:
        networks = {mode.partition(":")[0]: _endpoint(cid, {}, None, None)}
    ports: dict[str, list[dict[str, str]] | None] = {}
    for _, _, _, port, proto in wish["ports"] if wish is not None and lease is not None else ():
        ports[f"{port}/{proto}"] = None
    for ip, host, port, proto in lease["ports"] if lease is not None else ():
        known = ports.get(f"{port}/{proto}") or []
        ports[f"{port}/{proto}"] = [*known, {"HostIp": ip, "HostPort": str(host)}]
    same = ("EndpointID", "Gateway", "GlobalIPv6Address", "GlobalIPv6PrefixLen", "IPAddress",
            "IPPrefixLen", "IPv6Gateway", "MacAddress")
    empty = _endpoint(cid, {}, None, None)
    return {"Bridge": "", "SandboxID": cid if lease is not None else "", "Ports": ports,
            **{key: first.get(key, empty[key]) for key in same}, "Networks": networks}


def _endpoint(cid: str, wanted: Plain, place: Plain | None, wish: Plain | None) -> Plain:
    ipam = {key: wanted[name] for key, name in (("IPv4Address", "ip"), ("IPv6Address", "ip6"))
            if wanted.get(name)}
    had = place or {}
    names = [*wanted.get("aliases", ()), cid[:12]] if wish is not None else []
    return {
        "IPAMConfig": ipam or None,
        "Links": None,
        "Aliases": list(wanted.get("aliases", ())) or None,
        "DNSNames": [wish["name"], *names] if wish is not None else None,
        "NetworkID": had.get("id", ""),
        "EndpointID": endpoint_id(had["id"], cid) if had else "",
        "Gateway": had.get("gateway", ""),
        "IPAddress": had.get("ip", ""),
        "IPPrefixLen": had.get("prefix", 0),
        "IPv6Gateway": had.get("gateway6", ""),
        "GlobalIPv6Address": had.get("ip6", ""),
        "GlobalIPv6PrefixLen": had.get("prefix6", 0),
        "MacAddress": had.get("mac", ""),
        "DriverOpts": None,
    }


def resolution(wish: Plain) -> Plain:
    """What of a wish `HostConfig` shows, but for the ports."""
    return {"PublishAllPorts": wish["publish_all"], "Dns": wish["dns"],
            "DnsOptions": wish["dns_options"], "DnsSearch": wish["dns_search"],
            "ExtraHosts": wish["extra_hosts"],
            "Links": [f"{other}:{alias}" for alias, other in wish["links"].items()] or None}


def exposed(image: list[str], wish: Plain | None) -> Plain | None:
    """`Config.ExposedPorts`: what the image names and what is published."""
    ours = [f"{p[3]}/{p[4]}" for p in wish["ports"]] if wish is not None else []
    theirs = [text if "/" in text else f"{text}/tcp" for text in image]
    return {text: {} for text in (*theirs, *ours)} or None


def bindings(ports: list[list[Any]]) -> Plain:
    """`HostConfig.PortBindings` of a wish's ports."""
    found: dict[str, list[dict[str, str]]] = {}
    for ip, host, last, port, proto in ports:
        text = f"{host}-{last}" if last > host else str(host or "")
        found.setdefault(f"{port}/{proto}", []).append({"HostIp": ip, "HostPort": text})
    return found
