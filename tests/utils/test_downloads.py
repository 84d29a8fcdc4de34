"""Downloads from a server that drops connections, ignores ranges, changes files and sends wrong content."""

import hashlib
import random
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from vmae_det.checkpoint import read_checkpoint
from vmae_det.cli.main import main
from vmae_det.model_zoo import WEIGHTS, Weights
from vmae_det.utils import downloads
from vmae_det.utils.downloads import DownloadError, check_reachable, download
from vmae_det.utils.errors import UserError, WeightsError
from vmae_det.utils.paths import local_path

CONTENT = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `content` at every path, and records the requested `ranges`.

    `drop_after`: number of bytes after which each connection breaks. `status`: errors to answer with first.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag = CONTENT, '"first"'
        self.drop_after, self.supports_ranges, self.status = None, True, []
        self.ranges = []

    def url(self, path="weights/model.pt"):
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server, requested = self.server, self.headers.get("Range")
        server.ranges.append(requested)
        if server.status:
            return self.send_error(server.status.pop(0))
        start = 0
        if requested and server.supports_ranges and self.headers.get("If-Range", server.etag) == server.etag:
            start = int(requested.removeprefix("bytes=").removesuffix("-"))
            if start >= len(server.content):
                return self.send_error(416)
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header(
                "Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}"
            )
        if server.etag:
            self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.drop_after])
        return None


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("VMAE_DET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(downloads.time, "sleep", lambda _: None)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def files_next_to(path):
    return sorted(entry.name for entry in path.parent.iterdir() if not entry.name.endswith(".lock"))


def test_a_file_is_downloaded_once(server):
    path = download(server.url(), SHA256)
    assert path.read_bytes() == CONTENT
    assert path.name == "model.pt"
    assert files_next_to(path) == ["model.pt"]
    assert download(server.url(), SHA256) == path
    assert server.ranges == [None]
    # Another URL is another file.
    assert download(server.url("other/model.pt")) != path
    assert download(server.url("weights/model.pt?version=2")) != path


def test_a_dropped_connection_is_resumed(server, caplog):
    server.drop_after = 70_000
    path = download(server.url(), SHA256)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=70000-", "bytes=140000-", "bytes=210000-", "bytes=280000-"]
    assert "the connection broke after 70000 of 300000 bytes" in caplog.text


def test_a_later_run_resumes_the_download_of_an_earlier_one(server, monkeypatch):
    server.drop_after = 100_000
    monkeypatch.setattr(downloads.time, "sleep", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        download(server.url())
    server.drop_after = None
    path = download(server.url())
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-"]
    assert files_next_to(path) == ["model.pt"]


def test_a_file_that_changes_in_the_meantime_is_downloaded_from_the_start(server, monkeypatch):
    server.drop_after = 100_000

    def change(_):
        server.content, server.etag, server.drop_after = CONTENT[::-1], '"second"', None

    monkeypatch.setattr(downloads.time, "sleep", change)
    assert download(server.url()).read_bytes() == CONTENT[::-1]


def test_a_server_without_ranges(server, monkeypatch):
    server.supports_ranges, server.drop_after = False, 100_000
    monkeypatch.setattr(downloads.time, "sleep", lambda _: setattr(server, "drop_after", None))
    path = download(server.url(), SHA256)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-"]


def test_without_an_etag_a_partial_file_is_resumed_only_with_a_checksum(server):
    server.etag, server.drop_after = None, 100_000
    with pytest.raises(DownloadError, match="gave up after 5 attempts without progress"):
        download(server.url())
    assert set(server.ranges) == {None}
    assert download(server.url(), SHA256).read_bytes() == CONTENT


def test_a_server_that_never_sends_data(server):
    server.drop_after = 0
    with pytest.raises(
        DownloadError, match="the connection broke after 0 of 300000 bytes; gave up after 5 attempts"
    ):
        download(server.url(), SHA256)
    assert len(server.ranges) == 5


def test_wrong_content_is_removed(server, tmp_path):
    wrong = "0" * 64
    with pytest.raises(DownloadError, match=f"expected a file with SHA-256 {wrong}, got {SHA256}"):
        download(server.url(), wrong)
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert files == []


def test_a_damaged_file_in_the_cache_is_downloaded_again(server):
    path = download(server.url(), SHA256)
    path.write_bytes(CONTENT[:-1])
    assert download(server.url(), SHA256).read_bytes() == CONTENT


def test_a_partial_file_that_is_longer_than_the_file(server):
    path = download(server.url(), SHA256)
    path.rename(path.with_name("model.pt.part"))
    with path.with_name("model.pt.part").open("ab") as file:
        file.write(b"more")
    assert download(server.url(), SHA256).read_bytes() == CONTENT


def test_a_server_is_reachable_if_it_answers_once(server):
    check_reachable(server.url())  # also if it does not support HEAD
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/weights.pth"
        with pytest.raises(DownloadError, match=r"weights\.pth: no connection: .*refused"):
            check_reachable(url)


def test_a_busy_server_is_retried_and_a_missing_file_is_not(server):
    server.status = [503, 429]
    assert download(server.url(), SHA256).read_bytes() == CONTENT
    server.status, server.ranges = [404], []
    with pytest.raises(DownloadError, match="the server answered 404"):
        download(server.url("gone.pt"))
    assert len(server.ranges) == 1


def test_a_url_cannot_name_a_path_outside_the_cache(server, tmp_path):
    path = download(server.url("..%2F..%2Fetc/../%2e%2e/pass%20wd"))
    assert (tmp_path / "cache").resolve() in path.resolve().parents


def test_of_many_concurrent_requests_one_downloads(server):
    threads = [threading.Thread(target=download, args=(server.url(), SHA256)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.ranges == [None]


def test_invalid_urls(server):
    for url, expected in (
        ("http://127.0.0.1", "the URL does not name a file"),
        (server.url("a b"), "control char"),
    ):
        with pytest.raises(DownloadError, match=expected):
            download(url)


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DownloadError, match="cannot be written to"):
        download(server.url())


def test_unsupported_kinds_of_urls(server):
    with pytest.raises(UserError, match=r"s3://bucket/model\.pt: expected a file or an http"):
        local_path("s3://bucket/model.pt")
    with pytest.raises(UserError, match="64 hexadecimal digits"):
        local_path(server.url() + "#sha256=12")
    for digits in (SHA256.upper(), SHA256[:8]):
        assert local_path(server.url() + f"#sha256={digits}").read_bytes() == CONTENT


def test_weights_by_url_and_by_model_zoo_name(server, tmp_path, monkeypatch, capsys):
    torch.save({"model": {"weight": torch.ones(2)}}, tmp_path / "model.pt")
    server.content = (tmp_path / "model.pt").read_bytes()
    digest = hashlib.sha256(server.content).hexdigest()
    assert read_checkpoint(server.url())["model"]["weight"].tolist() == [1, 1]
    monkeypatch.setitem(WEIGHTS, "mine", Weights(server.url("zoo/mine.pt"), digest, "", ""))
    assert read_checkpoint("mine")["model"]["weight"].tolist() == [1, 1]
    monkeypatch.setitem(WEIGHTS, "wrong", Weights(server.url("zoo/wrong.pt"), "0" * 64, "", ""))
    with pytest.raises(WeightsError, match="expected a file with SHA-256"):
        read_checkpoint("wrong")
    with pytest.raises(WeightsError, match=r"no such checkpoint file or model zoo name.*did you mean 'mine'"):
        read_checkpoint("mien")
    assert main(["convert", server.url(), str(tmp_path / "out.pt"), "--to", "videomae"]) == 2
    assert "the parameter names match no known format" in capsys.readouterr().err
