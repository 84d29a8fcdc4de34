"""Video start table: the second of the dataset's clock at which each video file starts.

A CSV file with one line `video_id,seconds` per video.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vmae_det.formats.box_csv import iterate_rows
from vmae_det.utils.errors import DataError
from vmae_det.utils.output_files import atomic_write


class VideoStarts:
    """The table, as arrays that loader workers share without copying.

    Raises:
        DataError: with the file and the line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        starts: dict[str, float] = {}
        for row in iterate_rows(path):
            if len(row.fields) != 2:
                raise row.error(f"expected 2 columns (video_id,seconds), got {len(row.fields)}")
            video, seconds = row.keyframe()
            if starts.setdefault(video, seconds) != seconds:
                raise row.error(f"'{video}' has two starts, {starts[video]:g} and {seconds:g}")
        if not starts:
            raise DataError("expected lines video_id,seconds, got none", path)
        self._videos = np.array(sorted(starts))
        self._seconds = np.array([starts[video] for video in self._videos.tolist()])

    def get(self, video: str) -> float | None:
        """Return the second at which a video file starts, or None if the table does not list the video."""
        index = int(np.searchsorted(self._videos, video))
        is_listed = index < len(self._videos) and self._videos[index] == video
        return float(self._seconds[index]) if is_listed else None


def write_video_starts(path: Path, starts: Mapping[str, float]) -> None:
    """Write a video start table, with a precision of 1 ms."""
    with atomic_write(path) as temporary:
        lines = [f"{video},{seconds:.3f}\n" for video, seconds in sorted(starts.items())]
        temporary.write_text("".join(lines), encoding="utf-8")
