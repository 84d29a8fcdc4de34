"""Which detection finds which ground-truth box: the part of frame-mAP that works on boxes.

Within a keyframe and class, one detection after the other takes the ground-truth box that it overlaps most.
Below the IoU threshold, or where that box is taken, it is a false positive.

Two protocols are in use, and differ by more than ten points on the same files:

- `challenge`, ActivityNet's evaluator (get_ava_performance.py): keeps the 50 best-scored rows of a keyframe,
  scores only keyframes that the ground truth names, and lets detections choose their box by falling score.
- `slowfast`, SlowFast's (ava_eval_helper.py): keeps all rows and all keyframes, and lets detections choose in
  the order of the rows. A file that is not sorted by score therefore gets less, as it does there.

In both, rows with an action outside the label map and excluded keyframes do not count, nor do empty boxes.

Equal scores are ordered by what the rows say, not by where they stand: by video id, time, action id, and the
box's x1, y1, x2, y2.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl

from vmae_det.data.annotations import ActionBoxes
from vmae_det.data.box_rows import keyframe_keys
from vmae_det.data.label_map import LabelMap
from vmae_det.evaluation.average_precision import PrecisionRecall, precision_recall
from vmae_det.utils.errors import DataError, UserError

PROTOCOLS = ("challenge", "slowfast")
# The capacity that ActivityNet's evaluator gives a keyframe.
_CHALLENGE_ROWS = 50

Keyframes = Iterable[tuple[str, float]]


@dataclass(frozen=True)
class Rows:
    """Rows of a file that count, by keyframe: row of the source, keyframe index, column and score, each
    (N,)."""

    source: ActionBoxes
    row: np.ndarray
    keyframe: np.ndarray
    column: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.row)

    def select(self, chosen: np.ndarray) -> Rows:
        """The rows that a mask or indices choose."""
        columns = (self.row, self.keyframe, self.column, self.score)
        return Rows(self.source, *(values[chosen] for values in columns))

    def order(self, chosen: np.ndarray, *leading: np.ndarray) -> np.ndarray:
        """The indices `chosen`, sorted by `leading` keys (each of len(chosen)), then by box coordinates."""
        x1, y1, x2, y2 = self.source.boxes[self.row[chosen]].T
        return chosen[np.lexsort((y2, x2, y1, x1, *leading[::-1]))]


@dataclass(frozen=True)
class Matches:
    """The scored detections and the ground-truth box that each would take, whatever the IoU threshold.

    `detections.row` and `ground_truth.row` lead back to the rows that were given.

    Args:
        ground_truth: G rows.
        detections: D rows.
        num_detections: rows given, with an action of the label map.
        chooser: (P,) the detections that share keyframe and class with ground truth, in the order in which
            they choose; index in `detections`.
        chosen: (P,) the box that each overlaps most, index in `ground_truth`; among equals the first by
            coordinates.
        overlap: (P,) their IoU.
    """

    ground_truth: Rows
    detections: Rows
    label_map: LabelMap
    protocol: str
    num_detections: int
    chooser: np.ndarray
    chosen: np.ndarray
    overlap: np.ndarray

    @cached_property
    def num_ground_truth(self) -> np.ndarray:
        """(C,) boxes of each class."""
        return np.bincount(self.ground_truth.column, minlength=len(self.label_map))

    @cached_property
    def ranked(self) -> list[np.ndarray]:
        """For each class its detections by falling score, as indices in `detections`."""
        found = self.detections
        by_class = _stable_order(found.column, len(self.label_map))
        ends = np.cumsum(np.bincount(found.column, minlength=len(self.label_map)))
        members = np.split(by_class, ends[:-1])
        return [rows[np.argsort(-found.score[rows], kind="stable")] for rows in members]

    def best_box(self) -> np.ndarray:
        """(D,) index in `ground_truth` of the box that each detection overlaps most, -1 where its keyframe
        has none of its class."""
        best = np.full(len(self.detections), -1, dtype=np.int64)
        best[self.chooser] = self.chosen
        return best

    def iou(self) -> np.ndarray:
        """(D,) overlap with `best_box`, 0 where there is none."""
        iou = np.zeros(len(self.detections))
        iou[self.chooser] = self.overlap
        return iou

    def true_positives(self, iou: float) -> np.ndarray:
        """(D,) bool: the detection that comes first to each ground-truth box, of those that reach `iou`.

        Raises:
            UserError: a threshold outside of (0, 1].
        """
        if not 0 < iou <= 1:
            raise UserError(f"IoU thresholds must be in (0, 1], got {iou:g}")
        over = np.flatnonzero(self.overlap >= iou)
        _, first = np.unique(self.chosen[over], return_index=True)
        hit = np.zeros(len(self.detections), dtype=bool)
        hit[self.chooser[over[first]]] = True
        return hit

    def precision_recall(self, iou: float) -> list[PrecisionRecall]:
        """The curve of each class, in the order of the label map."""
        hit = self.true_positives(iou)
        return [
            precision_recall(hit[rows], self.detections.score[rows], count)
            for rows, count in zip(self.ranked, self.num_ground_truth)
        ]


def match(
    ground_truth: ActionBoxes,
    detections: ActionBoxes,
    label_map: LabelMap,
    *,
    excluded: Keyframes | None = None,
    protocol: str = PROTOCOLS[0],
    cap: bool = True,
) -> Matches:
    """Pair detections with ground truth.

    Args:
        excluded: (video id, seconds) of keyframes that do not count.
        cap: False keeps all rows of a keyframe, whatever the protocol.

    Raises:
        DataError: no ground truth is left to score, or a score is NaN.
        UserError: an unknown protocol.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    if np.isnan(detections.score).any():
        raise DataError("the scores of the detections hold NaN; has the training diverged?")
    keyframes, keys = _keyframes(ground_truth, detections, excluded, protocol)
    columns = [label_map.columns(source.action) for source in (ground_truth, detections)]
    truth = _scored_rows(ground_truth, keys[0], columns[0], keyframes)
    found = _scored_rows(detections, keys[1], columns[1], keyframes)
    if not len(truth):
        raise DataError(
            "no row of the ground truth counts: all are excluded or have actions outside the label map"
        )
    if protocol == "challenge" and cap:
        found = _best_rows(found, len(keyframes), _CHALLENGE_ROWS)
    left, top, right, bottom = detections.boxes.T
    # The evaluators drop empty boxes silently, after the cap.
    sound = (left < right) & (top < bottom)
    if not sound.all():
        found = found.select(sound[found.row])
    usable = int((columns[1] >= 0).sum())
    found, pairs = _pair(truth, found, len(label_map), protocol)
    return Matches(truth, found, label_map, protocol, usable, *pairs)


