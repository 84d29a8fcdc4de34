"""Rows of boxes grouped by keyframe, held in a few flat arrays that loader processes share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


def rows_by_value(values: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """The values that occur in (R,), ascending, and the rows of each, ascending; in O(R log R)."""
    order = np.argsort(values, kind="stable")
    distinct, first = np.unique(values[order], return_index=True)
    return distinct, np.split(order, first[1:]) if len(distinct) else []


@dataclass(frozen=True)
class Keyframes:
    """Boxes of K keyframes; those of keyframe k are rows starts[k] to starts[k + 1].

    Args:
        videos: names of the videos.
        video: index into `videos`, (K,).
        timestamp: seconds on the dataset's clock, (K,).
        starts: (K + 1,).
        boxes: xyxy in [0, 1] of the frame, (R, 4).
        values: what each row says of its box, (R,).
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
        """Index of the video, timestamp, boxes (N, 4) and values (N,)."""
        rows = slice(self.starts[k], self.starts[k + 1])
        return int(self.video[k]), float(self.timestamp[k]), self.boxes[rows], self.values[rows]


def group_by_keyframe(
    rows: Any, values: np.ndarray, excluded: set[tuple[str, float]] | None = None
) -> Keyframes:
    """Group columnar rows (with `videos`, `video`, `timestamp` and `boxes`) and their `values` by keyframe.

    Rows without a box and rows of `excluded` keyframes, (video name, timestamp) pairs, are left out; so
    are videos
    of which nothing remains.
    """
    kept = ~np.isnan(rows.boxes).any(axis=1)
    video, timestamp, boxes, values = rows.video[kept], rows.timestamp[kept], rows.boxes[kept], values[kept]
    order = np.lexsort((timestamp, video))
    video, timestamp, boxes, values = video[order], timestamp[order], boxes[order], values[order]
    first = np.ones(len(video), dtype=bool)
    first[1:] = (np.diff(video) != 0) | (np.diff(timestamp) != 0)
    starts = np.append(np.flatnonzero(first), len(video))
    keep = np.ones(len(starts) - 1, dtype=bool)
    if excluded:
        names = rows.videos[video[starts[:-1]]]
        keep = np.array(
            [(str(n), t) not in excluded for n, t in zip(names, timestamp[starts[:-1]].tolist())], bool
        )
    lengths = np.diff(starts)
    row_kept = np.repeat(keep, lengths)
    used, new_video = np.unique(video[starts[:-1][keep]], return_inverse=True)
    return Keyframes(
        videos=rows.videos[used],
        video=new_video.astype(np.int32),
        timestamp=timestamp[starts[:-1][keep]],
        starts=np.concatenate([[0], np.cumsum(lengths[keep])]),
        boxes=boxes[row_kept],
        values=values[row_kept],
    )
