"""`rootless copy`."""

from __future__ import annotations

import sys

from rootless import paths as places
from rootless.cli.command import FLAG, OPTIONAL, VALUE, Command, Option, Options
from rootless.image import store


def copy(options: Options) -> int:
    import os

    from rootless.files import write_atomic
    from rootless.image import copy as copying
    from rootless.image import gc
    from rootless.userns import keeper

    def say(text: str) -> None:
        if not options.flag("quiet"):
            sys.stderr.write(text + "\n")

    paths = places.of_this_user()
    paths.ensure()
    here, there = (copying.place(text) for text in options.args)
    verify = options.boolean("tls-verify")
    origins = options.boolean("src-tls-verify")
    targets = options.boolean("dest-tls-verify")
    try:
        with store.hold(paths):
            origin = copying.source(paths, here, say=say,
                                    tls_verify=verify if origins is None else origins)
            target = copying.target(paths, there, lambda: keeper.open_userns(paths), say=say,
                                    tls_verify=verify if targets is None else targets)
            try:
                digest = copying.Copy(origin, target, form=options.value("format") or "",
                                      platform=options.value("platform") or "",
                                      every=options.flag("all"), say=say).run()
                target.commit()
            finally:
                target.close()
    finally:
        # What was read through our store and belongs to no image of it.
        gc.sweep(paths, patience=0)
    file = options.value("digestfile")
    if file is not None:
        write_atomic(os.path.abspath(file), digest.encode(), mode=0o644)
    return 0


COMMANDS = {
    "copy": Command("copy", "SOURCE TARGET", "Copy an image from one place to another: "
                    "docker://NAME, oci:DIR[:TAG], oci-archive:FILE[:TAG], "
                    "docker-archive:FILE[:NAME], dir:PATH, store:NAME (or a bare NAME).", copy, (
        Option("all", FLAG, "All platforms of an image for several", "a"),
        Option("platform", VALUE, "Which one, of an image for several", "", "PLATFORM"),
        Option("format", VALUE, "Manifest: oci or v2s2 (default: as it is)", "f", "FORMAT"),
        Option("digestfile", VALUE, "Write the digest into this file", "", "FILE"),
        Option("quiet", FLAG, "Say nothing", "q"),
        Option("tls-verify", OPTIONAL, "Check certificates (default true)", "", "BOOL", "true"),
        Option("src-tls-verify", OPTIONAL, "The same, of the source", "", "BOOL", "true"),
        Option("dest-tls-verify", OPTIONAL, "The same, of the target", "", "BOOL", "true"),
    ), least=2, most=2),
}
