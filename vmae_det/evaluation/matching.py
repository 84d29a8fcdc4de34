"""Matching of detections to ground truth for frame-mAP.

Within a keyframe and class, each detection in turn takes the ground-truth box with which it has the highest
IoU. It is a false positive if that IoU is below the threshold, or if the box is already taken.

Three protocols are in use. Their results differ by more than ten points on the same files:

- `challenge`, ActivityNet's evaluator (get_ava_performance.py): keeps the 50 best-scored rows of each
  keyframe, scores only keyframes that occur in the ground truth, and matches detections by descending score.
- `slowfast`, SlowFast's evaluator (ava_eval_helper.py): keeps all rows and all keyframes, and matches
  detections in row order. A file that is not sorted by score therefore gets a lower result, as with SlowFast.
- `mmaction2`, the evaluator of mmaction2 1.x (ava_utils.py): keeps all rows, scores only keyframes whose
  ground truth has an action of the label map, and matches detections by descending score. Boxes and scores
  are float32, empty boxes are false positives, the ground truth of excluded keyframes counts as missed, and
  classes without detections are not part of the mean.

All protocols ignore rows with an action outside the label map, and detections in excluded keyframes. The
first two also ignore empty boxes and the ground truth of excluded keyframes.

Ties in score are broken by content, not by row order: by video id, time, action id, and the box's x1, y1, x2,
y2. `FrameMAP.ap_range` is the range of results over all orders.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl

from vmae_det.evaluation.average_precision import PrecisionRecall, precision_recall
from vmae_det.formats.ava_csv import ActionBoxes
from vmae_det.formats.box_iou import box_iou
from vmae_det.formats.keyframes import keyframe_keys
from vmae_det.formats.label_map import LabelMap
from vmae_det.utils.errors import DataError, UserError

PROTOCOLS = ("challenge", "slowfast", "mmaction2")
# Of the challenge protocol. ActivityNet's evaluator has this capacity per keyframe.
_MAX_ROWS_PER_KEYFRAME = 50
# Limit of (ground-truth box, detection) pairs in a keyframe and class.
_MAX_PAIRS = 4_000_000


@dataclass(frozen=True)
class ScoredRows:
    """The rows of a file that the protocol scores, sorted by keyframe.

    Args:
        source: the file.
        row: (N,) row in `source`.
        keyframe: (N,) keyframe index.
        column: (N,) class, a column of the label map.
        score: (N,).
    """

    source: ActionBoxes
    row: np.ndarray
    keyframe: np.ndarray
    column: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.row)

    def select(self, rows: np.ndarray) -> ScoredRows:
        """Return the rows selected by a mask or by indices."""
        columns = (self.row, self.keyframe, self.column, self.score)
        return ScoredRows(self.source, *(values[rows] for values in columns))

    def sort_ties(self, indices: np.ndarray, *keys: np.ndarray) -> np.ndarray:
        """Return `indices` sorted by `keys`, each of len(indices), then by box coordinates."""
        x1, y1, x2, y2 = self.source.boxes[self.row[indices]].T
        return indices[np.lexsort((y2, x2, y1, x1, *keys[::-1]))]


@dataclass(frozen=True)
class Matches:
    """Scored detections, each with the ground-truth box of its keyframe and class that has the highest IoU.

    The pairs do not depend on an IoU threshold; `true_positives` applies one. `detections.row` and
    `ground_truth.row` are indices of the input rows.

    Args:
        ground_truth: G rows.
        detections: D rows.
        num_detections: number of input detections with an action of the label map.
        pair_detection: (P,) detections that share keyframe and class with ground truth, in matching order;
            index in `detections`.
        pair_truth: (P,) ground-truth box of highest IoU, index in `ground_truth`; the first by coordinates in
            case of a tie.
        pair_iou: (P,) their IoU.
        cap_ties: set if more rows of a keyframe tie at the score of the 50th row than the cap admits: all
            rows of such keyframes down to that score, and that score by keyframe (NaN for other keyframes).
    """

    ground_truth: ScoredRows
    detections: ScoredRows
    label_map: LabelMap
    protocol: str
    num_detections: int
    pair_detection: np.ndarray
    pair_truth: np.ndarray
    pair_iou: np.ndarray
    cap_ties: tuple[ScoredRows, np.ndarray] | None = None

    @cached_property
    def num_ground_truth(self) -> np.ndarray:
        """(C,) number of ground-truth boxes of each class."""
        return np.bincount(self.ground_truth.column, minlength=len(self.label_map))

    @cached_property
    def num_keyframes(self) -> int:
        """Number of keyframes with scored ground truth."""
        return len(np.unique(self.ground_truth.keyframe))

    @cached_property
    def num_undetected(self) -> int:
        """Number of keyframes with scored ground truth, but without scored detections."""
        annotated = np.unique(self.ground_truth.keyframe)
        is_detected = np.zeros(max(annotated[-1], self.detections.keyframe.max(initial=0)) + 1, dtype=bool)
        is_detected[self.detections.keyframe] = True
        return int((~is_detected[annotated]).sum())

    @cached_property
    def ranking(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each class its detections by descending score, as indices in `detections`, and their scores."""
        by_class = _stable_argsort(self.detections.column, len(self.label_map))
        ends = np.cumsum(np.bincount(self.detections.column, minlength=len(self.label_map)))
        members = [(rows, self.detections.score[rows]) for rows in np.split(by_class, ends[:-1])]
        orders = (np.argsort(-score, kind="stable") for _, score in members)
        return [(rows[order], score[order]) for (rows, score), order in zip(members, orders)]

    @property
    def ranked(self) -> list[np.ndarray]:
        """For each class its detections by descending score, as indices in `detections`."""
        return [rows for rows, _ in self.ranking]

    def best_box(self) -> np.ndarray:
        """Return for each detection (D,) the ground-truth box of highest IoU, as an index in `ground_truth`.

        -1 if its keyframe has no box of its class.
        """
        best = np.full(len(self.detections), -1, dtype=np.int64)
        best[self.pair_detection] = self.pair_truth
        return best

    def iou(self) -> np.ndarray:
        """Return for each detection (D,) the IoU with its `best_box`, or 0 without one."""
        iou = np.zeros(len(self.detections))
        iou[self.pair_detection] = self.pair_iou
        return iou

    def true_positives(self, iou: float) -> np.ndarray:
        """Return a mask (D,) of the true positives: the first detection of each box that reaches `iou`.

        Raises:
            UserError: the threshold is outside (0, 1].
        """
        if not 0 < iou <= 1:
            raise UserError(f"IoU thresholds must be in (0, 1], got {iou:g}")
        reaching = np.flatnonzero(self.pair_iou >= iou)
        _, first = np.unique(self.pair_truth[reaching], return_index=True)
        hit = np.zeros(len(self.detections), dtype=bool)
        hit[self.pair_detection[reaching[first]]] = True
        return hit

    def precision_recall(self, iou: float) -> list[PrecisionRecall]:
        """Return the precision-recall curve of each class, in label map order."""
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
    excluded: Iterable[tuple[str, float]] | None = None,
    protocol: str = PROTOCOLS[0],
    cap: bool = True,
) -> Matches:
    """Match detections to ground truth.

    Args:
        excluded: (video id, seconds) of excluded keyframes.
        cap: False keeps all rows of a keyframe under every protocol.

    Raises:
        DataError: no ground truth is left to score, or a score is NaN.
        UserError: an unknown protocol.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    if np.isnan(detections.score).any():
        raise DataError("expected scores that are numbers, got NaN in the detections; has training diverged?")
    columns = [label_map.columns(source.action) for source in (ground_truth, detections)]
    if protocol == "mmaction2":
        ground_truth, detections = _to_float32(ground_truth), _to_float32(detections)
    keyframes, keys = _scored_keyframes(ground_truth, detections, protocol, columns[0])
    excluded_keys = _excluded_keys(ground_truth, detections, excluded)
    included = keyframes if excluded_keys is None else keyframes[~np.isin(keyframes, excluded_keys)]
    if protocol != "mmaction2":
        keyframes = included
    truth = _scored_rows(ground_truth, keys[0], columns[0], keyframes)
    if not len(truth):
        raise DataError(
            "no ground truth to score: all rows are excluded or have actions outside the label map"
        )
    detected = _scored_rows(detections, keys[1], columns[1], keyframes)
    if included is not keyframes:
        detected = detected.select(np.isin(keyframes, included)[detected.keyframe])
    cap_ties = None
    if protocol == "challenge" and cap:
        detected, cap_ties = _keep_best_rows(detected, len(keyframes), _MAX_ROWS_PER_KEYFRAME)
    if protocol != "mmaction2":
        # After the cap: the evaluators count empty boxes there.
        detected = _drop_empty_boxes(detected)
        cap_ties = cap_ties and (_drop_empty_boxes(cap_ties[0]), cap_ties[1])
    else:
        is_detected_class = np.bincount(detected.column, minlength=len(label_map))[truth.column] > 0
        truth = truth.select(is_detected_class) if is_detected_class.any() else truth
    num_detections = int((columns[1] >= 0).sum())
    detected, pairs = pair_with_best_boxes(truth, detected, len(label_map), protocol)
    return Matches(truth, detected, label_map, protocol, num_detections, *pairs, cap_ties=cap_ties)


def _to_float32(source: ActionBoxes) -> ActionBoxes:
    return replace(source, boxes=source.boxes.astype(np.float32), score=source.score.astype(np.float32))


def _drop_empty_boxes(rows: ScoredRows) -> ScoredRows:
    left, top, right, bottom = rows.source.boxes.T
    has_area = (left < right) & (top < bottom)
    return rows if has_area.all() else rows.select(has_area[rows.row])


def _scored_keyframes(
    ground_truth: ActionBoxes, detections: ActionBoxes, protocol: str, truth_column: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return sorted keys of the scored keyframes, before exclusion, and the key of each row of both files."""
    videos = _all_videos(ground_truth, detections)
    keys = []
    for source in (ground_truth, detections):
        index = np.searchsorted(videos, source.videos.astype(object)).astype(np.int32)
        keys.append(keyframe_keys(index[source.video], source.timestamp))
    if protocol == "slowfast":
        scored = np.concatenate([_unique(key) for key in keys])
    else:
        # The challenge also scores keyframes without any action of the label map.
        scored = keys[0] if protocol == "challenge" else keys[0][truth_column >= 0]
    return _unique(scored), keys


