import socket

import pytest
from asgi import request
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from vmae_det.web.security import Security, is_loopback


async def echo(request: Request):
    body = await request.body()
    return PlainTextResponse(
        f"{request.method} {request.url.path} {len(body)}", headers={"referrer-policy": "origin"}
    )


INNER = Starlette(routes=[Route("/{rest:path}", echo, methods=["GET", "POST"])])


@pytest.fixture
def app():
    return Security(INNER, max_body=100, body_limits={"/upload": 1000}, body_timeout=0.2)


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:9000", "[::1]:80", "192.168.0.7"])
def test_the_names_and_addresses_of_this_machine_are_served(app, host):
    assert request(app, headers={"host": host}).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example:80",
        "",
        None,
        "a@localhost",
        "localhost:x",
    ],
)
def test_other_hosts_are_refused(app, host):
    answer = request(app, headers={"host": host})
    assert answer.status == 421
    assert "host" in answer.json["error"]


def test_the_name_of_this_machine_is_known_only_with_a_token(app):
    name = socket.gethostname().lower().partition(".")[0]
    host = {"host": f"{name}.cluster.example:80"}
    assert request(app, headers=host).status == 421
    assert request(Security(INNER, token="secret"), headers=host).status == 401
    authorized = host | {"authorization": "Bearer secret"}
    assert request(Security(INNER, token="secret"), headers=authorized).status == 200


def test_another_site_can_change_nothing(app):
    for origin in ("http://evil.example", "null", "http://localhost:81", "http://127.0.0.1:80"):
        assert request(app, "POST", headers={"origin": origin}).status == 403, origin
    assert request(app, "POST", headers={"sec-fetch-site": "cross-site"}).status == 403
    assert request(app, "POST", headers={"origin": "http://localhost:80"}).status == 200
    assert request(app, "POST").status == 200  # a program


def test_a_token_is_asked_for_and_kept_in_a_cookie():
    app = Security(INNER, token="secret")
    assert request(app).status == 401
    assert request(app, query="token=wrong").status == 401
    assert request(app, "POST", query="token=secret").status == 401
    assert request(app, headers={"authorization": "Bearer wrong"}).status == 401
    assert request(app, headers={"authorization": "Bearer s\u00e9cret"}).status == 401
    opened = request(app, path="//evil.example/x", query="a=1&token=secret")
    assert opened.status == 303
    assert opened.headers["location"] == "/evil.example/x?a=1"
    cookie = opened.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite" in cookie
    assert request(app, headers={"cookie": "x=1; " + cookie.partition(";")[0]}).status == 200
    assert request(app, headers={"cookie": cookie.partition("=")[0] + "=wrong"}).status == 401


def test_responses_have_the_headers_that_protect_the_page(app):
    for answer in (request(app), request(app, headers={"host": "evil.example"})):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert request(app).headers["referrer-policy"] == "origin"  # set by the application


def test_large_bodies_are_refused_with_and_without_their_length(app):
    assert request(app, "POST", body=b"x" * 100).body == b"POST / 100"
    assert request(app, "POST", headers={"content-length": "101"}).status == 413
    assert request(app, "POST", headers={"content-length": "9" * 30}).status == 413
    assert request(app, "POST", headers={"content-length": "-1"}).status == 400
    answer = request(app, "POST", chunks=[b"x" * 60, b"x" * 60])
    assert answer.status == 413
    assert answer.json["error"] == "the request is too large; at most 100 bytes are accepted"
    assert request(app, "POST", "/upload", chunks=[b"x" * 60, b"x" * 60]).body == b"POST /upload 120"


def test_a_body_that_stalls_is_refused(app):
    assert request(app, "POST", chunks=[b"x", b"x"], delay=0.5).status == 408


def test_a_body_of_single_bytes_is_refused_although_it_never_stalls(app):
    assert request(app, "POST", "/upload", chunks=[b"x"] * 20, delay=0.05).status == 408


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("a.b", False)],
)
def test_loopback(host, expected):
    assert is_loopback(host) == expected
