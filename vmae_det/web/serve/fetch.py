"""Downloads a video from an address that a user gave.

The server may reach addresses that the user may not, such as services on its own machine and in its network
(server-side request forgery, see https://owasp.org/Top10/A10_2021-Server-Side_Request_Forgery_(SSRF)). So a
name is resolved once, all of its addresses are checked, and the connection is made to a checked address, also
after each redirect.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from vmae_det.utils.errors import UserError

MAX_URL = 4000  # characters
_MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_TIMEOUT = 20.0  # seconds to connect, and to wait for more data
_CHUNK = 2**18
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_HINT = "; vmae-det serve --allow-private-addresses permits it"


class FetchError(UserError):
    """A video cannot be downloaded."""


def check_url(url: str) -> SplitResult:
    """Return the parts of an address.

    Raises:
        FetchError: it is no http(s) address, or contains a password.
    """
    shown = url[:200]
    try:
        parts = urlsplit(url.strip())
        host, _ = parts.hostname, parts.port  # raises ValueError
    except ValueError as error:
        raise FetchError(f"{shown}: no valid address: {error}") from None
    if len(url) > MAX_URL or any(ord(c) <= 32 or ord(c) == 127 for c in url.strip()):
        raise FetchError(f"{shown}: no valid address")
    if parts.scheme not in ("http", "https") or not host:
        raise FetchError(f"{shown}: expected an address that starts with http:// or https://")
    if parts.username is not None:
        raise FetchError("the address contains a user name; only addresses without one are accepted")
    return parts


def url_name(url: str) -> str:
    """Return the file name in an address; "" if there is none."""
    return unquote(urlsplit(url).path.rpartition("/")[2])


def is_public(address: str) -> bool:
    """Return whether an IP address is of the internet, not of this machine or of a private network."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        # Addresses that lead to an IPv4 address.
        inner = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if ip in _NAT64 or int(ip) < 2**32:  # the latter are "IPv4-compatible"
            inner.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        if any(one is not None and not is_public(str(one)) for one in inner):
            return False
        if ip.ipv4_mapped is not None or ip in _NAT64:
            return True
        if ip.is_site_local:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified or ip.is_loopback)


def fetch(
    url: str,
    path: Path,
    *,
    max_bytes: int,
    timeout: float,
    allow_private: bool,
    report: Callable[[int, int | None], None],
) -> int:
    """Download a file; return its size.

    Args:
        report: called with the bytes received and their expected number, if it is known. An exception that it
            raises ends the download.

    Raises:
        FetchError: it is not available, too large or too slow, or its address is not allowed.
    """
    end = time.monotonic() + timeout
    for _ in range(_MAX_REDIRECTS + 1):
        parts = check_url(url)
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        addresses = _resolve(host, port, allow_private)
        connection = _Connection(host, port, addresses, parts.scheme == "https")
        # A server that sends single bytes would keep the thread beyond the time-out.
        watchdog = threading.Timer(max(end - time.monotonic(), 0), connection.interrupt)
        watchdog.daemon = True
        watchdog.start()
        try:
            location = _request(connection, parts, path, max_bytes, report)
            if location is None:
                return path.stat().st_size
        except (OSError, http.client.HTTPException, ValueError) as error:
            if time.monotonic() >= end:
                raise FetchError(f"{url[:200]}: not received within {timeout:g} s") from None
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise FetchError(f"{url[:200]}: cannot be downloaded: {reason}") from None
        finally:
            watchdog.cancel()
            connection.close()
        url = urljoin(url, location)
    raise FetchError(f"{url[:200]}: more than {_MAX_REDIRECTS} redirects")


def _resolve(host: str, port: int, allow_private: bool) -> list[str]:
    """Return the IP addresses of a host. All of them must be allowed."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise FetchError(f"{host[:200]}: no such host") from None
    addresses = [str(entry[4][0]) for entry in found]
    if not allow_private and not all(is_public(address) for address in addresses):
        raise FetchError(f"{host[:200]}: refused, because it is in the network of the server{_HINT}")
    return addresses


class _Connection(http.client.HTTPConnection):
    """A connection to the first of some addresses that answers."""

    def __init__(self, host: str, port: int, addresses: list[str], encrypted: bool) -> None:
        super().__init__(host, port, timeout=_TIMEOUT)
        self.default_port = 443 if encrypted else 80  # not named in the Host header
        self._addresses, self._encrypted = addresses, encrypted
        self._opened: socket.socket | None = None  # `sock` is None while the last answer is read
        self.interrupted = False

    def connect(self) -> None:
        problem = OSError("no address")
        for address in self._addresses:
            try:
                self._opened = self.sock = socket.create_connection((address, self.port), _TIMEOUT)
                break
            except OSError as error:
                problem = error
            if self.interrupted:
                raise problem
        else:
            raise problem
        if self._encrypted:
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)
        self._opened = self.sock
        if self.interrupted:
            self.interrupt()

    def interrupt(self) -> None:
        """End the connection, from any thread."""
        self.interrupted = True
        if self._opened is not None:
            with suppress(OSError):
                self._opened.shutdown(socket.SHUT_RDWR)


def _request(
    connection: _Connection,
    parts: SplitResult,
    path: Path,
    max_bytes: int,
    report: Callable[[int, int | None], None],
) -> str | None:
    """Send a request, and write the answer to a file; return the new address of a redirect."""
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._") + (
        "?" + quote(parts.query, safe="%/?:@!$&'()*+,;=~-._") if parts.query else ""
    )
    connection.request("GET", target, headers={"User-Agent": "vmae_det", "Accept-Encoding": "identity"})
    response = connection.getresponse()
    if response.status in _REDIRECTS and response.headers.get("Location"):
        return response.headers["Location"]
    url = parts.geturl()[:200]
    if response.status != 200:
        raise FetchError(f"{url}: the server answered {response.status} {response.reason[:100]}")
    expected = response.length  # None if the server does not state it
    received = 0
    with path.open("wb") as file:
        while True:
            if max(received, expected or 0) > max_bytes:
                raise FetchError(f"{url}: larger than {max_bytes / 2**20:g} MiB (--max-mb)")
            report(received, expected)
            chunk = response.read1(_CHUNK)
            if connection.interrupted:
                raise TimeoutError
            if not chunk:
                break
            file.write(chunk)
            received += len(chunk)
    if expected is not None and received < expected:
        raise FetchError(f"{url}: the connection broke after {received} of {expected} bytes")
    if not received:
        raise FetchError(f"{url}: the file is empty")
    return None
