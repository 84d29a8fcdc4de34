"""Overlay videos: frames keep their orientation and times, and are drawn while keyframes are scored."""

import logging
import os
import signal
import time
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
from numbered_videos import Recipe, numbered_frame, numbers, write_numbered, x264
from PIL import Image

from vmae_det.formats.label_map import LabelMap
from vmae_det.inference.detections import ActionDetections
from vmae_det.inference.keyframe_clips import plan_keyframes
from vmae_det.inference.person_sources import PersonSource
from vmae_det.inference.stream import ActionStream, StreamOptions
from vmae_det.rendering import overlay_video
from vmae_det.rendering.detect_video import _InterruptHandler, _write_results
from vmae_det.rendering.overlay_video import OverlayStyle, OverlayWriter, write_overlay
from vmae_det.utils.errors import DataError
from vmae_det.video.probe import probe_video
from vmae_det.video.readers import open_video
from vmae_det.video.sources import FileSource, LiveSource

LABELS = LabelMap((1,), ("wave",), ("PERSON_MOVEMENT",))
SIZE = (480, 288)  # width and height in the file
BOX = (0.25, 0.75, 0.5, 1.0)  # second block of the last row: bit 10 of the frame number, black in all frames
VARIABLE = np.cumsum(np.random.default_rng(0).integers(8, 90, 40)) + 100  # ms; starts late, 8 to 89 ms apart

needs_matrices = pytest.mark.skipif(
    not hasattr(av.VideoStream, "set_display_rotation"), reason="requires PyAV 18.1 to write display matrices"
)


def detect(video):
    """Detections of a person in BOX for the first two seconds."""
    return ActionDetections(
        video=video,
        video_start=900.0,
        timestamp=np.array([900.0, 901.0, 902.0]),
        boxes=np.array([BOX] * 3),
        person_scores=np.ones(3),
        scores=np.full((3, 1), 0.9),
        label_map=LABELS,
    )


def stored_frames(path):
    """Return times and frames as stored; the file has no display matrix."""
    with av.open(str(path)) as file:
        frames = list(file.decode(video=0))
    assert not any("DISPLAYMATRIX" in str(data.type) for frame in frames for data in frame.side_data)
    return np.array([frame.time for frame in frames]), [frame.to_ndarray(format="rgb24") for frame in frames]


def blue(frame):
    """Return where a frame has the color of a drawn box, (H, W)."""
    return frame[:, :, 2].astype(int) - frame[:, :, 0] > 40


def is_drawn(frame, box=BOX):
    """Whether the gray frame has a drawn box there and nowhere else."""
    height, width = frame.shape[:2]
    x1, y1, x2, y2 = (np.array(box) * (width, height, width, height)).round().astype(int)
    drawn = blue(frame)
    sides = (
        drawn[y1 - 1 : y1 + 2, x1:x2].any(axis=0),
        drawn[y1:y2, x1 - 1 : x1 + 2].any(axis=1),
        drawn[y1:y2, x2 - 1 : x2 + 2].any(axis=1),
    )
    label = (30, 110)  # pixels above the box, and from its left side
    elsewhere = drawn.sum() - drawn[y1 - label[0] : y2 + 2, x1 - 2 : max(x2 + 2, x1 + label[1])].sum()
    return np.concatenate(sides).mean() > 0.95 and not elsewhere


@needs_matrices
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_boxes_are_drawn_on_upright_frames(tmp_path, rotation, mirrored):
    options = x264(keyint=12, bframes=2)
    recipe = Recipe(size=SIZE, count=40, rotation=rotation, mirrored=mirrored, options=options)
    video = write_numbered(tmp_path / "phone", recipe)
    times, frames = stored_frames(write_overlay(detect(video), tmp_path / "drawn.mp4"))
    upright = SIZE[::-1] if rotation % 180 else SIZE
    assert {frame.shape for frame in frames} == {(upright[1], upright[0], 3)}
    assert numbers(frames) == numbers(open_video(video).frames(np.arange(40))) == list(range(40))
    np.testing.assert_allclose(times, np.arange(40) / recipe.rate, atol=1e-6)
    assert all(is_drawn(frame) for frame in frames)
    for decode in ("ends", "all"):
        facts = probe_video(str(video), decode)
        assert (facts.width, facts.height, facts.problem) == (*upright, "")