def _all_videos(ground_truth: ActionBoxes, detections: ActionBoxes) -> np.ndarray:
    return np.union1d(ground_truth.videos.astype(object), detections.videos.astype(object))


def _excluded_keys(
    ground_truth: ActionBoxes, detections: ActionBoxes, excluded: Iterable[tuple[str, float]] | None
) -> np.ndarray | None:
    """Return the keys of the excluded keyframes, or None without any."""
    index_of = {name: i for i, name in enumerate(_all_videos(ground_truth, detections))}
    known = [(index_of[video], time) for video, time in excluded or () if video in index_of]
    return keyframe_keys(*np.array(known).T) if known else None


def _scored_rows(
    source: ActionBoxes, key: np.ndarray, column: np.ndarray, keyframes: np.ndarray
) -> ScoredRows:
    """Return the rows in `keyframes` with an action of the label map, sorted by keyframe."""
    keyframe = _index_in(key, keyframes)
    row = np.flatnonzero((keyframe >= 0) & (column >= 0))
    keyframe = keyframe[row]
    if (keyframe[1:] < keyframe[:-1]).any():
        order = _stable_argsort(keyframe, len(keyframes))
        row, keyframe = row[order], keyframe[order]
    return ScoredRows(source, row, keyframe, column[row], source.score[row])


