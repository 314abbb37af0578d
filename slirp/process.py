"""The process of a network: what it keeps, and its life from the first packet to the last."""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket

from slirp import sandbox
from slirp.api import Api
from slirp.device import Device
from slirp.forward import Forwards
from slirp.loop import IN, Loop
from slirp.options import Options, SlirpError
from slirp.rate import check as check_rate
from slirp.reach import Reach
from slirp.rules import Rules
from slirp.stack import Stack

# Descriptors beside those of flows: device, epoll, listeners, control.
_OTHERS = 256


def close_others(keep: set[int]) -> None:
    """Close every descriptor that was inherited and is not in `keep`."""
    low = 0
    for fd in sorted(keep):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, 1 << 20)


def open_files(wanted: int) -> int:
    """Lift the soft limit of descriptors to `wanted`; how many there may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        soft = limit
    return wanted if soft == resource.RLIM_INFINITY else min(soft, wanted)


def check(options: Options) -> None:
    """Raises SlirpError for options that make no network."""
    if not 1280 <= options.mtu <= 65521:
        raise SlirpError(f"MTU {options.mtu}: must be from 1280 to 65521")
    if options.flows < 1:
        raise SlirpError(f"{options.flows} flows: must be one at least")
    for rate in (options.rate_up, options.rate_down):
        if rate is not None:
            check_rate(rate)
    Reach(options)
    Rules(options.rules)


def prepare(options: Options) -> None:
    """As many descriptors as the flows take, or as many flows as there are descriptors."""
    files = open_files(2 * options.flows + _OTHERS)
    options.flows = min(options.flows, max(16, (files - _OTHERS) // 2))


def serve(loop: Loop, device: Device, stack: Stack, *, ready: int = -1, until: int = -1) -> None:
    """Until SIGTERM or SIGINT, the end of `until`, or the device's."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.stop())
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)      # whatever the one before us made of it
    loop.add(reader, lambda _: loop.stop())
    if until >= 0:
        loop.add(until, lambda _: loop.stop())
    loop.add(device.fd, stack.ready, IN)
    sandbox.enter()
    if ready >= 0:
        os.write(ready, b"1")
        os.close(ready)
    # Flows make no cycles; a collection is to be rare, and not to look at what was here before.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 10, 10)
    loop.run()


def run(options: Options, *, device: int, control: int = -1, ready: int = -1,
        until: int = -1) -> None:
    """Serve `device`, a descriptor of `open_tun`; to be called in a child that is in the host's
    network namespace, and that ends afterwards.

    It returns after SIGTERM, or when the other end of `until`, a pipe or socket, is closed: the
    device's descriptor keeps the namespace alive, so its end comes from nowhere else. Every other
    descriptor is closed, standard error excepted. `ready` gets a byte when packets are served.
    `control` is a listening stream socket, for `api.py`. Raises SlirpError, OSError.
    """
    check(options)
    close_others({fd for fd in (2, device, control, ready, until) if fd >= 0})
    prepare(options)
    loop = Loop()
    machine = Device(device)
    stack = Stack(loop, machine, options)
    if control >= 0:
        Api(stack, Forwards(stack), socket.socket(fileno=control))
    serve(loop, machine, stack, ready=ready, until=until)
