"""--volume, --mount, --tmpfs and --device are read as docker reads them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.container import mounts
from rootless.container.wanted import Mount
from rootless.errors import UsageError


def test_a_volume_is_a_recursive_bind(tmp_path: Path) -> None:
    assert mounts.volume(f"{tmp_path}:/data:ro") == Mount(
        "bind", str(tmp_path), "/data", ("rbind", "ro"))


def test_a_missing_source_of_a_volume_is_made(tmp_path: Path) -> None:
    mounts.volume(f"{tmp_path}/new/dir:/data")
    assert os.path.isdir(tmp_path / "new/dir")


def test_a_relative_source_is_below_the_current_directory(tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert mounts.volume("./here:/data").source == str(tmp_path / "here")


def test_a_name_means_a_volume_and_a_path_alone_one_without_a_name() -> None:
    assert mounts.volume("name:/data:ro,nocopy") == Mount("volume", "name", "/data",
                                                          ("ro", "nocopy"))
    assert mounts.volume("/data/") == Mount("volume", "", "/data")
    assert mounts.mount("target=/x") == Mount("volume", "", "/x")
    assert mounts.mount("type=volume,src=v,dst=/x,volume-nocopy,ro") == Mount(
        "volume", "v", "/x", ("ro", "nocopy"))


@pytest.mark.parametrize("text", ["", ":", "a", "/a:", ":/b", "/tmp:b", "/", "a/b:/data",
                                  "/tmp:/b:nonsense", "/tmp:/", "/tmp:/b:ro:x", "/tmp:/b:shared",
                                  "-a:/b", "/tmp:/b:nocopy", "name:data"])
def test_a_volume_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        mounts.volume(text)


def test_mount_needs_its_source_to_exist(tmp_path: Path) -> None:
    made = mounts.mount(f"type=bind,src={tmp_path},dst=/x/../y,readonly")
    assert made == Mount("bind", str(tmp_path), "/y", ("rbind", "ro"))
    with pytest.raises(UsageError):
        mounts.mount(f"type=bind,src={tmp_path}/none,dst=/x")


@pytest.mark.parametrize("text", ["", "type=bind", "type=bind,target=/x", "type=npipe,target=/x",
                                  "type=tmpfs,target=/x,color=blue", "source=/x,target=/x",
                                  "type=volume,target=/x,volume-driver=nfs",
                                  "type=bind,source=/tmp,target=/x,bind-propagation=rshared"])
def test_a_mount_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        mounts.mount(text)


def test_tmpfs_has_dockers_defaults_and_takes_their_opposites() -> None:
    assert mounts.tmpfs("/run").options == ("nosuid", "nodev", "noexec")
    assert mounts.tmpfs("/run:exec,size=1m,mode=1777").options == (
        "nosuid", "nodev", "size=1048576", "mode=1777")


@pytest.mark.parametrize(("text", "number"), [
    ("0", 0), ("100", 100), ("1k", 1024), ("64m", 64 << 20), ("1.5g", 3 << 29), ("10MiB", 10 << 20),
    ("2GB", 2 << 30), ("7b", 7), ("1 m", 1 << 20)])
def test_sizes_are_binary_as_dockers(text: str, number: int) -> None:
    assert mounts.size(text) == number


@given(st.text(max_size=12))
def test_no_size_fails_otherwise(text: str) -> None:
    try:
        assert mounts.size(text) >= 0
    except UsageError:
        pass


def test_a_device_cannot_be_limited_without_a_device_cgroup() -> None:
    assert mounts.devices("/dev/null") == [("/dev/null", "/dev/null", "rwm")]
    assert mounts.devices("/dev/null:/dev/zilch") == [("/dev/null", "/dev/zilch", "rwm")]
    for text in ("/dev/null:r", "/dev/none-such", "null", "/dev/null:/a:rwx", "/dev/null:/a:b:c"):
        with pytest.raises(UsageError):
            mounts.devices(text)


def test_only_devices_are_given_as_devices(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(UsageError, match="device"):
            mounts.devices(str(path))
    inside = {source: at for source, at, _ in mounts.devices("/dev:/all")}
    assert inside["/dev/null"] == "/all/null"
    assert not [d for d in inside if d.startswith(("/dev/pts/", "/dev/console"))]


@pytest.mark.parametrize(("text", "read_only"), [
    ("readonly", True), ("ro=true", True), ("ro=1", True), ("readonly=false", False),
    ("ro=0", False)])
def test_fields_of_yes_and_no(text: str, read_only: bool) -> None:
    assert ("ro" in mounts.mount(f"type=tmpfs,target=/m,{text}").options) is read_only


@pytest.mark.parametrize("text", ["type=tmpfs,target=/m,ro=maybe", "type=tmpfs,target=/m,source=/x",
                                  "type=bind,source=/,target=/m,bind-nonrecursive=2"])
def test_what_a_mount_cannot_mean_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        mounts.mount(text)


def test_a_volume_is_not_both_read_only_and_writable(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="both"):
        mounts.volume(f"{tmp_path}:/v:ro,rw")
