"""Dockerfiles mean what the Dockerfile reference says.

The cases are data: `dockerfiles/*.case`, each under the rule that it checks. A case is a
Dockerfile, perhaps `--- args NAME=VALUE` and `--- target NAME`, and what must come out:

    --- nodes       instructions as they were split, one a line
    --- config      the configuration of the target's image, without what every image has
    --- history     the texts of history
    --- stages      the stages that are built, in order
    --- checks      LINE RULE: text of each warning
    --- error       LINE: part of the message; then perhaps `hint ...` and `caret LINE:COLUMN`
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.build import config, graph, lint, nodes, scope, source
from rootless.build.ignore import Ignore
from rootless.build.near import nearest
from rootless.build.nodes import Node
from rootless.build.parse import Dockerfile, parse, parse_triggers
from rootless.errors import BuildError, DockerfileError

HERE = Path(__file__).parent / "dockerfiles"
PLATFORMS = scope.platform_args("linux/arm64", "linux/amd64")
BASE = {"Env": [f"PATH={config.DEFAULT_PATH}"], "Cmd": ["sh"]}


class Case:
    def __init__(self, name: str, text: str) -> None:
        self.name = name
        head, *sections = re.split(r"^--- ", text, flags=re.MULTILINE)
        self.dockerfile = head
        self.args: dict[str, str] = {}
        self.target = ""
        for section in sections:
            line, _, body = section.partition("\n")
            key, _, value = line.partition(" ")
            if key == "args":
                self.args = dict(word.split("=", 1) for word in value.split())
            elif key == "target":
                self.target = value
            else:
                self.kind, self.want = key, body.strip("\n")


def cases() -> list[Case]:
    found = []
    for path in sorted(HERE.glob("*.case")):
        for text in re.split(r"^=== ", path.read_text(), flags=re.MULTILINE)[1:]:
            name, _, body = text.partition("\n")
            found.append(Case(f"{path.stem}: {name}", body))
    return found


def shown(node: Node) -> str:
    """A node on one line, as the cases write it."""
    words = [node.word, *node.flags]
    if node.exec_form:
        words.append("exec")
    if node.legacy:
        words.append("legacy")
    if node.trigger:
        words.append(f"({shown(node.trigger)})")
    else:
        words.append(json.dumps(node.args, ensure_ascii=False))
    for here in node.heredocs:
        words += [f"<<{here.name}", *([] if here.expand else ["literal"]),
                  json.dumps(here.content)]
    return " ".join(words)


class Outcome:
    """What a Dockerfile comes to, without running anything."""

    def __init__(self, text: str, args: dict[str, str], target: str) -> None:
        self.dockerfile = parse(text.encode("utf-8", "surrogateescape"))
        top = scope.top_scope(self.dockerfile, args, PLATFORMS)
        self.plan = graph.plan(self.dockerfile, top, target)
        scopes: dict[int, scope.Scope] = {}
        settings: dict[int, config.Settings] = {}
        histories: dict[int, list[str]] = {}
        for index in self.plan.order:
            base = self.plan.bases[index]
            if isinstance(base, int):
                here = scope.stage_scope(top, parent=scopes[base])
                now = config.Settings(settings[base].values)
                history = list(histories[base])
            else:
                values = config.scratch() if base == "scratch" else BASE
                here, now, history = scope.stage_scope(top, values["Env"]), config.Settings(
                    values), []
            for one in self.dockerfile.stages[index].instructions:
                made = scope.resolve(one, here)
                now.take(made)
                history.append(config.created_by(made, here, now))
            scopes[index], settings[index], histories[index] = here, now, history
        self.config = settings[self.plan.target].values
        self.history = histories[self.plan.target]


@pytest.mark.parametrize("case", cases(), ids=lambda c: c.name)
def test_the_reference_is_kept(case: Case) -> None:
    if case.kind == "nodes":
        reader = nodes.Reader(source.read(case.dockerfile.encode(), "Dockerfile"))
        assert "\n".join(shown(node) for node in reader.nodes) == case.want
        return
    if case.kind == "error":
        with pytest.raises(BuildError) as caught:
            Outcome(case.dockerfile, case.args, case.target)
        check_error(caught.value, case.want.splitlines())
        return
    if case.kind == "checks":
        found = lint.check(parse(case.dockerfile.encode()), build_args=case.args, given=PLATFORMS,
                           ignore=Ignore.parse("*.out"),
                           image_of=lambda name: None if name == "unknown" else {
                               "os": "linux", "architecture": "arm64", "config": BASE})
        assert "\n".join(f"{w.where.first} {w.rule}: {w.text}" for w in found) == case.want
        return
    outcome = Outcome(case.dockerfile, case.args, case.target)
    if case.kind == "config":
        assert without_defaults(outcome.config) == json.loads(case.want)
    elif case.kind == "history":
        assert "\n".join(outcome.history) == case.want
    else:
        assert case.kind == "stages"
        assert " ".join(map(str, outcome.plan.order)) == case.want


def without_defaults(values: dict[str, Any]) -> dict[str, Any]:
    values = {**values, "Env": values["Env"][1:]}
    values.pop("ArgsEscaped", None)
    if values.get("WorkingDir") == "/":
        del values["WorkingDir"]
    return {key: value for key, value in values.items() if value}


def check_error(error: BuildError, want: list[str]) -> None:
    line, _, says = want[0].partition(": ")
    if line.isdigit():
        assert error.message.startswith(f"Dockerfile:{line}: ")
        assert says in error.message
        assert isinstance(error, DockerfileError)
        assert "^" in error.excerpt
    else:
        assert want[0] in error.message
    for more in want[1:]:
        key, _, value = more.partition(" ")
        if key == "hint":
            assert error.hint == value
        else:
            assert key == "caret"
            assert isinstance(error, DockerfileError)
            assert caret(error) == value


def caret(error: DockerfileError) -> str:
    """LINE:COLUMN that the excerpt's caret stands at."""
    lines = error.excerpt.splitlines()
    at = next(i for i, line in enumerate(lines) if set(line.partition("|")[2]) <= set(" ^")
              and "^" in line)
    return f"{lines[at - 1].split()[0]}:{lines[at].index('^') - lines[at].index('|') - 6}"


