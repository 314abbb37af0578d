"""`rootless start`, `restart` and `attach`."""

from __future__ import annotations

import os
import sys

from rootless import paths as places
from rootless.cli.command import FLAG, LIST, OPTIONAL, VALUE, Command, Option, Options
from rootless.cli.life import names
from rootless.container import attach, cgroups, frames, life, signals, store
from rootless.container.early import fork_early
from rootless.container.start import failure, start
from rootless.errors import Conflict, HostError, RootlessError, UsageError
from rootless.userns import keeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.container.store import Container


def run(options: Options) -> int:
    foreground = options.flag("attach") or options.flag("interactive")
    chosen = names(options)
    if foreground and len(chosen) > 1:
        raise UsageError("cannot attach to several containers at once")
    paths = places.of_this_user()
    userns = keeper.open_userns(paths)
    worst = 0
    monitor = options.monitor
    for name in chosen:
        try:
            container = store.find(paths, name)
            if foreground:
                return _start_attached(container, userns, monitor, options)
            _start(container, userns, monitor if monitor >= 0 else fork_early())
            sys.stdout.write(name + "\n")
        except RootlessError as e:
            from rootless.__main__ import tell

            tell(e)
            worst = 1
        monitor = -1
    return worst


def _start(container: Container, userns: keeper.Userns, monitor: int) -> None:
    lock = container.lock()
    try:
        state = container.state()
        if cgroups.paused(state):
            raise _paused(container)
        if state.running:
            return
        start(container, userns, lock, monitor, stdin_once=False, size=None)
        said = attach.Attached(monitor, stdin=False, tty=False, detach_keys="",
                               kill=None).wait_started()
        if said != b"S":
            raise failure(said)
    finally:
        os.close(lock)
        os.close(monitor)


def _paused(container: Container) -> Conflict:
    return Conflict(f"container {container.name} is paused",
                    hint=f"rootless unpause {container.name}")


def restart(options: Options) -> int:
    seconds, signal = options.integer("time"), options.value("signal") or ""
    if signal:
        signals.number(signal)
    paths = places.of_this_user()
    worst = 0
    monitor = options.monitor
    for name in names(options):
        try:
            container = store.find(paths, name)
            told = life.restart(container, seconds=seconds, signal=signal)
            if told is None:
                userns = keeper.open_userns(paths)
                _start(container, userns, monitor if monitor >= 0 else fork_early())
                monitor = -1
            elif told:
                raise failure(told)
            sys.stdout.write(name + "\n")
            sys.stdout.flush()
        except RootlessError as e:
            from rootless.__main__ import tell

            tell(e)
            worst = 1
    return worst


def _start_attached(container: Container, userns: keeper.Userns, monitor: int,
                    options: Options) -> int:
    if container.state().running:
        return _attach(container, stdin=options.flag("interactive"),
                       keys=options.value("detach-keys"), proxy=True)
    data = container.data
    stdin = options.flag("interactive") and bool(data["stdin"])
    lock = container.lock()
    try:
        size = attach.terminal_size(1) or attach.terminal_size(0) if data["tty"] else None
        start(container, userns, lock, monitor, stdin_once=stdin, size=size)
        keys = options.value("detach-keys")
        link = attach.Attached(monitor, stdin=stdin, tty=data["tty"],
                               detach_keys=data["detach_keys"] if keys is None else keys,
                               kill=None if data["tty"] and stdin else _proxy(container))
        said = link.wait_started()
        if said != b"S":
            raise failure(said)
    finally:
        os.close(lock)
    try:
        return link.until_end()
    except attach.Detached:
        return 0


def _proxy(container: Container) -> attach.Kill:
    return lambda number: life.send_signal(container, container.state(), number)


def attach_to(options: Options) -> int:
    container = store.find(places.of_this_user(), options.args[0])
    return _attach(container, stdin=not options.flag("no-stdin"),
                   keys=options.value("detach-keys"),
                   proxy=options.boolean("sig-proxy") is not False)


def _attach(container: Container, *, stdin: bool, keys: str | None, proxy: bool) -> int:
    state = container.state()
    if state.elsewhere:
        raise HostError(f"container {container.name} runs on {state.elsewhere}, not here",
                        hint=f"run this command on {state.elsewhere}")
    if not state.running:
        raise Conflict(f"container {container.name} is not running",
                       hint=f"rootless start --attach {container.name}")
    if cgroups.paused(state):
        raise _paused(container)
    try:
        sock = frames.connect(state.socket)
    except OSError:
        raise HostError(f"cannot reach the monitor of container {container.name}",
                        hint="rootless logs shows what it wrote so far") from None
    data = container.data
    stdin = stdin and bool(data["stdin"])
    link = attach.Attached(sock, stdin=stdin, tty=data["tty"],
                           detach_keys=data["detach_keys"] if keys is None else keys,
                           kill=_proxy(container) if proxy and not (data["tty"] and stdin)
                           else None)
    link.wait_started()
    container.event("attach")
    try:
        return link.until_end()
    except attach.Detached:
        container.event("detach")
        return 0


_KEYS = Option("detach-keys", VALUE, "Keys that detach (default ctrl-p,ctrl-q)", metavar="KEYS")

COMMANDS = {
    "start": Command("start", "CONTAINER [CONTAINER...]", "Start stopped containers.", run, (
        Option("attach", FLAG, "Show its output and wait for its end", "a"),
        Option("interactive", FLAG, "Pass on standard input", "i"), _KEYS,
        Option("all", FLAG, "All containers, or with --filter those that match"),
        Option("filter", LIST, "Those that match, as in ps", "f", "KEY=VALUE"),
        Option("latest", FLAG, "The last created", "l"))),
    "restart": Command("restart", "CONTAINER [CONTAINER...]",
                       "Stop containers, where they run, and start them again.", restart, (
                           Option("time", VALUE, "Seconds to wait before SIGKILL (default 10, "
                                                 "-1: for ever)", "t", "SECONDS"),
                           Option("signal", VALUE, "Signal to send first", "s", "SIGNAL"),
                           Option("all", FLAG, "All containers", "a"),
                           Option("filter", LIST, "Those that match, as in ps", "f", "KEY=VALUE"),
                           Option("latest", FLAG, "The last created", "l"))),
    "attach": Command("attach", "CONTAINER",
                      "Connect standard input and output to a running container.", attach_to, (
                          _KEYS, Option("no-stdin", FLAG, "Do not pass on standard input"),
                          Option("sig-proxy", OPTIONAL, "Pass on signals (default true)",
                                 metavar="BOOL", default="true")), least=1, most=1),
}
