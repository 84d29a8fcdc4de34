"""Kinetics-style video lists: one line `FILE LABEL` for each video."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vmae_det.utils.errors import DataError
from vmae_det.utils.input_files import read_text

_LINE = re.compile(r"(.*[^\s,])[\s,]+([0-9]+)")


@dataclass(frozen=True)
class VideoList:
    """The rows of a video list.

    Attributes:
        names: file names as written in the list, str objects (n,).
        labels: 0-based class indices, int64 (n,).
        lines: line number of each row, int64 (n,).
    """

    names: np.ndarray
    labels: np.ndarray
    lines: np.ndarray


def read_video_list(path: Path) -> VideoList:
    """Read a video list with one line `FILE LABEL` for each video.

    A space, a tab or a comma separates the two fields. A file name may contain the separator too. Empty
    lines are skipped.

    Raises:
        DataError: a line has another form (the error names the line), or the list is empty.
    """
    names, labels, lines = [], [], []
    for number, line in enumerate(read_text(path, "a list of videos").splitlines(), start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if not match:
            raise DataError(f"expected 'FILE LABEL' with a label 0, 1, 2, ..., got '{line}'", path, number)
        names.append(match[1])
        labels.append(int(match[2]))
        lines.append(number)
    if not names:
        raise DataError("the list contains no videos", path)
    return VideoList(
        np.array(names, dtype=object), np.array(labels, dtype=np.int64), np.array(lines, dtype=np.int64)
    )
