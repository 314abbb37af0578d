"""--network-rate: a container sends and receives no faster."""

from __future__ import annotations

import json
import re
import time

import pytest

from tests.integration.support.box import Box

SIZE = 750_000


@pytest.mark.parametrize("sender, receiver", [(("--network-rate=2mbit/0",), ()),
                                              ((), ("--network-rate=0/2mbit",))],
                         ids=["sent", "received"])
def test_bytes_take_their_time(box: Box, sender: tuple[str, ...],
                               receiver: tuple[str, ...]) -> None:
    """A quarter of a megabyte a second; some of it may be on its way at once."""
    serve = ("nc", "-ll", "-p", "80", "-e", "head", "-c", str(SIZE), "/dev/zero")
    with box.running(*sender, then=serve) as name:
        networks = box.cli.ok("inspect", "-f", "{{json .NetworkSettings.Networks}}", name).text
        address = json.loads(networks)["bridge"]["IPAddress"]
        begin = time.monotonic()
        assert box.sh(f"nc -w 20 {address} 80 </dev/null | wc -c", *receiver) == str(SIZE)
        assert time.monotonic() - begin > SIZE / 250_000 - 0.5


@pytest.mark.parametrize("network", ["none", "host"])
def test_without_a_device_of_its_own_there_is_no_rate(box: Box, network: str) -> None:
    box.refuses("--network", network, "--network-rate", "1mbit", says="no device of its own")


def test_it_holds_on_every_network_that_is_joined_later(box: Box) -> None:
    box.cli.ok("network", "create", "rated")
    try:
        with box.running("--network-rate", "1mbit/0") as name:
            box.cli.ok("network", "connect", "rated", name)
            assert box.cli.ok("inspect", "-f", "{{json .HostConfig.NetworkRate}}", name).json == \
                {"Up": 125_000, "Down": 0}
            told = box.cli.ok("exec", name, "ip", "link").text
            queues = dict(re.findall(r"(eth\d)\S*: .* qdisc (\w+)", told))
            assert queues == {"eth0": "tbf", "eth1": "tbf"}, told
    finally:
        box.cli.ok("network", "rm", "rated")
