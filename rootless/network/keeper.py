"""The network keeper: one process for each user's store, there while containers are on networks.

Actors. The keeper holds each network's gateway (`gateway`), joins containers to it, answers for
their names, and publishes their ports. Monitors ask it to attach their container and stay
connected; commands ask it to look at a container's wish again after `network connect`, or to
forget a network. It is an ordinary process of the user in the machine's namespaces.

State. What must outlive the keeper is on disk: networks, each container's wish, each running
container's lease. When it is killed, the kernel takes down the gateways with all devices on them;
the monitors notice, one of them starts another keeper, and each asks to attach again. Until all
have come back, a new keeper gives away no address or port that the lease of a running process
names.

Invariants.
- A request is done whole or undone whole: after an error nothing of it is left.
- An address or a port belongs to one running container. Both are free before `detach` is answered.
- `lease.json` is written before `attach` is answered.
"""

from __future__ import annotations

import _socket
import os
import resource
import select

from rootless.errors import Conflict, HostError, NotFound, RootlessError, os_reason
from rootless.files import Lock
from rootless.network import address, client, endpoints, networks, resolver, uplink
from rootless.network.gateway import Gateway
from rootless.network.loop import Loop
from rootless.network.member import Held, Member
from rootless.paths import Paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from rootless.network.client import Request

IDLE = 60.0         # seconds without a container before the keeper ends
UNUSED = 1.0        # the same, where there never was one


