"""All commands find the same file for a video id."""

import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from vmae_det.cli import main as cli_main
from vmae_det.dataset_tools.prepare.files import VideoIndex
from vmae_det.utils.errors import DataError
from vmae_det.video.discovery import resolve_video_ids, videos_by_id


def make(folder, *names):
    """Create empty files, and for names that end in a slash folders with an image."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir()
            Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path / "1.png")
        else:
            path.write_bytes(b"")
    return folder


def for_training(folder):
    return resolve_video_ids(np.array(["a"], dtype=object), folder)[0]


def for_importers(folder):
    return videos_by_id(folder).get("a")


def for_prepare(folder):
    return VideoIndex(folder).find("a")


@pytest.mark.parametrize("find", [for_training, for_importers, for_prepare])
@pytest.mark.parametrize(
    ("other", "named"),
    [
        ("a.webm", "a.mp4 and a.webm"),
        ("a.MP4", "a.MP4 and a.mp4"),
        ("a/", "(a and a.mp4|a.mp4 and a)"),
        ("videos_15min/a.mp4", "(videos/a.mp4 and videos_15min/a.mp4)"),
    ],
)
def test_two_files_of_one_id_are_both_reported(tmp_path, find, other, named):
    if "/a" in other and find is not for_prepare:
        pytest.skip("looks into the folder itself")
    first = "videos/a.mp4" if "/a" in other else "a.mp4"
    folder = make(tmp_path / "videos", first, "b.mp4", "c.mp4", "c.webm", other)
    expected = f"{re.escape(str(folder))}: the video 'a' exists twice: {named}; keep one"
    with pytest.raises(DataError, match=expected):
        find(folder)


@pytest.mark.parametrize("find", [for_training, for_importers, for_prepare])
def test_other_ids_and_links_to_one_file_are_accepted(tmp_path, find):
    folder = make(tmp_path / "videos", "a.mp4", "b.mp4", "b.webm")
    os.symlink("a.mp4", folder / "a.mkv")
    assert str(find(folder)).endswith(("a.mkv", "a.mp4"))


def test_file_in_a_preferred_folder_is_chosen(tmp_path):
    folder = make(tmp_path / "videos", "run/a.avi", "walk/a.avi", "walk/a.mp4")
    assert VideoIndex(folder).find("a", "run") == "run/a.avi"
    with pytest.raises(DataError, match=r"walk/a.avi and walk/a.mp4"):
        VideoIndex(folder).find("a", "walk", "run")


def test_check_data_reports_the_same_error_as_training(mini_ava, tmp_path, capsys):
    folder = shutil.copytree(mini_ava, tmp_path / "mini_ava")
    ids = {line.split(",")[0] for line in (folder / "annotations/mini_ava_val.csv").read_text().splitlines()}
    video = next(path for path in sorted((folder / "videos").iterdir()) if path.stem in ids)
    shutil.copy(video, video.with_suffix(".webm"))
    assert cli_main.main(["check-data", str(folder / "val.yaml"), "--decode", "none"]) == 2
    error = capsys.readouterr().err
    assert f"the video '{video.stem}' exists twice: {video.name} and {video.stem}.webm" in error
