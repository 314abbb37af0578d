"""The control socket, in slirp4netns's language: one JSON request for each connection, one answer.

    {"execute": "add_hostfwd", "arguments": {"proto": "tcp", "host_addr": "0.0.0.0",
     "host_port": 8080, "guest_addr": "10.0.2.100", "guest_port": 80}}
                                              -> {"return": {"id": 1, "host_port": 8080}}
    {"execute": "list_hostfwd"}               -> {"return": {"entries": [...]}}
    {"execute": "remove_hostfwd", "arguments": {"id": 1}}           -> {"return": {}}

and in ours:

    {"execute": "set_inside", "arguments": {"subnets": ["10.89.0.0/24"]}}   -> {"return": {}}
    {"execute": "info"}                       -> {"return": {"tcp": 3, "udp": 1, "lost": 0}}
    {"execute": "set_rules", "arguments": {"rules": ["allow *.debian.org"], "default": "deny"}}
    {"execute": "set_rates", "arguments": {"up": 1000000, "down": null}}    bits per second
    {"execute": "learn", "arguments": {"name": "deb.debian.org", "addresses": ["192.0.2.80"],
     "ttl": 60}}                              -> {"return": {}}, of another resolver than ours
    {"execute": "log", "arguments": {"since": 0}}   -> {"return": {"entries": [...]}}, `journal.py`
    {"execute": "connections"}                -> {"return": {"entries": [...]}}, those open now

What fails answers {"error": {"desc": text}}, with "errno" where the kernel refused. A request is
taken when it is complete, whether or not the client has shut down its side.
"""

from __future__ import annotations

import errno
import json
import os
import socket

from slirp.journal import described
from slirp.loop import ERR, HUP, IN, OUT
from slirp.options import SlirpError
from slirp.rate import check
from slirp.reach import pack, show
from slirp.rules import Rules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from slirp.forward import Forward, Forwards
    from slirp.stack import Stack

_LONGEST = 65536
_CLIENTS = 32
_ENTRIES = 1000         # of one answer
_PATIENCE = 10.0
_PATH = 107             # of a socket's address, unix(7)


class Api:
    """Serves `listener`, a listening stream socket. `guest4` and `guest6` are whom a request means
    that names no guest_addr."""

    def __init__(self, stack: Stack, forwards: Forwards, listener: socket.socket, *,
                 guest4: str | None = None, guest6: str | None = None) -> None:
        self.stack = stack
        self.forwards = forwards
        self._listener = listener
        self._guests = {"4": guest4, "6": guest6}
        self._clients: set[_Client] = set()
        listener.setblocking(False)
        stack.loop.add(listener.fileno(), self._accept, IN)

    def _accept(self, _events: int) -> None:
        try:
            one, _ = self._listener.accept()
        except OSError:
            return
        if len(self._clients) >= _CLIENTS:
            one.close()
            return
        one.setblocking(False)
        self._clients.add(_Client(self, one))

    def forget(self, client: _Client) -> None:
        if client in self._clients:
            self._clients.discard(client)
            self.stack.loop.close(client.socket)

    def answer(self, request: object) -> dict[str, Any]:
        """What a request returns."""
        try:
            if not isinstance(request, dict) or not isinstance(request.get("execute"), str):
                raise SlirpError("a request is an object with the text `execute`")
            arguments = request.get("arguments") or {}
            if not isinstance(arguments, dict):
                raise SlirpError("`arguments` is an object")
            name = request["execute"]
            command = _COMMANDS.get(name)
            if command is None:
                raise SlirpError(f"no such command: {name}")
            return {"return": command(self, arguments)}
        except SlirpError as error:
            return {"error": {"desc": f"bad request: {error}"}}
        except OSError as error:
            return {"error": {"desc": f"cannot publish: {error.filename}: {error.strerror}",
                              "errno": error.errno}}

    # ---- commands -------------------------------------------------------------------------------

    def add_hostfwd(self, given: dict[str, Any]) -> dict[str, Any]:
        proto = _text(given, "proto", None)
        version = proto[3:] or ("6" if ":" in str(given.get("host_addr")) else "4")
        if version not in self._guests:
            raise SlirpError(f"protocol {proto}: must be tcp or udp")
        host = _text(given, "host_addr", "0.0.0.0" if version == "4" else "::")
        guest = _text(given, "guest_addr", self._guests[version])
        if (":" in host) != (version == "6"):
            raise SlirpError(f"host_addr {host}: is not an IPv{version} address")
        number = self.forwards.add(proto[:3], (host, _number(given, "host_port")),
                                   (guest, _number(given, "guest_port")))
        return {"id": number, "host_port": self.forwards.table[number].host[1]}

    def list_hostfwd(self, _given: dict[str, Any]) -> dict[str, Any]:
        return {"entries": [_described(number, one)
                            for number, one in self.forwards.table.items()]}

    def remove_hostfwd(self, given: dict[str, Any]) -> dict[str, Any]:
        self.forwards.remove(_number(given, "id"))
        return {}

    def set_inside(self, given: dict[str, Any]) -> dict[str, Any]:
        subnets = given.get("subnets")
        if not isinstance(subnets, list) or not all(isinstance(s, str) for s in subnets):
            raise SlirpError("`subnets` is a list of networks")
        self.stack.reach.set_inside(subnets)
        return {}

    def set_rules(self, given: dict[str, Any]) -> dict[str, Any]:
        lines, default = given.get("rules"), given.get("default", "allow")
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise SlirpError("`rules` is a list of lines")
        if default not in ("allow", "deny"):
            raise SlirpError("`default` is allow or deny")
        self.stack.set_rules(Rules(lines, allow=default == "allow"))
        return {}

    def set_rates(self, given: dict[str, Any]) -> dict[str, Any]:
        up, down = (check(_number(given, name)) if given.get(name) is not None else None
                    for name in ("up", "down"))
        self.stack.set_rates(up, down)
        return {}

    def learn(self, given: dict[str, Any]) -> dict[str, Any]:
        addresses = given.get("addresses")
        if not isinstance(addresses, list) or not all(isinstance(a, str) for a in addresses):
            raise SlirpError("`addresses` is a list of addresses")
        self.stack.learned.add(_text(given, "name", None).lower().rstrip("."),
                               [(pack(address), _number(given, "ttl")) for address in addresses])
        return {}

    def log(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"entries": self.stack.journal.since(_number({"since": 0, **given}, "since"))}

    def connections(self, _given: dict[str, Any]) -> dict[str, Any]:
        now = self.stack.loop.now
        found: list[dict[str, Any]] = []
        for one in self.stack.tcp.table.values():
            if one.began and len(found) < _ENTRIES:
                source, destination, sent, received, seconds = one.account(now)
                names = self.stack.learned.names(destination[0])
                found.append(described("tcp", source, destination, names[-1] if names else "",
                                       sent, received, seconds))
        for flow in self.stack.udp.table.values():
            if len(found) < _ENTRIES:
                names = self.stack.learned.names(flow.remote[0])
                found.append(described("udp", flow.peer, flow.remote, names[-1] if names else "",
                                       flow.sent, flow.received, now - flow.began))
        return {"entries": found}

    def info(self, _given: dict[str, Any]) -> dict[str, Any]:
        return {"tcp": len(self.stack.tcp.table),
                "udp": len(self.stack.udp.table) + len(self.stack.udp.inbound),
                "lost": self.stack.device.lost}