class Keeper:
    def __init__(self, listener: int, path: str, run: str, store: str) -> None:
        self.path = path
        self.paths = Paths({"HOME": "/", "ROOTLESS_ROOT": store}, os.geteuid())
        self.loop = Loop()
        self.listener = _socket.socket(fileno=listener)
        self.listener.setblocking(False)
        self.loop.watch(listener, lambda _: self._accept())
        self.gateways: dict[str, Gateway] = {}
        self.members: dict[str, Member] = {}
        self.clients: set[_socket.socket] = set()
        self.held = self._held()
        self.turns = 0
        self.ending = False
        self._idle_since = self.loop.clock()
        self._patience = UNUSED

    def _held(self) -> dict[str, Held]:
        """Leases of processes that run, as a keeper before this one wrote them."""
        found = {}
        try:
            ids = os.listdir(self.paths.containers)
        except FileNotFoundError:
            return {}
        for cid in ids:
            lease = endpoints.lease(self.paths.container(cid))
            held = Held.of(cid, lease) if lease is not None else None
            if held is not None and held.lives():
                found[cid] = held
        return found

    # -- the loop ------------------------------------------------------------------------------

    def serve(self) -> NoReturn:
        # A container takes four descriptors.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        while not self.ending:
            if self.members or self.clients:
                self._idle_since = self.loop.clock()
                self.loop.turn()
                continue
            left = self._idle_since + self._patience - self.loop.clock()
            if left > 0 and self._is_found():
                self.loop.turn(min(left, 1))
            else:
                self._end_if_idle()
        for gateway in self.gateways.values():
            gateway.close()
        os._exit(0)

    def _is_found(self) -> bool:
        """Is the store still there, and our socket? Without them nobody will come."""
        return os.path.exists(self.path) and os.path.isdir(self.paths.containers)

    def _end_if_idle(self) -> None:
        """Nobody may be let down who connects while we end: they start another under this lock."""
        if not self._is_found():
            self.ending = True
            return
        with Lock(self.path + ".lock"):
            poll = select.poll()
            poll.register(self.listener.fileno(), select.POLLIN)
            if poll.poll(0):
                self.loop.turn(0)
                return
            os.unlink(self.path)
            self.ending = not poll.poll(0)
            if not self.ending:
                # Connected in this very instant, and no other can find us: serve, then end.
                self.loop.turn(0)
                self.ending = not self.members

    def _accept(self) -> None:
        try:
            fd, _ = self.listener._accept()  # type: ignore[attr-defined]
        except OSError:
            return
        sock = _socket.socket(fileno=fd)
        peer = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
        if int.from_bytes(peer[4:8], "little") != os.getuid():
            sock.close()
            return
        self.clients.add(sock)
        self.loop.watch(fd, lambda _: self._serve(sock))

    def _serve(self, sock: _socket.socket) -> None:
        fds: list[int] = []
        try:
            message, fds = client.receive(sock)
            if message is None:
                self._hang_up(sock)
                return
            client.send(sock, self._answer(sock, message, fds))
        except OSError:
            self._hang_up(sock)
        except (ValueError, EOFError, TypeError, KeyError):
            self._hang_up(sock)     # no language of ours: another version's
        finally:
            for fd in fds:
                os.close(fd)

    def _hang_up(self, sock: _socket.socket) -> None:
        """A monitor that was killed: its container, if it lives on, stays where it is."""
        self.clients.discard(sock)
        self.loop.forget(sock.fileno())
        sock.close()

    def _answer(self, sock: _socket.socket, message: Request, fds: list[int]) -> Request:
        try:
            what = message["do"]
            if what == "log":
                return self._log(message["network"], message["since"])
            if what == "attach":
                self._attach(message, fds)
            elif what == "detach":
                self._detach(message["id"])
            elif what == "refresh":
                self._refresh(message["id"])
            elif what == "rules":
                self._rules(message["network"])
            elif what == "forget":
                self._forget(message["network"])
            elif what == "stop":
                self.ending = True
                os.unlink(self.path)
            else:
                raise HostError(f"the network keeper does not know the request {what}")
            return {"ok": True}
        except RootlessError as e:
            return client.failure(e)
        except OSError as e:
            return client.failure(HostError(
                f"cannot set up the network: {e.filename or 'keeper'}: {os_reason(e)}"))

    # -- requests ------------------------------------------------------------------------------

    def _attach(self, message: Request, fds: list[int]) -> None:
        """`id`, `dir` and `pid` of a container, `single` (see Userns); an rtnetlink socket of its
        namespace, and the user namespace that gateways are made in."""
        netlink, userns = fds
        cid, directory, pid = message["id"], message["dir"], message["pid"]
        if cid in self.members:     # its monitor has lost the connection, and we had not
            self.members[cid].delete_all()
            self._detach(cid)
        before = self.held.pop(cid, None)
        if before is not None and before.pid != pid:
            before = None
        member = Member(cid, directory, pid, os.dup(netlink), endpoints.wish(directory))
        member.userns, member.single = os.dup(userns), message["single"]
        done = False
        try:
            for name in member.wish["networks"]:
                self._join(member, name, before)
            member.route()
            self._publish(member, before)
            member.write_files(fresh=before is None)
            member.write_lease()
            done = True
        except FileNotFoundError as e:
            raise NotFound(f"no such container any more: {e.filename}") from None
        finally:
            if not done:
                member.leave_all()
                member.close()
        self.members[cid] = member
        self._patience = IDLE
        member.watch(self.loop, self._detach)

    def _detach(self, cid: str) -> None:
        member = self.members.pop(cid, None)
        if member is not None:
            member.leave_all()
            member.close()
            endpoints.drop_lease(member.dir)
        else:
            self.held.pop(cid, None)

    def _refresh(self, cid: str) -> None:
        """A container's wish has changed: leave and join networks until it is as it says."""
        member = self.members.get(cid)
        if member is None:
            raise NotFound(f"container {cid[:12]} is on no network")
        before, member.wish = member.wish, endpoints.wish(member.dir)
        wanted = member.wish["networks"]
        joined = [n for n in wanted if n not in member.joined]
        done = False
        try:
            for name in joined:
                self._join(member, name, None)
            done = True
        finally:
            if not done:
                member.wish = before
                for name in joined:
                    member.leave(name)
        old = member.addresses()
        for name in [n for n in member.joined if n not in wanted]:
            member.leave(name)
        member.be_named()
        member.route()
        if member.door_changed():
            member.withdraw()
            self._publish(member, None)
        member.write_files(fresh=False, old=old)
        member.write_lease()

    def _forget(self, name: str) -> None:
        """Take a network down. Raises Conflict while a container is on it."""
        holders = [m.name for m in self.members.values() if name in m.joined]
        if holders:
            raise Conflict(f"network {name} is in use by container {', '.join(holders)}",
                           hint=f"rootless network disconnect {name} {holders[0]}")
        gateway = self.gateways.pop(name, None)
        if gateway is not None:
            gateway.close()

    def _rules(self, name: str) -> None:
        """A network's rules have changed on disk."""
        gateway = self.gateways.get(name)
        if gateway is not None and gateway.uplink is not None:
            gateway.network = networks.load(self.paths, name)
            gateway.uplink.set_rules(gateway.network.egress, deny=gateway.network.deny)

    def _log(self, name: str, since: int) -> Request:
        """What was dialled out of a network, with the names of the containers that are there."""
        gateway = self.gateways.get(name)
        if gateway is None or gateway.uplink is None:
            return {"entries": []}
        owners = {address.show(a): m.name for m in self.members.values()
                  for a in m.addresses_on(name)}
        entries = gateway.uplink.log(since)
        for entry in entries:
            where = entry["from"].rpartition(":")[0].strip("[]") or entry["from"]
            entry["container"] = owners.get(where, "")
        return {"entries": entries}

    # -- parts of them -------------------------------------------------------------------------

    def _gateway(self, name: str, member: Member) -> Gateway:
        found = self.gateways.get(name)
        network = networks.load(self.paths, name)
        if found is not None and found.network.id != network.id:
            # Removed and made anew by the same name while we were not told.
            self._forget(name)
            found = None
        if found is None:
            found = Gateway(network, self.loop, self._answers(name), member.userns,
                            f"{self.path}.{network.id[:6]}", list(self.gateways.values()),
                            single=member.single)
            self.gateways[name] = found
        return found

    def _join(self, member: Member, name: str, before: Held | None) -> None:
        gateway = self._gateway(name, member)
        wanted = member.wish["networks"][name]
        had = before.networks.get(name, {}) if before is not None else {}
        mine = []
        for version, key in ((4, "ip"), (6, "ip6")):
            found = self._address(gateway, version, wanted[key], had.get(key, ""), member.id)
            if found is not None:
                mine.append(found)
        member.join(gateway, mine, wanted["mac"] or had.get("mac", ""))

    def _address(self, gateway: Gateway, version: int, wanted: str, had: str,
                 cid: str) -> bytes | None:
        """The address that was asked for, the one it had, or a free one. Raises Conflict."""
        network = gateway.network
        found = network.range_of(version)
        if wanted:
            raw = address.parse(wanted)
            if found is None or raw is None or not found.subnet.has(raw):
                subnets = " and ".join(str(r.subnet) for r in network.ranges)
                raise HostError(f"cannot use address {wanted}: it is not in network "
                                f"{network.name}, {subnets}")
            if raw == found.gateway:
                raise Conflict(f"cannot use address {wanted}: it is the gateway's of network "
                               f"{network.name}")
            holder = self._holder(network.name, wanted)
            if holder:
                raise Conflict(f"cannot use address {wanted}: container {holder} has it")
            return raw
        if had:
            raw = address.parse(had)
            if raw is not None and found is not None and found.subnet.has(raw) \
                    and not self._holder(network.name, had):
                return raw
        taken = {a for m in self.members.values() for a in m.addresses_on(network.name)}
        taken |= {a for h in self._living() for a in h.addresses_on(network.name)}
        chosen = gateway.pick(version, taken)
        if chosen is None and found is not None and (version == 4 or gateway.ipv6):
            raise Conflict(f"no address is free in network {network.name}: {found.pool}")
        return chosen

    def _living(self) -> list[Held]:
        """Leases of containers that have not come back yet; dead ones are forgotten."""
        for cid in [cid for cid, held in self.held.items() if not held.lives()]:
            del self.held[cid]
        return list(self.held.values())

    def _holder(self, network: str, text: str) -> str:
        """Name of the container that has an address; "" for none."""
        raw = address.parse(text) or b""
        for m in self.members.values():
            if raw in m.addresses_on(network):
                return m.name
        for h in self._living():
            if raw in h.addresses_on(network):
                return h.name
        return ""

    def _publish(self, member: Member, before: Held | None) -> None:
        """Publish what the container wants, on the network that its packets leave by."""
        wanted = [tuple(p) for p in member.wish["ports"]]
        had = list(before.ports) if before is not None else []
        for ip, host, last, port, proto in wanted:
            for where in [ip] if ip else member.everywhere():
                same = [p for p in had if p[0] == where and p[2] == port and p[3] == proto]
                choices = range(host, last + 1)
                if same:
                    had.remove(same[0])
                    choices = range(same[0][1], same[0][1] + 1)
                self._publish_one(member, where, choices, port, proto)

    def _publish_one(self, member: Member, ip: str, choices: range, port: int,
                     proto: str) -> None:
        for host in choices:
            holder = self._port_holder(member, ip, host, proto) if host else ""
            try:
                if holder:
                    raise Conflict(f"cannot publish port {host}/{proto}: container {holder} "
                                   "has it", hint="another host port; rootless ps shows all")
                member.publish(ip, host, port, proto)
                return
            except Conflict:
                if host == choices[-1]:
                    raise

    def _port_holder(self, member: Member, ip: str, port: int, proto: str) -> str:
        """Name of the container that has a port of the machine; `member` is about to."""
        for name, ports in [*((m.name, m.ports) for m in (member, *self.members.values())),
                            *((h.name, h.ports) for h in self._living())]:
            for other, number, _, kind in ports:
                overlap = ip == other or ((":" in ip) == (":" in other)
                                          and {ip, other} & {"0.0.0.0", "::"})
                if number == port and kind == proto and overlap:
                    return name
        return ""

    # -- names ---------------------------------------------------------------------------------

    def _answers(self, name: str) -> resolver.Answers:
        def find(who: bytes, asked: str) -> list[bytes] | None:
            member = self._who(name, who)
            if member is None:
                return None
            if asked in resolver.HOST_NAMES and member.door is not None:
                return member.host_addresses()
            asked = member.wish["links"].get(asked, asked)
            near = self._neighbours(member)
            found = [a for m, net in near if asked in m.names_on(net)
                     for a in m.addresses_on(net)]
            if not found:
                return None
            # Each of several has its turn to be the first.
            self.turns += 1
            turn = self.turns % len(found)
            return found[turn:] + found[:turn]

        def name_of(who: bytes, asked: bytes) -> str | None:
            member = self._who(name, who)
            if member is None:
                return None
            for m, net in self._neighbours(member):
                if asked in m.addresses_on(net):
                    return f"{m.name}.{net}"
            for net in member.joined:
                ranges = self.gateways[net].network.ranges
                if any(r.subnet.has(asked) for r in ranges):
                    return ""
            return None

        def servers(who: bytes) -> list[str]:
            member = self._who(name, who)
            if member is None or member.door is None:
                return []
            return list(member.wish["dns"]) or [uplink.DNS4]

        return resolver.Answers(find, name_of, servers)

    def _who(self, network: str, source: bytes) -> Member | None:
        return next((m for m in self.members.values() if source in m.addresses_on(network)), None)

    def _neighbours(self, member: Member) -> list[tuple[Member, str]]:
        """(container, network) of all that share one with it, itself included."""
        return [(m, net) for net in member.joined for m in self.members.values()
                if net in m.joined]


