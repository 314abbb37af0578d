"""Networks on a stock Debian: its bridge, veth and tun are modules that nobody has loaded."""

from __future__ import annotations

import socket
import time

from tests.integration.support.cli import Cli

SERVE = """
import socket
with socket.create_server(("0.0.0.0", 80)) as server:
    while True:
        peer, who = server.accept()
        with peer:
            peer.sendall(who[0].encode())
"""
ASK = "import socket; print(socket.create_connection(('server', 80), 60).recv(100).decode())"


def test_containers_reach_each_other_by_name_and_a_published_port_shows_its_client(
        cli: Cli) -> None:
    cli.ok("network", "create", "--subnet", "10.99.0.0/24", "net")
    cli.ok("run", "-d", "--name", "server", "--network", "net", "-p", "8080:80", "host", "python3",
           "-c", SERVE)
    try:
        told = cli.ok("run", "--rm", "--network", "net", "--ip", "10.99.0.50", "host", "python3",
                      "-c", ASK)
        assert told.text == "10.99.0.50"
        end = time.monotonic() + 60
        while True:
            with socket.create_connection(("127.0.0.1", 8080), 60) as client:
                if client.recv(100) == b"169.254.1.3":
                    break
            assert time.monotonic() < end
    finally:
        cli.ok("rm", "-f", "server")
        cli.ok("network", "rm", "net")
