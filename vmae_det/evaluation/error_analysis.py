"""Error analysis of frame-mAP: the cause of each false positive and missed box, and the cost of each cause.

Causes are fixed one after the other. The cost of a cause is the increase of mean AP when it is fixed. The
costs add up: with all causes fixed the mean is 1. A cost depends on the causes fixed before, so the gain of
fixing each cause alone is reported too. Such oracles go back to Hoiem et al. (2012) and TIDE (Bolya et al.,
2020).

The causes, in the order in which they are fixed:

- cap: rows beyond the 50 best of a keyframe, which the challenge protocol drops. Fixed by restoring them.
- confusion: a false positive on a person (IoU of 0.1 or more) who performs other actions. Fixed by removing
  it.
- duplicate: a false positive on a box that is already taken. Fixed by removing it.
- loose box: a false positive on a person who performs the action, below the IoU threshold. Fixed by counting
  the first one on a box without a true positive as a true positive, and removing the others.
- background: a false positive where no person is annotated (IoU below 0.1). Fixed by removing it.
- not scored: the person is detected, but without a row for the action. Fixed by adding a row.
- not detected: no box reaches the person. Fixed by adding a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from vmae_det.evaluation.average_precision import average_precision
from vmae_det.evaluation.confusion_matrix import ConfusionMatrix, count_confusions, predicted_actions
from vmae_det.evaluation.matching import Matches, ScoredRows, match
from vmae_det.formats.ava_csv import ActionBoxes
from vmae_det.formats.box_iou import box_iou
from vmae_det.formats.label_map import LabelMap

CAUSES = ("cap", "confusion", "duplicate", "loose box", "background", "not scored", "not detected")
# A box with an IoU below this with all persons is background, as in TIDE.
BACKGROUND_IOU = 0.1

_HIT, _CONFUSION, _DUPLICATE, _LOOSE, _BACKGROUND = range(5)
# In the order of CAUSES[1:5].
_FALSE_POSITIVES = (_CONFUSION, _DUPLICATE, _LOOSE, _BACKGROUND)


@dataclass(frozen=True)
class ErrorAnalysis:
    """Cost of each cause of errors.

    Args:
        ap: (C, 1 + len(CAUSES)) AP of each class: unchanged, then after fixing each cause and all before it.
            NaN for classes without ground truth.
        alone: (len(CAUSES),) mean AP gained by fixing a single cause.
        ceiling: mean AP of these person boxes with perfect labels.
        confusion: (C, C) mean AP lost to detections of action i on persons who perform action j; sums to the
            cost of "confusion".
        counts: number of rows by cause. For "cap", the rows it drops. For "confusion" to "background", false
            positives, and for "not scored" and "not detected", missed boxes, both without the cap.
        confusion_matrix: which action outranks each annotated action (see `predicted_actions`), without the
            cap.
        errors: the errors themselves, without the cap.
    """

    label_map: LabelMap
    ap: np.ndarray
    alone: np.ndarray
    ceiling: float
    confusion: np.ndarray
    counts: dict[str, int]
    confusion_matrix: ConfusionMatrix
    errors: ClassifiedErrors

    @property
    def costs(self) -> np.ndarray:
        """(len(CAUSES),) mean AP gained by fixing each cause in turn; sums to 1 - mAP."""
        return np.diff(np.nanmean(self.ap, axis=0))

    def to_json(self) -> dict[str, Any]:
        """Return a dict for json.dump."""
        return {
            "causes": [
                {"cause": cause, "price": float(cost), "alone": float(alone), "count": self.counts[cause]}
                for cause, cost, alone in zip(CAUSES, self.costs, self.alone)
            ],
            "ceiling": self.ceiling,
            "confusions": self.worst_confusions(),
        }

    def worst_confusions(self, count: int = 30) -> list[dict[str, Any]]:
        """Return the most costly pairs of a detected action and an action that the person performs."""
        order = np.argsort(-self.confusion, axis=None, kind="stable")[:count]
        detected, performed = np.unravel_index(order, self.confusion.shape)
        names = self.label_map.names
        return [
            {"claimed": names[a], "does": names[b], "price": float(self.confusion[a, b])}
            for a, b in zip(detected, performed)
            if self.confusion[a, b] > 0
        ]

    def table(self) -> str:
        """Return a table of the costs, in points of mean AP."""
        lines = [f"{'lost to':14}  {'points':>6}  {'alone':>6}  {'rows':>9}"]
        for cause, cost, alone in zip(CAUSES, self.costs, self.alone):
            lines.append(f"{cause:14}  {100 * cost:6.2f}  {100 * alone:6.2f}  {self.counts[cause]:9d}")
        lines.append(f"{'sum':14}  {100 * self.costs.sum():6.2f}")
        lines.append(f"with perfect labels, these person boxes would reach {100 * self.ceiling:.2f}")
        return "\n".join(lines)


def analyze_errors(
    ground_truth: ActionBoxes,
    detections: ActionBoxes,
    label_map: LabelMap,
    *,
    iou: float = 0.5,
    **options: Any,
) -> ErrorAnalysis:
    """Find the cause of each error.

    Args:
        options: see `match`, also for errors.
    """
    capped = match(ground_truth, detections, label_map, **options)
    uncapped = match(ground_truth, detections, label_map, **options, cap=False)
    errors = ClassifiedErrors(uncapped, iou)
    steps = np.stack(
        [_ap(capped, capped.true_positives(iou)), *(errors.ap(n) for n in range(len(CAUSES)))], 1
    )
    classes = uncapped.num_ground_truth > 0
    capped_errors = ClassifiedErrors(capped, iou)
    alone = [np.nanmean(steps[:, 1] - steps[:, 0])]
    alone += [np.nanmean(capped_errors.ap_without(cause) - steps[:, 0]) for cause in CAUSES[1:]]
    return ErrorAnalysis(
        label_map,
        steps,
        np.array(alone),
        float(np.nanmean(_recall(uncapped, errors.is_reached))),
        _confusion(errors, (steps[:, 2] - steps[:, 1]) / classes.sum()),
        {
            "cap": len(uncapped.detections) - len(capped.detections),
            **{cause: len(errors.of(cause)) for cause in CAUSES[1:]},
        },
        count_confusions(label_map.names, uncapped.ground_truth.column, errors.predicted_actions()[0]),
        errors,
    )


class ClassifiedErrors:
    """The detections of a match with their kind of error, and the ground truth with what detects it.

    Attributes:
        hit: (D,) whether the detection is a true positive.
        kind: (D,) kind of error, or _HIT.
        is_tightened: (D,) whether fixing loose boxes makes the detection a true positive.
        box: (D,) distinct box of the detection; several actions can have the same.
        first_of_box: (B,) first detection of each distinct box.
        person: (D,) ground-truth person with the highest IoU, -1 without one.
        person_iou: (D,) this IoU.
        is_on_person: (D,) whether it reaches the threshold.
        person_of_truth: (G,) person of each ground-truth row.
        first_of_person: (P,) first ground-truth row of each person.
        is_hit: (G,) whether the ground-truth row has a true positive.
        is_found: (G,) whether it has a true positive, or a loose box that can become one.
        is_reached: (G,) whether a box of any action reaches the person.
    """

    def __init__(self, matches: Matches, iou: float) -> None:
        self.matches = matches
        self.hit = matches.true_positives(iou)
        truth, detections = matches.ground_truth, matches.detections
        self.person_of_truth, self.first_of_person = _unique_boxes(truth)
        self.box, self.first_of_box = _unique_boxes(detections)
        nearest, nearest_iou = _nearest_boxes(detections, self.first_of_box, truth, self.first_of_person)
        self.person, self.person_iou = nearest[self.box], nearest_iou[self.box]
        self.is_on_person = self.person_iou >= iou
        class_iou = matches.iou()
        self.kind = np.select(
            [
                self.hit,
                class_iou >= iou,
                class_iou >= BACKGROUND_IOU,
                self.person_iou >= BACKGROUND_IOU,
            ],
            [_HIT, _DUPLICATE, _LOOSE, _CONFUSION],
            _BACKGROUND,
        )
        is_reached = np.zeros(len(self.first_of_person), dtype=bool)
        is_reached[nearest[nearest_iou >= iou]] = True
        self.is_reached = is_reached[self.person_of_truth]
        best = matches.best_box()
        self.is_hit = np.zeros(len(truth), dtype=bool)
        self.is_hit[best[self.hit]] = True
        # The best-scored loose box of each ground-truth box without a true positive.
        loose = np.flatnonzero((self.kind == _LOOSE) & ~self.is_hit[best])
        loose = loose[np.argsort(-detections.score[loose], kind="stable")]
        _, earliest = np.unique(best[loose], return_index=True)
        self.is_tightened = np.zeros(len(detections), dtype=bool)
        self.is_tightened[loose[earliest]] = True
        self.is_found = self.is_hit.copy()
        self.is_found[best[self.is_tightened]] = True

    def of(self, cause: str) -> np.ndarray:
        """Return the errors of a cause other than the cap.

        They are indices of detections; for "not scored" and "not detected" of the ground truth.
        """
        if cause in CAUSES[1:5]:
            return np.flatnonzero(self.kind == _FALSE_POSITIVES[CAUSES.index(cause) - 1])
        return np.flatnonzero(~self.is_found & (self.is_reached == (cause == "not scored")))

    def predicted_actions(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the `predicted_actions` of the ground truth (G,); the rows are indices of detections."""
        truth, on_person = self.matches.ground_truth, np.flatnonzero(self.is_on_person)
        detections = self.matches.detections.select(on_person)
        is_detected = np.zeros(len(self.first_of_person), dtype=bool)
        is_detected[self.person_of_truth[self.is_reached]] = True
        predicted, own, row = predicted_actions(
            len(self.matches.label_map),
            (self.person_of_truth, truth.column),
            (self.person[on_person], detections.column, detections.score),
            is_detected,
        )
        return predicted, own, np.append(on_person, -1)[row]

    def nearest_boxes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the detection (P,) with the highest IoU with each person, -1 without one, and the IoU."""
        nearest, iou = _nearest_boxes(
            self.matches.ground_truth, self.first_of_person, self.matches.detections, self.first_of_box
        )
        return np.append(self.first_of_box, -1)[nearest], iou

    def ap(self, last_fixed: int) -> np.ndarray:
        """Return AP (C,) with the causes up to index `last_fixed` of CAUSES fixed."""
        is_removed = np.isin(self.kind, _FALSE_POSITIVES[:last_fixed])
        hit = self.hit | self.is_tightened if last_fixed >= 3 else self.hit
        if last_fixed < 5:
            return _ap(self.matches, hit, ~is_removed | hit)
        is_found = self.is_found | self.is_reached if last_fixed == 5 else np.ones_like(self.is_found)
        return _recall(self.matches, is_found)

    def ap_without(self, cause: str) -> np.ndarray:
        """Return AP (C,) with a single cause fixed, other than the cap."""
        if cause in CAUSES[1:5]:
            hit = self.hit | self.is_tightened if cause == "loose box" else self.hit
            return _ap(self.matches, hit, (self.kind != _FALSE_POSITIVES[CAUSES.index(cause) - 1]) | hit)
        missed = ~self.is_hit & (self.is_reached if cause == "not scored" else ~self.is_reached)
        column = self.matches.ground_truth.column[missed]
        return _ap(self.matches, self.hit, added=np.bincount(column, minlength=len(self.matches.label_map)))


def _ap(
    matches: Matches, hit: np.ndarray, kept: np.ndarray | None = None, added: np.ndarray | None = None
) -> np.ndarray:
    """Return AP (C,) of the `kept` detections (D,), ranked below `added` (C,) true positives."""
    result = []
    for column, (rows, count) in enumerate(zip(matches.ranked, matches.num_ground_truth)):
        rows = rows if kept is None else rows[kept[rows]]
        first = np.ones(0 if added is None else added[column], dtype=bool)
        result.append(average_precision(np.concatenate([first, hit[rows]]), count))
    return np.array(result)


def _recall(matches: Matches, found: np.ndarray) -> np.ndarray:
    """Return the recall (C,) of the ground truth `found` (G,), which is the AP without false positives."""
    counts = np.bincount(matches.ground_truth.column[found], minlength=len(matches.label_map))
    return np.where(matches.num_ground_truth > 0, counts / np.maximum(matches.num_ground_truth, 1), np.nan)


def _unique_boxes(rows: ScoredRows) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct box of each row (N,), and the first row of each box (B,), by keyframe."""
    boxes = rows.source.boxes[rows.row]
    frame = pl.DataFrame({"keyframe": rows.keyframe, **{f"side{i}": boxes[:, i] for i in range(4)}})
    earliest = frame.with_row_index("row").select(pl.col("row").min().over(frame.columns))["row"].to_numpy()
    first, box = np.unique(earliest, return_inverse=True)
    return box, first


