from fractions import Fraction

import av
import numpy as np
import pytest
from conftest import SHARED

from vmae_det.utils.errors import ConfigError, DataError
from vmae_det.video.readers import open_video

READERS = ["decord", "pyav"]


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """40 frames at 20 fps. Frame k has the gray level 5 * k + 20, which identifies it."""
    path = tmp_path_factory.mktemp("video") / "numbered.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=20, options={"crf": "10", "g": "12", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for k in range(40):
            image = np.full((48, 64, 3), 5 * k + 20, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def numbers(frames):
    return [round((float(frame.mean()) - 20) / 5) for frame in frames]


@pytest.mark.parametrize("reader", READERS)
def test_requested_frames(numbered, reader):
    video = open_video(numbered, reader)
    assert len(video) == 40
    assert video.rate == Fraction(20)
    frames = video.frames(np.arange(40))
    assert frames.shape == (40, 48, 64, 3)
    assert frames.dtype == np.uint8
    assert numbers(frames) == list(range(40))
    for indices in ([3], [39, 0], [17, 17, 5], [11, 12, 13], [30, 36]):
        assert numbers(video.frames(np.array(indices))) == indices


@pytest.mark.parametrize("reader", READERS)
def test_nearest_frame(numbered, reader):
    video = open_video(numbered, reader)
    assert [video.index_at(seconds) for seconds in (0, 0.5, 0.51, 1.95)] == [0, 10, 10, 39]
    for outside in (-1, 2.5):
        with pytest.raises(DataError, match=r"outside the video, whose last frame starts at second 1\.950"):
            video.index_at(outside)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("content", [b"", b"not a video at all\n" * 100])
def test_file_that_is_not_a_video(tmp_path, reader, content):
    path = tmp_path / "fake.mp4"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"fake\.mp4: cannot be read as a video"):
        open_video(path, reader)


def test_missing_video_and_unknown_reader(tmp_path, numbered):
    with pytest.raises(DataError, match="no such video file"):
        open_video(tmp_path / "gone.mp4")
    with pytest.raises(ConfigError, match=r"DATALOADER\.READER: got 'decrod'.*did you mean 'decord'"):
        open_video(numbered, "decrod")


@pytest.mark.parametrize("name", ["demo.mp4", "test.mp4", "demo_spatiotemporal_det.mp4"])
def test_readers_agree_on_real_videos(name):
    path = SHARED / "video" / name
    if not path.exists():
        pytest.skip("the real clips in ../shared/video, next to the repository, are not available")
    first, second = (open_video(path, reader) for reader in READERS)
    assert len(first) == len(second)
    assert float(first.rate) == pytest.approx(float(second.rate), rel=1e-3)
    np.testing.assert_allclose(first.times, second.times - second.times[0] + first.times[0], atol=1e-3)
    indices = np.array([0, 7, 20, 33])
    difference = np.abs(first.frames(indices).astype(int) - second.frames(indices).astype(int))
    assert difference.mean() < 3  # two conversions to RGB
