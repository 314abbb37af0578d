"""Health checks: a command run in the container from time to time, by its monitor.

docker's rules (moby daemon/health.go). A container is `starting` until a check succeeds or so many
in a row have failed; failures within the start period do not count while it is starting, and in
that time checks come at the start interval. Of the last five checks the end and the beginning of
their output are kept.

A check is a child of the monitor that does what `exec` does, its output comes through a pipe. The
child of one that takes too long is killed, and with it the kernel kills its process inside.
"""

from __future__ import annotations

import os
import time

from rootless.clock import stamp
from rootless.container.statefile import replace
from rootless.quoted import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from rootless.container.exec import Exec
    from rootless.container.store import Container

STARTING, HEALTHY, UNHEALTHY = "starting", "healthy", "unhealthy"
FILE = "health.json"
KEPT, OUTPUT = 5, 4096
# What is not said of a check, in seconds.
DEFAULTS = {"interval": 30.0, "timeout": 30.0, "start_period": 0.0, "start_interval": 5.0,
            "retries": 3}
LONGEST = 1 << 62               # nanoseconds that an image may ask for
CHUNK = 1 << 16
LOOK_SECONDS = 0.1


class Verdict:
    """What the checks of one run of the container have said so far. Knows no clock."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.status = STARTING
        self.streak = 0

    def pause(self, age: float) -> float:
        """Seconds until the next check of a container that has run for `age`."""
        early = self.status == STARTING and age < self.settings["start_period"]
        wanted = self.settings["start_interval" if early else "interval"]
        return max(float(wanted), 0.001)

    def take(self, code: int, age: float) -> bool:
        """The exit code of a check that began at `age`. Has the status changed?"""
        before = self.status
        if code == 0:
            self.streak = 0
            self.status = HEALTHY
        elif self.status != STARTING or age >= self.settings["start_period"]:
            self.streak += 1
            if self.streak >= self.settings["retries"]:
                self.status = UNHEALTHY
        return self.status != before


class Health:
    """The checks of a container, for the monitor's loop: descriptors to wait for, and times."""

    def __init__(self, plan: dict[str, Any], changed: Callable[[str], None],
                 paused: Callable[[], bool]) -> None:
        """`changed` is told each new status. Call `start` when the container has started. One that
        is `paused` is not asked."""
        self._plan = plan
        self._changed = changed
        self._paused = paused
        self._verdict = Verdict(plan["health"])
        self._log: list[str] = []
        self._child = 0
        self._fd = -1
        self._begun = self._next = self._deadline = self._asked = 0.0
        self._output = b""
        self._at = 0

    def start(self) -> None:
        self._verdict = Verdict(self._plan["health"])
        self._log.clear()
        self._begun = time.monotonic()
        self._next = self._begun + self._verdict.pause(0.0)
        self._write()

    def fileno(self) -> int:
        """The output of the check that runs; -1 when none does."""
        return self._fd

    def due(self) -> float:
        """When `act` has something to do, by the monotonic clock."""
        return self._deadline if self._child else self._next

    def act(self) -> None:
        now = time.monotonic()
        seconds = self._plan["health"]["timeout"]
        if self._child and now >= self._deadline and self._paused():
            self._deadline = now + seconds      # its process stands still as well
        elif self._child and now >= self._deadline:
            self._kill()
            self._end(-1, f"Health check exceeded timeout ({seconds:g}s)".encode())
        elif not self._child and now >= self._next:
            if self._paused():
                self._next = now + self._verdict.pause(now - self._begun)
            else:
                self._ask()

    def read(self) -> None:
        """Something came from the check."""
        data = os.read(self._fd, CHUNK)
        if data:
            self._output += data[:OUTPUT - len(self._output)]
            return
        child, self._child = self._child, 0
        _, status = os.waitpid(child, 0)
        self._end(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status),
                  self._output)

    def stop(self) -> None:
        """The container has ended; nothing is written any more."""
        if self._child:
            self._kill()
            os.close(self._fd)
            self._fd = -1

    def _kill(self) -> None:
        os.kill(self._child, 9)
        os.waitpid(self._child, 0)
        self._child = 0

    def _ask(self) -> None:
        self._fd, theirs = os.pipe()
        self._output = b""
        self._at = time.time_ns()
        self._asked = time.monotonic()
        self._deadline = self._asked + self._plan["health"]["timeout"]
        self._child = os.fork()
        if self._child == 0:
            try:
                os.dup2(theirs, 1)
                os.dup2(theirs, 2)
                probe(self._plan)
            finally:
                os._exit(126)
        os.close(theirs)

    def _end(self, code: int, output: bytes) -> None:
        os.close(self._fd)
        self._fd = -1
        changed = self._verdict.take(code, self._asked - self._begun)
        text = output.decode("utf-8", "replace")
        self._log.append(f'{{"Start":"{stamp(self._at)}","End":"{stamp(time.time_ns())}",'
                         f'"ExitCode":{code},"Output":{quote(text)}}}')
        del self._log[:-KEPT]
        now = time.monotonic()
        self._next = now + self._verdict.pause(now - self._begun)
        self._write()
        if changed:
            self._changed(self._verdict.status)

    def _write(self) -> None:
        try:
            replace(self._plan["dir"], FILE,
                    f'{{"Status":"{self._verdict.status}","FailingStreak":{self._verdict.streak},'
                    f'"Log":[{",".join(self._log)}]}}')
        except OSError:
            pass        # a full disk: the next check may be written down


