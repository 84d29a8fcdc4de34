"""Frame numbers, times and shapes of unusual files, as documented in docs/guides/readers.md."""

from fractions import Fraction

import av
import numpy as np
import pytest
from conftest import SHARED
from numbered_videos import Recipe, numbered_frame, numbers, write_numbered, x264

from vmae_det.dataset_tools.prepare.transcode import resize_video
from vmae_det.utils.errors import DataError
from vmae_det.video.probe import probe_video
from vmae_det.video.readers import base, open_video

READERS = ["pyav", "decord"]
CLOSED = x264(keyint=12, bframes=2)
GAP = [*range(40), *range(70, 150)]  # frames that exist, of 150


@pytest.fixture(autouse=True)
def no_warnings_yet(monkeypatch):
    monkeypatch.setattr(base, "_warned", set())


def check(path, expected, times, reader="pyav", number_of=numbers):
    """Check all frames at once, some of them alone, and all of them in order. Return the reader."""
    video = open_video(path, reader)
    assert len(video) == len(expected)
    np.testing.assert_allclose(video.times, times, atol=2e-3)
    assert number_of(video.frames(np.arange(len(expected)))) == expected
    for index in (len(expected) - 1, len(expected) // 2, 0):
        assert number_of(video.frames([index])) == [expected[index]]
    indices, frames = zip(*video.stream())
    assert list(indices) == list(range(len(expected)))
    assert number_of(frames) == expected
    return video


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".ts"])
@pytest.mark.parametrize(
    ("aspect", "displayed"), [("64/45", (136, 64)), ("8/11", (96, 88)), ("9/1", (96, 64))]
)
def test_non_square_pixels(tmp_path, reader, suffix, aspect, displayed):
    recipe = Recipe(suffix=suffix, count=12, size=(96, 64), options=CLOSED, aspect=Fraction(aspect))
    displayed = (round(96 * Fraction(64, 45)), 64) if aspect == "64/45" else displayed
    path = write_numbered(tmp_path / "v", recipe)
    video = open_video(path, reader)
    assert video.frames([3]).shape == (1, *displayed[::-1], 3)
    assert numbers(video.frames(np.arange(12))) == list(range(12))
    small = open_video(path, reader, short_side=32).frames([5])
    assert small.shape[1:3] == tuple(round(side * 32 / min(displayed)) for side in displayed[::-1])
    assert numbers(small) == [5]
    info = probe_video(str(path))
    assert (info.width, info.height) == displayed


def test_non_square_pixels_in_a_rotated_video(tmp_path):
    recipe = Recipe(count=12, size=(96, 64), options=CLOSED, aspect=Fraction(3, 2), rotation=90)
    path = write_numbered(tmp_path / "v", recipe)
    video = open_video(path)
    assert video.frames([0]).shape == (1, 144, 64, 3)
    assert numbers(video.frames(np.arange(12))) == list(range(12))
    assert resize_video(path, tmp_path / "small.mp4", 32) == ""
    small = open_video(tmp_path / "small.mp4")
    assert small.frames([0]).shape == (1, 72, 32, 3)
    assert numbers(small.frames(np.arange(12))) == list(range(12))


def with_pictures(path, sizes, default, counts):
    """A video with several streams of numbered frames. Stream k starts at number 100 k."""
    with av.open(str(path), "w") as container:
        streams = []
        for size in sizes:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            stream.disposition = av.stream.Disposition.default if len(streams) == default else 0
            streams.append(stream)
        for number in range(max(counts)):
            for position, (stream, count) in enumerate(zip(streams, counts)):
                if number < count:
                    image = numbered_frame(100 * position + number, stream.width, stream.height)
                    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                    container.mux(stream.encode(frame.reformat(format="yuv420p")))
        for stream in streams:
            container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("sizes", "default", "counts", "chosen"),
    [
        ([(64, 64), (96, 64)], 1, (12, 12), 1),
        ([(96, 64), (64, 64)], 1, (12, 12), 1),  # the default stream, although it is smaller
        ([(64, 64), (96, 64)], None, (12, 12), 1),
        ([(96, 64), (64, 64)], None, (12, 12), 0),
        ([(96, 64), (64, 64)], 0, (1, 12), 1),  # a picture is not a video
    ],
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_stream_that_players_show(tmp_path, suffix, sizes, default, counts, chosen):
    if suffix == ".mp4" and default is None:
        pytest.skip("FFmpeg then makes the first one the default")
    path = with_pictures(tmp_path / f"v{suffix}", sizes, default, counts)
    expected = [100 * chosen + number for number in range(12)]
    for reader in READERS:
        check(path, expected, np.arange(12) / 25, reader)
    info = probe_video(str(path))
    assert (info.problem, info.frames, info.width) == ("", 12, sizes[chosen][0])


