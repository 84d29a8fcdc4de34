"""All that explains one frame-mAP, as plain data: what `vmae-det evaluate --report` writes down."""

from __future__ import annotations

from typing import Any

import numpy as np

from vmae_det.evaluation.average_precision import PrecisionRecall
from vmae_det.evaluation.calibration import Calibration, calibrate
from vmae_det.evaluation.comparison import compare
from vmae_det.evaluation.error_analysis import CAUSES, ErrorAnalysis, analyze_errors
from vmae_det.evaluation.frame_map import FrameMAP
from vmae_det.evaluation.matching import Matches, match
from vmae_det.formats.ava_csv import ActionBoxes
from vmae_det.formats.label_map import LabelMap

# Points of a curve that a picture of it needs.
_CURVE_POINTS = 200


def build_report(
    ground_truth: ActionBoxes,
    detections: ActionBoxes,
    label_map: LabelMap,
    *,
    iou: float = 0.5,
    base: ActionBoxes | None = None,
    **rules: Any,
) -> dict[str, Any]:
    """What json.dump takes: the result, what it lost and to what, curves, calibration, and the comparison
    with the detections of a `base` run if there is one.

    `rules` and errors are those of `match`.
    """
    matches = match(ground_truth, detections, label_map, **rules)
    result = FrameMAP.from_matches(matches, iou)
    errors = analyze_errors(ground_truth, detections, label_map, iou=iou, **rules)
    comparison = None
    if base is not None:
        comparison = compare(match(ground_truth, base, label_map, **rules), matches, iou).to_json()
    calibration = calibrate(matches.detections.score, matches.true_positives(iou))
    return {
        **result.to_json(),
        **errors.to_json(),
        "classes": _classes(matches, result, errors, iou),
        "calibration": None if calibration is None else _calibration(calibration),
        "comparison": comparison,
    }


def _classes(matches: Matches, result: FrameMAP, errors: ErrorAnalysis, iou: float) -> list[dict[str, Any]]:
    label_map, curves = matches.label_map, matches.precision_recall(iou)
    prices = np.diff(errors.ap, axis=1)
    return [
        {
            "id": label_map.ids[column],
            "name": label_map.names[column],
            "kind": label_map.kinds[column],
            "ap": None if np.isnan(result.ap[column]) else float(result.ap[column]),
            "num_ground_truth": int(result.num_ground_truth[column]),
            "num_detections": len(matches.ranked[column]),
            "lost": None if np.isnan(result.ap[column]) else dict(zip(CAUSES, prices[column].tolist())),
            "curve": _curve(curves[column]),
        }
        for column in range(len(label_map))
    ]


def _curve(curve: PrecisionRecall) -> list[list[float]]:
    """[recall, precision, score] where recall rises, thinned out."""
    rises = np.flatnonzero(np.diff(curve.recall, prepend=0))
    if len(rises) > _CURVE_POINTS:
        rises = rises[np.unique(np.linspace(0, len(rises) - 1, _CURVE_POINTS).round().astype(int))]
    points = np.stack([curve.recall[rises], curve.precision[rises], curve.score[rises]], axis=1)
    return points.round(5).tolist()


def _calibration(calibration: Calibration) -> dict[str, Any]:
    return {
        "error": calibration.error,
        "bins": [
            {"count": int(count), "score": float(score), "precision": float(precision)}
            for count, score, precision in zip(calibration.count, calibration.score, calibration.precision)
            if count
        ],
    }
