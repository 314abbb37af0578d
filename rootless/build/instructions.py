"""Instructions with their meaning: one frozen record each.

As parsed, texts are as written; `scope.resolve` returns the same record with variables replaced.
`where` is the place in the Dockerfile. A command is either words to be executed (`shell` false) or
one line for the stage's SHELL.
"""

from __future__ import annotations

from rootless.build.source import Where
from rootless.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Union

    from rootless.build.mounts import Mount
    from rootless.build.nodes import Heredoc

DEFAULT_SHELL = ("/bin/sh", "-c")

# Where the script of a here-document is put that begins with #!.
SCRIPTS = "/dev/pipes"


@record(frozen=True)
class Command:
    words: tuple[str, ...]
    shell: bool

    def argv(self, shell: tuple[str, ...] = DEFAULT_SHELL) -> tuple[str, ...]:
        """What is executed."""
        return (*shell, *self.words) if self.shell else self.words


@record(frozen=True)
class From:
    word = "FROM"
    where: Where
    image: str
    platform: str
    name: str           # as written; stages are known by it in lower case


@record(frozen=True)
class Arg:
    word = "ARG"
    where: Where
    pairs: tuple[tuple[str, str | None], ...]


@record(frozen=True)
class Env:
    word = "ENV"
    where: Where
    pairs: tuple[tuple[str, str], ...]


@record(frozen=True)
class Label:
    word = "LABEL"
    where: Where
    pairs: tuple[tuple[str, str], ...]


@record(frozen=True)
class Run:
    """`mounts` is filled by `resolve` out of `mount_flags`, as their variables must be known.

    `devices`: (name, required) of CDI devices.
    """

    word = "RUN"
    where: Where
    command: Command
    heredocs: tuple[Heredoc, ...]
    mount_flags: tuple[str, ...]
    mounts: tuple[Mount, ...]
    network: str        # default, none, host
    security: str       # sandbox, insecure
    devices: tuple[tuple[str, bool], ...]

    @property
    def script(self) -> tuple[str, bytes] | None:
        """(path, content) of a file the command needs: a lone here-document that begins with #!.

        It is to be mounted read-only and executable, and is no part of the layer.
        """
        here = self._lone()
        if here is None or not here.content.startswith("#!"):
            return None
        return f"{SCRIPTS}/{here.name}", here.content.encode("utf-8", "surrogateescape")

    def argv(self, shell: tuple[str, ...] = DEFAULT_SHELL) -> tuple[str, ...]:
        """What is executed. `RUN <<EOF` hands the document itself to the shell; with more on the
        line the shell gets the line and the documents below it, and reads them itself."""
        here = self._lone()
        if here is not None:
            script = self.script
            return Command((script[0] if script else here.content,), True).argv(shell)
        if not self.heredocs:
            return self.command.argv(shell)
        documents = "".join(f"\n{h.text}{h.name}" for h in self.heredocs)
        return Command((self.command.words[0] + documents,), True).argv(shell)

    def _lone(self) -> Heredoc | None:
        from rootless.build.nodes import here_document

        if len(self.heredocs) == 1 and here_document(self.command.words[0]):
            return self.heredocs[0]
        return None


@record(frozen=True)
class Copy:
    """`files`: here-documents, written as files of their names (`content`; expanded if asked)."""

    word = "COPY"
    where: Where
    sources: tuple[str, ...]
    files: tuple[Heredoc, ...]
    dest: str
    from_: str
    chown: str
    chmod: str
    link: bool
    parents: bool
    excludes: tuple[str, ...]


@record(frozen=True)
class Add:
    """`unpack`: None when not said: local archives are unpacked, fetched ones are not."""

    word = "ADD"
    where: Where
    sources: tuple[str, ...]
    files: tuple[Heredoc, ...]
    dest: str
    chown: str
    chmod: str
    link: bool
    excludes: tuple[str, ...]
    checksum: str
    keep_git_dir: bool
    unpack: bool | None


@record(frozen=True)
class Workdir:
    word = "WORKDIR"
    where: Where
    path: str


@record(frozen=True)
class User:
    word = "USER"
    where: Where
    user: str


@record(frozen=True)
class Volume:
    word = "VOLUME"
    where: Where
    paths: tuple[str, ...]


@record(frozen=True)
class Expose:
    """As parsed, words; resolved, `80/tcp`, one for each port of a range, in order."""

    word = "EXPOSE"
    where: Where
    ports: tuple[str, ...]


@record(frozen=True)
class Stopsignal:
    word = "STOPSIGNAL"
    where: Where
    signal: str


@record(frozen=True)
class Cmd:
    word = "CMD"
    where: Where
    command: Command


@record(frozen=True)
class Entrypoint:
    word = "ENTRYPOINT"
    where: Where
    command: Command


@record(frozen=True)
class Shell:
    word = "SHELL"
    where: Where
    words: tuple[str, ...]


@record(frozen=True)
class Healthcheck:
    """`test`: NONE, or CMD and words, or CMD-SHELL and a line. Times in nanoseconds, 0: default."""

    word = "HEALTHCHECK"
    where: Where
    test: tuple[str, ...]
    interval: int
    timeout: int
    start_period: int
    start_interval: int
    retries: int


@record(frozen=True)
class Maintainer:
    word = "MAINTAINER"
    where: Where
    name: str


@record(frozen=True)
class Onbuild:
    """`trigger`: the instruction as text, here-documents below it."""

    word = "ONBUILD"
    where: Where
    trigger: str


if TYPE_CHECKING:
    Instruction = Union[Arg, Env, Label, Run, Copy, Add, Workdir, User, Volume, Expose, Stopsignal,
                        Cmd, Entrypoint, Shell, Healthcheck, Maintainer, Onbuild]
