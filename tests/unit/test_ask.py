"""The one question of a second pull: what an answer may look like, and what is loaded for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rootless.image import ask

ROOT = Path(__file__).resolve().parent.parent.parent
DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize("head, found", [
    (f"HTTP/1.1 200 OK\r\nDocker-Content-Digest: {DIGEST}", DIGEST),
    (f"HTTP/1.0 200\r\nA: b\r\ndocker-content-digest:{DIGEST} ", DIGEST),
    (f"HTTP/1.1 401 Unauthorized\r\nDocker-Content-Digest: {DIGEST}", ""),
    (f"HTTP/1.1 307 Temporary Redirect\r\nDocker-Content-Digest: {DIGEST}", ""),
    (f"HTTP/2 200 OK\r\nDocker-Content-Digest: {DIGEST}", ""),
    ("HTTP/1.1 200 OK\r\nDocker-Content-Digest: sha256:1", ""),
    ("HTTP/1.1 200 OK\r\nContent-Length: 3", ""),
    (f"SSH-2.0-x 200\r\nDocker-Content-Digest: {DIGEST}", ""),
    ("", ""),
])
def test_only_a_plain_answer_has_a_digest(head: str, found: str) -> None:
    assert ask.read(head.encode()) == found


@given(st.binary(max_size=200))
def test_any_answer_is_read(head: bytes) -> None:
    assert ask.read(b"HTTP/1.1 200 " + head) in ("", head.decode("ascii", "replace")[-71:])


@pytest.mark.parametrize("netloc, host, port", [
    ("r.example", "r.example", 0), ("r.example:5000", "r.example", 5000), ("[::1]", "::1", 0),
    ("[::1]:5000", "::1", 5000), ("localhost", "localhost", 0)])
def test_host_and_port_are_told_apart(netloc: str, host: str, port: int) -> None:
    assert ask.split(netloc) == (host, port)


def test_no_http_client_is_loaded_to_ask() -> None:
    code = "import sys\nimport rootless.image.pull\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, "
                             f"{str(ROOT)!r})\n{code}"], check=True, stdout=subprocess.PIPE)
    heavy = {"ssl", "socket", "urllib3", "http.client", "json", "urllib.parse", "re", "enum"}
    assert not heavy & set(loaded.stdout.decode().split())
