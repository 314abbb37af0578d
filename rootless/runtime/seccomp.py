"""The seccomp filter of a container, compiled once and then read from a cache.

Compiling takes some 20 ms: two JSON files, three tables of system calls. So the program is kept in
`cache/seccomp/`, under a name made of all that it depends on. Nothing trusts the file further than
its checksum: a damaged one is compiled again. `filter` is the compiler.
"""

from __future__ import annotations

import os
import sys

from rootless.runtime import capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# The start of the sha256 of the files in SOURCES, in that order: what a cached program was made
# by. A unit test compares.
VERSION = "3b629a77c6e2ebfc"
SOURCES = ("seccomp.json", "syscalls.json", "profile.py", "filter.py", "bpf.py")

# Cache file: magic, length, checksum, program.
_MAGIC = b"rlseccomp1\n\0"
_HEADER = len(_MAGIC) + 4 + 8


def default_filter(paths_cache_dir: str | None, *, caps: frozenset[str], fake_ids: bool) -> bytes:
    """docker's default profile for this machine, as struct sock_filter[].

    `paths_cache_dir` is the store's cache directory, None for no cache. `caps` is the bounding
    set. `fake_ids`: changes of owner and identity answer success without acting (one id only).
    """
    arch = machine()
    kernel = running_kernel()
    key = (f"{VERSION}-{arch}-{kernel[0]}.{kernel[1]}-{capabilities.mask(caps):x}"
           f"{'-fake' if fake_ids else ''}")
    program = _read(paths_cache_dir, key)
    if program is None:
        from rootless.runtime import profile

        program = compile_profile(profile.default(), arch=arch, caps=caps, kernel=kernel,
                                  fake_ids=fake_ids)
        _write(paths_cache_dir, key, program)
    return program


def fake_only(paths_cache_dir: str | None = None) -> bytes:
    """A filter that allows everything, but fakes identities (see `filter.FAKED`)."""
    arch = machine()
    key = f"{VERSION}-{arch}-only-fake"
    program = _read(paths_cache_dir, key)
    if program is None:
        from rootless.runtime import filter as compiler

        program = compiler.compile_fakes(arch)
        _write(paths_cache_dir, key, program)
    return program


def compile_profile(profile: dict[str, Any], *, arch: str, caps: frozenset[str],
                    kernel: tuple[int, int], fake_ids: bool = False) -> bytes:
    """A profile in docker's or the OCI runtime specification's format, as struct sock_filter[].

    Raises UsageError when it is malformed. `arch`: of uname -m, see `machine()`.
    """
    from rootless.runtime import filter as compiler

    bounding = frozenset(capabilities.names(capabilities.mask(caps)))
    return compiler.compile_profile(profile, arch=arch, caps=bounding, kernel=kernel,
                                    fake_ids=fake_ids)


def machine() -> str:
    """The architecture of the kernel; below setarch(8) uname(2) tells that of an older one."""
    name = os.uname().machine
    if sys.maxsize > 1 << 32:
        if name in ("i386", "i486", "i586", "i686"):
            return "x86_64"
        if name in ("armv7l", "armv8l"):
            return "aarch64"
    return name


def running_kernel() -> tuple[int, int]:
    """Major and minor version of the running kernel."""
    major, _, rest = os.uname().release.partition(".")
    minor = ""
    for c in rest:
        if not c.isdigit():
            break
        minor += c
    return int(major), int(minor or 0)


def _checksum(data: bytes) -> int:
    # As in Fletcher's and Adler's sums each byte's weight depends on its place; one big division
    # is the fastest there is without an import. The 1 on top: zeros, which a power cut leaves in
    # place of a file's end, must not have the sum 0.
    largest_prime = 0xFFFFFFFFFFFFFFC5      # of 64 bits
    return int.from_bytes(data + b"\1", "little") % largest_prime


def _read(cache: str | None, key: str) -> bytes | None:
    """The program kept under `key`, None when there is none that is whole."""
    if cache is None:
        return None
    try:
        fd = os.open(f"{cache}/seccomp/{key}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        # The longest program is 32 KiB (4096 instructions).
        data = os.read(fd, 1 << 16)
    except OSError:
        return None
    finally:
        os.close(fd)
    body = data[_HEADER:]
    if not body or len(body) % 8 or data[:_HEADER] != _header(body):
        return None
    return body


def _header(program: bytes) -> bytes:
    return (_MAGIC + len(program).to_bytes(4, "little")
            + _checksum(program).to_bytes(8, "little"))


def _write(cache: str | None, key: str, program: bytes) -> None:
    if cache is None:
        return
    from rootless.errors import StorageError
    from rootless.files import write_atomic

    try:
        os.makedirs(f"{cache}/seccomp", 0o700, exist_ok=True)
        write_atomic(f"{cache}/seccomp/{key}", _header(program) + program)
    except (OSError, StorageError):
        # Only the next start pays for it: a full disk must not keep a container from starting.
        return
