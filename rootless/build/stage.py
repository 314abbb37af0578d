"""One stage of a Dockerfile, instruction by instruction.

Runs in a process of its own, so that independent stages run at the same time; the build hears of
it by events (`rootless.image.workers.Tell`):

    start title      a step begins: RUN, COPY, ADD, WORKDIR
    log, done, cached, failed

An instruction that changes files asks the cache first. Its key is what the result depends on: the
files below (`State.key`), the instruction after expansion, and the content of what it reads.
"""

from __future__ import annotations

import os

from rootless import clock
from rootless.build import config, copying, runmounts
from rootless.build import instructions as ins
from rootless.build.config import Settings
from rootless.build.scope import PROXIES, resolve
from rootless.build.state import State, digest
from rootless.build.step import HOSTNAME, Step
from rootless.container.wanted import Wanted
from rootless.errors import BuildError, DockerfileError, RootlessError, StartError
from rootless.image import steps
from rootless.image.seal import Stubs, seal
from rootless.image.steps import Made

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rootless.build.builder import Build
    from rootless.build.instructions import Instruction
    from rootless.build.scope import Scope
    from rootless.image.workers import Tell

STEPS = (ins.Run, ins.Copy, ins.Add, ins.Workdir)


class StageRun:
    """`source`: the state of the stage or image that a COPY or mount names; `title`: what stands
    before the number of a step."""

    def __init__(self, build: Build, title: str, state: State, scope: Scope,
                 source: Callable[[str], State], tell: Tell) -> None:
        self.build = build
        self.title = title
        self.state = state
        self.scope = scope
        self.source = source
        self.tell = tell
        self.settings = Settings(state.config, str(state.image.get("author") or ""))

    def run(self, todo: Sequence[Instruction]) -> State:
        """Raises BuildError and all that its steps raise."""
        total = 1 + sum(isinstance(i, STEPS) for i in todo)
        number = 1
        for instruction in todo:
            number += isinstance(instruction, STEPS)
            title = f"[{self.title}{number}/{total}] {instruction.where.text}"
            if isinstance(instruction, STEPS):
                self.tell(start=title)
            try:
                self._one(instruction)
            except RootlessError as e:
                if isinstance(instruction, STEPS) and not isinstance(e, DockerfileError):
                    where = instruction.where
                    self.tell(error=e.message, title=title,
                              excerpt=f"{where.source.name}:{where.first}\n{where.excerpt()}")
                raise
        self.state.image["config"] = self.settings.values
        if self.settings.author:
            self.state.image["author"] = self.settings.author
        return self.state

    def _one(self, written: Instruction) -> None:
        instruction = resolve(written, self.scope)
        self.settings.take(instruction)
        created_by = config.created_by(instruction, self.scope, self.settings)
        if isinstance(instruction, ins.Run):
            self._run(instruction, created_by)
        elif isinstance(instruction, (ins.Copy, ins.Add)):
            self._copy(instruction, created_by)
        elif isinstance(instruction, ins.Workdir):
            self._workdir(created_by)
        else:
            self.state.note(created_by)

    # ---- steps ---------------------------------------------------------------------------------

    def _cached(self, key: str, created_by: str) -> bool:
        """Found in the cache, and added."""
        made = None if self.build.options.no_cache else steps.find(
            self.build.paths, self.build.userns, key)
        if made is None:
            return False
        self.state.add(made, created_by)
        self.tell(cached=True)
        return True

    def _add(self, key: str, upper: str, created_by: str, stubs: Stubs | None) -> None:
        sealed = seal(self.build.paths, self.build.userns, upper, stubs=stubs,
                      latest=self.build.options.epoch)
        made = Made(sealed.diff_id, sealed.blob, sealed.size, clock.now())
        steps.keep(self.build.paths, key, made)
        self.state.add(made, created_by)
        self.tell(done=True)

    def _key(self, *parts: str) -> str:
        return digest(self.state.key(), str(self.build.options.epoch), *parts)

    def _below(self) -> list[str]:
        return self.state.directories(self.build.paths)

    def _run(self, run: ins.Run, created_by: str) -> None:
        build, settings = self.build, self.settings
        argv = run.argv(settings.shell)
        env = self.scope.run_env()
        env.setdefault("PATH", config.DEFAULT_PATH)
        network = build.options.network if run.network == "default" else run.network
        if run.security != "sandbox":
            raise run.where.error(f"cannot run with --security={run.security}: a build gives no "
                                  "rights beyond a container's", token=run.security)
        if run.devices:
            raise run.where.error("devices cannot be given to a step of a build",
                                  token=run.devices[0][0])
        prepared = runmounts.RunMounts(self, run)
        # Proxies decide how something is reached, not what it is.
        seen = [f"{k}={v}" for k, v in sorted(env.items())
                if k not in PROXIES or k in self.scope.args]
        key = self._key("RUN", *argv, "", *seen, "", settings.user, settings.workdir, network,
                        *map(repr, build.options.add_host), prepared.key())
        if self._cached(key, created_by):
            return
        place = build.workspace.fresh()
        try:
            with prepared:
                wanted = Wanted(
                    image="", args=argv, entrypoint=(), hostname=HOSTNAME,
                    env=(*env.items(), *prepared.env), workdir=settings.workdir,
                    user=settings.user, network=network, endpoints=build.endpoints(network),
                    mounts=tuple(prepared.mounts), add_host=build.options.add_host,
                    ulimits=build.options.ulimits, shm_size=build.options.shm_size)
                step = Step(build.paths, build.userns, place, self._below(), wanted, {})
                code = self._carry_out(step)
            if code:
                raise failed(argv, code)
            self._add(key, step.upper, created_by, step.stubs)
        finally:
            build.workspace.discard(place)

    def _carry_out(self, step: Step) -> int:
        try:
            return step.run(lambda data: self.tell(log=data.decode("latin-1")))
        except StartError as e:
            # 126 and 127 are for a command that a person gave.
            raise BuildError(e.message, hint=e.hint) from None

    def _workdir(self, created_by: str) -> None:
        build, path = self.build, self.settings.workdir
        key = self._key("WORKDIR", path)
        if self._cached(key, created_by):
            return
        place = build.workspace.fresh()
        try:
            copying.write(build.paths, build.userns, place, self._below(),
                          lambda _: copying.make_directories(path), [])
            if os.listdir(place + "/upper"):
                self._add(key, place + "/upper", created_by, None)
            else:
                self.state.note(created_by)
                self.tell(done=True)
        finally:
            build.workspace.discard(place)

    def _copy(self, wish: ins.Copy | ins.Add, created_by: str) -> None:
        from rootless.build import adding

        build = self.build
        dest = destination(self.settings.workdir, wish.dest)
        sources = adding.gather(self, wish)
        key = self._key(wish.word, dest, wish.chown or "", wish.chmod or "",
                        *(f"{f.name}\0{f.content}" for f in wish.files), sources.key())
        if self._cached(key, created_by):
            return
        place = build.workspace.fresh()
        try:
            copying.write(build.paths, build.userns, place, self._below(),
                          lambda roots: sources.write(dest, roots), sources.trees)
            self._add(key, place + "/upper", created_by, None)
        finally:
            build.workspace.discard(place)


def destination(workdir: str, path: str) -> str:
    """Absolute; a slash at its end, which means a directory, stays."""
    whole = config.absolute(workdir, path)
    return whole.rstrip("/") + "/" if path.endswith(("/", "/.")) or path == "." else whole


def failed(argv: tuple[str, ...], code: int) -> BuildError:
    """What BuildKit says of a command that failed."""
    return BuildError(f"process \"{' '.join(argv)}\" did not complete successfully: exit code: "
                      f"{code}")