def _keyframes(
    ground_truth: ActionBoxes, detections: ActionBoxes, excluded: Keyframes | None, protocol: str
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Sorted keys of the keyframes that count, and the key of each row of both sources."""
    videos = np.union1d(ground_truth.videos.astype(object), detections.videos.astype(object))
    keys = []
    for source in (ground_truth, detections):
        index = np.searchsorted(videos, source.videos.astype(object)).astype(np.int32)
        keys.append(keyframe_keys(index[source.video], source.timestamp))
    # A keyframe of the ground truth counts even where none of its actions is in the label map.
    named = keys[0] if protocol == "challenge" else np.concatenate([_unique(key) for key in keys])
    keyframes = _unique(named)
    index_of = {name: i for i, name in enumerate(videos)}
    left_out = [(index_of[video], time) for video, time in excluded or () if video in index_of]
    if left_out:
        index, time = np.array(left_out).T
        keyframes = keyframes[~np.isin(keyframes, keyframe_keys(index, time))]
    return keyframes, keys


def _scored_rows(source: ActionBoxes, key: np.ndarray, column: np.ndarray, keyframes: np.ndarray) -> Rows:
    """The rows in `keyframes` with a column, by keyframe."""
    keyframe = _index(key, keyframes)
    row = np.flatnonzero((keyframe >= 0) & (column >= 0))
    keyframe = keyframe[row]
    if (keyframe[1:] < keyframe[:-1]).any():
        order = _stable_order(keyframe, len(keyframes))
        row, keyframe = row[order], keyframe[order]
    return Rows(source, row, keyframe, column[row], source.score[row])


def _best_rows(rows: Rows, num_keyframes: int, limit: int) -> Rows:
    """The `limit` best-scored rows of each keyframe."""
    frame = pl.DataFrame({"keyframe": rows.keyframe, "score": rows.score})
    last = frame.group_by("keyframe").agg(pl.col("score").top_k(limit).min())
    threshold = np.empty(num_keyframes)
    threshold[last["keyframe"].to_numpy()] = last["score"].to_numpy()
    threshold = threshold[rows.keyframe]
    kept = rows.score > threshold
    # Where more rows tie for the last places than there are places, the stable order decides.
    places = limit - np.bincount(rows.keyframe[kept], minlength=num_keyframes)
    tied = np.flatnonzero(rows.score == threshold)
    crowded = np.bincount(rows.keyframe[tied], minlength=num_keyframes) > places
    contested = crowded[rows.keyframe[tied]]
    kept[tied[~contested]] = True
    tied = tied[contested]
    action = rows.source.action[rows.row[tied]]
    tied = rows.order(tied, rows.keyframe[tied], action)
    keyframe = rows.keyframe[tied]
    rank = np.arange(len(tied)) - np.searchsorted(keyframe, keyframe)
    kept[tied[rank < places[keyframe]]] = True
    return rows.select(kept)


def _pair(
    truth: Rows, found: Rows, num_classes: int, protocol: str
) -> tuple[Rows, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Chooser, chosen and overlap of Matches; and the detections, in the order of ties where it matters: in a
    keyframe and class with ground truth."""
    # A group is a keyframe and a class.
    group = truth.keyframe.astype(np.int64) * num_classes + truth.column
    by_group = truth.order(np.arange(len(group)), group)
    groups, start, size = np.unique(group[by_group], return_index=True, return_counts=True)
    group = _index(found.keyframe.astype(np.int64) * num_classes + found.column, groups)

    candidates = np.flatnonzero(group >= 0)
    places = candidates[np.argsort(group[candidates], kind="stable")]
    in_order = found.order(candidates, group[candidates])
    row, score = found.row.copy(), found.score.copy()
    row[places], score[places] = row[in_order], score[in_order]
    found = replace(found, row=row, score=score)

    group = group[places]
    priority = -found.score[places] if protocol == "challenge" else found.row[places]
    by_choice = np.lexsort((priority, group))
    chooser, group = places[by_choice], group[by_choice]
    # Each detection beside each ground-truth box of its group.
    repeats = size[group]
    first = np.cumsum(repeats) - repeats
    left = np.repeat(np.arange(len(chooser)), repeats)
    right = by_group[np.arange(len(left)) + np.repeat(start[group] - first, repeats)]
    overlap = box_iou(found.source.boxes[found.row[chooser]][left], truth.source.boxes[truth.row[right]])
    best = np.maximum.reduceat(overlap, first) if len(first) else overlap
    at_best = np.flatnonzero(overlap == best[left])
    _, earliest = np.unique(left[at_best], return_index=True)
    return found, (chooser, right[at_best[earliest]], best)


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Overlap (P,) of boxes (P, 4) and (P, 4), in the evaluators' order of operations; `a` are not empty."""
    shared = np.maximum(0.0, np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])).prod(axis=1)
    areas = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1)
    return shared / (areas - shared)


