"""Images made to do harm: each is refused in one clear line and leaves nothing, or does none."""

from __future__ import annotations

import dataclasses
import gzip
import io
import itertools
import json
import os
import subprocess
import tarfile
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.support import images
from tests.integration.support.cli import Cli, Result
from tests.integration.support.faults import Proxy
from tests.integration.support.images import (
    OCI,
    Image,
    Layer,
    Tar,
    digest_of,
    docker_archive,
    oci_archive,
)

_numbers = itertools.count(1)


@dataclasses.dataclass
class Raw(Image):
    """An image whose configuration or manifest is written by hand."""

    raw_config: bytes = b""
    raw_manifest: bytes = b""

    @property
    def config_blob(self) -> bytes:
        return self.raw_config or super().config_blob

    @property
    def manifest_blob(self) -> bytes:
        return self.raw_manifest or super().manifest_blob


def small(**config: Any) -> Image:
    return Image([Layer(Tar().dir("etc").file("etc/f", b"x").bytes())], config)


def nothing_left(cli: Cli) -> None:
    assert cli.ok("images", "-aq").text == ""
    for place in ("layers", "tmp", "trash", "images/blobs/sha256", "cache"):
        # The compiled filter for system calls is of no image.
        assert set(os.listdir(cli.store / place)) <= {"seccomp"}, place


def one_line(result: Result) -> None:
    """A reason for people: short, and nothing in it that a terminal would obey."""
    lines = result.error.splitlines()
    assert len(lines) <= 2 and all(len(line) < 1300 for line in lines), result
    assert all(c.isprintable() for line in lines for c in line), result


def refused(cli: Cli, archive: bytes, says: str = "", **more: Any) -> None:
    one_line(cli.fails(1, "load", stdin=archive, says=says, **more))
    nothing_left(cli)


def of_layer(tar: Tar | bytes, compression: str = "gzip") -> bytes:
    data = tar if isinstance(tar, bytes) else tar.bytes()
    return oci_archive(Image([Layer(data, compression)], {"Cmd": ["x"]}), "hostile:1")


# ---- layers ------------------------------------------------------------------------------------

LAYERS = {
    "climbs": (Tar().file("../evil", b"x"), "outside"),
    "climbs later": (Tar().dir("a").file("a/../../evil", b"x"), "outside"),
    "links out": (Tar().hardlink("passwd", "/etc/passwd"), "no file of this layer"),
    "links far out": (Tar().hardlink("x", "../" * 40 + "etc/passwd"), "outside"),
    "links through a link": (Tar().symlink("l", "/etc").hardlink("x", "l/passwd"),
                             "no file of this layer"),
    "links to a directory": (Tar().dir("d").hardlink("x", "d"), "no file of this layer"),
    "circle": (Tar().symlink("a", "b").symlink("b", "a").file("a/x"), "too many symbolic links"),
    "root is a link": (Tar().symlink("./", "/"), "root is not a directory"),
    "root is a device": (Tar().device("/", 1, 3), "root is not a directory"),
    "unknown type": (Tar().entry("x", b"~"), "unknown type"),
    "too little": (Tar().entry("x", b"0", data=b"few", size=1 << 30), "cut off"),
    "long part": (Tar().file("n" * 256), "File name too long"),
    "long attribute name": (Tar().file("f", xattrs={"user." + "n" * 300: b""}), "attribute"),
    "long attribute": (Tar().file("f", xattrs={"user.a": b"v" * 100_000}), "attribute"),
    "long link": (Tar().symlink("l", "x" * 5000), "File name too long"),
    "whiteout of nothing": (Tar().file(".wh."), "whiteout"),
    "whiteout of above": (Tar().file("a/.wh..."), "whiteout"),
    "below a whiteout": (Tar().file(".wh.d/x"), "whiteout"),
    "escapes in a name": (Tar().file(b"\x1b]0;owned\x07/\xff" + b"\n" * 256), "File name too"),
}


