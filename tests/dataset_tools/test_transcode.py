"""Resizing of videos: frame times, colors and orientation are kept, and damaged videos are reported."""

import os
from dataclasses import replace

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace
from dataset_sites import write_video
from numbered_videos import Recipe, numbers, write_numbered

from vmae_det.cli.main import main
from vmae_det.dataset_tools.prepare.transcode import resize_video, resized_shape
from vmae_det.video.probe import probe_video
from vmae_det.video.readers import open_video
from vmae_det.video.readers.video_file import (
    Orientation,
    is_non_reference,
    nal_length_size,
    orientation_of,
)


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_resizing_keeps_the_times_and_the_frames(tmp_path, suffix):
    times = [120, 160, 200, 320, 360, 400, 520, 560]
    source = write_video(tmp_path / f"source{suffix}", size=(128, 96), times=times)
    target = tmp_path / "deep" / "target.mp4"
    assert resize_video(source, target, 64) == ""
    before, after = open_video(source, "pyav"), open_video(target, "pyav")
    assert after.times == pytest.approx((np.array(times) - times[0]) / 1000, abs=1e-3)
    with av.open(str(target)) as file:
        assert next(file.decode(video=0)).pts == 0
    old, new = before.frames(np.arange(8)), after.frames(np.arange(8))
    assert new.shape == (8, 64, 86, 3)
    assert old.mean(axis=(1, 2, 3)) == pytest.approx(new.mean(axis=(1, 2, 3)), abs=2)
    with av.open(str(target)) as file:
        assert [(stream.type, stream.codec_context.name) for stream in file.streams] == [("video", "h264")]