def _keep_best_rows(
    rows: ScoredRows, num_keyframes: int, limit: int
) -> tuple[ScoredRows, tuple[ScoredRows, np.ndarray] | None]:
    """Return the `limit` best-scored rows of each keyframe, and `Matches.cap_ties`."""
    frame = pl.DataFrame({"keyframe": rows.keyframe, "score": rows.score})
    last = frame.group_by("keyframe").agg(pl.col("score").top_k(limit).min())
    last_score = np.full(num_keyframes, np.nan)
    last_score[last["keyframe"].to_numpy()] = last["score"].to_numpy()
    threshold = last_score[rows.keyframe]
    kept = rows.score > threshold
    # If more rows tie at the last score than the cap admits, the order of ties decides.
    num_free = limit - np.bincount(rows.keyframe[kept], minlength=num_keyframes)
    tied = np.flatnonzero(rows.score == threshold)
    has_too_many = np.bincount(rows.keyframe[tied], minlength=num_keyframes) > num_free
    is_contested = has_too_many[rows.keyframe[tied]]
    kept[tied[~is_contested]] = True
    tied = tied[is_contested]
    cap_ties = None
    if len(tied):
        with_tied = kept & has_too_many[rows.keyframe]
        with_tied[tied] = True
        cap_ties = rows.select(with_tied), np.where(has_too_many, last_score, np.nan)
    action = rows.source.action[rows.row[tied]]
    tied = rows.sort_ties(tied, rows.keyframe[tied], action)
    keyframe = rows.keyframe[tied]
    rank = np.arange(len(tied)) - np.searchsorted(keyframe, keyframe)
    kept[tied[rank < num_free[keyframe]]] = True
    return rows.select(kept), cap_ties


