"""JSON without the json package is the same JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless import jsontext

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)

# Not the text itself: pytest puts the test's name into the environment.
DEEP = pytest.param("[" * 100_000, id="deep")


@given(VALUES)
def test_what_is_written_reads_the_same_by_both(value: object) -> None:
    text = jsontext.dumps(value)
    assert text == json.dumps(value)
    assert jsontext.loads(text) == json.loads(text) == value
    assert jsontext.loads(json.dumps(value, indent=2, ensure_ascii=False).encode()) == value


@given(st.text(alphabet='{}[]",:0123456789.eE+-truefalsn \t\n\\u', max_size=30))
def test_both_refuse_the_same_texts(text: str) -> None:
    try:
        wanted = json.loads(text)
    except ValueError:
        with pytest.raises(ValueError):
            jsontext.loads(text)
    else:
        assert jsontext.loads(text) == wanted


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "-Infinity", "", " ", "1 2", "\ufeff1",
                                  '{"a":1}}', DEEP])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        jsontext.loads(text)


@pytest.mark.parametrize("value", [{1, 2}, b"x", object(), float("nan")])
def test_what_json_cannot_say_is_not_written(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        jsontext.dumps([value])


def test_the_json_package_is_not_imported() -> None:
    code = ("import sys; sys.path.insert(0, sys.argv[1]); from rootless import jsontext as j; "
            "j.loads(j.dumps({'a': [1.5, None]})); print('json' in sys.modules)")
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code,
                           str(Path(__file__).resolve().parents[2])],
                          capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("text", ["{", "[1", '{"a":1', '"x', "[1,]", '{"a" 1}', DEEP])
def test_faults_are_told_with_no_json_package_loaded(text: str) -> None:
    """The C scanner by itself knows no exception to raise for most of them."""
    code = ("import sys; sys.path.insert(0, sys.argv[1]); from rootless import jsontext as j\n"
            "try: j.loads(sys.stdin.read())\n"
            "except ValueError: print('refused')")
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code,
                           str(Path(__file__).resolve().parents[2])],
                          input=text, capture_output=True, text=True, check=False)
    assert done.stdout == "refused\n", done.stderr
