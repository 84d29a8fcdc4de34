"""Which videos there are: Kinetics-style lists, and folders."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

import numpy as np

from vmae_det.data.file_table import FileTable
from vmae_det.utils.errors import DataError

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts")
)

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp"))
_ENTRIES = 5  # of a folder that are looked at to tell whether it holds images

_LINE = re.compile(r"(.*[^\s,])[\s,]+([0-9]+)")


def read_video_list(path: Path, videos: Path) -> tuple[FileTable, np.ndarray]:
    """Files and class indices (int64) of a list with a line `FILE LABEL` for each video.

    Between the two stands a blank, a tab or a comma, which a file's name may hold, too; files are relative to
    the folder `videos`; labels are 0-based. DataError names the line that says something else.
    """
    files, labels = [], []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as a list of videos: {error}", path) from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if not match:
            raise DataError(f"expected 'FILE LABEL' with a label 0, 1, 2, ..., got '{line}'", path, number)
        files.append(match[1])
        labels.append(int(match[2]))
    if not files:
        raise DataError("the list holds no videos", path)
    return FileTable(videos, files), np.array(labels, dtype=np.int64)


def find_videos(folder: Path) -> FileTable:
    """All video files below a folder, by their suffix, in the order of their paths."""
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file())
    if not files:
        raise DataError(
            f"no video files below this folder (looked for {', '.join(sorted(VIDEO_SUFFIXES))})", folder
        )
    return FileTable(folder, (file.relative_to(folder) for file in files))


def videos_by_id(folder: Path) -> dict[str, Path]:
    """Video id to file, or to folder of images, of those that lie in `folder` itself: a file's name without
    suffix, a folder's name."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in VIDEO_SUFFIXES:
            found[path.stem] = path
        elif _holds_images(path):
            found[path.name] = path
    return found


def _holds_images(path: Path) -> bool:
    if not path.is_dir():
        return False
    with os.scandir(path) as entries:
        some = itertools.islice(entries, _ENTRIES)
        return any(os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES for entry in some)
