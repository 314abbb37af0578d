"""A container and its networks: the wish it is made with, changes of it, and what came of it."""

from __future__ import annotations

import os

from rootless import events
from rootless.container import resolving, store
from rootless.errors import Conflict, HostError, RootlessError, UsageError
from rootless.network import address, client, endpoints, networks, ports
from rootless.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.container.store import Container
    from rootless.container.wanted import Wanted
    from rootless.network.endpoints import Endpoint
    from rootless.network.networks import Network
    from rootless.paths import Paths


def settled(paths: Paths, wanted: Wanted) -> Wanted:
    """With the full names of networks, and the id of a container whose network is shared.

    Raises NotFound, UsageError for an address that cannot be in its network, Conflict for a
    network that cannot be shared.
    """
    word, colon, name = wanted.network.partition(":")
    if word == "container" and colon:
        other = store.find(paths, name)
        mode = str(other.data["network"])
        if mode == "host" or mode.startswith("container:"):
            raise Conflict(f"cannot share the network of container {name}: it was made with "
                           f"--network {mode}", hint=f"--network {mode}")
        if wanted.links:
            raise UsageError(f"cannot have links with --network {wanted.network}")
        return replace(wanted, network=f"container:{other.id}")
    if not wanted.endpoints:
        if wanted.links:
            raise UsageError(f"cannot have links with --network {wanted.network}")
        return wanted
    found = tuple(_known(paths, e) for e in wanted.endpoints)
    if len({e.network for e in found}) < len(found):
        raise UsageError(f"network {found[-1].network} is given twice")
    links = tuple((store.find(paths, other).id[:12], alias.lower())
                  for other, alias in wanted.links)
    return replace(wanted, network=found[0].network, endpoints=found, links=links)


def cut_off(paths: Paths, wanted: Wanted) -> bool:
    """Are its networks all internal, so that a published port leads nowhere?"""
    return bool(wanted.endpoints) and all(networks.load(paths, e.network).internal
                                          for e in wanted.endpoints)


def _known(paths: Paths, wanted: Endpoint) -> Endpoint:
    network = networks.find(paths, wanted.network)
    for text, version in ((wanted.ip, 4), (wanted.ip6, 6)):
        found = network.range_of(version)
        raw = address.parse(text) if text else None
        if raw is not None and (found is None or not found.subnet.has(raw)):
            subnets = " and ".join(str(r.subnet) for r in network.ranges)
            raise UsageError(f"invalid address: {text} is not in network {network.name}, "
                             f"{subnets}",
                             hint=None if found else "rootless network create --ipv6")
    return endpoints.Endpoint(network.name, wanted.ip, wanted.ip6, wanted.mac, wanted.aliases)


def first_wish(directory: str, name: str, wanted: Wanted, config: dict[str, Any],
               image_config: dict[str, Any]) -> None:
    """Write what the container wants of networks, and all that the network keeper must know."""
    published = list(wanted.publish)
    if wanted.publish_all:
        told = {(p.container, p.proto) for p in published}
        published += [p for p in ports.exposed(sorted(image_config.get("ExposedPorts") or {}))
                      if (p.container, p.proto) not in told]
    endpoints.write_wish(directory, {
        "name": name,
        "hostname": config["hostname"],
        "networks": {e.network: e.plain() for e in wanted.endpoints},
        "ports": [p.plain() for p in published],
        "publish_all": wanted.publish_all,
        "rate": list(wanted.network_rate),
        "links": {alias: other for other, alias in wanted.links},
        "dns": list(wanted.dns),
        "dns_search": list(wanted.dns_search),
        "dns_options": list(wanted.dns_option),
        "extra_hosts": [f"{name}:{where}" for name, where in wanted.add_host],
        "hosts": resolving.hosts(wanted, config["hostname"]),
        "resolv": resolving.resolv_conf(wanted),
    })


def connect(container: Container, wanted: Endpoint) -> None:
    """Add a network, to a running container at once. Raises Conflict, UsageError, NotFound."""
    wanted = _known(container.paths, wanted)
    wish = _wish(container, wanted.network)
    if wanted.network in wish["networks"]:
        raise Conflict(f"container {container.name} is on network {wanted.network} already")
    _change(container, {**wish, "networks": {**wish["networks"],
                                             wanted.network: wanted.plain()}}, wish)
    events.emit(container.paths.data, "network", "connect", wanted.network,
                {"name": wanted.network, "container": container.id})


def disconnect(container: Container, name: str) -> None:
    """Raises Conflict when it is not on the network."""
    network = networks.find(container.paths, name)
    wish = _wish(container, network.name)
    if network.name not in wish["networks"]:
        raise Conflict(f"container {container.name} is not on network {network.name}")
    _change(container, {**wish, "networks": {n: e for n, e in wish["networks"].items()
                                             if n != network.name}}, wish)
    events.emit(container.paths.data, "network", "disconnect", network.name,
                {"name": network.name, "container": container.id})


def rename(container: Container) -> None:
    """It has another name now, by which the others on its networks find it."""
    wish = _wish(container, "")
    _change(container, {**wish, "name": container.name}, wish)


def _wish(container: Container, network: str) -> dict[str, Any]:
    try:
        return endpoints.wish(container.dir)
    except FileNotFoundError:
        mode = str(container.data["network"])
        raise Conflict(f"cannot change the networks of container {container.name}: it was made "
                       f"with --network {mode}",
                       hint=f"rootless run --network {network}") from None


def _change(container: Container, wish: dict[str, Any], before: dict[str, Any]) -> None:
    lock = container.lock()
    try:
        state = container.state()
        if state.elsewhere:
            raise HostError(f"container {container.name} runs on {state.elsewhere}, not here",
                            hint=f"run this command on {state.elsewhere}")
        endpoints.write_wish(container.dir, wish)
        if not state.running:
            return
        done = False
        try:
            paths = container.paths
            done = client.ask_if_there(paths.run, paths.data,
                                       {"do": "refresh", "id": container.id}) is not None
            if not done:
                raise HostError("the network keeper does not run", hint="try again")
        finally:
            if not done:
                endpoints.write_wish(container.dir, before)
    finally:
        os.close(lock)


def leases(paths: Paths) -> dict[str, dict[str, Any]]:
    """Of containers that run on networks, by id."""
    found = {}
    for container in store.every(paths):
        if endpoints.joins(str(container.data.get("network", "none"))):
            lease = endpoints.lease(container.dir)
            if lease is not None and container.state().running:
                found[container.id] = lease
    return found


def lease(container: Container) -> dict[str, Any] | None:
    """Its own; None unless it runs on networks."""
    return endpoints.lease(container.dir) if container.state().running else None


def users(paths: Paths) -> dict[str, list[str]]:
    """Names of the containers, running or not, that want each network."""
    found: dict[str, list[str]] = {}
    for container in store.every(paths):
        try:
            wish = endpoints.wish(container.dir)
        except (FileNotFoundError, RootlessError):
            continue
        for name in wish["networks"]:
            found.setdefault(name, []).append(container.name)
    return found


def remove(paths: Paths, network: Network, in_use: dict[str, list[str]]) -> None:
    """Raises Conflict when a container is made for it, or it is the default network."""
    holders = in_use.get(network.name, [])
    if holders:
        raise Conflict(f"cannot remove network {network.name}: in use by container "
                       f"{', '.join(holders)}",
                       hint=f"rootless network disconnect {network.name} {holders[0]}, or "
                            f"rootless rm {holders[0]}")
    client.ask_if_there(paths.run, paths.data, {"do": "forget", "network": network.name})
    networks.remove(paths, network.name)


