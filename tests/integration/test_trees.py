"""What a container of an image sees is what podman mounts of it, to the last attribute, whoever
made the image and however it came."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.support import filled, images
from tests.integration.support.cli import Cli
from tests.integration.support.images import Image, Layer, Tar, oci_archive
from tests.integration.support.registry import Registry
from tests.integration.support.trees import Podman, Tree, as_root, differences, inside

# A container has these, whatever its image has there; and podman gives every image a root
# directory of its own, which is a test below.
OF_THE_CONTAINER = (".", "./proc", "./sys", "./dev", "./run", "./etc/hosts", "./etc/hostname",
                    "./etc/resolv.conf", "./.dockerenv")
CAPABILITY = b"\x01\x00\x00\x02\x00\x20\x00\x00" + bytes(12)
LONG = "/".join("d" * 60 + str(n) for n in range(5))


@pytest.fixture(scope="module")
def podman(ground: Path) -> Iterator[Podman]:
    home = ground / "podman"
    one = Podman(home)
    yield one
    one.ok("system", "migrate")     # ends the process that holds its namespaces
    filled.remove_tree(home)


@pytest.fixture(scope="module")
def base(server: Registry) -> list[Layer]:
    """What a container takes to run: the layers of `tiny`."""
    _, _, body = images.request(server.address, "GET", "/v2/tiny/manifests/latest",
                                headers={"Accept": images.OCI + "manifest.v1+json"})
    return [Layer(gzip.decompress(server.blob_file(layer["digest"]).read_bytes()))
            for layer in json.loads(body)["layers"]]


def comparable(found: Tree, implied: frozenset[str] = frozenset()) -> Tree:
    """Without what is the container's, and the time of the directory into which it was put."""
    kept = {name: facts for name, facts in found.items()
            if name not in OF_THE_CONTAINER and not name.startswith("./dev/")}
    for name in {"./etc"} | implied:
        kept[name]["mtime"] = 0
    return kept


# ---- images by hand ----------------------------------------------------------------------------

def sparse(folder: Path, *options: str) -> bytes:
    """Files of holes by GNU tar, which knows four ways to write them."""
    folder.mkdir(exist_ok=True)
    place = folder / "s"
    place.mkdir(exist_ok=True)
    name = "".join(c for c in "-".join(options) if c.isalnum())
    for kind, spans in {"none": [], "front": [0], "middle": [1 << 20], "many": range(
            0, 4 << 20, 128 << 10)}.items():
        with open(place / f"{name}-{kind}", "wb") as f:
            f.truncate(5 << 20)
            for offset in spans:
                f.seek(offset)
                f.write(b"data" * 1024)
    files = sorted(f"s/{p.name}" for p in place.iterdir() if p.name.startswith(name + "-"))
    done = subprocess.run(
        ["tar", "--create", "--sparse", "--mtime=@1700000000", "--owner=0", "--group=0",
         *options, *files], cwd=folder, check=True, stdout=subprocess.PIPE)
    return done.stdout


SPARSE = [("--format=pax", f"--sparse-version={v}") for v in ("0.0", "0.1", "1.0")]


def lower() -> Tar:
    return (Tar().dir("./", 0o700, uid=3).dir("t").file("t/stays", b"lower")
            .file("t/hidden", b"lower")
            .dir("t/opaque", 0o750, uid=7, gid=8).file("t/opaque/lower", b"lower")
            .dir("t/tree").dir("t/tree/a").file("t/tree/a/b", b"lower")
            .dir("t/again").file("t/again/old", b"old")
            .dir("t/merged", 0o700).file("t/merged/below", b"below")
            .dir("t/becomes-file").file("t/becomes-file/x", b"x").file("t/becomes-dir", b"f")
            .dir("t/becomes-link").file("t/becomes-link/x", b"x")
            .symlink("t/link-to-dir", "tree").symlink("t/link-gone", "tree")
            .file("t/first", b"two names", uid=3).hardlink("t/second", "t/first", uid=3)
            .hardlink("t/third", "t/first", uid=3).fifo("t/pipe-gone").fifo("t/pipe-file"))


