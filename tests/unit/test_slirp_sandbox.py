"""What a process may still do once it has entered the sandbox: tried in a child."""

from __future__ import annotations

import errno
import os
import pathlib
import socket
from collections.abc import Callable

import pytest

from slirp import linux, sandbox


def tried(action: Callable[[], object]) -> int:
    """The errno of the action in a child inside the sandbox; 0: it worked."""
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            sandbox.enter()
            try:
                action()
                code = 0
            except OSError as error:
                code = error.errno or 254
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def server() -> None:
    with socket.socket(socket.AF_INET) as one:
        one.bind(("127.0.0.1", 0))
        one.listen(1)
        with socket.socket(socket.AF_INET) as other:
            other.connect(one.getsockname())
            one.accept()[0].close()


def datagram() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one:
        one.bind(("::1", 0))
        one.sendto(b"x", one.getsockname())


@pytest.mark.parametrize("action", [
    server, datagram, lambda: pathlib.Path("/etc/passwd").read_text(),
    lambda: os.pipe2(os.O_NONBLOCK), lambda: bytearray(64 << 20)],
    ids=["tcp", "udp", "etc", "pipe", "memory"])
def test_a_network_has_what_it_needs(action: Callable[[], object]) -> None:
    assert tried(action) == 0


@pytest.mark.parametrize("action", [
    os.fork, lambda: os.execv("/bin/true", ["true"]), lambda: socket.socket(socket.AF_UNIX),
    lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW), lambda: os.kill(os.getppid(), 0),
    lambda: os.mkdir("/tmp/sandbox-test"), lambda: os.unlink("/tmp/sandbox-test"),
    lambda: os.listdir("/proc"), lambda: os.open("/dev/null", os.O_WRONLY),
    lambda: linux.setns(0, linux.CLONE_NEWNET)],
    ids=["fork", "exec", "unix", "netlink", "kill", "mkdir", "unlink", "list", "write", "setns"])
def test_and_nothing_else(action: Callable[[], object]) -> None:
    assert tried(action) in (errno.EPERM, errno.EACCES)


def test_files_elsewhere_cannot_be_read(tmp_path: pathlib.Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine")
    wanted = errno.EACCES if linux.landlock_version() else 0
    assert tried(secret.read_text) == wanted


def test_machines_whose_numbers_are_not_known_have_no_filter() -> None:
    assert sandbox.program("pdp11") is None
    for machine in ("x86_64", "aarch64"):
        filter_program = sandbox.program(machine)
        assert filter_program is not None
        assert len(filter_program) % 8 == 0