@pytest.mark.parametrize("what", LAYERS)
def test_layer_is_refused(what: str, fresh: Cli) -> None:
    tar, says = LAYERS[what]
    refused(fresh, of_layer(tar), says)
    assert not (fresh.home / "evil").exists()


def header(name: str, **fields: bytes) -> bytes:
    """A header with a right checksum around whatever the fields hold."""
    info = tarfile.TarInfo(name)
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    places = {"mode": 100, "uid": 108, "gid": 116, "size": 124, "mtime": 136, "kind": 156}
    for field, value in fields.items():
        block[places[field]:places[field] + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


HEADERS = {
    "negative size": header("f", size=b"\xff" * 12),
    "endless size": header("f", size=b"\x80" + b"\x7f" * 11),
    "size in words": header("f", size=b"plenty\0"),
    "negative owner": header("f", uid=b"\xff" * 8),
    "endless owner": header("f", gid=b"\x80" + b"\x7f" * 7),
    "endless name": header("f", kind=b"L", size=b"77777777777\0"),
    "endless PAX": header("f", kind=b"x", size=b"77777777777\0"),
    "PAX of itself": header("f", kind=b"x", size=b"00000000012\0") + b"9999999 a=b\n".ljust(512),
    "PAX number": header("f", kind=b"x", size=b"00000000031\0")
    + b"25 size=99999999999999999\n".ljust(512, b"\0") + header("f"),
    "PAX and nothing": header("f", kind=b"x", size=b"00000000006\0") + b"6 a=b\n".ljust(512, b"\0"),
    "noise": os.urandom(10240),
}


@pytest.mark.parametrize("what", HEADERS)
def test_header_that_lies_is_refused(what: str, fresh: Cli) -> None:
    refused(fresh, of_layer(HEADERS[what] + bytes(1024)))


def test_what_is_strange_but_harmless_stays_in_the_layer(fresh: Cli) -> None:
    outside = fresh.home / "outside"
    outside.mkdir()
    tar = (Tar().symlink("abs", str(outside)).file("abs/evil", b"x")
           .symlink("up", "../" * 30 + str(outside)[1:]).file("up/evil", b"y")
           .file("/absolute", b"z").file("a/../b/./c", b"w").device("sda", 8, 0, block=True)
           .symlink("p", "/proc").file("p/self", b"p")
           .file(b"\xff\xfe\x00"[:2], b"bytes").file("twice", b"1").dir("twice")
           .file("twice/x", b"2").symlink("s", "t").file("s", b"3").hardlink("s", "s"))
    fresh.ok("load", stdin=of_layer(tar))
    assert list(outside.iterdir()) == []
    layer, = (fresh.store / "layers").iterdir()
    assert (layer / "absolute").read_bytes() == b"z" and (layer / "b/c").read_bytes() == b"w"
    assert (layer / "sda").is_file() and (layer / "sda").stat().st_size == 0
    assert (layer / "proc/self").read_bytes() == b"p" and (layer / "twice/x").is_file()
    assert (layer / "s").read_bytes() == b"3" and not (layer / "s").is_symlink()
    fresh.ok("rmi", "hostile:1")
    nothing_left(fresh)


def test_a_tree_deeper_than_any_path_comes_and_goes(fresh: Cli) -> None:
    tar = Tar()
    for depth in range(1, 1200, 40):
        tar.dir("/".join(["deep"] * depth))
    tar.file("/".join(["deep"] * 1200), b"x")
    fresh.ok("load", stdin=of_layer(tar))
    fresh.ok("rmi", "hostile:1")
    nothing_left(fresh)


def test_a_hundred_thousand_files_in_one_directory_come_and_go(fresh: Cli) -> None:
    block = bytearray(tarfile.TarInfo("f000000").tobuf(tarfile.USTAR_FORMAT))
    total = sum(block[:148]) + sum(block[156:]) + 8 * 32 - sum(block[1:7])
    out = io.BytesIO()
    for n in range(100_000):
        digits = b"%06d" % n
        block[1:7] = digits
        block[148:156] = b"%06o\0 " % (total + sum(digits))
        out.write(block)
    fresh.ok("load", stdin=of_layer(out.getvalue() + bytes(1024)), timeout=120)
    layer, = (fresh.store / "layers").iterdir()
    assert len(os.listdir(layer)) == 100_000
    fresh.ok("rmi", "hostile:1", timeout=120)
    nothing_left(fresh)


MEMORY = 400 << 20


def with_little_memory(cli: Cli, archive: bytes) -> Result:
    """What the process may ask for in all, its code and threads included."""
    limit = ("prlimit", f"--as={MEMORY}:{MEMORY}")
    with cli.popen("load", before=limit, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                   stderr=subprocess.PIPE) as process:
        out, err = process.communicate(archive, 300)
    assert b"Traceback" not in err, err
    return Result(("load",), process.returncode, out, err)


BOMBS = {"gzip": lambda data: gzip.compress(data, 9),
         "zstd": lambda data: zstandard.ZstdCompressor(level=19).compress(data)}


@pytest.mark.parametrize("form", BOMBS)
def test_a_bomb_takes_no_memory(form: str, fresh: Cli) -> None:
    """Zeros behind the end of the archive belong to its digest: 768 MiB of them."""
    tar = Tar().file("f", b"x").bytes() + bytes(768 << 20)
    archive = of_layer(tar, form)
    assert len(archive) < 8 << 20
    done = with_little_memory(fresh, archive)
    assert done.rc == 0, done
    fresh.ok("rmi", "hostile:1")
    nothing_left(fresh)


@pytest.mark.parametrize("form", BOMBS)
def test_a_file_larger_than_the_memory_comes_in(form: str, fresh: Cli) -> None:
    done = with_little_memory(fresh, of_layer(Tar().file("f", bytes(MEMORY + (64 << 20))), form))
    assert done.rc == 0, done
    layer, = (fresh.store / "layers").iterdir()
    assert (layer / "f").stat().st_size == MEMORY + (64 << 20)


@pytest.mark.parametrize("form", BOMBS)
def test_a_bomb_in_a_description_is_refused_unread(form: str, fresh: Cli) -> None:
    """A name of a gigabyte, of a stream of some kilobytes."""
    tar = header("f", kind=b"L", size=b"10000000000\0") + bytes(64 << 20)
    archive = of_layer(tar, form)
    done = with_little_memory(fresh, archive)
    assert done.rc == 1 and "a description of 1073741824 bytes" in done.error, done
    nothing_left(fresh)


def test_an_archive_of_zeros_without_end_fills_no_disk(fresh: Cli) -> None:
    """Compressed as a whole, with one member of 4 GiB."""
    begin = gzip.compress(header("blob", size=b"%011o\0" % (1 << 32)))
    zeros = gzip.compress(bytes(16 << 20))
    with fresh.popen("load", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                     stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        try:
            process.stdin.write(begin)
            while True:
                process.stdin.write(zeros)
        except BrokenPipeError:
            pass
        _, err = process.communicate()
    assert process.returncode == 1
    assert b"the archive is refused: it unpacks to more than 1024 MiB" in err, err
    nothing_left(fresh)


def test_a_window_as_large_as_all_memory_is_refused(fresh: Cli) -> None:
    """zstd lets a stream say how much the reader must remember: here 2 GiB."""
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=31)
    data = os.urandom(1 << 20)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    blob = compressor.compress(Tar().file("f", data).bytes()) + compressor.flush()
    layer = Layer(Tar().file("f", data).bytes())
    layer.blob, layer.compression = blob, "zstd"
    refused(fresh, oci_archive(Image([layer]), "x:1"), "zstd")


# ---- manifests and lists of them ---------------------------------------------------------------

def manifest(**changes: Any) -> bytes:
    return json.dumps({**small().manifest(), **changes}).encode()


BLOB: dict[str, Any] = {
    "digest": digest_of(small().layers[0].blob), "size": len(small().layers[0].blob),
    "mediaType": OCI + "layer.v1.tar+gzip"}
MANIFESTS = {
    "layers of a number": manifest(layers=7),
    "layers of texts": manifest(layers=["sha256:" + "0" * 64]),
    "no layers": manifest(layers=None),
    "a layer of no size": manifest(layers=[{**BLOB, "size": None}]),
    "a size that is true": manifest(layers=[{**BLOB, "size": True}]),
    "a size of floats": manifest(layers=[{**BLOB, "size": 1e9}]),
    "an endless size": manifest(layers=[{**BLOB, "size": 10 ** 30}]),
    "a digest of nothing": manifest(layers=[{**BLOB, "digest": ""}]),
    "a digest of numbers": manifest(layers=[{**BLOB, "digest": 5}]),
    "a digest that leads out": manifest(layers=[{**BLOB, "digest": "sha256:" + "../" * 21 + "x"}]),
    "a digest in capitals": manifest(layers=[{**BLOB, "digest": BLOB["digest"].upper()}]),
    "a digest and a line": manifest(layers=[{**BLOB, "digest": BLOB["digest"] + "\n"}]),
    "a kind of numbers": manifest(layers=[{**BLOB, "mediaType": 5}]),
    "no configuration": manifest(config=None),
    "a configuration of a list": manifest(config=[]),
    "a kind of a list": manifest(mediaType=["x"]),
    "escapes in a kind": manifest(mediaType="\x1b[2J\x07"),
    "ten thousand layers": manifest(layers=[BLOB] * 10_000),
    "a version of text": manifest(schemaVersion="2", mediaType=None, layers=None),
    "no object": b"[]", "no JSON": b"\xff\xfe", "nothing": b" ", "depth": b"[" * 200_000,
    "a surrogate": manifest(mediaType="\ud800"),
    "a number of a million digits": b'{"schemaVersion": ' + b"9" * 1_000_000 + b"}",
}


@pytest.mark.parametrize("what", MANIFESTS)
def test_manifest_is_refused(what: str, fresh: Cli, proxy: Proxy) -> None:
    body = MANIFESTS[what]
    proxy.rule("/manifests/", body=body, headers={"Content-Type": OCI + "manifest.v1+json"})
    one_line(fresh.fails(1, "pull", f"{proxy.address}/tiny"))
    nothing_left(fresh)
    image = Raw([], raw_manifest=body, raw_config=small().config_blob)
    image.layers = small().layers
    refused(fresh, oci_archive(image, "hostile:1"))


def listing(entries: list[Any], **more: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": OCI + "index.v1+json",
                       "manifests": entries, **more}).encode()