def upper() -> Tar:
    return (Tar().dir("t", 0o1775, uid=5, gid=6).whiteout("t/hidden").opaque("t/opaque")
            .file("t/opaque/upper", b"upper").whiteout("t/tree")
            .whiteout("t/again").whiteout("t/was-never-there")
            .dir("t/merged", 0o711, uid=65534, mtime=1_600_000_000).file("t/merged/above", b"above")
            .file("t/becomes-file", b"now a file").dir("t/becomes-dir").file("t/becomes-dir/x")
            .symlink("t/becomes-link", "merged").dir("t/link-to-dir")
            .file("t/link-to-dir/own", b"own").whiteout("t/link-gone")
            .file("t/first", b"on its own").whiteout("t/second").whiteout("t/pipe-gone")
            .file("t/pipe-file", b"a file"))


def topmost() -> Tar:
    """Brings back what was hidden; empty directories in the place of full ones."""
    return (Tar().dir("t").dir("t/merged", 0o710, uid=65534).dir("t/again")
            .file("t/again/new", b"new").file("t/hidden", b"back")
            .dir("t/tree").dir("t/opaque").opaque("t/opaque").opaque("t/merged"))


def odd() -> Tar:
    tar = (Tar().dir("t").dir("t/o").file(b"t/o/latin-\xe9", b"latin").file("t/o/new\nline")
           .file("t/o/ spaces ").file("t/o/-rf").file("t/o/" + "n" * 255, b"longest")
           .file("t/o/setuid", b"x", mode=0o4755).file("t/o/setgid", b"x", mode=0o2711, gid=12)
           .file("t/o/both", b"x", mode=0o6755, uid=1000, gid=1000).dir("t/o/sticky", 0o1777)
           .dir("t/o/setgid-dir", 0o2775, gid=50).file("t/o/none", b"x", mode=0)
           .fifo("t/o/fifo", mode=0o640, uid=1000, gid=5).file("t/o/u65534", uid=65534, gid=65534)
           .symlink("t/o/owned-link", "x", uid=1000, gid=1000, mtime=1_500_000_000)
           .symlink("t/o/long-link", "x/" * 500 + "y").symlink("t/o/absolute", "/t/o/none")
           .symlink("t/o/up", "../../../../etc/passwd")
           .file("t/o/original", b"shared", uid=33).hardlink("t/o/zz-name", "t/o/original", uid=33)
           .hardlink("t/o/aa-name", "./t/o/zz-name", uid=33)
           .symlink("t/o/link", "original").hardlink("t/o/link-again", "t/o/link")
           .file("t/o/attributes", b"", xattrs={"user.note": b"hello",
                                                "user.long": b"v" * 1000})
           .file("t/o/capable", b"x", mode=0o755, uid=9, xattrs={"security.capability": CAPABILITY})
           .dir("t/o/noted", xattrs={"user.note": b"on a directory"})
           .file("t/o/old", mtime=0).file("t/o/future", mtime=4_102_444_800)
           .dir("t/o/readonly", 0o555, uid=2).file("t/o/readonly/inside", b"inside")
           .file("./t/o/dot", b"dot"))
    for number, kind in enumerate((b"0", b"5", b"6", b"2")):
        tar.entry(f"t/o/exact-{number}", kind, mode=0o755, link="x" if kind == b"2" else "",
                  pax={"mtime": f"170000000{number}.12345678{number}"})
    return tar


def long_names(*, pax: bool) -> Tar:
    top = f"t/{'pax' if pax else 'gnu'}"
    tar = Tar(pax=pax).dir("t").dir(top)
    parts = LONG.split("/")
    for depth in range(1, len(parts) + 1):
        tar.dir(f"{top}/{'/'.join(parts[:depth])}")
    return (tar.file(f"{top}/{LONG}/file", b"deep").hardlink(f"{top}/short", f"{top}/{LONG}/file")
            .symlink(f"{top}/link", LONG + "/file"))


