"""What the Dockerfile says about files is what lies in the image."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.support.cli import Cli
from tests.integration.support.registry import Registry


@pytest.fixture
def builder(fresh: Cli, server: Registry, tmp_path: Path) -> Builder:
    return Builder(fresh, f"{server.address}/tiny:latest", tmp_path)


class Builder:
    def __init__(self, cli: Cli, base: str, where: Path) -> None:
        self.cli = cli
        self.base = base
        self.where = where
        for name in ("f1", "f2", "d/x", "d/sub/y", "e/z", "deep/er/one", "deep/er/two.txt"):
            (where / name).parent.mkdir(parents=True, exist_ok=True)
            (where / name).write_text(name)
        (where / "d" / "link").symlink_to("x")
        (where / "dlink").symlink_to("d")

    def build(self, text: str, *options: str) -> None:
        (self.where / "Dockerfile").write_text(f"FROM {self.base}\n{text}")
        self.cli.ok("build", "-t", "made", *options, str(self.where), timeout=120)

    def found(self, *places: str) -> list[str]:
        """Below places: mode, owner, path; of a link its target."""
        script = ('find "$@" | sort | while read -r p; do target=$(readlink "$p"); '
                  'echo "$(stat -c "%a %u:%g %n" "$p")${target:+ > $target}"; done')
        return self.cli.ok("run", "--rm", "made", "sh", "-c", script, "sh",
                           *places).text.splitlines()


def test_destinations_are_files_or_directories(builder: Builder) -> None:
    builder.build("""WORKDIR /w
COPY f1 a
COPY f1 b/
COPY f1 .
COPY f1 f2 c/
COPY ["f1", "with space"]
COPY d dd
COPY d* dw/
COPY dlink dl
COPY nothing* none/
""")
    assert [line.split(" ", 2)[2] for line in builder.found("/w")] == [
        "/w", "/w/a", "/w/b", "/w/b/f1", "/w/c", "/w/c/f1", "/w/c/f2", "/w/dd",
        "/w/dd/link > x", "/w/dd/sub", "/w/dd/sub/y", "/w/dd/x", "/w/dl", "/w/dl/link > x",
        "/w/dl/sub", "/w/dl/sub/y", "/w/dl/x", "/w/dw", "/w/dw/er", "/w/dw/er/one",
        "/w/dw/er/two.txt", "/w/dw/link > x", "/w/dw/sub", "/w/dw/sub/y", "/w/dw/x", "/w/f1",
        "/w/none", "/w/with space"]


def test_owners_and_modes_are_as_asked(builder: Builder) -> None:
    builder.build("""COPY --chown=5 f1 /five
COPY --chown=5:6 --chmod=u=rwX,go= d /own
ADD --chmod=4755 f1 /set
COPY <<here /doc
$nothing
here
""")
    assert builder.found("/five", "/own", "/set", "/doc") == [
        "644 0:0 /doc", "644 5:5 /five", "700 5:6 /own", "777 5:6 /own/link > x",
        "700 5:6 /own/sub", "600 5:6 /own/sub/y", "600 5:6 /own/x", "4755 0:0 /set"]


def test_parents_and_excludes(builder: Builder) -> None:
    builder.build("""COPY --parents deep/er/one e/./z /p/
COPY --parents **/y /q/
COPY --exclude=**/*.txt --exclude=sub deep d /r/
""")
    assert [line.split(" ", 2)[2] for line in builder.found("/p", "/q", "/r")] == [
        "/p", "/p/deep", "/p/deep/er", "/p/deep/er/one", "/p/z", "/q", "/q/d", "/q/d/sub",
        "/q/d/sub/y", "/r", "/r/er", "/r/er/one", "/r/link > x", "/r/x"]


def test_named_contexts_stand_for_directories_and_images(builder: Builder,
                                                         tmp_path_factory: pytest.TempPathFactory
                                                         ) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "kept").write_text("other's")
    (other / "left").write_text("out")
    (other / ".dockerignore").write_text("left")
    (builder.where / "Dockerfile").write_text(
        "FROM nosuch:1 AS Tools\nFROM Alias\nCOPY --from=Tools . /t/\n"
        "RUN --mount=from=tools,target=/m cat /m/kept > /seen\n")
    builder.cli.ok("build", "-t", "made", "--build-context", f"TOOLS={other}", "--build-context",
                   f"alias=docker-image://{builder.base}", str(builder.where), timeout=120)
    assert [line.split(" ", 2)[2] for line in builder.found("/t", "/seen")] == [
        "/seen", "/t", "/t/.dockerignore", "/t/kept"]
    (builder.where / "Dockerfile").write_text("FROM tools\n")
    builder.cli.fails(1, "build", "--build-context", f"tools={other}", str(builder.where),
                      says="cannot start from tools: it is a directory")
    builder.cli.fails(125, "build", "--build-context", "x=/nowhere", str(builder.where),
                      says="invalid argument for --build-context")


def test_a_stage_that_was_misspelt_is_named(builder: Builder) -> None:
    (builder.where / "Dockerfile").write_text(
        "FROM scratch AS build\nCOPY f1 /\nFROM scratch\nCOPY --from=biuld /f1 /\n")
    result = builder.cli.fails(1, "build", "--pull=never", str(builder.where), says="biuld")
    assert "hint: did you mean build?" in result.error
    assert ">>> COPY --from=biuld /f1 /" in result.error


def test_the_epoch_is_an_argument_or_a_variable(builder: Builder) -> None:
    builder.build("ARG SOURCE_DATE_EPOCH\nRUN echo $SOURCE_DATE_EPOCH > /epoch\n",
                  "--build-arg", "SOURCE_DATE_EPOCH=86400")
    assert builder.cli.ok("run", "--rm", "made", "cat", "/epoch").text == "86400"
    created = builder.cli.ok("image", "inspect", "made").json[0]["Created"]
    assert created.startswith("1970-01-02T00:00:00")


def test_warnings_fail_the_build_where_the_file_says_so(builder: Builder) -> None:
    where = builder.where
    (where / "Dockerfile").write_text("# check=error=true\nFROM scratch\nCMD x\n")
    builder.cli.fails(1, "build", str(where), says="warnings are errors")
    result = builder.cli("build", "--check", str(where))
    assert result.rc == 1
    assert "JSONArgsRecommended" in result.text
    (where / "Dockerfile").write_text("FROM scratch\nCOPY f1 /\nCMD [\"x\"]\n")
    assert "no warnings" in builder.cli.ok("build", "--check", str(where)).text