def entry(of: bytes, kind: str = "index", **more: Any) -> dict[str, Any]:
    return {"mediaType": OCI + f"{kind}.v1+json", "digest": digest_of(of), "size": len(of),
            "platform": {"os": "linux", "architecture": images.ARCHITECTURE}, **more}


def layout(index: bytes, *blobs: bytes) -> bytes:
    tar = Tar().file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}').file("index.json", index)
    for blob in {*blobs}:
        tar.file("blobs/sha256/" + digest_of(blob)[7:], blob)
    return tar.bytes()


def test_lists_within_lists_are_refused(fresh: Cli, proxy: Proxy) -> None:
    one = small()
    blobs = [one.layers[0].blob, one.config_blob, one.manifest_blob]
    inner, kind = one.manifest_blob, "manifest"
    for _ in range(500):
        inner, kind = listing([entry(inner, kind)]), "index"
        blobs.append(inner)
    refused(fresh, layout(listing([entry(inner)]), *blobs), "not supported")
    proxy.rule("/manifests/latest", body=inner, headers={"Content-Type": OCI + "index.v1+json"})
    one_line(fresh.fails(1, "pull", f"{proxy.address}/tiny", says="not supported"))
    nothing_left(fresh)


def test_a_list_that_names_itself_is_refused(fresh: Cli, proxy: Proxy) -> None:
    """By a digest it cannot have: what comes is checked against it."""
    circle = listing([entry(b"", "manifest", digest="sha256:" + "1" * 64, size=100)])
    proxy.rule("/manifests/", body=circle, headers={"Content-Type": OCI + "index.v1+json"})
    one_line(fresh.fails(1, "pull", f"{proxy.address}/tiny"))
    nothing_left(fresh)


