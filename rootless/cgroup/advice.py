"""The lines that an administrator types so that users can have limits."""

from __future__ import annotations

import os

DELEGATE = ("mkdir -p /etc/systemd/system/user@.service.d && printf '[Service]\\nDelegate="
            "cpu cpuset io memory pids\\n' > /etc/systemd/system/user@.service.d/delegate.conf && "
            "systemctl daemon-reload")
_OPTION = "systemd.unified_cgroup_hierarchy=1"
_UNIFIED = {
    "dnf": f"grubby --update-kernel=ALL --args={_OPTION} && reboot",
    "apt-get": (f"sed -i 's/^GRUB_CMDLINE_LINUX=\"/&{_OPTION} /' /etc/default/grub && "
                "update-grub && reboot"),
}


def unified(packages: str) -> str:
    """For a machine with systemd that boots with cgroup v1; "" where its tools are not known.
    Takes effect at the next boot."""
    return _UNIFIED.get(packages, "")


def linger(user: str) -> str:
    """A manager for somebody who has not logged in through PAM."""
    return f"loginctl enable-linger {user}"


def packages(root: str = "") -> str:
    return next((p for p in ("apt-get", "dnf") if os.path.exists(f"{root}/usr/bin/{p}")), "")


def has_systemd(root: str = "") -> bool:
    return os.path.isdir(f"{root}/run/systemd/system")
