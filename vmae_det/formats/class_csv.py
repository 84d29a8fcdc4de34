"""Class scores of videos: CSV files with a row per video and class, as `vmae-det classify` writes them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vmae_det.utils.errors import DataError, quoted
from vmae_det.utils.input_files import read_text

COLUMNS = ("video", "rank", "id", "class", "score")
SUFFIX = "_classes.csv"


@dataclass(frozen=True)
class ClassScores:
    """Scores of V videos for C classes.

    Attributes:
        videos: names of the videos: paths without suffix.
        classes: names of the classes.
        scores: (V, C).
    """

    videos: tuple[str, ...]
    classes: tuple[str, ...]
    scores: np.ndarray


def find_class_files(source: str | Path) -> list[Path]:
    """Return the files NAME_classes.csv in and below a folder; a file itself."""
    source = Path(source)
    return sorted(source.rglob(f"*{SUFFIX}")) if source.is_dir() else [source]


def read_class_scores(source: str | Path) -> ClassScores:
    """Read the scores of all videos in a file, or in all files of a folder (`find_class_files`).

    Raises:
        DataError: there is no file; a line is malformed; a video occurs twice; videos have other classes.
    """
    files = find_class_files(source)
    if not files:
        raise DataError(f"contains no files *{SUFFIX}, as `vmae-det classify` writes them", source)
    scores: dict[str, dict[str, float]] = {}
    where: dict[str, tuple[Path, int]] = {}
    for path in files:
        for line, video, name, score in _rows(path):
            if where.setdefault(video, (path, line))[0] != path:
                raise DataError(f"the video '{video}' is also in {where[video][0]}", path, line)
            if name in scores.setdefault(video, {}):
                raise DataError(f"the video '{video}' has the class '{name}' twice", path, line)
            scores[video][name] = score
    classes = next(iter(scores.values()))
    for video, of_video in scores.items():
        if of_video.keys() != classes.keys():
            raise DataError(
                f"the video '{video}' has {len(of_video)} classes, expected the {len(classes)} classes of "
                f"'{next(iter(scores))}'",
                *where[video],
            )
    names = tuple(sorted(classes))
    values = np.array([[of_video[name] for name in names] for of_video in scores.values()])
    return ClassScores(tuple(scores), names, values)


def _rows(path: Path) -> Iterator[tuple[int, str, str, float]]:
    """Yield line, video, class and score of each row of a file."""
    reader = csv.reader(io.StringIO(read_text(path, "class scores"), newline=""))
    expected, count = ",".join(COLUMNS), 0
    try:
        for row in reader:
            line = reader.line_num
            if line == 1:
                if tuple(row) != COLUMNS:
                    raise DataError(f"expected the header {expected}, got {quoted(','.join(row))}", path, 1)
                continue
            if len(row) != len(COLUMNS):
                raise DataError(f"expected {len(COLUMNS)} columns ({expected}), got {len(row)}", path, line)
            video, _, _, name, text = row
            yield line, video, name, _score(text, path, line)
            count += 1
    except csv.Error as error:
        raise DataError(f"not a CSV: {error}", path, reader.line_num) from None
    if not count:
        raise DataError(f"contains no rows of {expected}", path)


def _score(text: str, path: Path, line: int) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise DataError(f"expected a finite number as score, got {quoted(text)}", path, line)
    return score
