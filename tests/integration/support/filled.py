"""The registry's contents: real images, built once.

    debian:12           one layer of Debian, gzip, Docker schema 2
    tiny:latest         busybox, two gzip layers, OCI; the quick one
    tiny:docker         the same as Docker schema 2
    tiny:zstd :plain    the same with zstd layers, with uncompressed ones
    tiny:list           manifest list (OCI) of this machine's platform and another
    tiny:dockerlist     the same as Docker's
    multi:oci :docker   several layers by buildah from a Containerfile
    odd:latest          all that a tar can hold and a person would not type
"""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from tests.integration.support import debian, images, registry
from tests.integration.support.cache import cached, recipe_key
from tests.integration.support.images import Image, Index, Layer, Tar
from tests.integration.support.leftovers import strays

OTHER = "arm64" if images.ARCHITECTURE != "arm64" else "amd64"

APPLETS = ("[ ash awk base64 basename bunzip2 cat chgrp chmod chown cp cut date dd df dirname du "
           "echo env expr false find free getopt grep groups head hostname id ifconfig ip kill ln "
           "ls md5sum mkdir mkfifo mknod mktemp more mount mv nc nproc od pgrep pidof ping ps "
           "printenv printf pwd readlink realpath rm rmdir sed seq setsid sh sha256sum sleep sort "
           "stat stty su sync tail tar tee test time timeout top touch tr true tty umount uname "
           "uniq unshare usleep vi wc wget which whoami xargs yes").split()

PASSWD = ("root:x:0:0:root:/root:/bin/sh\n"
          "daemon:x:1:1:daemon:/usr/sbin:/bin/false\n"
          "app:x:1000:1000:The app:/home/app:/bin/sh\n"
          "nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n")
GROUP = "root:x:0:\ndaemon:x:1:\napp:x:1000:\nextra:x:2000:app\nnogroup:x:65534:\n"

CONTAINERFILE = r"""
FROM localhost/base
RUN useradd --create-home --uid 1000 worker && mkdir -p /data/keep /data/gone /data/replaced \
 && echo one > /data/keep/one && echo two > /data/keep/two && echo old > /data/replaced/old \
 && echo bye > /data/gone/file && echo first > /data/changed
RUN rm -r /data/gone && rm /data/keep/two && rm -r /data/replaced && mkdir /data/replaced \
 && echo new > /data/replaced/new && echo second > /data/changed
RUN ln /data/keep/one /data/hard && ln -s one /data/keep/relative && ln -s /etc/passwd /data/abs \
 && mkfifo /data/pipe && cp /bin/true /data/suid && chmod 4755 /data/suid \
 && setfattr -n user.note -v hello /data/keep/one && chown 1000:1000 /data/changed
RUN touch "/data/$(printf 'caf\351')" "/data/$(printf 'a\nb')" '/data/ space ' '/data/ünï'
ENV GREETING="hello world" \
    PATH=/opt/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LABEL org.example.purpose=tests
VOLUME /volume
WORKDIR /data
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s CMD true
EXPOSE 8080/tcp
USER worker
ENTRYPOINT ["/bin/echo", "entry"]
CMD ["default"]
"""


def storage() -> Path:
    """Directory of a filled registry storage. Copy it before use."""
    here = [inspect.getsource(module) for module in (debian, images, registry)]
    key = recipe_key(Path(__file__).read_text(), *here)
    return cached("registry", key, _fill)


def _fill(directory: Path) -> None:
    tar = debian.base_tar()
    work = Path(tempfile.mkdtemp(prefix="registry."))
    server = registry.start(work, directory)
    try:
        address = server.address
        env = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
        images.push(address, "debian", "12", Image(
            [Layer(tar.read_bytes())], {"Cmd": ["bash"], "Env": env}, docker=True))
        _push_tiny(address, _busybox(tar))
        images.push(address, "odd", "latest", odd_image(_busybox(tar)))
        _push_multi(address, tar)
    finally:
        server.stop()
        shutil.rmtree(work)


def _busybox(tar: Path) -> bytes:
    with tarfile.open(tar) as archive:
        for member in archive:
            if member.name.endswith("bin/busybox"):
                found = archive.extractfile(member)
                assert found is not None
                return found.read()
    raise RuntimeError(f"no busybox in {tar}")


def tiny_layers(busybox: bytes, compression: str = "gzip") -> list[Layer]:
    first = Tar().dir("bin").file("bin/busybox", busybox, mode=0o755)
    for applet in APPLETS:
        first.symlink(f"bin/{applet}", "busybox")
    second = (Tar().dir("etc").file("etc/passwd", PASSWD.encode())
              .file("etc/group", GROUP.encode()).dir("root", 0o700)
              .dir("home").dir("home/app", uid=1000, gid=1000).dir("tmp", 0o1777)
              .dir("proc").dir("sys").dir("dev").dir("var").dir("run"))
    return [Layer(first.bytes(), compression), Layer(second.bytes(), compression)]


def tiny_image(busybox: bytes, **more: object) -> Image:
    config = {"Cmd": ["sh"], "Env": ["PATH=/usr/local/bin:/bin", "FLAVOUR=tiny"]}
    compression = str(more.pop("compression", "gzip"))
    image = Image(tiny_layers(busybox, compression), config)
    for name, value in more.items():
        setattr(image, name, value)
    return image


def _push_tiny(address: str, busybox: bytes) -> None:
    images.push(address, "tiny", "latest", tiny_image(busybox))
    images.push(address, "tiny", "docker", tiny_image(busybox, docker=True))
    images.push(address, "tiny", "zstd", tiny_image(busybox, compression="zstd"))
    images.push(address, "tiny", "plain", tiny_image(busybox, compression="none"))
    for tag, docker in (("list", False), ("dockerlist", True)):
        mine = tiny_image(busybox, docker=docker)
        other = tiny_image(busybox, docker=docker, architecture=OTHER)
        for one in (mine, other):
            one.layers.append(Layer(Tar().file("platform", one.architecture.encode()).bytes()))
        images.push(address, "tiny", tag, Index([other, mine], docker=docker))