def everything(base: list[Layer], folder: Path, compression: str = "gzip") -> Image:
    tars = [lower(), Tar(), upper(), topmost(), odd(), long_names(pax=True), long_names(pax=False)]
    layers = [*(tar.bytes() for tar in tars), *(sparse(folder, *o) for o in SPARSE),
              Tar().dir("./", 0o751, uid=12, gid=13, mtime=1_650_000_000).bytes()]
    return Image([*base, *(Layer(data, compression) for data in layers)],
                 {"Cmd": ["sh"], "Env": ["PATH=/bin"]})


def layout(image: Image, folder: Path) -> Path:
    folder.mkdir()
    subprocess.run(["tar", "-xC", str(folder)], input=oci_archive(image, "it"), check=True)
    return folder


def skopeo(*words: str) -> None:
    done = subprocess.run(["skopeo", "--insecure-policy", "copy", "--quiet",
                           "--src-tls-verify=false", "--dest-tls-verify=false", *words],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert done.returncode == 0, done.stdout.decode()


# ---- the comparison ----------------------------------------------------------------------------

def pulled(cli: Cli, podman: Podman, name: str) -> tuple[Tree, Tree]:
    cli.ok("pull", "-q", name, timeout=120)
    podman.ok("pull", "-q", "--tls-verify=false", name)
    return inside(cli, name), podman.tree(name)


def loaded(cli: Cli, podman: Podman, kind: str, place: Path,
           of: str = "") -> tuple[Tree, Tree]:
    said = cli.ok("load", "-i", str(place)).text
    identity = podman.ok("pull", "-q", f"{kind}:{place}{of}")
    return inside(cli, said.split(": ", 1)[1]), podman.tree(identity)


def same(both: tuple[Tree, Tree], least: int, implied: frozenset[str] = frozenset()) -> None:
    ours, theirs = (comparable(found, implied) for found in both)
    assert len(ours) > least
    assert differences(ours, theirs) == {}


# Where no entry of any layer describes a directory its time is that of the unpacking.
NOWHERE = frozenset(["./s"])


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_by_hand(compression: str, fresh: Cli, podman: Podman, server: Registry,
                 base: list[Layer]) -> None:
    images.push(server.address, "trees", compression, everything(base, fresh.home / "s",
                                                                 compression))
    same(pulled(fresh, podman, f"{server.address}/trees:{compression}"), 150, NOWHERE)


@pytest.mark.parametrize("options", [
    ("--format", "v2s2"), ("--dest-compress-format", "zstd", "--dest-compress"),
    ("--dest-decompress",)],
    ids=lambda options: options[-1] if len(options) < 3 else options[1])
def test_converted_on_the_way_to_a_registry(options: tuple[str, ...], fresh: Cli, podman: Podman,
                                            server: Registry, base: list[Layer]) -> None:
    place = layout(everything(base, fresh.home / "s"), fresh.home / "layout")
    repository = f"{server.address}/converted-{abs(hash(options))}"
    skopeo(*options, f"oci:{place}:it", f"docker://{repository}:1")
    same(pulled(fresh, podman, f"{repository}:1"), 150, NOWHERE)


def test_in_chunks(fresh: Cli, podman: Podman, server: Registry, base: list[Layer]) -> None:
    """skopeo 1.9 loses the filling behind the end of an archive and the holes of a file, and
    then the layers are no longer what the configuration says: they have neither here."""
    tars = [lower(), Tar(), upper(), topmost(), odd(), long_names(pax=True)]
    blobs = [*(gzip.decompress(layer.blob) for layer in base), *(tar.bytes() for tar in tars)]
    short = [Layer(data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % 512 + 1024))
             for data in blobs]
    place = layout(Image(short, {"Cmd": ["sh"]}), fresh.home / "layout")
    skopeo("--dest-compress", "--dest-compress-format", "zstd:chunked", f"oci:{place}:it",
           f"docker://{server.address}/chunked:1")
    same(pulled(fresh, podman, f"{server.address}/chunked:1"), 130)
    # The table of contents is there, and is no part of the archive.
    config = fresh.ok("inspect", f"{server.address}/chunked:1").json[0]
    assert config["RootFS"]["Layers"] == [layer.diff_id for layer in short]


