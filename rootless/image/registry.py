"""A client of one repository in a registry: OCI distribution 1.1, Docker registry v2.

    request(path)  ->  answer 200 or 206, or an error in the user's words

One loop sends a request until it has an answer to give: it proves who we are (401), follows
redirects (307, to a store elsewhere), waits when told to (429), and tries again what is likely to
pass (5xx, connections that break). All of it is bounded.

Who gets to see what:
  * Authorization goes to the registry's own scheme, host and port only; a redirect elsewhere
    gets none, and none leads from https to http.
  * A password goes to the token server that the registry names, but never from a registry on
    https to one on http.

Plain http is for loopback addresses and where --tls-verify=false allows it. On loopback the first
request goes out plainly, because a TLS server refuses that at once, while some plain servers
would never answer a TLS greeting; nothing secret is in a first request. Elsewhere TLS is first.
"""

from __future__ import annotations

import json
import time
from urllib.parse import urlencode, urljoin, urlsplit

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NewConnectionError,
    ProxyError,
    SSLError,
)

from rootless.errors import AuthError, ImageError, NotFound, RegistryError, RootlessError
from rootless.image import auth
from rootless.image.ask import USER_AGENT
from rootless.image.network import (
    challenges,
    drain,
    duration,
    error_text,
    may_pass,
    proxy_for,
    reason,
    retry_after,
)
from rootless.image.reference import DEFAULT_DOMAIN, Reference
from rootless.image.tls import is_loopback, tls_context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Union

    from urllib3 import BaseHTTPResponse as Answer

    from rootless.image.registries import Trust

    Body = Callable[[], Union[bytes, Iterator[bytes]]]

CONNECT_SECONDS = 15.0
READ_SECONDS = 30.0
PAUSES = (0.2, 0.6, 2.0, 4.0)       # before the second, third ... try
LONGEST_WAIT = 90                   # that a registry may ask for; longer is an error at once
MOST_WAITS = 4
MOST_REDIRECTS = 5
DONE = frozenset((200, 201, 202, 204, 206))
PASSING = frozenset((408, 500, 502, 503, 504))
# A registry may copy and hash a whole large blob before it answers a PUT.
PUT_SECONDS = 300.0
FORGET_SECONDS = 3.0


class Passing(RegistryError):
    """A connection that broke, or a server that has trouble: what was sent may have arrived, and
    whoever sent it knows how to go on."""

# What a registry means that will not take an image.
_PUSH = {404: "takes no such name", 405: "takes no images: it is read-only",
         413: "takes nothing of this size", 507: "has no room for it"}


