"""What a local server checks of every request, and what it adds to every response.

A page on another site can send requests to a server on this machine through the user's browser. Three checks
stop it: the Host header must be a name of this machine (DNS rebinding), the Origin header of a request that
changes something must be the server itself (cross-site requests), and a server that other machines can reach
asks for a token. See https://cheatsheetseries.owasp.org, "Cross-Site Request Forgery Prevention".
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY = 2**20  # bytes of a request, unless its path has another limit
BODY_TIMEOUT = 20.0  # seconds without a byte of the body
MIN_BODY_RATE = 1024  # bytes per second on average, after the first BODY_TIMEOUT seconds

# Everything from this server, nothing inline. blob: and data: are for pictures that a script creates.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    b"content-security-policy": CONTENT_SECURITY_POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"DENY",
    b"cross-origin-resource-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"cache-control": b"no-store",
}
# A body that is not read to its end is followed by no other request.
_CLOSE = (b"connection", b"close")
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


class Security:
    """ASGI middleware: checks Host, Origin, token, size and speed of requests; adds response headers.

    Refused requests get `{"error": ...}`: 401 without the token, 403 for another origin, 408 for a body that
    arrives too slowly, 413 for one that is too large, and 421 for an unknown host. A header that the
    application sets is kept.

    Args:
        app: the ASGI application.
        names: host names, besides localhost and all IP addresses, which are never the host of a page of
            another site. With a token, the name of this machine in any domain is one, too.
        token: required of every request, as `Authorization: Bearer TOKEN`, or as the cookie that opening
            `/?token=TOKEN` sets; None for no token.
        max_body: bytes of a request body.
        body_limits: bytes of a request body by path, for paths with another limit.
        body_timeout: seconds to wait for the next bytes of a body.
    """

    def __init__(
        self,
        app: App,
        *,
        names: Collection[str] = (),
        token: str | None = None,
        max_body: int = MAX_BODY,
        body_limits: Mapping[str, int] | None = None,
        body_timeout: float = BODY_TIMEOUT,
    ) -> None:
        self.app = app
        self.names = {"localhost", *(name.lower() for name in names)}
        self.machine = socket.gethostname().lower().partition(".")[0] if token else None
        self.token = token
        self.max_body = max_body
        self.body_limits = dict(body_limits or {})
        self.body_timeout = body_timeout
        # Browsers share cookies between the ports of a host. Each server needs its own.
        self.cookie = "vmae_det_" + hashlib.sha256((token or "").encode()).hexdigest()[:12]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it to the application."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # the pages use no web sockets
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = _single_headers(scope)
        refusal = self._refusal(scope, headers)
        if refusal is None and self.token is not None and not self._has_token(headers):
            if scope["method"] == "GET" and self._is_token(_query(scope).get("token", "")):
                await self._set_cookie(scope, send)
                return
            refusal = 401, "this server needs its token; open the address that it printed when it started"
        if refusal is not None:
            await _refuse(send, *refusal)
            return
        await self._run(scope, receive, send, self.body_limits.get(scope["path"], self.max_body))

    def _refusal(self, scope: Scope, headers: Mapping[str, str]) -> tuple[int, str] | None:
        """Return status and reason of a refused request; None if Host, Origin and size are allowed."""
        host = headers.get("host", "")
        if not self.is_known_host(host):
            return 421, f"unknown host {host[:100]!r}; open the address that the server printed"
        if scope["method"] not in _SAFE_METHODS:
            origin = headers.get("origin")  # browsers send it with every request that changes something
            if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
                return 403, f"requests from another site are refused, got Origin {origin[:100]!r}"
            if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
                return 403, "requests from another site are refused"
        length = headers.get("content-length", "0")
        limit = self.body_limits.get(scope["path"], self.max_body)
        if not (length.isascii() and length.isdigit()):
            return 400, "expected a number of bytes as Content-Length"
        if len(length) > 18 or int(length) > limit:
            return 413, _too_large(limit)
        return None

    def is_known_host(self, host: str) -> bool:
        """Return whether a Host header, with or without a port, names this machine."""
        try:
            name = urlsplit(f"//{host}").hostname
            urlsplit(f"//{host}").port  # noqa: B018  raises ValueError
        except ValueError:
            return False
        if not name or "@" in host:
            return False
        return name in self.names or _is_address(name) or name.partition(".")[0] == self.machine

    def _is_token(self, text: str) -> bool:
        """Compare in constant time."""
        return self.token is not None and hmac.compare_digest(text.encode(), self.token.encode())

    def _has_token(self, headers: Mapping[str, str]) -> bool:
        scheme, _, value = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(value.strip()):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            return False
        return cookie is not None and self._is_token(cookie.value)

    async def _set_cookie(self, scope: Scope, send: Send) -> None:
        """Store the token in a cookie, and redirect to the address without it."""
        query = urlencode([(name, value) for name, value in _query_pairs(scope) if name != "token"])
        # One leading slash: "//host" would be the address of another host.
        location = "/" + scope.get("raw_path", b"/").decode("latin-1").lstrip("/")
        cookie = f"{self.cookie}={self.token}; HttpOnly; SameSite=Lax; Path=/"
        if query:
            location += f"?{query}"
        await _respond(send, 303, b"", {b"location": location.encode(), b"set-cookie": cookie.encode()})

    async def _run(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        """Run the application. If the body is refused before the response has started, say so instead."""
        body = _LimitedBody(receive, limit, self.body_timeout)
        has_body, started = _has_body(scope), False

        async def secured_send(message: Message) -> None:
            nonlocal started
            if body.refusal is not None and not started:
                return
            if message["type"] == "http.response.start":
                started = True
                pairs = message.get("headers", ())
                if has_body and not body.is_complete:
                    pairs = [pair for pair in pairs if pair[0].lower() != b"connection"] + [_CLOSE]
                message = {**message, "headers": _with_defaults(pairs)}
            await send(message)

        try:
            await self.app(scope, body.receive, secured_send)
        except Exception:
            if body.refusal is None:
                raise
        if body.refusal is not None and not started:
            await _refuse(send, *body.refusal)


class _LimitedBody:
    """A request body with limits. To the application, a refused client has disconnected."""

    def __init__(self, receive: Receive, limit: int, timeout: float) -> None:
        self._receive, self._limit, self._timeout = receive, limit, timeout
        self._bytes, self._waited = 0, 0.0
        self.is_complete = False
        self.refusal: tuple[int, str] | None = None

    async def receive(self) -> Message:
        if self.is_complete and self.refusal is None:
            return await self._receive()
        if self.refusal is None:
            message = await self._receive_in_time()
            if message is None:
                self.refusal = 408, "the request arrived too slowly"
            elif message["type"] == "http.request":
                self._bytes += len(message.get("body", b""))
                self.is_complete = not message.get("more_body", False)
                if self._bytes > self._limit:
                    self.refusal = 413, _too_large(self._limit)
        return message if self.refusal is None else {"type": "http.disconnect"}

    async def _receive_in_time(self) -> Message | None:
        """Return the next message; None if it does not arrive in time."""
        begin = time.monotonic()
        remaining = self._timeout + self._bytes / MIN_BODY_RATE - self._waited
        try:
            return await asyncio.wait_for(self._receive(), max(min(self._timeout, remaining), 0.001))
        except asyncio.TimeoutError:
            return None
        finally:
            self._waited += time.monotonic() - begin


def is_loopback(host: str) -> bool:
    """Return whether only programs on this machine can reach a server that is bound to `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


def _single_headers(scope: Scope) -> dict[str, str]:
    """Return the headers by name. A repeated one is joined, so that no check can be passed by one of two."""
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        separator = "; " if key == "cookie" else ", "
        headers[key] = headers[key] + separator + text if key in headers else text
    return headers


def _has_body(scope: Scope) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )


def _query_pairs(scope: Scope) -> list[tuple[str, str]]:
    try:
        return parse_qsl(scope["query_string"].decode("latin-1"), max_num_fields=100)
    except ValueError:
        return []


def _query(scope: Scope) -> dict[str, str]:
    return dict(_query_pairs(scope))


def _too_large(limit: int) -> str:
    size = f"{limit / 2**20:g} MiB" if limit >= 2**20 else f"{limit} bytes"
    return f"the request is too large; at most {size} are accepted"


def _with_defaults(headers: Collection[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    present = {name.lower() for name, _ in headers}
    return [*headers, *(pair for pair in _HEADERS.items() if pair[0] not in present)]


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"error": reason}).encode()
    await _respond(send, status, body, dict([(b"content-type", b"application/json"), _CLOSE]))


async def _respond(send: Send, status: int, body: bytes, headers: Mapping[bytes, bytes]) -> None:
    pairs = [*headers.items(), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": _with_defaults(pairs)})
    await send({"type": "http.response.body", "body": body})
