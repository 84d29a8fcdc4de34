"""`vmae-det detect` with inputs that are interrupted, removed, changed, truncated or endless."""

import io
import json
import os
import signal
import socket
import struct
import threading
import time
from contextlib import contextmanager, suppress
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from numbered_videos import Recipe, numbered_frame, numbers, write_numbered, x264
from PIL import Image
from test_detect import detect, make, weights, written  # noqa: F401 - fixtures

from vmae_det.formats.ava_csv import read_action_csv
from vmae_det.inference.detect_persons import videos_from_paths
from vmae_det.inference.features import open_finite_source
from vmae_det.rendering import detect_video
from vmae_det.utils.errors import DataError
from vmae_det.video import sources
from vmae_det.video.readers import open_video
from vmae_det.video.sources import is_endless, is_live, open_source, video_id

SECONDS = 16  # long enough that most of it remains after three keyframes


@pytest.fixture
def at_third(monkeypatch):
    """at_third(action): call `action` once, after three keyframes are written."""

    def arrange(action):
        update, count = detect_video._ProgressBar.update, iter(range(10**6))

        def update_and_act(self, time):
            update(self, time)
            if next(count) == 2:
                action()

        monkeypatch.setattr(detect_video._ProgressBar, "update", update_and_act)

    return arrange


def keyframes(path):
    return [json.loads(line)["timestamp"] for line in path.open()]


def assert_complete(out, name, fewest=3):
    """Assert that all files of a video are complete and have the same keyframes; return their times."""
    times = keyframes(out / f"{name}.jsonl")
    assert len(times) >= fewest
    rows = read_action_csv(out / f"{name}.csv", kind="detections")
    assert sorted(set(rows.timestamp.tolist())) == times
    drawn = open_video(out / f"{name}_actions.mp4")
    assert len(list(drawn.stream())) == len(drawn)
    return times


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_the_results_so_far(tmp_path, detect, at_third, number):  # noqa: F811
    video = make(tmp_path / "v", count=25 * SECONDS, size=(64, 64))
    at_third(lambda: os.kill(os.getpid(), number))
    status, printed = detect(video)
    assert status == 128 + number
    assert printed.err.count("interrupted at second") == 1
    times = assert_complete(tmp_path / "out", "v")
    assert times == [0.5 * k for k in range(len(times))]
    assert len(times) < 2 * SECONDS
    drawn = open_video(tmp_path / "out/v_actions.mp4")
    assert len(drawn) < 25 * SECONDS
    # The second run does not skip it.
    assert detect(video, "--format", "jsonl", "--end", 10)[0] == 0
    assert len(keyframes(tmp_path / "out/v.jsonl")) == 21
    status, printed = detect(video, "--format", "jsonl")
    assert "Skipping 1 of 1 videos already done" in printed.out


def test_a_video_that_is_removed(tmp_path, detect, at_third):  # noqa: F811
    video = make(tmp_path / "v", count=25 * SECONDS, size=(64, 64))
    at_third(video.unlink)
    status, printed = detect(video, "--html")
    assert status == 2  # because of the page
    assert printed.err.count("no such video file") == 1
    assert len(assert_complete(tmp_path / "out", "v")) == 2 * SECONDS  # the file was open