class Registry:
    """`tls_verify`: None for the default; False takes any certificate, and plain http.

    `say` gets a line for the person while we wait. `trust`: of this host, from config.toml.
    `verb`: what we are about, for messages. `scopes`: what a token is asked for, where it is more
    than what a single request needs.
    """

    def __init__(self, reference: Reference, *, tls_verify: bool | None, env: Mapping[str, str],
                 home: str, say: Callable[[str], None], trust: Trust | None = None) -> None:
        self.reference = reference
        self.verb = "get"
        self.scopes: list[str] = []
        self._trust = trust
        self._verify = tls_verify is not False
        self._env = env
        self._home = home
        self._say = say
        self.host = ("registry-1.docker.io" if reference.domain == DEFAULT_DOMAIN
                      else reference.domain)
        name = urlsplit("//" + self.host).hostname or ""
        loopback = is_loopback(name) and tls_verify is not True
        self._schemes = (["http", "https"] if loopback else ["https"] if self._verify
                         else ["https", "http"])
        self._settled = len(self._schemes) == 1
        self._pools: dict[str, urllib3.PoolManager] = {}
        self._authorization = ""
        self._tried_password = False
        self._credentials: list[auth.Credentials | None] = []
        self._login = False
        self._identity = ""

    def fork(self, say: Callable[[str], None]) -> Registry:
        """For a child process: the same right to ask, connections of its own."""
        twin = Registry(self.reference, tls_verify=None if self._verify else False,
                        env=self._env, home=self._home, say=say, trust=self._trust)
        twin.verb, twin.scopes = self.verb, self.scopes
        twin._schemes, twin._settled = self._schemes, self._settled
        twin._authorization = self._authorization
        twin._credentials = self._credentials
        return twin

    @property
    def base(self) -> str:
        return f"{self._schemes[0]}://{self.host}"

    def request(self, path: str, what: str, *, method: str = "GET", accept: str = "",
                start: int = 0, stranger: bool = False, body: Body | None = None,
                headers: Mapping[str, str] | None = None, again: bool = True,
                answers: frozenset[int] = frozenset()) -> Answer:
        """The answer to `/v2/<name><path>`, its body not read yet. `what` is for messages.

        `path` may be a whole address, too, that the registry has given. `body`: called for each
        try. `start`: ask for the bytes from there on; the answer's status tells whether we get
        that. `stranger`: 404 and 405 are answers too, and so are `answers`. `again`: try again what
        may pass; else that is Passing. Raises RegistryError, AuthError, NotFound.
        """
        common = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **(headers or {})}
        if accept:
            common["Accept"] = accept
        if start:
            common["Range"] = f"bytes={start}-"
        url = self._url(path)
        tries = waits = redirects = refusals = 0
        while True:
            own = self._is_own(url)
            sent = dict(common)
            if own and self._authorization:
                sent["Authorization"] = self._authorization
            try:
                answer = self._send(method, url, sent, body=body() if body else None)
            except (HTTPError, OSError) as e:
                if own and not self._settled and self._other_scheme(e):
                    url = self._url(path)
                    continue
                if tries == len(PAUSES) or not may_pass(e, first=not self._settled):
                    raise self.failure(what, e) from None
                if not again:
                    raise Passing(self.failure(what, e).message) from None
                time.sleep(PAUSES[tries])
                tries += 1
                continue
            status = answer.status
            if own and not self._settled:
                if status == 400 and self._schemes[0] == "http":
                    # What a TLS server says to plain text.
                    drain(answer)
                    self._schemes.reverse()
                    self._settled = True
                    url = self._url(path)
                    continue
                self._settled = True
                self._schemes = self._schemes[:1]
            if status in DONE or status in answers or (stranger and status in (404, 405)):
                return answer
            if status in (301, 302, 303, 307, 308) and redirects < MOST_REDIRECTS:
                url = self._redirect(url, answer, what)
                redirects += 1
            elif status == 401 and own and refusals < 2:
                refusals += 1
                self._prove(answer, what)
            elif status == 429 and waits < MOST_WAITS:
                self._wait(answer, what, waits)
                waits += 1
            elif status in PASSING and not again:
                raise Passing(self._refused(answer, what).message)
            elif status in PASSING and tries < len(PAUSES):
                time.sleep(max(PAUSES[tries], min(retry_after(answer) or 0, 10)))
                tries += 1
            else:
                raise self._refused(answer, what)
            drain(answer)

    def log_in(self, known: auth.Credentials) -> tuple[bool, str]:
        """Are these taken? (whether the registry asked for any, the identity token that it gave
        in exchange or ""). The reference may be of a host alone. Raises AuthError when not."""
        self.verb, self._login, self._credentials = "log in to", True, [known]
        url = self.reference
        self.reference = Reference(url.domain, "")
        try:
            drain(self.request("", url.domain, stranger=True))
        finally:
            self.reference = url
        return bool(self._authorization), self._identity

    def small(self, path: str, what: str, *, accept: str = "", most: int) -> tuple[bytes, Answer]:
        """A whole body of at most `most` bytes, and its answer. Raises ImageError for more."""
        tries = 0
        while True:
            answer = self.request(path, what, accept=accept)
            try:
                body = answer.read(most + 1)
                drain(answer)
            except (HTTPError, OSError) as e:
                if tries == len(PAUSES):
                    raise self.failure(what, e) from None
                time.sleep(PAUSES[tries])
                tries += 1
                continue
            if len(body) > most:
                raise ImageError(f"cannot {self.verb} {what}: {self.host} sends more than {most} "
                                 "bytes")
            return body, answer

    def forget(self, url: str) -> None:
        """Say that an upload is not wanted any more, once: the registry would find out some day."""
        headers = {"User-Agent": USER_AGENT}
        if self._is_own(url) and self._authorization:
            headers["Authorization"] = self._authorization
        try:
            drain(self._send("DELETE", url, headers, seconds=FORGET_SECONDS))
        except (HTTPError, OSError):
            pass

    def _url(self, path: str) -> str:
        if path.startswith("/v1/"):     # of the registry, not of a repository
            return self.base + path
        return path if "://" in path else f"{self.base}/v2/{self.reference.path}{path}"

    # ---- connections ---------------------------------------------------------------------------

    def _is_own(self, url: str) -> bool:
        parts = urlsplit(url)
        return parts.netloc == self.host and parts.scheme == self._schemes[0]

    def _send(self, method: str, url: str, headers: Mapping[str, str], *,
              body: str | bytes | Iterator[bytes] | None = None, seconds: float = 0.0) -> Answer:
        seconds = seconds or (PUT_SECONDS if method == "PUT" else READ_SECONDS)
        return self._pool(url).request(
            method, url, headers=headers, body=body, redirect=False, retries=False,
            preload_content=False, decode_content=False,
            timeout=urllib3.Timeout(connect=min(CONNECT_SECONDS, seconds), read=seconds))

    def _pool(self, url: str) -> urllib3.PoolManager:
        parts = urlsplit(url)
        key = f"{parts.scheme}://{parts.netloc}"
        pool = self._pools.get(key)
        if pool is None:
            context = None
            if parts.scheme == "https":
                # Another host has no part in what was said of this one.
                context = tls_context(parts.netloc, self._env, self._home, verify=self._verify,
                                      trust=self._trust if parts.netloc == self.host else None)
            proxy = proxy_for(url, self._env)
            if proxy:
                at = urlsplit(proxy)
                known = {}
                if at.username:
                    known = urllib3.make_headers(
                        proxy_basic_auth=f"{at.username}:{at.password or ''}")
                # http:// where nothing is said, as curl and Go have it.
                host = (at.hostname or "") + (f":{at.port}" if at.port else "")
                pool = urllib3.ProxyManager(f"{at.scheme}://{host}", proxy_headers=known,
                                            ssl_context=context)
            else:
                pool = urllib3.PoolManager(ssl_context=context)
            self._pools[key] = pool
        return pool

    def _other_scheme(self, error: HTTPError | OSError) -> bool:
        """True when the first try failed as it does where the other scheme is spoken."""
        self._settled = True
        first, *rest = self._schemes
        refused = isinstance(error, NewConnectionError)
        slow = isinstance(error, (ConnectTimeoutError, ProxyError)) and not refused
        if not rest or slow:
            return False
        certificate = isinstance(error, SSLError) and "CERTIFICATE_VERIFY" in str(error)
        if certificate or (refused and urlsplit("//" + self.host).port):
            # Nobody listens there, whatever is spoken.
            return False
        self._schemes = [*rest, first]
        return True

    def _redirect(self, url: str, answer: Answer, what: str) -> str:
        target = urljoin(url, answer.headers.get("Location") or "")
        parts = urlsplit(target)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RegistryError(f"cannot {self.verb} {what}: {self.host} redirects to nowhere")
        if parts.scheme == "http" and urlsplit(url).scheme == "https" and self._verify:
            raise RegistryError(f"cannot {self.verb} {what}: "
                                f"{self.host} redirects from https to plain "
                                f"http at {parts.hostname}",
                                hint="--tls-verify=false allows that")
        return target

    # ---- who we are ----------------------------------------------------------------------------

    def _known(self) -> auth.Credentials | None:
        if not self._credentials:
            self._credentials.append(auth.credentials(
                self.reference.domain, self.reference.path, self._env, self._home))
        return self._credentials[0]

    def _prove(self, answer: Answer, what: str) -> None:
        """Answer the challenge of a 401. Raises AuthError when we have nothing (else) to say."""
        offered = challenges(answer.headers.getlist("WWW-Authenticate"))
        known = self._known()
        if "bearer" in offered:
            if known is not None and known.bearer:
                token = known.bearer
            else:
                token = self._token(offered["bearer"], known, what)
            if self._authorization == f"Bearer {token}":
                raise self._denied(what, known)
            self._authorization = f"Bearer {token}"
        elif "basic" in offered:
            if known is None or not known.user or self._tried_password:
                raise self._denied(what, known)
            self._tried_password = True
            self._authorization = known.basic()
        else:
            raise AuthError(f"cannot {self.verb} {what}: "
                            f"{self.host} asks for a kind of login that is "
                            f"not supported: {', '.join(offered) or 'it does not say which'}")

    def _denied(self, what: str, known: auth.Credentials | None) -> AuthError:
        if known is None:
            return AuthError(f"cannot {self.verb} {what}: "
                             f"{self.host} wants a user name and password, or "
                             "there is no such repository",
                             hint=f"rootless login {self.reference.domain}")
        return AuthError(f"cannot {self.verb} {what}: "
                         f"{self.host} refused the user name or password from "
                         f"{known.origin}",
                         hint=None if self._login else "log in again: rootless login "
                                                       f"{self.reference.domain}")

    def _token(self, challenge: dict[str, str], known: auth.Credentials | None,
               what: str) -> str:
        """Ask the server that the registry names for a token to read this repository."""
        realm = challenge.get("realm", "")
        parts = urlsplit(realm)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RegistryError(f"cannot {self.verb} {what}: "
                                f"{self.host} names no server to log in at")
        if known is not None and parts.scheme == "http" and self._schemes[0] == "https":
            raise AuthError(f"cannot {self.verb} {what}: "
                            f"{self.host} wants the password sent over plain "
                            f"http to {parts.hostname}: refused")
        scopes = self.scopes or [challenge.get("scope")
                                 or f"repository:{self.reference.path}:pull"]
        fields: dict[str, str | list[str]] = {} if self._login else {"scope": scopes}
        if challenge.get("service"):
            fields["service"] = challenge["service"]
        headers = {"User-Agent": USER_AGENT}
        method, url, body = "GET", realm, None
        if known is not None and known.identity:
            fields.update(grant_type="refresh_token", client_id="rootless",
                          refresh_token=known.identity)
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            if not self._login:
                fields["scope"] = " ".join(scopes)
            method, body = "POST", urlencode(fields)
        else:
            if known is not None:
                headers["Authorization"] = known.basic()
                fields["account"] = known.user
            if self._login:
                fields.update(client_id="rootless", offline_token="true")
            url += ("&" if parts.query else "?") + urlencode(fields, doseq=True)
        answer = self._ask_token(method, url, headers, body, what)
        if answer.status in (400, 401, 403):
            raise self._denied(what, known)
        if answer.status != 200:
            raise RegistryError(f"cannot {self.verb} {what}: "
                                f"the login server {parts.hostname} answered "
                                f"{answer.status}")
        try:
            value = json.loads(answer.read(1 << 20))
            token = value.get("token") or value.get("access_token")
            if self._login and isinstance(value.get("refresh_token"), str):
                self._identity = value["refresh_token"]
        except (ValueError, AttributeError, RecursionError, HTTPError):
            token = None
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise RegistryError(f"cannot {self.verb} {what}: "
                                f"the login server {parts.hostname} gave no "
                                "token")
        return token

    def _ask_token(self, method: str, url: str, headers: dict[str, str], body: str | None,
                   what: str) -> Answer:
        tries = waits = 0
        while True:
            try:
                answer = self._send(method, url, headers, body=body)
            except (HTTPError, OSError) as e:
                if tries == len(PAUSES) or not may_pass(e, first=False):
                    raise self.failure(what, e, urlsplit(url).netloc) from None
                time.sleep(PAUSES[tries])
                tries += 1
                continue
            if answer.status == 429 and waits < MOST_WAITS:
                self._wait(answer, what, waits)
                waits += 1
            elif answer.status in PASSING and tries < len(PAUSES):
                time.sleep(PAUSES[tries])
                tries += 1
            else:
                return answer
            drain(answer)

    # ---- what went wrong -----------------------------------------------------------------------

    def _wait(self, answer: Answer, what: str, waits: int) -> None:
        asked = retry_after(answer)
        seconds = 2 ** (waits + 1) if asked is None else asked
        if seconds > LONGEST_WAIT:
            raise RegistryError(f"cannot {self.verb} {what}: "
                                f"{self.host} has had too many requests from "
                                f"here and wants us to wait {duration(seconds)}",
                                hint="try again then; many registries allow more after a login")
        self._say(f"{self.host} has had too many requests from here: waiting "
                  f"{duration(seconds)}")
        time.sleep(seconds)

    def _refused(self, answer: Answer, what: str) -> RootlessError:
        detail = error_text(answer)
        status = answer.status
        if self.verb == "push" and status in _PUSH:
            return RegistryError(f"cannot push {what}: {self.host} {_PUSH[status]}"
                                 + (f": {detail}" if detail else ""))
        if status == 404:
            return NotFound(f"cannot {self.verb} {what}: {self.host} has no such image"
                            + (f": {detail}" if detail else ""))
        if status == 401:
            return self._denied(what, self._known())
        if status == 403:
            return AuthError(f"cannot {self.verb} {what}: {self.host} does not allow it"
                             + (f": {detail}" if detail else ""))
        if status == 429:
            return RegistryError(f"cannot {self.verb} {what}: "
                                 f"{self.host} has had too many requests "
                                 "from here",
                                 hint="try again later; many registries allow more after a login")
        return RegistryError(f"cannot {self.verb} {what}: {self.host} answered {status}"
                             + (f": {detail}" if detail else ""))

    def failure(self, what: str, error: HTTPError | OSError, host: str = "") -> RegistryError:
        """A connection that failed, in words."""
        host = host or self.host
        hint = None
        if isinstance(error, SSLError) and "CERTIFICATE_VERIFY" in str(error):
            hint = (f"put the authority's certificate into ~/.config/containers/certs.d/{host}/"
                    "ca.crt, or use --tls-verify=false")
        elif isinstance(error, SSLError) and "WRONG_VERSION" in str(error):
            hint = "--tls-verify=false allows plain http"
        elif host == "localhost":
            hint = "localhost/ begins the names of images made here; rootless images lists them"
        return RegistryError(f"cannot {self.verb} {what}: {host}: {reason(error)}", hint=hint)
