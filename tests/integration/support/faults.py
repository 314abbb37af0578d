"""A registry that misbehaves on demand: a proxy before the real one.

Rules are tried in order, the first that matches a request acts on it, at most `times` times:

    proxy.rule("/blobs/", cut_after=100_000, times=1)     # connection lost in mid-blob
    proxy.rule("/manifests/", status=429, headers={"Retry-After": "1"}, times=2)
    proxy.rule("/manifests/latest", body=b"...", headers={"Content-Type": "..."})

Every request is kept in `proxy.seen` with its headers. With `token=(user, password)` it asks for
a bearer token, as public registries do, and has its own /token.
"""

from __future__ import annotations

import base64
import dataclasses
import http.client
import http.server
import json
import re
import threading
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

BLOCK = 16384


@dataclasses.dataclass
class Rule:
    pattern: str
    times: int | None = None            # None: always
    method: str = ""
    status: int = 0                     # answer with this and `body`, ask nobody
    body: bytes | None = None
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    cut_after: int | None = None        # close the connection after that many bytes of the body
    ignore_range: bool = False          # answer a Range request with the whole, as some do
    delay: float = 0.0                  # seconds before the answer
    pause: float = 0.0                  # seconds between blocks of 16 KiB
    flip: int | None = None             # damage the byte at this offset
    break_after: int | None = None      # pass on so much of what is sent, then hang up unanswered
    hits: int = 0


@dataclasses.dataclass(frozen=True)
class Seen:
    method: str
    path: str
    headers: dict[str, str]


class Proxy:
    def __init__(self, upstream: str = "", *, token: tuple[str, str] | None = None) -> None:
        self.upstream = upstream
        self.token = token
        self.rules: list[Rule] = []
        self.seen: list[Seen] = []
        # Of uploads that were broken off: what the registry knows of them, by their path.
        self.broken: dict[str, dict[str, str]] = {}
        self._lock = threading.Lock()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,),
                                        daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    def rule(self, pattern: str, **what: Any) -> Rule:
        rule = Rule(pattern, **what)
        self.rules.append(rule)
        return rule

    def requests(self, pattern: str, method: str = "GET") -> list[Seen]:
        return [s for s in self.seen if s.method == method and re.search(pattern, s.path)]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def take(self, method: str, path: str, headers: dict[str, str]) -> Rule | None:
        with self._lock:
            self.seen.append(Seen(method, path, headers))
            for rule in self.rules:
                if (re.search(rule.pattern, path) and rule.method in ("", method)
                        and (rule.times is None or rule.hits < rule.times)):
                    rule.hits += 1
                    return rule
        return None


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are this server's daily bread."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: Proxy

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD

    def _answer(self) -> None:
        headers = {k.lower(): v for k, v in self.headers.items()}
        rule = self.owner.take(self.command, self.path, headers) or Rule("")
        self._body = self._read_body(headers, rule)
        if rule.delay:
            time.sleep(rule.delay)
        if rule.status:
            self._send(rule.status, rule.headers, rule.body or b"", Rule(""))
        elif self.owner.token is not None and urlsplit(self.path).path == "/token":
            self._give_token(headers)
        elif self.owner.token is not None and headers.get("authorization") != "Bearer sesame":
            repo = re.match(r"/v2/(.+)/(?:manifests|blobs)/", self.path)
            what = "pull" if self.command in ("GET", "HEAD") else "pull,push"
            scope = f',scope="repository:{repo.group(1)}:{what}"' if repo else ""
            self._send(401, {"WWW-Authenticate":
                             f'Bearer realm="http://{self.owner.address}/token",'
                             f'service="tests"{scope}'}, b"{}", rule)
        elif self.command == "GET" and urlsplit(self.path).path in self.owner.broken:
            self._send(204, self.owner.broken[urlsplit(self.path).path], b"", rule)
        elif rule.body is not None:
            self._send(200, rule.headers, rule.body, rule)
        else:
            self._forward(headers, rule)

    def _read_body(self, headers: dict[str, str], rule: Rule) -> bytes:
        left = int(headers.get("content-length", "0"))
        if rule.break_after is not None:
            left = min(left, rule.break_after)
        parts = []
        while left:
            part = self.rfile.read(min(left, BLOCK))
            if not part:
                raise ConnectionAbortedError
            parts.append(part)
            left -= len(part)
            if rule.pause:
                time.sleep(rule.pause)
        return b"".join(parts)

    def _give_token(self, headers: dict[str, str]) -> None:
        assert self.owner.token is not None
        wanted = base64.b64encode(":".join(self.owner.token).encode()).decode()
        query = parse_qs(urlsplit(self.path).query)
        if headers.get("authorization") != f"Basic {wanted}" or query.get("service") != ["tests"]:
            self._send(401, {}, b'{"errors":[{"code":"UNAUTHORIZED"}]}', Rule(""))
            return
        self._send(200, {"Content-Type": "application/json"},
                   json.dumps({"token": "sesame", "expires_in": 60}).encode(), Rule(""))

    def _forward(self, headers: dict[str, str], rule: Rule) -> None:
        passed = {k: v for k, v in headers.items()
                  if k in ("accept", "range", "authorization", "user-agent", "accept-encoding")}
        if rule.ignore_range:
            passed.pop("range", None)
        if self.command not in ("GET", "HEAD"):
            # The registry names itself in Location as it was called.
            passed.update({k: v for k, v in headers.items()
                           if k in ("host", "content-type", "content-range")})
            passed["content-length"] = str(len(self._body))
        upstream = http.client.HTTPConnection(self.owner.upstream, timeout=60)
        try:
            upstream.request(self.command, self.path, body=self._body or None, headers=passed)
            answer = upstream.getresponse()
            if rule.break_after is not None:
                # Debian's registry does not say how far such an upload has come; others do.
                self.owner.broken[urlsplit(self.path).path] = {
                    k: v for k in ("Location", "Range") if (v := answer.getheader(k))}
                answer.read()
                self.close_connection = True
                return
            kept = {k: v for k, v in answer.getheaders()
                    if k.lower() not in ("connection", "transfer-encoding", "content-length")}
            length = answer.getheader("Content-Length")
            self._send(answer.status, kept, answer.read(), rule, length)
        finally:
            upstream.close()

    def _send(self, status: int, headers: dict[str, str], body: bytes, rule: Rule,
              length: str | None = None) -> None:
        if rule.flip is not None and len(body) > rule.flip:
            changed = bytearray(body)
            changed[rule.flip] ^= 0xFF
            body = bytes(changed)
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if "content-length" not in {k.lower() for k in headers}:
            self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if rule.cut_after is not None:
            body = body[:rule.cut_after]
        if rule.pause:
            for start in range(0, len(body), BLOCK):
                self.wfile.write(body[start:start + BLOCK])
                time.sleep(rule.pause)
        else:
            self.wfile.write(body)
        if rule.cut_after is not None:
            self.close_connection = True
