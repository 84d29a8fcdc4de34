import json
from fractions import Fraction

import numpy as np
import pytest
from numbered_videos import numbered_frame, numbers
from PIL import Image

from vmae_det.cli.main import main
from vmae_det.formats.ava_csv import read_action_csv
from vmae_det.utils.errors import ConfigError, DataError
from vmae_det.video.probe import probe_video
from vmae_det.video.readers import base, open_video
from vmae_det.video.readers.image_folder import image_size


@pytest.fixture(autouse=True)
def no_warnings_yet(monkeypatch):
    monkeypatch.setattr(base, "_warned", set())


@pytest.fixture
def folder(tmp_path):
    """Twelve frames of 96 x 64 pixels, named as by SlowFast, with numbers that do not sort as text."""
    path = tmp_path / "1j20qq1JyX4"
    path.mkdir()
    for number in range(12):
        Image.fromarray(numbered_frame(number, 96, 64)).save(path / f"{path.name}_{number + 1}.jpg")
    (path / "notes.txt").write_text("no frame")
    return path


@pytest.mark.parametrize("reader", ["auto", "images", "pyav"])
def test_frames_are_in_natural_order(folder, reader):
    video = open_video(folder, reader)
    assert len(video) == 12
    assert numbers(video.frames(np.arange(12))) == list(range(12))
    assert numbers(video.frames([11, 2, 2])) == [11, 2, 2]
    assert video.frames([0]).shape == (1, 64, 96, 3)


def test_frame_rate(folder):
    assert open_video(folder).rate == 30
    assert open_video(folder, rate=12.5).rate == Fraction(25, 2)
    assert open_video(folder, rate=10).index_at(1.0) == 10
    (folder / "rate.txt").write_text("30000/1001\n")
    assert open_video(folder, rate=10).rate == Fraction(30000, 1001)
    for wrong in ("", "fast", "0", "-5", "1/0", "nan", "1e400", "1e999999999"):
        (folder / "rate.txt").write_text(wrong)
        with pytest.raises(DataError, match=r"rate\.txt: expected frames per second"):
            open_video(folder)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_frames_are_reduced_to_the_needed_size(tmp_path, suffix):
    Image.fromarray(numbered_frame(77, 480, 320)).save(tmp_path / f"img_00001{suffix}")
    frames = open_video(tmp_path, short_side=64).frames([0])
    assert frames.shape == (1, 64, 96, 3)
    assert numbers(frames) == [77]
    assert open_video(tmp_path, short_side=500).frames([0]).shape == (1, 320, 480, 3)


def test_gray_images_become_rgb(tmp_path):
    Image.fromarray(numbered_frame(5, 96, 64)).convert("L").save(tmp_path / "1.png")
    assert numbers(open_video(tmp_path).frames([0])) == [5]


def test_16_bit_images(tmp_path):
    gray = numbered_frame(5, 96, 64)[..., 0]
    Image.fromarray(gray.astype(np.uint16) * 256).save(tmp_path / "1.png")
    np.testing.assert_array_equal(open_video(tmp_path).frames([0])[0, :, :, 1], gray)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_exif_orientation(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6  # displayed rotated by 90 degrees clockwise
    stored = Image.fromarray(np.rot90(numbered_frame(77, 480, 320)))
    stored.save(tmp_path / f"1{suffix}", exif=exif)
    for short_side, shape in ((None, (320, 480, 3)), (64, (64, 96, 3))):
        frames = open_video(tmp_path, short_side=short_side).frames([0])
        assert frames.shape[1:] == shape
        assert numbers(frames) == [77]
    assert image_size(tmp_path / f"1{suffix}") == (480, 320)


def test_frame_that_exists_twice(folder):
    (folder / f"{folder.name}_3.png").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"1j20qq1JyX4: 1j20qq1JyX4_3\.jpg and 1j20qq1JyX4_3\.png are the same frame"
    ):
        open_video(folder)


