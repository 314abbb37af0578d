"""`rootless build` and `rootless builder prune`."""

from __future__ import annotations

import os
import sys

from rootless import paths as places
from rootless.cli.command import FLAG, LIST, OPTIONAL, VALUE, Command, Option, Options
from rootless.cli.confirm import FORCE, confirmed
from rootless.errors import BuildError, DockerfileError, RootlessError, UsageError, os_reason
from rootless.files import read_bytes, write_atomic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rootless.build.builder import Options as Wanted
    from rootless.build.ignore import Ignore
    from rootless.build.output import Output
    from rootless.build.parse import Dockerfile
    from rootless.build.received import Received
    from rootless.paths import Paths

NAMES = ("Dockerfile", "Containerfile", "dockerfile")

EPOCH = "SOURCE_DATE_EPOCH"
_LARGEST = 16 << 20         # of a Dockerfile

_BUILD = (
    Option("add-host", LIST, "Add a line to /etc/hosts of RUN", metavar="HOST:IP"),
    Option("build-arg", LIST, "Set an ARG", metavar="NAME[=VALUE]"),
    Option("build-context", LIST, "What FROM and COPY --from can name: a directory, an address, or "
           "docker-image://IMAGE", metavar="NAME=WHAT"),
    Option("check", FLAG, "Check the Dockerfile, and build nothing"),
    Option("file", VALUE, "The Dockerfile, or its address; - for standard input "
           "(default CONTEXT/Dockerfile)", "f",
           metavar="FILE"),
    Option("iidfile", VALUE, "Write the image's id to a file", metavar="FILE"),
    Option("label", LIST, "Add a label to the image", metavar="KEY=VALUE"),
    Option("network", VALUE, "Network of RUN: none, host or the name of one (default as run's)",
           metavar="NETWORK"),
    Option("no-cache", FLAG, "Make every step anew"),
    Option("output", LIST, "Where the result goes: a directory, - for a tar, or type=image, local, "
           "tar, oci or docker", "o", metavar="PATH|type=TYPE[,dest=PATH]"),
    Option("platform", VALUE, "Platform of the image", metavar="OS/ARCH"),
    Option("progress", VALUE, "auto or plain", metavar="KIND"),
    Option("pull", OPTIONAL, "Pull bases even when they are here: always, missing or never",
           metavar="POLICY", default="always"),
    Option("quiet", FLAG, "Print the image's id only", "q"),
    Option("secret", LIST, "A secret for RUN --mount=type=secret",
           metavar="id=NAME,src=FILE|env=VARIABLE"),
    Option("shm-size", VALUE, "Size of /dev/shm in RUN", metavar="BYTES"),
    Option("ssh", LIST, "An agent for RUN --mount=type=ssh", metavar="NAME[=SOCKET]"),
    Option("tag", LIST, "Name of the image, any number of times", "t", metavar="NAME"),
    Option("target", VALUE, "The stage to build (default the last)", metavar="STAGE"),
    Option("timestamp", VALUE, "Seconds since 1970 that no time in the image is after "
           "(default $SOURCE_DATE_EPOCH)", metavar="SECONDS"),
    Option("ulimit", LIST, "Limit of RUN", metavar="NAME=SOFT[:HARD]"),
)


def build(options: Options) -> int:
    try:
        return _build(options)
    except DockerfileError as e:
        if e.excerpt:
            sys.stderr.write(e.excerpt.rstrip("\n") + "\n")
            sys.stderr.flush()
        raise