def odd_image(busybox: bytes) -> Image:
    """Layer 2 hides and replaces parts of layer 1; `/odd` holds the rest."""
    lower = (Tar().dir("w").file("w/stays", b"lower").file("w/hidden", b"lower")
             .dir("w/opaque").file("w/opaque/lower", b"lower")
             .dir("w/tree").dir("w/tree/a").file("w/tree/a/b", b"lower")
             .dir("w/becomes-file").file("w/becomes-file/x", b"x").file("w/becomes-dir", b"f")
             .symlink("w/link-to-dir", "tree"))
    upper = (Tar().dir("w").whiteout("w/hidden").opaque("w/opaque").file("w/opaque/upper", b"upper")
             .whiteout("w/tree").file("w/becomes-file", b"now a file")
             .dir("w/becomes-dir").file("w/becomes-dir/x", b"now a directory")
             # Not through the link: the directory takes its place.
             .dir("w/link-to-dir").file("w/link-to-dir/own", b"own"))
    odd = (Tar().dir("odd").file(b"odd/latin-\xe9", b"latin").file("odd/new\nline", b"newline")
           .file("odd/ spaces ", b"spaces").file("odd/-rf", b"dash")
           .file("odd/" + "n" * 255, b"longest").dir("odd/" + "d" * 200)
           .file("odd/" + "d" * 200 + "/" + "e" * 200, b"deep")
           .file("odd/setuid", b"x", mode=0o4755).file("odd/setgid", b"x", mode=0o2755)
           .dir("odd/sticky", 0o1777).fifo("odd/fifo", mode=0o600)
           .file("odd/u1000", b"", uid=1000, gid=1000).file("odd/u65534", b"", uid=65534, gid=65534)
           .file("odd/original", b"shared").hardlink("odd/second-name", "odd/original")
           .hardlink("odd/third-name", "./odd/second-name")
           .symlink("odd/relative", "original").symlink("odd/absolute", "/odd/original")
           .symlink("odd/dangling", "/no/such").symlink("odd/up", "../../../../etc/passwd")
           .file("odd/xattr", b"", xattrs={"user.note": b"hello"})
           .file("odd/capable", busybox[:64], mode=0o755, xattrs={
               "security.capability": b"\x01\x00\x00\x02\x00\x20\x00\x00" + bytes(12)})
           .file("odd/fake-opaque", b"", xattrs={"user.overlay.opaque": b"y",
                                                 "trusted.overlay.opaque": b"y"})
           .file("odd/old", b"", mtime=0).file("odd/future", b"", mtime=4_102_444_800)
           .dir("odd/readonly", 0o555).file("odd/readonly/inside", b"inside")
           .file("odd/twice", b"first").file("odd/twice", b"second")
           .file("./odd/dot", b"dot").file("no/parent/entry", b"made"))
    return Image([*tiny_layers(busybox), Layer(lower.bytes()), Layer(upper.bytes()),
                  Layer(odd.bytes())], {"Cmd": ["sh"], "Env": ["PATH=/bin"]})


def _push_multi(address: str, tar: Path) -> None:
    """By buildah, in a home of its own: its store is thrown away."""
    before = strays(alone=True)
    with tempfile.TemporaryDirectory(prefix="buildah.", dir="/var/tmp") as name:
        home = Path(name)
        env = {"HOME": name, "PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": name,
               "BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "overlay", "TMPDIR": name}
        (home / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        context = home / "context"
        context.mkdir()
        shutil.copyfile(tar, context / "debian.tar")
        (context / "Base").write_text("FROM scratch\nADD debian.tar /\n")
        (context / "Containerfile").write_text(CONTAINERFILE)

        def buildah(*words: str) -> None:
            done = subprocess.run(["buildah", *words], env=env, cwd=context, check=False,
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT)
            if done.returncode:
                raise RuntimeError(f"buildah {words[0]} failed:\n"
                                   f"{done.stdout.decode(errors='replace')[-4000:]}")

        policy = f"--signature-policy={home}/policy.json"
        try:
            buildah("build", policy, "--network=none", "-f", "Base", "-t", "localhost/base", ".")
            # Docker's format keeps HEALTHCHECK; OCI's has no place for it.
            buildah("build", policy, "--network=none", "--layers", "--pull-never",
                    "--format=docker", "-t", "localhost/multi", ".")
            for form, tag in (("v2s2", "docker"), ("oci", "oci")):
                buildah("push", policy, "--tls-verify=false", f"--format={form}",
                        "localhost/multi", f"docker://{address}/multi:{tag}")
        finally:
            remove_tree(home)
            home.mkdir(exist_ok=True)
            for left in strays(alone=True) - before:      # what buildah keeps for its next run
                if "containers-user-" in left or left.endswith("/libpod/"):
                    remove_tree(Path(left))


def remove_tree(path: Path) -> None:
    """Remove files that belong to subordinate ids, too."""
    subprocess.run(["unshare", "--map-root-user", "--map-auto", "rm", "-rf", "--", str(path)],
                   check=False, stderr=subprocess.DEVNULL)
    shutil.rmtree(path, ignore_errors=True)


def layer_count(address: str, repo: str, tag: str) -> int:
    accept = {"Accept": images.OCI + "manifest.v1+json, "
              + images.DOCKER + "distribution.manifest.v2+json"}
    _, _, body = images.request(address, "GET", f"/v2/{repo}/manifests/{tag}", headers=accept)
    return len(json.loads(body)["layers"])
