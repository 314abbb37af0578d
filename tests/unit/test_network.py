"""Headers, proxies and progress, without a network."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import pytest
import urllib3

from rootless.errors import AuthError, RegistryError
from rootless.image import network
from rootless.image.progress import Bars, Progress, bar, human
from rootless.image.reference import parse
from rootless.image.registry import Registry

URL = "https://r.example/v2/"


@pytest.mark.parametrize("headers, found", [
    (['Bearer realm="https://a/token",service="s",scope="repository:x:pull,push"'],
     {"bearer": {"realm": "https://a/token", "service": "s", "scope": "repository:x:pull,push"}}),
    (['Basic realm="a \\"b\\" c"'], {"basic": {"realm": 'a "b" c'}}),
    (["Negotiate", "bearer REALM=x, service = y"],
     {"negotiate": {}, "bearer": {"realm": "x", "service": "y"}}),
    (['Basic realm="a", Bearer realm="b"'], {"basic": {"realm": "a"}, "bearer": {"realm": "b"}}),
    (["", ",,", '"'], {}),
])
def test_challenges_are_read(headers: list[str], found: dict[str, dict[str, str]]) -> None:
    assert network.challenges(headers) == found


@pytest.mark.parametrize("url, env, proxy", [
    (URL, {"HTTPS_PROXY": "http://p:1"}, "http://p:1"),
    (URL, {"https_proxy": "p:1"}, "http://p:1"),
    (URL, {"HTTP_PROXY": "http://p:1"}, ""),
    ("http://r.example/", {"HTTP_PROXY": "http://p:1"}, "http://p:1"),
    ("https://localhost:5000/", {"HTTPS_PROXY": "http://p:1"}, ""),
    ("https://127.0.0.1/", {"HTTPS_PROXY": "http://p:1"}, ""),
    (URL, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, ""),
    (URL, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "a, r.example"}, ""),
    (URL, {"HTTPS_PROXY": "http://p:1", "no_proxy": ".example"}, ""),
    (URL, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*.example"}, ""),
    (URL, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "example"}, ""),
    (URL, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "xample"}, "http://p:1"),
    (URL, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "r.example:443"}, ""),
    (URL, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "r.example:80"}, "http://p:1"),
    ("https://10.1.2.3/", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"}, ""),
    ("https://11.1.2.3/", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "10.0.0.0/8"}, "http://p:1"),
])
def test_the_proxy_is_the_one_go_programs_take(url: str, env: dict[str, str], proxy: str) -> None:
    assert network.proxy_for(url, env) == proxy


@pytest.mark.parametrize("name, verify, base", [
    ("debian", None, "https://registry-1.docker.io"),
    ("quay.io/a", None, "https://quay.io"),
    ("quay.io/a", False, "https://quay.io"),
    ("localhost:5000/a", None, "http://localhost:5000"),
    ("127.0.0.1:5000/a", None, "http://127.0.0.1:5000"),
    ("[::1]:5000/a", None, "http://[::1]:5000"),
    ("localhost:5000/a", True, "https://localhost:5000"),
    ("127.0.0.1.example.org/a", None, "https://127.0.0.1.example.org"),
])
def test_plain_http_is_first_on_loopback_only(name: str, verify: bool | None, base: str) -> None:
    registry = Registry(parse(name), tls_verify=verify, env={}, home="/", say=lambda _: None)
    assert registry.base == base


@pytest.mark.parametrize("size, shown", [
    (0, "0B"), (999, "999B"), (1000, "1kB"), (77_800_000, "77.8MB"), (116_500_000, "116MB"),
    (999_900, "1MB"), (1_234_000_000, "1.23GB")])
def test_sizes_are_shown_as_docker_does(size: int, shown: str) -> None:
    assert human(size) == shown


@pytest.mark.parametrize("width", [1, 10, 30, 40, 60, 80, 200])
@pytest.mark.parametrize("done", [0, 1, 53_000_000, 107_000_000])
def test_a_bar_is_never_wider_than_the_terminal(width: int, done: int) -> None:
    assert len(bar("0123456789ab", done, 107_000_000, width)) <= width
    assert len(bar("0123456789ab", 0, 0, width)) <= width


def test_bars_are_redrawn_in_place_and_done_lines_stay() -> None:
    out = io.StringIO()
    bars = Bars(_Terminal(out))
    bars.start("one", 10)
    bars.start("two", 10)
    bars.finish("one", "Pull complete")
    bars.close()
    text = out.getvalue()
    assert "\033[2A\r\033[J" in text
    assert text.count("one: Pull complete\n") == 1
    assert text.endswith("\033[1A\r\033[J")


class _Terminal(io.StringIO):
    """A stream that has no size to ask for."""

    def __init__(self, out: io.StringIO) -> None:
        super().__init__()
        self._out = out

    def write(self, text: str) -> int:
        return self._out.write(text)


def test_quiet_is_quiet() -> None:
    out = io.StringIO()
    quiet = Progress(out, quiet=True)
    quiet.start("a", 1)
    quiet.update("a", 1)
    quiet.finish("a", "x")
    quiet.line("x")
    assert out.getvalue() == ""


def talking_tls(tmp_path: Path, **more: bool) -> Registry:
    """To a registry on https, with a password for it."""
    pair = base64.b64encode(b"ann:topsecret").decode()
    (tmp_path / "auth.json").write_text(json.dumps({"auths": {"r.example": {"auth": pair}}}))
    return Registry(parse("r.example/app"), tls_verify=more.get("verify"), home=str(tmp_path),
                    env={"REGISTRY_AUTH_FILE": str(tmp_path / "auth.json")}, say=lambda _: None)


def test_no_redirect_leads_from_https_to_http(tmp_path: Path) -> None:
    answer = urllib3.HTTPResponse(status=307, headers={"Location": "http://evil.example/blob"})
    registry = talking_tls(tmp_path)
    with pytest.raises(RegistryError, match="redirects from https to plain http"):
        registry._redirect("https://r.example/v2/app/blobs/x", answer, "app")
    answer = urllib3.HTTPResponse(status=307, headers={"Location": "/elsewhere?a=b"})
    assert registry._redirect("https://r.example/v2/app", answer, "app") == (
        "https://r.example/elsewhere?a=b")


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://x/", "http://"])
def test_a_redirect_to_no_server_is_refused(tmp_path: Path, location: str) -> None:
    answer = urllib3.HTTPResponse(status=307, headers={"Location": location})
    with pytest.raises(RegistryError, match="redirects to nowhere"):
        talking_tls(tmp_path)._redirect("https://r.example/x", answer, "app")


def test_no_password_goes_from_https_to_a_login_server_on_http(tmp_path: Path) -> None:
    answer = urllib3.HTTPResponse(status=401, headers={
        "WWW-Authenticate": 'Bearer realm="http://evil.example/token"'})
    with pytest.raises(AuthError, match="over plain http to evil"):
        talking_tls(tmp_path)._prove(answer, "app")


@pytest.mark.parametrize("text, seconds", [("7", 7), ("", None), ("soon", None), ("-1", None),
                                           ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
                                           ("9" * 30, 999999999)])
def test_retry_after_is_a_number_or_a_date(text: str, seconds: int | None) -> None:
    answer = urllib3.HTTPResponse(status=429, headers={"Retry-After": text})
    assert network.retry_after(answer) == seconds
