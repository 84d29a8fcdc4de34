"""Damaged and unusual files: one DataError with file and cause, or the right frames; no output; no leak."""

import gc
import os
import resource
from pathlib import Path

import av
import numpy as np
import pytest
from numbered_videos import Recipe, numbers, write_numbered, x264
from odd_videos import ODD, REASONS, UNREADABLE

from vmae_det.utils.errors import DataError
from vmae_det.video.readers import open_video
from vmae_det.video.readers.base import VideoLocation

READERS = ["decord", "pyav"]
CLOSED = Recipe(options=x264(keyint=12, bframes=2))


@pytest.fixture(autouse=True)
def silence(capfd):
    """Fail if FFmpeg, swscale or decord write to the file descriptors of the terminal."""
    yield
    out, err = capfd.readouterr()
    assert out + err == ""


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    return write_numbered(tmp_path_factory.mktemp("intact") / "intact", CLOSED)


@pytest.mark.parametrize("reader", READERS)
def test_file_deleted_after_it_was_found(tmp_path, reader):
    path = tmp_path / "gone.mp4"
    with pytest.raises(DataError, match=r"gone\.mp4: no such video file"):
        open_video(VideoLocation(path, path), reader)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", UNREADABLE)
def test_files_that_are_not_videos(tmp_path, name, reader):
    path = UNREADABLE[name](tmp_path / "fake")
    with pytest.raises(DataError, match=rf"fake\.mp4: cannot be read as a video: .*({REASONS[name]})"):
        open_video(path, reader)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ODD)
