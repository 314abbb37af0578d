"""Frames, logs and detach keys: bytes come out as they went in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
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
                                                                           max_size=60))),
       st.sampled_from([0, 1, 100, 1000]))
@settings(deadline=None)
def test_the_log_gives_back_every_byte_of_each_stream(tmp_path_factory: pytest.TempPathFactory,
                                                      written: list[tuple[bytes, bytes]],
                                                      size: int) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    log = Log(str(path), "k8s-file", size, 2000)
    for stream, data in written:
        log.write(stream, data)
    files = logs.Files(str(path))
    found = b""
    while more := files.read():
        found += more
    files.close()
    for stream in (b"stdout", b"stderr"):
        said = b"".join(d for s, d in written if s == stream)
        assert b"".join(t for _, s, t in logs.entries("k8s-file", found) if s == stream) == said
        assert b"".join(t for s, t in logs.plain("k8s-file", found) if s == stream) == said


@given(st.lists(st.tuples(st.sampled_from([b"stdout", b"stderr"]),
                          st.text("a\n", min_size=1, max_size=30).map(str.encode))))
@settings(deadline=None)
def test_lines_of_one_write_come_out_as_they_went_in(
        tmp_path_factory: pytest.TempPathFactory, written: list[tuple[bytes, bytes]]) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    log = Log(str(path))
    for stream, data in written:
        log.write(stream, data)
    shown = logs.plain("k8s-file", path.read_bytes())
    for stream in (b"stdout", b"stderr"):
        assert (b"".join(t for s, t in shown if s == stream)
                == b"".join(d for s, d in written if s == stream))


@given(st.lists(st.tuples(st.sampled_from([b"stdout", b"stderr"]), st.text(min_size=1)),
                min_size=1), st.integers(1, 7))
@settings(deadline=None)
def test_dockers_format_gives_back_every_character(tmp_path_factory: pytest.TempPathFactory,
                                                   written: list[tuple[bytes, str]],
                                                   step: int) -> None:
    """Also of one that comes in pieces, and as what docker's own readers take for JSON."""
    path = tmp_path_factory.mktemp("log") / "log"
    log = Log(str(path), "json-file")
    said = {b"stdout": b"", b"stderr": b""}
    for stream, text in written:
        data = text.encode("utf-8", "replace")
        said[stream] += data
        for at in range(0, len(data), step):
            log.write(stream, data[at:at + step])
    log.end()
    raw = path.read_bytes()
    for stream in said:
        assert b"".join(t for _, s, t in logs.entries("json-file", raw)
                        if s == stream) == said[stream]
    for line in raw.splitlines():
        assert set(json.loads(line)) == {"log", "stream", "time"}


def test_dockers_format_replaces_what_is_no_character(tmp_path: Path) -> None:
    log = Log(str(tmp_path / "log"), "json-file")
    log.write(b"stdout", b"a\xffb\n")
    log.write(b"stdout", b"end\xe2\x82")
    log.end()
    found = logs.entries("json-file", (tmp_path / "log").read_bytes())
    assert b"".join(t for _, _, t in found).decode() == "a\ufffdb\nend\ufffd"


@pytest.mark.parametrize("driver", ["k8s-file", "json-file"])
@pytest.mark.parametrize(("size", "count"), [(200, 3), (1000, 1), (10, 2)])
def test_a_log_keeps_its_size_and_the_number_of_its_files(tmp_path: Path, driver: str, size: int,
                                                          count: int) -> None:
    log = Log(str(tmp_path / "log"), driver, size, count)
    for n in range(50):
        log.write(b"stdout", b"".join(b"line %d\n" % m for m in range(n * 4, n * 4 + 4)))
    files = sorted(tmp_path.iterdir())
    assert [f.name for f in files] == ["log", *(f"log.{n}" for n in range(1, count))]
    longest = 100       # one line may be longer than a file
    assert all(f.stat().st_size <= max(size, longest) for f in files)
    kept = logs.Files(str(tmp_path / "log"))
    shown = b""
    while data := kept.read():
        shown += b"".join(t for _, _, t in logs.entries(driver, data))
    kept.close()
    assert shown.endswith(b"line 198\nline 199\n")
    numbers = [int(line.split()[1]) for line in shown.splitlines()]
    assert numbers == list(range(numbers[0], 200))


def test_a_reader_follows_over_every_new_file(tmp_path: Path) -> None:
    log = Log(str(tmp_path / "log"), "k8s-file", 300, 50)
    files = logs.Files(str(tmp_path / "log"))
    shown = []
    for n in range(200):
        log.write(b"stdout", b"%d\n" % n)
        if n % 7 == 0:
            while data := files.read():
                shown += [t for _, _, t in logs.entries("k8s-file", data)]
    while data := files.read():
        shown += [t for _, _, t in logs.entries("k8s-file", data)]
    files.close()
    assert shown == [b"%d\n" % n for n in range(200)]


@pytest.mark.parametrize("driver", ["k8s-file", "json-file"])
@pytest.mark.parametrize("size", [0, 150])
@pytest.mark.parametrize(("lines", "text"), [
    (0, b""), (1, b"three\n"), (2, b"t\\nwo\nthree\n"), (3, b"one\nt\\nwo\nthree\n"),
    (9, b"one\nt\\nwo\nthree\n")])
def test_the_tail_counts_lines_of_the_container(tmp_path: Path, lines: int, text: bytes,
                                                size: int, driver: str) -> None:
    path = str(tmp_path / "log")
    log = Log(path, driver, size, 9)
    for piece in (b"one\nt\\n", b"wo\nth", b"re", b"e\n"):
        log.write(b"stdout", piece)
    files = logs.Files(path)
    files.seek(driver, lines)
    got = b""
    while data := files.read():
        got += b"".join(t for _, _, t in logs.entries(driver, data))
    files.close()
    assert got == text


@pytest.mark.parametrize(("text", "keys"), [("ctrl-p,ctrl-q", b"\x10\x11"), ("a", b"a"),
                                            ("ctrl-],x", b"\x1dx"), ("", b"")])
def test_detach_keys_are_the_bytes_a_terminal_sends(text: str, keys: bytes) -> None:
    assert detach_sequence(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-1", "ab", "ctrl-p,,q", "é"])
def test_keys_no_terminal_has_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        detach_sequence(text)