def test_through_an_archive_of_dockers_and_back(fresh: Cli, podman: Podman,
                                                base: list[Layer]) -> None:
    place = layout(everything(base, fresh.home / "s"), fresh.home / "layout")
    archive = fresh.home / "docker.tar"
    skopeo(f"oci:{place}:it", f"docker-archive:{archive}:localhost/it:1")
    by_archive = loaded(fresh, podman, "docker-archive", archive)
    same(by_archive, 150, NOWHERE)
    back = fresh.home / "back"
    skopeo(f"docker-archive:{archive}", f"oci:{back}:again")
    ours, theirs = loaded(fresh, podman, "oci", back, ":again")
    same((ours, theirs), 150, NOWHERE)
    assert differences(comparable(ours, NOWHERE), comparable(by_archive[0], NOWHERE)) == {}


@pytest.mark.parametrize("tag", ["oci", "docker"])
def test_built_by_buildah(tag: str, fresh: Cli, podman: Podman, server: Registry) -> None:
    both = pulled(fresh, podman, f"{server.address}/multi:{tag}")
    assert "user.note" in both[0]["./data/keep/one"]["xattrs"]
    assert both[0]["./data/hard"]["links"] == 2
    same(both, 1000)


UMOCI = """
set -e
cd "$1"
umoci unpack --image layout:it bundle
cd bundle/rootfs
rm t/stays && rm -r t/merged && mkdir t/merged && echo umoci > t/merged/umoci
echo more >> t/o/original && ln t/o/none t/o/none-again && mkfifo t/o/new-fifo
setfattr -n user.other -v value t/o/attributes && setfattr -x user.note t/o/noted
setcap cap_chown+ep t/o/none && chown 1234:4321 t/o/old && chmod 4711 t/o/dot
touch -d '2001-02-03 04:05:06.789012345' t/o/exact-0
touch -h -d '2002-02-03 04:05:06.789012345' t/o/link
mv t/opaque t/moved
cd "$1"
umoci repack --image layout:new bundle
"""


def test_changed_by_umoci(fresh: Cli, podman: Podman, base: list[Layer]) -> None:
    place = layout(everything(base, fresh.home / "s"), fresh.home / "layout")
    as_root("sh", "-c", UMOCI, "sh", str(fresh.home))
    one = fresh.home / "one"
    skopeo(f"oci:{place}:new", f"oci:{one}:new")
    ours, theirs = loaded(fresh, podman, "oci", one, ":new")
    assert ours["./t/o/old"]["uid"] == 1234 and "./t/stays" not in ours
    assert "security.capability" in ours["./t/o/none"]["xattrs"]
    same((ours, theirs), 150, NOWHERE)


def test_of_sixty_layers(fresh: Cli, podman: Podman, server: Registry, base: list[Layer]) -> None:
    layers = list(base)
    for n in range(58):
        tar = Tar().dir("t", mtime=1_700_000_000 + n).file(f"t/of-{n}", str(n).encode())
        tar.file("t/changes", str(n).encode(), uid=n).dir(f"t/d{n % 5}", 0o700 + n % 8)
        tar.file(f"t/d{n % 5}/{n}", b"x")
        if n % 3 == 2:
            tar.whiteout(f"t/of-{n - 1}")
        if n % 7 == 6:
            tar.opaque(f"t/d{n % 5}")
        layers.append(Layer(tar.bytes()))
    assert len(layers) == 60
    images.push(server.address, "trees", "sixty", Image(layers, {"Cmd": ["sh"]}))
    both = pulled(fresh, podman, f"{server.address}/trees:sixty")
    assert both[0]["./t/changes"]["uid"] == 57 and "./t/of-1" not in both[0]
    same(both, 150)


def test_a_layer_may_come_twice(fresh: Cli, podman: Podman, server: Registry,
                                base: list[Layer]) -> None:
    """The kernel's overlay takes no directory twice."""
    one = Layer(Tar().dir("t", 0o750).file("t/a", b"1").file("t/b", b"1").whiteout("t/c").bytes())
    two = Layer(Tar().dir("t", 0o700).whiteout("t/a").file("t/b", b"2").file("t/c", b"2").bytes())
    images.push(server.address, "trees", "twice", Image([*base, one, two, one], {"Cmd": ["sh"]}))
    both = pulled(fresh, podman, f"{server.address}/trees:twice")
    same(both, 3)
    assert "./t/a" in both[0] and "./t/c" not in both[0] and both[0]["./t/b"]["size"] == 1