def _unique(values: np.ndarray) -> np.ndarray:
    return pl.Series("value", values[_run_starts(values)]).unique().sort().to_numpy()


def _index(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """int32 index of each value in a table of unique values, -1 where it is absent."""
    starts = _run_starts(values)
    indices = pl.DataFrame({"value": table, "index": np.arange(len(table), dtype=np.int32)})
    once = pl.DataFrame({"value": values[starts]})
    joined = once.join(indices, on="value", how="left", maintain_order="left")
    index = joined["index"].fill_null(-1).to_numpy()
    return np.repeat(index, np.diff(starts, append=len(values)))


def _run_starts(values: np.ndarray) -> np.ndarray:
    """Where runs of equal values start: files list a keyframe's rows together, so they are few."""
    is_start = np.ones(len(values), dtype=bool)
    np.not_equal(values[1:], values[:-1], out=is_start[1:])
    return np.flatnonzero(is_start)


def _stable_order(ids: np.ndarray, limit: int) -> np.ndarray:
    """Stable argsort of whole numbers in 0 .. limit - 1, in linear time: numpy sorts 16 bits by radix."""
    order = np.argsort((ids & 0xFFFF).astype(np.uint16), kind="stable")
    if limit > 1 << 16:
        order = order[np.argsort((ids >> 16).astype(np.uint16)[order], kind="stable")]
    return order
