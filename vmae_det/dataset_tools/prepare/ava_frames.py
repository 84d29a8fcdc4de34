"""SlowFast's extracted frames of AVA: a folder ID with images ID_000001.jpg, ID_000002.jpg, ..., 30 a second
from second 900 on, and lists of them.

SlowFast takes for second S the image at the place (S - 900) * 30 of its list, counted from 0. That is the
image nearest to the time stamp as long as none is missing and the first has the number 1, as is checked.
See ava_helper.py and DATASET.md there.
"""

from __future__ import annotations

import os
import string
from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from vmae_det.dataset_tools.prepare.common import require_file
from vmae_det.utils.errors import DataError
from vmae_det.utils.file_types import IMAGE_SUFFIXES
from vmae_det.utils.input_files import decode, open_input

LISTS = ("train.csv", "val.csv")
HEADER = ["original_vido_id", "video_id", "frame_id", "path", "labels"]
_MAX_DIGITS = 9  # of an image's number


def read_frame_lists(folder: Path) -> dict[str, int]:
    """Number of images of each video, by lists with lines of `HEADER`.

    Raises:
        DataError: names the file and the line, also where a video's images are not numbered 0, 1, 2, ...
    """
    counts: dict[str, int] = {}
    for name in LISTS:
        path = require_file(folder, name)
        with open_input(path) as file:
            bar = tqdm(file, desc=f"reading {name}", unit="line", disable=None, leave=False)
            for line, text in enumerate(bar, start=1):
                fields = decode(text, path, "a list of images", line).split()
                if (line == 1 and fields[:4] == HEADER[:4]) or not fields:
                    continue
                _count(fields, counts, path, line)
    if not counts:
        raise DataError("the lists name no images", folder)
    return counts


def _count(fields: list[str], counts: dict[str, int], path: Path, line: int) -> None:
    if len(fields) != 5:
        raise DataError(f"expected 5 columns ({' '.join(HEADER)}), got {len(fields)}", path, line)
    video, number, image = fields[0], fields[2], fields[3]
    expected = counts.get(video, 0)
    if number != str(expected):
        raise DataError(f"expected the frame_id {expected} of {video}, got '{number}'", path, line)
    if _image_number(Path(image).stem) != expected + 1:
        raise DataError(f"expected an image with the number {expected + 1}, got '{image}'", path, line)
    counts[video] = expected + 1


def frames_problem(video: str, folder: Path, counts: Mapping[str, int]) -> str:
    """What is wrong with a video's folder of images by their names, or ''.

    Args:
        counts: number of images of the videos that the lists name.
    """
    with os.scandir(folder / video) as entries:
        names = [Path(entry.name) for entry in entries]
    numbers = [_image_number(name.stem) for name in names if name.suffix.lower() in IMAGE_SUFFIXES]
    if not numbers:
        return "a folder without images"
    if None in numbers:
        return "holds images without a number"
    if sorted(numbers) != list(range(1, len(numbers) + 1)):
        low, high = min(numbers), max(numbers)
        return f"its {len(numbers)} images are numbered {low} to {high}: expected 1 to {len(numbers)}"
    wanted = counts.get(video, len(numbers))
    return "" if len(numbers) == wanted else f"{len(numbers)} images, {wanted} in the frame list"


def _image_number(stem: str) -> int | None:
    """The number that a name ends in."""
    digits = stem[len(stem.rstrip(string.digits)) :]
    return int(digits) if 0 < len(digits) <= _MAX_DIGITS else None
