"""Tube CSV: action tubes, as in UCF101-24, JHMDB and MultiSports.

A tube is the boxes of one person over the frames of one action. The CSV has one line
`video_id,tube_id,label,score,frame,x1,y1,x2,y2` per frame of each tube; the first line may be this header.

- Tube ids and frames are integers. Tube ids are unique within a video.
- Label (text) and score are the same on all lines of a tube. The score of ground truth may be empty.
- Boxes are in pixels or relative to the frame, depending on the benchmark.
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

# Classes of MultiSports that its evaluation ignores because they are too rare; see its
# evaluate_multisports.py.
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
    """T tubes with R boxes in total.

    Args:
        video: (T,) object, video ids.
        label: (T,) object, action names.
        score: (T,) float64; 1 for ground truth.
        tube: (R,) int64, index of the box's tube.
        frame: (R,) int64, frame number; unique within a tube.
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
        """Return the tubes selected by a mask (T,)."""
        new_index = np.cumsum(chosen) - 1
        rows = chosen[self.tube]
        tube = new_index[self.tube[rows]]
        parts = (self.video[chosen], self.label[chosen], self.score[chosen])
        return Tubes(*parts, tube, self.frame[rows], self.boxes[rows])


def read_tubes(path: str | Path, kind: str = "ground_truth") -> Tubes:
    """Read a tube CSV, plain or gzipped. Tubes are sorted by video id and tube id.

    Args:
        kind: "ground_truth": scores are ignored, and the file must not be empty. "detections": the file may
            be empty.

    Raises:
        DataError: with the file, the line, what was got and what was expected.
    """
    path = Path(path)
    label_and_score_of: dict[tuple[str, int], tuple[str, float]] = {}
    index_of: dict[tuple[str, int], int] = {}
    seen: set[tuple[int, int]] = set()
    tube, frame, boxes = array("q"), array("q"), array("d")
    for row in iterate_rows(path):
        if row.line == 1 and ",".join(row.fields) == _COLUMNS:
            continue
        if len(row.fields) != 9:
            raise row.error(f"expected 9 columns ({_COLUMNS}), got {len(row.fields)}")
        key, label_and_score = _tube(row, kind)
        if label_and_score_of.setdefault(key, label_and_score) != label_and_score:
            raise row.error(
                f"label and score of tube {key[1]} of {key[0]} differ from those of its first line"
            )
        index = index_of.setdefault(key, len(index_of))
        number = _frame(row)
        if (index, number) in seen:
            raise row.error(f"duplicate frame {number} of tube {key[1]} of {key[0]}")
        seen.add((index, number))
        tube.append(index)
        frame.append(number)
        boxes.extend(_box(row, allow_empty=kind == "detections"))
    if not index_of and kind == "ground_truth":
        raise DataError("expected at least one row, got none", path)
    order = sorted(index_of)
    rank = np.empty(len(order), dtype=np.int64)
    rank[[index_of[key] for key in order]] = np.arange(len(order))
    return Tubes(
        np.array([video for video, _ in order], dtype=object),
        np.array([label_and_score_of[key][0] for key in order], dtype=object),
        np.array([label_and_score_of[key][1] for key in order], dtype=np.float64),
        rank[np.array(tube)],
        np.array(frame),
        np.array(boxes).reshape(-1, 4),
    )


def write_tubes(path: str | Path, tubes: Tubes, kind: str = "detections") -> None:
    """Write a tube CSV with a header. Tube ids count from 0 in each video.

    The score of ground truth is empty. Coordinates have 6 decimals, scores 9 significant digits. Boxes that
    rounding makes empty are kept.

    Raises:
        DataError: a video or label contains a comma or a quote.
    """
    for name in sorted({*tubes.video, *tubes.label}):
        if not is_video_name(name) or "," in name:
            raise DataError(f"expected names without commas and quotes, got {quoted(name)}", path)
    num_tubes: dict[str, int] = {}
    ids = []
    for video in tubes.video:
        ids.append(num_tubes.setdefault(video, 0))
        num_tubes[video] += 1
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
    """Return (video id, tube id), (label, score)."""
    video, _, label, *_ = row.fields
    for name, text in (("the video id", video), ("the label", label)):
        if not is_video_name(text):
            raise row.error(f"{name} must be plain text without quotes, got {quoted(text)}")
    score = 1.0 if kind == "ground_truth" else row.number(3, "the score")
    return (video, row.integer(1, "the tube id")), (label, score)


def _frame(row: CsvRow) -> int:
    frame = row.integer(4, "the frame")
    if not 0 <= frame <= MAX_TIMESTAMP:
        raise row.error(f"the frame must be an integer from 0 to {MAX_TIMESTAMP:g}, got {frame}")
    return frame


def _box(row: CsvRow, allow_empty: bool) -> tuple[float, float, float, float]:
    box = tuple(row.number(5 + i, name) for i, name in enumerate(COORDINATES))
    for low, high in ((0, 2), (1, 3)):
        if box[low] > box[high] or (box[low] == box[high] and not allow_empty):
            got = f"{COORDINATES[low]}={box[low]:g}, {COORDINATES[high]}={box[high]:g}"
            raise row.error(f"{COORDINATES[low]} must be smaller than {COORDINATES[high]}, got {got}")
    return box