@needs_matrices
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_frame_rate_keeps_the_times_of_frames(tmp_path, suffix):
    recipe = Recipe(suffix=suffix, size=SIZE, rotation=90, stamps=VARIABLE, time_base=Fraction(1, 1000))
    video = write_numbered(tmp_path / "phone", recipe)
    detections = detect(video)
    detections.boxes[1:] += (0.0, -0.125, 0.0, -0.125)  # moves up within the first second
    times, frames = stored_frames(write_overlay(detections, tmp_path / "drawn.mp4"))
    truth = (VARIABLE - VARIABLE[0]) / 1000
    np.testing.assert_allclose(times, truth, atol=2e-4)
    # Boxes are interpolated by the times of the frames, not by their numbers.
    lowest = [np.flatnonzero(blue(frame).any(axis=1)).max() for frame in frames]
    np.testing.assert_allclose(lowest, 480 * (1 - 0.125 * truth.clip(max=1)), atol=3)


def test_memory_does_not_depend_on_the_length_of_the_video(tmp_path):
    peaks = []
    for count in (30, 180):
        video = write_numbered(tmp_path / "phone", Recipe(size=SIZE, count=count, options=x264(keyint=250)))
        detections = detect(video)
        tracemalloc.start()
        write_overlay(detections, tmp_path / "drawn.mp4")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 4 * SIZE[0] * SIZE[1] * 3


def test_damaged_frames_are_replaced_by_the_previous_frame(tmp_path, caplog):
    video = write_numbered(
        tmp_path / "phone", Recipe(size=SIZE, count=40, options=x264(keyint=10, bframes=0))
    )
    with av.open(str(video)) as file:
        offset, size = [(p.pos, p.size) for p in file.demux(video=0) if p.size][25]
    data = bytearray(video.read_bytes())
    data[offset + 4 : offset + size] = bytes(b ^ 0xFF for b in data[offset + 4 : offset + size])
    video.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        times, frames = stored_frames(write_overlay(detect(video), tmp_path / "drawn.mp4"))
    assert numbers(frames) == [*range(25), *range(30, 40)]
    np.testing.assert_allclose(times * 25, numbers(frames), atol=1e-3)
    assert f"{video}: 5 frames are damaged" in caplog.text


