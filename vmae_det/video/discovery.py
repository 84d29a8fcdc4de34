"""Find videos: below a folder, in tar shards, by video id, and for the arguments of a command."""

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
from vmae_det.utils.paths import is_url
from vmae_det.video.packed_paths import PackedPaths
from vmae_det.video.readers.image_folder import natural_key
from vmae_det.video.shards import Shards, ShardVideoPaths
from vmae_det.video.sources import is_live, video_id

VideoPaths = PackedPaths | ShardVideoPaths

_MAX_CHECKED = 5  # entries of a folder to check for images


def find_videos(videos: Path | Shards) -> VideoPaths:
    """Return all videos of shards, or all video files below a folder in the order of their paths.

    Video files are recognized by their suffix. `videos` may also be a single file with any suffix.
    """
    if isinstance(videos, Shards):
        return videos.videos
    if videos.is_file():
        return PackedPaths(videos.parent, [videos.name])
    files = sorted(p for p in videos.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file())
    if not files:
        dataset = next(iter(sorted(videos.glob("*.yaml"))), None)
        remedy = f"; pass its dataset file instead, {dataset}" if dataset else ""
        raise DataError(
            f"no video files below this folder (looked for {', '.join(sorted(VIDEO_SUFFIXES))}){remedy}",
            videos,
        )
    return PackedPaths(videos, (file.relative_to(videos) for file in files))


def videos_by_id(videos: Path | Shards) -> Mapping[str, Path]:
    """Map video ids to files or folders of images.

    The id is the KEY in shards. In a folder it is a file name without suffix, or a folder name.
    """
    if isinstance(videos, Shards):
        return {key: videos.videos[number] for key, number in videos.videos.numbers_by_key().items()}
    return _FolderVideos(videos)


def resolve_video_ids(ids: np.ndarray, videos: Path | Shards) -> VideoPaths:
    """Return the file of each video id; DataError if there are ids without a file."""
    sharded = isinstance(videos, Shards)
    known = videos.videos.numbers_by_key() if sharded else videos_by_id(videos)
    missing = [str(video) for video in ids if str(video) not in known]
    if missing:
        raise DataError(
            f"no video file for {len(missing)} of {len(ids)} video ids, such as '{missing[0]}' "
            f"(expected {missing[0]}.mp4 or similar)",
            str(videos),
        )
    found = [known[str(video)] for video in ids]
    return videos.videos.select(found) if sharded else PackedPaths(videos, (path.name for path in found))


class _FolderVideos(Mapping[str, Path]):
    """Maps ids to the videos and folders of images directly in a folder.

    Looking up an id that has two files raises DataError.
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
    """Return the only file or folder of images of a video id, where links to one file count as one.

    Raises:
        DataError: there are several; the error names two of them.
    """
    for other in paths[1:]:
        if os.path.realpath(paths[0]) != os.path.realpath(other):
            first, second = (path.relative_to(folder) for path in (paths[0], other))
            raise DataError(f"the video '{video}' exists twice: {first} and {second}; keep one", folder)
    return paths[0]


def has_images(path: Path) -> bool:
    """Return whether a path is a folder that contains images."""
    if not path.is_dir():
        return False
    with os.scandir(path) as entries:
        some = itertools.islice(entries, _MAX_CHECKED)
        return any(os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES for entry in some)


@dataclass(frozen=True)
class VideoInput:
    """A video named on the command line.

    Attributes:
        video: argument for `open_source`.
        stem: relative path of its outputs, without suffix.
    """

    video: str
    stem: Path

    @property
    def is_live(self) -> bool:
        """Whether it is a camera or a stream."""
        return is_live(self.video)


def find_video_inputs(names: Sequence[str]) -> list[VideoInput]:
    """Return the videos that command-line arguments refer to, in natural order within each folder.

    A folder refers to all videos in and below it. A folder that contains images and no videos is one video.
    Outputs for the videos of a folder use the same subfolders.

    Raises:
        DataError: a folder contains no videos.
        UserError: an argument is empty, or the outputs of two videos would have the same name.
    """
    inputs = [video_input for name in names for video_input in _expand_argument(name)]
    by_stem: dict[Path, VideoInput] = {}
    for video_input in inputs:
        other = by_stem.setdefault(video_input.stem, video_input)
        if other.video != video_input.video:
            raise UserError(
                f"{other.video} and {video_input.video}: the outputs of both would be named "
                f"'{video_input.stem}'; rename one, or pass their parent folder"
            )
    return list(by_stem.values())


def _expand_argument(name: str) -> list[VideoInput]:
    if not name:
        raise UserError("VIDEO: the path is empty")
    root = Path(name)
    if is_live(name) or is_url(name) or not root.is_dir():
        return [VideoInput(name, Path(video_id(name)))]
    inputs = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted((sub for sub in subfolders if not sub.startswith(".")), key=natural_key)
        inputs += [VideoInput(str(video), _stem(video, root)) for video in _videos_in(Path(folder), files)]
    if not inputs:
        raise DataError("contains no videos and no images", root)
    return inputs


def _videos_in(folder: Path, files: list[str]) -> list[Path]:
    """Return the videos among the files of a folder, or the folder if it is a video of images."""
    visible = sorted((name for name in files if not name.startswith(".")), key=natural_key)
    videos = [folder / name for name in visible if Path(name).suffix.lower() in VIDEO_SUFFIXES]
    is_frames = not videos and any(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in visible)
    return [folder] if is_frames else videos


def _stem(video: Path, root: Path) -> Path:
    if video == root:
        return Path(video_id(video.resolve()))
    return video.relative_to(root).parent / video_id(video)
