"""At which second of a dataset's clock its video files start: a table with a line for each video."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vmae_det.formats.box_csv import iterate_rows
from vmae_det.utils.errors import DataError
from vmae_det.utils.output_files import atomic_write


class VideoStarts:
    """Lines `video_id,seconds`, in arrays that loader processes share.

    Raises:
        DataError: names the file and the line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        starts: dict[str, float] = {}
        for row in iterate_rows(path):
            if len(row.fields) != 2:
                raise row.error(f"expected 2 columns (video_id,seconds), got {len(row.fields)}")
            video, seconds = row.keyframe()
            if starts.setdefault(video, seconds) != seconds:
                raise row.error(f"'{video}' has another start already, {starts[video]:g}")
        if not starts:
            raise DataError("holds no rows; expected lines video_id,seconds", path)
        self._videos = np.array(sorted(starts))
        self._seconds = np.array([starts[video] for video in self._videos.tolist()])

    def get(self, video: str) -> float | None:
        """The second at which a video's file starts, None where the table lacks it."""
        place = int(np.searchsorted(self._videos, video))
        found = place < len(self._videos) and self._videos[place] == video
        return float(self._seconds[place]) if found else None


def write_video_starts(path: Path, starts: Mapping[str, float]) -> None:
    """Write such a table, to the millisecond."""
    with atomic_write(path) as temporary:
        lines = [f"{video},{seconds:.3f}\n" for video, seconds in sorted(starts.items())]
        temporary.write_text("".join(lines), encoding="utf-8")
