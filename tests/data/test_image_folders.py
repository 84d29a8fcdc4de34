from fractions import Fraction

import numpy as np
import pytest
from numbered_videos import numbered_frame, numbers
from PIL import Image

from vmae_det.data.readers import open_video
from vmae_det.utils.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path):
    """Twelve frames named as SlowFast's, of 96 x 64 pixels, but with numbers that do not sort as text."""
    path = tmp_path / "1j20qq1JyX4"
    path.mkdir()
    for number in range(12):
        Image.fromarray(numbered_frame(number, 96, 64)).save(path / f"{path.name}_{number + 1}.jpg")
    (path / "notes.txt").write_text("no frame")
    return path


@pytest.mark.parametrize("reader", ["auto", "images", "pyav"])
def test_frames_in_natural_order(folder, reader):
    video = open_video(folder, reader)
    assert len(video) == 12
    assert numbers(video.frames(np.arange(12))) == list(range(12))
    assert numbers(video.frames([11, 2, 2])) == [11, 2, 2]
    assert video.frames([0]).shape == (1, 64, 96, 3)


def test_the_rate(folder):
    assert open_video(folder).rate == 30
    assert open_video(folder, rate=12.5).rate == Fraction(25, 2)
    assert open_video(folder, rate=10).index_at(1.0) == 10
    (folder / "rate.txt").write_text("30000/1001\n")
    assert open_video(folder, rate=10).rate == Fraction(30000, 1001)
    for wrong in ("", "fast", "0", "-5", "1/0", "nan"):
        (folder / "rate.txt").write_text(wrong)
        with pytest.raises(DataError, match=r"rate\.txt: expected frames per second"):
            open_video(folder)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_frames_at_the_needed_size(tmp_path, suffix):
    Image.fromarray(numbered_frame(77, 480, 320)).save(tmp_path / f"img_00001{suffix}")
    frames = open_video(tmp_path, short_side=64).frames([0])
    assert frames.shape == (1, 64, 96, 3)
    assert numbers(frames) == [77]
    assert open_video(tmp_path, short_side=500).frames([0]).shape == (1, 320, 480, 3)


def test_grey_pictures_become_colour(tmp_path):
    Image.fromarray(numbered_frame(5, 96, 64)).convert("L").save(tmp_path / "1.png")
    assert numbers(open_video(tmp_path).frames([0])) == [5]


def test_broken_folders(folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="empty: a folder without images"):
        open_video(empty)
    with pytest.raises(ConfigError, match=r"READER: images reads folders, and .*notes\.txt is a file"):
        open_video(folder / "notes.txt", "images")
    video = open_video(folder)
    third = folder / f"{folder.name}_3.jpg"
    whole = third.read_bytes()
    for content in (b"", b"text", whole[:-300]):
        third.write_bytes(content)
        with pytest.raises(DataError, match=r"_3\.jpg: cannot be read as an image: "):
            video.frames([1, 2])
    Image.fromarray(numbered_frame(2, 90, 64)).save(third)
    with pytest.raises(DataError, match=r"_3\.jpg: got 90 x 64 pixels, expected 96 x 64"):
        video.frames([1, 2])
    third.unlink()
    with pytest.raises(DataError, match=r"_3\.jpg: cannot be read as an image: .*No such file"):
        video.frames([2])
