"""Which videos there are: Kinetics-style lists, folders, and tar shards."""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vmae_det.utils.errors import DataError, UserError
from vmae_det.utils.file_types import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from vmae_det.utils.paths import is_address
from vmae_det.video.packed_paths import PackedPaths
from vmae_det.video.readers.image_folder import natural_key
from vmae_det.video.shards import Shards, ShardVideoPaths
from vmae_det.video.sources import is_live, video_id

VideoPaths = PackedPaths | ShardVideoPaths

_ENTRIES = 5  # of a folder that are looked at to tell whether it holds images


def find_videos(videos: Path | Shards) -> VideoPaths:
    """All videos of shards, or all video files below a folder, by their suffix, in the order of their
    paths; or one file, whatever its suffix."""
    if isinstance(videos, Shards):
        return videos.videos
    if videos.is_file():
        return PackedPaths(videos.parent, [videos.name])
    files = sorted(p for p in videos.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file())
    if not files:
        raise DataError(
            f"no video files below this folder (looked for {', '.join(sorted(VIDEO_SUFFIXES))})", videos
        )
    return PackedPaths(videos, (file.relative_to(videos) for file in files))


class FolderVideos(Mapping[str, Path]):
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
            elif has_images(path):
                self._paths[path.name].append(path)

    def __getitem__(self, video: str) -> Path:
        if video not in self._paths:
            raise KeyError(video)
        return unique_path(video, self._paths[video], self._folder)

    def __contains__(self, video: object) -> bool:
        return video in self._paths

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def unique_path(video: str, paths: Sequence[Path], folder: Path) -> Path:
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
    """Video id to file, or to folder of images: the KEYs of shards, or what `FolderVideos` finds."""
    if isinstance(videos, Shards):
        return {key: videos.videos[number] for key, number in videos.videos.numbers_by_key().items()}
    return FolderVideos(videos)


def resolve_video_ids(ids: np.ndarray, videos: Path | Shards) -> VideoPaths:
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
    return videos.videos.select(found) if sharded else PackedPaths(videos, (path.name for path in found))


def has_images(path: Path) -> bool:
    """Whether a path is a folder in which there are images."""
    if not path.is_dir():
        return False
    with os.scandir(path) as entries:
        some = itertools.islice(entries, _ENTRIES)
        return any(os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES for entry in some)


@dataclass(frozen=True)
class VideoInput:
    """A video, as `open_source` takes it, and the relative path, without suffix, of what is made of it."""

    video: str
    stem: Path

    @property
    def is_live(self) -> bool:
        """Whether it is a camera or a stream."""
        return is_live(self.video)


def find_video_inputs(names: Sequence[str]) -> list[VideoInput]:
    """The videos that names stand for, in natural order within a folder.

    A folder stands for all videos in it and below; a folder that holds images and no videos is a video of
    these frames. What is made of a folder's videos goes into folders as theirs.

    Raises:
        DataError: a folder without videos.
        UserError: what is made of two videos would have one name.
    """
    inputs = [found for name in names for found in _of_name(name)]
    by_stem: dict[Path, str] = {}
    for found in inputs:
        other = by_stem.setdefault(found.stem, found.video)
        if other != found.video:
            raise UserError(
                f"{other} and {found.video}: what is made of both would be called '{found.stem}'; "
                "rename one, or give the folder above them"
            )
    return list({found.stem: found for found in inputs}.values())


def _of_name(name: str) -> list[VideoInput]:
    path = Path(name)
    if is_live(name) or is_address(name) or not path.is_dir():
        return [VideoInput(name, Path(video_id(name)))]
    found = []
    for folder, below, files in os.walk(path):
        below[:] = sorted((b for b in below if not b.startswith(".")), key=natural_key)
        own = _in_folder(Path(folder), files)
        found += [VideoInput(str(video), _stem(video, path)) for video in own]
    if not found:
        raise DataError("holds no videos and no images", path)
    return found


def _in_folder(folder: Path, files: list[str]) -> list[Path]:
    shown = sorted((name for name in files if not name.startswith(".")), key=natural_key)
    videos = [folder / name for name in shown if Path(name).suffix.lower() in VIDEO_SUFFIXES]
    is_frames = not videos and any(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in shown)
    return [folder] if is_frames else videos


def _stem(video: Path, above: Path) -> Path:
    if video == above:
        return Path(video_id(video.resolve()))
    return video.relative_to(above).parent / video_id(video)