@pytest.mark.parametrize("pixels", ["yuv420p", "yuvj420p"])
@pytest.mark.parametrize("colorspace", [Colorspace.ITU601, Colorspace.ITU709])
def test_resizing_keeps_the_colors(tmp_path, pixels, colorspace):
    """For videos in limited and full range, tagged with either color space."""
    colors = np.array([[220, 30, 40], [20, 200, 60], [30, 50, 230], [250, 250, 250]], dtype=np.uint8)
    image = colors.reshape(2, 2, 3).repeat(48, axis=0).repeat(64, axis=1)
    full = pixels == "yuvj420p"
    source, target = tmp_path / "source.mp4", tmp_path / "target.mp4"
    with av.open(str(source), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, pixels
        stream.codec_context.colorspace = colorspace
        stream.codec_context.color_range = ColorRange.JPEG if full else ColorRange.MPEG
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame = frame.reformat(
            format=pixels, dst_colorspace=colorspace, dst_color_range=stream.codec_context.color_range
        )
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    assert resize_video(source, target, 48) == ""
    decoded = [open_video(path, "pyav").frames(np.array([0]))[0] for path in (source, target)]
    displayed = [
        frame[height // 4 :: height // 2, width // 4 :: width // 2].reshape(4, 3).astype(int)
        for frame in decoded
        for height, width in [frame.shape[:2]]
    ]
    assert np.abs(displayed[0] - colors).max() <= 4
    assert np.abs(displayed[1] - displayed[0]).max() <= 4


@pytest.mark.skipif(not hasattr(av.VideoStream, "set_display_rotation"), reason="PyAV before 18.1")
@pytest.mark.parametrize(("rotation", "mirrored"), [(90, False), (180, False), (270, True)])
def test_a_rotated_video_becomes_an_upright_file(tmp_path, rotation, mirrored):
    recipe = Recipe(rotation=rotation, mirrored=mirrored, count=6, size=(160, 96))
    source = write_numbered(tmp_path / "source", recipe)
    target = tmp_path / "target.mp4"
    assert resize_video(source, target, 64) == ""
    with av.open(str(target)) as file:
        stored = next(file.decode(video=0))
        assert orientation_of(stored) == Orientation()
    frames = open_video(target).frames(np.arange(6))
    assert frames.shape[1:3] == (stored.height, stored.width) == ((106, 64) if rotation % 180 else (64, 106))
    assert numbers(frames) == list(range(6))


def test_resizing_never_enlarges_and_returns_even_sizes():
    assert resized_shape(320, 240, 320) == (320, 240)
    assert resized_shape(1281, 721, 320) == (568, 320)
    assert resized_shape(240, 427, 120) == (120, 214)


def test_resizing_a_video_with_damaged_frames(tmp_path):
    source = write_video(tmp_path / "source.mp4", frames=8)
    content = bytearray(source.read_bytes())
    with av.open(str(source)) as file:
        ranges = [(packet.pos, packet.pos + packet.size) for packet in file.demux(video=0) if packet.size]
    for begin, end in ranges[2:6]:
        content[begin:end] = b"\xff" * (end - begin)
    source.write_bytes(content)
    problem = resize_video(source, tmp_path / "target.mp4", 48)
    assert "decoded" in problem
    assert os.listdir(tmp_path) == ["source.mp4"]


def test_resizing_a_video_that_ends_early(tmp_path, monkeypatch):
    source = write_video(tmp_path / "source.mp4")
    facts = replace(probe_video(str(source)), frames=100)
    monkeypatch.setattr("vmae_det.dataset_tools.prepare.transcode.probe_video", lambda path, decode: facts)
    assert resize_video(source, tmp_path / "target.mp4", 48) == "only 8 of its 100 frames can be decoded"
    assert os.listdir(tmp_path) == ["source.mp4"]


@pytest.mark.parametrize(("gop", "keys"), [(16, [0, 16, 32, 48]), (1, list(range(60)))])
def test_resized_videos_are_fast_to_decode(tmp_path, gop, keys):
    source = write_numbered(tmp_path / "source", Recipe())
    target = tmp_path / "target.mp4"
    assert resize_video(source, target, 48, gop) == ""
    reader = open_video(target, "pyav")
    assert np.searchsorted(reader.index.pts, reader.index.key_pts).tolist() == keys
    assert reader.index.closed_gops
    with av.open(str(target)) as file:
        length = nal_length_size(file.streams.video[0])
        dropped = sum(is_non_reference(packet, length) for packet in file.demux(video=0) if packet.size)
    assert dropped == (0 if gop == 1 else 41)  # of 60
    assert numbers(reader.frames(np.arange(60))) == list(range(60))


def test_a_folder_of_videos_is_resized_and_resumed(tmp_path, capsys):
    videos, output = tmp_path / "videos", tmp_path / "small"
    (videos / "deep").mkdir(parents=True)
    write_numbered(videos / "a", Recipe(count=20))
    write_numbered(videos / "deep" / "b", Recipe(count=20, suffix=".mkv"))
    (videos / "broken.mp4").write_text("no video")
    command = ["resize", str(videos), "--output", str(output), "--short-side", "48", "--workers", "1"]
    assert main(command) == 1
    assert "broken.mp4: cannot be read as a video" in capsys.readouterr().out
    assert sorted(path.relative_to(output).as_posix() for path in output.rglob("*.mp4")) == [
        "a.mp4",
        "deep/b.mp4",
    ]
    frames = open_video(output / "deep" / "b.mp4").frames(np.arange(20))
    assert frames.shape[1:3] == (48, 72)
    assert numbers(frames) == list(range(20))
    written = (output / "a.mp4").stat().st_mtime_ns
    (output / "deep" / "b.mp4").unlink()
    assert main([*command, "--max-bad", "0.5"]) == 0
    assert (output / "deep" / "b.mp4").exists()
    assert (output / "a.mp4").stat().st_mtime_ns == written


def test_outputs_of_resize_that_would_be_confused(tmp_path, capsys):
    videos = tmp_path / "videos"
    videos.mkdir()
    write_numbered(videos / "a", Recipe(count=4))
    output = tmp_path / "small"
    output.mkdir()
    (output / ".journal_resize_256_gop_1.jsonl").touch()
    assert main(["resize", str(videos), "--output", str(output)]) == 2
    assert "has videos of --short-side 256 --gop 1" in capsys.readouterr().err
    assert main(["resize", str(videos), "--output", str(videos)]) == 2
    assert "is the folder of videos" in capsys.readouterr().err
    assert main(["resize", str(videos), "--output", str(tmp_path)]) == 2
    assert f"{tmp_path} contains the folder of videos" in capsys.readouterr().err
    (videos / "a.webm").touch()
    assert main(["resize", str(videos), "--output", str(tmp_path / "other")]) == 2
    assert "a.mp4 and a.webm would both be written to a.mp4" in capsys.readouterr().err
