"""Connections on which the client still sends when the answer is known."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from running import running
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from vmae_det.web import protocol, server

SIZE = 8 * 2**20  # more than the buffers of a connection
BLOCK = bytes(2**18)


async def echo(request):
    return PlainTextResponse(str(len(await request.body())))


async def page(request):
    return PlainTextResponse("a page")


APP = Starlette(routes=[Route("/", echo, methods=["POST"]), Route("/page", page)])


@pytest.fixture(scope="module")
def port():
    with running(APP, max_body=2 * SIZE, body_limits={"/small": 1000}) as server:
        yield server.port


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def head(path="/", method="POST", **headers):
    names = {"Host": "localhost", **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in names.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def read_all(client):
    """Return what arrives until the server ends its side."""
    parts = []
    while part := client.recv(2**16):
        parts.append(part)
    return b"".join(parts)


def send_all(port, start, size):
    """Send a request, and only then read the answer, as many clients do."""
    with connect(port) as client:
        client.sendall(start)
        for _ in range(0, size, len(BLOCK)):
            client.sendall(BLOCK)
        return read_all(client)


def seconds_until_reset(client, block, pause):
    """Send until the server closes the connection."""
    begin = time.monotonic()
    with suppress(OSError):
        while time.monotonic() - begin < 10:
            client.sendall(block)
            time.sleep(pause)
    return time.monotonic() - begin


def status(answer):
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (head("/small", Content_Length=SIZE), 413),
        (head(Content_Length=10**12), 413),
        (head(Content_Length=SIZE, Origin="http://evil.example"), 403),
        (head(Content_Length=SIZE, Host="evil.example"), 421),
        (head("/nowhere", Content_Length=SIZE), 404),
        (head("/page", Content_Length=SIZE), 405),
        (head("/page", "GET", Content_Length=SIZE), 200),
        (b"no HTTP\r\n\r\n", 400),
    ],
    ids=["size", "huge", "origin", "host", "path", "method", "unread", "no_http"],
)
def test_an_answer_before_the_end_of_the_body_reaches_the_client(port, start, expected):
    answer = send_all(port, start, SIZE)
    assert status(answer) == expected
    assert b"\r\nconnection: close\r\n" in answer.lower()


def test_a_server_with_too_many_connections_says_so(monkeypatch):
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 1)
    with running(APP, max_body=2 * SIZE) as crowded:
        assert status(send_all(crowded.port, head(Content_Length=SIZE), SIZE)) == 503


def test_a_server_that_asks_for_a_token_says_so():
    with running(APP, with_token=True, max_body=2 * SIZE) as locked:
        assert status(send_all(locked.port, head(Content_Length=SIZE), SIZE)) == 401


def test_clients_that_send_at_the_same_time_read_their_answers(port):
    with ThreadPoolExecutor(8) as pool:
        starts = [head("/small", Content_Length=64 * 2**20)] * 8
        answers = list(pool.map(send_all, [port] * 8, starts, [SIZE] * 8))
    assert [status(answer) for answer in answers] == [413] * 8


def test_a_client_that_reads_while_it_sends_has_its_answer_at_once(port):
    with connect(port) as client:
        begin = time.monotonic()
        client.sendall(head("/small", Content_Length=SIZE) + BLOCK)
        assert status(read_all(client)) == 413
        assert time.monotonic() - begin < 1


@pytest.mark.parametrize(
    ("limit", "value", "block", "pause"),
    [
        ("_LINGER_BYTES", 2**20, BLOCK, 0),
        ("_LINGER_SECONDS", 0.5, b"x", 0.05),
        ("_LINGER_IDLE_SECONDS", 0.3, b"x", 0.6),
    ],
)
def test_a_refused_client_cannot_send_for_long(port, monkeypatch, limit, value, block, pause):
    monkeypatch.setattr(protocol, limit, value)
    with connect(port) as client:
        client.sendall(head("/small", Content_Length=10**12))
        assert seconds_until_reset(client, block, pause) < 5


def test_expect_continue(port):
    with connect(port) as client:  # accepted
        client.sendall(head(Content_Length=3, Expect="100-continue", Connection="close"))
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"abc")
        assert read_all(client).endswith(b"\r\n\r\n3")
    for path, expected in {"/small": 413, "/nowhere": 404}.items():  # refused
        with connect(port) as client:
            client.sendall(head(path, Content_Length=SIZE, Expect="100-continue"))
            begin = time.monotonic()
            assert status(read_all(client)) == expected
            assert time.monotonic() - begin < 1


def test_a_connection_is_used_again_after_a_body_was_read(port):
    with connect(port) as client:
        client.sendall(2 * (head(Content_Length=3) + b"abc"))
        client.sendall(
            head("/nowhere", Content_Length=0) + head(Content_Length=2, Connection="close") + b"ab"
        )
        answers = read_all(client)
    assert answers.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert answers.lower().count(b"\r\nconnection: close\r\n") == 1
    assert answers.endswith(b"\r\n\r\n2")


def test_connections_that_send_no_request_are_closed(port, monkeypatch):
    monkeypatch.setattr(protocol, "_HEADER_SECONDS", 0.3)
    for start in (b"", b"GET / HTTP/1.1\r\nHost: loc"):
        with connect(port) as client:
            client.sendall(start)
            assert client.recv(10) == b""


def test_a_client_that_lingers_does_not_keep_the_server_alive():
    with running(APP, max_body=2 * SIZE) as stopping, connect(stopping.port) as client:
        client.sendall(head("/nowhere", Content_Length=SIZE) + b"x")
        assert status(client.recv(1000)) == 404
        stopping.stop()
        assert seconds_until_reset(client, b"x", 0.02) < 1
