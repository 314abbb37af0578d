"""`rootless push`."""

from __future__ import annotations

import os
import sys

from rootless import events
from rootless import paths as places
from rootless.cli.command import FLAG, OPTIONAL, VALUE, Command, Option, Options
from rootless.errors import UsageError


def push(options: Options) -> int:
    from rootless.files import write_atomic
    from rootless.image import push as pushing

    quiet = options.flag("quiet")
    digestfile = options.value("digestfile")
    if digestfile and options.flag("all-tags"):
        raise UsageError("cannot write one digest of all tags",
                         hint="--digestfile goes with a single image")
    form = pushing.Form(options.value("format") or "", options.value("compression-format") or "",
                        options.integer("compression-level"))
    form.check()
    name = options.args[0]
    try:
        pushed = pushing.push(places.of_this_user(), name,
                              options.args[1] if len(options.args) > 1 else "", form=form,
                              all_tags=options.flag("all-tags"), quiet=quiet,
                              tls_verify=options.boolean("tls-verify"), out=sys.stdout)
    except UsageError as e:
        # As for pull: a name that cannot be is docker's 1.
        e.exit_code = 1
        raise
    for reference, digest in pushed:
        events.emit(places.of_this_user().data, "image", "push", reference,
                    {"name": reference, "digest": digest})
    if quiet:
        sys.stdout.write("".join(f"{reference}\n" for reference, _ in pushed))
    if digestfile:
        write_atomic(os.path.abspath(digestfile), pushed[0][1].encode(), mode=0o644)
    return 0


COMMANDS = {
    "push": Command("push", "IMAGE [[docker://]HOST/NAME[:TAG]]", "Upload an image to a registry.",
                    push, (
        Option("all-tags", FLAG, "Push all images of the repository IMAGE", "a"),
        Option("compression-format", VALUE, "Compress layers with gzip or zstd, where they are "
                                            "not yet", metavar="FORMAT"),
        Option("compression-level", VALUE, "Compress every layer anew: 1 to 9 (gzip), 1 to 22 "
                                           "(zstd)", metavar="LEVEL"),
        Option("digestfile", VALUE, "Write the digest in the registry to this file",
               metavar="FILE"),
        Option("format", VALUE, "Manifest: oci or v2s2 (default: as the image came)", "f",
               "FORMAT"),
        Option("quiet", FLAG, "Print the name only", "q"),
        Option("tls-verify", OPTIONAL, "Check the registry's certificate (default true)",
               metavar="BOOL", default="true"),
    ), least=1, most=2),
}
