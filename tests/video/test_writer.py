import logging
from fractions import Fraction

import av
import numpy as np
import pytest
from av.video.reformatter import Colorspace

from vmae_det.utils.errors import DataError, UserError
from vmae_det.video.writer import VideoWriter

RATE = 44100
BEEP = 1.5  # seconds at which the audio of the source starts


def write_source(path, codec="aac", container="mp4", seconds=3):
    """A video whose gray level increases from frame to frame, with a tone that starts at `BEEP`."""
    with av.open(str(path), "w", format=container) as file:
        video = file.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = file.add_stream(codec, rate=RATE, layout="mono")
        audio.bit_rate = 64000
        for i in range(25 * seconds):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 3 * i, np.uint8), format="rgb24")
            file.mux(video.encode(frame))
        clock = np.arange(seconds * RATE) / RATE
        tone = np.where(clock < BEEP, 0, 20000 * np.sin(2 * np.pi * 440 * clock)).astype(np.int16)
        resampler = av.AudioResampler(format=audio.codec_context.format, layout="mono", rate=RATE)
        for start in range(0, len(tone), 1024):
            frame = av.AudioFrame.from_ndarray(tone[None, start : start + 1024], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
            for converted in resampler.resample(frame):
                file.mux(audio.encode(converted))
        file.mux(video.encode(None))
        file.mux(audio.encode(None))
    return path


def sound_of(path):
    """Times in seconds and samples of the audio as played."""
    times, samples = [], []
    with av.open(str(path)) as file:
        for frame in file.decode(audio=0):
            samples.append(frame.to_ndarray()[0])
            times.append(frame.time + np.arange(frame.samples) / frame.sample_rate)
    return np.concatenate(times), np.concatenate(samples)


def frames_of(path):
    with av.open(str(path)) as file:
        frames = list(file.decode(video=0))
    # PyAV before 17 uses a color space only if it is passed and differs from that of the result.
    spaces = {"src_colorspace": Colorspace.ITU709, "dst_colorspace": Colorspace.ITU601}
    return [(frame.time, frame.reformat(format="rgb24", **spaces).to_ndarray()) for frame in frames]


def write_frames(path, count=20, height=48, width=64, fps=Fraction(30000, 1001), audio_from=None, times=None):
    with VideoWriter(path, width, height, fps, audio_from) as writer:
        for i in range(count):
            frame = np.full((height, width, 3), (10 * i, 60, 200), np.uint8)
            writer.write(frame, None if times is None else times[i])
    return path


@pytest.mark.parametrize("fps", [Fraction(30000, 1001), Fraction(28), Fraction(15, 2)])
def test_frames_rate_and_colors_are_kept(tmp_path, fps):
    path = write_frames(tmp_path / "made" / "video.mp4", fps=fps)
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == fps
        assert not file.streams.audio
    frames = frames_of(path)
    assert len(frames) == 20
    for i, (time, frame) in enumerate(frames):
        assert time == pytest.approx(i / fps, abs=1e-4)
        assert np.abs(frame.mean(axis=(0, 1)) - (10 * i, 60, 200)).max() < 4
    with av.open(str(path)) as file:
        assert next(file.decode(video=0)).colorspace == Colorspace.ITU709
    content = path.read_bytes()
    assert content.find(b"moov") < content.find(b"mdat")
    assert [p.name for p in path.parent.iterdir()] == ["video.mp4"]


def test_odd_sizes_are_padded_by_repeating_the_border(tmp_path):
    frames = frames_of(write_frames(tmp_path / "odd.mp4", height=49, width=65))
    assert frames[5][1].shape == (50, 66, 3)
    assert np.abs(frames[5][1][-1, -1] - np.array((50, 60, 200))).max() < 6


def test_uneven_frame_times_are_kept(tmp_path):
    times = [10.0, 10.04, 10.2, 10.24, 10.5, 10.5, 10.6]  # one is duplicated, as by some cameras
    written = [
        time for time, _ in frames_of(write_frames(tmp_path / "v.mp4", 7, fps=Fraction(25), times=times))
    ]
    assert np.allclose(written, np.subtract(times, 10), atol=0.002)
    assert all(np.diff(written) > 0)


def test_uneven_rate_of_a_real_file_is_accepted(tmp_path):
    path = write_frames(tmp_path / "v.mp4", fps=Fraction(123456789, 4115226))
    with av.open(str(path)) as file:
        assert float(file.streams.video[0].average_rate) == pytest.approx(30, rel=1e-3)


@pytest.mark.parametrize("start", [0.0, 1.0])
def test_audio_is_copied_in_sync_with_the_frames(tmp_path, start):
    source = write_source(tmp_path / "source.mp4")
    times = [start + i / 25 for i in range(45)]
    path = write_frames(tmp_path / "v.mp4", 45, fps=Fraction(25), audio_from=source, times=times)
    with av.open(str(path)) as file:
        assert file.streams.audio[0].codec_context.name == "aac"
        assert file.duration / av.time_base == pytest.approx(1.8, abs=0.05)
    assert len(frames_of(path)) == 45
    clock, samples = sound_of(path)
    loud = clock[np.abs(samples) > 0.2]
    assert loud[0] == pytest.approx(BEEP - start, abs=0.03)
    assert loud[-1] == pytest.approx(1.8, abs=0.05)


def test_source_without_audio_gives_a_silent_video(tmp_path):
    source = write_frames(tmp_path / "silent.mp4")
    with av.open(str(write_frames(tmp_path / "v.mp4", audio_from=source))) as file:
        assert not file.streams.audio


def test_unsupported_audio_is_skipped_with_a_warning(tmp_path, caplog):
    source = write_source(tmp_path / "source.wmv", codec="wmav2", container="asf")
    with caplog.at_level(logging.WARNING):
        path = write_frames(tmp_path / "v.mp4", audio_from=source)
    with av.open(str(path)) as file:
        assert not file.streams.audio
    assert "wmav2" in caplog.text


def test_interrupted_writing_leaves_no_files(tmp_path):
    path = tmp_path / "v.mp4"
    path.write_text("an earlier result")

    def frames():
        yield np.zeros((48, 64, 3), np.uint8)
        raise KeyboardInterrupt

    def write():
        with VideoWriter(path, 64, 48, Fraction(25)) as writer:
            for frame in frames():
                writer.write(frame)

    with pytest.raises(KeyboardInterrupt):
        write()
    assert [p.name for p in tmp_path.iterdir()] == ["v.mp4"]
    assert path.read_text() == "an earlier result"


def test_no_frame_is_an_error_and_leaves_no_file(tmp_path):
    with pytest.raises(DataError, match="no frame"):
        write_frames(tmp_path / "v.mp4", count=0)
    assert not list(tmp_path.iterdir())


def test_frame_of_another_size_is_an_error(tmp_path):
    with (
        pytest.raises(DataError, match=r"\(32, 64, 3\), expected uint8 \(48, 64, 3\)"),
        VideoWriter(tmp_path / "v.mp4", 64, 48, Fraction(25)) as writer,
    ):
        writer.write(np.zeros((32, 64, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"v\.mp4: cannot be written"):
        write_frames(tmp_path / "file" / "v.mp4")


@pytest.mark.parametrize("content", [None, b"no video at all"])
def test_unreadable_audio_source_leaves_no_file(tmp_path, content):
    source = tmp_path / "source.mp4"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(DataError, match=r"source\.mp4: cannot be opened"):
        write_frames(tmp_path / "v.mp4", audio_from=source)
    assert [p.name for p in tmp_path.iterdir() if p != source] == []


@pytest.mark.parametrize("name", ["a:b", "concat:x|y", "-y", "a%03d", 'it\'s "q"', "a\nb"])
def test_names_with_special_meanings_are_files(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_source(tmp_path / "sound.mp4", seconds=1).rename(f"{name}_source.mp4")
    write_frames(f"{name}.mp4", count=2, audio_from=f"{name}_source.mp4")
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.mp4", f"{name}_source.mp4"}
    assert len(frames_of(tmp_path / f"{name}.mp4")) == 2
