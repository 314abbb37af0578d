"""Layers unpacked by us and mounted as an overlay are what other tools make of the same image,
and no layer, however hostile, touches anything outside its directory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rootless.errors import ImageError, StorageError
from rootless.image.unpack import Unpacker, layer_present, layer_size, unpack_blob
from rootless.paths import Paths
from rootless.userns import keeper
from rootless.userns.keeper import Userns
from rootless.userns.subid import Extent
from tests.integration.support.cli import CHECKOUT, COMMAND, Cli
from tests.integration.support.images import Image, Layer, Tar, digest_of, oci_archive
from tests.integration.support.registry import Registry
from tests.integration.support.trees import LIST, Tree, as_root, differences, tree


def mounted(layers: list[Path], ground: Path) -> Tree:
    """The layers, bottom first, as the kernel's overlay shows them."""
    empty = ground / "empty"
    empty.mkdir(exist_ok=True)
    lower = ":".join(str(p) for p in [*reversed(layers), empty])
    mount = ('mount -t overlay overlay -o "ro,userxattr,lowerdir=$1" "$2" && '
             'exec "$3" -c "$4" "$2"')
    found: Tree = json.loads(as_root("sh", "-c", mount, "sh", lower, str(empty), sys.executable,
                                     LIST))
    return found


def skopeo(cli: Cli, *words: str) -> None:
    done = subprocess.run(["skopeo", "--insecure-policy", *words], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, env=cli.env, check=False)
    assert done.returncode == 0, done.stdout.decode()


def layers_of(cli: Cli, layout: Path) -> list[Path]:
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(blob(layout, index["manifests"][0]["digest"]))
    config = json.loads(blob(layout, manifest["config"]["digest"]))
    return [cli.store / "layers" / d[7:] for d in config["rootfs"]["diff_ids"]]


def blob(layout: Path, digest: str) -> bytes:
    return (layout / "blobs/sha256" / digest[7:]).read_bytes()


# No entry of the archive describes these, so their time is that of the unpacking.
IMPLIED: dict[str, set[str]] = {"odd:latest": {".", "./no", "./no/parent", "./w/opaque"},
                                "multi:oci": {"."}, "debian:12": set()}


def plain(found: Tree, implied: set[str]) -> Tree:
    """Without what an engine keeps for itself, and what umoci, which knows no overlay, obeys."""
    for name, facts in found.items():
        facts["xattrs"] = {k: v for k, v in facts["xattrs"].items()
                           if not k.startswith(("user.rootless.", "user.overlay."))}
        if name in implied:
            facts["mtime"] = 0
    return found


@pytest.mark.parametrize("image", sorted(IMPLIED))
def test_an_image_is_what_umoci_makes_of_it(image: str, server: Registry, fresh: Cli) -> None:
    layout = fresh.home / "layout"
    skopeo(fresh, "copy", "--quiet", "--src-tls-verify=false", f"docker://{server.address}/{image}",
           f"oci:{layout}:it")
    fresh.ok("load", "-i", str(layout))
    ours = plain(mounted(layers_of(fresh, layout), fresh.home), IMPLIED[image])
    as_root("umoci", "unpack", "--image", f"{layout}:it", str(fresh.home / "bundle"))
    theirs = plain(tree(fresh.home / "bundle/rootfs"), IMPLIED[image])
    assert len(ours) > 100 and differences(ours, theirs) == {}


# ---- the unpacker, without an image around it --------------------------------------------------

class Store:
    """A store and a namespace, as the engine has them."""

    def __init__(self, cli: Cli) -> None:
        self.paths = Paths({**cli.env, "ROOTLESS_ROOT": str(cli.store)}, os.getuid())
        self.paths.ensure()
        self.userns = keeper.open_userns(self.paths)

    def unpack(self, blob: bytes, expected: str = "", userns: Userns | None = None) -> Path:
        unpacker = Unpacker(self.paths, userns or self.userns, expected=expected,
                            blob_size=len(blob))
        try:
            for at in range(0, len(blob), 100_000):
                unpacker.write(blob[at:at + 100_000])
            unpacker.finish()
        finally:
            unpacker.abort()
        return Path(self.paths.layer(unpacker.diff_id))

    def left(self) -> list[str]:
        return [f"{d}/{n}" for d in ("tmp", "trash", "layers")
                for n in os.listdir(f"{self.paths.data}/{d}")]