def _build(options: Options) -> int:
    from rootless.build.builder import Build
    from rootless.build.ignore import Ignore
    from rootless.build.progress import Live, Plain, Progress
    from rootless.build.scope import unused_build_args

    if (options.value("progress") or "auto") not in ("auto", "plain"):
        raise UsageError(f"invalid argument for --progress: {options.value('progress')}",
                         hint="auto or plain")
    wanted = _wanted(options)
    paths = places.of_this_user()
    paths.ensure()
    where = options.args[0]
    received: list[Received] = []
    try:
        if where == "-" or not os.path.isdir(where):
            from rootless.build.received import Received, is_address

            if where == "-" and options.value("file") == "-":
                raise UsageError("standard input cannot be both the context and the Dockerfile")
            if where == "-" or is_address(where):
                received.append(Received(paths, 0 if where == "-" else where))
                where = received[-1].path
        for name, given in wanted.contexts.items():
            if not given.startswith(("/", "docker-image://")):
                from rootless.build.received import Received

                received.append(Received(paths, given))
                wanted.contexts[name] = received[-1].path
        if not os.path.isdir(where):
            raise UsageError(f"cannot use {where} as context: it is no directory",
                             hint="a directory, an address, or - for an archive on standard input")
        file, dockerfile = _dockerfile(paths, options, where)
        ignore = Ignore.load(where, file)
        if options.flag("check") or dockerfile.directives.error:
            found = _check(paths, options, dockerfile, ignore)
            if options.flag("check"):
                return found
        quiet = options.flag("quiet")
        live = sys.stderr.isatty() and options.value("progress") != "plain"
        progress = (Progress if quiet else Live if live else Plain)(sys.stderr)
        image = Build(paths, dockerfile, where, ignore, wanted, progress).run()
        unused = unused_build_args(dockerfile, [name for name, _ in wanted.build_args])
        if unused:
            sys.stderr.write(f"[Warning] One or more build-args {unused} were not consumed\n")
    finally:
        for one in received:
            one.close()
    if options.value("iidfile"):
        write_atomic(os.path.abspath(options.value("iidfile") or ""), image.id.encode(), 0o644)
    if quiet:
        print(image.id)
    return 0


def _dockerfile(paths: Paths, options: Options, where: str) -> tuple[str, Dockerfile]:
    """(its path, or "" for standard input; what it says)"""
    name = options.value("file")
    if name == "-":
        return "", _parsed(sys.stdin.buffer.read(), "Dockerfile")
    if name is not None and name.startswith(("http://", "https://")):
        from rootless.build.download import text as fetched

        return "", _parsed(fetched(name, paths.tmp, _LARGEST), name.rpartition("/")[2])
    if name is None:
        found = [f"{where}/{n}" for n in NAMES if os.path.isfile(f"{where}/{n}")]
        if not found:
            raise BuildError(f"there is no Dockerfile in {where}",
                             hint="rootless build -f FILE CONTEXT")
        name = found[0]
    elif not os.path.exists(name) and os.path.exists(os.path.join(where, name)):
        name = os.path.join(where, name)
    try:
        text = read_bytes(name, _LARGEST)
    except OSError as e:
        raise BuildError(f"cannot read the Dockerfile: {name}: {os_reason(e)}") from None
    return name, _parsed(text, os.path.basename(name))


def _parsed(text: bytes, name: str) -> Dockerfile:
    from rootless.build.parse import parse

    return parse(text, name)


def _check(paths: Paths, options: Options, dockerfile: Dockerfile, ignore: Ignore) -> int:
    """With --check the warnings are the result. Raises DockerfileError where the Dockerfile wants
    to be refused for them."""
    from rootless.build import lint, scope
    from rootless.image import manifest, store

    here = str(manifest.parse_platform(""))

    def image_of(name: str) -> dict[str, Any] | None:
        try:
            image = store.find(paths, name)
        except RootlessError:
            return None
        return None if image is None else image.config

    found = lint.check(
        dockerfile, build_args=dict(_args(options)), target=options.value("target") or "",
        given=scope.platform_args(options.value("platform") or here, here),
        contexts=dict(_context(t) for t in options.list("build-context")), ignore=ignore,
        image_of=image_of)
    if options.flag("check"):
        sys.stdout.write(lint.render(found))
        return 1 if found else 0
    lint.refuse(dockerfile, found)
    return 0


def _args(options: Options) -> list[tuple[str, str]]:
    """Without a value: the variable of that name, if there is one."""
    found = []
    for text in options.list("build-arg"):
        name, equals, value = text.partition("=")
        if not name:
            raise UsageError(f"invalid argument for --build-arg: {text}", hint="NAME=VALUE")
        if equals or name in os.environ:
            found.append((name, value if equals else os.environ[name]))
    if EPOCH in os.environ and EPOCH not in dict(found):
        found.append((EPOCH, os.environ[EPOCH]))        # as docker hands it on
    return found