def test_numbers_beyond_64_bits(tmp_path):
    for number in (0, 1, 3):
        Image.fromarray(numbered_frame(number, 96, 64)).save(tmp_path / f"{10**30 + number}.png")
    np.testing.assert_allclose(open_video(tmp_path).times, [0, 1 / 30, 3 / 30])


def test_broken_folders(folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="empty: contains no images"):
        open_video(empty)
    with pytest.raises(ConfigError, match=r"READER: images reads folders, but .*notes\.txt is a file"):
        open_video(folder / "notes.txt", "images")
    video = open_video(folder)
    third = folder / f"{folder.name}_3.jpg"
    complete = third.read_bytes()
    for content in (b"", b"text", complete[:-300]):
        third.write_bytes(content)
        with pytest.raises(DataError, match=r"_3\.jpg: cannot be read as an image: "):
            video.frames([1, 2])
    Image.fromarray(numbered_frame(2, 90, 64)).save(third)
    with pytest.raises(DataError, match=r"_3\.jpg: got 90 x 64 pixels, expected 96 x 64"):
        video.frames([1, 2])
    third.unlink()
    with pytest.raises(DataError, match=r"_3\.jpg: cannot be read as an image: .*No such file"):
        video.frames([2])


def numbered(folder, numbers_, name="img_{:05d}.png"):
    folder.mkdir()
    for number in numbers_:
        Image.fromarray(numbered_frame(number, 96, 64)).save(folder / name.format(number))
    return folder


def test_missing_images(tmp_path, caplog):
    there = [*range(1, 11), *range(18, 31)]
    video = open_video(numbered(tmp_path / "walk1", there))
    np.testing.assert_allclose(video.times, (np.array(there) - 1) / 30)
    assert numbers(video.frames([video.index_at(17 / 30), len(video) - 1])) == [18, 30]
    assert "walk1: 7 images are missing among its 23" in caplog.text
    info = probe_video(str(tmp_path / "walk1"))
    assert (info.frames, info.seconds) == (23, pytest.approx(1.0))


@pytest.mark.parametrize(
    ("there", "name", "warned"),
    [
        (range(0, 60, 10), "img_{:05d}.png", False),  # every tenth frame
        ([1000, 1033, 1067, 1100], "{}.png", True),  # milliseconds
        ([1, 2, 4], "a{0}_b{0}.png", False),
        ([5], "{}.png", False),
    ],
)
def test_numbers_that_are_not_frame_numbers(tmp_path, caplog, there, name, warned):
    video = open_video(numbered(tmp_path / "v", there, name))
    np.testing.assert_allclose(video.times, np.arange(len(there)) / 30)
    assert bool(caplog.records) == warned


def test_boxes_of_a_folder_with_a_gap_are_on_their_images(tmp_path):
    """Frame numbers of annotations, times of the import, and frames of the reader agree."""
    there = [*range(10), *range(16, 30)]
    numbered(tmp_path / "walk1", there)
    size = {"width": 96, "height": 64}
    marked = [0, 8, 16, 25]
    images = [{"id": n, "file_name": f"walk1/img_{n:05d}.png", **size} for n in marked]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [n, 10, 20, 30]} for n in marked]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "walk"}]}
    (tmp_path / "gap.json").write_text(json.dumps(content))
    for number, rate in enumerate(([], ["--rate", "30"])):
        out = tmp_path / f"out{number}"
        command = ["import", str(tmp_path / "gap.json"), "--output", str(out), "--videos", str(tmp_path)]
        assert main([*command, "--every", "0.01", *rate]) == 0
        rows = read_action_csv(next(out.glob("*.csv")))
        video = open_video(tmp_path / "walk1")
        read_numbers = numbers(video.frames([video.index_at(time) for time in rows.timestamp]))
        assert read_numbers == np.rint(rows.boxes[:, 0] * 96).tolist() == marked
