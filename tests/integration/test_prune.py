"""What nobody needs is removed when asked for, and nothing else; what is there takes its space."""

from __future__ import annotations

import json

from tests.integration.support.cli import Cli
from tests.integration.test_volumes import with_volumes


def test_container_prune_removes_those_that_do_not_run(fresh: Cli) -> None:
    image = with_volumes(fresh)
    fresh.ok("run", "-d", "--name", "up", image, "sleep", "1000")
    fresh.ok("create", "--name", "kept", "--label", "keep=1", image)
    ended = fresh.ok("run", "-d", "--name", "ended", image, "sh", "-c", "echo 12345 >/f").text
    fresh.ok("wait", "ended")
    fresh.fails(1, "container", "prune", says="--force")
    assert fresh.ok("container", "prune", "-f", "--filter", "until=1h").text == \
        "Total reclaimed space: 0B"
    told = fresh.ok("container", "prune", "-f", "--filter", "label!=keep").text.splitlines()
    assert told == ["Deleted Containers:", ended, "", "Total reclaimed space: 6B"]
    assert set(fresh.ok("ps", "-a", "--format", "{{.Names}}").text.split()) == {"up", "kept"}
    fresh.fails(125, "container", "prune", "-f", "--filter", "colour=red", says="filter")
    fresh.ok("container", "prune", "-f")
    assert fresh.ok("ps", "-a", "--format", "{{.Names}}").text == "up"


def test_system_prune_takes_containers_networks_images_and_on_demand_volumes(fresh: Cli) -> None:
    image = with_volumes(fresh)
    fresh.ok("run", "-d", "--name", "up", "-v", "/used", image, "sleep", "1000")
    fresh.ok("create", "--name", "old", "-v", "/left", "-v", "named:/n", image)
    fresh.ok("network", "create", "lonely")
    fresh.ok("commit", "up")
    told = fresh.ok("system", "prune", "-f").text
    assert "Deleted Containers:" in told and "Deleted Images:" in told
    assert "Deleted Networks:\nlonely" in told and "Volumes" not in told
    assert len(fresh.ok("volume", "ls", "-q").text.split()) == 3
    told = fresh.ok("system", "prune", "-f", "--volumes").text
    assert "Deleted Volumes:" in told
    left = fresh.ok("volume", "ls", "-q").text.split()
    assert len(left) == 2 and "named" in left
    assert fresh.ok("images", "-q").text
    fresh.ok("rm", "-fv", "up")
    assert "Deleted Images" in fresh.ok("system", "prune", "-af").text
    assert fresh.ok("images", "-q").text == ""
    fresh.fails(1, "system", "prune", "-f", "--volumes", "--filter", "until=1h", says="until")


def test_df_counts_containers_and_volumes(fresh: Cli) -> None:
    image = with_volumes(fresh)
    fresh.ok("run", "-d", "--name", "up", "-v", "v:/v", image, "sh", "-c",
             "echo 1234567 >/v/f; echo 123 >/f; exec sleep 1000")
    fresh.ok("volume", "create", "empty")
    fresh.ok("exec", "up", "sh", "-c", "until test -s /f; do sleep 0.01; done")
    told = fresh.ok("system", "df", "--format", "json").text
    rows = {r["Type"]: r for r in map(json.loads, told.splitlines())}
    assert rows["Containers"]["Size"] == "4B" and rows["Containers"]["Active"] == "1"
    assert rows["Local Volumes"] == {
        "Type": "Local Volumes", "TotalCount": "2", "Active": "1", "Size": "8B",
        "Reclaimable": "0B (0%)"}
    lines = fresh.ok("system", "df", "-v").text.splitlines()
    assert ["v", "1", "8B"] in [line.split() for line in lines]
    assert ["empty", "0", "0B"] in [line.split() for line in lines]


def test_reset_takes_volumes_and_leaves_the_directories_they_stood_for(fresh: Cli) -> None:
    outside = fresh.home / "outside"
    outside.mkdir()
    (outside / "f").write_text("mine\n")
    image = with_volumes(fresh, "/data")
    fresh.ok("volume", "create", "o", "-o", "type=none", "-o", "o=bind", "-o", f"device={outside}")
    fresh.ok("run", "-d", "-v", "o:/o", image, "sleep", "1000")
    fresh.ok("system", "reset", "-f")
    assert (outside / "f").read_text() == "mine\n"
    assert not (fresh.store / "volumes").exists()
    fresh.ok("volume", "create", "again")


def test_the_cache_of_builds_is_counted_and_pruned(fresh: Cli) -> None:
    image = with_volumes(fresh)
    (fresh.home / "context").mkdir()
    (fresh.home / "context/Dockerfile").write_text(
        f"FROM {image}\nRUN head -c 100000 /dev/zero >/f\nRUN echo more >/g\n")
    fresh.ok("build", "-q", "-t", "built:1", "context")
    assert fresh.ok("system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Size}}"
                    ).text.splitlines()[-1] == "Build Cache 2 0B"
    fresh.ok("rmi", "built:1")
    size = fresh.ok("system", "df", "--format", "{{.Size}}").text.splitlines()[-1]
    assert size.startswith("10") and size.endswith("kB")
    fresh.ok("system", "prune", "-f", "--filter", "label=x")
    assert fresh.ok("system", "df", "--format", "{{.TotalCount}}").text.splitlines()[-1] == "2"
    assert "reclaimed space: 10" in fresh.ok("system", "prune", "-f").text
    assert fresh.ok("system", "df", "--format", "{{.TotalCount}}").text.splitlines()[-1] == "0"
