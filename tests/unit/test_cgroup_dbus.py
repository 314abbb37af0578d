"""D-Bus as systemd speaks it: the bytes, and a conversation over a socket."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.cgroup import dbus, unit
from rootless.cgroup.dbus import Connection, Refused
from rootless.errors import HostError, StartError

# `busctl --user call org.freedesktop.systemd1 /org/freedesktop/systemd1 \
#  org.freedesktop.DBus.Peer Ping`, without a sender, serial 2; by the specification's tables.
PING = (b"l\1\0\1\0\0\0\0\2\0\0\0\x85\0\0\0"
        b"\1\1o\0\x19\0\0\0/org/freedesktop/systemd1\0\0\0\0\0\0\0"
        b"\6\1s\0\x18\0\0\0org.freedesktop.systemd1\0\0\0\0\0\0\0\0"
        b"\2\1s\0\x19\0\0\0org.freedesktop.DBus.Peer\0\0\0\0\0\0\0"
        b"\3\1s\0\4\0\0\0Ping\0\0\0\0")


def test_a_call_is_the_bytes_that_the_specification_says() -> None:
    assert dbus.message(dbus.METHOD_CALL, 2, [
        (dbus.PATH, ("o", "/org/freedesktop/systemd1")),
        (dbus.DESTINATION, ("s", "org.freedesktop.systemd1")),
        (dbus.INTERFACE, ("s", "org.freedesktop.DBus.Peer")),
        (dbus.MEMBER, ("s", "Ping"))]) == PING


def test_the_bytes_of_a_call_are_read() -> None:
    found = dbus.parse(PING + b"more")
    assert found is not None
    message, size = found
    assert size == len(PING)
    assert message.kind == dbus.METHOD_CALL
    assert message.fields[dbus.MEMBER] == "Ping"
    assert message.body == []


_RANGES = {"y": (0, 255), "b": (0, 1), "n": (-(1 << 15), (1 << 15) - 1), "q": (0, (1 << 16) - 1),
           "i": (-(1 << 31), (1 << 31) - 1), "u": (0, (1 << 32) - 1),
           "x": (-(1 << 63), (1 << 63) - 1), "t": (0, (1 << 64) - 1)}
_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
_simple = st.one_of(
    *(st.tuples(st.just(kind), st.integers(*span)) for kind, span in _RANGES.items()),
    st.tuples(st.just("s"), _TEXT))


def _several(inner: st.SearchStrategy[tuple[str, Any]]) -> st.SearchStrategy[tuple[str, Any]]:
    structure = st.lists(inner, min_size=1, max_size=4).map(
        lambda parts: ("(" + "".join(kind for kind, _ in parts) + ")",
                       tuple(value for _, value in parts)))
    array = st.tuples(inner, st.integers(0, 3)).map(
        lambda one: ("a" + one[0][0], [one[0][1]] * one[1]))
    return st.one_of(structure, array, inner.map(lambda one: ("v", one)))


typed = st.recursive(_simple, _several, max_leaves=8)


@given(st.lists(typed, max_size=4))
def test_any_values_come_back_as_they_were_written(values: list[tuple[str, Any]]) -> None:
    signature = "".join(kind for kind, _ in values)
    data = dbus.message(dbus.METHOD_RETURN, 7, [(dbus.REPLY_SERIAL, ("u", 5))], signature,
                        tuple(value for _, value in values))
    found = dbus.parse(data)
    assert found is not None
    assert found[1] == len(data)
    assert found[0].body == [value for _, value in values]
    assert found[0].fields[dbus.REPLY_SERIAL] == 5
    for size in (0, 1, 15, 16, len(data) - 1):
        assert size >= len(data) or dbus.parse(data[:size]) is None


@given(st.binary(max_size=200), st.integers(0, 60))
def test_nonsense_is_an_error_that_is_expected(noise: bytes, cut: int) -> None:
    for data in (noise, PING[:cut] + noise, b"l\1\0\1" + noise):
        try:
            dbus.parse(data)
        except ValueError:
            pass


Talk = Callable[[socket.socket], None]


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Callable[[Talk], str]]:
    """Starts a listener that says what a function says to whoever comes."""
    threads: list[threading.Thread] = []

    def start(talk: Talk) -> str:
        path = str(tmp_path / f"s{len(threads)}")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()

        def serve() -> None:
            with listener, listener.accept()[0] as connection:
                try:
                    talk(connection)
                except OSError:
                    pass        # the other side has had enough

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return path

    yield start
    for thread in threads:
        thread.join(10)


def greet(connection: socket.socket) -> None:
    wanted = b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\n"
    assert connection.recv(len(wanted), socket.MSG_WAITALL) == wanted
    connection.sendall(b"OK 0123\r\n")
    assert connection.recv(7, socket.MSG_WAITALL) == b"BEGIN\r\n"


def reply(serial: int, signature: str = "", *values: Any) -> bytes:
    return dbus.message(dbus.METHOD_RETURN, 9, [(dbus.REPLY_SERIAL, ("u", serial))], signature,
                        values)


def removed(job: str, result: str) -> bytes:
    return dbus.message(dbus.SIGNAL, 8, [
        (dbus.PATH, ("o", "/org/freedesktop/systemd1")), (dbus.MEMBER, ("s", "JobRemoved")),
        (dbus.INTERFACE, ("s", "org.freedesktop.systemd1.Manager"))], "uoss",
        (1, job, "rootless-x.scope", result))


def refused(serial: int, name: str, text: str) -> bytes:
    return dbus.message(dbus.ERROR, 9, [(dbus.REPLY_SERIAL, ("u", serial)),
                                        (dbus.ERROR_NAME, ("s", name))], "s", (text,))


def in_pieces(connection: socket.socket, data: bytes) -> None:
    for at in range(0, len(data), 7):
        connection.sendall(data[at:at + 7])


def test_a_scope_is_started_when_its_job_is_done(peer: Callable[[Talk], str]) -> None:
    heard: list[bytes] = []

    def talk(connection: socket.socket) -> None:
        greet(connection)
        heard.append(connection.recv(1 << 16))
        # The answer may come after the end of the job, and others' jobs end too.
        in_pieces(connection, removed("/job/1", "failed") + removed("/job/2", "done")
                  + reply(1, "o", "/job/2"))

    unit.start_scope(peer(talk), "rootless-x.scope", "rootless.slice", "container x", [5, 6],
                     [("CPUWeight", ("t", 50))])
    found = dbus.parse(heard[0])
    assert found is not None
    assert found[0].body == ["rootless-x.scope", "fail", [
        ("Description", ("s", "container x")), ("Slice", ("s", "rootless.slice")),
        ("PIDs", ("au", [5, 6])), ("Delegate", ("b", 1)),
        ("CollectMode", ("s", "inactive-or-failed")), ("CPUWeight", ("t", 50))], []]


def test_a_scope_that_is_still_ending_is_waited_for(peer: Callable[[Talk], str]) -> None:
    def talk(connection: socket.socket) -> None:
        greet(connection)
        connection.recv(1 << 16)
        connection.sendall(refused(1, "org.freedesktop.systemd1.UnitExists", "it is there"))
        connection.recv(1 << 16)
        connection.sendall(reply(2, "o", "/job/2") + removed("/job/2", "done"))

    unit.start_scope(peer(talk), "rootless-x.scope", "rootless.slice", "", [1], [])


@pytest.mark.parametrize("answer, says", [
    (refused(1, "org.freedesktop.DBus.Error.InvalidArgs", "no such slice"), "no such slice"),
    (reply(1, "o", "/job/2") + removed("/job/2", "timeout"), "timeout"),
])
def test_what_systemd_refuses_is_told(peer: Callable[[Talk], str], answer: bytes,
                                      says: str) -> None:
    def talk(connection: socket.socket) -> None:
        greet(connection)
        connection.recv(1 << 16)
        connection.sendall(answer)

    with pytest.raises(StartError) as caught:
        unit.start_scope(peer(talk), "rootless-x.scope", "rootless.slice", "", [1], [])
    assert says in str(caught.value)
    assert "rootless-x.scope" in (caught.value.hint or "")


@pytest.mark.parametrize("said", [b"REJECTED EXTERNAL\r\n", b"OK", b"", b"nonsense\r\n"])
def test_a_peer_that_does_not_let_us_in_is_an_error(peer: Callable[[Talk], str],
                                                    said: bytes) -> None:
    with pytest.raises(HostError) as caught:
        Connection(peer(lambda connection: connection.sendall(said)))
    assert "cannot talk to systemd" in str(caught.value)


def test_a_peer_that_is_silent_is_an_error(peer: Callable[[Talk], str]) -> None:
    def talk(connection: socket.socket) -> None:
        greet(connection)
        while connection.recv(1 << 16):
            pass

    connection = Connection(peer(talk), seconds=1)
    with pytest.raises(HostError) as caught:
        connection.call("a.b", "/", "a.b", "C")
    assert "no answer" in str(caught.value)
    connection.close()


@pytest.mark.parametrize("answer", [b"B" * 32, PING[:4] + b"\xff" * 12, b"l\2\0\1" + b"\xff" * 64])
def test_a_peer_that_talks_nonsense_is_an_error(peer: Callable[[Talk], str],
                                                answer: bytes) -> None:
    def talk(connection: socket.socket) -> None:
        greet(connection)
        connection.recv(1 << 16)
        connection.sendall(answer)

    connection = Connection(peer(talk))
    with pytest.raises(HostError):
        connection.call("a.b", "/", "a.b", "C")
    connection.close()


def test_nobody_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HostError) as caught:
        Connection(str(tmp_path / "none"))
    assert "No such file" in str(caught.value)


def test_an_error_keeps_its_name(peer: Callable[[Talk], str]) -> None:
    def talk(connection: socket.socket) -> None:
        greet(connection)
        connection.recv(1 << 16)
        connection.sendall(refused(1, "a.b.C", "why"))

    connection = Connection(peer(talk))
    with pytest.raises(Refused) as caught:
        connection.call("a.b", "/", "a.b", "C")
    assert (caught.value.name, str(caught.value)) == ("a.b.C", "why")
    connection.close()
