"""The journal of events: whole lines whoever writes, and docker's filters over them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless import events
from rootless.cli.events import filters, matches, parse, show
from rootless.errors import UsageError


@given(st.text(), st.dictionaries(st.text(), st.text()))
def test_what_was_told_is_read(tmp_path_factory: pytest.TempPathFactory, ident: str,
                               attributes: dict[str, str]) -> None:
    data = tmp_path_factory.mktemp("store")
    events.emit(str(data), "container", "start", ident, attributes)
    (line,) = Path(events.path(str(data))).read_bytes().splitlines()
    event = parse(line)
    assert event is not None
    assert event["Actor"] == {"ID": ident, "Attributes": attributes}
    assert (event["status"], event["id"]) == ("start", ident)


def test_many_write_at_once_and_no_line_is_mixed(tmp_path: Path) -> None:
    children = []
    for n in range(8):
        child = os.fork()
        if child == 0:
            for m in range(200):
                events.emit(str(tmp_path), "image", "pull", f"{n}-{m}", {"name": "x" * 3000})
            os._exit(0)
        children.append(child)
    assert all(os.waitpid(c, 0)[1] == 0 for c in children)
    found = [json.loads(line)["Actor"]["ID"] for name in ("journal.1", "journal")
             if (tmp_path / "events" / name).exists()
             for line in (tmp_path / "events" / name).read_text().splitlines()]
    assert sorted(found) == sorted(f"{n}-{m}" for n in range(8) for m in range(200))


def test_the_journal_does_not_grow_for_ever(tmp_path: Path) -> None:
    for n in range(300):
        events.emit(str(tmp_path), "image", "pull", str(n), {"name": "x" * 60000})
    files = {f.name: f.stat().st_size for f in (tmp_path / "events").iterdir()}
    assert set(files) == {"journal", "journal.1", "journal.lock"}
    assert all(size < events.LARGEST + 100_000 for size in files.values())


def test_nothing_fails_for_its_sake(tmp_path: Path) -> None:
    events.emit(str(tmp_path / "none"), "image", "pull", "x")
    (tmp_path / "events").write_text("")
    events.emit(str(tmp_path), "image", "pull", "x")


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b'{"Type":"container"}', b"7", b'{"a":1}{'])
def test_a_line_that_was_cut_is_left_out(line: bytes) -> None:
    assert parse(line) is None


EVENT = (b'{"Type":"container","Action":"health_status: healthy","Actor":{"ID":"abcdef",'
         b'"Attributes":{"image":"debian:12","name":"web","size":"big"}},"scope":"local",'
         b'"timeNano":1800000000000000001}')


@pytest.mark.parametrize(("texts", "held"), [
    ([], True), (["type=container"], True), (["type=image"], False),
    (["type=image", "type=container"], True), (["event=health_status"], True),
    (["event=health_status: healthy"], True), (["event=start"], False),
    (["container=web"], True), (["container=abc"], True), (["container=we"], False),
    (["image=debian"], True), (["image=debian:12"], True), (["image=deb"], False),
    (["label=size"], True), (["label=size=big"], True), (["label=size=small"], False),
    (["container=web", "event=start"], False), (["volume=web"], False)])
def test_filters_are_dockers(texts: list[str], held: bool) -> None:
    event = parse(EVENT)
    assert event is not None
    assert matches(event, filters(texts)) is held


def test_a_line_is_dockers() -> None:
    event = parse(EVENT)
    assert event is not None
    assert show(event, None) == (
        "2027-01-15T08:00:00.000000001Z container health_status: healthy abcdef "
        "(image=debian:12, name=web, size=big)")
    assert show(event, "{{.Type}} {{.Actor.Attributes.name}} {{.status}} {{.time}}") == (
        "container web health_status: healthy 1800000000")


def test_an_unknown_filter_is_refused() -> None:
    for text in ("colour=red", "type"):
        with pytest.raises(UsageError):
            filters([text])