def _nearest_boxes(
    rows: ScoredRows, first_of_box: np.ndarray, others: ScoredRows, first_of_other: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the other box (B,) with the highest IoU with each box, -1 without one, and the IoU."""
    keyframe, of_other = rows.keyframe[first_of_box], others.keyframe[first_of_other]
    start, end = (np.searchsorted(of_other, keyframe, side) for side in ("left", "right"))
    repeats = end - start
    left = np.repeat(np.arange(len(keyframe)), repeats)
    right = np.arange(len(left)) + np.repeat(start - (np.cumsum(repeats) - repeats), repeats)
    pair_iou = box_iou(
        rows.source.boxes[rows.row[first_of_box[left]]],
        others.source.boxes[others.row[first_of_other[right]]],
    )
    order = np.lexsort((-pair_iou, left))
    left, right, pair_iou = left[order], right[order], pair_iou[order]
    boxes, best = np.unique(left, return_index=True)
    nearest, iou = np.full(len(keyframe), -1), np.zeros(len(keyframe))
    nearest[boxes], iou[boxes] = right[best], pair_iou[best]
    return nearest, iou


def _confusion(errors: ClassifiedErrors, cost: np.ndarray) -> np.ndarray:
    """Distribute the cost (C,) of confusion over the actions that the persons perform; return (C, C).

    The weight of a false positive is the number of true positives ranked below it, divided equally among the
    person's actions.
    """
    truth, detections = errors.matches.ground_truth, errors.matches.detections
    classes = len(errors.matches.label_map)
    weight = np.zeros(len(detections))
    for rows in errors.matches.ranked:
        hits = errors.hit[rows]
        weight[rows] = hits.sum() - np.cumsum(hits)
    wrong = np.flatnonzero(errors.kind == _CONFUSION)
    by_person = np.argsort(errors.person_of_truth, kind="stable")
    size = np.bincount(errors.person_of_truth)
    start = np.cumsum(size) - size
    repeats = size[errors.person[wrong]]
    row = np.repeat(wrong, repeats)
    first = np.repeat(start[errors.person[wrong]] - (np.cumsum(repeats) - repeats), repeats)
    performed = truth.column[by_person[np.arange(len(row)) + first]]
    shares = np.zeros((classes, classes))
    np.add.at(shares, (detections.column[row], performed), weight[row] / np.repeat(repeats, repeats))
    total = shares.sum(axis=1, keepdims=True)
    shares = np.divide(shares, total, out=np.zeros_like(shares), where=total > 0)
    return shares * np.nan_to_num(cost)[:, None]