_COMMANDS = {command.__name__: command for command in (
    Api.add_hostfwd, Api.list_hostfwd, Api.remove_hostfwd, Api.set_inside, Api.set_rules,
    Api.set_rates, Api.info, Api.learn, Api.log, Api.connections)}


class _Client:
    """One connection: a request comes, an answer goes, it is closed."""

    def __init__(self, api: Api, one: socket.socket) -> None:
        self.api = api
        self.socket = one
        self._got = b""
        self._answer = b""
        loop = api.stack.loop
        loop.add(one.fileno(), self.event, IN)
        loop.at(loop.now + _PATIENCE, lambda: api.forget(self))

    def event(self, events: int) -> None:
        """The loop's handler of the socket."""
        if self._answer:
            self._send()
            return
        if not events & (IN | HUP | ERR):
            return
        try:
            data = self.socket.recv(_LONGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._got += data
        try:
            request = json.loads(self._got)
        except ValueError:              # UnicodeDecodeError is one
            if data and len(self._got) < _LONGEST:
                return                  # the rest is on its way
            request = None
        except RecursionError:
            request = None
        if not self._got:
            self.api.forget(self)
            return
        self._answer = json.dumps(self.api.answer(request)).encode() + b"\n"
        self._send()

    def _send(self) -> None:
        try:
            self._answer = self._answer[self.socket.send(self._answer):]
        except BlockingIOError:
            pass
        except OSError:
            self._answer = b""
        if self._answer:
            self.api.stack.loop.change(self.socket.fileno(), OUT)
        else:
            self.api.forget(self)


def _text(given: dict[str, Any], name: str, default: str | None) -> str:
    value = given.get(name) or default      # podman sends "" for what it leaves to us
    if not isinstance(value, str):
        raise SlirpError(f"`{name}` is missing" if value is None else f"`{name}` is a text")
    return value


def _number(given: dict[str, Any], name: str) -> int:
    value = given.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise SlirpError(f"`{name}` is missing" if value is None else f"`{name}` is a number")
    return value


def _described(number: int, one: Forward) -> dict[str, Any]:
    return {"id": number, "proto": one.name, "host_addr": show(one.host[0]),
            "host_port": one.host[1], "guest_addr": show(one.guest[0]),
            "guest_port": one.guest[1]}


def listen(path: str) -> socket.socket:
    """A control socket at a path; one that nobody serves any more is replaced. Raises OSError."""
    if len(os.fsencode(path)) > _PATH:
        raise OSError(errno.ENAMETOOLONG, f"more than {_PATH} bytes", path)
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            one.bind(path)
        except OSError:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
                if other.connect_ex(path) != errno.ECONNREFUSED:
                    raise
            os.unlink(path)
            one.bind(path)
        one.listen(_CLIENTS)
    except OSError as error:
        one.close()
        raise OSError(error.errno, os.strerror(error.errno or 0), path) from None
    return one
