"""A build: plan, bases, stages side by side, the image.

    the build                                   a process for each stage, after those it needs
      plan, pull bases
      states of the stages it needs  --fork-->    instruction by instruction (`build.stage`)
      shows what it hears            <--pipe--    one JSON line for each event, at last its state
      writes the image, gives names

Nothing has a name before the end. A build that ends early leaves layers and the cache's entries
for them, whole or not at all, and what the next build clears (`rootless.build.workspace`).
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys

from rootless import clock, errors, linux
from rootless.build import context, graph, output, parse, scope, stage, state
from rootless.build.ignore import Ignore
from rootless.build.progress import INTERVAL
from rootless.build.state import State
from rootless.build.workspace import Workspace
from rootless.container import create
from rootless.errors import BuildError, DockerfileError, RootlessError, StorageError
from rootless.image import gc, manifest, store
from rootless.image.unpack import covered
from rootless.image.workers import Ended
from rootless.record import record
from rootless.storage import merged
from rootless.userns import keeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from rootless.build.context import Tree
    from rootless.build.instructions import Instruction
    from rootless.build.output import Output
    from rootless.build.parse import Dockerfile
    from rootless.build.progress import Progress
    from rootless.build.scope import Scope
    from rootless.image.store import Image
    from rootless.image.workers import Tell
    from rootless.network.endpoints import Endpoint
    from rootless.paths import Paths


@record(frozen=True)
class Options:
    """`contexts`: named ones, directories or docker-image://..., by names in lower case. `epoch`:
    SOURCE_DATE_EPOCH. `network`: of RUN."""

    secrets: dict[str, bytes]
    ssh: dict[str, str]
    contexts: dict[str, str]
    tags: tuple[str, ...] = ()
    build_args: tuple[tuple[str, str], ...] = ()
    target: str = ""
    no_cache: bool = False
    pull: str = "missing"
    platform: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    network: str = "none"
    add_host: tuple[tuple[str, str], ...] = ()
    ulimits: tuple[tuple[str, int, int], ...] = ()
    shm_size: int = 64 << 20
    epoch: int | None = None
    outputs: tuple[Output, ...] = ()


class Build:
    """`where`: the context's directory. Call `run` once."""

    def __init__(self, paths: Paths, dockerfile: Dockerfile, where: str, ignore: Ignore,
                 options: Options, progress: Progress) -> None:
        self.paths = paths
        self.dockerfile = dockerfile
        self.options = options
        self._progress = progress
        self._where = where
        self._ignore = ignore
        self._trees: dict[str, Tree] = {}
        self._network = joinable(paths, options.network)
        self._images: dict[str, State] = {}

    # ---- what stages ask -----------------------------------------------------------------------

    def context(self) -> Tree:
        return self._opened("", self._where, self._ignore)

    def context_named(self, name: str) -> Tree | None:
        """Of --build-context; None where there is none of the name."""
        path = self.options.contexts.get(name.lower())
        if path is None or path.startswith(graph.IMAGE):
            return None
        return self._opened(name.lower(), path, Ignore.load(path))

    def _opened(self, name: str, path: str, ignore: Ignore | None) -> Tree:
        if name not in self._trees:
            self._trees[name] = context.open_directory(
                path, ignore, f"the context {name}" if name else "the build context")
        return self._trees[name]

    def own(self, path: str, uid: int = 0, gid: int = 0) -> None:
        """Give a file to an id of containers."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            merged.inside(self.paths, self.userns, lambda: os.fchown(fd, uid, gid))
        finally:
            os.close(fd)

    def endpoints(self, network: str) -> tuple[Endpoint, ...]:
        """The networks that a step joins."""
        return self._network if network == self.options.network else ()

    # ---- the whole -----------------------------------------------------------------------------

    def run(self) -> Image:
        """The image, under its names or none. Raises BuildError and what its steps raise."""
        self.userns = keeper.open_userns(self.paths)
        try:
            with store.hold(self.paths):
                self.workspace = Workspace(self.paths, self.userns)
                try:
                    return self._publish(self._build())
                finally:
                    self.workspace.close()
        finally:
            self._progress.close()
            os.close(self.userns.fd)
            gc.settle(self.paths)

    def _build(self) -> State:
        here = str(manifest.parse_platform(""))
        self._top = scope.top_scope(
            self.dockerfile, dict(self.options.build_args),
            scope.platform_args(self.options.platform or here, here, self.options.target))
        self._plan_all({})
        for index in self._plan.order:
            self._bases_of(index)
        triggers = self._triggers()
        if triggers:
            self._plan_all(triggers)
            for index in self._plan.order:
                self._bases_of(index)
        return self._stages()[self._plan.target].state

    def _plan_all(self, triggers: dict[int, tuple[Instruction, ...]]) -> None:
        self._plan = graph.plan(self.dockerfile, self._top, self.options.target,
                                self.options.contexts, triggers)
        self._instructions = {
            i: (*triggers.get(i, ()), *self.dockerfile.stages[i].instructions)
            for i in self._plan.order}

    def _triggers(self) -> dict[int, tuple[Instruction, ...]]:
        """What base images add to the stages that stand on them (ONBUILD)."""
        found = {}
        for index in self._plan.order:
            base = self._plan.bases[index]
            if isinstance(base, str) and base in self._images:
                lines = self._images[base].config.get("OnBuild") or []
                if lines:
                    found[index] = parse.parse_triggers([str(li) for li in lines], base)
        return found

    def _bases_of(self, index: int) -> None:
        """The images that a stage stands on or copies from."""
        base = self._plan.bases[index]
        if isinstance(base, str):
            start = self._plan.starts[index]
            if self._plan.is_directory(base):
                raise start.where.error(f"cannot start from {start.image}: it is a directory",
                                        token=start.image, hint="FROM scratch and COPY --from it")
            try:
                self._base(base, start.platform)
            except RootlessError as e:
                raise start.where.error(e.message,
                                        token=self.dockerfile.stages[index].start.image,
                                        hint=self._plan.hint(base) or e.hint) from None
        for one in self._instructions[index]:
            for name in graph.froms(one):
                origin = self._plan.origin(name, one.where)
                if isinstance(origin, str) and not self._plan.is_directory(origin):
                    try:
                        self._base(origin, "")
                    except RootlessError as e:
                        raise one.where.error(e.message, token=name,
                                              hint=self._plan.hint(name) or e.hint) from None

    def _base(self, name: str, platform: str) -> None:
        """An image that the build stands on or copies from, unpacked."""
        if name in self._images or name == graph.SCRATCH:
            return
        number = self._progress.start(f"[internal] load metadata for {name}")
        try:
            image = create.image_for(self.paths, name, pull=self.options.pull,
                                     platform=platform or self.options.platform, quiet=True,
                                     tls_verify=None)
        except RootlessError as e:
            self._progress.failed(number, e.message)
            raise
        if image is None or image.file:
            raise BuildError(f"cannot build from {name}: it is no image in the store")
        store.ensure_layers(self.paths, self.userns, image)
        self._images[name] = state.of_image(image, covered(self.paths, self.userns, image.layers))
        self._progress.done(number)

    def _publish(self, result: State) -> Image:
        labels = dict(self.options.labels)
        if labels:
            result.config["Labels"] = {**(result.config.get("Labels") or {}), **labels}
        number = self._progress.start("exporting to image")
        descriptor = state.write(self.paths, result, epoch=self.options.epoch)
        image = store.load(self.paths, descriptor)
        wishes = self.options.outputs
        names = self.options.tags + tuple(w.name for w in wishes if w.kind == "image" and w.name)
        if not wishes or any(w.kind == "image" for w in wishes):
            for name in names or ("",):
                image = store.publish(self.paths, name, descriptor)
                if name:
                    self._progress.note(number, f"naming to {name} done")
        for wish in wishes:
            if wish.kind != "image":
                output.write(self.paths, self.userns, image, result.directories(self.paths), wish,
                             names)
                self._progress.note(number, f"writing {wish.kind} to {wish.dest or '-'} done")
        self._progress.note(number, f"writing image {image.id} done")
        self._progress.done(number)
        return image

    # ---- stages --------------------------------------------------------------------------------

    def _stages(self) -> dict[int, Result]:
        """All that are needed, each when those it needs are done."""
        waiting = list(self._plan.order)
        states: dict[int, Result] = {}
        running: dict[int, _Child] = {}
        most = max(2, os.cpu_count() or 1)
        try:
            while waiting or running:
                for index in [i for i in waiting if all(n in states for n in self._plan.needs[i])]:
                    if len(running) < most:
                        waiting.remove(index)
                        child = _Child(self, index, states)
                        running[child.fd] = child
                self._progress.tick()
                for fd in select.select(list(running), [], [], INTERVAL)[0]:
                    child = running[fd]
                    result = child.hear(self._progress)
                    if result is not None:
                        states[child.index] = result
                        running.pop(fd).end()
        finally:
            for child in running.values():
                child.kill()
        return states

    def stage(self, index: int, done: dict[int, Result], tell: Tell) -> Result:
        """Walk a stage, in its process."""
        base = self._plan.bases[index]
        if isinstance(base, int):
            parent = done[base]
            start, names = parent.state.copy(), parent.scope(self._top)
        else:
            start = self._images[base].copy() if base != graph.SCRATCH else state.scratch(
                manifest.parse_platform(self.options.platform),
                clock.now() if self.options.epoch is None else state.rfc3339(self.options.epoch))
            names = scope.stage_scope(self._top, start.config.get("Env") or [])

        def source(name: str) -> State:
            found = self._plan.origin(name, self._plan.starts[index].where)
            return done[found].state if isinstance(found, int) else self._images[found]

        one = self.dockerfile.stages[index]
        title = f"{one.name or f'stage-{one.index}'} " if len(self.dockerfile.stages) > 1 else ""
        run = stage.StageRun(self, title, start, names, source, tell)
        return Result(run.run(self._instructions[index]), names.env, names.args)


class Result:
    """What a stage has come to, and the variables at its end, which a stage on it goes on with."""

    def __init__(self, state: State, env: dict[str, str], args: list[str]) -> None:
        self.state = state
        self.env = env
        self.args = args

    def scope(self, top: Scope) -> Scope:
        end = scope.stage_scope(top)
        end.env.update(self.env)
        end.args.extend(self.args)
        return scope.stage_scope(top, parent=end)


def joinable(paths: Paths, network: str) -> tuple[Endpoint, ...]:
    """Raises NotFound for a network that does not exist."""
    from rootless.network.endpoints import Endpoint, joins

    if not joins(network):
        return ()
    from rootless.network import networks

    return (Endpoint(networks.find(paths, network).name, "", "", "", ()),)


class _Child:
    """The process of a stage."""

    def __init__(self, build: Build, index: int, states: dict[int, Result]) -> None:
        self.index = index
        self.fd, events = os.pipe()
        self._rest = b""
        self._number = 0
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self.fd)
            _work(build, index, states, events)
        os.close(events)

    def hear(self, progress: Progress) -> Result | None:
        """Show what it says; its result when it is done. Raises what it failed with."""
        data = os.read(self.fd, 1 << 16)
        if not data:
            raise StorageError("cannot build: the process of a stage was killed",
                               hint="look for the out-of-memory killer in the kernel's log")
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            event = json.loads(line)
            if "start" in event:
                self._number = progress.start(event["start"])
            elif "log" in event:
                progress.heard(self._number, event["log"].encode("latin-1"))
            elif "cached" in event:
                progress.done(self._number, "CACHED")
            elif "done" in event:
                progress.done(self._number)
            elif "state" in event:
                return Result(state.from_plain(event["state"]), event["env"], event["args"])
            elif "excerpt" in event:
                progress.report(self._number, event["error"], event["title"], event["excerpt"])
            else:
                error = getattr(errors, event["kind"])(event["error"], hint=event["hint"])
                if isinstance(error, DockerfileError):
                    error.excerpt = event["excerpts"]
                raise error
        return None

    def end(self) -> None:
        os.close(self.fd)
        os.waitpid(self._pid, 0)

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGTERM)
        self.end()


def _work(build: Build, index: int, states: dict[int, Result], events: int) -> NoReturn:
    def tell(**event: Any) -> None:
        data = memoryview(json.dumps(event).encode() + b"\n")
        try:
            while data:
                data = data[os.write(events, data):]
        except BrokenPipeError:
            raise Ended from None

    try:
        signal.signal(signal.SIGTERM, _end)
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGTERM)
        done = build.stage(index, states, tell)
        tell(state=done.state.plain(), env=done.env, args=done.args)
    except RootlessError as e:
        _tell_error(tell, e)
    except OSError as e:
        _tell_error(tell, StorageError(f"cannot build: {errors.os_reason(e)}"))
    except KeyboardInterrupt:
        pass
    finally:
        kind, error, _ = sys.exc_info()
        if kind is not None:
            _tell_error(tell, StorageError(f"cannot build: {kind.__name__}: {error}"))
        os._exit(0)


def _tell_error(tell: Tell, error: RootlessError) -> None:
    kind = next(k for k in type(error).__mro__ if hasattr(errors, k.__name__))
    try:
        tell(kind=kind.__name__, error=error.message, hint=error.hint,
             excerpts=getattr(error, "excerpt", ""))
    except Ended:
        pass


def _end(number: int, frame: object) -> None:
    raise Ended

