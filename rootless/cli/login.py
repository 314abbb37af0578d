"""`rootless login` and `logout`."""

from __future__ import annotations

import os
import sys

from rootless import paths as places
from rootless.cli.command import FLAG, OPTIONAL, VALUE, Command, Option, Options
from rootless.errors import AuthError, NotFound, RegistryError, UsageError
from rootless.image.reference import DEFAULT_DOMAIN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.image.auth import Credentials
    from rootless.image.reference import Reference
    from rootless.paths import Paths

LONGEST = 1 << 16       # of a password on standard input


def login(options: Options) -> int:
    from rootless.image import auth, credentials

    paths = places.of_this_user()
    registry = credentials.place(options.args[0] if options.args else DEFAULT_DOMAIN)
    name = credentials.shown(registry)
    known = auth.credentials(registry.domain, registry.path, os.environ, paths.home)
    if options.flag("get-login"):
        if known is None:
            raise NotFound(f"not logged in to {name}", hint=f"rootless login {name}")
        sys.stdout.write(f"{known.user or auth.TOKEN}\n")
        return 0
    verify = options.boolean("tls-verify")
    user, password = options.value("username"), _given_password(options)
    if user is None and password is None and known is not None:
        sys.stdout.write("Authenticating with existing credentials...\n")
        sys.stdout.flush()
        try:
            _prove(paths, registry, known, verify)
            sys.stdout.write("Login Succeeded\n")
            return 0
        except AuthError:
            if not os.isatty(0):
                raise
            sys.stdout.write("Stored credentials are not taken any more\n")
    user, password = _ask(name, user, password, known.user if known else "")
    fresh = auth.Credentials(user, password, "", "", "what was typed" if os.isatty(0)
                             else "the command line")
    asked, identity = _prove(paths, registry, fresh, verify)
    if not asked:
        _warn(f"{registry.domain} asked for no password, so this one was not checked")
    fresh.identity = identity
    file = credentials.store(registry, fresh, os.environ, paths.home)
    if file:
        _warn(f"the password is stored unencrypted in {file}; a credential helper (credsStore "
              "in that file) would keep it safer")
    _tell_shadow(paths, registry, fresh)
    sys.stdout.write("Login Succeeded\n")
    return 0


def _given_password(options: Options) -> str | None:
    given = options.value("password")
    if not options.flag("password-stdin"):
        if given is not None:
            _warn("a password on the command line is seen by everybody on this machine: "
                  "--password-stdin is not")
        return given
    if given is not None:
        raise UsageError("--password and --password-stdin exclude each other")
    if options.value("username") is None:
        raise UsageError("--password-stdin needs --username", hint="-u NAME")
    data = sys.stdin.buffer.read(LONGEST + 1)
    if len(data) > LONGEST:
        raise UsageError(f"cannot read the password: it is longer than {LONGEST} bytes")
    try:
        return data.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise UsageError("cannot read the password: it is not UTF-8") from None


def _ask(name: str, user: str | None, password: str | None, before: str) -> tuple[str, str]:
    """What is missing, on the terminal. Raises UsageError."""
    if (user is None or password is None) and not os.isatty(0):
        raise UsageError(f"cannot log in to {name}: standard input is no terminal to ask at",
                         hint=f"rootless login -u NAME --password-stdin {name} < FILE")
    if user is None:
        sys.stdout.write(f"Username ({before}): " if before else "Username: ")
        sys.stdout.flush()
        user = sys.stdin.readline().strip() or before
    if not user:
        raise UsageError(f"cannot log in to {name}: no user name was given")
    if password is None:
        from getpass import getpass

        try:
            password = getpass("Password: ")
        except EOFError:
            password = ""
    if not password:
        raise UsageError(f"cannot log in to {name}: no password was given")
    return user, password


def _prove(paths: Paths, registry: Reference, known: Credentials,
           verify: bool | None) -> tuple[bool, str]:
    from rootless.image import registries

    place = registries.of_this_user(paths, os.environ).itself(registry)
    if place.reference.domain != registry.domain:
        raise RegistryError(f"cannot log in to {registry.domain}: config.toml puts "
                            f"{place.reference.domain} in its place",
                            hint=f"rootless login {place.reference.domain}")
    client = registries.connect(place, tls_verify=verify, env=os.environ, home=paths.home,
                                say=_warn)
    return client.log_in(known)


def _tell_shadow(paths: Paths, registry: Reference, fresh: Credentials) -> None:
    """podman's file is read before docker's."""
    from rootless.image import auth

    found = auth.credentials(registry.domain, registry.path, os.environ, paths.home)
    if found is not None and (found.user, found.password, found.identity) != (
            fresh.user if not fresh.identity else found.user,
            fresh.password if not fresh.identity else found.password, fresh.identity):
        _warn(f"{found.origin} has other credentials for it and is read first: podman logout "
              f"{registry.domain} removes them")


def _warn(text: str) -> None:
    sys.stderr.write(f"WARNING: {text}\n")
    sys.stderr.flush()


def logout(options: Options) -> int:
    from rootless.__main__ import tell
    from rootless.image import auth, credentials

    paths = places.of_this_user()
    if options.flag("all"):
        if options.args:
            raise UsageError("--all takes no registry")
        registries = credentials.every(os.environ, paths.home)
    else:
        registries = [credentials.place(options.args[0] if options.args else DEFAULT_DOMAIN)]
    worst = 0
    for registry in registries:
        name = credentials.shown(registry)
        try:
            if credentials.erase(registry, os.environ, paths.home):
                sys.stdout.write(f"Removed login credentials for {name}\n")
            elif not options.flag("all"):
                sys.stdout.write(f"Not logged in to {name}\n")
            left = auth.credentials(registry.domain, registry.path, os.environ, paths.home)
        except AuthError as e:
            # A helper that fails does not keep the passwords that others have.
            tell(e)
            worst = 1
            continue
        if left is not None:
            _warn(f"{left.origin} has credentials for {name}, too, which stay: podman logout "
                  f"{registry.domain} removes them")
    return worst


COMMANDS = {
    "login": Command("login", "[REGISTRY]", "Log in to a registry: docker.io, or HOST[:PORT].",
                     login, (
        Option("get-login", FLAG, "Print the user name we are logged in as"),
        Option("password", VALUE, "Password (--password-stdin is safer)", "p", "TEXT"),
        Option("password-stdin", FLAG, "Read the password from standard input"),
        Option("tls-verify", OPTIONAL, "Check the registry's certificate (default true)",
               metavar="BOOL", default="true"),
        Option("username", VALUE, "User name", "u", "NAME"),
    ), most=1),
    "logout": Command("logout", "[REGISTRY]", "Forget the password for a registry.", logout, (
        Option("all", FLAG, "For all registries", "a"),
    ), most=1),
}
