"""Boxes drawn over whole videos as phones make them: turned, mirrored, of a variable rate."""

import logging
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
from numbered_videos import Recipe, numbered_frame, numbers, write_numbered, x264
from PIL import Image

from vmae_det.formats.label_map import LabelMap
from vmae_det.inference.detections import ActionDetections
from vmae_det.rendering.overlay_writer import OverlayStyle
from vmae_det.rendering.write_overlay import write_overlay
from vmae_det.video.probe import probe_video
from vmae_det.video.readers import open_video

SIZE = (480, 288)  # as stored
BOX = (0.25, 0.75, 0.5, 1.0)  # the last row's second block, which is bit 10: black in all frames here
VARIABLE = np.cumsum(np.random.default_rng(0).integers(8, 90, 40)) + 100  # a late start, 8 to 89 ms apart

needs_matrices = pytest.mark.skipif(
    not hasattr(av.VideoStream, "set_display_rotation"), reason="PyAV writes display matrices from 18.1 on"
)


def detect(video):
    """A person in BOX, from the first frame on and for two seconds."""
    return ActionDetections(
        video=video,
        video_start=900.0,
        timestamp=np.array([900.0, 901.0, 902.0]),
        boxes=np.array([BOX] * 3),
        person_scores=np.ones(3),
        scores=np.full((3, 1), 0.9),
        label_map=LabelMap((1,), ("wave",), ("PERSON_MOVEMENT",)),
    )


def stored_frames(path):
    """Times, and frames as they lie in the file, which has no display matrix."""
    with av.open(str(path)) as file:
        frames = list(file.decode(video=0))
    assert not any("DISPLAYMATRIX" in str(data.type) for frame in frames for data in frame.side_data)
    return np.array([frame.time for frame in frames]), [frame.to_ndarray(format="rgb24") for frame in frames]


def blue(frame):
    """Where the frame has the colour of a drawn box, (H, W)."""
    return frame[:, :, 2].astype(int) - frame[:, :, 0] > 40


def is_drawn(frame, box=BOX):
    """Whether the frame, grey but for what is drawn, has a person's box there and in no other place."""
    height, width = frame.shape[:2]
    x1, y1, x2, y2 = (np.array(box) * (width, height, width, height)).round().astype(int)
    drawn = blue(frame)
    sides = (
        drawn[y1 - 1 : y1 + 2, x1:x2].any(axis=0),
        drawn[y1:y2, x1 - 1 : x1 + 2].any(axis=1),
        drawn[y1:y2, x2 - 1 : x2 + 2].any(axis=1),
    )
    plate = (30, 110)  # pixels above the box, and from its left side
    elsewhere = drawn.sum() - drawn[y1 - plate[0] : y2 + 2, x1 - 2 : max(x2 + 2, x1 + plate[1])].sum()
    return np.concatenate(sides).mean() > 0.95 and not elsewhere


@needs_matrices
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_boxes_lie_where_the_readers_picture_has_them(tmp_path, rotation, mirrored):
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
def test_variable_rate_keeps_the_times_of_its_frames(tmp_path, suffix):
    recipe = Recipe(suffix=suffix, size=SIZE, rotation=90, stamps=VARIABLE, time_base=Fraction(1, 1000))
    video = write_numbered(tmp_path / "phone", recipe)
    detections = detect(video)
    detections.boxes[1:] += (0.0, -0.125, 0.0, -0.125)  # up within the first second
    times, frames = stored_frames(write_overlay(detections, tmp_path / "drawn.mp4"))
    truth = (VARIABLE - VARIABLE[0]) / 1000
    np.testing.assert_allclose(times, truth, atol=2e-4)
    # Boxes are interpolated by the frames' times, not by their numbers.
    lowest = [np.flatnonzero(blue(frame).any(axis=1)).max() for frame in frames]
    np.testing.assert_allclose(lowest, 480 * (1 - 0.125 * truth.clip(max=1)), atol=3)


def test_memory_does_not_grow_with_the_video(tmp_path):
    peaks = []
    for count in (30, 180):
        video = write_numbered(tmp_path / "phone", Recipe(size=SIZE, count=count, options=x264(keyint=250)))
        detections = detect(video)
        tracemalloc.start()
        write_overlay(detections, tmp_path / "drawn.mp4")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 4 * SIZE[0] * SIZE[1] * 3


def test_damaged_frames_show_the_one_before_and_keep_the_times(tmp_path, caplog):
    video = write_numbered(
        tmp_path / "phone", Recipe(size=SIZE, count=40, options=x264(keyint=10, bframes=0))
    )
    with av.open(str(video)) as file:
        place, size = [(p.pos, p.size) for p in file.demux(video=0) if p.size][25]
    data = bytearray(video.read_bytes())
    data[place + 4 : place + size] = bytes(b ^ 0xFF for b in data[place + 4 : place + size])
    video.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        times, frames = stored_frames(write_overlay(detect(video), tmp_path / "drawn.mp4"))
    assert numbers(frames) == [*range(25), *range(30, 40)]
    np.testing.assert_allclose(times * 25, numbers(frames), atol=1e-3)
    assert f"{video}: 5 of its frames are damaged" in caplog.text


def test_a_folder_of_frames_is_drawn_too(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    (folder / "rate.txt").write_text("10")
    for number in range(6):
        Image.fromarray(numbered_frame(number, *SIZE)).save(folder / f"{number}.png")
    times, frames = stored_frames(write_overlay(detect(folder), tmp_path / "drawn.mp4"))
    assert numbers(frames) == list(range(6))
    np.testing.assert_allclose(times, np.arange(6) / 10, atol=1e-6)


def test_a_timeline_stands_below_frames_that_are_as_without_it(tmp_path):
    video = write_numbered(tmp_path / "phone", Recipe(size=SIZE, count=40, options=x264(keyint=12)))
    plain = stored_frames(write_overlay(detect(video), tmp_path / "plain.mp4"))[1]
    times, frames = stored_frames(
        write_overlay(detect(video), tmp_path / "drawn.mp4", OverlayStyle(timeline=True))
    )
    strips = [frame[SIZE[1] :] for frame in frames]
    assert strips[0].shape[0] > 20
    assert frames[0].shape[0] % 2 == 0
    assert np.abs(frames[20][: SIZE[1]].astype(int) - plain[20]).mean() < 2  # two codings of one picture
    # The person waves for the whole 1.6 seconds; the cursor is where its time is.
    assert blue(strips[0]).any(axis=0).mean() > 0.95
    cursors = [(strip.min(axis=(0, 2)) > 150).nonzero()[0].mean() for strip in strips[1:]]
    np.testing.assert_allclose(cursors, times[1:] / 1.6 * SIZE[0], atol=3)
