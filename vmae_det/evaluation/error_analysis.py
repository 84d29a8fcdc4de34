"""Why frame-mAP is not 1: every false positive and every missed box has a cause, and each cause its price.

The causes are mended one after the other, and what the mean gains by each is what it cost. They add up: with
all of them mended the mean is 1. What a cause costs depends on which were mended before, so the gain of each
alone is given, too. The idea of such oracles is that of Hoiem et al. (2012) and TIDE (Bolya et al., 2020).

In the order in which they are mended:

- cap: rows beyond the 50 best of a keyframe, which the challenge's protocol drops; they come back.
- confusion: a false positive on a person (IoU of 0.1 or more) who does other actions; it goes.
- duplicate: a false positive on a box that was taken already; it goes.
- loose box: a false positive on a person who does the action, below the IoU threshold. The first one to a box
  that nothing else finds becomes a true positive, the others go.
- background: a false positive where nobody is annotated (IoU under 0.1); it goes.
- not scored: the person is found, but no row claims the action for them; a row is added.
- not detected: no box reaches the person; a row is added.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from vmae_det.evaluation.average_precision import average_precision
from vmae_det.evaluation.matching import Matches, ScoredRows, box_iou, match
from vmae_det.formats.ava_csv import ActionBoxes
from vmae_det.formats.label_map import LabelMap

CAUSES = ("cap", "confusion", "duplicate", "loose box", "background", "not scored", "not detected")
# Below this IoU a box has nothing to do with a person; TIDE's value.
BACKGROUND_IOU = 0.1

_HIT, _CONFUSION, _DUPLICATE, _LOOSE, _BACKGROUND = range(5)


@dataclass(frozen=True)
class ErrorAnalysis:
    """What each cause costs.

    Args:
        ap: (C, 1 + len(CAUSES)) of each class: as it is, then after each cause has been mended, the earlier
            ones being mended already. NaN for a class without ground truth.
        alone: (len(CAUSES),) mean AP gained by mending one cause and nothing else.
        ceiling: mean AP that these person boxes would allow with perfect labels.
        confusion: (C, C) mean AP lost where a row claims the action of the row, and the person does those of
            the columns; it sums to the price of "confusion".
        counts: of false positives by cause, "confusion" to "background", and of missed boxes, "not scored"
            and "not detected", with the cap lifted; and of "cap" the rows that it drops.
    """

    label_map: LabelMap
    ap: np.ndarray
    alone: np.ndarray
    ceiling: float
    confusion: np.ndarray
    counts: dict[str, int]

    @property
    def prices(self) -> np.ndarray:
        """(len(CAUSES),) mean AP gained by each cause in turn; they sum to 1 - mAP."""
        return np.diff(np.nanmean(self.ap, axis=0))

    def to_json(self) -> dict[str, Any]:
        """What json.dump takes."""
        return {
            "causes": [
                {"cause": cause, "price": float(price), "alone": float(alone), "count": self.counts[cause]}
                for cause, price, alone in zip(CAUSES, self.prices, self.alone)
            ],
            "ceiling": self.ceiling,
            "confusions": self.worst_confusions(),
        }

    def worst_confusions(self, count: int = 30) -> list[dict[str, Any]]:
        """The pairs of actions that cost most: what was claimed, what the person does, mean AP lost."""
        order = np.argsort(-self.confusion, axis=None, kind="stable")[:count]
        claimed, done = np.unravel_index(order, self.confusion.shape)
        names = self.label_map.names
        return [
            {"claimed": names[a], "does": names[b], "price": float(self.confusion[a, b])}
            for a, b in zip(claimed, done)
            if self.confusion[a, b] > 0
        ]

    def table(self) -> str:
        """The prices in points of mean AP."""
        lines = [f"{'lost to':14}  {'points':>6}  {'alone':>6}  {'rows':>9}"]
        for cause, price, alone in zip(CAUSES, self.prices, self.alone):
            lines.append(f"{cause:14}  {100 * price:6.2f}  {100 * alone:6.2f}  {self.counts[cause]:9d}")
        lines.append(f"{'sum':14}  {100 * self.prices.sum():6.2f}")
        lines.append(f"perfect labels on these person boxes would give {100 * self.ceiling:.2f}")
        return "\n".join(lines)


def analyze_errors(
    ground_truth: ActionBoxes,
    detections: ActionBoxes,
    label_map: LabelMap,
    *,
    iou: float = 0.5,
    **rules: Any,
) -> ErrorAnalysis:
    """Find the cause of every error; `rules` and errors are those of `match`."""
    capped = match(ground_truth, detections, label_map, **rules)
    full = match(ground_truth, detections, label_map, **rules, cap=False)
    scored = _Scored(full, iou)
    steps = np.stack(
        [_ap(capped, capped.true_positives(iou)), *(scored.ap(n) for n in range(len(CAUSES)))], 1
    )
    classes = full.num_ground_truth > 0
    as_is = _Scored(capped, iou)
    alone = [np.nanmean(steps[:, 1] - steps[:, 0])]
    alone += [np.nanmean(as_is.ap_without(cause) - steps[:, 0]) for cause in CAUSES[1:]]
    counts = np.bincount(scored.kind, minlength=5)
    missed = ~scored.found
    return ErrorAnalysis(
        label_map,
        steps,
        np.array(alone),
        float(np.nanmean(_recall(full, scored.reached))),
        _confusion(scored, (steps[:, 2] - steps[:, 1]) / classes.sum()),
        {
            "cap": len(full.detections) - len(capped.detections),
            **{cause: int(counts[kind]) for kind, cause in enumerate(CAUSES[1:5], start=1)},
            "not scored": int((missed & scored.reached).sum()),
            "not detected": int((missed & ~scored.reached).sum()),
        },
    )


class _Scored:
    """The detections of a match, each with its kind of error, and the ground truth, found or not.

    Attributes:
        kind: (D,) of each detection.
        found: (G,) whether a true positive, or a loose box, takes the ground-truth box.
        reached: (G,) whether a box of any action reaches the person.
        person: (D,) the ground-truth person nearest to each detection, -1 without one.
    """

    def __init__(self, matches: Matches, iou: float) -> None:
        self.matches = matches
        self.hit = matches.true_positives(iou)
        truth, found = matches.ground_truth, matches.detections
        self.person_of_truth, first = _unique_boxes(truth)
        box, first_of_box = _unique_boxes(found)
        nearest, overlap = _nearest(found, first_of_box, truth, first)
        self.person = nearest[box]
        own = matches.iou()
        self.kind = np.select(
            [self.hit, own >= iou, own >= BACKGROUND_IOU, overlap[box] >= BACKGROUND_IOU],
            [_HIT, _DUPLICATE, _LOOSE, _CONFUSION],
            _BACKGROUND,
        )
        reached = np.zeros(len(first), dtype=bool)
        reached[nearest[overlap >= iou]] = True
        self.reached = reached[self.person_of_truth]
        best = matches.best_box()
        taken = np.zeros(len(truth), dtype=bool)
        taken[best[self.hit]] = True
        # By falling score, the first loose box to each ground-truth box that nothing else finds.
        loose = np.flatnonzero((self.kind == _LOOSE) & ~taken[best])
        loose = loose[np.argsort(-found.score[loose], kind="stable")]
        _, earliest = np.unique(best[loose], return_index=True)
        self.tightened = np.zeros(len(found), dtype=bool)
        self.tightened[loose[earliest]] = True
        self.found = taken.copy()
        self.found[best[self.tightened]] = True
        self.hit_or_not = taken

    @cached_property
    def _kinds(self) -> tuple[int, ...]:
        return (_CONFUSION, _DUPLICATE, _LOOSE, _BACKGROUND)

    def ap(self, mended: int) -> np.ndarray:
        """(C,) with the causes up to number `mended` of CAUSES mended."""
        gone = np.isin(self.kind, self._kinds[:mended])
        hit = self.hit | self.tightened if mended >= 3 else self.hit
        if mended < 5:
            return _ap(self.matches, hit, ~gone | hit)
        return _recall(self.matches, self.found | self.reached if mended == 5 else np.ones_like(self.found))

    def ap_without(self, cause: str) -> np.ndarray:
        """(C,) with one cause mended, other than the cap."""
        if cause in CAUSES[1:5]:
            hit = self.hit | self.tightened if cause == "loose box" else self.hit
            return _ap(self.matches, hit, (self.kind != self._kinds[CAUSES.index(cause) - 1]) | hit)
        missed = ~self.hit_or_not & (self.reached if cause == "not scored" else ~self.reached)
        column = self.matches.ground_truth.column[missed]
        return _ap(self.matches, self.hit, added=np.bincount(column, minlength=len(self.matches.label_map)))


def _ap(
    matches: Matches, hit: np.ndarray, kept: np.ndarray | None = None, added: np.ndarray | None = None
) -> np.ndarray:
    """(C,) AP of the detections that are `kept` (D,), after `added` (C,) true positives at the top."""
    result = []
    for column, (rows, count) in enumerate(zip(matches.ranked, matches.num_ground_truth)):
        rows = rows if kept is None else rows[kept[rows]]
        first = np.ones(0 if added is None else added[column], dtype=bool)
        result.append(average_precision(np.concatenate([first, hit[rows]]), count))
    return np.array(result)


def _recall(matches: Matches, found: np.ndarray) -> np.ndarray:
    """(C,) share of the ground truth that is `found` (G,): the AP where nothing else is claimed."""
    counts = np.bincount(matches.ground_truth.column[found], minlength=len(matches.label_map))
    return np.where(matches.num_ground_truth > 0, counts / np.maximum(matches.num_ground_truth, 1), np.nan)


def _unique_boxes(rows: ScoredRows) -> tuple[np.ndarray, np.ndarray]:
    """Which box of its keyframe each row is about (N,), and the first row of each (B,), by keyframe."""
    boxes = rows.source.boxes[rows.row]
    frame = pl.DataFrame({"keyframe": rows.keyframe, **{f"side{i}": boxes[:, i] for i in range(4)}})
    earliest = frame.with_row_index("row").select(pl.col("row").min().over(frame.columns))["row"].to_numpy()
    first, box = np.unique(earliest, return_inverse=True)
    return box, first


def _nearest(
    found: ScoredRows, first_of_box: np.ndarray, truth: ScoredRows, first_of_person: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The person (B,) that each box overlaps most, -1 where its keyframe has none, and the IoU."""
    keyframe, of_person = found.keyframe[first_of_box], truth.keyframe[first_of_person]
    start, end = (np.searchsorted(of_person, keyframe, side) for side in ("left", "right"))
    repeats = end - start
    left = np.repeat(np.arange(len(keyframe)), repeats)
    right = np.arange(len(left)) + np.repeat(start - (np.cumsum(repeats) - repeats), repeats)
    overlap = box_iou(
        found.source.boxes[found.row[first_of_box[left]]],
        truth.source.boxes[truth.row[first_of_person[right]]],
    )
    order = np.lexsort((-overlap, left))
    left, right, overlap = left[order], right[order], overlap[order]
    boxes, best = np.unique(left, return_index=True)
    nearest, iou = np.full(len(keyframe), -1), np.zeros(len(keyframe))
    nearest[boxes], iou[boxes] = right[best], overlap[best]
    return nearest, iou


