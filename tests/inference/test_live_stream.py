"""Live sources (a simulated camera with its own clock) and URLs."""

import functools
import http.server
import threading
import time
from fractions import Fraction

import numpy as np
import pytest
from numbered_videos import Recipe, numbered_frame, numbers, write_numbered, x264

from vmae_det.formats.label_map import LabelMap
from vmae_det.inference.keyframe_clips import plan_keyframes
from vmae_det.inference.person_sources import WholeFramePerson
from vmae_det.inference.stream import ActionStream, StreamOptions
from vmae_det.rendering.overlay_video import OverlayStyle, OverlayWriter
from vmae_det.utils.errors import DataError
from vmae_det.video.readers import open_video
from vmae_det.video.sources import Frame, LiveSource, open_source, video_id

RATE = 50
LABELS = LabelMap((1,), ("wave",), ("PERSON_MOVEMENT",))


class Clock:
    """A clock that only the camera advances."""

    def __init__(self):
        self.seconds = 1000.0

    def __call__(self):
        return self.seconds


def camera(clock, count, wait=lambda number: None):
    """Yield numbered frames; `wait` is called with the number of each before it arrives."""
    for number in range(count):
        wait(number)
        clock.seconds = 1000 + number / RATE
        yield numbered_frame(number, 96, 64)


