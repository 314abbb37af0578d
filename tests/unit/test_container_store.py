"""What is told of containers is true: names are unique, dead processes are not running."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from rootless.clock import now
from rootless.container import store
from rootless.container.statefile import start_ticks
from rootless.errors import Conflict, NotFound
from rootless.paths import Paths
from rootless.quoted import quote
from rootless.storage import trash


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths({"HOME": str(tmp_path), "ROOTLESS_ROOT": str(tmp_path / "store")}, os.getuid())
    made.ensure()
    return made


def add(paths: Paths, name: str, created: str = "2026-01-01T00:00:00Z") -> store.Container:
    cid, lock = store.new_id(paths)
    store.claim_name(paths, name, cid)
    made = store.publish(paths, cid, {"name": name, "created": created, "image_id": "",
                                      "image": "i", "command": ["x"], "labels": {}}, {})
    os.close(lock)
    return made


def put_state(container: store.Container, **values: object) -> None:
    with open(container.dir + "/state.json", "w", encoding="utf-8") as f:
        json.dump(values, f)


def running(pid: int, **changes: object) -> dict[str, Any]:
    return {"status": "running", "pid": pid, "ticks": start_ticks(os.getpid()), "monitor": pid,
            "monitor_ticks": "0", "boot": store.boot_id(), "host": os.uname().nodename,
            "socket": "/none", "started": now(), **changes}


def test_a_container_is_found_by_name_id_and_prefix(paths: Paths) -> None:
    made = add(paths, "web")
    for text in ("web", made.id, made.id[:12], made.id[:4]):
        assert store.find(paths, text).id == made.id


def test_a_half_removed_container_is_gone_and_its_name_is_free(paths: Paths) -> None:
    made = add(paths, "web")
    trash.take(paths, made.dir)
    with pytest.raises(NotFound):
        store.find(paths, "web")
    again = add(paths, "web")
    store.release_name(paths, "web", made.id)
    assert store.find(paths, "web").id == again.id


@pytest.mark.parametrize("text", ["", ".", "..", "../x", "nothing", "zz", "a/b"])
def test_what_does_not_exist_is_not_found(paths: Paths, text: str) -> None:
    add(paths, "web")
    with pytest.raises(NotFound):
        store.find(paths, text)


def test_a_name_belongs_to_one_container(paths: Paths) -> None:
    add(paths, "web")
    with pytest.raises(Conflict):
        store.claim_name(paths, "web", "f" * 64)


def test_the_name_of_a_vanished_container_is_free(paths: Paths) -> None:
    made = add(paths, "web")
    os.rename(made.dir, made.dir + ".gone")
    assert add(paths, "web").name == "web"


def test_a_container_being_made_keeps_its_name(paths: Paths) -> None:
    cid, lock = store.new_id(paths)
    store.claim_name(paths, "web", cid)
    with pytest.raises(Conflict):
        store.claim_name(paths, "web", "e" * 64)
    os.close(lock)


def test_a_living_process_is_running(paths: Paths) -> None:
    made = add(paths, "web")
    put_state(made, **running(os.getpid()))
    assert made.state().running and made.state().pid == os.getpid()


def test_a_reused_pid_is_not_the_container(paths: Paths) -> None:
    made = add(paths, "web")
    put_state(made, **running(os.getpid(), ticks="1"))
    assert made.state().status == "exited"


def test_a_restart_of_the_machine_ends_containers(paths: Paths) -> None:
    made = add(paths, "web")
    put_state(made, **running(os.getpid(), boot="another"))
    assert made.state().status == "exited" and "restarted" in made.state().error


def test_a_container_of_another_host_is_left_alone(paths: Paths) -> None:
    made = add(paths, "web")
    put_state(made, **running(os.getpid(), host="node7", boot="another"))
    assert made.state().running and made.state().elsewhere == "node7" and made.state().pid == 0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"status":"running"}', "null"])
def test_a_damaged_state_is_not_running(paths: Paths, text: str) -> None:
    made = add(paths, "web")
    with open(made.dir + "/state.json", "w", encoding="utf-8") as f:
        f.write(text)
    assert made.state().status == "exited"


def test_a_damaged_record_can_still_be_listed(paths: Paths) -> None:
    made = add(paths, "web")
    with open(made.dir + "/container.json", "w", encoding="utf-8") as f:
        f.write("{")
    assert [c.id for c in store.every(paths)] == [made.id]


def test_newest_come_first(paths: Paths) -> None:
    old = add(paths, "old", "2025-01-01T00:00:00Z")
    new = add(paths, "new", "2026-01-01T00:00:00Z")
    assert [c.id for c in store.every(paths)] == [new.id, old.id]


@pytest.mark.parametrize(("name", "good"), [("web", True), ("a", True), ("a.b-c_d", True),
                                            ("-a", False), ("", False), ("a/b", False),
                                            ("a b", False), ("é", False)])
def test_names_follow_the_rule(name: str, good: bool) -> None:
    assert store.valid_name(name) is good


@pytest.mark.parametrize("text", ["plain", 'q"\\', "a\nb\x00", "é☃", "\x7f"])
def test_the_monitors_own_json_strings_are_json(text: str) -> None:
    assert json.loads(quote(text)) == text


def test_what_killed_makers_left_is_swept_and_nothing_else(paths: Paths) -> None:
    whole = add(paths, "whole").id
    left, lock = store.new_id(paths)
    os.symlink(left, f"{paths.names}/left")
    os.close(lock)
    making, lock = store.new_id(paths)
    os.symlink(making, f"{paths.names}/making")
    store.sweep(paths)
    store.sweep(paths)
    os.close(lock)
    assert sorted(os.listdir(paths.containers)) == sorted([whole, making])
    assert sorted(n for n in os.listdir(paths.names) if n[0] != ".") == ["making", "whole"]
