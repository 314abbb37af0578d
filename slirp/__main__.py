"""rootless-slirp: slirp4netns's command line, served by this package.

    rootless-slirp [-c] [-m MTU] [-6] [-a SOCKET] [-r FD] [-e FD] ... PID|PATH TAPNAME
"""

from __future__ import annotations

import argparse
import fcntl
import os
import socket
import struct
import sys

from slirp import api, enter, process, rate
from slirp.device import Device
from slirp.forward import Forwards
from slirp.link import SIZE, Link
from slirp.loop import Loop
from slirp.options import Options, SlirpError
from slirp.reach import Network, pack, show
from slirp.stack import Stack

VERSION = "0.1.0"

# As in slirp4netns: the host, the resolver and the guest within the network.
_HOST, _DNS, _GUEST = 2, 3, 100
_NETWORK6 = "fd00::"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="rootless-slirp", add_help=False, usage="%(prog)s [OPTION]... PID|PATH [TAPNAME]",
        description="User-mode networking for unprivileged network namespaces.")
    add = made.add_argument
    add("-c", "--configure", action="store_true", help="bring up the interface")
    add("-e", "--exit-fd", type=int, default=-1, metavar="FD",
        help="end when the other side of this descriptor is closed")
    add("-r", "--ready-fd", type=int, default=-1, metavar="FD",
        help="write to this descriptor when the network is there")
    add("-m", "--mtu", type=int, default=1500, help="MTU (default=1500, max=65521)")
    add("-6", "--enable-ipv6", action="store_true", help="enable IPv6")
    add("-a", "--api-socket", metavar="PATH", help="path of the API socket")
    add("--cidr", default="10.0.2.0/24", metavar="CIDR",
        help="the network's addresses (default=10.0.2.0/24)")
    add("--disable-host-loopback", action="store_true",
        help="prohibit connecting to 127.0.0.1:* of the host")
    add("--netns-type", choices=("path", "pid"), default="pid", metavar="TYPE",
        help="how the network namespace is named: path, pid (default)")
    add("--userns-path", metavar="PATH", help="the user namespace to enter first")
    add("--enable-sandbox", action="store_true", help="(always: no files but /etc and /run)")
    add("--enable-seccomp", action="store_true", help="(always: no system calls but a network's)")
    add("--outbound-addr", metavar="IPv4", help="source address, or the interface that has it")
    add("--outbound-addr6", metavar="IPv6", help="source address for IPv6")
    add("--disable-dns", action="store_true", help="no resolver at the network's third address")
    add("--macaddress", metavar="MAC", help="MAC address of the TAP (only with -c)")
    add("--target-type", choices=("netns",), default="netns", metavar="TYPE",
        help="what the target is: netns")
    add("--rule", action="append", default=[], metavar="LINE",
        help="what may be dialled: 'allow|deny DESTINATION [PORTS] [PROTOCOL]', in order")
    add("--default-deny", action="store_true", help="nothing may be dialled but by a --rule")
    add("--rate-up", metavar="RATE", help="limit of what leaves, as 500k, 10M, 1G bit/s")
    add("--rate-down", metavar="RATE", help="limit of what comes in")
    add("-h", "--help", action="help", help="show this help and exit")
    add("-v", "--version", action="version", version=f"rootless-slirp {VERSION}")
    add("target", metavar="PID|PATH")
    add("tapname", metavar="TAPNAME", nargs="?")
    return made


def addresses(cidr: str) -> tuple[int, int]:
    """The network's first address and the length of its prefix. Raises SlirpError."""
    network = Network(cidr)
    bits = 32 - network.shift
    if network.size != 4 or not 1 <= bits <= 25:
        raise SlirpError(f"--cidr {cidr}: must be an IPv4 network of prefix length 1 to 25")
    return network.first << network.shift, bits


def outbound(text: str | None) -> str | None:
    """An IPv4 address, or that of an interface. Raises SlirpError."""
    if text is None:
        return None
    try:
        return show(pack(text))
    except SlirpError:
        pass
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            found = fcntl.ioctl(one, enter.SIOCGIFADDR, struct.pack("16s24x", text.encode()[:15]))
    except OSError:
        raise SlirpError(f"--outbound-addr {text}: neither an IPv4 address nor an interface "
                         "that has one") from None
    return show(found[20:24])


def mac_address(text: str | None) -> bytes | None:
    """Raises SlirpError."""
    if text is None:
        return None
    try:
        packed = bytes(int(part, 16) for part in text.split(":"))
    except ValueError:
        packed = b""
    if len(packed) != 6 or packed[0] & 1:
        raise SlirpError(f"--macaddress {text}: must be six bytes as 52:54:00:12:34:56")
    return packed


def namespaces(given: argparse.Namespace) -> tuple[str, str | None]:
    """Paths of the network namespace and, where it has to be entered, the user namespace.
    Raises SlirpError."""
    if given.netns_type == "path":
        return given.target, given.userns_path
    if not given.target.isdigit():
        raise SlirpError(f"PID {given.target}: must be a number (or: --netns-type=path)")
    return f"/proc/{given.target}/ns/net", given.userns_path or f"/proc/{given.target}/ns/user"


def serve(given: argparse.Namespace) -> None:
    """Raises SlirpError, OSError."""
    if not given.tapname:
        raise SlirpError("the name of the TAP is missing")
    if given.macaddress and not given.configure:
        raise SlirpError("--macaddress is only possible with -c")
    first, bits = addresses(given.cidr)
    host, dns, guest = (show((first + n).to_bytes(4, "big")) for n in (_HOST, _DNS, _GUEST))
    host6, dns6, guest6 = ((f"{_NETWORK6}{n}" if given.enable_ipv6 else None)
                           for n in (_HOST, _DNS, _GUEST))
    options = Options(
        mtu=given.mtu, ipv6=given.enable_ipv6, gateway4=host, gateway6=host6,
        loopback4=None if given.disable_host_loopback else host,
        loopback6=None if given.disable_host_loopback else host6,
        dns4=None if given.disable_dns else dns, dns6=None if given.disable_dns else dns6,
        inside=[given.cidr] + ([f"{_NETWORK6}/64"] if given.enable_ipv6 else []),
        outbound4=outbound(given.outbound_addr), outbound6=given.outbound_addr6,
        rules=given.rule, deny=given.default_deny,
        rate_up=rate.bits(given.rate_up) if given.rate_up else None,
        rate_down=rate.bits(given.rate_down) if given.rate_down else None)
    process.check(options)
    configuration = enter.Configuration(
        mtu=given.mtu, address4=guest, prefix4=bits, gateway4=host, address6=guest6,
        gateway6=host6) if given.configure else None
    netns, userns = namespaces(given)
    mac = mac_address(given.macaddress)
    listener = api.listen(given.api_socket) if given.api_socket else None
    fd, theirs = enter.tap(given.tapname, netns, userns, configuration, mac)
    loop, device = Loop(), Device(fd, link=SIZE)
    process.prepare(options)
    stack = Stack(loop, device, options)
    stack.link = Link(theirs, stack.reach.ours)
    if listener is not None:
        api.Api(stack, Forwards(stack), listener, guest4=guest, guest6=guest6)
    process.serve(loop, device, stack, ready=given.ready_fd, until=given.exit_fd)


def main() -> None:
    given = parser().parse_args()
    try:
        serve(given)
    except SlirpError as error:
        sys.exit(f"rootless-slirp: {error}")
    except OSError as error:
        about = f"{error.filename}: " if error.filename else ""
        sys.exit(f"rootless-slirp: {about}{error.strerror or os.strerror(error.errno or 0)}")


if __name__ == "__main__":
    main()
