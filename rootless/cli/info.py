"""`rootless info`."""

from __future__ import annotations

import json
import sys

from rootless import __version__
from rootless import paths as places
from rootless.cli.command import VALUE, Command, Option, Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def info(options: Options) -> int:
    from rootless.container.info import describe

    paths = places.of_this_user()
    paths.ensure()
    found = describe(paths, __version__)
    template = options.value("format")
    if template is None:
        sys.stdout.write(_text(found))
        return 0
    from rootless.cli.template import render

    text = json.dumps(found) if template == "json" else render(template, found)
    sys.stdout.write(text + "\n")
    return 0


def _text(i: dict[str, Any]) -> str:
    from rootless.cli.template import show

    lines = [f"Containers: {i['Containers']}", f" Running: {i['ContainersRunning']}",
             f" Paused: {i['ContainersPaused']}", f" Stopped: {i['ContainersStopped']}",
             f"Images: {i['Images']}", f"Server Version: {i['ServerVersion']}",
             f"Storage Driver: {i['Driver']}"]
    lines += [f" {key}: {value}" for key, value in i["DriverStatus"]]
    lines += [f"Logging Driver: {i['LoggingDriver']}", f"Cgroup Driver: {i['CgroupDriver']}",
              f"Cgroup Version: {i['CgroupVersion']}", "Plugins:"]
    lines += [f" {kind}: {' '.join(names)}" for kind, names in i["Plugins"].items()]
    lines += ["Security Options:"]
    lines += [f" {o.split(',')[0].partition('=')[2]}" for o in i["SecurityOptions"]]
    for kind, extents in i["IDMappings"].items():
        shown = ", ".join(f"{e['container_id']} is {e['host_id']} ({e['size']})" for e in extents)
        lines.append(f"{'User' if kind == 'uidmap' else 'Group'} IDs: {shown}")
    lines += [f"{label}: {show(i[key])}" for label, key in (
        ("Kernel Version", "KernelVersion"), ("Operating System", "OperatingSystem"),
        ("OSType", "OSType"), ("Architecture", "Architecture"), ("CPUs", "NCPU"))]
    lines += [f"Total Memory: {i['MemTotal'] / (1 << 30):.4g}GiB", f"Name: {i['Name']}",
              f"ID: {i['ID']}", f"Docker Root Dir: {i['DockerRootDir']}"]
    lines += [f"WARNING: {w}" for w in i["Warnings"]]
    return "\n".join(lines) + "\n"


COMMANDS = {
    "info": Command("info", "", "Show what there is: containers, images, storage, the machine.",
                    info, (Option("format", VALUE, "Go template, or json", "f", "FORMAT"),),
                    most=0),
}
