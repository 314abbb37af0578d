"""Who has a port is found, and other users' processes are told by their owner."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from rootless.network import holders


def test_a_process_of_ours_is_found() -> None:
    comm = Path("/proc/self/comm").read_text().strip()
    for family, kind, proto in ((socket.AF_INET, socket.SOCK_STREAM, "tcp"),
                                (socket.AF_INET6, socket.SOCK_STREAM, "tcp"),
                                (socket.AF_INET, socket.SOCK_DGRAM, "udp")):
        with socket.socket(family, kind) as sock:
            sock.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
            if kind == socket.SOCK_STREAM:
                sock.listen()
            port = sock.getsockname()[1]
            assert holders.of_port(port, proto) == f"{comm} (process {os.getpid()})"
        assert holders.of_port(port, proto) != f"{comm} (process {os.getpid()})"


def test_of_another_user_the_owner_is_told(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
    line = "   0: 00000000:1F90 00000000:0000 {} 00000000:00000000 00:00000000 00000000 {} 0 77 1\n"
    (tmp_path / "net/tcp").write_text(head + line.format("0A", 0))
    assert holders.of_port(8080, "tcp", str(tmp_path)) == "a process of root"
    assert holders.of_port(8081, "tcp", str(tmp_path)) == ""
    (tmp_path / "net/tcp").write_text(head + line.format("01", 0))     # a connection, no listener
    assert holders.of_port(8080, "tcp", str(tmp_path)) == ""
    (tmp_path / "net/tcp").write_text(head + line.format("0A", 4294967290))
    assert holders.of_port(8080, "tcp", str(tmp_path)) == "a process of 4294967290"
