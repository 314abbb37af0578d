"""The embedded image: which parts of the machine become layers, and what a mirror holds."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootless.storage import mirror
from rootless.storage.hostroot import cut_root, image_config, mount_points
from rootless.storage.mirror import Mirror

PLAIN = {"/": "ext4", "/proc": "proc", "/sys": "sysfs", "/dev": "devtmpfs", "/run": "tmpfs"}


def test_a_directory_with_nothing_mounted_below_is_one_part() -> None:
    cut = cut_root(PLAIN, ("/var/tmp/x", "/usr"))
    assert {"/usr", "/etc"} <= set(cut.parts)
    assert not any(p == "/" or p.startswith(("/proc", "/sys", "/dev", "/run")) for p in cut.parts)
    assert {"/proc", "/sys", "/dev", "/run", "/tmp"} <= {p for p, _, _ in cut.skeleton}


def test_a_directory_with_mounts_below_is_cut() -> None:
    cut = cut_root({**PLAIN, "/usr/lib": "xfs"}, ())
    assert "/usr" not in cut.parts
    assert {"/usr/bin", "/usr/lib", "/usr/share"} <= set(cut.parts)
    assert "/usr" in {p for p, _, _ in cut.skeleton}


def test_no_part_has_a_mount_below_it() -> None:
    mounts = {**mount_points(), "/usr/share/doc": "ext4", "/var/lib": "tmpfs"}
    for part in cut_root(mounts, (os.path.expanduser("~"), os.getcwd())).parts:
        assert not any(m.startswith(part + "/") for m in mounts), part


def test_of_temporary_places_only_the_way_to_the_current_directory_is_seen(
        tmp_path: Path) -> None:
    cut = cut_root(PLAIN, (str(tmp_path),))
    base = "/var/tmp" if str(tmp_path).startswith("/var/") else "/tmp"
    seen = [p for p in cut.parts if p.startswith(base + "/")]
    assert len(seen) == 1 and f"{tmp_path}/".startswith(seen[0] + "/")
    assert {p: m for p, m, _ in cut.skeleton}[base] == 0o1777


def test_mount_points_are_read_with_their_escapes(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text("22 1 254:1 / / rw - ext4 /dev/vda rw\n"
                     "30 22 0:5 / /a\\040b\\134c rw shared:1 master:2 - nfs4 server:/x rw\n")
    assert mount_points(str(table)) == {"/": "ext4", "/a b\\c": "nfs4"}


def test_only_what_describes_the_person_is_taken_from_the_environment() -> None:
    config = image_config({"HOME": "/home/a", "PATH": "/bin", "SECRET": "x", "LC_ALL": "C",
                           "SHELL": "/bin/zsh"}, "/")
    assert config["Env"] == ["HOME=/home/a", "LC_ALL=C", "PATH=/bin", "SHELL=/bin/zsh"]
    assert config["Cmd"] == ["/bin/zsh"]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Path]:
    """A tree whose directories take the part of a system's."""
    top = tmp_path / "host"
    (top / "etc/private").mkdir(parents=True)
    (top / "etc/conf").write_text("one")
    (top / "etc/secret").write_text("no")
    (top / "etc/secret").chmod(0)
    (top / "etc/private").chmod(0)
    (top / "lib/deep/er").mkdir(parents=True)
    (top / "lib/file").write_text("not copied")
    (top / "store/layers").mkdir(parents=True)
    (top / "store/venv").mkdir()
    yield top
    (top / "etc/private").chmod(0o700)


def refresh(host: Path, people: range = range(0)) -> Path:
    layer = host.parent / "cache/layer"
    mirror.refresh(Mirror(str(host), str(layer), (f"{host}/etc",), (f"{host}/store/layers",),
                          None, people))
    return layer


def is_whiteout(path: Path) -> bool:
    st = path.lstat()
    return stat.S_ISCHR(st.st_mode) and st.st_rdev == 0


def test_a_mirror_holds_directories_and_copies_and_nothing_else(host: Path) -> None:
    layer = refresh(host)
    assert (layer / "lib/deep/er").is_dir()
    assert not (layer / "lib/file").exists()
    assert (layer / "etc/conf").read_text() == "one"
    assert (layer / "lib").stat().st_mtime_ns == (host / "lib").stat().st_mtime_ns


def test_what_cannot_be_read_is_not_in_the_copy(host: Path) -> None:
    layer = refresh(host)
    assert is_whiteout(layer / "etc/secret")
    assert os.getxattr(layer / "etc/private", mirror.OPAQUE) == b"y"
    assert os.listdir(layer / "etc/private") == []


def test_the_store_is_not_in_the_copy(host: Path) -> None:
    layer = refresh(host)
    assert is_whiteout(layer / "store/layers")
    assert (layer / "store/venv").is_dir()


def test_directories_of_people_are_passed_over_but_for_the_way_to_the_store(host: Path) -> None:
    layer = refresh(host, people=range(os.getuid(), os.getuid() + 1))
    assert sorted(os.listdir(layer)) == ["store"]
    assert os.listdir(layer / "store") == ["layers"]


def test_a_mirror_follows_the_host(host: Path) -> None:
    layer = refresh(host)
    (host / "lib/deep/er").rmdir()
    (host / "lib/new").mkdir(0o700)
    (host / "etc/conf").write_text("two")
    (host / "etc/gone").write_text("")
    refresh(host)
    assert not (layer / "lib/deep/er").exists()
    assert (layer / "lib/new").is_dir()
    assert (layer / "etc/conf").read_text() == "two"
    (host / "etc/gone").unlink()
    (host / "etc/gone").mkdir()
    (host / "etc/secret").chmod(0o644)
    (host / "lib/new").rmdir()
    (host / "lib/new").write_text("a file now")
    refresh(host)
    assert (layer / "etc/gone").is_dir()
    assert (layer / "etc/secret").read_text() == "no"
    assert not (layer / "lib/new").exists()


def test_a_damaged_state_is_made_again(host: Path) -> None:
    layer = refresh(host)
    Path(f"{layer}.state").write_bytes(b"{\xff")
    (layer / "lib/stray").mkdir()
    refresh(host)
    assert not (layer / "lib/stray").exists()


def test_a_mirror_may_lag_but_not_for_longer_than_allowed(host: Path) -> None:
    layer = refresh(host)
    (host / "lib/late").mkdir()
    made = Mirror(str(host), str(layer), (), (), None, range(0))
    mirror.refresh(made, lag=100)
    assert not (layer / "lib/late").exists()
    past = os.stat(f"{layer}.state").st_mtime - 101
    os.utime(f"{layer}.state", (past, past))
    mirror.refresh(made, lag=100)
    assert (layer / "lib/late").is_dir()
