"""--format understands the templates that scripts write for docker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.cli.template import render, render_rows
from rootless.errors import UsageError

VALUE = {
    "Id": "abc", "State": {"Running": True, "ExitCode": 0}, "Names": ["a", "b"],
    "Labels": {"k": "v", "other": "w"}, "Nothing": None, "Size": 12,
}


@pytest.mark.parametrize(("template", "text"), [
    ("{{.Id}}", "abc"),
    ("{{ .State.Running }}", "true"),
    ("{{.State.ExitCode}}", "0"),
    ("{{json .Names}}", '["a","b"]'),
    ("{{.Names | json}}", '["a","b"]'),
    ("{{join .Names \",\"}}", "a,b"),
    ("{{len .Names}}", "2"),
    ("{{index .Labels \"k\"}}", "v"),
    ("{{index .Names 1}}", "b"),
    ("{{range .Names}}<{{.}}>{{end}}", "<a><b>"),
    ("{{range $i, $n := .Names}}{{$i}}={{$n}} {{end}}", "0=a 1=b "),
    ("{{range $k, $v := .Labels}}{{$k}}:{{$v}};{{end}}", "k:v;other:w;"),
    ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
    ("{{if not .State.Running}}up{{else}}down{{end}}", "down"),
    ("{{if eq .Id \"x\"}}1{{else if eq .Id \"abc\"}}2{{else}}3{{end}}", "2"),
    ("{{with .Nothing}}x{{else}}none{{end}}", "none"),
    ("{{with .State}}{{.ExitCode}}{{end}}", "0"),
    ("{{range .Nothing}}x{{else}}empty{{end}}", "empty"),
    ("{{upper .Id}}{{lower \"X\"}}", "ABCx"),
    ("{{printf \"%s-%d\" .Id .Size}}", "abc-12"),
    ("{{.Nothing}}", "<no value>"),
    ("{{.Labels}}", "map[k:v other:w]"),
    ("{{.Names}}", "[a b]"),
    ("a\\t{{.Id}}\\n", "a\tabc\n"),
    ("x {{- .Id -}} y", "xabcy"),
    ("{{/* silent */}}{{.Id}}", "abc"),
    ("{{(index .Names 0)}}", "a"),
    ("{{if and .Id (gt .Size 10)}}big{{end}}", "big"),
    ("{{$x := .Id}}{{$x}}", "abc"),
    ("{{range .Names}}{{$.Id}}{{end}}", "abcabc"),
])
def test_template_prints_what_go_prints(template: str, text: str) -> None:
    assert render(template, VALUE) == text


@pytest.mark.parametrize("template", [
    "{{.Missing}}", "{{.Id", "{{if .Id}}", "{{nosuch .Id}}", "{{.Id.Deeper}}", "{{end}}",
    "{{index .Names 9}}", "{{", "{{|}}", "{{\"open}}", "{{$y}}",
])
def test_a_template_that_cannot_be_read_is_a_clear_error(template: str) -> None:
    with pytest.raises(UsageError):
        render(template, VALUE)


def test_table_has_a_header_and_columns() -> None:
    rows = [{"ID": "1", "Names": "one"}, {"ID": "22", "Names": "two"}]
    assert render_rows("table {{.ID}}\\t{{.Names}}", rows) == [
        "CONTAINER ID   NAMES", "1              one", "22             two"]


@given(st.text(alphabet="{}. |()\"$abIfrangeendelsejson-:=", max_size=40))
def test_no_template_fails_otherwise(template: str) -> None:
    try:
        render(template, VALUE)
    except UsageError:
        pass