def probe(plan: dict[str, Any]) -> NoReturn:
    """In a child of the monitor: run the check and end as it does."""
    from rootless import linux
    from rootless import paths as places
    from rootless.container import pump, store
    from rootless.container.start import seccomp_program
    from rootless.errors import RootlessError
    from rootless.runtime import plan as planning
    from rootless.userns import keeper

    linux.close_range(3)
    os.environ["ROOTLESS_ROOT"] = plan["store"]
    code = 126
    try:
        paths = places.of_this_user()
        container = store.load(paths, plan["id"])
        if container is not None:
            userns = keeper.open_userns(paths)
            config = container.config()
            made = planning.process(
                dict(config["process"], args=plan["health"]["test"]), config["annotations"],
                seccomp_program(container, config, userns), userns, None, first=False, dies=True)
            where = planning.to_join(config)
            code = pump.pump(_enter(container, made, where), stdin=False) & 0xFF
    except RootlessError as e:
        os.write(2, e.message.encode())
        code = e.exit_code or 126
    os._exit(code)


def _enter(container: Container, made: dict[str, Any], where: int) -> Exec:
    """One that was paused since is waited for: the monitor is patient meanwhile."""
    from rootless.container import cgroups
    from rootless.container import exec as entering
    from rootless.errors import Conflict

    while True:
        while cgroups.paused(container.state()):
            time.sleep(LOOK_SECONDS)
        try:
            return entering.start(container, made, where, tty=False, stdin=False, detach=False)
        except Conflict:
            if not cgroups.paused(container.state()):
                raise


def command(test: list[str], shell: list[str]) -> list[str]:
    """Arguments of `Healthcheck.Test` of an image; empty for NONE and for what the image's
    parent says."""
    if test[:1] == ["CMD"]:
        return test[1:]
    if test[:1] == ["CMD-SHELL"]:
        return [*(shell or ["/bin/sh", "-c"]), *test[1:]]
    return []


def _words(value: Any) -> list[str]:
    return [str(word) for word in value] if isinstance(value, list) else []


def settings(image: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any] | None:
    """The check of a container, in seconds; None where there is none. `image`: its `config`.
    `wanted`: what was said on the command line: test, interval, timeout, start_period,
    start_interval, retries, on_failure. What the image says may be nonsense: then it is nothing."""
    theirs = image.get("Healthcheck")
    if not isinstance(theirs, dict):
        theirs = {}
    test = wanted.get("test")
    if test is None:
        test = _words(theirs.get("Test"))
    args = command(test, _words(image.get("Shell")))
    if not args:
        return None
    made: dict[str, Any] = {"test": args, "words": test,
                            "on_failure": wanted.get("on_failure", "none")}
    for ours, name, unit in (("interval", "Interval", 1e9), ("timeout", "Timeout", 1e9),
                             ("start_period", "StartPeriod", 1e9),
                             ("start_interval", "StartInterval", 1e9), ("retries", "Retries", 1)):
        given = wanted.get(ours)
        said = theirs.get(name)
        if given is None and isinstance(said, (int, float)) and 0 < said < LONGEST:
            given = said / unit
        made[ours] = given or DEFAULTS[ours]
    return made