# ---- where the two differ, and why -------------------------------------------------------------

def test_owners_above_the_map_are_refused_by_podman_and_kept_by_us(
        fresh: Cli, podman: Podman, server: Registry, base: list[Layer]) -> None:
    tar = Tar().dir("t").file("t/far", b"x", uid=1 << 20, gid=70000).file("t/near", b"x", uid=65534)
    images.push(server.address, "trees", "far", Image([*base, Layer(tar.bytes())], {}))
    name = f"{server.address}/trees:far"
    refused = podman("pull", "-q", "--tls-verify=false", name)
    assert refused.returncode != 0 and "insufficient UIDs" in refused.stderr
    fresh.ok("pull", "-q", name)
    seen = inside(fresh, name)
    assert (seen["./t/far"]["uid"], seen["./t/far"]["gid"]) == (0, 0)
    assert seen["./t/near"]["uid"] == 65534
    assert bytes.fromhex(seen["./t/far"]["xattrs"]["user.rootless.stat"]) == b"1048576:70000:100644"


def test_devices_are_left_out_by_podman_and_empty_files_here(
        fresh: Cli, podman: Podman, server: Registry, base: list[Layer]) -> None:
    tar = Tar().dir("t").device("t/null", 1, 3, mode=0o666).device("t/disk", 8, 0, block=True)
    images.push(server.address, "trees", "devices", Image([*base, Layer(tar.bytes())], {}))
    ours, theirs = pulled(fresh, podman, f"{server.address}/trees:devices")
    assert differences(comparable(ours), comparable(theirs)) == {
        "./t/disk": "only ours", "./t/null": "only ours"}
    assert [ours[f"./t/{n}"]["size"] for n in ("disk", "null")] == [0, 0]


def test_hard_links_to_lower_layers_are_refused_by_both(
        fresh: Cli, podman: Podman, server: Registry, base: list[Layer]) -> None:
    image = Image([*base, Layer(Tar().dir("t").file("t/a", b"x").bytes()),
                   Layer(Tar().dir("t").hardlink("t/b", "t/a").bytes())], {})
    images.push(server.address, "trees", "over", image)
    name = f"{server.address}/trees:over"
    assert podman("pull", "-q", "--tls-verify=false", name).returncode != 0
    fresh.fails(1, "pull", name, says="no file of this layer")
    assert os.listdir(fresh.store / "tmp") == []


def test_an_opaque_root_hides_all_layers_below(fresh: Cli, server: Registry,
                                               base: list[Layer]) -> None:
    """The kernel's overlay does not look for that mark on the root of a layer."""
    hidden = Layer(Tar().dir("d").file("d/x").file("gone").bytes())
    whole = Layer(Tar().file(".wh..wh..opq").file("there").bytes())
    name, same = (f"{server.address}/opaque:{n}" for n in "12")
    images.push(server.address, "opaque", "1", Image([hidden, whole, *base], {}))
    images.push(server.address, "opaque", "2", Image([whole, *base], {}))
    fresh.ok("pull", "-q", name)
    fresh.ok("pull", "-q", same)
    assert fresh.ok("image", "diff", name, same).text == ""
    ours = inside(fresh, name)
    assert "./there" in ours and not {"./gone", "./d"} & set(ours)
    listed = fresh.ok("run", "--name", "c", "--network", "none", name, "ls", "/").text.split()
    assert "there" in listed and not {"gone", "d"} & set(listed)
    assert "gone" not in fresh.ok("start", "-a", "c").text.split()
    with tarfile.open(fileobj=io.BytesIO(fresh.ok("export", "c").out)) as tar:
        names = tar.getnames()
    assert "there" in names and "gone" not in names