@pytest.fixture
def store(fresh: Cli) -> Iterator[Store]:
    made = Store(fresh)
    yield made
    os.close(made.userns.fd)


def noise(megabytes: int) -> Layer:
    tar = Tar()
    for i in range(megabytes):
        tar.file(f"d{i % 7}/f{i}", os.urandom(1 << 20))
    return Layer(tar.bytes(), "none")


def test_owners_devices_and_capabilities(store: Store) -> None:
    capability = b"\x01\x00\x00\x02\x00\x20\x00\x00" + bytes(12)
    tar = (Tar().file("u", uid=1000, gid=33, mode=0o4755).symlink("s", "x", uid=5)
           .file("far", uid=1 << 30, gid=7).device("null", 1, 3).dir("d", 0o711, uid=12, gid=13)
           .file("cap", b"x", xattrs={"security.capability": capability}))
    found = tree(store.unpack(Layer(tar.bytes()).blob))
    assert (found["./u"]["uid"], found["./u"]["gid"], found["./u"]["mode"]) == (1000, 33, "0o4755")
    assert found["./s"]["uid"] == 5
    assert (found["./d"]["uid"], found["./d"]["gid"], found["./d"]["mode"]) == (12, 13, "0o711")
    assert (found["./far"]["uid"], found["./far"]["gid"]) == (0, 7)
    assert bytes.fromhex(found["./far"]["xattrs"]["user.rootless.stat"]) == b"1073741824:7:100644"
    assert bytes.fromhex(found["./null"]["xattrs"]["user.rootless.stat"]) == b"0:0:20644:1:3"
    assert bytes.fromhex(found["./cap"]["xattrs"]["security.capability"])[4:] == capability[4:]


def test_a_root_directory_that_shuts_us_out_can_be_kept_and_removed(store: Store) -> None:
    layer = Layer(Tar().dir("./", 0o500, uid=77, gid=77).file("f", b"12345").bytes())
    path = store.unpack(layer.blob, layer.diff_id)
    assert layer_present(store.paths, store.userns, layer.diff_id)
    assert layer_size(store.paths, store.userns, layer.diff_id) == 5
    with pytest.raises(PermissionError):
        os.listdir(path)
    # Under another map it is another layer: the old one gives way.
    other = Userns(store.userns.fd, store.userns.uids, (*store.userns.gids, Extent(99999999, 1, 1)),
                   "")
    assert not layer_present(store.paths, other, layer.diff_id)
    store.unpack(layer.blob, layer.diff_id, other)
    assert layer_present(store.paths, other, layer.diff_id)
    assert store.left() == ["layers/" + layer.diff_id[7:]]


def test_a_layer_of_one_id_is_not_taken_for_one_with_owners(store: Store) -> None:
    layer = Layer(Tar().file("f", b"x", uid=1000, gid=50).symlink("s", "f", uid=9).bytes())
    path = store.unpack(layer.blob, layer.diff_id)
    with subprocess.Popen(["unshare", "--user", "--map-root-user", "sh", "-c",
                           "echo ready; exec sleep 60"], stdout=subprocess.PIPE) as held:
        assert held.stdout is not None
        held.stdout.readline()
        fd = os.open(f"/proc/{held.pid}/ns/user", os.O_RDONLY)
        held.kill()
    single = Userns(fd, (Extent(0, os.getuid(), 1),), (Extent(0, os.getgid(), 1),), "for the test")
    try:
        assert not layer_present(store.paths, single, layer.diff_id)
        store.unpack(layer.blob, layer.diff_id, single)
        assert layer_present(store.paths, single, layer.diff_id)
        assert not layer_present(store.paths, store.userns, layer.diff_id)
        assert (path / "f").stat().st_uid == os.getuid()
        assert os.getxattr(path / "f", "user.rootless.stat") == b"1000:50:100644"
        store.unpack(layer.blob, layer.diff_id)
        assert layer_present(store.paths, store.userns, layer.diff_id)
        assert tree(path)["./f"]["uid"] == 1000
    finally:
        os.close(fd)


