"""Videos from addresses: what is downloaded, and what is refused."""

import contextlib
import http.server
import socket
import threading
import time

import pytest

from vmae_det.web.serve import fetch as fetch_module
from vmae_det.web.serve.fetch import FetchError, check_url, fetch, is_public, url_name


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.partition("?")[0].strip("/")
        if name == "to_metadata":
            return self.redirect("http://169.254.169.254/latest")
        if name == "to_file":
            return self.redirect("file:///etc/passwd")
        if name == "loop":
            return self.redirect("/loop")
        if name == "to_video":
            return self.redirect("/video.mp4")
        if name == "missing":
            return self.send_error(404)
        self.send_response(200)
        if name == "slow":
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)
            return None
        if name == "short":
            self.send_header("Content-Length", "100")
        elif name != "endless":
            self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(bytes(10 if name == "short" else 1000))
        return None

    def redirect(self, location):
        self.send_response(302)
        self.send_header("Location", location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def handle(self):
        with contextlib.suppress(OSError):
            super().handle()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def download(url, path, **options):
    defaults = {"max_bytes": 5000, "timeout": 10, "allow_private": True, "report": lambda *_: None}
    return fetch(url, path, **(defaults | options))


def test_a_file_is_downloaded_through_redirects(site, tmp_path):
    seen = []
    size = download(f"{site}/to_video?a=b&é", tmp_path / "x", report=lambda *news: seen.append(news))
    assert size == len((tmp_path / "x").read_bytes()) == 1000
    assert (seen[0], seen[-1]) == ((0, 1000), (1000, 1000))
    assert download(f"{site}/endless", tmp_path / "y") == 1000


@pytest.mark.parametrize(
    ("path", "options", "reason"),
    [
        ("missing", {}, "answered 404"),
        ("loop", {}, "more than 5 redirects"),
        ("to_file", {}, "expected an address that starts with http"),
        ("short", {}, "broke after 10 of 100 bytes"),
        ("video.mp4", {"max_bytes": 999}, "larger than"),
        ("endless", {"max_bytes": 999}, "larger than"),
        ("slow", {"timeout": 0.3}, "not received within 0.3 s"),
    ],
)
def test_what_cannot_be_downloaded_is_one_error(site, tmp_path, path, options, reason):
    begin = time.monotonic()
    with pytest.raises(FetchError, match=reason):
        download(f"{site}/{path}", tmp_path / "x", **options)
    assert time.monotonic() - begin < 3


def test_addresses_of_this_machine_are_refused(site, tmp_path):
    port = site.rpartition(":")[2]
    for host in ("127.0.0.1", "localhost", "[::1]", "0.0.0.0", "2130706433", "[::ffff:127.0.0.1]"):
        with pytest.raises(FetchError, match=r"in the network of the server|no such host"):
            download(f"http://{host}:{port}/video.mp4", tmp_path / "x", allow_private=False)
    assert not (tmp_path / "x").exists()


def test_redirects_are_checked_again(site, tmp_path, monkeypatch):
    public = fetch_module.is_public
    monkeypatch.setattr(fetch_module, "is_public", lambda one: one == "127.0.0.1" or public(one))
    assert download(f"{site}/to_video", tmp_path / "x", allow_private=False) == 1000
    with pytest.raises(FetchError, match=r"169\.254\.169\.254: refused, because it is in the network"):
        download(f"{site}/to_metadata", tmp_path / "y", allow_private=False)


def test_the_connection_goes_to_the_address_that_was_checked(site, tmp_path, monkeypatch):
    """A name that resolves to another address later (DNS rebinding) changes nothing."""
    port = int(site.rpartition(":")[2])
    original = socket.getaddrinfo
    asked = []

    def resolve(host, *arguments, **options):
        if host == "video.example":
            asked.append(host)
            host = "127.0.0.1" if len(asked) == 1 else "203.0.113.1"
        return original(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert download(f"http://video.example:{port}/video.mp4", tmp_path / "x") == 1000
    assert asked == ["video.example"]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("::127.0.0.1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("2002:7f00:1::", False),
    ],
)
def test_public_addresses(address, expected):
    assert is_public(address) == expected


@pytest.mark.parametrize(
    "url", ["ftp://x/y", "http://", "http:///x", "http://x:99999/", "x.mp4", "http://a b/", "http://x/\r\ny"]
)
def test_other_addresses_are_refused(url):
    with pytest.raises(FetchError):
        check_url(url)


def test_the_name_is_the_end_of_the_path():
    assert url_name("https://x.org/a/caf%C3%A9.mp4?b=/c") == "café.mp4"
    assert url_name("https://x.org") == ""
