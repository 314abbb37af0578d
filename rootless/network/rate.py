"""How fast a container may send and receive: a token bucket at each end of its device.

    container's eth0 ── veth ── the bridge's port
    holds what it sends        holds what it receives

tc-tbf(8): a queue that lets out so many bytes a second, and a burst of some at once. That of the
port is out of the container's reach; that of eth0 can be taken away by who has NET_ADMIN inside,
which containers are not given.
"""

from __future__ import annotations

import errno

from rootless.errors import UsageError
from rootless.linux import netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.linux.netlink import Message

# Bits in each unit, as tc(8) has them.
UNITS = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
LEAST = 8000            # bits a second: one packet in a second and a half
MOST = 10**12
BURST_SECONDS = 0.02
QUEUE_SECONDS = 0.2     # a packet that would wait longer is dropped


def parse(text: str) -> tuple[int, int]:
    """`UP[/DOWN]` as `10mbit/50mbit`, in bytes a second; one counts both ways, 0 is any.

    Raises UsageError.
    """
    up, slash, down = text.partition("/")
    return _one(text, up), _one(text, down if slash else up)


def _one(text: str, word: str) -> int:
    number = word.lower().rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = word.lower()[len(number):]
    if word == "0":
        return 0
    whole, _, part = number.partition(".")
    if unit in UNITS and whole.isdecimal() and (not part or part.isdecimal()) and len(number) < 20:
        bits = int(float(number) * UNITS[unit])
        if LEAST <= bits <= MOST:
            return bits // 8
    raise UsageError(f"invalid argument for --network-rate: {text}",
                     hint="--network-rate UP[/DOWN], each as 10mbit: 8kbit to 1000gbit, 0 for any")


def limit(index: int, rate: int, mtu: int) -> list[Message]:
    """What holds a device to `rate` bytes a second in what it sends."""
    if not rate:
        return []
    # A burst must hold a whole packet, with its Ethernet header.
    burst = max(int(rate * BURST_SECONDS), mtu + 18)
    return [netlink.new_tbf(index, rate, burst, burst + int(rate * QUEUE_SECONDS))]


def hint(error: OSError) -> str | None:
    """The kernel's part may be a module that nobody has loaded; users cannot."""
    if error.errno == errno.ENOENT and str(error.filename).startswith("qdisc add"):
        return "ask the administrator to run: modprobe sch_tbf"
    return None