def test_the_root_is_as_the_uppermost_layer_that_describes_it_has_it(
        fresh: Cli, podman: Podman, server: Registry, base: list[Layer]) -> None:
    described = Tar().dir("./", 0o1730, uid=12, gid=13, mtime=1_650_000_000,
                          xattrs={"user.note": b"root"}).file("x")
    images.push(server.address, "trees", "root", Image(
        [Layer(Tar().dir("./", 0o700, uid=9).bytes()), Layer(described.bytes()), *base], {}))
    ours, theirs = pulled(fresh, podman, f"{server.address}/trees:root")
    root = ours["."]
    assert (root["mode"], root["uid"], root["gid"]) == ("0o1730", 12, 13)
    assert root["xattrs"] == {"user.note": b"root".hex()}
    assert (theirs["."]["mode"], theirs["."]["uid"], theirs["."]["xattrs"]) == ("0o555", 0, {})
    # What a container makes of it stays.
    fresh.ok("run", "--name", "c", f"{server.address}/trees:root", "chmod", "711", "/")
    assert fresh.ok("start", "-a", "c").rc == 0
    assert fresh.ok("run", "--rm", "-v", "/:/h:ro", f"{server.address}/trees:root", "stat", "-c",
                    "%a %u %g", "/").text == "1730 12 13"


def test_times_before_1970_are_1970_in_podman_and_kept_here(
        fresh: Cli, podman: Podman, server: Registry, base: list[Layer]) -> None:
    tar = Tar().dir("t").file("t/moon", mtime=-14_182_940)
    images.push(server.address, "trees", "moon", Image([*base, Layer(tar.bytes())], {}))
    ours, theirs = pulled(fresh, podman, f"{server.address}/trees:moon")
    assert differences(comparable(ours), comparable(theirs)) == {
        "./t/moon": {"mtime": (-14_182_940 * 10**9, 0)}}


def test_attributes_without_a_value_are_left_out_by_podman_and_kept_here(
        fresh: Cli, podman: Podman, server: Registry, base: list[Layer]) -> None:
    tar = Tar().dir("./").dir("t").file("t/f", xattrs={"user.empty": b"", "user.full": b"x"})
    images.push(server.address, "trees", "empty", Image([*base, Layer(tar.bytes())], {}))
    ours, theirs = pulled(fresh, podman, f"{server.address}/trees:empty")
    assert differences(comparable(ours), comparable(theirs)) == {"./t/f": {"xattrs": (
        {"user.empty": "", "user.full": "78"}, {"user.full": "78"})}}


def test_sparse_files_of_gnu_are_refused_by_podman_and_whole_here(
        fresh: Cli, podman: Podman, server: Registry, base: list[Layer]) -> None:
    data = sparse(fresh.home / "s", "--format=gnu")
    images.push(server.address, "trees", "gnu", Image([*base, Layer(data)], {}))
    name = f"{server.address}/trees:gnu"
    refused = podman("pull", "-q", "--tls-verify=false", name)
    assert refused.returncode != 0 and "unhandled tar header type 83" in refused.stderr
    fresh.ok("pull", "-q", name)
    files = {p.name: p.read_bytes() for p in (fresh.home / "s/s").iterdir()}
    seen = inside(fresh, name)
    assert len(files) == 4
    assert {n: hashlib.sha256(data).hexdigest() for n, data in files.items()} == {
        n: seen[f"./s/{n}"]["digest"] for n in files}


def test_names_that_come_twice_are_refused_by_podman_and_the_last_counts_here(
        fresh: Cli, podman: Podman, server: Registry, base: list[Layer]) -> None:
    tar = Tar().dir("t").file("t/twice", b"first", uid=4).file("t/twice", b"second", uid=5)
    images.push(server.address, "trees", "twice", Image([*base, Layer(tar.bytes())], {}))
    name = f"{server.address}/trees:twice"
    refused = podman("pull", "-q", "--tls-verify=false", name)
    assert refused.returncode != 0 and "duplicates of file paths" in refused.stderr
    fresh.ok("pull", "-q", name)
    seen = inside(fresh, name)["./t/twice"]
    assert (seen["size"], seen["uid"]) == (6, 5)