HOSTILE = {
    "climbs out": Tar().file("../../evil", b"x"),
    "hard link out": Tar().hardlink("h", "../../../outside"),
    "hard link to nothing": Tar().hardlink("h", "/etc/passwd"),
    "cut off": Tar().entry("liar", b"0", data=b"few", size=1 << 20),
    "links in a circle": Tar().symlink("a", "a").file("a/b"),
    "a root that is a link": Tar().symlink("/", "/etc"),
    "no type": Tar().entry("x", b"Q"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_layer_is_refused_and_leaves_nothing(what: str, store: Store) -> None:
    with pytest.raises(ImageError):
        store.unpack(HOSTILE[what].bytes())
    assert store.left() == []


def test_links_lead_nowhere_but_into_the_layer(store: Store, fresh: Cli) -> None:
    outside = fresh.home / "outside"
    outside.mkdir()
    path = store.unpack((
        Tar().symlink("abs", str(outside)).file("abs/evil", b"x").symlink("up", "../" * 20)
        .file("up/evil", b"y").symlink("file", "/etc/passwd").file("file", b"mine")).bytes())
    assert list(outside.iterdir()) == []
    assert (path / str(outside)[1:] / "evil").read_bytes() == b"x"
    assert (path / "evil").read_bytes() == b"y" and (path / "file").read_bytes() == b"mine"


def test_a_layer_with_another_digest_is_refused(store: Store) -> None:
    with pytest.raises(ImageError, match="not what the image says"):
        store.unpack(Layer(Tar().file("f").bytes()).blob, digest_of(b"other"))
    assert store.left() == []


def test_the_second_waits_for_the_first_and_finds_it_done(store: Store) -> None:
    layer = noise(3)
    first = Unpacker(store.paths, store.userns, expected=layer.diff_id, blob_size=None)
    first.write(layer.blob[:1_000_000])
    second: list[Unpacker] = []
    waiting = threading.Thread(target=lambda: second.append(Unpacker(
        store.paths, store.userns, expected=layer.diff_id, blob_size=None)))
    waiting.start()
    time.sleep(0.2)
    assert not second
    first.write(layer.blob[1_000_000:])
    assert first.finish() == 3 << 20
    waiting.join(20)
    assert second[0].present
    second[0].write(b"ignored")
    assert second[0].finish() == 3 << 20
    assert store.left() == ["layers/" + layer.diff_id[7:]]


def test_a_killed_child_is_told_and_leaves_nothing(store: Store) -> None:
    layer = noise(8)
    unpacker = Unpacker(store.paths, store.userns, expected=layer.diff_id, blob_size=None)
    unpacker.write(layer.blob[:3_000_000])
    for child in children():
        os.kill(child, signal.SIGKILL)
    with pytest.raises(StorageError, match="died"):
        unpacker.write(layer.blob[3_000_000:])
        unpacker.finish()
    unpacker.abort()
    assert store.left() == []


def children() -> list[int]:
    listed = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text()
    return [int(p) for p in listed.split() if b"registry" not in command_line(p)]


def command_line(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b"registry"          # an orphan that was adopted and has just been reaped


HALF = """
import os, sys
from rootless.image.unpack import Unpacker
from rootless.paths import of_this_user
from rootless.userns import keeper
paths = of_this_user()
unpacker = Unpacker(paths, keeper.open_userns(paths), expected=sys.argv[1], blob_size=None)
unpacker.write(sys.stdin.buffer.read())
print("half", flush=True)
os.read(0, 1)
os.kill(os.getpid(), 9)
"""


def test_what_a_killed_engine_left_goes_with_the_next_unpacking(store: Store, fresh: Cli) -> None:
    layer = noise(8)
    with subprocess.Popen([sys.executable, "-c", HALF, layer.diff_id], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, cwd=CHECKOUT,
                          env={**fresh.env, "PYTHONPATH": str(CHECKOUT)}) as engine:
        engine.communicate(layer.blob[:5_000_000], 30)
    assert engine.returncode == -signal.SIGKILL
    left = store.left()
    assert left and not any(n.startswith("layers/") for n in left)
    small = Layer(Tar().file("f").bytes())
    end = time.monotonic() + 10
    while True:         # the orphan notices the end of its pipe when it comes to it
        store.unpack(small.blob, small.diff_id)
        if store.left() == ["layers/" + small.diff_id[7:]] or time.monotonic() > end:
            break
        time.sleep(0.05)
    assert store.left() == ["layers/" + small.diff_id[7:]]
    path = store.unpack(layer.blob, layer.diff_id)
    assert sum(f.stat().st_size for f in path.rglob("f*") if f.is_file()) == 8 << 20


def test_a_full_disk_is_said_so_and_leaves_nothing(store: Store, fresh: Cli) -> None:
    archive = fresh.home / "rootfs.tar"
    archive.write_bytes(noise(12).blob)
    small = fresh.home / "small"
    small.mkdir()
    script = ('mount -t tmpfs -o size=16m small "$0" && mount -t tmpfs -o mode=755 run /run && '
              'export ROOTLESS_ROOT="$0/store" && "$@" import rootfs.tar; echo "exit $?"; '
              'ls "$0"/store/tmp "$0"/store/layers "$0"/store/images/blobs/sha256; '
              '"$@" system stop')
    done = subprocess.run(
        ["unshare", "--map-root-user", "--map-auto", "--mount", "sh", "-c", script, str(small),
         *COMMAND], cwd=fresh.home, env=fresh.env, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, check=False)
    said = done.stdout.decode()
    assert "No space left on device" in said and "rootless rmi" in said, said
    assert "exit 1" in said
    assert [line for line in said.splitlines() if len(line) >= 64 and "/" not in line] == [], said


def test_a_blob_in_the_store_can_be_unpacked_again(store: Store, fresh: Cli) -> None:
    layer = Layer(Tar().file("f", b"hello").bytes(), "zstd")
    place = fresh.home / "blob"
    place.write_bytes(layer.blob)
    assert unpack_blob(store.paths, store.userns, str(place), layer.diff_id) == 5
    assert unpack_blob(store.paths, store.userns, str(place), layer.diff_id) == 5


def test_two_loads_at_once_make_one_layer(fresh: Cli) -> None:
    layer = noise(20)
    archive = fresh.home / "a.tar"
    archive.write_bytes(oci_archive(Image([layer]), "example.com/twice:1"))
    both = [fresh.popen("load", "-i", str(archive), stdout=subprocess.PIPE) for _ in range(2)]
    for process in both:
        out, _ = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, b"Loaded image: example.com/twice:1\n")
    assert os.listdir(fresh.store / "layers") == [layer.diff_id[7:]]


def test_a_store_in_a_shared_directory_passes_nothing_on(store: Store) -> None:
    subprocess.run(["setfacl", "-d", "-m", "u:daemon:rwx,o::rwx", store.paths.tmp], check=True)
    os.chmod(store.paths.tmp, 0o2711)
    layer = Layer(Tar().file("f", mode=0o640).file("implied/g").bytes())
    found = tree(store.unpack(layer.blob, layer.diff_id))
    assert {n: (f["mode"], f["gid"]) for n, f in found.items()} == {
        ".": ("0o755", 0), "./f": ("0o640", 0), "./implied": ("0o755", 0),
        "./implied/g": ("0o644", 0)}
    assert not [n for f in found.values() for n in f["xattrs"] if n.startswith("system.")]