def _wanted(options: Options) -> Wanted:
    from rootless.build.builder import Options as Wanted
    from rootless.build.runmounts import secret
    from rootless.cli.run import add_host, ulimit
    from rootless.container import mounts
    from rootless.image.reference import parse
    from rootless.network import networks

    for name in options.list("tag"):
        if parse(name).digest:
            raise UsageError(f"cannot name the image {name}: a digest is not for us to give")
    pull = options.value("pull") or "missing"
    pull = {"true": "always", "false": "missing"}.get(pull, pull)
    if pull not in ("always", "missing", "never"):
        raise UsageError(f"invalid argument for --pull: {pull}", hint="always, missing or never")
    return Wanted(
        tags=tuple(options.list("tag")), build_args=tuple(_args(options)),
        target=options.value("target") or "", no_cache=options.flag("no-cache"), pull=pull,
        platform=options.value("platform") or "",
        labels=tuple((t.partition("=")[0], t.partition("=")[2]) for t in options.list("label")),
        secrets=dict(secret(t, os.environ) for t in options.list("secret")),
        ssh=dict(_agent(t) for t in options.list("ssh")),
        contexts=dict(_context(t) for t in options.list("build-context")),
        network=options.value("network") or networks.DEFAULT,
        add_host=tuple(add_host(t) for t in options.list("add-host")),
        ulimits=tuple(ulimit(t) for t in options.list("ulimit")),
        shm_size=mounts.size(options.value("shm-size") or "64m"), epoch=_epoch(options),
        outputs=_outputs(options))


def _outputs(options: Options) -> tuple[Output, ...]:
    if not options.given("output"):
        return ()       # what reads the rest is not loaded
    from rootless.build.output import parse

    found = tuple(parse(text) for text in options.list("output"))
    if any(w.kind in ("tar", "oci", "docker") and not w.dest for w in found) and os.isatty(1):
        raise UsageError("cannot write the result: standard output is a terminal",
                         hint="dest=FILE, or redirect standard output: > FILE")
    return found


def _epoch(options: Options) -> int | None:
    text = options.value("timestamp") or dict(_args(options)).get(EPOCH) or ""
    if not text:
        return None
    if not text.isdigit():
        raise UsageError(f"invalid time: {text}: not a number of seconds")
    return int(text)


def _agent(text: str) -> tuple[str, str]:
    name, _, path = text.partition("=")
    path = path or os.environ.get("SSH_AUTH_SOCK") or ""
    if not path:
        raise UsageError("cannot find an agent of ssh: SSH_AUTH_SOCK is not set",
                         hint=f"--ssh {name or 'default'}=/path/to/socket")
    if not os.path.exists(path):
        raise UsageError(f"cannot find an agent of ssh: {path}: no such file")
    return name or "default", os.path.abspath(path)


def _context(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if name and equals and os.path.isdir(path):
        return name.lower(), os.path.abspath(path)
    if name and path.startswith("docker-image://"):
        from rootless.image.reference import parse

        parse(path[len("docker-image://"):])
        return name.lower(), path
    if name and path:
        from rootless.build.received import is_address

        if is_address(path):
            return name.lower(), path
    raise UsageError(f"invalid argument for --build-context: {text}",
                     hint="NAME=DIRECTORY, NAME=ADDRESS or NAME=docker-image://IMAGE")


def prune(options: Options) -> int:
    from rootless.build import cache
    from rootless.image.progress import human

    paths = places.of_this_user()
    paths.ensure()
    what = ("everything that builds have kept for the next" if options.flag("all")
            else "what builds have kept and no image uses")
    if not confirmed(options, f"This removes {what}."):
        return 1
    reclaimed = cache.prune(paths, everything=options.flag("all"))
    sys.stdout.write(f"Total reclaimed space: {human(reclaimed)}\n")
    return 0


COMMANDS = {
    "build": Command(
        "build", "PATH | URL | -", "Make an image from a Dockerfile", build, _BUILD,
        least=1, most=1, error_exit=1),
    "builder prune": Command(
        "builder prune", "", "Remove the cache of builds", prune, (
            Option("all", FLAG, "Also what images use, and the directories of cache mounts", "a"),
            FORCE), most=0),
}