def pair_with_best_boxes(
    truth: ScoredRows, detected: ScoredRows, num_classes: int, protocol: str
) -> tuple[ScoredRows, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pair each detection with the ground-truth box of highest IoU.

    Returns:
        The detections, sorted by the order of ties in each keyframe and class that has ground truth; and
        `pair_detection`, `pair_truth` and `pair_iou` of Matches.
    """
    # A group is a keyframe and a class.
    group = truth.keyframe.astype(np.int64) * num_classes + truth.column
    by_group = truth.sort_ties(np.arange(len(group)), group)
    groups, start, size = np.unique(group[by_group], return_index=True, return_counts=True)
    group = _index_in(detected.keyframe.astype(np.int64) * num_classes + detected.column, groups)
    _check_num_pairs(size, np.bincount(group[group >= 0], minlength=len(size)))

    candidates = np.flatnonzero(group >= 0)
    slots = candidates[np.argsort(group[candidates], kind="stable")]
    in_order = detected.sort_ties(candidates, group[candidates])
    row, score = detected.row.copy(), detected.score.copy()
    row[slots], score[slots] = row[in_order], score[in_order]
    detected = replace(detected, row=row, score=score)

    group = group[slots]
    priority = detected.row[slots] if protocol == "slowfast" else -detected.score[slots]
    matching_order = np.lexsort((priority, group))
    pair_detection, group = slots[matching_order], group[matching_order]
    # All pairs of a detection and a ground-truth box of its group.
    repeats = size[group]
    first = np.cumsum(repeats) - repeats
    left = np.repeat(np.arange(len(pair_detection)), repeats)
    right = by_group[np.arange(len(left)) + np.repeat(start[group] - first, repeats)]
    iou = box_iou(
        detected.source.boxes[detected.row[pair_detection]][left], truth.source.boxes[truth.row[right]]
    )
    best_iou = np.maximum.reduceat(iou, first) if len(first) else iou
    is_best = np.flatnonzero(iou == best_iou[left])
    _, earliest = np.unique(left[is_best], return_index=True)
    return detected, (pair_detection, right[is_best[earliest]], best_iou)


def _check_num_pairs(num_truth: np.ndarray, num_detected: np.ndarray) -> None:
    """Raise DataError if one of the groups (G,) has too many boxes to compare all pairs."""
    pairs = num_truth * num_detected
    if pairs.max(initial=0) > _MAX_PAIRS:
        worst = int(pairs.argmax())
        raise DataError(
            f"expected at most {_MAX_PAIRS:.0e} pairs of an annotated box and a detection in a keyframe and "
            f"class, got {num_truth[worst]} boxes and {num_detected[worst]} detections"
        )


# ---------------------------------------------------------------- sorting and lookup of millions of keys


def _unique(values: np.ndarray) -> np.ndarray:
    """Return the sorted unique values."""
    return pl.Series("value", values[_run_starts(values)]).unique().sort().to_numpy()


def _index_in(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Return the int32 index of each value in a table of unique values, -1 if it is missing."""
    starts = _run_starts(values)
    indices = pl.DataFrame({"value": table, "index": np.arange(len(table), dtype=np.int32)})
    once = pl.DataFrame({"value": values[starts]})
    joined = once.join(indices, on="value", how="left", maintain_order="left")
    index = joined["index"].fill_null(-1).to_numpy()
    return np.repeat(index, np.diff(starts, append=len(values)))


def _run_starts(values: np.ndarray) -> np.ndarray:
    """Return where runs of equal values start. There are few, because files list rows by keyframe."""
    is_start = np.ones(len(values), dtype=bool)
    np.not_equal(values[1:], values[:-1], out=is_start[1:])
    return np.flatnonzero(is_start)


def _stable_argsort(ids: np.ndarray, limit: int) -> np.ndarray:
    """Return a stable argsort of integers in [0, limit). Linear, as numpy radix-sorts 16-bit integers."""
    order = np.argsort((ids & 0xFFFF).astype(np.uint16), kind="stable")
    if limit > 1 << 16:
        order = order[np.argsort((ids >> 16).astype(np.uint16)[order], kind="stable")]
    return order
