"""AVA's annotation files: ground truth, detections and excluded keyframes, all CSV without a header.

A line of ground truth is `video_id,timestamp,x1,y1,x2,y2,action_id,person_id`. A line of detections has a
score as its last column instead. A line `video_id,timestamp` names a keyframe without boxes. Boxes are
relative to the frame, times are in seconds. See https://research.google.com/ava/download.html

Label maps are read by `vmae_det.formats.label_map`.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from vmae_det.formats.box_csv import (
    COORDINATES,
    MAX_TIMESTAMP,
    BoxRule,
    CsvRow,
    iterate_rows,
    try_read_columns,
)
from vmae_det.formats.label_map import LabelMap
from vmae_det.utils.errors import DataError
from vmae_det.utils.output_files import atomic_write

# Annotators draw inside the frame, up to rounding. Detectors exceed it, and can predict empty boxes.
GROUND_TRUTH_RULE = BoxRule(1e-3, allow_empty=False)
_BOX_RULES = {"ground_truth": GROUND_TRUTH_RULE, "detections": BoxRule(0.05, allow_empty=True)}
_LAST_COLUMN = {"ground_truth": "person_id", "detections": "score"}


@dataclass(frozen=True)
class ActionBoxes:
    """Boxes with actions, one row per box and action. Holds ground truth or detections.

    Args:
        videos: (V,) unique video ids.
        video: (R,) int32, index into `videos`.
        timestamp: (R,) float64, seconds on the dataset's clock.
        boxes: (R, 4) float64, xyxy in [0, 1] of the frame; NaN if the row only names a keyframe.
        action: (R,) int32, id in the label map; -1 if the row only names a keyframe.
        score: (R,) float64; 1 for ground truth.
        person: (R,) int32, person id; -1 if unknown.
    """

    videos: np.ndarray
    video: np.ndarray
    timestamp: np.ndarray
    boxes: np.ndarray
    action: np.ndarray
    score: np.ndarray
    person: np.ndarray

    def __len__(self) -> int:
        return len(self.video)

    def select(self, rows: np.ndarray) -> ActionBoxes:
        """Return the rows selected by a mask (R,) or by indices. `videos` is unchanged."""
        columns = ("video", "timestamp", "boxes", "action", "score", "person")
        return replace(self, **{name: getattr(self, name)[rows] for name in columns})

    @classmethod
    def from_scores(
        cls,
        videos: np.ndarray,
        video: np.ndarray,
        timestamp: np.ndarray,
        boxes: np.ndarray,
        scores: np.ndarray,
        label_map: LabelMap,
    ) -> ActionBoxes:
        """Build N * C rows from N boxes with a score for each of C actions, ordered by box.

        Args:
            videos, video, timestamp, boxes: see the fields, with N boxes.
            scores: (N, C), columns in label map order.
        """
        count, classes = scores.shape
        return cls(
            videos=videos,
            video=np.repeat(video.astype(np.int32), classes),
            timestamp=np.repeat(timestamp.astype(np.float64), classes),
            boxes=np.repeat(boxes.astype(np.float64), classes, axis=0),
            action=np.tile(np.array(label_map.ids, dtype=np.int32), count),
            score=scores.astype(np.float64).reshape(-1),
            person=np.full(count * classes, -1, dtype=np.int32),
        )


def read_action_csv(
    path: str | Path,
    label_map: LabelMap | None = None,
    kind: str = "ground_truth",
    unknown_actions: str = "error",
) -> ActionBoxes:
    """Read AVA's CSV, plain or gzipped, with rows of 2 (a keyframe without boxes), 7 or 8 columns.

    Args:
        label_map: known actions; None accepts every action id.
        kind: "ground_truth": column 8 is the person id, and the file must not be empty. "detections": column
            8 is the score, 1 if missing, and the file may be empty.
        unknown_actions: how to treat action ids outside the label map. "error" raises. "ignore" drops such
            detections and keeps only the keyframe of such ground truth, as AVA's evaluator does.

    Raises:
        DataError: with the file, the line, what was got and what was expected.
    """
    path = Path(path)
    rule = _BOX_RULES[kind]
    strict_map = label_map if unknown_actions == "error" else None
    rows = _read_columns(path, kind, rule, strict_map) or _read_line_by_line(path, kind, rule, strict_map)
    if label_map is None or unknown_actions == "error":
        return rows
    unknown = (label_map.columns(rows.action) < 0) & (rows.action >= 0)
    if not unknown.any():
        return rows
    if kind == "detections":
        return rows.select(~unknown)
    return replace(
        rows,
        boxes=np.where(unknown[:, None], np.nan, rows.boxes),
        action=np.where(unknown, -1, rows.action),
        person=np.where(unknown, -1, rows.person),
    )


def _read_columns(path: Path, kind: str, rule: BoxRule, label_map: LabelMap | None) -> ActionBoxes | None:
    """Read a valid file with 8 columns in every row that has a box. Return None for any other file."""
    columns = try_read_columns(path, pl.Int32, pl.Float64 if kind == "detections" else pl.Int32)
    if columns is None:
        return None
    action = columns.label.fill_null(-1).to_numpy()
    has_box = ~columns.is_boxless if columns.is_boxless.any() else slice(None)
    timestamp, value = columns.timestamp, columns.value[has_box]
    is_valid = (
        bool((timestamp >= 0).all() and (timestamp <= MAX_TIMESTAMP).all() and (action[has_box] >= 1).all())
        and rule.accepts(columns.boxes[has_box])
        and bool(np.isfinite(value).all() if kind == "detections" else (value > -(2**31)).all())
        and (label_map is None or bool((label_map.columns(action[has_box]) >= 0).all()))
    )
    if not is_valid:
        return None
    score, person = np.ones(len(action)), np.full(len(action), -1, dtype=np.int32)
    if kind == "detections":
        score[has_box] = value
    else:
        person[has_box] = value
    return ActionBoxes(columns.videos, columns.video, timestamp, columns.boxes, action, score, person)


def _read_line_by_line(path: Path, kind: str, rule: BoxRule, label_map: LabelMap | None) -> ActionBoxes:
    """Read any file; raise DataError for its first invalid line."""
    known = None if label_map is None else frozenset(label_map.ids)
    names: dict[str, int] = {}
    video, action, person = array("i"), array("i"), array("i")
    timestamp, boxes, score = array("d"), array("d"), array("d")
    for row in iterate_rows(path):
        is_boxless = 2 <= len(row.fields) <= 8 and not any(row.fields[2:])
        if len(row.fields) not in (2, 7, 8) and not is_boxless:
            expected = f"video_id,timestamp[,x1,y1,x2,y2,action_id[,{_LAST_COLUMN[kind]}]]"
            raise row.error(f"expected 2, 7 or 8 columns ({expected}), got {len(row.fields)}")
        name, seconds = row.keyframe()
        video.append(names.setdefault(name, len(names)))
        timestamp.append(seconds)
        if is_boxless:
            boxes.extend((np.nan,) * 4)
            action.append(-1)
        else:
            boxes.extend(row.box(rule))
            action.append(_action_id(row, known))
        has_value = len(row.fields) == 8 and not is_boxless
        score.append(row.number(7, "the score") if has_value and kind == "detections" else 1.0)
        person.append(row.integer(7, "the person id") if has_value and kind == "ground_truth" else -1)
    if not names and kind == "ground_truth":
        raise DataError("expected at least one row, got none", path)
    videos = np.array(sorted(names), dtype=object)
    rank = np.argsort(np.argsort(np.array(list(names), dtype=object))).astype(np.int32)
    return ActionBoxes(
        videos,
        rank[np.array(video, dtype=np.int32)],
        np.array(timestamp),
        np.array(boxes).reshape(-1, 4),
        np.array(action, dtype=np.int32),
        np.array(score),
        np.array(person, dtype=np.int32),
    )


def _action_id(row: CsvRow, known: frozenset[int] | None) -> int:
    action = row.integer(6, "the action id")
    if action < 1:
        raise row.error(f"expected an action id of 1 or more, got {action}")
    if known is not None and action not in known:
        ids = sorted(known)
        listed = ", ".join(map(str, ids if len(ids) <= 10 else [*ids[:5], "...", ids[-1]]))
        raise row.error(f"expected an action id of the label map ({listed}), got {action}")
    return action


def read_excluded_keyframes(path: str | Path) -> frozenset[tuple[str, float]]:
    """Read excluded keyframes from lines `video_id,timestamp`. The file may be empty.

    Returns:
        (video id, seconds) pairs.

    Raises:
        DataError: with the file and the line.
    """
    keyframes = set()
    for row in iterate_rows(path):
        if len(row.fields) != 2:
            raise row.error(f"expected 2 columns (video_id,timestamp), got {len(row.fields)}")
        keyframes.add(row.keyframe())
    return frozenset(keyframes)


def write_action_csv(path: str | Path, rows: ActionBoxes, kind: str = "detections") -> None:
    """Write AVA's CSV. Column 8 is the score of detections, or the person id of ground truth if known.

    Integer seconds have four digits, as in AVA. Coordinates have 6 decimals. Scores have 9 significant
    digits, which distinguish any two float32 values, so the file has the same frame-mAP as the rows.
    """
    # polars rejects paths that are not UTF-8, but accepts open files.
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        _csv_lines(rows, kind).write_csv(file, include_header=False, quote_style="never")


def format_action_csv(rows: ActionBoxes) -> str:
    """Return the content that `write_action_csv` writes for detections."""
    return _csv_lines(rows, "detections").write_csv(include_header=False, quote_style="never")


def _csv_lines(rows: ActionBoxes, kind: str) -> pl.DataFrame:
    is_ground_truth = kind == "ground_truth"
    columns = {"code": rows.video, "timestamp": rows.timestamp, "action": rows.action}
    columns["value"] = rows.person if is_ground_truth else rows.score
    frame = pl.DataFrame(columns | dict(zip(COORDINATES, rows.boxes.T))).with_columns(
        pl.col("timestamp").round(3),
        pl.col(COORDINATES).round(6),
        pl.col("value") if is_ground_truth else pl.col("value").round_sig_figs(9),
    )
    names = pl.DataFrame({"code": np.arange(len(rows.videos), dtype=np.int32), "video": list(rows.videos)})
    seconds = pl.col("timestamp")
    four_digits = seconds.cast(pl.Int64).cast(pl.String).str.zfill(4)
    keyframe = pl.concat_str(
        "video",
        pl.when(seconds == seconds.floor()).then(four_digits).otherwise(seconds.cast(pl.String)),
        separator=",",
    )
    labeled = pl.concat_str(keyframe, *COORDINATES, "action", separator=",")
    line = (
        pl.when(pl.col("x1").is_nan())
        .then(keyframe)
        .when((pl.col("value") < 0) & is_ground_truth)
        .then(labeled)
        .otherwise(pl.concat_str(labeled, "value", separator=","))
    )
    joined = frame.lazy().join(names.lazy(), on="code", how="left", maintain_order="left")
    return joined.select(line).collect()