@pytest.mark.parametrize("suffix", [".ts", ".mp4", ".mpg"])
@pytest.mark.parametrize("change", ["grows", "is cut"])
def test_a_video_that_changes(tmp_path, detect, at_third, suffix, change, caplog):  # noqa: F811
    coding = {"codec": "mpeg2video", "options": {"g": "12", "bf": "2"}} if suffix == ".mpg" else {}
    video = make(tmp_path / "v", count=25 * SECONDS, size=(64, 64), suffix=suffix, **coding)
    data = video.read_bytes()

    def alter():
        with video.open("r+b") as file:
            file.truncate(len(data) // 2)
            if change == "grows":
                file.seek(0)
                file.write(data + data)

    at_third(alter)
    status, printed = detect(video)
    assert status == 0
    assert "changed while it was read" in printed.out + printed.err
    times = assert_complete(tmp_path / "out", "v")
    assert times == [0.5 * k for k in range(len(times))]
    if change == "grows":
        assert len(times) == 2 * SECONDS
    assert (tmp_path / "out/.v.unfinished").exists()


@contextmanager
def serve(answer):
    """Serve every request with answer(handler, write); yield the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            with suppress(OSError):  # the client has disconnected
                answer(self, self.wfile.write)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_lost_connection(tmp_path, detect):  # noqa: F811
    data = make(tmp_path / "v", count=25 * SECONDS, size=(64, 64), suffix=".mkv").read_bytes()

    def half(handler, write):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        write(data[: len(data) // 2])

    with serve(half) as url:
        status, printed = detect(f"{url}/far.mkv")
        assert status == 0
        assert "the rest of the video is skipped" in printed.out + printed.err
        times = assert_complete(tmp_path / "out", "far")
        assert SECONDS / 4 < times[-1] < SECONDS
        assert "already done" not in detect(f"{url}/far.mkv")[1].out


def test_an_index_at_the_end_without_range_requests(tmp_path, monkeypatch):
    monkeypatch.setenv("VMAE_DET_CACHE", str(tmp_path / "cache"))
    coding = {"codec": "mjpeg", "pix_fmt": "yuvj420p", "size": (640, 480)}
    data = make(tmp_path / "v", count=20, **coding).read_bytes()
    assert data.index(b"moov") > 100_000  # bytes that FFmpeg does not keep

    def whole(handler, write):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        write(data)

    with serve(whole) as url:
        assert [frame.index for frame in open_source(f"{url}/v.mp4").frames()] == list(range(20))


def mjpeg(handler, write):
    """A camera that sends a picture every 20 ms, without timestamps and without an end."""
    handler.send_response(200)
    handler.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
    handler.end_headers()
    for number in range(10_000):
        picture = io.BytesIO()
        Image.fromarray(numbered_frame(number, 96, 64)).save(picture, "JPEG")
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {picture.tell()}\r\n\r\n"
        write(head.encode() + picture.getvalue() + b"\r\n")
        time.sleep(0.02)


def test_a_camera_with_mjpeg_over_http(tmp_path, detect, at_third):  # noqa: F811
    at_third(lambda: os.kill(os.getpid(), signal.SIGINT))
    with serve(mjpeg) as url:
        begin = time.monotonic()
        status, printed = detect(f"{url}/camera", "--smooth", 0)
        passed = time.monotonic() - begin
    assert status == 0
    assert "read as a live stream" in printed.out + printed.err
    times = assert_complete(tmp_path / "out", "camera")
    assert 1 <= times[-1] <= passed
    drawn = open_video(tmp_path / "out/camera_actions.mp4")
    assert drawn.times[-1] <= passed


def test_commands_for_whole_videos_do_not_download_a_stream(tiny_cfg):
    with serve(mjpeg) as url:
        assert is_endless(f"{url}/camera")
        with pytest.raises(DataError, match="a live stream"):
            open_finite_source(f"{url}/camera", tiny_cfg("finetune"))
        with pytest.raises(DataError, match="a live stream"):
            videos_from_paths([f"{url}/camera"], 0.0, 1.0)
    assert not is_endless(f"{url}/camera")  # no connection: the download reports it


class UdpCamera(threading.Thread):
    """An RTSP server that refuses TCP with status 461 and sends a transport stream over UDP."""

    def __init__(self, data):
        super().__init__(daemon=True)
        self._data, self.refused = data, 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"rtsp://127.0.0.1:{self._listening.getsockname()[1]}/camera"
        self.start()

    def run(self):
        while True:
            connection, _ = self._listening.accept()
            with connection, connection.makefile("rb") as requests, suppress(OSError):
                self._answer(connection, requests)

    def _answer(self, connection, requests):
        port = None
        while line := requests.readline().decode():
            method, head = line.split(" ")[0], {}
            while (field := requests.readline().decode().strip()) != "":
                key, _, value = field.partition(": ")
                head[key.lower()] = value
            status, more, body = "200 OK", "", ""
            if method == "DESCRIBE":
                body = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\n"
                body += "m=video 0 RTP/AVP 33\r\na=control:v\r\n"
                more = "Content-Type: application/sdp\r\n"
            if method == "SETUP":
                if "TCP" in head["transport"]:
                    self.refused += 1
                    status = "461 Unsupported Transport"
                else:
                    port = int(head["transport"].split("client_port=")[1].split("-")[0])
                    more = f"Transport: {head['transport']};server_port=50000-50001\r\nSession: 1\r\n"
            more += f"CSeq: {head['cseq']}\r\nContent-Length: {len(body)}\r\n"
            connection.sendall(f"RTSP/1.0 {status}\r\n{more}\r\n{body}".encode())
            if method == "PLAY":
                threading.Thread(target=self._send, args=(port,), daemon=True).start()

    def _send(self, port):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for number, start in enumerate(range(0, len(self._data), 7 * 188)):
                head = struct.pack(">BBHII", 0x80, 33, number & 0xFFFF, number * 900, 1)
                sender.sendto(head + self._data[start : start + 7 * 188], ("127.0.0.1", port))
                time.sleep(0.002)


def test_a_camera_that_only_supports_udp(tmp_path):
    recipe = Recipe(suffix=".ts", count=200, options=x264(keyint=12, bframes=0))
    camera = UdpCamera(write_numbered(tmp_path / "v", recipe).read_bytes())
    source = open_source(camera.address)
    assert source.live
    frames = [frame for frame, _ in zip(source.frames(), range(20))]
    source.close()
    assert camera.refused
    found = numbers([frame.image for frame in frames])
    assert found == sorted(found)
    assert found[0] >= 0


def test_a_file_whose_name_is_a_number(tmp_path, detect, monkeypatch):  # noqa: F811
    make(tmp_path / "v").rename(tmp_path / "20240101")
    monkeypatch.chdir(tmp_path)
    assert not is_live("20240101")
    assert is_live("20240102")
    assert video_id("20240101") == "20240101"
    assert detect("20240101", "--format", "jsonl")[0] == 0
    assert written(tmp_path) == ["20240101.jsonl"]
    status, printed = detect("2" * 30)
    assert status == 2
    assert "no such camera" in printed.err


def test_non_square_pixels_over_http(tmp_path):
    recipe = Recipe(suffix=".mkv", count=10, options=x264(keyint=12), aspect=Fraction(3, 2))
    data = write_numbered(tmp_path / "v", recipe).read_bytes()

    def send_all(handler, write):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        write(data)

    with serve(send_all) as url:
        frames = list(open_source(f"{url}/v.mkv").frames())
    assert numbers([frame.image for frame in frames]) == list(range(10))
    assert frames[0].image.shape == (64, 144, 3)


def test_an_url_with_an_empty_response(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_TIMEOUTS", (2.0, 2.0))
    with serve(lambda handler, write: None) as url, pytest.raises(DataError, match="cannot be read"):
        open_source(f"{url}/nothing.ts")


def test_non_square_pixels_in_the_overlay(tmp_path, detect):  # noqa: F811
    video = make(tmp_path / "v", size=(64, 64), aspect=Fraction(3, 2))
    assert detect(video, "--html", "--threshold", 1)[0] == 0
    drawn = open_video(tmp_path / "out/v_actions.mp4")
    assert drawn.frames([0]).shape == (1, 64, 96, 3)
    box = json.loads((tmp_path / "out/v.jsonl").open().readline())["people"][0]["box"]
    assert box == [0, 0, 1, 1]
    assert (tmp_path / "out/v.html").exists()
