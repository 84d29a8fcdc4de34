import http.client
import os
import signal
import socket
import threading
import time
from contextlib import ExitStack

import pytest
from running import running as run_server
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route

from vmae_det.utils.errors import UserError
from vmae_det.web.errors import EXCEPTION_HANDLERS, RequestError, read_json
from vmae_det.web.server import LocalServer, lock_file
from vmae_det.web.static import PageFiles


async def endless(request):
    async def lines():
        import asyncio

        while True:
            yield b"data: x\n\n"
            await asyncio.sleep(0.05)

    return StreamingResponse(lines())


def application(**routes):
    async def hello(request):
        return PlainTextResponse("hello")

    return Starlette(
        routes=[Route("/", hello), Route("/events", endless), *routes.get("more", ())],
        exception_handlers=EXCEPTION_HANDLERS,
    )


@pytest.fixture
def running():
    """Return a function that runs an application on a free port, and returns the server."""
    with ExitStack() as stack:
        yield lambda app, **options: stack.enter_context(run_server(app, **options))


def get(server, path="/", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    return response.status, response.read(), dict(response.getheaders())


def test_a_server_answers_on_a_free_port(running):
    server = running(application())
    assert server.address == f"http://127.0.0.1:{server.port}/"
    status, body, headers = get(server)
    assert (status, body) == (200, b"hello")
    assert "server" not in {name.lower() for name in headers}
    assert get(server, Host="evil.example")[0] == 421


def test_a_taken_port_is_one_clear_error():
    with (
        LocalServer() as server,
        pytest.raises(UserError, match="used by another program; choose another --port"),
    ):
        LocalServer(port=server.port)


@pytest.mark.parametrize("host", ["no such host", "203.0.113.1"])
def test_an_address_of_no_interface_is_an_error(host):
    with pytest.raises(UserError, match="no address of this machine"):
        LocalServer(host=host)


def test_a_server_that_others_can_reach_has_a_token(running):
    server = running(application(), host="0.0.0.0")
    assert len(server.token) >= 32
    assert server.address.endswith(f":{server.port}/?token={server.token}")
    assert get(server)[0] == 401
    assert get(server, Authorization=f"Bearer {server.token}")[0] == 200
    with LocalServer(with_token=True) as local:
        assert local.token not in (None, server.token)


def test_open_event_streams_do_not_keep_the_server_alive():
    server, ready = LocalServer(), threading.Event()
    thread = threading.Thread(
        target=server.run, args=(application(),), kwargs={"announce": lambda _: ready.set()}
    )
    thread.start()
    assert ready.wait(10)
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(10)
        begin = time.monotonic()
        server.stop()
        thread.join(5)
        assert time.monotonic() - begin < 2.5
    assert not thread.is_alive()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_returns_on_a_signal(number):
    with LocalServer() as server:
        server.run(application(), announce=lambda _: os.kill(os.getpid(), number))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_the_address_is_printed_once_with_the_way_to_stop(capsys):
    with LocalServer(with_token=True) as server:
        threading.Timer(1.0, server.stop).start()
        server.run(application())
    output = capsys.readouterr().out
    assert output.splitlines() == [f"open {server.address}", "stop with Ctrl-C"]


def test_a_lock_is_held_once_and_freed(tmp_path):
    path = tmp_path / "x.lock"
    for _ in range(2):
        with lock_file(path, "data"), pytest.raises(UserError, match="data is open in another vmae-det"):
            lock_file(path, "data").__enter__()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"), lock_file(tmp_path / "file" / "x.lock", "data"):
        pass


def test_page_files_have_their_type_and_are_asked_for_again(running, tmp_path):
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / "main.js").write_text("1")
    (folder / "secret.py").write_text("2")
    (tmp_path / "outside.js").write_text("3")
    server = running(application(more=[Mount("/static", PageFiles(folder))]))
    status, body, headers = get(server, "/static/main.js")
    assert (status, body, headers["content-type"]) == (200, b"1", "text/javascript; charset=utf-8")
    assert headers["cache-control"] == "no-cache"
    assert get(server, "/static/main.js", **{"If-None-Match": headers["etag"]})[0] == 304
    for path in (
        "/static/secret.py",
        "/static/../outside.js",
        "/static/..%2Foutside.js",
        "/static/",
        "/static/%00.js",
    ):
        assert get(server, path)[0] == 404, path


def test_errors_are_json_with_one_sentence(running, caplog):
    async def refuse(request):
        raise RequestError(409, "the video\nhas changed", revision=3)

    async def user_error(request):
        raise UserError("x.csv: no such file")

    async def bug(request):
        raise KeyError("secret")

    async def body(request):
        await read_json(request)

    routes = [Route(f"/{one.__name__}", one) for one in (refuse, user_error, bug, body)]
    server = running(application(more=routes))
    assert get(server, "/refuse")[:2] == (409, b'{"error":"the video has changed","revision":3}')
    assert get(server, "/user_error")[:2] == (422, b'{"error":"x.csv: no such file"}')
    assert get(server, "/body")[0] == 415
    assert get(server, "/body", **{"Content-Type": "application/json"})[0] == 400
    assert get(server, "/nowhere")[:2] == (404, b'{"error":"no such address: /nowhere"}')
    status, content, _ = get(server, "/bug")
    assert status == 500
    assert b"secret" not in content
    assert "KeyError" in caplog.text