INDEXES: dict[str, list[Any]] = {
    "entries of numbers": [1, 2], "entries of lists": [[]], "no digest": [{}],
    "a digest that leads out": [{"digest": "sha256:../../../../etc/passwd", "size": 5,
                                 "mediaType": OCI + "manifest.v1+json"}],
    "names of numbers": [entry(small().manifest_blob, "manifest", annotations={
        "org.opencontainers.image.ref.name": 7, "io.containerd.image.name": [1]}, size="x")],
    "a name that leads out": [entry(small().manifest_blob, "manifest", annotations={
        "io.containerd.image.name": "../../../etc:1"})],
    "a platform of text": [entry(listing([{"platform": "linux"}]))],
}


@pytest.mark.parametrize("what", INDEXES)
def test_index_is_refused(what: str, fresh: Cli) -> None:
    one = small()
    refused(fresh, layout(listing(INDEXES[what]), one.layers[0].blob, one.config_blob,
                          one.manifest_blob, listing([{"platform": "linux"}])))


def test_annotations_of_megabytes_do_no_harm(fresh: Cli) -> None:
    one = small(Labels={"l": "x" * 1_000_000})
    body = json.dumps({**one.manifest(), "annotations": {
        f"k{n}": "v" * 1000 for n in range(3000)}}).encode()
    raw = Raw(one.layers, raw_config=one.config_blob, raw_manifest=body)
    fresh.ok("load", stdin=oci_archive(raw, "big:1"))
    assert len(fresh.ok("images").text.splitlines()) == 2
    assert len(fresh.ok("inspect", "big:1").json[0]["Config"]["Labels"]["l"]) == 1_000_000
    assert len((fresh.store / "images/index.json").read_bytes()) < 10_000
    fresh.ok("rmi", "big:1")
    nothing_left(fresh)


