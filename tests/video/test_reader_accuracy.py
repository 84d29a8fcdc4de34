"""Each reader returns exactly the requested frames, for every kind of file."""

from fractions import Fraction

import av
import numpy as np
import pytest
from conftest import SHARED
from numbered_videos import HAS_TORCHCODEC, Recipe, needs_torchcodec, numbers, write_numbered, x264

from vmae_det.video.readers import open_video, pyav_reader
from vmae_det.video.readers.base import VideoLocation
from vmae_det.video.readers.decord_reader import DecordReader
from vmae_det.video.readers.frame_index import get_frame_index
from vmae_det.video.readers.video_file import VideoFile

READERS = ["decord", "pyav"] + ["torchcodec"] * HAS_TORCHCODEC

# Deliberately uneven: from 1 to 199 ms.
VARIABLE = np.cumsum(np.random.default_rng(0).integers(1, 200, 60)) - 1

RECIPES = {
    "constant rate": Recipe(options=x264(keyint=12, bframes=0)),
    "B-frames": Recipe(options=x264(keyint=24, bframes=3)),
    "open GOP": Recipe(options=x264(keyint=12, bframes=3, open_gop=1)),
    "open GOP mkv": Recipe(suffix=".mkv", options=x264(keyint=12, bframes=3, open_gop=1)),
    "long GOP": Recipe(count=400, options=x264(keyint=300, bframes=3)),
    "intra refresh": Recipe(count=120, options=x264(keyint=30, intra_refresh=1, bframes=0)),
    "variable rate": Recipe(stamps=VARIABLE, time_base=Fraction(1, 1000), options=x264(keyint=12)),
    "variable rate mkv": Recipe(
        suffix=".mkv", stamps=VARIABLE, time_base=Fraction(1, 1000), options=x264(keyint=12)
    ),
    "turned by 90": Recipe(rotation=90, options=x264(keyint=12)),
    "turned by 180": Recipe(rotation=180),
    "turned by 270": Recipe(rotation=270),
    "mirrored": Recipe(mirrored=True),
    "turned by 90 and mirrored": Recipe(rotation=90, mirrored=True),
    "turned by 270 and mirrored": Recipe(rotation=270, mirrored=True),
    "late start": Recipe(stamps=range(50, 110), options=x264(keyint=12, bframes=2)),
    "late start mkv": Recipe(suffix=".mkv", stamps=range(50, 110), options=x264(keyint=12, bframes=2)),
    "transport stream": Recipe(suffix=".ts", stamps=range(50, 110), options=x264(keyint=12, bframes=2)),
    "edit list": Recipe(skip=7, options=x264(keyint=24, bframes=2)),
    "vp9 webm, odd size": Recipe(
        suffix=".webm",
        codec="libvpx-vp9",
        size=(97, 65),
        options={"g": "20", "deadline": "realtime", "cpu-used": "8"},
    ),
    "vp9 mp4": Recipe(codec="libvpx-vp9", options={"g": "20", "deadline": "realtime", "cpu-used": "8"}),
    "vp8 webm": Recipe(suffix=".webm", codec="libvpx", options={"g": "20", "deadline": "realtime"}),
    "mpeg4 avi": Recipe(suffix=".avi", codec="mpeg4", options={"g": "12"}),
    "mpeg4 avi, B-frames": Recipe(suffix=".avi", codec="mpeg4", options={"g": "12", "bf": "2"}),
    "mpeg4 avi, odd size": Recipe(suffix=".avi", codec="mpeg4", size=(97, 65)),
    "mpeg4 mp4, B-frames": Recipe(codec="mpeg4", options={"g": "12", "bf": "2"}),
    "h264 avi": Recipe(suffix=".avi", options=x264(keyint=12, bframes=0)),
    "h264 avi, B-frames": Recipe(suffix=".avi", options=x264(keyint=12, bframes=2)),
    "mpeg1": Recipe(suffix=".mpg", codec="mpeg1video", options={"g": "12", "bf": "2"}),
    "mov": Recipe(suffix=".mov", options=x264(keyint=12, bframes=2)),
    "flv": Recipe(suffix=".flv", options=x264(keyint=12, bframes=2)),
    "wmv": Recipe(suffix=".wmv", codec="wmv2", options={"g": "12"}),
    "10 bit": Recipe(pix_fmt="yuv420p10le", options=x264(keyint=12)),
    "4:4:4, odd size": Recipe(pix_fmt="yuv444p", size=(97, 65), options=x264(keyint=12)),
    "one frame": Recipe(count=1),
}


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """video(name): the file of a recipe, written once."""
    folder, written = tmp_path_factory.mktemp("numbered"), {}

    def get(name):
        recipe = RECIPES[name]
        if (recipe.rotation or recipe.mirrored) and not hasattr(av.VideoStream, "set_display_rotation"):
            pytest.skip("PyAV writes display matrices from 18.1 on")
        if name not in written:
            written[name] = write_numbered(folder / name.replace(" ", "_").replace(",", ""), RECIPES[name])
        return written[name]

    return get


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", RECIPES)
def test_requested_frames(video, name, reader):
    recipe = RECIPES[name]
    opened = open_video(video(name), reader)
    expected = list(range(recipe.skip, recipe.count))
    last = len(expected) - 1
    assert len(opened) == len(expected)
    frames = opened.frames(np.arange(len(expected)))
    width, height = recipe.size[::-1] if recipe.rotation % 180 else recipe.size
    assert frames.shape == (len(expected), height, width, 3)
    assert frames.dtype == np.uint8
    assert numbers(frames) == expected
    rng = np.random.default_rng(0)
    requested = [[last], [0], [last // 2], [last, 0], [last // 3, last // 3], sorted({0, last // 2, last})]
    requested += [rng.integers(0, len(expected), 5).tolist() for _ in range(6)]
    for indices in requested:
        assert numbers(opened.frames(np.array(indices))) == [expected[index] for index in indices]
        # Also as the first request to a reader.
        fresh = open_video(video(name), reader)
        assert numbers(fresh.frames(np.array(indices))) == [expected[index] for index in indices]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", RECIPES)
def test_all_frames_in_order(video, name, reader):
    opened = open_video(video(name), reader)
    indices, frames = zip(*opened.stream())
    assert indices == tuple(range(len(opened)))
    np.testing.assert_array_equal(np.stack(frames), open_video(video(name), reader).frames(indices))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", RECIPES)
def test_nearest_frames(video, name, reader):
    recipe = RECIPES[name]
    opened = open_video(video(name), reader)
    if recipe.stamps is VARIABLE:
        times = (VARIABLE - VARIABLE[0]) / 1000
        assert float(opened.rate) == pytest.approx(59 / times[-1], rel=0.03)
    else:
        times = np.arange(recipe.count - recipe.skip) / recipe.rate
        assert opened.rate == recipe.rate
    np.testing.assert_allclose(opened.times, times, atol=1.1e-3)  # some containers round to milliseconds
    for index in (0, len(times) // 2, len(times) - 1):
        near = opened.index_at(times[index] + 0.0002)
        assert numbers(opened.frames([near])) == [recipe.skip + index]


@pytest.mark.parametrize(
    ("name", "trusted"),
    [
        ("constant rate", True),
        ("B-frames", True),
        ("variable rate", True),
        ("vp9 webm, odd size", True),
        ("open GOP", False),
        ("open GOP mkv", False),
        ("intra refresh", False),
        ("edit list", False),
        ("turned by 90", False),
        ("h264 avi", False),
        ("transport stream", False),
        ("mpeg4 mp4, B-frames", False),
    ],
)
def test_decord_reads_only_files_that_it_reads_correctly(video, name, trusted):
    path = video(name)
    assert (get_frame_index(VideoLocation(path, path)).decoder_problem == "") == trusted
    assert DecordReader(VideoLocation(path, path)).uses_decord == trusted


@needs_torchcodec
@pytest.mark.parametrize("name", RECIPES if HAS_TORCHCODEC else [""])
def test_torchcodec_returns_the_pixels_of_pyav(video, name):
    path = video(name)
    reader, expected = open_video(path, "torchcodec"), open_video(path, "pyav")
    assert reader.uses_torchcodec == (expected.index.decoder_problem == "")
    wanted = np.arange(0, len(expected), 3)
    difference = reader.frames(wanted).astype(int) - expected.frames(wanted)
    assert np.abs(difference).max() <= 1  # FFmpeg's versions round odd sizes differently
    assert reader.uses_torchcodec == (expected.index.decoder_problem == "")


MATRICES = {
    "601 limited": ("ITU601", 5, 1, "yuv420p"),
    "709 limited": ("ITU709", 1, 1, "yuv420p"),
    "601 full": ("ITU601", 5, 2, "yuv420p"),
    "709 full": ("ITU709", 1, 2, "yuv420p"),
    "not stated": ("ITU601", None, None, "yuv420p"),
    "10 bit": ("ITU709", 1, 1, "yuv420p10le"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("short_side", [None, 64])
@pytest.mark.parametrize("name", MATRICES)
def test_colors(tmp_path, name, short_side, reader):
    matrix, space, span, pix_fmt = MATRICES[name]
    colors = np.array(
        [[(200, 40, 40), (40, 200, 40), (40, 40, 200)], [(200, 200, 40), (225, 225, 225), (180, 100, 60)]],
        dtype=np.uint8,
    )
    image = colors.repeat(64, axis=0).repeat(64, axis=1)
    path = tmp_path / "colors.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = 192, 128, pix_fmt
        if space is not None:
            stream.codec_context.colorspace, stream.codec_context.color_range = space, span
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame = frame.reformat(format=pix_fmt, dst_colorspace=matrix, dst_color_range=span or 1)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    read = open_video(path, reader, short_side=short_side).frames([0])[0]
    cell = read.shape[0] // 2
    centers = read[cell // 2 :: cell, cell // 2 :: cell]
    assert np.abs(centers.astype(int) - colors).max() <= 5


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("name", "short_side", "size"),
    [
        ("B-frames", 32, (32, 48)),
        ("open GOP", 32, (32, 48)),
        ("turned by 90", 32, (48, 32)),
        ("vp9 webm, odd size", 33, (33, 49)),
        ("B-frames", 64, (64, 96)),
        ("B-frames", 200, (64, 96)),
    ],
)
def test_frames_are_reduced_to_the_needed_size(video, name, short_side, size, reader):
    opened = open_video(video(name), reader, short_side=short_side)
    frames = opened.frames(np.array([40, 3, 3, 59]))
    assert frames.shape == (4, *size, 3)
    assert numbers(frames) == [40, 3, 3, 59]


# Long GOPs, whose unreferenced frames are skipped, and short ones, which are skipped after the last wanted
# frame.
SKIPPED = {
    "B-frames": RECIPES["B-frames"],
    "open GOP mkv": RECIPES["open GOP mkv"],
    "edit list": RECIPES["edit list"],
    "intra only": Recipe(options=x264(keyint=1)),
    "GOP of 3": Recipe(options=x264(keyint=3, bframes=0)),
    "GOP of 8, B-frames": Recipe(options=x264(keyint=8, bframes=3, b_pyramid="none", b_adapt=0)),
    "GOP of 8, referenced B-frames": Recipe(options=x264(keyint=8, bframes=3, b_adapt=0)),
    "hevc": Recipe(codec="libx265", options={"x265-params": "keyint=8:open-gop=0:bframes=3:log-level=none"}),
    "vp9": Recipe(suffix=".webm", codec="libvpx-vp9", options={"g": "3", "deadline": "realtime"}),
}


@pytest.mark.parametrize("name", SKIPPED)
def test_skipping_frames_changes_nothing(tmp_path, monkeypatch, name):
    path = write_numbered(tmp_path / "video", SKIPPED[name])
    count = len(open_video(path, "pyav"))
    rng = np.random.default_rng(0)
    requests = [np.arange(1, count, 5), np.arange(0, count, 4), np.sort(rng.choice(count, 6, replace=False))]
    skipped = []
    original = pyav_reader._DecodeRun.__iter__

    def record(run):
        try:
            yield from original(run)
        finally:
            skipped.append(len(run._skipped))

    monkeypatch.setattr(pyav_reader, "_STEPS_BACK", (0,))  # no further attempts, which skip nothing
    monkeypatch.setattr(pyav_reader._DecodeRun, "__iter__", record)
    results = [open_video(path, "pyav").frames(request) for request in requests]
    assert sum(skipped) > 0
    monkeypatch.setattr(pyav_reader, "nal_length_size", lambda _: 0)
    monkeypatch.setattr(pyav_reader._DecodeRun, "_count_wanted", lambda run, gop: 1 << 30)
    skipped.clear()
    for request, frames in zip(requests, results):
        assert np.array_equal(open_video(path, "pyav").frames(request), frames)
        assert numbers(frames) == numbers(open_video(path, "decord").frames(request))
    assert sum(skipped) == 0


@pytest.mark.parametrize("name", ["GOP of 8, B-frames", "GOP of 8, referenced B-frames", "hevc", "vp9"])
def test_the_rest_of_the_file_is_not_read(tmp_path, monkeypatch, name):
    path = write_numbered(tmp_path / "video", SKIPPED[name])
    reader = open_video(path, "pyav")
    packets = []
    original = VideoFile.packets

    def record(file):
        for packet in original(file):
            packets.append(packet)
            yield packet

    monkeypatch.setattr(VideoFile, "packets", record)
    for request in ([1], [9], [9, 11], [0, 6]):
        packets.clear()
        assert numbers(reader.frames(np.array(request))) == request
        assert len(packets) <= 17  # two GOPs of 8, because seeking may stop at the previous key frame
    packets.clear()
    assert numbers(reader.frames(np.array([2, 50]))) == [2, 50]
    assert len(packets) <= 34


@pytest.mark.parametrize(("name", "decoded"), [("intra only", 6), ("GOP of 3", 18)])
def test_only_frames_that_are_needed_are_decoded(tmp_path, monkeypatch, name, decoded):
    path = write_numbered(tmp_path / "video", SKIPPED[name])
    reader = open_video(path, "pyav")
    outputs = []
    original = pyav_reader._DecodeRun._decoded_frames

    def record(run):
        for item in original(run):
            outputs.append(item)
            yield item

    monkeypatch.setattr(pyav_reader._DecodeRun, "_decoded_frames", record)
    assert numbers(reader.frames(np.arange(5, 41, 6))) == [5, 11, 17, 23, 29, 35]
    assert len(outputs) <= decoded + 1


# H.264, VP9 and MPEG-4 in MP4 and AVI, written by other programs.
OTHER_VIDEOS = [
    *("video/demo.mp4", "video/test.mp4", "video/demo_spatiotemporal_det.mp4"),
    *("people/street.avi", "people/two_people.mp4", "people/walking.mp4"),
]


@pytest.mark.parametrize("name", OTHER_VIDEOS)
def test_random_frames_of_videos_from_other_programs(monkeypatch, name):
    """Frames are those of a complete decoding of the file by PyAV."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs the real file ../shared/{name}, next to the repository")
    monkeypatch.setattr(pyav_reader, "_STEPS_BACK", (0,))  # no further attempts, which skip nothing
    reader = open_video(path, "pyav", short_side=32)
    assert reader.index.closed_gops
    with av.open(str(path)) as container:
        decoded = [(frame.pts, reader._convert(frame)) for frame in container.decode(video=0)]
    assert reader.index.pts.tolist() == [pts for pts, _ in decoded]
    expected = np.stack([frame for _, frame in decoded])
    rng = np.random.default_rng(0)
    # Frames anywhere, every third frame of a clip, and the last frame of each GOP.
    anywhere = rng.choice(len(expected), 8, replace=False)
    clip = np.arange(0, 46, 3) + rng.integers(len(expected) - 46)
    ends = np.append(np.searchsorted(reader.index.pts, reader.index.key_pts)[1:], len(expected)) - 1
    for wanted in (anywhere, clip, ends):
        assert np.array_equal(reader.frames(wanted), expected[wanted])
