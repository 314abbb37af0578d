"""The machine's system: Debian with systemd and cgroup v2, as a kernel, an initrd and a drive.

Made by the ordinary user, no step needs root: mmdebstrap writes a tar, and both unpacking it and
making a filesystem of it happen in a user namespace in which the tar's owners exist. Nothing of
ours is in it, so it stays valid when code changes; what changes comes on the second drive.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.integration.support.cache import cached, recipe_key
from tests.integration.support.debian import SLIM, SUITE, mmdebstrap

PACKAGES = ("systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,uidmap,fuse3,iproute2,"
            "procps,python3,linux-image-cloud-amd64")
SIZE = "4G"     # sparse: what the cases write is thrown away with the machine

# One service runs what the second drive says and turns the machine off, whatever happened.
SERVICE = """\
[Unit]
Description=Cases of the second drive
After=dbus.service systemd-logind.service systemd-user-sessions.service

[Service]
Type=oneshot
TimeoutStartSec=infinity
ExecStart=/bin/mount -o ro /dev/vdb /payload
ExecStart=/bin/sh /payload/checkout/tests/vm/start.sh
ExecStopPost=/bin/systemctl poweroff --force --force
StandardOutput=tty
StandardError=inherit
TTYPath=/dev/ttyS0

[Install]
WantedBy=multi-user.target
"""

# Timers and consoles cost seconds of an emulated processor.
UNWANTED = ("apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer "
            "e2scrub_reap.service fstrim.timer getty.target systemd-update-utmp.service "
            "systemd-pstore.service systemd-journal-flush.service systemd-random-seed.service")

# Runs with the new root as $1. The user lingers: a user manager with delegated controllers is
# there although nobody has logged in.
CUSTOMIZE = f"""set -eu
cat >"$1/etc/systemd/system/cases.service" <<'UNIT'
{SERVICE}UNIT
echo machine >"$1/etc/hostname"
echo 127.0.0.1 localhost machine >"$1/etc/hosts"
: >"$1/etc/fstab"
mkdir -p "$1/payload" "$1/var/lib/systemd/linger"
chroot "$1" useradd --create-home --uid 1000 --shell /bin/bash user
grep -q ^user: "$1/etc/subuid"
touch "$1/var/lib/systemd/linger/user"
chroot "$1" systemctl --quiet mask {UNWANTED}
chroot "$1" systemctl --quiet enable cases.service
"""

# Device nodes cannot be made in a user namespace; the kernel fills /dev itself.
UNPACK = f"""set -eu
mkdir root
tar -C root --exclude='./dev/*' -xf root.tar
rm root.tar
mv root/boot/vmlinuz-* kernel
mv root/boot/initrd.img-* initrd
rm -r root/boot/*
readlink root/usr/bin/python3 >python
mke2fs -q -F -t ext4 -O ^has_journal -m 0 -d root drive {SIZE}
rm -r root
"""


class System(NamedTuple):
    kernel: Path
    initrd: Path
    drive: Path
    python: str     # name of the directory its interpreter looks for packages in


def system() -> System:
    key = recipe_key(SUITE, PACKAGES, *SLIM, CUSTOMIZE, UNPACK)
    place = cached("machine", key, _build)
    return System(place / "kernel", place / "initrd", place / "drive",
                  (place / "python").read_text().strip())


def _build(directory: Path) -> None:
    mmdebstrap(directory / "root.tar", packages=PACKAGES,
               options=(*SLIM, f"--customize-hook={CUSTOMIZE}"))
    try:
        as_namespace_root(UNPACK, directory)
    finally:
        # What a failure leaves belongs to subordinate ids.
        as_namespace_root("rm -rf root", directory)


def as_namespace_root(script: str, directory: Path, *, ids: bool = True) -> None:
    """Run `script` as the root of a user namespace, with all of the user's ids or one only."""
    namespace = ["unshare", "--map-root-user", *(["--map-auto"] if ids else [])]
    done = subprocess.run([*namespace, "sh", "-c", script], cwd=directory, check=False,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    if done.returncode:
        raise RuntimeError("making a drive failed:\n"
                           f"{done.stdout.decode(errors='replace')[-4000:]}")
