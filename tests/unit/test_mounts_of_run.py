"""RUN --mount and COPY --chmod: what is read, what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.build import modes, mounts


def read(flag: str) -> mounts.Mount:
    return mounts.parse(flag, lambda text: text)


def test_a_bind_is_read_only_unless_asked() -> None:
    assert read("target=/x").readonly
    assert not read("type=bind,target=/x,rw").readonly
    assert read("target=/x,rw=false").readonly


def test_a_cache_is_known_by_its_target_and_shared() -> None:
    cache = read("type=cache,target=/root/.cache/")
    assert (cache.id, cache.sharing, cache.readonly) == ("/root/.cache", "shared", False)
    assert read("type=cache,dst=/x,id=a,sharing=LOCKED,uid=5,mode=0700") == mounts.Mount(
        "cache", "/x", "", "", False, "a", "locked", False, 0o700, 5, None, None, "")


def test_a_secret_lies_in_run_secrets_unless_it_is_a_variable_alone() -> None:
    assert read("type=secret,id=token").target == "/run/secrets/token"
    assert read("type=secret,target=/etc/token").id == "token"
    assert read("type=secret,id=token,env=TOKEN").target == ""
    assert read("type=secret,id=token,env=TOKEN,target=/t").target == "/t"
    assert read("type=secret,id=token,required").required


def test_a_value_with_a_comma_is_quoted_as_in_csv() -> None:
    assert read('type=bind,"source=a,b",target=/x').source == "a,b"
    assert read('"source=a""b",target=/x').source == 'a"b'


@pytest.mark.parametrize("text, size", [
    ("64m", 64 << 20), ("1.5g", 3 << 29), ("100kb", 100 << 10), ("2GiB", 2 << 30), ("7", 7)])
def test_sizes(text: str, size: int) -> None:
    assert read(f"type=tmpfs,target=/x,size={text}").size == size


@pytest.mark.parametrize("flag, says", [
    ("target=/x,readonly=perhaps", "true or false"),
    ("type=cache,target=/x,mode=9", "in octal"),
    ("type=cache,target=/x,uid=-1", "is a number"),
    ("type=cache,target=/x,uid=4294967296", "is a number"),
    ("type=tmpfs,target=/x,size=big", "like 64m"),
    ("type=cache,target=/x,sharing=some", "unsupported sharing"),
    ("type=bind", "needs a target"),
    ("target", "must be target=VALUE"),
    ("type=secret,id=a,source=b", "the same thing"),
    ("target=/x,required", "only of type secret or ssh"),
    ('"target=/x', "never closed"),
    ('"target=/x"y', "something follows"),
    ('target=/x"y"', "a quote within"),
    ("target=/x,", "unexpected key ''"),
])
def test_what_makes_no_sense_is_refused(flag: str, says: str) -> None:
    with pytest.raises(mounts.MountError, match=says):
        read(flag)


def test_a_target_is_relative_to_the_working_directory_and_not_the_root() -> None:
    assert read("target=a/../b").path("/w") == "/w/b"
    for target in ("/", "..", "//"):
        with pytest.raises(mounts.MountError, match="cover everything"):
            read(f"target={target}").path("/")


@given(st.text(max_size=60))
def test_any_text_is_a_mount_or_refused(text: str) -> None:
    try:
        assert read(text).type in mounts.TYPES
    except mounts.MountError:
        pass


@pytest.mark.parametrize("text, before, file, directory", [
    ("755", 0o600, 0o755, 0o755),
    ("04755", 0o600, 0o4755, 0o4755),
    ("u=rwX,go=rX", 0o600, 0o644, 0o755),
    ("u=rwX,go=rX", 0o700, 0o755, 0o755),
    ("+x", 0o644, 0o755, 0o755),
    ("a-w", 0o777, 0o555, 0o555),
    ("g=u,o-rwx", 0o741, 0o770, 0o770),
    ("u+s,g+s", 0o755, 0o6755, 0o6755),
    ("u=rw", 0o4755, 0o655, 0o4655),
    ("+t", 0o755, 0o1755, 0o1755),
    ("o=", 0o777, 0o770, 0o770),
    ("u+x-w", 0o644, 0o544, 0o544),
])
def test_modes(text: str, before: int, file: int, directory: int) -> None:
    mode = modes.parse(text)
    assert mode.apply(before, False) == file
    assert mode.apply(before, True) == directory


@pytest.mark.parametrize("text", ["", "8", "10000", "u", "u+rwu", "z=r", "u=r,", "+-q", "0x7"])
def test_what_is_no_mode_is_refused(text: str) -> None:
    with pytest.raises(modes.ModeError):
        modes.parse(text)


@given(st.text("ugoarwxXst+-=,07", max_size=12), st.integers(0, 0o7777))
def test_any_text_is_a_mode_or_refused(text: str, mode: int) -> None:
    try:
        result = modes.parse(text).apply(mode, False)
    except modes.ModeError:
        return
    assert 0 <= result <= 0o7777
