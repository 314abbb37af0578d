"""Frames, logs and detach keys: bytes come out as they went in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.container import frames, logs
from rootless.container.attach import detach_sequence
from rootless.container.logfile import Log
from rootless.errors import UsageError


@given(st.lists(st.tuples(st.sampled_from([b"O", b"R", b"I"]), st.binary(max_size=300))),
       st.integers(1, 64))
def test_frames_survive_any_cut(sent: list[tuple[bytes, bytes]], step: int) -> None:
    stream = b"".join(frames.frame(k, p) for k, p in sent)
    reader = frames.Reader()
    got = []
    for i in range(0, len(stream), step):
        got += reader.feed(stream[i:i + step])
    assert got == sent


def test_a_frame_of_absurd_length_is_refused() -> None:
    with pytest.raises(ValueError):
        frames.Reader().feed(b"O\xff\xff\xff\xff")


@given(st.lists(st.tuples(st.sampled_from([b"stdout", b"stderr"]), st.binary(min_size=1,
                                                                           max_size=60))))
def test_the_log_gives_back_every_byte_of_each_stream(tmp_path_factory: pytest.TempPathFactory,
                                                      written: list[tuple[bytes, bytes]]) -> None:
    path = str(tmp_path_factory.mktemp("log") / "log")
    log = Log(path)
    for stream, data in written:
        log.write(stream, data)
    with open(path, "rb") as f:
        entries, rest = logs.entries(f.read())
    assert rest == b""
    for stream in (b"stdout", b"stderr"):
        assert (b"".join(t for _, s, t in entries if s == stream)
                == b"".join(d for s, d in written if s == stream))


@pytest.mark.parametrize(("lines", "text"), [(0, b""), (1, b"three\n"), (2, b"two\nthree\n"),
                                             (3, b"one\ntwo\nthree\n"), (9, b"one\ntwo\nthree\n")])
def test_the_tail_counts_lines_of_the_container(tmp_path: Path, lines: int, text: bytes) -> None:
    path = str(tmp_path / "log")
    log = Log(path)
    for piece in (b"one\ntw", b"o\nth", b"re", b"e\n"):
        log.write(b"stdout", piece)
    fd = os.open(path, os.O_RDONLY)
    os.lseek(fd, logs._tail_offset(fd, lines), os.SEEK_SET)
    got, _ = logs.entries(os.read(fd, 1 << 16))
    os.close(fd)
    assert b"".join(t for _, _, t in got) == text


@pytest.mark.parametrize(("text", "keys"), [("ctrl-p,ctrl-q", b"\x10\x11"), ("a", b"a"),
                                            ("ctrl-],x", b"\x1dx"), ("", b"")])
def test_detach_keys_are_the_bytes_a_terminal_sends(text: str, keys: bytes) -> None:
    assert detach_sequence(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-1", "ab", "ctrl-p,,q", "é"])
def test_keys_no_terminal_has_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        detach_sequence(text)
