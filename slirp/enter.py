"""Going into another network namespace, in a child, and bringing a device out of it.

The process that serves stays in the host's namespace. Its child joins the other one (and the user
namespace that has power over it), makes the device there, configures it where that was asked for,
and passes the descriptor back. Configuration is by ioctls as old as the addresses, so nothing has
to be installed inside.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct

from slirp import linux
from slirp.device import open_tap
from slirp.options import SlirpError
from slirp.reach import pack

# <linux/sockios.h>, <linux/if.h>, <linux/route.h>, <linux/ipv6.h>, <linux/ipv6_route.h>
_SIOCADDRT, _SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFADDR = 0x890B, 0x8913, 0x8914, 0x8916
_SIOCSIFNETMASK, _SIOCSIFMTU, _SIOCSIFHWADDR, _SIOCGIFINDEX = 0x891C, 0x8922, 0x8924, 0x8933
SIOCGIFADDR = 0x8915
_IFF_UP, _ARPHRD_ETHER = 1, 1
_RTF_UP, _RTF_GATEWAY = 1, 2
_SOCKADDR = struct.Struct("=H2x4s8x")                       # struct sockaddr_in, without a port
_RTENTRY = struct.Struct("@L16s16s16sHhLPhPLLH")            # struct rtentry
_IN6_RTMSG = struct.Struct("@16s16s16sIHHILIi")             # struct in6_rtmsg
_IN6_IFREQ = struct.Struct("=16sIi")                        # struct in6_ifreq


class Configuration:
    """Of the device inside: addresses as text, `prefix4` the length of the network's."""

    def __init__(self, *, mtu: int, address4: str, prefix4: int, gateway4: str,
                 address6: str | None = None, gateway6: str | None = None) -> None:
        self.mtu = mtu
        self.address4 = address4
        self.prefix4 = prefix4
        self.gateway4 = gateway4
        self.address6 = address6
        self.gateway6 = gateway6


def tap(name: str, netns: str, userns: str | None, configuration: Configuration | None,
        mac: bytes | None) -> tuple[int, bytes]:
    """A TAP in the network namespace at a path: its descriptor here, and its MAC address.

    `userns` is the path of the user namespace to become root of first, None: we have the power
    already. Raises SlirpError with what failed.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        message, fds = b"", []
        try:
            ours.close()
            fd, address = _inside(name, netns, userns, configuration, mac)
            message, fds = b"+" + address, [fd]
        except OSError as error:
            about = f"{error.filename}: " if error.filename else ""
            message = f"-{about}{error.strerror or error}".encode()
        finally:
            try:
                socket.send_fds(theirs, [message or b"-the child failed"], fds)
            finally:
                os._exit(0)
    theirs.close()
    with ours:
        message, fds, _, _ = socket.recv_fds(ours, 4096, 1)
    os.waitpid(child, 0)
    if not message.startswith(b"+"):
        raise SlirpError(f"cannot make {name}: {message[1:].decode() or 'the child was killed'}")
    return fds[0], message[1:]


def _inside(name: str, netns: str, userns: str | None, configuration: Configuration | None,
            mac: bytes | None) -> tuple[int, bytes]:
    net = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    if userns is not None:
        user = os.open(userns, os.O_RDONLY | os.O_CLOEXEC)
        if os.fstat(user).st_ino != os.stat("/proc/self/ns/user").st_ino:
            _join(user, linux.CLONE_NEWUSER, userns)
    _join(net, linux.CLONE_NEWNET, netns)
    fd, address = open_tap(name)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        if mac is not None:
            fcntl.ioctl(one, _SIOCSIFHWADDR, struct.pack("=16sH6s8x", name.encode(), _ARPHRD_ETHER,
                                                         mac))
            address = mac
        if configuration is not None:
            _configure(one, name, configuration)
    return fd, address


def _join(fd: int, kind: int, path: str) -> None:
    try:
        linux.setns(fd, kind)
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), path) from None


def _configure(one: socket.socket, name: str, wanted: Configuration) -> None:
    device = name.encode()

    def address(command: int, packed: bytes) -> None:
        fcntl.ioctl(one, command, struct.pack("16s16s8x", device,
                                              _SOCKADDR.pack(socket.AF_INET, packed)))

    _raise(one, b"lo")
    fcntl.ioctl(one, _SIOCSIFMTU, struct.pack("=16si20x", device, wanted.mtu))
    if wanted.address6:
        _no_duplicates(name)
    _raise(one, device)
    address(_SIOCSIFADDR, pack(wanted.address4))
    mask = (0xFFFFFFFF << (32 - wanted.prefix4)) & 0xFFFFFFFF
    address(_SIOCSIFNETMASK, mask.to_bytes(4, "big"))
    anywhere = _SOCKADDR.pack(socket.AF_INET, bytes(4))
    gateway = _SOCKADDR.pack(socket.AF_INET, pack(wanted.gateway4))
    fcntl.ioctl(one, _SIOCADDRT, _RTENTRY.pack(0, anywhere, gateway, anywhere,
                                               _RTF_UP | _RTF_GATEWAY, 0, 0, 0, 0, 0, 0, 0, 0))
    if wanted.address6 and wanted.gateway6:
        raw = fcntl.ioctl(one, _SIOCGIFINDEX, struct.pack("16s24x", device))
        index, = struct.unpack_from("=i", raw, 16)
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six:
            fcntl.ioctl(six, _SIOCSIFADDR, _IN6_IFREQ.pack(pack(wanted.address6), 64, index))
            fcntl.ioctl(six, _SIOCADDRT, _IN6_RTMSG.pack(
                bytes(16), bytes(16), pack(wanted.gateway6), 0, 0, 0, 1, 0,
                _RTF_UP | _RTF_GATEWAY, index))


def _raise(one: socket.socket, device: bytes) -> None:
    """Set the device up."""
    raw = fcntl.ioctl(one, _SIOCGIFFLAGS, struct.pack("16s24x", device))
    flags, = struct.unpack_from("=H", raw, 16)
    fcntl.ioctl(one, _SIOCSIFFLAGS, struct.pack("=16sH22x", device, flags | _IFF_UP))


def _no_duplicates(name: str) -> None:
    """An IPv6 address is to work at once, not after a second of looking for others that have it."""
    try:
        with open(f"/proc/sys/net/ipv6/conf/{name}/accept_dad", "w") as file:
            file.write("0")
    except OSError as error:
        # Read-only in some containers: then it takes that second.
        if error.errno not in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
