"""Compare with podman: `python -m tests.bench [CASE...]`, as an unprivileged user.

Needs an installed `rootless` (or ROOTLESS=/path), podman, docker-registry and mmdebstrap, and a
quiet machine. Each pair of figures is taken in turn; medians are shown.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench import cases, engines
from tests.integration.support import debian, filled, images, leftovers, registry
from tests.integration.support.cache import cached, recipe_key
from tests.integration.support.images import Image, Layer

PACKAGES = "gcc,python3"


def big_tar() -> Path:
    """About 100 MB when compressed."""
    def build(directory: Path) -> None:
        debian.mmdebstrap(directory / "big.tar", packages=PACKAGES, options=debian.SLIM)

    return cached("bench", recipe_key(PACKAGES, *debian.SLIM), build) / "big.tar"


def main() -> None:
    chosen = sys.argv[1:] or [*cases.CASES, "memory"]
    unknown = set(chosen) - {*cases.CASES, "memory"}
    if unknown:
        raise SystemExit(f"no such case: {', '.join(unknown)}; "
                         f"there are {', '.join(cases.CASES)} and memory")
    leftovers.adopt_orphans()
    base = Path(tempfile.mkdtemp(prefix="rl-bench-", dir="/var/tmp"))
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
            case = cases.CASES[name]
            image = tiny
            if name in ("pull", "save"):
                image = f"{server.address}/big:latest"
                layer = Layer(big_tar().read_bytes())
                images.push(server.address, "big", "latest", Image([layer], {"Cmd": ["bash"]}))
                print(f"    ({len(layer.blob) / 1e6:.0f} MB compressed)", flush=True)
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
