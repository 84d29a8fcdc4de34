"""Which videos there are: Kinetics-style lists, folders, and tar shards."""

from __future__ import annotations

import itertools
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from vmae_det.utils.errors import DataError
from vmae_det.utils.file_types import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from vmae_det.utils.inputs import read_text
from vmae_det.video.path_table import FileTable
from vmae_det.video.shards import Shards, ShardVideos

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


class VideosById(Mapping[str, Path]):
    """The videos and folders of images that lie in a folder itself, by id: a file's name without suffix, a
    folder's name.

    An id with two files is an error where it is asked for.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: dict[str, list[Path]] = defaultdict(list)
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in VIDEO_SUFFIXES:
                self._paths[path.stem].append(path)
            elif holds_images(path):
                self._paths[path.name].append(path)

    def __getitem__(self, video: str) -> Path:
        if video not in self._paths:
            raise KeyError(video)
        return only_path(video, self._paths[video], self._folder)

    def __contains__(self, video: object) -> bool:
        return video in self._paths

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def only_path(video: str, paths: Sequence[Path], folder: Path) -> Path:
    """The file or folder of images of a video id, the first of `paths` where all are links to one.

    Raises:
        DataError: there are two; it names both.
    """
    for other in paths[1:]:
        if os.path.realpath(paths[0]) != os.path.realpath(other):
            first, second = (path.relative_to(folder) for path in (paths[0], other))
            raise DataError(
                f"the video '{video}' is there twice: {first} and {second}; keep one of them", folder
            )
    return paths[0]


def videos_by_id(videos: Path | Shards) -> Mapping[str, Path]:
    """Video id to file, or to folder of images: the KEYs of shards, or what `VideosById` finds."""
    if isinstance(videos, Shards):
        return {key: videos.videos[number] for key, number in videos.videos.numbers_by_key().items()}
    return VideosById(videos)


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


def holds_images(path: Path) -> bool:
    """Whether a path is a folder in which there are images."""
    if not path.is_dir():
        return False
    with os.scandir(path) as entries:
        some = itertools.islice(entries, _ENTRIES)
        return any(os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES for entry in some)