@pytest.mark.parametrize("listed", [
    7, [7], [{}], [{"Config": 1, "Layers": []}], [{"Config": "c", "Layers": {}}],
    [{"Config": "../../../../etc/passwd", "Layers": []}],
    [{"Config": "c.json", "Layers": ["/etc/passwd"]}],
    [{"Config": "c.json", "Layers": [None], "RepoTags": 5}],
    [{"Config": "c.json", "Layers": ["l"], "RepoTags": {"a": 1}}],
    [{"Config": "c.json", "Layers": ["l"], "RepoTags": [5]}],
    [{"Config": "c.json", "Layers": ["l"], "RepoTags": ["../..:x"]}],
    [{"Config": "c.json", "Layers": ["l"] * 600, "RepoTags": ["a:1"]}]], ids=str)
def test_listing_of_dockers_archive_is_refused(listed: Any, fresh: Cli) -> None:
    one = small()
    tar = (Tar().file("c.json", one.config_blob).file("l", one.layers[0].blob)
           .file("manifest.json", json.dumps(listed).encode()))
    refused(fresh, tar.bytes())


# ---- configurations ----------------------------------------------------------------------------

def configured(inner: Any, **outer: Any) -> bytes:
    layer = small().layers[0]
    whole = {"architecture": images.ARCHITECTURE, "os": "linux", "config": inner,
             "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]}, **outer}
    return json.dumps({k: v for k, v in whole.items() if v != "absent"}).encode()


def archive_of(config: bytes, docker: bool = False) -> bytes:
    raw = Raw(small().layers, raw_config=config)
    return docker_archive(raw, "hostile:1") if docker else oci_archive(raw, "hostile:1")


CONFIGS = {
    "Env of numbers": configured({"Env": [1]}), "Env of text": configured({"Env": "A=b"}),
    "Env with a zero byte": configured({"Env": ["A=\0"]}),
    "Entrypoint of text": configured({"Entrypoint": "/bin/sh"}),
    "Cmd of objects": configured({"Cmd": [{}]}), "User of numbers": configured({"User": 5}),
    "User with a line": configured({"User": "root\nroot"}),
    "WorkingDir with a zero byte": configured({"WorkingDir": "/\0"}),
    "User that is half a character": configured({"User": "\ud800"}),
    "Env that is half a character": configured({"Env": ["A=\udfff"]}),
    "label that is half a character": configured({"Labels": {"a": "\ud800"}}),
    "key that is half a character": configured({"Labels": {"\ud800": ""}}),
    "author that is half a character": configured({}, author="\ud800"),
    "WorkingDir of a list": configured({"WorkingDir": ["/"]}),
    "ExposedPorts of a list": configured({"ExposedPorts": ["80/tcp"]}),
    "Volumes of text": configured({"Volumes": "/data"}),
    "Labels of numbers": configured({"Labels": {"a": 1}}),
    "Labels of a list": configured({"Labels": ["a=b"]}),
    "StopSignal of numbers": configured({"StopSignal": 9}),
    "config of a list": configured([]), "config of text": configured("x"),
    "no rootfs": configured({}, rootfs="absent"), "rootfs of null": configured({}, rootfs=None),
    "rootfs of a list": configured({}, rootfs=[]),
    "layers of null": configured({}, rootfs={"diff_ids": None}),
    "a layer that leads out": configured({}, rootfs={"diff_ids": ["sha256:" + "../" * 20 + "x"]}),
    "a layer too many": configured({}, rootfs={"diff_ids": [small().layers[0].diff_id] * 2}),
    "os of numbers": configured({}, os=1), "no os": configured({}, os="absent"),
    "architecture of null": configured({}, architecture=None),
    "history of text": configured({}, history="x"), "created of numbers": configured({}, created=5),
    "no object": b"[1]", "no JSON": b"{", "depth": b'{"config":' * 100_000,
    "NaN": b'{"os": NaN}', "endless number": b'{"os": ' + b"1" * 100_000 + b"}",
}


@pytest.mark.parametrize("what", CONFIGS)
def test_configuration_is_refused(what: str, fresh: Cli) -> None:
    for docker in (False, True):
        refused(fresh, archive_of(CONFIGS[what], docker))


TOLERATED = {
    "nulls": configured(dict.fromkeys((
        "Env", "Cmd", "Entrypoint", "Labels", "ExposedPorts", "Volumes", "User", "WorkingDir",
        "StopSignal", "Healthcheck", "OnBuild", "Shell", "ArgsEscaped"))),
    "no config": configured("absent"),
    "WorkingDir that climbs": configured({"WorkingDir": "../../../etc", "Cmd": ["x"]}),
    "User of nobody": configured({"User": "nobody-there:70000", "Cmd": ["x"]}),
    "User beyond the map": configured({"User": "99999999999", "Cmd": ["x"]}),
    "Env without a name": configured({"Env": ["=x", "A", ""], "Cmd": ["x"]}),
    "signal that is none": configured({"StopSignal": "SIGNONE", "Cmd": ["x"]}),
    "ports that are none": configured({"ExposedPorts": {"": 1, "x/y/z": [], "99999/tcp": None},
                                       "Cmd": ["x"]}),
    "volumes that climb": configured({"Volumes": {"../../x": {}, "": {}, "/\0": 1},
                                      "Cmd": ["x"]}),
    "a check of nonsense": configured({"Healthcheck": {"Test": 5, "Interval": "x"}, "Cmd": ["x"]}),
    "a check of text": configured({"Healthcheck": "no", "Cmd": ["x"]}),
    "times of nonsense": configured({"Cmd": ["x"]}, created="99999-99-99T99:99:99Z"),
    "times of escapes": configured({"Cmd": ["x"]}, created="\x1b[2J"),
    "history of nonsense": configured({"Cmd": ["x"]}, history=[1, None, {"created": 5}]),
    "fields of the future": configured({"Cmd": ["x"], "New": {"a": [1]}}, more=[{}]),
    "a thousand variables": configured({"Env": [f"V{n}={'x' * 1000}" for n in range(1000)],
                                        "Cmd": ["x"]}),
    "long command": configured({"Cmd": ["x" * 200_000]}),
}


def lives_with(cli: Cli, name: str) -> None:
    """Every verb that looks at the image, or makes a container of it, has an answer."""
    container = f"c{next(_numbers)}"
    for words in (("images", "--digests"), ("images", "--format", "json"), ("inspect", name),
                  ("images", "-f", f"since={name}"), ("images", "-f", "label=a=b")):
        cli.ok(*words)
    made = cli("create", "--name", container, "--network", "none", name)
    assert made.rc in (0, 125), made
    if made.rc == 0:
        cli.ok("ps", "-a", "--no-trunc")
        cli.ok("ps", "-a", "--format", "json")
        cli.ok("inspect", container)
        started = cli("start", "-a", container)
        assert started.rc != 0, started         # there is no such program
        one_line(started)
        cli.ok("ps", "-a", "--no-trunc")
        cli.ok("rm", container)
    else:
        one_line(made)


@pytest.mark.parametrize("what", TOLERATED)
def test_configuration_does_no_harm(what: str, fresh: Cli) -> None:
    fresh.ok("load", stdin=archive_of(TOLERATED[what]))
    lives_with(fresh, "hostile:1")
    fresh.ok("rmi", "hostile:1")
    nothing_left(fresh)


TEXT = st.text(st.characters(), max_size=8) | st.sampled_from(
    ["", "/", "..", "0", "-1", "root", "\x1b[0m", "\0", "\n", "é", "SIGTERM", "1:2:3"])
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5)
TEXTS = st.lists(TEXT, max_size=4) | VALUE
OBJECT = st.dictionaries(TEXT, VALUE, max_size=3) | VALUE
INNER = st.fixed_dictionaries({}, optional={
    "Env": TEXTS, "Cmd": TEXTS, "Entrypoint": TEXTS, "OnBuild": TEXTS, "Shell": TEXTS,
    "User": TEXT | VALUE, "WorkingDir": TEXT | VALUE, "StopSignal": TEXT | VALUE,
    "Labels": st.dictionaries(TEXT, TEXT, max_size=3) | OBJECT, "ExposedPorts": OBJECT,
    "Volumes": OBJECT, "Healthcheck": OBJECT, "ArgsEscaped": VALUE, "StopTimeout": VALUE})
OUTER = st.fixed_dictionaries({}, optional={
    "created": TEXT | VALUE, "author": TEXT | VALUE, "variant": TEXT | VALUE,
    "os.version": VALUE, "history": st.lists(OBJECT, max_size=2) | VALUE, "docker_version": VALUE})


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(inner=INNER, outer=OUTER)
def test_any_configuration_is_lived_with_or_refused(cli: Cli, inner: dict[str, Any],
                                                    outer: dict[str, Any]) -> None:
    loaded = cli("load", stdin=archive_of(configured(inner, **outer)))
    assert loaded.rc in (0, 1), loaded
    if loaded.rc:
        one_line(loaded)
        return
    lives_with(cli, "hostile:1")
    cli.ok("rmi", "hostile:1")
