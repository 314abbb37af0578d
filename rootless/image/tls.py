"""Whom we trust when we speak TLS to a registry, and who we are."""

from __future__ import annotations

import os

from rootless.errors import RegistryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from rootless.image.registries import Trust


def is_loopback(host: str) -> bool:
    return host == "localhost" or host.endswith(".localhost") or host == "::1" \
        or (host.startswith("127.") and host.replace(".", "").isdigit())


def certificate_dirs(host: str, env: Mapping[str, str], home: str) -> list[str]:
    config = env.get("XDG_CONFIG_HOME") or f"{home}/.config"
    bases = [f"{home}/.docker", f"{config}/docker", f"{config}/containers", "/etc/docker",
             "/etc/containers"]
    if env.get("DOCKER_CONFIG"):
        bases.insert(0, env["DOCKER_CONFIG"])
    return [f"{base}/certs.d/{host}" for base in bases]


def tls_context(host: str, env: Mapping[str, str], home: str, *, verify: bool,
                trust: Trust | None = None, bundle: bool = True) -> ssl.SSLContext:
    """The system's trust, and what is in certs.d for this host: *.crt authorities, *.cert with
    *.key for ourselves. `trust`: what config.toml says of the host. Without `bundle` the system's
    authorities are only those that OpenSSL finds by name in a directory; to read the file of all
    of them takes 20 ms."""
    import ssl

    context = ssl.create_default_context(
        capath=None if bundle else ssl.get_default_verify_paths().capath)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for directory in certificate_dirs(host, env, home):
        try:
            names = sorted(os.listdir(directory))
        except OSError:
            continue
        for name in names:
            path = f"{directory}/{name}"
            try:
                if name.endswith(".crt"):
                    context.load_verify_locations(path)
                elif name.endswith(".cert"):
                    context.load_cert_chain(path, path[:-5] + ".key")
            except OSError as e:
                raise _unusable(path, e) from None
    if trust is not None:
        path = trust.ca
        try:
            if trust.ca:
                context.load_verify_locations(trust.ca)
            if trust.cert:
                path = trust.cert
                context.load_cert_chain(trust.cert, trust.key)
        except OSError as e:
            raise _unusable(path, e, "config.toml names it") from None
    return context


def _unusable(path: str, error: OSError, hint: str | None = None) -> RegistryError:
    from rootless.image.network import reason

    return RegistryError(f"cannot use the certificate {path}: {reason(error)}", hint=hint)