def spliced(tmp_path, suffix, starts, codec="libx264", options=CLOSED):
    """Consecutive recordings of 30 frames, whose clocks start at these frames."""
    path = tmp_path / f"spliced{suffix}"
    with path.open("wb") as file:
        for position, start in enumerate(starts):
            recipe = Recipe(suffix=suffix, codec=codec, options=options, stamps=range(start, start + 30))
            part = write_numbered(
                tmp_path / "part",
                recipe,
                lambda n, w, h, first=30 * position: numbered_frame(first + n, w, h),
            )
            file.write(part.read_bytes())
    return path


MPEG2 = {"codec": "mpeg2video", "options": {"g": "12", "bf": "2", "qmin": "2"}}


@pytest.mark.parametrize(
    ("suffix", "starts", "coding"),
    [
        (".ts", (0, 0), {}),  # restarts
        (".ts", (0, 2700), {}),  # jumps by more than a minute
        (".ts", (2700, 0, 500), {}),
        (".ts", (0, 20), {}),  # overlaps
        (".ts", (0, 0), MPEG2),
        (".ts", (0, 0), {"codec": "libx265", "options": {"x265-params": "log-level=none:keyint=12"}}),
        (".mpg", (0, 0), MPEG2),
    ],
)
def test_clock_that_restarts_or_jumps(tmp_path, caplog, suffix, starts, coding):
    path = spliced(tmp_path, suffix, starts, **coding)
    count = 30 * len(starts)
    video = check(path, list(range(count)), np.arange(count) / 25)
    check(path, list(range(count)), np.arange(count) / 25, "decord")
    assert video.sound is None
    warnings = [record.message for record in caplog.records]
    assert len(warnings) == 1
    assert "its clock restarts or jumps" in warnings[0]
    info = probe_video(str(path), "all")
    assert (info.problem, info.frames) == ("", count)
    assert info.seconds == pytest.approx(count / 25, abs=0.01)
    assert resize_video(path, tmp_path / "small.mp4", 32) == ""
    assert numbers(open_video(tmp_path / "small.mp4").frames(np.arange(count))) == list(range(count))


def test_clock_that_wraps_around(tmp_path, caplog):
    """The clock restarts at 0 after 2^33 ticks (26.5 hours)."""
    first = 2**33 // 3600 - 30
    recipe = Recipe(suffix=".ts", stamps=range(first, first + 60), options=CLOSED)
    check(write_numbered(tmp_path / "v", recipe), list(range(60)), np.arange(60) / 25)
    assert not caplog.records


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_gap_is_kept_if_the_file_states_its_times(tmp_path, suffix):
    stamps = [*range(30), *range(30 + 2250, 60 + 2250)]
    recipe = Recipe(suffix=suffix, stamps=stamps, options=CLOSED)
    check(write_numbered(tmp_path / "v", recipe), list(range(60)), np.array(stamps) / 25)


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("mpeg4", {"g": "12"}),
        ("mpeg4", {"g": "12", "bf": "2"}),
        ("libx264", x264(keyint=12, bframes=0)),
        ("libx264", CLOSED),
        ("libx264", x264(keyint=50, bframes=3)),
        ("mjpeg", {}),
    ],
)
def test_dropped_frames_in_avi(tmp_path, codec, options):
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    recipe = Recipe(suffix=".avi", codec=codec, pix_fmt=pix_fmt, options=options, rate=30, stamps=GAP)
    path = write_numbered(tmp_path / "v", recipe)
    for reader in READERS:
        video = check(path, list(range(120)), np.array(GAP) / 30, reader)
        assert numbers(video.frames([video.index_at(70 / 30)])) == [40]
    for decode in ("none", "ends", "all"):
        info = probe_video(str(path), decode)
        assert (info.problem, info.frames) == ("", 120)
        assert info.seconds == pytest.approx(5, abs=0.02)


@pytest.mark.parametrize("bframes", ["0", "2"])
def test_frame_times_of_a_program_stream(tmp_path, bframes):
    options = {"g": "12", "bf": bframes, "qmin": "2", "qmax": "2"}
    recipe = Recipe(suffix=".mpg", codec="mpeg2video", options=options, stamps=GAP, size=(160, 96))
    rng = np.random.default_rng(0)

    def noisy(number, width, height):  # small frames would share packets and their times
        return numbered_frame(number, width, height) ^ rng.integers(0, 64, (height, width, 3), np.uint8)

    path = write_numbered(tmp_path / "v", recipe, noisy)
    check(path, list(range(120)), np.array(GAP) / 25)


