"""`info` and `version` as scripts ask them."""

from __future__ import annotations

import os

from rootless import __version__
from tests.integration.support.box import Box


def test_info_counts_and_knows_the_machine(box: Box) -> None:
    box.cli.ok("create", "--name", "stopped", box.image)
    with box.running():
        found = box.cli.ok("info", "--format", "json").json
        assert found["ContainersRunning"] >= 1 and found["ContainersStopped"] >= 1
        assert found["Containers"] == sum(found["Containers" + s] for s in (
            "Running", "Paused", "Stopped"))
        assert found["Images"] >= 1 and found["NCPU"] >= 1 and found["MemTotal"] > 1 << 26
        assert found["DockerRootDir"] == str(box.cli.store)
        assert found["KernelVersion"] == os.uname().release
        assert found["IDMappings"]["uidmap"][0]["host_id"] == os.getuid()
        assert box.cli.ok("system", "info", "-f", "{{.ServerVersion}} {{.Driver}}").text == \
            f"{__version__} overlay"
        text = box.cli.ok("info").text
        for line in (f"Containers: {found['Containers']}",
                     f"Server Version: {__version__}", f"Docker Root Dir: {box.cli.store}",
                     " rootless"):
            assert line in text.splitlines()
    box.cli.ok("rm", "stopped")
    box.cli.fails(125, "info", "--format", "{{.Nothing}}", says="Nothing")


def test_version_has_dockers_two_halves(box: Box) -> None:
    assert box.cli.ok("version").text == f"rootless version {__version__}"
    assert box.cli.ok("version", "-f", "{{.Client.Version}}/{{.Server.Version}}").text == \
        f"{__version__}/{__version__}"
    assert box.cli.ok("version", "--format", "json").json["Client"]["Os"] == "linux"
