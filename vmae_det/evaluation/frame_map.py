"""Frame-mAP, the metric of AVA: the mean over classes of the average precision of boxes in keyframes.

Within a keyframe and class, one detection after the other takes the ground-truth box that it overlaps most.
Below the IoU threshold, or where that box is taken, it is a false positive. Over all keyframes, by falling
score, average precision is the area under the monotone envelope of precision over recall (PASCAL VOC).

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

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from vmae_det.data.annotations import ActionBoxes, read_action_csv, read_excluded
from vmae_det.data.box_rows import keyframe_keys
from vmae_det.data.label_map import LabelMap
from vmae_det.data.person_boxes import PersonBoxes
from vmae_det.utils.errors import DataError, UserError

PROTOCOLS = ("challenge", "slowfast")
# The capacity that ActivityNet's evaluator gives a keyframe.
_CHALLENGE_ROWS = 50

Keyframes = Iterable[tuple[str, float]]


@dataclass(frozen=True)
class FrameMAP:
    """Average precision of every class, in the order of the label map.

    Args:
        ap: (C,) in [0, 1]; NaN for a class without ground truth.
        num_ground_truth: (C,) boxes.
        num_detections: rows given, with an action of the label map.
        num_scored: those of them that counted under the protocol.
    """

    label_map: LabelMap
    ap: np.ndarray
    num_ground_truth: np.ndarray
    num_detections: int
    num_scored: int
    protocol: str
    iou: float

    @property
    def mean_ap(self) -> float:
        """Mean over the classes with ground truth, in [0, 1]."""
        return float(np.nanmean(self.ap))

    def to_json(self) -> dict[str, Any]:
        """What json.dump takes; classes without ground truth have null."""
        columns = zip(self.label_map.names, self.label_map.ids, self.ap, self.num_ground_truth)
        return {
            "mAP": self.mean_ap,
            "per_class": {
                name: {
                    "id": action,
                    "ap": None if np.isnan(ap) else float(ap),
                    "num_ground_truth": int(count),
                }
                for name, action, ap, count in columns
            },
            "protocol": self.protocol,
            "iou": self.iou,
            "num_detections": self.num_detections,
            "num_scored": self.num_scored,
        }

    def table(self) -> str:
        """The classes with ground truth, best first, and the mean below."""
        width = max(len(name) for name in ("frame-mAP", *self.label_map.names))
        lines = [f"{'class':{width}}  {'AP':>6}  {'boxes':>6}"]
        for column in np.argsort(-self.ap, kind="stable"):
            if not np.isnan(self.ap[column]):
                name, count = self.label_map.names[column], self.num_ground_truth[column]
                lines.append(f"{name:{width}}  {100 * self.ap[column]:6.2f}  {count:6d}")
        absent = int(np.isnan(self.ap).sum())
        if absent:
            lines.append(f"({absent} classes without ground truth are left out)")
        lines.append(f"{'frame-mAP':{width}}  {100 * self.mean_ap:6.2f}  {self.num_ground_truth.sum():6d}")
        lines.append(
            f"protocol {self.protocol}, IoU {self.iou:g}; "
            f"{self.num_scored} of {self.num_detections} rows scored"
        )
        if self.num_detections and not self.num_scored:
            lines.append("No detection lies in a keyframe that is scored: compare video ids and timestamps.")
        return "\n".join(lines)


def evaluate_frame_map(
    ground_truth_csv: str | Path,
    detections_csv: str | Path,
    label_map: str | Path,
    *,
    excluded: str | Path | None = None,
    protocol: str = "challenge",
    iou: float = 0.5,
) -> FrameMAP:
    """Frame-mAP of AVA's files; rows with actions outside the label map are ignored.

    Raises:
        DataError: a malformed file, with the line.
        UserError: an unknown protocol or an impossible IoU.
    """
    return frame_map(
        read_action_csv(ground_truth_csv, kind="ground_truth"),
        read_action_csv(detections_csv, kind="detections"),
        LabelMap.from_file(label_map),
        excluded=None if excluded is None else read_excluded(excluded),
        protocol=protocol,
        iou=iou,
    )


def frame_map(
    ground_truth: ActionBoxes,
    detections: ActionBoxes,
    label_map: LabelMap,
    *,
    excluded: Keyframes | None = None,
    protocol: str = "challenge",
    iou: float = 0.5,
) -> FrameMAP:
    """Frame-mAP of arrays at one IoU threshold in (0, 1].

    Raises:
        DataError: no ground truth is left to score, or a score is NaN.
        UserError: an unknown protocol or an impossible IoU.
    """
    maps = frame_maps(ground_truth, detections, label_map, excluded=excluded, protocol=protocol, ious=(iou,))
    return maps[0]


def frame_maps(
    ground_truth: ActionBoxes,
    detections: ActionBoxes,
    label_map: LabelMap,
    *,
    excluded: Keyframes | None = None,
    protocol: str = "challenge",
    ious: Sequence[float] = (0.5,),
) -> list[FrameMAP]:
    """`frame_map` at several IoU thresholds for little more than the time of one."""
    if protocol not in PROTOCOLS:
        raise UserError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    for iou in ious:
        if not 0 < iou <= 1:
            raise UserError(f"IoU thresholds must be in (0, 1], got {iou:g}")
    if np.isnan(detections.score).any():
        raise DataError("the scores of the detections hold NaN; has the training diverged?")

    truth, found, num_keyframes, num_detections = _scored_rows(
        ground_truth, detections, label_map, excluded, protocol
    )
    num_ground_truth = np.bincount(truth.column, minlength=len(label_map))
    if not len(truth.row):
        raise DataError(
            "no row of the ground truth counts: all are excluded or have actions outside the label map"
        )
    if protocol == "challenge":
        found = _best_rows(found, num_keyframes, _CHALLENGE_ROWS)
    boxes = detections.boxes[found.row]
    # The evaluators drop them silently, after the cap.
    found = found.select((boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3]))
    pairs = _pair(truth, found, len(label_map), protocol)

    by_class = _stable_order(found.column, len(label_map))
    ends = np.cumsum(np.bincount(found.column, minlength=len(label_map)))
    members = [by_class[end - count : end] for end, count in zip(ends, np.diff(ends, prepend=0))]
    falling = [rows[np.argsort(-found.score[rows], kind="stable")] for rows in members]
    results = []
    for iou in ious:
        hit = pairs.true_positives(len(found.row), iou)
        ap = [
            average_precision(hit[rows], count) if count else np.nan
            for rows, count in zip(falling, num_ground_truth)
        ]
        counts = (num_detections, len(found.row))
        results.append(FrameMAP(label_map, np.array(ap), num_ground_truth, *counts, protocol, float(iou)))
    return results


def average_precision(hit: np.ndarray, num_ground_truth: int) -> float:
    """Area under the monotone envelope of precision over recall (PASCAL VOC 2010 and later).

    Args:
        hit: (N,) bool, whether each detection is a true positive, by falling score.
    """
    rank = np.flatnonzero(hit) + 1
    precision = np.arange(1, len(rank) + 1) / rank
    # Between true positives precision falls, so the envelope is the best of the later true positives.
    envelope = np.maximum.accumulate(precision[::-1])
    return float(envelope.sum() / num_ground_truth)


def chance_level(
    ground_truth: ActionBoxes,
    person_boxes: PersonBoxes,
    label_map: LabelMap,
    *,
    excluded: Keyframes | None = None,
    protocol: str = "challenge",
    iou: float = 0.5,
    seed: int = 0,
    repeats: int = 5,
) -> float:
    """Frame-mAP of random scores for every action of every person box, the mean of `repeats` draws."""
    generator = np.random.default_rng(seed)
    shape = (len(person_boxes), len(label_map))
    persons = (person_boxes.videos, person_boxes.video, person_boxes.timestamp, person_boxes.boxes)
    draws = [
        frame_map(
            ground_truth,
            ActionBoxes.from_scores(*persons, generator.random(shape), label_map),
            label_map,
            excluded=excluded,
            protocol=protocol,
            iou=iou,
        ).mean_ap
        for _ in range(repeats)
    ]
    return float(np.mean(draws))


@dataclass(frozen=True)
class _Rows:
    """Rows that count, by keyframe: their number in the source, keyframe index, column and score."""

    source: ActionBoxes
    row: np.ndarray
    keyframe: np.ndarray
    column: np.ndarray
    score: np.ndarray

    def select(self, chosen: np.ndarray) -> _Rows:
        columns = (self.row, self.keyframe, self.column, self.score)
        return _Rows(self.source, *(values[chosen] for values in columns))

    def order(self, chosen: np.ndarray, *leading: np.ndarray) -> np.ndarray:
        """The indices `chosen`, sorted by `leading` keys (each of len(chosen)), then by box coordinates."""
        x1, y1, x2, y2 = self.source.boxes[self.row[chosen]].T
        return chosen[np.lexsort((y2, x2, y1, x1, *leading[::-1]))]


def _scored_rows(
    ground_truth: ActionBoxes,
    detections: ActionBoxes,
    label_map: LabelMap,
    excluded: Keyframes | None,
    protocol: str,
) -> tuple[_Rows, _Rows, int, int]:
    """Ground truth and detections in scored keyframes, the number of those, and that of usable detections."""
    videos = np.union1d(ground_truth.videos.astype(object), detections.videos.astype(object))
    keys, columns = [], []
    for source in (ground_truth, detections):
        index = np.searchsorted(videos, source.videos.astype(object)).astype(np.int32)
        keys.append(keyframe_keys(index[source.video], source.timestamp))
        columns.append(label_map.columns(source.action))
    # A keyframe of the ground truth counts even where none of its actions is in the label map.
    named = keys[0] if protocol == "challenge" else np.concatenate(keys)
    keyframes = pl.Series("key", named).unique().sort().to_numpy()
    index_of = {name: i for i, name in enumerate(videos)}
    left_out = [(index_of[video], time) for video, time in excluded or () if video in index_of]
    if left_out:
        index, time = np.array(left_out).T
        keyframes = keyframes[~np.isin(keyframes, keyframe_keys(index, time))]

    scored = []
    for source, key, column in zip((ground_truth, detections), keys, columns):
        keyframe = _index(key, keyframes)
        row = np.flatnonzero((keyframe >= 0) & (column >= 0))
        row = row[_stable_order(keyframe[row], len(keyframes))]
        scored.append(_Rows(source, row, keyframe[row], column[row], source.score[row]))
    return *scored, len(keyframes), int((columns[1] >= 0).sum())


def _best_rows(rows: _Rows, num_keyframes: int, limit: int) -> _Rows:
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


@dataclass(frozen=True)
class _Pairs:
    """Detections that share keyframe and class with ground truth, in the order in which they choose.

    Args:
        detection: (P,) index of the detection.
        truth: (P,) the ground-truth box that it overlaps most; among equals the first by coordinates.
        iou: (P,) their overlap.
    """

    detection: np.ndarray
    truth: np.ndarray
    iou: np.ndarray

    def true_positives(self, num_detections: int, threshold: float) -> np.ndarray:
        """(num_detections,) bool: the detection that comes first to each ground-truth box."""
        over = np.flatnonzero(self.iou >= threshold)
        _, first = np.unique(self.truth[over], return_index=True)
        hit = np.zeros(num_detections, dtype=bool)
        hit[self.detection[over[first]]] = True
        return hit


def _pair(truth: _Rows, found: _Rows, num_classes: int, protocol: str) -> _Pairs:
    """Which box each detection chooses. Detections of one keyframe and class are put in the order of ties."""
    # A group is a keyframe and a class.
    group = truth.keyframe.astype(np.int64) * num_classes + truth.column
    by_group = truth.order(np.arange(len(group)), group)
    groups, start, size = np.unique(group[by_group], return_index=True, return_counts=True)
    group = _index(found.keyframe.astype(np.int64) * num_classes + found.column, groups)

    candidates = np.flatnonzero(group >= 0)
    places = candidates[np.argsort(group[candidates], kind="stable")]
    in_order = found.order(candidates, group[candidates])
    found.row[places], found.score[places] = found.row[in_order], found.score[in_order]

    group = group[places]
    priority = -found.score[places] if protocol == "challenge" else found.row[places]
    by_choice = np.lexsort((priority, group))
    detection, group = places[by_choice], group[by_choice]
    # Each detection beside each ground-truth box of its group.
    repeats = size[group]
    first = np.cumsum(repeats) - repeats
    pair_detection = np.repeat(np.arange(len(detection)), repeats)
    pair_truth = np.arange(len(pair_detection)) + np.repeat(start[group] - first, repeats)
    overlap = _iou(
        found.source.boxes[found.row[detection]][pair_detection],
        truth.source.boxes[truth.row[by_group]][pair_truth],
    )
    best = np.maximum.reduceat(overlap, first) if len(first) else overlap
    at_best = np.flatnonzero(overlap == best[pair_detection])
    _, earliest = np.unique(pair_detection[at_best], return_index=True)
    return _Pairs(detection, pair_truth[at_best[earliest]], best)


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Overlap (P,) of boxes (P, 4) and (P, 4), in the evaluators' order of operations; `a` are not empty."""
    shared = np.maximum(0.0, np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])).prod(axis=1)
    areas = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1)
    return shared / (areas - shared)


def _index(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """int32 index of each value in a table of unique values, -1 where it is absent."""
    indices = pl.DataFrame({"value": table, "index": np.arange(len(table), dtype=np.int32)})
    joined = pl.DataFrame({"value": values}).join(indices, on="value", how="left", maintain_order="left")
    return joined["index"].fill_null(-1).to_numpy()


def _stable_order(ids: np.ndarray, limit: int) -> np.ndarray:
    """Stable argsort of whole numbers in 0 .. limit - 1, in linear time: numpy sorts 16 bits by radix."""
    order = np.argsort((ids & 0xFFFF).astype(np.uint16), kind="stable")
    if limit > 1 << 16:
        order = order[np.argsort((ids >> 16).astype(np.uint16)[order], kind="stable")]
    return order
