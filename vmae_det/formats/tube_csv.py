"""Tubes: one person's boxes over the frames of one action, as UCF101-24, JHMDB and MultiSports annotate them.

A line of the CSV is `video_id,tube_id,label,score,frame,x1,y1,x2,y2`, a line for each frame of each tube;
the first line may be that header.
Tube ids are whole numbers, unique in their video; the label is text, and equal on all lines of a tube, as is
the score, which may be empty in ground truth. Frames are whole numbers. Boxes are in pixels or relative to
the frame, as the benchmark has them.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from vmae_det.formats.box_csv import COORDINATES, MAX_TIMESTAMP, CsvRow, is_video_name, iterate_rows
from vmae_det.utils.errors import DataError, quoted
from vmae_det.utils.output_files import atomic_write

# Classes of MultiSports that are too rare to be scored; see its evaluate_multisports.py.
MULTISPORTS_NOT_SCORED = (
    "aerobic kick jump",
    "aerobic off axis jump",
    "aerobic butterfly jump",
    "aerobic balance turn",
    "basketball save",
    "basketball jump ball",
)
_COLUMNS = "video_id,tube_id,label,score,frame,x1,y1,x2,y2"


@dataclass(frozen=True)
class Tubes:
    """T tubes with R boxes in all, each tube once.

    Args:
        video: (T,) object, video ids.
        label: (T,) object, names of actions.
        score: (T,) float64; 1 in ground truth.
        tube: (R,) int64, index of the tube.
        frame: (R,) int64; those of a tube differ.
        boxes: (R, 4) float64, xyxy.
    """

    video: np.ndarray
    label: np.ndarray
    score: np.ndarray
    tube: np.ndarray
    frame: np.ndarray
    boxes: np.ndarray

    def __len__(self) -> int:
        return len(self.video)

    def select(self, chosen: np.ndarray) -> Tubes:
        """The tubes that a mask (T,) chooses."""
        number = np.cumsum(chosen) - 1
        rows = chosen[self.tube]
        tube = number[self.tube[rows]]
        parts = (self.video[chosen], self.label[chosen], self.score[chosen])
        return Tubes(*parts, tube, self.frame[rows], self.boxes[rows])


def read_tubes(path: str | Path, kind: str = "ground_truth") -> Tubes:
    """Read tubes, plain or gzipped; they come in the order of their video ids and tube ids.

    Args:
        kind: "ground_truth" (scores are not looked at) or "detections", of which there may be none.

    Raises:
        DataError: names the file and the line, what was got and what was expected.
    """
    path = Path(path)
    tubes: dict[tuple[str, int], tuple[str, float]] = {}
    number: dict[tuple[str, int], int] = {}
    seen: set[tuple[int, int]] = set()
    tube, frame, boxes = array("q"), array("q"), array("d")
    for row in iterate_rows(path):
        if row.line == 1 and ",".join(row.fields) == _COLUMNS:
            continue
        if len(row.fields) != 9:
            raise row.error(f"expected 9 columns ({_COLUMNS}), got {len(row.fields)}")
        key, described = _tube(row, kind)
        if tubes.setdefault(key, described) != described:
            raise row.error(
                f"label and score of tube {key[1]} of {key[0]} differ from those of its first line"
            )
        index = number.setdefault(key, len(number))
        at = _frame(row)
        if (index, at) in seen:
            raise row.error(f"tube {key[1]} of {key[0]} has frame {at} twice")
        seen.add((index, at))
        tube.append(index)
        frame.append(at)
        boxes.extend(_box(row, allow_empty=kind == "detections"))
    if not tubes and kind == "ground_truth":
        raise DataError("holds no rows", path)
    order = sorted(tubes)
    rank = np.empty(len(order), dtype=np.int64)
    rank[[number[key] for key in order]] = np.arange(len(order))
    return Tubes(
        np.array([video for video, _ in order], dtype=object),
        np.array([tubes[key][0] for key in order], dtype=object),
        np.array([tubes[key][1] for key in order], dtype=np.float64),
        rank[np.array(tube)],
        np.array(frame),
        np.array(boxes).reshape(-1, 4),
    )


def write_tubes(path: str | Path, tubes: Tubes, kind: str = "detections") -> None:
    """Write the CSV with its header, each video's tubes numbered from 0; the score of ground truth is empty.

    Coordinates keep 6 decimals, and scores 9 significant digits. A detection that has no area then stays.

    Raises:
        DataError: a video or label that such a file cannot hold.
    """
    for name in sorted({*tubes.video, *tubes.label}):
        if not is_video_name(name) or "," in name:
            raise DataError(f"a CSV of tubes cannot hold the name {quoted(name)}: no commas or quotes", path)
    number: dict[str, int] = {}
    ids = []
    for video in tubes.video:
        ids.append(number.setdefault(video, 0))
        number[video] += 1
    columns = {"video_id": tubes.video, "tube_id": np.array(ids, dtype=np.int64), "label": tubes.label}
    text = {"video_id": pl.String, "label": pl.String}
    frame = pl.DataFrame(
        {name: values[tubes.tube].tolist() for name, values in columns.items()}
        | {"score": tubes.score[tubes.tube], "frame": tubes.frame}
        | dict(zip(COORDINATES, tubes.boxes.T)),
        schema_overrides=text | {"tube_id": pl.Int64},
    )
    score = pl.lit(None) if kind == "ground_truth" else pl.col("score").round_sig_figs(9)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        frame.with_columns(pl.col(COORDINATES).round(6), score.alias("score")).write_csv(
            file, quote_style="never"
        )


def _tube(row: CsvRow, kind: str) -> tuple[tuple[str, int], tuple[str, float]]:
    """(video id, tube id), (label, score)."""
    video, _, label, *_ = row.fields
    for name, text in (("the video id", video), ("the label", label)):
        if not is_video_name(text):
            raise row.error(f"{name} must be plain text without quotes, got {quoted(text)}")
    score = 1.0 if kind == "ground_truth" else row.number(3, "the score")
    return (video, row.whole_number(1, "the tube id")), (label, score)


def _frame(row: CsvRow) -> int:
    frame = row.whole_number(4, "the frame")
    if not 0 <= frame <= MAX_TIMESTAMP:
        raise row.error(f"the frame must be a number from 0 to {MAX_TIMESTAMP:g}, got {frame}")
    return frame


def _box(row: CsvRow, allow_empty: bool) -> tuple[float, float, float, float]:
    box = tuple(row.number(5 + i, name) for i, name in enumerate(COORDINATES))
    for low, high in ((0, 2), (1, 3)):
        if box[low] > box[high] or (box[low] == box[high] and not allow_empty):
            got = f"{COORDINATES[low]}={box[low]:g}, {COORDINATES[high]}={box[high]:g}"
            raise row.error(f"{COORDINATES[low]} must be smaller than {COORDINATES[high]}, got {got}")
    return box
