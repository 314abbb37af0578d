"""Everything the engine can say went wrong.

    RootlessError
    ├── UsageError            the command line asks for something that makes no sense
    ├── NotFound              no such image, container, file in the store
    ├── Conflict              name taken, container running, image in use
    ├── HostError             this machine lacks something; `hint` says the line that fixes it
    ├── StorageError          the store cannot be read or written (disk full, not ours, damaged)
    ├── RegistryError         the registry is unreachable, refused us, or answered nonsense
    │   └── AuthError         ... because of credentials
    ├── ImageError            an image, manifest, layer or archive is malformed or hostile
    ├── BuildError            an image could not be built
    │   └── DockerfileError       ... because of what its Dockerfile says; `excerpt` shows where
    └── StartError            the container could not be started
        ├── CommandNotFound       exit code 127
        └── CommandNotExecutable  exit code 126

A message reads `what failed: the object: why`; `hint` is what to type next. The command line
prints them once, at the edge, and turns them into exit codes; nothing below it exits.
"""

from __future__ import annotations


class RootlessError(Exception):
    """A failure to be told to a person.

    `exit_code` is None where the verb decides (125 for `run`, 1 for most others).
    """

    exit_code: int | None = None

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(RootlessError):
    pass


class NotFound(RootlessError):
    pass


class Conflict(RootlessError):
    pass


class HostError(RootlessError):
    pass


class StorageError(RootlessError):
    pass


class RegistryError(RootlessError):
    pass


class AuthError(RegistryError):
    pass


class ImageError(RootlessError):
    pass


class BuildError(RootlessError):
    pass


class DockerfileError(BuildError):
    """`excerpt`: the lines in question with a margin and a caret, to be shown below the message."""

    excerpt = ""


class StartError(RootlessError):
    pass


class CommandNotFound(StartError):
    exit_code = 127


class CommandNotExecutable(StartError):
    exit_code = 126


def os_reason(error: OSError) -> str:
    """The errno text of an OSError, without Python's `[Errno N]`."""
    return error.strerror or str(error)