def test_every_kind_of_case_is_there() -> None:
    assert {case.kind for case in cases()} == {"nodes", "config", "history", "stages", "error",
                                               "checks"}


def test_positions_of_a_windows_file_with_a_mark_are_right() -> None:
    text = b"\xef\xbb\xbfFROM scratch\r\nRUN a \\\r\n  b\r\n"
    dockerfile = parse(text)
    where = dockerfile.stages[0].instructions[0].where
    assert (where.first, where.last, where.text) == (2, 3, "RUN a   b")
    assert where.position(where.text.index("b")) == (3, 2)


def test_a_byte_that_is_no_text_is_carried_through_and_shown_harmlessly() -> None:
    outcome = Outcome("FROM scratch\nLABEL a=\udcff\x1b[31m\n", {}, "")
    assert outcome.config["Labels"] == {"a": "\udcff\x1b[31m"}
    with pytest.raises(DockerfileError) as caught:
        parse(b"FROM scratch\n\x1b[31mRUN \xff\n")
    assert caught.value.excerpt.replace("\n", "").isprintable()


def test_a_long_line_is_shown_where_it_matters() -> None:
    with pytest.raises(DockerfileError) as caught:
        parse(b"FROM scratch\nRUN " + b"a" * 5000 + b"\nEXPOSE " + b"8 " * 5000 + b"\nENV "
              + b"a=b " * 5000 + b" c d")
    assert max(map(len, caught.value.excerpt.splitlines())) < 180
    assert caret(caught.value).startswith("4:")


def test_what_is_no_text_is_no_dockerfile() -> None:
    with pytest.raises(DockerfileError, match="2: it holds a zero byte"):
        parse(b"FROM scratch\nRUN \0\n")


@pytest.mark.parametrize("given, known, word", [
    ("rnu", ["run", "cmd"], "run"), ("RNU", ["run"], "run"), ("copyy", ["copy"], "copy"),
    ("a", ["b", "abc"], "b"), ("nothing", ["else"], None), ("same", ["same"], None),
    ("x" * 5000, ["x" * 5001], None)])
def test_a_near_word_is_found(given: str, known: list[str], word: str | None) -> None:
    assert nearest(given, known) == word


def test_triggers_name_their_image() -> None:
    made = parse_triggers(["RUN <<EOF\na\nEOF", "COPY . /app"], "base:1")
    assert [one.word for one in made] == ["RUN", "COPY"]
    with pytest.raises(DockerfileError, match="ONBUILD of base:1:1: unknown instruction: NOPE"):
        parse_triggers(["NOPE"], "base:1")


def test_triggers_may_need_stages_that_the_file_does_not_ask_for() -> None:
    dockerfile = parse(b"FROM scratch AS tools\nFROM base\n")
    top = scope.top_scope(dockerfile, {}, PLATFORMS)
    assert graph.plan(dockerfile, top).order == (1,)
    triggers = parse_triggers(["COPY --from=tools /x /"], "base")
    assert graph.plan(dockerfile, top, triggers={1: triggers}).order == (0, 1)


def test_a_named_context_stands_before_stages_and_images() -> None:
    dockerfile = parse(b"FROM scratch AS tools\nFROM base\nCOPY --from=tools / /\n")
    top = scope.top_scope(dockerfile, {}, PLATFORMS)
    where = dockerfile.stages[1].start.where
    plan = graph.plan(dockerfile, top, contexts={"tools": "/dir", "base": "docker-image://x:1"})
    assert plan.order == (1,)
    assert plan.bases[1] == "x:1"
    assert plan.is_directory(plan.origin("Tools", where))
    assert not plan.is_directory(plan.bases[1])


