"""The device through which the other kernel's packets come: a TUN, or a TAP for slirp4netns's way.

Both carry a virtio header before each packet (IFF_VNET_HDR), so that checksums of payloads are left
to the kernel and TCP segments of up to 64 KiB cross whole: one system call for 45 packets of
MTU 1500. A packet in `buffer` is

    virtio header 10 | Ethernet header 14, TAP only | IP header, at `base` | ...

Writing never blocks: the kernel takes a packet or drops it, as a wire does.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct

from slirp.wire import VNET

# <linux/if_tun.h>
_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_TUNSETVNETHDRSZ = 0x400454D8
_IFF_TUN, _IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x0002, 0x1000, 0x4000
_F_CSUM, _F_TSO4, _F_TSO6, _F_TSO_ECN = 0x01, 0x02, 0x04, 0x08
_F_USO = 0x20 | 0x40        # Linux 6.2

# <linux/sockios.h>
_SIOCGIFHWADDR = 0x8927

VNET_SIZE = VNET.size
LARGEST = 65535
# The device or its namespace is gone; while it is only down, reading gives EIO.
_GONE = (errno.EBADFD, errno.EFAULT, errno.ENODEV, errno.EBADF)


def open_tun(name: str = "tun0") -> int:
    """Make a TUN in this network namespace; needs CAP_NET_ADMIN there. Returns its descriptor,
    non-blocking. Linux 4.8 at least. Raises OSError with /dev/net/tun or the name."""
    return _open(name, _IFF_TUN)


def open_tap(name: str) -> tuple[int, bytes]:
    """The same for a TAP, with its MAC address: that of the kernel on the other side."""
    fd = _open(name, _IFF_TAP)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, _SIOCGIFHWADDR, struct.pack("16s24x", name.encode()))
    return fd, answer[18:24]


def _open(name: str, kind: int) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        request = struct.pack("16sH22x", name.encode(), kind | _IFF_NO_PI | _IFF_VNET_HDR)
        fcntl.ioctl(fd, _TUNSETIFF, request)
        fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("i", VNET_SIZE))
    except OSError as error:
        os.close(fd)
        raise OSError(error.errno, os.strerror(error.errno or 0), name) from None
    return fd


class Device:
    """`base` is where the IP header begins: 10 in a TUN's packets, 24 in a TAP's. `segments`: can
    datagrams cross in batches? `lost`: packets that the kernel did not take.

    Raises OSError where the descriptor is no such device.
    """

    def __init__(self, fd: int, *, link: int = 0) -> None:
        self.fd = fd
        self.base = VNET_SIZE + link
        self.buffer = bytearray(self.base + LARGEST + 1)
        self._into = (self.buffer,)
        self.lost = 0
        tcp = _F_CSUM | _F_TSO4 | _F_TSO6 | _F_TSO_ECN
        try:
            fcntl.ioctl(fd, _TUNSETOFFLOAD, tcp | _F_USO)
            self.segments = True
        except OSError:
            fcntl.ioctl(fd, _TUNSETOFFLOAD, tcp)
            self.segments = False

    def read(self) -> int:
        """The next packet into `buffer`; its length, 0 when there is none now, -1 when there will
        be none any more."""
        try:
            return os.readv(self.fd, self._into)
        except BlockingIOError:
            return 0
        except OSError as error:
            return -1 if error.errno in _GONE else 0

    def send(self, *parts: bytes | bytearray | memoryview) -> None:
        """One packet, virtio header first. Lost where the device is down or full."""
        try:
            os.writev(self.fd, parts)
        except OSError:
            self.lost += 1
