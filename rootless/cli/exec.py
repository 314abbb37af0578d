"""`rootless exec`."""

from __future__ import annotations

from rootless import paths as places
from rootless.cli.command import FLAG, LIST, VALUE, Command, Option, Options
from rootless.cli.environment import environment
from rootless.container import attach, pump, store
from rootless.container import exec as entering
from rootless.container.start import seccomp_program
from rootless.errors import UsageError
from rootless.runtime import capabilities, plan
from rootless.userns import keeper

OPTIONS = (
    Option("detach", FLAG, "Leave it running", "d"),
    Option("env", LIST, "Environment variable", "e", "NAME=VALUE"),
    Option("env-file", LIST, "Read environment variables from a file", metavar="FILE"),
    Option("interactive", FLAG, "Pass on standard input", "i"),
    Option("privileged", FLAG, "All capabilities within the user namespace"),
    Option("tty", FLAG, "Give it a terminal", "t"),
    Option("user", VALUE, "User, by name or number", "u", "USER[:GROUP]"),
    Option("workdir", VALUE, "Working directory", "w", "DIR"),
)


def run(options: Options) -> int:
    name, *args = options.args
    paths = places.of_this_user()
    container = store.find(paths, name)
    config = container.config()
    tty, detach = options.flag("tty"), options.flag("detach")
    stdin = options.flag("interactive") and not detach
    userns = keeper.open_userns(paths)

    proc = dict(config["process"], args=args, rlimits=config["process"]["rlimits"])
    env = dict(text.partition("=")[::2] for text in proc["env"])
    if tty:
        env["TERM"] = "xterm"
    env.update(environment(options))
    proc["env"] = [f"{k}={v}" for k, v in env.items()]
    workdir = options.value("workdir")
    if workdir:
        if not workdir.startswith("/"):
            raise UsageError(f"invalid working directory: {workdir}: it must be absolute")
        proc["cwd"] = workdir
    annotations = dict(config["annotations"])
    user = options.value("user")
    if user is not None:
        annotations["org.rootless.user"] = user
    if options.flag("privileged"):
        caps = [f"CAP_{n}" if not n.startswith("CAP_") else n
                for n in sorted(capabilities.resolve([], [], privileged=True))]
        proc["capabilities"] = {"bounding": caps}
    size = attach.terminal_size(0) or attach.terminal_size(1) if tty else None
    made = plan.process(proc, annotations, seccomp_program(container, config, userns), userns,
                        size, first=False, dies=not detach)
    if options.flag("privileged"):
        made["seccomp"] = b""
    words = " ".join(args)
    container.event(f"exec_create: {words}")
    running = entering.start(container, made, plan.to_join(config), tty=tty, stdin=stdin,
                             detach=detach)
    container.event(f"exec_start: {words}")
    if detach:
        return 0
    code = pump.pump(running, stdin=stdin)
    container.event("exec_die", exitCode=str(code))
    return code


COMMANDS = {
    "exec": Command("exec", "CONTAINER COMMAND [ARG...]",
                    "Run a command in a running container.\n\nExit codes: the command's own; 126 "
                    "when it cannot be run, 127 when it is not found.",
                    run, OPTIONS, least=2, interspersed=False),
}