def test_a_folder_of_frames(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    (folder / "rate.txt").write_text("10")
    for number in range(6):
        Image.fromarray(numbered_frame(number, *SIZE)).save(folder / f"{number}.png")
    times, frames = stored_frames(write_overlay(detect(folder), tmp_path / "drawn.mp4"))
    assert numbers(frames) == list(range(6))
    np.testing.assert_allclose(times, np.arange(6) / 10, atol=1e-6)


def test_a_timeline_is_below_the_unchanged_frames(tmp_path):
    video = write_numbered(tmp_path / "phone", Recipe(size=SIZE, count=40, options=x264(keyint=12)))
    plain = stored_frames(write_overlay(detect(video), tmp_path / "plain.mp4"))[1]
    times, frames = stored_frames(
        write_overlay(detect(video), tmp_path / "drawn.mp4", OverlayStyle(timeline=True))
    )
    strips = [frame[SIZE[1] :] for frame in frames]
    assert strips[0].shape[0] > 20
    assert frames[0].shape[0] % 2 == 0
    assert np.abs(frames[20][: SIZE[1]].astype(int) - plain[20]).mean() < 2  # encoded twice
    # The person waves for all 1.6 seconds. The cursor is at the time of the frame.
    assert blue(strips[0]).any(axis=0).mean() > 0.95
    cursors = [(strip.min(axis=(0, 2)) > 150).nonzero()[0].mean() for strip in strips[1:]]
    np.testing.assert_allclose(cursors, times[1:] / 1.6 * SIZE[0], atol=3)


# ---------------------------------------------------------------- OverlayWriter with a stream

STREAM_SIZE = (192, 144)


class Falling(PersonSource):
    """A person who moves down with each keyframe, in the black part of the frame."""

    def __call__(self, time, frame):
        top = 60 + 10 * time
        return np.array([[96, top, 140, top + 40]], dtype=np.float32), np.ones(1)


@pytest.fixture
def cfg(tiny_cfg):
    return tiny_cfg("detect", "INPUT.NUM_FRAMES", 8, "INPUT.SAMPLING_RATE", 3)


@pytest.fixture
def video(tmp_path):
    return write_numbered(tmp_path / "v", Recipe(count=100, size=STREAM_SIZE, options=x264(keyint=25)))


def score(clips):
    time.sleep(0.005)
    return [np.full((len(clip.boxes), 1), 0.9) for clip in clips]


def draw(path, video, cfg, every=0.5, before_write=lambda writer, result: None, **options):
    """Stream a video into an overlay; return the writer."""
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
    """Return the lowest line of the box in each frame; nothing else has its color."""
    blue = (frames[..., 2].astype(int) - frames[..., 0] > 40).any(axis=2)
    return np.array([np.flatnonzero(lines).max() if lines.any() else -1 for lines in blue])


@pytest.mark.parametrize("options", [{}, {"overlap": False}, {"smooth": 2.0}])
def test_every_frame_has_the_box_of_its_time(tmp_path, video, cfg, options):
    draw(tmp_path / "drawn.mp4", video, cfg, **options)
    frames = open_video(tmp_path / "drawn.mp4").frames(np.arange(100))
    times = np.arange(100) / 25
    assert len(open_video(tmp_path / "drawn.mp4")) == 100
    expected = 100 + 10 * times.clip(max=3.5)
    drawn = times <= 3.75  # a quarter of a second after the last keyframe
    np.testing.assert_allclose(lowest(frames)[drawn], expected[drawn], atol=2.5)
    assert (lowest(frames)[~drawn] == -1).all()


@pytest.mark.parametrize("smooth", [0.0, 2.0])
def test_frames_wait_no_longer_than_necessary(tmp_path, video, cfg, monkeypatch, smooth):
    """If the queue has room for one frame, only frames that a keyframe depends on wait."""
    monkeypatch.setattr(overlay_video, "_QUEUE_BYTES", 1)
    most = []
    draw(
        tmp_path / "drawn.mp4",
        video,
        cfg,
        before_write=lambda writer, result: most.append(len(writer._frames)),
        smooth=smooth,
    )
    assert len(open_video(tmp_path / "drawn.mp4")) == 100
    # The clip of the next keyframe ends 12 + 9 frames later. Smoothing waits for two more keyframes.
    assert max(most) <= 30 + (25 if smooth else 0)


def test_keyframes_that_are_far_apart(tmp_path, video, cfg, monkeypatch):
    monkeypatch.setattr(overlay_video, "_QUEUE_BYTES", 1)
    draw(tmp_path / "drawn.mp4", video, cfg, every=3.5)
    frames = open_video(tmp_path / "drawn.mp4").frames(np.arange(100))
    assert np.flatnonzero(lowest(frames) == -1).tolist() == [*range(26, 63)]  # > 1 s from both


def test_an_error_while_drawing_stops_the_stream_and_removes_the_file(tmp_path, video, cfg, monkeypatch):
    def fail(*args, **kwargs):
        raise DataError("cannot draw")

    monkeypatch.setattr(overlay_video, "draw_people", fail)
    monkeypatch.setattr(overlay_video, "_QUEUE_BYTES", 1)
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="cannot draw"):
        draw(tmp_path / "out" / "drawn.mp4", video, cfg)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_exception_in_the_stream_removes_the_file(tmp_path, video, cfg, monkeypatch):
    monkeypatch.setattr(overlay_video, "_QUEUE_BYTES", 1)

    def leave(writer, result):
        raise KeyboardInterrupt

    (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path / "out" / "drawn.mp4", video, cfg, before_write=leave)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_signal_completes_the_files_of_a_live_stream(tmp_path, cfg):
    """The signal arrives in the main thread, as with Ctrl-C."""

    def images():
        for number in range(10_000):
            time.sleep(0.001)
            yield numbered_frame(number, *STREAM_SIZE)

    source = LiveSource(images(), Fraction(100))
    stream = ActionStream(
        source, plan_keyframes(source, cfg, None, 0.1), Falling(), score, cfg, StreamOptions()
    )

    class SignalAfterThree:
        count = 0

        def update(self, time):
            self.count += 1
            if self.count == 3:
                os.kill(os.getpid(), signal.SIGINT)

    with OverlayWriter(tmp_path / "live.mp4", source, LABELS, 0.1, OverlayStyle()) as writer:
        stream.sink = writer
        with _InterruptHandler(stream) as interrupts, stream:
            _write_results(stream, [writer], SignalAfterThree())
    assert interrupts.received == signal.SIGINT
    drawn = open_video(tmp_path / "live.mp4")
    assert len(drawn) > 5
    found = numbers(drawn.frames(np.arange(5)))
    assert found == sorted(found)
