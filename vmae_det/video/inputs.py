"""What the arguments of a command name: videos, folders of them, frames, addresses, cameras."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vmae_det.utils.errors import DataError, UserError
from vmae_det.utils.file_types import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from vmae_det.utils.paths import is_address
from vmae_det.video.readers.image_folder import natural_key
from vmae_det.video.sources import is_live, video_id


@dataclass(frozen=True)
class VideoInput:
    """A video, as `open_source` takes it, and the relative path, without suffix, of what is made of it."""

    video: str
    stem: Path

    @property
    def is_live(self) -> bool:
        """Whether it is a camera or a stream."""
        return is_live(self.video)


def find_inputs(names: Sequence[str]) -> list[VideoInput]:
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
