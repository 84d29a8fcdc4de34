"""Evaluation report: the data behind `vmae-det evaluate --report`, which explains one frame-mAP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vmae_det.evaluation.average_precision import PrecisionRecall
from vmae_det.evaluation.comparison import compare
from vmae_det.evaluation.error_analysis import CAUSES, ErrorAnalysis, analyze_errors
from vmae_det.evaluation.frame_map import FrameMAP
from vmae_det.evaluation.matching import Matches, match
from vmae_det.formats.ava_csv import ActionBoxes
from vmae_det.formats.label_map import LabelMap

# Maximum number of points of a plotted precision-recall curve.
_MAX_CURVE_POINTS = 200


def build_report(
    ground_truth: ActionBoxes,
    detections: ActionBoxes,
    label_map: LabelMap,
    *,
    iou: float = 0.5,
    base: ActionBoxes | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Return a dict for json.dump.

    It contains the result, errors, precision-recall curves, calibration of scores and confusion matrix.

    Args:
        base: detections of another run, to compare with.
        options: see `match`, also for errors.
    """
    matches = match(ground_truth, detections, label_map, **options)
    result = FrameMAP.from_matches(matches, iou)
    errors = analyze_errors(ground_truth, detections, label_map, iou=iou, **options)
    comparison = None
    if base is not None:
        comparison = compare(match(ground_truth, base, label_map, **options), matches, iou).to_json()
    calibration = calibrate(matches.detections.score, matches.true_positives(iou))
    return {
        **result.to_json(),
        **errors.to_json(),
        "classes": _classes_to_json(matches, result, errors, iou),
        "calibration": None if calibration is None else calibration.to_json(),
        "comparison": comparison,
        "confusion_matrix": errors.confusion_matrix.to_json(),
    }


def _classes_to_json(
    matches: Matches, result: FrameMAP, errors: ErrorAnalysis, iou: float
) -> list[dict[str, Any]]:
    label_map, curves = matches.label_map, matches.precision_recall(iou)
    costs = np.diff(errors.ap, axis=1)
    return [
        {
            "id": label_map.ids[column],
            "name": label_map.names[column],
            "kind": label_map.kinds[column],
            "ap": None if np.isnan(result.ap[column]) else float(result.ap[column]),
            "num_ground_truth": int(result.num_ground_truth[column]),
            "num_detections": len(matches.ranked[column]),
            "lost": None if np.isnan(result.ap[column]) else dict(zip(CAUSES, costs[column].tolist())),
            "curve": _curve_to_json(curves[column]),
        }
        for column in range(len(label_map))
    ]


def _curve_to_json(curve: PrecisionRecall) -> list[list[float]]:
    """Return [recall, precision, score] of the points at which recall increases, subsampled."""
    rises = np.flatnonzero(np.diff(curve.recall, prepend=0))
    if len(rises) > _MAX_CURVE_POINTS:
        rises = rises[np.unique(np.linspace(0, len(rises) - 1, _MAX_CURVE_POINTS).round().astype(int))]
    points = np.stack([curve.recall[rises], curve.precision[rises], curve.score[rises]], axis=1)
    return points.round(5).tolist()


# ---------------------------------------------------------------- calibration of scores


@dataclass(frozen=True)
class Calibration:
    """Reliability of scores as probabilities, in bins of equal width over [0, 1].

    Args:
        count: (B,) number of detections in each bin.
        score: (B,) their mean score; NaN for empty bins.
        precision: (B,) fraction of them that are true positives; NaN for empty bins.
    """

    count: np.ndarray
    score: np.ndarray
    precision: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error (Naeini et al., 2015): mean of |score - precision| over detections."""
        distance = np.nan_to_num(np.abs(self.score - self.precision))
        return float((distance * self.count).sum() / self.count.sum()) if self.count.sum() else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return a dict for json.dump, without empty bins."""
        return {
            "error": self.error,
            "bins": [
                {"count": int(count), "score": float(score), "precision": float(precision)}
                for count, score, precision in zip(self.count, self.score, self.precision)
                if count
            ],
        }


def calibrate(score: np.ndarray, hit: np.ndarray, bins: int = 10) -> Calibration | None:
    """Return the calibration of scores (N,) and true positives (N,); None if scores exceed [0, 1]."""
    if len(score) and (score.min() < 0 or score.max() > 1):
        return None
    bin_index = np.minimum((score * bins).astype(np.int64), bins - 1)
    count = np.bincount(bin_index, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(bin_index, score, bins) / count
        precision = np.bincount(bin_index, hit, bins) / count
    return Calibration(count, mean, precision)