def _confusion(scored: _Scored, price: np.ndarray) -> np.ndarray:
    """Share the price (C,) of confusion among the actions (C, C) that the persons do.

    A false positive counts by the number of true positives that it comes before, in equal parts for the
    person's actions.
    """
    truth, found = scored.matches.ground_truth, scored.matches.detections
    classes = len(scored.matches.label_map)
    harm = np.zeros(len(found))
    for rows in scored.matches.ranked:
        hits = scored.hit[rows]
        harm[rows] = hits.sum() - np.cumsum(hits)
    wrong = np.flatnonzero(scored.kind == _CONFUSION)
    by_person = np.argsort(scored.person_of_truth, kind="stable")
    size = np.bincount(scored.person_of_truth)
    start = np.cumsum(size) - size
    repeats = size[scored.person[wrong]]
    row = np.repeat(wrong, repeats)
    first = np.repeat(start[scored.person[wrong]] - (np.cumsum(repeats) - repeats), repeats)
    done = truth.column[by_person[np.arange(len(row)) + first]]
    shares = np.zeros((classes, classes))
    np.add.at(shares, (found.column[row], done), harm[row] / np.repeat(repeats, repeats))
    total = shares.sum(axis=1, keepdims=True)
    shares = np.divide(shares, total, out=np.zeros_like(shares), where=total > 0)
    return shares * np.nan_to_num(price)[:, None]
