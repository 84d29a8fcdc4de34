"""The overlay that is drawn while keyframes are scored: what frames wait for, and for how long."""

import os
import signal
import time
from fractions import Fraction

import numpy as np
import pytest
from numbered_videos import Recipe, numbered_frame, numbers, write_numbered, x264

from vmae_det.formats.label_map import LabelMap
from vmae_det.inference.keyframe_clips import plan_keyframes
from vmae_det.inference.person_sources import PersonSource
from vmae_det.inference.stream import ActionStream, StreamOptions
from vmae_det.rendering import overlay_writer
from vmae_det.rendering.detect_video import _Interrupts, _write_all
from vmae_det.rendering.overlay_writer import OverlayStyle, OverlayWriter
from vmae_det.utils.errors import DataError
from vmae_det.video.readers import open_video
from vmae_det.video.sources import FileSource, LiveSource

LABELS = LabelMap((1,), ("wave",), ("PERSON_MOVEMENT",))
SIZE = (192, 144)


class Falling(PersonSource):
    """A person who is lower in the picture at each keyframe; black where numbers do not reach."""

    def __call__(self, time, frame):
        top = 60 + 10 * time
        return np.array([[96, top, 140, top + 40]], dtype=np.float32), np.ones(1)


@pytest.fixture
def cfg(tiny_cfg):
    return tiny_cfg("detect", "INPUT.NUM_FRAMES", 8, "INPUT.SAMPLING_RATE", 3)


@pytest.fixture
def video(tmp_path):
    return write_numbered(tmp_path / "v", Recipe(count=100, size=SIZE, options=x264(keyint=25)))


def score(found):
    time.sleep(0.005)
    return [np.full((len(item.boxes), 1), 0.9) for item in found]


def draw(path, video, cfg, every=0.5, before_write=lambda writer, result: None, **options):
    """Stream a video into an overlay; the writer."""
    source, options = FileSource(open_video(video)), StreamOptions(**options)
    plan = plan_keyframes(source, cfg, None, every)
    stream = ActionStream(source, plan, Falling(), score, cfg, options)
    with OverlayWriter(path, source, LABELS, every, OverlayStyle(), overlap=options.overlap) as writer:
        stream.sink = writer
        with stream:
            for result in stream:
                before_write(writer, result)
                writer.write(result)
    return writer


def lowest(frames):
    """The lowest line of each frame's box, which is the only thing of its colour."""
    blue = (frames[..., 2].astype(int) - frames[..., 0] > 40).any(axis=2)
    return np.array([np.flatnonzero(lines).max() if lines.any() else -1 for lines in blue])


@pytest.mark.parametrize("options", [{}, {"overlap": False}, {"smooth": 2.0}])
def test_every_frame_is_there_with_the_box_of_its_moment(tmp_path, video, cfg, options):
    draw(tmp_path / "drawn.mp4", video, cfg, **options)
    frames = open_video(tmp_path / "drawn.mp4").frames(np.arange(100))
    times = np.arange(100) / 25
    assert len(open_video(tmp_path / "drawn.mp4")) == 100
    expected = 100 + 10 * times.clip(max=3.5)
    drawn = times <= 3.75  # a quarter of a second after the last keyframe
    np.testing.assert_allclose(lowest(frames)[drawn], expected[drawn], atol=2.5)
    assert (lowest(frames)[~drawn] == -1).all()


@pytest.mark.parametrize("smooth", [0.0, 2.0])
def test_frames_wait_for_what_they_need_and_no_longer(tmp_path, video, cfg, monkeypatch, smooth):
    """With room for one frame, those that wait are those without whose successors no keyframe is known."""
    monkeypatch.setattr(overlay_writer, "_WAITING_BYTES", 1)
    most = []
    draw(
        tmp_path / "drawn.mp4",
        video,
        cfg,
        before_write=lambda writer, result: most.append(len(writer._frames)),
        smooth=smooth,
    )
    assert len(open_video(tmp_path / "drawn.mp4")) == 100
    # To the end of the next keyframe's clip are 12 + 9 frames; smoothing waits for two more keyframes.
    assert max(most) <= 30 + (25 if smooth else 0)


def test_keyframes_that_are_far_apart(tmp_path, video, cfg, monkeypatch):
    monkeypatch.setattr(overlay_writer, "_WAITING_BYTES", 1)
    draw(tmp_path / "drawn.mp4", video, cfg, every=3.5)
    frames = open_video(tmp_path / "drawn.mp4").frames(np.arange(100))
    assert np.flatnonzero(lowest(frames) == -1).tolist() == [*range(26, 63)]  # over a second from either


def test_an_error_while_drawing_ends_the_stream_and_leaves_nothing(tmp_path, video, cfg, monkeypatch):
    def fail(*args, **kwargs):
        raise DataError("cannot draw")

    monkeypatch.setattr(overlay_writer, "draw_people", fail)
    monkeypatch.setattr(overlay_writer, "_WAITING_BYTES", 1)
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="cannot draw"):
        draw(tmp_path / "out" / "drawn.mp4", video, cfg)
    assert list((tmp_path / "out").iterdir()) == []


def test_leaving_the_stream_leaves_nothing(tmp_path, video, cfg, monkeypatch):
    monkeypatch.setattr(overlay_writer, "_WAITING_BYTES", 1)

    def leave(writer, result):
        raise KeyboardInterrupt

    (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path / "out" / "drawn.mp4", video, cfg, before_write=leave)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_interrupt_completes_the_files_of_a_live_stream(tmp_path, cfg):
    """As Ctrl-C does, at some moment in the main thread."""

    def images():
        for number in range(10_000):
            time.sleep(0.001)
            yield numbered_frame(number, *SIZE)

    source = LiveSource(images(), Fraction(100))
    stream = ActionStream(
        source, plan_keyframes(source, cfg, None, 0.1), Falling(), score, cfg, StreamOptions()
    )

    class Impatient:
        count = 0

        def update(self, time):
            self.count += 1
            if self.count == 3:
                os.kill(os.getpid(), signal.SIGINT)

    with OverlayWriter(tmp_path / "live.mp4", source, LABELS, 0.1, OverlayStyle()) as writer:
        stream.sink = writer
        with _Interrupts(stream) as interrupts, stream:
            _write_all(stream, [writer], Impatient())
    assert interrupts.received == signal.SIGINT
    drawn = open_video(tmp_path / "live.mp4")
    assert len(drawn) > 5
    found = numbers(drawn.frames(np.arange(5)))
    assert found == sorted(found)