def test_unusual_videos(tmp_path, name, reader):
    video = open_video(ODD[name](tmp_path / "odd"), reader)
    wanted = [0, len(video) // 2, len(video) - 1]
    assert numbers(video.frames(wanted)) == wanted


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".avi", ".ts"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
def test_truncated(tmp_path, reader, suffix, share):
    codec = {".webm": ("libvpx-vp9", {"g": "12", "deadline": "realtime"}), ".avi": ("mpeg4", {"g": "12"})}
    codec, options = codec.get(suffix, ("libx264", x264(keyint=12, bframes=2)))
    path = write_numbered(tmp_path / "complete", Recipe(suffix=suffix, codec=codec, options=options))
    data = path.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(data[: int(len(data) * share)])
    count_correct_frames(cut, reader)


@pytest.mark.parametrize("live", [0, 1])  # 1: neither the duration nor the size of a cluster is stated
def test_truncated_matroska_is_a_warning(tmp_path, caplog, live):
    path, copy = write_numbered(tmp_path / "v", CLOSED), tmp_path / "copy.mkv"
    with av.open(str(path)) as source, av.open(str(copy), "w", options={"live": str(live)}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    open_video(copy)
    copy.write_bytes(copy.read_bytes() + b"\0" * 100)
    open_video(copy)
    assert caplog.text == ""
    copy.write_bytes(copy.read_bytes()[: copy.stat().st_size // 2])
    seconds = open_video(copy).times[-1]
    assert f"copy.mkv: truncated; its frames end at second {seconds:.1f}" in caplog.text


@pytest.mark.parametrize("reader", READERS)
def test_truncated_after_its_index(tmp_path, reader):
    """The index at the front of an mp4 lists frames that are missing."""
    path = tmp_path / "cut.mp4"
    complete = write_numbered(tmp_path / "complete", CLOSED)
    with av.open(str(complete)) as source, av.open(str(path), "w", options={"movflags": "faststart"}) as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                copy.mux(packet)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    right = count_correct_frames(path, reader)
    assert 15 < right < 60


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["h264", "open GOP", "mpeg4"])
def test_flipped_bits(tmp_path, name, seed, reader):
    recipe = {
        "h264": CLOSED,
        "open GOP": Recipe(suffix=".mkv", options=x264(keyint=12, bframes=3, open_gop=1)),
        "mpeg4": Recipe(codec="mpeg4", options={"g": "12", "bf": "2"}),
    }[name]
    path = write_numbered(tmp_path / "flipped", recipe)
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size > 20]
    data, rng = bytearray(path.read_bytes()), np.random.default_rng(seed)
    middle = packets[len(packets) // 4 : -len(packets) // 4]
    for position in rng.choice(len(middle), 4, replace=False):
        start, size = middle[position]
        for offset in rng.integers(8, size, 6):
            data[start + offset] ^= 1 << rng.integers(8)
    path.write_bytes(data)
    # decord silently replaces some frames by their neighbors.
    right = count_correct_frames(path, reader, may_repair=reader == "decord")
    assert right >= 15
    if reader == "pyav":
        video = open_video(path, reader)
        indices, frames = zip(*video.stream())
        assert numbers(frames) == np.rint(video.times[list(indices)] * CLOSED.rate).tolist()
        assert len(indices) >= 15


def count_correct_frames(path, reader, may_repair=False):
    """Return the number of frames that are correct for their times. All others must raise a clear error."""
    try:
        video = open_video(path, reader)
    except DataError as error:
        assert_clear(error, path)
        return 0
    right = wrong = 0
    for index in np.random.default_rng(0).permutation(len(video)):
        try:
            number = numbers(video.frames([index]))[0]
        except DataError as error:
            assert_clear(error, path)
            continue
        is_right = number == round(video.times[index] * CLOSED.rate)
        right += is_right
        wrong += not is_right
    assert may_repair or not wrong
    return right


def assert_clear(error, path):
    text = str(error)
    assert text.startswith(f"{path}: ")
    assert text.count(path.name) == 1
    assert "\n" not in text


@pytest.mark.parametrize("reader", READERS)
def test_long_video_of_few_bytes(tmp_path, reader):
    path = write_numbered(tmp_path / "long", Recipe(count=3000, size=(64, 64), options=x264(keyint=250)))
    video = open_video(path, reader)
    assert len(video) == 3000
    indices = [2999, 0, 1500, 1501, 249, 250]
    assert numbers(video.frames(indices)) == indices


@pytest.mark.parametrize("reader", READERS)
def test_deleted_file(tmp_path, intact, reader):
    path = tmp_path / "here.mp4"
    path.write_bytes(intact.read_bytes())
    video = open_video(path, reader)
    path.unlink()
    assert numbers(video.frames([30, 59])) == [30, 59]  # the open file remains readable
    with pytest.raises(DataError, match=r"here\.mp4: no such video file"):
        open_video(path, reader)


@pytest.mark.parametrize("reader", READERS)
def test_replaced_file(tmp_path, intact, reader):
    path = tmp_path / "here.mp4"
    path.write_bytes(intact.read_bytes())
    assert len(open_video(path, reader)) == 60
    write_numbered(path, Recipe(count=20))
    assert numbers(open_video(path, reader).frames([19])) == [19]


@pytest.mark.parametrize("reader", READERS)
def test_index_out_of_range(intact, reader):
    video = open_video(intact, reader)
    for index in (-1, 60):
        with pytest.raises(DataError, match=rf"frame {index} is out of range for a video of 60 frames"):
            video.frames([0, index])


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", ["concat:a.mp4", "100%d.mp4", "a b'c\"ü.mp4", "http:x.mp4"])
def test_unusual_file_names(tmp_path, intact, name, reader):
    path = tmp_path / name
    path.write_bytes(intact.read_bytes())
    assert numbers(open_video(path, reader).frames([7])) == [7]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measures memory through /proc")
def test_many_files_in_sequence(tmp_path, reader):
    """Neither memory nor the number of open files grows."""
    path = write_numbered(tmp_path / "v", Recipe(size=(640, 360), options=x264(keyint=12, bframes=2)))

    def read(times):
        for _ in range(times):
            assert len(open_video(path, reader).frames([3, 40])) == 2
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20, len(os.listdir("/proc/self/fd"))

    gc.collect()
    memory, files = zip(read(30), read(170), read(170))
    # Each leak would cost 100 MB or more. Fragmentation of the allocator occurs only once.
    assert min(np.diff(memory)) < 40
    assert files[0] == files[2]
