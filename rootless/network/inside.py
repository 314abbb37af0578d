"""What must be done within a namespace is done by a short-lived child, which hands back sockets.

The keeper itself never leaves the machine's namespaces and holds no capability: it acts on
networks through sockets that were made in them (see `rootless.linux.netlink`).
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os

from rootless import linux
from rootless.errors import HostError, os_reason
from rootless.linux import netlink
from rootless.network import client
from rootless.record import record
from rootless.userns import keeper as userns_keeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

TUN = "tun0"

# Below /proc/sys/net. A host may have no IPv6.
_ALWAYS = (
    ("ipv4/ip_unprivileged_port_start", "0"),
    ("ipv4/conf/all/rp_filter", "0"),
    # What comes in by the bridge must have an address of its subnet.
    ("ipv4/conf/default/rp_filter", "1"),
    ("ipv4/conf/all/accept_redirects", "0"), ("ipv4/conf/default/accept_redirects", "0"),
    ("ipv4/conf/all/send_redirects", "0"), ("ipv4/conf/default/send_redirects", "0"),
    ("ipv6/conf/all/accept_ra", "0"), ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/all/accept_redirects", "0"), ("ipv6/conf/default/accept_redirects", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
)
_WITH_UPLINK = (
    ("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1"),
    # The whole world comes in by it.
    (f"ipv4/conf/{TUN}/rp_filter", "0"),
    (f"ipv6/conf/{TUN}/addr_gen_mode", "1"),
)


@record(frozen=True)
class Made:
    """A new network namespace and what was made in it. `device`: its TUN device, or -1.
    `ipv6`: the machine has it."""

    namespace: int
    netlink: int
    device: int
    datagrams: tuple[int, ...]
    streams: tuple[int, ...]
    ipv6: bool


def make(userns: int, *, single: bool, uplink: bool) -> Made:
    """A network namespace that belongs to a user namespace. Raises HostError."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX,
                                      _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    child = os.fork()
    if child == 0:
        try:
            _make(theirs, userns, single=single, uplink=uplink)
        finally:
            os._exit(1)
    theirs.close()
    try:
        answer, fds = client.receive(ours)
    finally:
        ours.close()
        os.waitpid(child, 0)
    if answer is None:
        raise HostError("cannot make a network: the process that makes it was killed")
    if "error" in answer:
        _, text, hint = answer["error"]
        raise HostError(text, hint=hint)
    device = fds.pop() if uplink else -1
    sockets = fds[2:]
    half = len(sockets) // 2
    return Made(fds[0], fds[1], device, tuple(sockets[:half]), tuple(sockets[half:]), half == 2)


def sockets(namespace: int, family: int, kind: int, count: int) -> list[int]:
    """Sockets that act in a network namespace. Raises HostError."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX,
                                      _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    child = os.fork()
    if child == 0:
        try:
            linux.setns(fcntl.ioctl(namespace, linux.NS_GET_USERNS), linux.CLONE_NEWUSER)
            linux.setns(namespace, linux.CLONE_NEWNET)
            client.send(theirs, {}, [_socket.socket(family, kind | _socket.SOCK_CLOEXEC).detach()
                                     for _ in range(count)])
        except OSError as e:
            client.send(theirs, client.failure(HostError(os_reason(e))))
        finally:
            os._exit(0)
    theirs.close()
    try:
        answer, fds = client.receive(ours)
    finally:
        ours.close()
        os.waitpid(child, 0)
    if answer is None or "error" in answer:
        raise HostError("cannot make sockets in a network: "
                        + (answer["error"][1] if answer else "their maker was killed"))
    return fds


def _make(answers: _socket.socket, userns: int, *, single: bool, uplink: bool) -> NoReturn:
    try:
        linux.setns(userns, linux.CLONE_NEWUSER)
        userns_keeper.become_root(single=single)
        linux.unshare(linux.CLONE_NEWNET)
        device = [_open_tun()] if uplink else []
        for name, value in (*_ALWAYS, *(_WITH_UPLINK if uplink else ())):
            _sysctl(name, value)
        fds = [os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC),
               netlink.open_socket()]
        families = [_socket.AF_INET]
        if os.path.exists("/proc/sys/net/ipv6"):
            families.append(_socket.AF_INET6)
        for kind in (_socket.SOCK_DGRAM, _socket.SOCK_STREAM):
            for family in families:
                sock = _socket.socket(family, kind | _socket.SOCK_CLOEXEC)
                if family == _socket.AF_INET6:
                    sock.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 1)
                fds.append(sock.detach())
        client.send(answers, {}, [*fds, *device])
    except OSError as e:
        client.send(answers, client.failure(HostError(
            f"cannot make a network: {os.fsdecode(e.filename) if e.filename else 'namespace'}: "
            f"{os_reason(e)}", hint="rootless doctor tells what this machine allows")))
    except HostError as e:
        client.send(answers, client.failure(e))
    os._exit(0)


def _open_tun() -> int:
    from slirp import device

    try:
        return device.open_tun(TUN)
    except OSError as e:
        hint = "--network none, or ask the administrator to run: modprobe tun"
        if e.errno in (errno.EACCES, errno.EPERM):
            hint = "--network none, or ask the administrator to run: chmod 666 /dev/net/tun"
        raise HostError(f"cannot connect containers to the network: /dev/net/tun: "
                        f"{os_reason(e)}", hint=hint) from None


def _sysctl(name: str, value: str) -> None:
    try:
        fd = os.open(f"/proc/sys/net/{name}", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        if name.startswith("ipv6/"):
            return
        raise
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)
