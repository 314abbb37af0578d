"""Words of a Dockerfile: as a shell expands them, where the two agree."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rootless.build.words import ExpansionError, expand, expand_document, raw_words, unquoted

ENV = {"A": "x", "E": "", "P": "/usr/lib/x.tar.gz", "S": "a b  c"}


@pytest.mark.parametrize("text, words", [
    ("a  b", ["a", "b"]), ('"a  b"', ["a  b"]), ("a\\ b", ["a b"]), ("$S", ["a", "b", "c"]),
    ('"$S"', ["a b  c"]), ("1$S", ["1a", "b", "c"]), ("$E", []), ('""', []),
    ("80${U:-80}", ["8080"]), ("$A${U:-1 2}3", ["x1", "23"])])
def test_words_are_split_at_what_is_neither_quoted_nor_escaped(text: str, words: list[str]) -> None:
    assert list(expand(text, ENV).words) == words


@pytest.mark.parametrize("text, result", [
    ("`$A", "$A"), ("\\$A", "\\x"), ('"`""', '"'), ("a`", "a"), ("`\\", "\\")])
def test_the_escape_character_is_the_dockerfiles(text: str, result: str) -> None:
    assert expand(text, ENV, escape="`").text == result


@pytest.mark.parametrize("text, says", [
    ("${A", "missing '}'"), ("${}", "bad substitution"), ("${A:x}", "unsupported modifier"),
    ("'a", "single quote"), ('"a', "double quote"), ("${U?}", "U: is not allowed to be unset"),
    ("${E:?}", "E: is not allowed to be empty"), ("${E:?say}", "E: say"), ("${A/x}", "missing '/'"),
    ("${A#\\x}", "invalid escape"), ("${A:#x}", "unsupported modifier")])
def test_what_is_no_word_is_refused_with_the_reason(text: str, says: str) -> None:
    with pytest.raises(ExpansionError) as caught:
        expand(text, ENV)
    assert says in str(caught.value)


def test_names_that_were_asked_for_are_known() -> None:
    found = expand("$A ${U:-$V} '$W'", ENV)
    assert (set(found.used), set(found.unset)) == ({"A"}, {"U", "V"})


def test_quotes_of_a_document_are_text() -> None:
    assert expand_document("\"$A\" '$A' \\$A\n", ENV).text == "\"x\" 'x' $A\n"


def test_raw_words_stay_as_written() -> None:
    assert raw_words("a \"b c\" $x \\y << 'E' 3<<-F") == (
        "a", '"b c"', "$x", "\\y", "<< 'E'", "3<<-F")
    assert raw_words("a <<-  E << -F") == ("a", "<<-  E", "<< -F")
    assert raw_words("an 'open quote") == ()
    assert unquoted("\"a b\"\\c$x") == ("a bc$x",)


def test_a_pattern_of_many_stars_takes_no_time() -> None:
    value = "a" * 2000
    assert expand("${v%%" + "*a" * 50 + "b}", {"v": value}).text == value
    assert expand("${v//" + "?" * 7 + "/b}", {"v": value}).text == "b" * 285 + "a" * 5


NAME = st.sampled_from(["A", "E", "U", "V"])
PATTERN = st.text("ab/.*?", min_size=1, max_size=4)
LITERAL = st.text("ab/.-", max_size=4)
PIECE = st.one_of(
    LITERAL,
    st.builds("${}".format, NAME).map(lambda t: t + "."),
    st.builds("${{{}}}".format, NAME),
    st.builds("${{{}{}{}}}".format, NAME, st.sampled_from([":-", "-", ":+", "+"]), LITERAL),
    st.builds("${{{}{}{}}}".format, NAME, st.sampled_from(["#", "##", "%", "%%"]), PATTERN),
    # Of an empty value * is replaced by BuildKit, as a regular expression would, and not by bash.
    st.builds("${{{}{}{}/{}}}".format, st.just("A"), st.sampled_from(["/", "//"]),
              st.text("ab.*?", min_size=1, max_size=3), st.text("xy", max_size=2)))


@settings(max_examples=60, deadline=None)
@given(st.lists(PIECE, min_size=1, max_size=5).map("".join), st.text("ab/.", max_size=8))
def test_variables_become_what_a_shell_makes_of_them(text: str, value: str) -> None:
    env = {"A": "ab/a.b", "E": "", "V": value}
    shell = subprocess.run(["bash", "--norc", "-c", f'printf %s "{text}"'], env=env, check=True,
                           capture_output=True, text=True)
    assert expand(text, env).text == shell.stdout
