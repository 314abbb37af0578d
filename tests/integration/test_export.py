"""`export`: the archive of a container's files holds what its processes see."""

from __future__ import annotations

import io
import os
import tarfile

from tests.integration.support.box import Box
from tests.integration.support.cli import Cli
from tests.integration.support.images import Image, Layer, Tar, docker_archive

ODD = Tar().dir("d", uid=5, gid=6, mtime=1_600_000_000) \
    .file("d/f", b"x" * 3000, uid=1000, gid=50, mode=0o4755, xattrs={"user.note": b"kept"}) \
    .file("gone").file("far", uid=3_000_000, gid=4_000_000) \
    .hardlink("link", "d/f").symlink("s", "d/f").fifo("pipe", mode=0o622) \
    .device("null", 1, 3, mode=0o666).file("\u00e4\u00f6", b"umlaut") \
    .file("n" * 120, b"long").file("time", pax={"mtime": "1600000000.123456789"})
SECOND = Tar().whiteout("gone").dir("only").file("only/here")


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8") as tar:
        return {m.name: m for m in tar.getmembers()}


def content(data: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        file = tar.extractfile(name)
        assert file is not None
        return file.read()


def created(fresh: Cli) -> str:
    one = Image([Layer(ODD.bytes()), Layer(SECOND.bytes())], {"Cmd": ["/x"]})
    fresh.ok("load", stdin=docker_archive(one, "odd:1"))
    return fresh.ok("create", "--name", "c", "odd:1").text


def test_a_stopped_container_keeps_every_attribute(fresh: Cli) -> None:
    created(fresh)
    out = fresh.ok("export", "c").out
    found = members(out)
    assert "gone" not in found and "only/here" in found
    file = found["d/f"]
    assert (file.uid, file.gid, file.mode, file.size) == (1000, 50, 0o4755, 3000)
    assert file.pax_headers["SCHILY.xattr.user.note"] == "kept"
    assert (found["d"].uid, found["d"].gid, found["d"].mtime) == (5, 6, 1_600_000_000)
    assert (found["far"].uid, found["far"].gid) == (3_000_000, 4_000_000)
    assert found["link"].islnk() and found["link"].linkname == "d/f"
    assert found["s"].issym() and found["s"].linkname == "d/f"
    assert found["pipe"].isfifo() and found["pipe"].mode == 0o622
    assert found["null"].ischr() and (found["null"].devmajor, found["null"].devminor) == (1, 3)
    assert content(out, "\u00e4\u00f6") == b"umlaut" and content(out, "n" * 120) == b"long"
    assert found["time"].pax_headers["mtime"] == "1600000000.123456789"
    assert not any("user.rootless" in key or "overlay" in key
                   for m in found.values() for key in m.pax_headers)
    assert fresh.ok("export", "c").out == out


def test_an_exported_filesystem_can_be_imported_and_exported_the_same(fresh: Cli) -> None:
    created(fresh)
    first = fresh.ok("export", "c").out
    fresh.ok("import", "-", "again:1", stdin=first)
    fresh.ok("create", "--name", "d", "again:1", "/x")
    assert fresh.ok("export", "d").out == first


def test_a_running_container_shows_what_it_has_written(box: Box) -> None:
    with box.running(then=("sh", "-c", "mkdir /new; echo hello > /new/f; chown 7:8 /new/f; "
                           "rm -r /etc/hosts; truncate -s 1G /hole; touch /done; sleep 1000")
                     ) as name:
        box.cli.ok("exec", name, "sh", "-c", "until [ -e /done ]; do sleep 0.1; done")
        box.cli.ok("export", "-o", "running.tar", name)
        path = box.cli.home / "running.tar"
        assert path.stat().st_size < 100 << 20
        with tarfile.open(path) as tar:
            found = {m.name: m for m in tar.getmembers()}
            file = tar.extractfile("new/f")
            assert file is not None and file.read() == b"hello\n"
        assert (found["new/f"].uid, found["new/f"].gid) == (7, 8)
        assert found["hole"].size == 1 << 30
        assert not [n for n in found if n.startswith(("proc/", "sys/", "dev/pts"))]
        assert box.cli.ok("exec", name, "cat", "/new/f").text == "hello"
        path.unlink()


def test_the_image_host_is_not_exported(fresh: Cli) -> None:
    fresh.ok("create", "--name", "h", "host", "true")
    fresh.fails(125, "export", "h", says="this machine's own")
    assert fresh.fails(1, "export", "nobody", says="no such container").out == b""


def test_a_missing_layer_is_told_and_leaves_no_file(fresh: Cli) -> None:
    created(fresh)
    for name in os.listdir(fresh.store / "layers"):
        (fresh.store / "layers" / name).rename(fresh.store / "layers" / (name[:-1] + "z"))
    fresh.fails(1, "export", "-o", "x.tar", "c", says="missing")
    assert [n for n in os.listdir(fresh.home) if "x.tar" in n] == []
