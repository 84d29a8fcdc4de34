"""Videos by their names, wherever below a folder they lie."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from vmae_det.utils.errors import DataError
from vmae_det.utils.file_types import VIDEO_SUFFIXES
from vmae_det.video.discovery import has_images, unique_path


class VideoIndex:
    """The videos below a folder, by their names without suffix; links to folders are followed.

    Raises:
        DataError: no such folder, or one without videos.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: dict[str, list[str]] = defaultdict(list)
        for path in sorted(_videos_below(folder)):
            self._paths[Path(path).stem].append(path)
        if not self._paths:
            raise DataError("expected a folder of videos, found none in or below it", folder)

    def paths(self) -> list[str]:
        """All videos, relative to the folder."""
        return [path for several in self._paths.values() for path in several]

    def find(self, stem: str, *preferred: str) -> str | None:
        """Path of a video relative to the folder, None without one; of several, the one that lies below a
        folder called `preferred`, the first of these first.

        Raises:
            DataError: there are two such, or a folder of images of that name beside it.
        """
        paths = self._paths.get(stem, [])
        for parent in preferred:
            below = [path for path in paths if parent in path.split("/")[:-1]]
            if below:
                paths = below
                break
        found = [self._folder / path for path in paths]
        beside = [path.parent / stem for path in found if has_images(path.parent / stem)]
        return (
            unique_path(stem, found + beside, self._folder).relative_to(self._folder).as_posix()
            if found
            else None
        )


def _videos_below(folder: Path) -> Iterator[str]:
    seen = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        base = Path(os.path.relpath(here, folder))
        for name in files:
            if Path(name).suffix.lower() in VIDEO_SUFFIXES and not name.startswith("."):
                yield (base / name).as_posix()
