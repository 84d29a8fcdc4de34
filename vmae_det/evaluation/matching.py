"""Which detection finds which ground-truth box: the part of frame-mAP that works on boxes.

Within a keyframe and class, one detection after the other takes the ground-truth box that it overlaps most.
Below the IoU threshold, or where that box is taken, it is a false positive.

Three protocols are in use, and differ by more than ten points on the same files:

- `challenge`, ActivityNet's evaluator (get_ava_performance.py): keeps the 50 best-scored rows of a keyframe,
  scores only keyframes that the ground truth names, and lets detections choose their box by falling score.
- `slowfast`, SlowFast's (ava_eval_helper.py): keeps all rows and all keyframes, and lets detections choose in
  the order of the rows. A file that is not sorted by score therefore gets less, as it does there.
- `mmaction2`, that of mmaction2 1.x (ava_utils.py): keeps all rows, scores only keyframes in which the
  ground truth has an action of the label map, and lets detections choose their box by falling score. Boxes
  and scores are float32, empty boxes are false positives, the ground truth of excluded keyframes counts as
  missed, and a class without any detection does not enter the mean.

In all of them, rows with an action outside the label map and detections in excluded keyframes do not count.
In the first two neither do empty boxes and the ground truth of excluded keyframes.

Equal scores are ordered by what the rows say, not by where they stand: by video id, time, action id, and the
box's x1, y1, x2, y2. `vmae_det.evaluation.ties` says what another order could give.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl

from vmae_det.evaluation.average_precision import PrecisionRecall, precision_recall
from vmae_det.evaluation.grouping import index_in, stable_order, unique
from vmae_det.formats.ava_csv import ActionBoxes
from vmae_det.formats.box_csv import keyframe_keys
from vmae_det.formats.label_map import LabelMap
from vmae_det.utils.errors import DataError, UserError

_MOST_PAIRS = 4_000_000  # of a keyframe and class

PROTOCOLS = ("challenge", "slowfast", "mmaction2")
# The capacity that ActivityNet's evaluator gives a keyframe.
_CHALLENGE_ROWS = 50

Keyframes = Iterable[tuple[str, float]]


@dataclass(frozen=True)
class ScoredRows:
    """Rows of a file that are scored, by keyframe: row of the source, keyframe index, column and score, each
    (N,)."""

    source: ActionBoxes
    row: np.ndarray
    keyframe: np.ndarray
    column: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.row)

    def select(self, chosen: np.ndarray) -> ScoredRows:
        """The rows that a mask or indices choose."""
        columns = (self.row, self.keyframe, self.column, self.score)
        return ScoredRows(self.source, *(values[chosen] for values in columns))

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
        tied_for_cap: where more rows of a keyframe tie for the last places of the cap than there are places:
            the rows of such keyframes with all that tie, and each keyframe's score of the tie, NaN elsewhere.
    """

    ground_truth: ScoredRows
    detections: ScoredRows
    label_map: LabelMap
    protocol: str
    num_detections: int
    chooser: np.ndarray
    chosen: np.ndarray
    overlap: np.ndarray
    tied_for_cap: tuple[ScoredRows, np.ndarray] | None = None

    @cached_property
    def num_ground_truth(self) -> np.ndarray:
        """(C,) boxes of each class."""
        return np.bincount(self.ground_truth.column, minlength=len(self.label_map))

    @cached_property
    def num_keyframes(self) -> int:
        """Keyframes with ground truth that counts."""
        return len(np.unique(self.ground_truth.keyframe))

    @cached_property
    def num_undetected(self) -> int:
        """Keyframes with ground truth that counts, but without any such detection."""
        annotated = np.unique(self.ground_truth.keyframe)
        seen = np.zeros(max(annotated[-1], self.detections.keyframe.max(initial=0)) + 1, dtype=bool)
        seen[self.detections.keyframe] = True
        return int((~seen[annotated]).sum())

    @cached_property
    def ranking(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each class its detections by falling score, as indices in `detections`, and these scores."""
        found = self.detections
        by_class = stable_order(found.column, len(self.label_map))
        ends = np.cumsum(np.bincount(found.column, minlength=len(self.label_map)))
        members = [(rows, found.score[rows]) for rows in np.split(by_class, ends[:-1])]
        orders = (np.argsort(-score, kind="stable") for _, score in members)
        return [(rows[order], score[order]) for (rows, score), order in zip(members, orders)]

    @property
    def ranked(self) -> list[np.ndarray]:
        """For each class its detections by falling score, as indices in `detections`."""
        return [rows for rows, _ in self.ranking]

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
            precision_recall(hit[rows], score, count)
            for (rows, score), count in zip(self.ranking, self.num_ground_truth)
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
    columns = [label_map.columns(source.action) for source in (ground_truth, detections)]
    if protocol == "mmaction2":
        ground_truth, detections = _in_single_precision(ground_truth), _in_single_precision(detections)
    keyframes, keys = _keyframes(ground_truth, detections, protocol, columns[0])
    unwanted = _excluded_keys(ground_truth, detections, excluded)
    scored = keyframes if unwanted is None else keyframes[~np.isin(keyframes, unwanted)]
    if protocol != "mmaction2":
        keyframes = scored
    truth = _scored_rows(ground_truth, keys[0], columns[0], keyframes)
    if not len(truth):
        raise DataError(
            "no row of the ground truth counts: all are excluded or have actions outside the label map"
        )
    found = _scored_rows(detections, keys[1], columns[1], keyframes)
    if scored is not keyframes:
        found = found.select(np.isin(keyframes, scored)[found.keyframe])
    rivals = None
    if protocol == "challenge" and cap:
        found, rivals = _best_rows(found, len(keyframes), _CHALLENGE_ROWS)
    if protocol != "mmaction2":
        # The evaluators drop empty boxes silently, after the cap.
        found = _with_area(found)
        rivals = rivals and (_with_area(rivals[0]), rivals[1])
    else:
        is_claimed = np.bincount(found.column, minlength=len(label_map))[truth.column] > 0
        truth = truth.select(is_claimed) if is_claimed.any() else truth
    usable = int((columns[1] >= 0).sum())
    found, pairs = pair(truth, found, len(label_map), protocol)
    return Matches(truth, found, label_map, protocol, usable, *pairs, tied_for_cap=rivals)


def _in_single_precision(source: ActionBoxes) -> ActionBoxes:
    return replace(source, boxes=source.boxes.astype(np.float32), score=source.score.astype(np.float32))


def _with_area(rows: ScoredRows) -> ScoredRows:
    left, top, right, bottom = rows.source.boxes.T
    sound = (left < right) & (top < bottom)
    return rows if sound.all() else rows.select(sound[rows.row])


def _keyframes(
    ground_truth: ActionBoxes, detections: ActionBoxes, protocol: str, truth_column: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Sorted keys of the keyframes that count, before exclusion, and the key of each row of both sources."""
    videos = _videos(ground_truth, detections)
    keys = []
    for source in (ground_truth, detections):
        index = np.searchsorted(videos, source.videos.astype(object)).astype(np.int32)
        keys.append(keyframe_keys(index[source.video], source.timestamp))
    if protocol == "slowfast":
        named = np.concatenate([unique(key) for key in keys])
    else:
        # For the challenge a keyframe counts even where none of its actions is in the label map.
        named = keys[0] if protocol == "challenge" else keys[0][truth_column >= 0]
    return unique(named), keys


def _videos(ground_truth: ActionBoxes, detections: ActionBoxes) -> np.ndarray:
    return np.union1d(ground_truth.videos.astype(object), detections.videos.astype(object))


def _excluded_keys(
    ground_truth: ActionBoxes, detections: ActionBoxes, excluded: Keyframes | None
) -> np.ndarray | None:
    """Keys of the excluded keyframes, None without any."""
    index_of = {name: i for i, name in enumerate(_videos(ground_truth, detections))}
    known = [(index_of[video], time) for video, time in excluded or () if video in index_of]
    return keyframe_keys(*np.array(known).T) if known else None


def _scored_rows(
    source: ActionBoxes, key: np.ndarray, column: np.ndarray, keyframes: np.ndarray
) -> ScoredRows:
    """The rows in `keyframes` with a column, by keyframe."""
    keyframe = index_in(key, keyframes)
    row = np.flatnonzero((keyframe >= 0) & (column >= 0))
    keyframe = keyframe[row]
    if (keyframe[1:] < keyframe[:-1]).any():
        order = stable_order(keyframe, len(keyframes))
        row, keyframe = row[order], keyframe[order]
    return ScoredRows(source, row, keyframe, column[row], source.score[row])


def _best_rows(
    rows: ScoredRows, num_keyframes: int, limit: int
) -> tuple[ScoredRows, tuple[ScoredRows, np.ndarray] | None]:
    """The `limit` best-scored rows of each keyframe, and `Matches.tied_for_cap`."""
    frame = pl.DataFrame({"keyframe": rows.keyframe, "score": rows.score})
    last = frame.group_by("keyframe").agg(pl.col("score").top_k(limit).min())
    last_score = np.full(num_keyframes, np.nan)
    last_score[last["keyframe"].to_numpy()] = last["score"].to_numpy()
    threshold = last_score[rows.keyframe]
    kept = rows.score > threshold
    # Where more rows tie for the last places than there are places, the stable order decides.
    places = limit - np.bincount(rows.keyframe[kept], minlength=num_keyframes)
    tied = np.flatnonzero(rows.score == threshold)
    crowded = np.bincount(rows.keyframe[tied], minlength=num_keyframes) > places
    contested = crowded[rows.keyframe[tied]]
    kept[tied[~contested]] = True
    tied = tied[contested]
    rivals = None
    if len(tied):
        with_tied = kept & crowded[rows.keyframe]
        with_tied[tied] = True
        rivals = rows.select(with_tied), np.where(crowded, last_score, np.nan)
    action = rows.source.action[rows.row[tied]]
    tied = rows.order(tied, rows.keyframe[tied], action)
    keyframe = rows.keyframe[tied]
    rank = np.arange(len(tied)) - np.searchsorted(keyframe, keyframe)
    kept[tied[rank < places[keyframe]]] = True
    return rows.select(kept), rivals


def pair(
    truth: ScoredRows, found: ScoredRows, num_classes: int, protocol: str
) -> tuple[ScoredRows, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Chooser, chosen and overlap of Matches; and the detections, in the order of ties where it matters: in a
    keyframe and class with ground truth."""
    # A group is a keyframe and a class.
    group = truth.keyframe.astype(np.int64) * num_classes + truth.column
    by_group = truth.order(np.arange(len(group)), group)
    groups, start, size = np.unique(group[by_group], return_index=True, return_counts=True)
    group = index_in(found.keyframe.astype(np.int64) * num_classes + found.column, groups)
    _check_pairs(size, np.bincount(group[group >= 0], minlength=len(size)))

    candidates = np.flatnonzero(group >= 0)
    places = candidates[np.argsort(group[candidates], kind="stable")]
    in_order = found.order(candidates, group[candidates])
    row, score = found.row.copy(), found.score.copy()
    row[places], score[places] = row[in_order], score[in_order]
    found = replace(found, row=row, score=score)

    group = group[places]
    priority = found.row[places] if protocol == "slowfast" else -found.score[places]
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


def _check_pairs(annotated: np.ndarray, detected: np.ndarray) -> None:
    """DataError where a keyframe has so many boxes (G,) of a class that they cannot be compared each with
    each."""
    pairs = annotated * detected
    if pairs.max(initial=0) > _MOST_PAIRS:
        worst = int(pairs.argmax())
        raise DataError(
            f"a keyframe has {annotated[worst]} annotated boxes and {detected[worst]} detections of a "
            f"class; expected at most {_MOST_PAIRS:.0e} pairs of these"
        )


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Overlap (P,) of boxes (P, 4) and (P, 4), in the evaluators' order of operations; not both are empty."""
    sides = np.maximum(0.0, np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]))
    # mmaction2 works on float32 up to here, and has float64 from here on.
    shared = sides.astype(np.float64, copy=False).prod(axis=1)
    areas = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1)
    return shared / (areas - shared)