def until(condition):
    """Wait until another thread fulfills a condition."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.fixture
def cfg(tiny_cfg):
    return tiny_cfg("detect", "INPUT.NUM_FRAMES", 4, "INPUT.SAMPLING_RATE", 2)


def test_unread_frames_are_dropped_and_counted():
    clock, all_in = Clock(), threading.Event()

    def images():
        yield from camera(clock, 100)
        all_in.set()

    source = LiveSource(images(), Fraction(RATE), clock=clock)
    frames = source.frames()
    first = next(frames)
    assert all_in.wait(20)
    left = list(frames)
    found = [first, *left]
    assert [frame.index for frame in found] == numbers([frame.image for frame in found])
    assert found[-1].index == 99
    assert len(found) <= 6
    assert source.dropped == 100 - len(found)


def test_slow_model_drops_keyframes_to_keep_latency_low(cfg):
    """The model takes three seconds for one keyframe; a keyframe arrives every 0.2 s."""
    clock, busy, go_on = Clock(), threading.Event(), threading.Event()
    calls = []

    def slow(found):
        calls.append(found[0].clip.time)
        busy.set()
        assert go_on.wait(20)
        return [np.zeros((1, 1))]

    def wait(number):
        if number == 20:  # the first keyframe is being scored until three seconds have passed
            until(busy.is_set)
        if number > 20 and number % 10 == 0:
            time.sleep(0.02)
        if number == 170:
            go_on.set()
            until(lambda: len(calls) > 1)

    source = LiveSource(camera(clock, 200, wait), Fraction(RATE), clock=clock)
    plan = plan_keyframes(source, cfg, None, 0.2)
    with ActionStream(source, plan, WholeFramePerson(), slow, cfg, StreamOptions()) as stream:
        results = list(stream)
    # The next result is that of the newest keyframe; those that waited in between were dropped.
    assert results[0].time < 0.5
    assert results[1].time >= 3.0
    assert stream.dropped_keyframes >= 12
    assert len(results) + stream.dropped_keyframes <= 20
    assert all(result.latency is not None for result in results)
    assert results[-1].latency < 1.5


def test_live_overlay_does_not_wait_longer_than_its_limit(tmp_path):
    clock = Clock()
    source = LiveSource([], Fraction(RATE), clock=clock)
    source._started = 1000.0
    with OverlayWriter(tmp_path / "live.mp4", source, LABELS, 1.0, OverlayStyle()) as writer:
        for number in range(100):
            clock.seconds = 1000 + number / RATE
            writer.frame(Frame(number, number / RATE, numbered_frame(number, 96, 64)), 50.0)
        time.sleep(0.2)
        assert writer.drawn == 0  # all frames still wait for the keyframe at 50 s
        clock.seconds = 1003.0
        until(lambda: writer.drawn >= 0.95)
    assert len(open_video(tmp_path / "live.mp4")) == 100


def test_overlay_of_live_source_drops_frames_when_its_buffer_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr("vmae_det.rendering.overlay_video._QUEUE_BYTES", 10 * 96 * 64 * 3)
    source = LiveSource([], Fraction(RATE), clock=Clock())
    source._started = 1000.0
    with OverlayWriter(tmp_path / "live.mp4", source, LABELS, 1.0, OverlayStyle()) as writer:
        for number in range(30):
            writer.frame(Frame(number, number / RATE, numbered_frame(number, 96, 64)), 50.0)
        assert writer.dropped == 20
    assert len(open_video(tmp_path / "live.mp4")) == 10


def test_live_source_ends_when_it_is_closed(cfg):
    clock, silent = Clock(), threading.Event()

    def images():
        yield from camera(clock, 60)
        silent.set()
        threading.Event().wait(30)  # no further frames arrive

    source = LiveSource(images(), Fraction(RATE), clock=clock)
    plan = plan_keyframes(source, cfg, None, 0.2)
    with ActionStream(
        source, plan, WholeFramePerson(), lambda f: [np.zeros((1, 1))], cfg, StreamOptions()
    ) as stream:
        next(stream)
        assert silent.wait(20)
        source.close()
        list(stream)


class _Slow(http.server.SimpleHTTPRequestHandler):
    """Serves entire files in small pieces; does not support range requests."""

    def copyfile(self, source, outputfile):
        while piece := source.read(4000):
            outputfile.write(piece)
            time.sleep(0.002)

    def log_message(self, *args):
        pass


@pytest.fixture
def served(tmp_path):
    handler = functools.partial(_Slow, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_url_yields_the_frames_of_the_file(served, tmp_path):
    options = x264(keyint=12) | {"movflags": "+faststart"}
    path = write_numbered(tmp_path / "far away", Recipe(suffix=".mkv", count=60, options=options))
    source = open_source(f"{served}/far%20away.mkv")
    assert source.video_id == "far_away"
    assert not source.live
    frames, file = list(source.frames()), open_source(path)
    assert [frame.index for frame in frames] == numbers([frame.image for frame in frames]) == list(range(60))
    np.testing.assert_allclose([frame.time for frame in frames], file.times)
    for frame, other in zip(frames, file.frames()):
        np.testing.assert_array_equal(frame.image, other.image)


def test_file_with_its_index_at_the_end_is_downloaded_first(served, tmp_path, monkeypatch):
    monkeypatch.setenv("VMAE_DET_CACHE", str(tmp_path / "cache"))
    path = write_numbered(tmp_path / "late", Recipe(count=60, options=x264(keyint=12)))
    assert path.read_bytes().index(b"moov") > path.read_bytes().index(b"mdat")
    source = open_source(f"{served}/late.mp4")
    frames = list(source.frames())
    assert [frame.index for frame in frames] == numbers([frame.image for frame in frames]) == list(range(60))
    assert source.video_id == "late"


def test_file_without_reliable_times_is_downloaded_first(served, tmp_path, monkeypatch):
    """In AVI, FFmpeg returns wrong times after frames that the camera dropped."""
    monkeypatch.setenv("VMAE_DET_CACHE", str(tmp_path / "cache"))
    stamps = [*range(20), *range(40, 60)]
    recipe = Recipe(suffix=".avi", options=x264(keyint=12, bframes=2), stamps=stamps)
    write_numbered(tmp_path / "camera", recipe)
    frames = list(open_source(f"{served}/camera.avi").frames())
    assert numbers([frame.image for frame in frames]) == list(range(40))
    np.testing.assert_allclose([frame.time for frame in frames], np.array(stamps) / 25, atol=1e-3)


def test_urls_without_a_video(served, tmp_path):
    (tmp_path / "page.html").write_text("<p>no video")
    for name in ("page.html", "missing.mp4"):
        with pytest.raises(DataError, match=f"{served}/{name}: cannot be read: "):
            open_source(f"{served}/{name}")
    with pytest.raises(DataError, match="cannot be read"):
        open_source("rtsp://127.0.0.1:9/none")


def test_video_ids():
    assert video_id("https://host/a/b%2Fc;d.mp4?x=1#y") == "c_d"
    assert video_id("rtsp://camera.local:554") == "camera.local"
    assert video_id("0") == "camera_0"
    assert video_id("some/frames/img_%05d.jpg") == "frames"
    assert video_id("some/clip.v2.mp4") == "clip.v2"
