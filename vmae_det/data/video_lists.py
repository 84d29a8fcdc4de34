"""Which videos there are: Kinetics-style lists, folders, and tar shards."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

import numpy as np

from vmae_det.data.file_table import FileTable
from vmae_det.data.file_types import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from vmae_det.data.shards import Shards, ShardVideos
from vmae_det.utils.errors import DataError
from vmae_det.utils.inputs import read_text

VideoTable = FileTable | ShardVideos

_ENTRIES = 5  # of a folder that are looked at to tell whether it holds images

_LINE = re.compile(r"(.*[^\s,])[\s,]+([0-9]+)")


def read_video_list(path: Path, videos: Path | Shards) -> tuple[VideoTable, np.ndarray]:
    """Files and class indices (int64) of a list with a line `FILE LABEL` for each video.

    Between the two stands a blank, a tab or a comma, which a file's name may hold, too; files are relative to
    the folder `videos`, or SHARD.tar/KEY.mp4; labels are 0-based. DataError names the line that says
    something else, and a video that the shards do not hold.
    """
    files, labels, numbers = [], [], []
    for number, line in enumerate(read_text(path, "a list of videos").splitlines(), start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if not match:
            raise DataError(f"expected 'FILE LABEL' with a label 0, 1, 2, ..., got '{line}'", path, number)
        files.append(match[1])
        labels.append(int(match[2]))
        numbers.append(number)
    if not files:
        raise DataError("the list holds no videos", path)
    if not isinstance(videos, Shards):
        return FileTable(videos, files), np.array(labels, dtype=np.int64)
    known = videos.videos.numbers_by_name()
    for file, number in zip(files, numbers):
        if file not in known:
            raise DataError(f"expected SHARD.tar/KEY.mp4 of {videos}, got '{file}'", path, number)
    return videos.videos.select([known[file] for file in files]), np.array(labels, dtype=np.int64)


def labelled_videos(annotations: Path | None, videos: Path | Shards) -> tuple[VideoTable, np.ndarray]:
    """Files and class indices (int64) of a classification dataset: of its list, or without one of the KEY.cls
    in its shards."""
    if annotations is None:
        return videos.videos, videos.videos.labels()
    return read_video_list(annotations, videos)


def find_videos(videos: Path | Shards) -> VideoTable:
    """All videos of shards, or all video files below a folder, by their suffix, in the order of their
    paths; or one file, whatever its suffix."""
    if isinstance(videos, Shards):
        return videos.videos
    if videos.is_file():
        return FileTable(videos.parent, [videos.name])
    files = sorted(p for p in videos.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file())
    if not files:
        raise DataError(
            f"no video files below this folder (looked for {', '.join(sorted(VIDEO_SUFFIXES))})", videos
        )
    return FileTable(videos, (file.relative_to(videos) for file in files))


def videos_by_id(videos: Path | Shards) -> dict[str, Path]:
    """Video id to file, or to folder of images: the KEYs of shards, or of those that lie in a folder itself a
    file's name without suffix, a folder's name."""
    if isinstance(videos, Shards):
        return {key: videos.videos[number] for key, number in videos.videos.numbers_by_key().items()}
    found = {}
    for path in sorted(videos.iterdir()):
        if path.suffix.lower() in VIDEO_SUFFIXES:
            found[path.stem] = path
        elif _holds_images(path):
            found[path.name] = path
    return found


def files_of_ids(ids: np.ndarray, videos: Path | Shards) -> VideoTable:
    """The file of each video id; DataError names the ids without one."""
    sharded = isinstance(videos, Shards)
    known = videos.videos.numbers_by_key() if sharded else videos_by_id(videos)
    missing = [str(video) for video in ids if str(video) not in known]
    if missing:
        raise DataError(
            f"no video file for {len(missing)} of {len(ids)} video ids, such as '{missing[0]}' "
            f"(expected {missing[0]}.mp4 or alike)",
            str(videos),
        )
    found = [known[str(video)] for video in ids]
    return videos.videos.select(found) if sharded else FileTable(videos, (path.name for path in found))


def _holds_images(path: Path) -> bool:
    if not path.is_dir():
        return False
    with os.scandir(path) as entries:
        some = itertools.islice(entries, _ENTRIES)
        return any(os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES for entry in some)