def test_small_frames_of_a_program_stream(tmp_path, caplog):
    """Many frames share a packet, and only one of them has a stated time."""
    options = {"g": "12", "bf": "2"}
    recipe = Recipe(suffix=".mpg", codec="mpeg2video", options=options, count=900, size=(64, 64))
    video = open_video(write_numbered(tmp_path / "v", recipe))
    np.testing.assert_allclose(video.times, np.arange(900) / 25, atol=1e-3)
    assert not caplog.records
    assert video.sound is not None


@pytest.mark.parametrize(
    ("suffix", "codec", "options"),
    [
        (".h264", "libx264", CLOSED),
        (".hevc", "libx265", {"x265-params": "log-level=none:keyint=12"}),
        (".m2v", "mpeg2video", {"g": "12", "bf": "2", "qmin": "2"}),
        (".m1v", "mpeg1video", {"g": "12"}),
    ],
)
def test_raw_streams(tmp_path, suffix, codec, options):
    recipe = Recipe(suffix=suffix, codec=codec, options=options, rate=30)
    path = write_numbered(tmp_path / "v", recipe)
    for reader in READERS:
        assert check(path, list(range(60)), np.arange(60) / 30, reader).rate == 30


def test_raw_stream_without_a_rate(tmp_path):
    options = {"x265-params": "log-level=none:keyint=12:vui-timing-info=0"}
    path = write_numbered(tmp_path / "v", Recipe(suffix=".hevc", codec="libx265", options=options))
    with pytest.raises(DataError, match=r"v\.hevc: .*does not state its frame rate; .*ffmpeg -r RATE -i"):
        open_video(path)
    assert open_video(path, rate=50).times[-1] == pytest.approx(59 / 50)


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG"), (1, None)])
def test_hdr_warning_is_logged_once(tmp_path, caplog, transfer, name):
    options = {"x265-params": "log-level=none"}
    recipe = Recipe(count=3, codec="libx265", pix_fmt="yuv420p10le", options=options, transfer=transfer)
    path = write_numbered(tmp_path / "v", recipe)
    for reader in READERS:
        open_video(path, reader).frames([0])
    warnings = [record.message for record in caplog.records]
    assert len(warnings) == (name is not None)
    assert all(f"HDR ({name})" in text for text in warnings)
    if name:  # the resized video is HDR as well
        assert resize_video(path, tmp_path / "small.mp4", 32) == ""
        open_video(tmp_path / "small.mp4")
        assert f"small.mp4: its colors are HDR ({name})" in caplog.text


# The same for files written by other programs.

CASES = SHARED / "cases" / "video"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="the cases are next to the repository")


def bar_numbers(frames):
    """Return the numbers in the bottom eighth of frames: twelve blocks, highest bit first."""
    found = []
    for frame in frames:
        height, width = frame.shape[:2]
        strip = frame[height - height // 16].mean(axis=1)
        bits = [strip[(2 * block + 1) * (width // 12) // 2] > 120 for block in range(12)]
        found.append(int("".join("01"[int(bit)] for bit in bits), 2))
    return found


ROWS = {
    "clock_restarts.ts": (list(range(180)), np.arange(180) / 30),
    "clock_jumps.ts": (list(range(180)), np.arange(180) / 30),
    "thumbnail_first.mp4": (list(range(90)), np.arange(90) / 30),
    "null_frames_b.avi": (GAP, np.array(GAP) / 30),
    "null_frames_h264.avi": (GAP, np.array(GAP) / 30),
    "raw.h264": (list(range(90)), np.arange(90) / 30),
}


@needs_cases
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ROWS)
def test_numbers_and_times_of_the_cases(name, reader):
    check(CASES / name, *ROWS[name], reader, bar_numbers)


@needs_cases
def test_telecine():
    video = open_video(CASES / "telecine.vob")
    assert len(video) == 239
    assert video.times[-1] == pytest.approx(9.98, abs=0.01)
    steps = np.diff(video.times)
    assert {round(float(step) * 60000 / 1001) for step in steps[:-1]} == {2, 3}  # fields
    assert bar_numbers(video.frames(np.arange(200))) == list(range(200))


@needs_cases
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("name", "shape"),
    [("sar_64_45.mp4", (576, 1024)), ("sar_64_45.mkv", (576, 1024)), ("sar_8_11.mp4", (396, 704))],
)
def test_pixel_aspects_of_the_cases(name, shape, reader):
    video = open_video(CASES / name, reader)
    assert video.frames([0]).shape[1:3] == shape
    assert probe_video(str(CASES / name)).width == shape[1]


@needs_cases
def test_hlg_of_the_cases(caplog):
    open_video(CASES / "hlg.mov")
    assert "HDR (HLG)" in caplog.text
