"""`rootless doctor`: what this machine allows, and what would mend the rest."""

from __future__ import annotations

import os
import sys

from rootless import paths as places
from rootless.cli.command import FLAG, Command, Option, Options
from rootless.doctor.gather import gather
from rootless.doctor.judge import Line, able, conclusion, judge


def doctor(options: Options) -> int:
    facts = gather(places.of_this_user(), os.environ)
    lines = judge(facts)
    if options.flag("json"):
        import json

        sys.stdout.write(json.dumps([{"name": line.name, "status": line.status,
                                      "detail": line.detail, "fix": line.fix or None}
                                     for line in lines], indent=4, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(table(lines) + "\n" + conclusion(facts, lines) + "\n")
    return 0 if able(lines) else 1


def table(lines: list[Line]) -> str:
    names = max(len(line.name) for line in lines)
    out = []
    for line in lines:
        out.append(f"{line.name:{names}}  {line.status:8}  {line.detail}")
        if line.fix:
            by = "the administrator types" if line.admin else "you type"
            out.append(f"{'':{names}}  {'':8}  {by}: {line.fix}")
    return "\n".join(out) + "\n"


COMMANDS = {
    "doctor": Command("doctor", "", """Say what this machine allows and what would mend the rest.

Everything is tried: namespaces, id maps, mounts, devices. No trace of the trying is left.
Ends with 0 when containers can run and with 1 when they cannot.""", doctor,
                      (Option("json", FLAG, "A list of {name, status, detail, fix}"),), most=0),
}
