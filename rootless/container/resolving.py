"""How names are resolved in a container: its /etc/hosts and /etc/resolv.conf."""

from __future__ import annotations

from rootless.errors import UsageError
from rootless.network.endpoints import joins

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.container.wanted import Wanted

HOST_GATEWAY = "host-gateway"


def hosts(wanted: Wanted, hostname: str) -> str:
    """What a container on networks is called there is added when it joins them."""
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback",
             "fe00::0\tip6-localnet", "ff00::0\tip6-mcastprefix", "ff02::1\tip6-allnodes",
             "ff02::2\tip6-allrouters"]
    if wanted.network == "host":
        lines = _lines("/etc/hosts") or lines
    if not joins(wanted.network) and not any(hostname in line.split()[1:] for line in lines):
        lines.append(f"127.0.1.1\t{hostname}")
    lines += [f"{_address(wanted, address)}\t{name}" for name, address in wanted.add_host]
    return "\n".join(lines) + "\n"


def _address(wanted: Wanted, text: str) -> str:
    if text != HOST_GATEWAY:
        return text
    if wanted.network == "host":
        return "127.0.0.1"
    if not joins(wanted.network):
        raise UsageError(f"cannot tell the address of the host with --network {wanted.network}: "
                         "there is no way to it")
    from rootless.network.uplink import HOST4

    return HOST4


def resolv_conf(wanted: Wanted) -> str:
    """Without name servers for a container on networks: it asks those of its networks."""
    lines = _lines("/etc/resolv.conf")
    own = joins(wanted.network)
    replaced = [("nameserver", [f"nameserver {a}" for a in wanted.dns] if not own else [],
                 bool(wanted.dns) or own),
                ("search", [f"search {' '.join(wanted.dns_search)}"]
                 if wanted.dns_search and wanted.dns_search != (".",) else [],
                 bool(wanted.dns_search)),
                ("options", [f"options {' '.join(wanted.dns_option)}"], bool(wanted.dns_option))]
    for word, new, is_given in replaced:
        if is_given:
            lines = [li for li in lines if li.split()[:1] != [word]] + new
    if own and not any("ndots:" in li for li in lines if li.split()[:1] == ["options"]):
        # The name of a container is whole as it is; then only is it looked for in a domain.
        lines.append("options ndots:0")
    return "\n".join(lines) + "\n" if lines else ""


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.read().splitlines()
    except OSError:
        return []
