"""Rows of boxes grouped by keyframe.

`KeyframeBoxes` stores them in a few flat arrays, which loader workers share without copying.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np


def keyframe_keys(video: np.ndarray, timestamp: np.ndarray) -> np.ndarray:
    """Return one int64 key per row (R,) that identifies its keyframe.

    Keys sort by video index, then by time. Times are rounded to milliseconds.
    """
    # box_csv.MAX_TIMESTAMP in milliseconds is less than 2^40. In place, because there are millions of rows.
    milliseconds = timestamp * 1000.0
    np.rint(milliseconds, out=milliseconds)
    keys = video.astype(np.int64)
    keys <<= 40
    keys += milliseconds.astype(np.int64)
    return keys


def rows_by_value(values: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the distinct values of (R,) in ascending order, and the row indices of each. O(R log R)."""
    order = np.argsort(values, kind="stable")
    distinct, first = np.unique(values[order], return_index=True)
    return distinct, np.split(order, first[1:]) if len(distinct) else []


@dataclass(frozen=True)
class KeyframeBoxes:
    """Boxes of K keyframes. Those of keyframe k are rows starts[k] to starts[k + 1].

    Args:
        videos: video names.
        video: (K,) index into `videos`.
        timestamp: (K,) seconds on the dataset's clock.
        starts: (K + 1,) row offsets.
        boxes: (R, 4) xyxy in [0, 1] of the frame.
        values: (R,) one value per box, such as its score or action.
    """

    videos: np.ndarray
    video: np.ndarray
    timestamp: np.ndarray
    starts: np.ndarray
    boxes: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.video)

    def __getitem__(self, k: int) -> tuple[int, float, np.ndarray, np.ndarray]:
        """Return the video index, the timestamp, the boxes (N, 4) and the values (N,) of keyframe k."""
        rows = slice(self.starts[k], self.starts[k + 1])
        return int(self.video[k]), float(self.timestamp[k]), self.boxes[rows], self.values[rows]


def keyframes_without_boxes(table: Any, excluded: set[tuple[str, float]] | None = None) -> KeyframeBoxes:
    """Return the keyframes that the rows of a table name, those without a box included, with no boxes.

    Args:
        table, excluded: as of `group_by_keyframe`.
    """
    table = replace(table, boxes=np.zeros((len(table.video), 4)))
    keyframes = group_by_keyframe(table, table.video, excluded)
    no_rows = np.zeros_like(keyframes.starts)
    return replace(keyframes, starts=no_rows, boxes=np.zeros((0, 4)), values=np.zeros(0))


def group_by_keyframe(
    table: Any, values: np.ndarray, excluded: set[tuple[str, float]] | None = None
) -> KeyframeBoxes:
    """Group boxes and their `values` by keyframe.

    Rows without a box, rows of excluded keyframes, and videos without any remaining row are dropped.

    Args:
        table: ActionBoxes, PersonBoxes, or any object with `videos`, `video`, `timestamp` and `boxes`.
        values: (R,) one value per row of `table`.
        excluded: (video name, timestamp) pairs.
    """
    kept = ~np.isnan(table.boxes).any(axis=1)
    video, timestamp, boxes, values = (
        table.video[kept],
        table.timestamp[kept],
        table.boxes[kept],
        values[kept],
    )
    order = np.lexsort((timestamp, video))
    video, timestamp, boxes, values = video[order], timestamp[order], boxes[order], values[order]
    is_first = np.ones(len(video), dtype=bool)
    is_first[1:] = (np.diff(video) != 0) | (np.diff(timestamp) != 0)
    starts = np.append(np.flatnonzero(is_first), len(video))
    keep = np.ones(len(starts) - 1, dtype=bool)
    if excluded:
        names = table.videos[video[starts[:-1]]]
        keep = np.array(
            [(str(n), t) not in excluded for n, t in zip(names, timestamp[starts[:-1]].tolist())], bool
        )
    lengths = np.diff(starts)
    row_kept = np.repeat(keep, lengths)
    used, new_video = np.unique(video[starts[:-1][keep]], return_inverse=True)
    return KeyframeBoxes(
        videos=table.videos[used],
        video=new_video.astype(np.int32),
        timestamp=timestamp[starts[:-1][keep]],
        starts=np.concatenate([[0], np.cumsum(lengths[keep])]),
        boxes=boxes[row_kept],
        values=values[row_kept],
    )
