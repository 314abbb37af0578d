"""Compare with podman: `python -m tests.bench [CASE...]`, as an unprivileged user.

Needs an installed `rootless` (or ROOTLESS=/path), podman, docker-registry and mmdebstrap, and a
quiet machine. Each pair of figures is taken in turn; medians are shown. The stores are made below
/var/tmp, or below $ROOTLESS_BENCH: on ext4 the making of files takes several times as long for some
minutes after many were removed, on tmpfs it never does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench import cases, engines, networks, stock
from tests.integration.support import filled, leftovers, registry


def main() -> None:
    others = ["memory", "network-memory", "pull-memory"]
    chosen = sys.argv[1:] or [*cases.CASES, *others]
    unknown = set(chosen) - {*cases.CASES, *others}
    if unknown:
        raise SystemExit(f"no such case: {', '.join(unknown)}; "
                         f"there are {', '.join([*cases.CASES, *others])}")
    leftovers.adopt_orphans()
    where = os.environ.get("ROOTLESS_BENCH", "/var/tmp")
    base = Path(tempfile.mkdtemp(prefix="rl-bench-", dir=where))
    base.chmod(0o755)
    storage = base / "storage"
    subprocess.run(["cp", "-a", str(filled.storage()), str(storage)], check=True)
    server = registry.start(base / "registry", storage)
    ours, theirs = engines.rootless(base), engines.podman(base)
    try:
        tiny = f"{server.address}/tiny:latest"
        for engine in (ours, theirs):
            engine("pull", "--tls-verify=false", tiny)
            engine("run", "--rm", "--network", "none", tiny, "true")
        print(f"{'':32} {'rootless':>10} {'podman':>10} {'ratio':>7} {'goal':>6}")
        for name in chosen:
            if name == "memory":
                mine, their = cases.memory(ours, theirs, tiny, 20)
                print(f"{'memory of an idle container':32} {mine:7.2f} MB {their:7.2f} MB "
                      f"{'':7} {'4 MB':>6}")
                continue
            if name == "network-memory":
                for process, size in networks.memory(ours, tiny):
                    print(f"{f'memory of the network {process}':32} {size:7.2f} MB {'':18} "
                          f"{'15 MB':>6}", flush=True)
                continue
            if name == "pull-memory":
                for kind in ("zeros", "noise"):
                    image = stock.image(server.address, kind)
                    mine, their = (cases.peak(e, "pull", "--tls-verify=false", image)
                                   for e in (ours, theirs))
                    print(f"{f'peak of a pull, 2 GiB of {kind}':32} {mine:7.0f} MB {their:7.0f} "
                          f"MB {'':7} {'150 MB':>6}", flush=True)
                continue
            case = cases.CASES[name]
            image = stock.image(server.address, case.image)
            pairs = list(case.measure(ours, theirs, image, case.rounds))
            a, b, ratio = cases.ratio(pairs)
            print(f"{case.name:32} {a * 1e3:7.0f} ms {b * 1e3:7.0f} ms {ratio:7.2f} "
                  f"{'≤ ' + str(case.goal):>6}", flush=True)
    finally:
        os.chdir("/")
        ours.remove()
        theirs.remove()
        server.stop()
        shutil.rmtree(base, ignore_errors=True)


main()
