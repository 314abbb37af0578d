"""Names of images mean what they mean to docker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.errors import UsageError
from rootless.image.reference import familiar, parse

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize("text, full", [
    ("debian", "docker.io/library/debian:latest"),
    ("debian:12", "docker.io/library/debian:12"),
    ("user/app", "docker.io/user/app:latest"),
    ("docker.io/debian", "docker.io/library/debian:latest"),
    ("index.docker.io/debian", "docker.io/library/debian:latest"),
    ("docker.io/user/app:v1", "docker.io/user/app:v1"),
    ("localhost/app", "localhost/app:latest"),
    ("localhost:5000/app", "localhost:5000/app:latest"),
    ("localhost:5000/a/b/c:x", "localhost:5000/a/b/c:x"),
    ("quay.io/ns/app", "quay.io/ns/app:latest"),
    ("Host/app", "Host/app:latest"),
    ("127.0.0.1:5000/app", "127.0.0.1:5000/app:latest"),
    ("[::1]:5000/app", "[::1]:5000/app:latest"),
    ("[2001:db8::1]/app", "[2001:db8::1]/app:latest"),
    ("a__b/c--d.e_f", "docker.io/a__b/c--d.e_f:latest"),
    (f"debian@sha256:{HEX}", f"docker.io/library/debian@sha256:{HEX}"),
    (f"debian:12@sha256:{HEX}", f"docker.io/library/debian:12@sha256:{HEX}"),
    ("deb:_.-Az09", "docker.io/library/deb:_.-Az09"),
    ("xn--n3h.com/app", "xn--n3h.com/app:latest"),
])
def test_short_names_are_filled_in(text: str, full: str) -> None:
    assert parse(text).named().full == full


@pytest.mark.parametrize("text, says", [
    ("", "the name is empty"),
    ("Debian", "must be lower case"),
    ("quay.io/Ns/app", "must be lower case"),
    ("Two Words", "a name has"),
    (HEX, "an id, not a name"),
    ("a:", "a tag has"),
    ("a:.b", "a tag has"),
    ("a:" + "b" * 129, "a tag has"),
    ("a:b:c", "a name has"),
    ("a//b", "a name has"),
    ("/a", "a name has"),
    ("a/", "a name has"),
    ("a..b", "a name has"),
    ("a___b", "a name has"),
    ("a._b", "a name has"),
    ("-a", "a name has"),
    ("a-", "a name has"),
    ("a b", "a name has"),
    ("a\n", "a name has"),
    ("ä", "a name has"),
    ("../etc", "host name"),
    ("a@sha256:12", "after @"),
    ("a@", "after @"),
    ("a@sha512:" + "0" * 128, "only sha256"),
    (f"a@sha256:{HEX.upper()}", "after @"),
    ("b.:80/a", "not a host name"),
    ("-b.c/a", "not a host name"),
    ("b.c:x/a", "not a host name"),
    ("b.c:99999/a", "not a host name"),
    ("[::1/a", "not a host name"),
    ("[::g]/a", "not a host name"),
    ("x" * 256, "longer than 255"),
])
def test_what_is_no_name_is_refused_with_the_reason(text: str, says: str) -> None:
    with pytest.raises(UsageError, match="invalid reference format") as caught:
        parse(text)
    assert says in caught.value.message


def test_a_name_of_255_characters_is_one() -> None:
    assert len(parse("u/" + "x" * 253).path) == 255


@pytest.mark.parametrize("full, short", [
    ("docker.io/library/debian:12", "debian:12"),
    ("docker.io/user/app:1", "user/app:1"),
    ("docker.io/library/a/b:1", "library/a/b:1"),
    ("localhost:5000/app:1", "localhost:5000/app:1"),
    ("", ""),
])
def test_names_are_shown_short(full: str, short: str) -> None:
    assert familiar(full) == short


PARTS = st.text("abz09", min_size=1, max_size=6)
NAMES = st.builds(lambda host, path, tag: "/".join([*host, *path]) + (f":{tag}" if tag else ""),
                  st.sampled_from([[], ["localhost"], ["a.b:80"], ["[::1]:5"]]),
                  st.lists(PARTS, min_size=1, max_size=3), st.text("aZ0_", max_size=5))


@given(NAMES)
def test_a_full_name_means_itself_and_so_does_its_short_form(text: str) -> None:
    reference = parse(text).named()
    assert parse(reference.full) == reference
    assert parse(familiar(reference.full)) == reference


@given(st.text(max_size=40))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    try:
        reference = parse(text)
    except UsageError:
        return
    assert ".." not in reference.repository
    assert "\n" not in reference.full