def test_build_arguments_that_nobody_asks_for_are_named() -> None:
    dockerfile = parse(b"ARG a\nFROM scratch\nARG b\n")
    names = ["a", "b", "c", "HTTP_PROXY", "TARGETARCH", "SOURCE_DATE_EPOCH", "BUILDKIT_X"]
    assert scope.unused_build_args(dockerfile, names) == ["c"]


def test_a_proxy_is_in_the_environment_of_every_run() -> None:
    dockerfile = parse(b"FROM scratch\nENV a=b\n")
    top = scope.top_scope(dockerfile, {"HTTPS_PROXY": "p", "other": "o"}, PLATFORMS)
    here = scope.stage_scope(top)
    scope.resolve(dockerfile.stages[0].instructions[0], here)
    assert here.run_env() == {"HTTPS_PROXY": "p", "a": "b"}
    assert here.used_args() == []


def test_what_was_asked_for_and_not_set_is_remembered() -> None:
    dockerfile = parse(b"FROM scratch\nENV a=$one${two:-x} b=${three}\n")
    here = scope.stage_scope(scope.top_scope(dockerfile, {}, PLATFORMS))
    scope.resolve(dockerfile.stages[0].instructions[0], here)
    assert [name for _, name in here.undefined] == ["one", "three"]


def test_a_deep_substitution_is_refused() -> None:
    deep = "${a:-" * 5000 + "}" * 5000
    with pytest.raises(DockerfileError, match="nested too deeply"):
        Outcome(f"FROM scratch\nENV x={deep}\n", {}, "")


def test_every_check_has_its_case() -> None:
    shown = {line.split()[1].rstrip(":") for case in cases() if case.kind == "checks"
             for line in case.want.splitlines()}
    assert shown == set(lint.RULES)


def test_a_check_shows_the_lines_and_where_to_read_more() -> None:
    found = lint.check(parse(b"FROM scratch\nCMD x\n"))
    assert lint.render(found) == """\
Check complete, 1 warning has been found!

WARNING: JSONArgsRecommended - https://docs.docker.com/go/dockerfile/rule/json-args-recommended/
JSON arguments recommended for CMD to prevent unintended behavior related to OS signals
Dockerfile:2
--------------------
1 |     FROM scratch
2 | >>> CMD x
--------------------
"""
    assert lint.render([]) == "Check complete, no warnings found.\n"


def test_warnings_are_errors_when_the_file_says_so() -> None:
    dockerfile = parse(b"# check=error=true\nFROM scratch\nCMD x\n")
    with pytest.raises(DockerfileError, match="warnings are errors"):
        lint.refuse(dockerfile, lint.check(dockerfile))
    lint.refuse(dockerfile, [])
    lax = parse(b"FROM scratch\nCMD x\n")
    lint.refuse(lax, lint.check(lax))


PARTS = ["FROM scratch", "RUN", "COPY", "ENV", "ONBUILD", "HEALTHCHECK", "ARG", "# escape=`",
         "# check=skip=all", "a", "a=b", "--from=x", "--mount=type=cache,target=/c", "<<E", "E",
         "$a", "${a:-b}", "${", "'", '"', "\\", "`", "[", '["a"]', "\n", "\n", "\n", " ", "\t",
         "\r", "\ufeff", "\x00", "é", "=", "#", "\udcff", "CMD", "EXPOSE", "99999", "1-2", "--"]
FILES = st.lists(st.sampled_from(PARTS), max_size=40).map("".join)


@given(FILES)
def test_any_text_is_a_dockerfile_or_refused(text: str) -> None:
    try:
        outcome = Outcome(text, {"a": "b"}, "")
    except BuildError as e:
        assert e.message
        return
    for warning in lint.check(outcome.dockerfile, build_args={"a": "b"}, given=PLATFORMS):
        assert warning.rule in lint.RULES


@given(FILES)
def test_every_character_of_an_instruction_is_where_it_says(text: str) -> None:
    file = source.read(text.encode("utf-8", "surrogateescape"), "f")
    try:
        reader = nodes.Reader(file)
    except DockerfileError:
        return
    for node in reader.nodes:
        for offset, c in enumerate(node.where.text):
            line, column = node.where.position(offset)
            assert file.lines[line - 1][column] == c
            assert node.where.first <= line <= node.where.last


@given(FILES)
def test_instructions_do_not_overlap_and_are_in_order(text: str) -> None:
    try:
        dockerfile: Dockerfile = parse(text.encode("utf-8", "surrogateescape"))
    except DockerfileError:
        return
    last = 0
    for node in dockerfile.nodes:
        assert last < node.where.first <= node.where.last <= len(dockerfile.source.lines)
        last = node.where.last
