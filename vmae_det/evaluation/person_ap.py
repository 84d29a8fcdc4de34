"""Person AP: average precision and recall of person boxes, regardless of actions, computed by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vmae_det.evaluation.diagnostics import explain_no_match, times_by_video
from vmae_det.formats.ava_csv import ActionBoxes
from vmae_det.formats.keyframes import keyframe_keys
from vmae_det.formats.person_boxes import PersonBoxes
from vmae_det.utils.errors import DataError

# Number of best-scored boxes of a keyframe that are evaluated, as in COCO.
_MAX_BOXES_PER_KEYFRAME = 100


@dataclass(frozen=True)
class PersonMetrics:
    """COCO's metrics for the category person, in [0, 1].

    Args:
        ap: mean average precision at IoU 0.5, 0.55, ..., 0.95.
        ap_50: average precision at IoU 0.5.
        ar: mean recall at the same thresholds as `ap`.
        recall_50: recall at IoU 0.5.
        num_persons: number of annotated persons, each once per keyframe.
        num_detections: number of person boxes in keyframes of the ground truth.
        num_keyframes: number of keyframes with annotated persons.
        num_undetected: number of those keyframes without person boxes.
        problem: why there are no true positives, or ''.
    """

    ap: float
    ap_50: float
    ar: float
    recall_50: float
    num_persons: int
    num_detections: int
    num_keyframes: int
    num_undetected: int
    problem: str

    def to_json(self) -> dict[str, float | str]:
        """Return a dict for json.dump."""
        return asdict(self)

    def table(self) -> str:
        """Return a table with one line per metric."""
        names = {
            "ap": "AP, IoU 0.5:0.95",
            "ap_50": "AP, IoU 0.5",
            "ar": "AR, IoU 0.5:0.95",
            "recall_50": "recall, IoU 0.5",
        }
        lines = [f"{title:16}  {100 * getattr(self, name):6.2f}" for name, title in names.items()]
        lines.append(f"{self.num_detections} boxes for {self.num_persons} persons")
        # The order that pycocotools uses.
        lines.append("ties in score are ordered by video id, time and file order")
        if self.num_undetected:
            lines.append(
                f"{self.num_undetected} of {self.num_keyframes} annotated keyframes have no detections"
            )
        if self.problem:
            lines.append(f"No true positives: {self.problem}.")
        return "\n".join(lines)


def evaluate_person_boxes(
    ground_truth: ActionBoxes, persons: PersonBoxes, excluded: Iterable[tuple[str, float]] | None = None
) -> PersonMetrics:
    """Evaluate person boxes against annotated persons, at most the 100 best-scored boxes of a keyframe.

    Ground truth has one row per person and action, so identical boxes of a keyframe are one person. Only
    keyframes that occur in the ground truth and are not excluded are evaluated.

    Args:
        excluded: (video id, seconds) of excluded keyframes.

    Raises:
        DataError: no ground truth to evaluate.
    """
    videos = np.union1d(ground_truth.videos.astype(object), persons.videos.astype(object))
    index = {name: i for i, name in enumerate(videos)}
    known = [(index[video], time) for video, time in excluded or () if video in index]
    excluded_keys = keyframe_keys(*np.array(known).T) if known else np.zeros(0, dtype=np.int64)
    keys = []
    for source in (ground_truth, persons):
        video_index = np.searchsorted(videos, source.videos.astype(object))
        keys.append(keyframe_keys(video_index[source.video], source.timestamp))
    keyframes = np.setdiff1d(keys[0], excluded_keys)

    has_box = np.isin(keys[0], keyframes) & ~np.isnan(ground_truth.boxes[:, 0])
    rows = np.column_stack([np.searchsorted(keyframes, keys[0][has_box]), ground_truth.boxes[has_box]])
    truth = np.unique(rows, axis=0)
    if not len(truth):
        raise DataError("no ground truth to evaluate: no box in a keyframe that is not excluded")
    in_keyframes = np.isin(keys[1], keyframes)
    keyframe = np.searchsorted(keyframes, keys[1][in_keyframes])
    detections = np.column_stack([keyframe, persons.boxes[in_keyframes], persons.score[in_keyframes]])
    metrics = _coco_metrics(truth, detections, len(keyframes))
    annotated, detected = np.unique(truth[:, 0]), np.unique(detections[:, 0])
    problem = ""
    if not metrics[-1]:
        times = [times_by_video(rows.videos, rows.video, rows.timestamp) for rows in (ground_truth, persons)]
        problem = explain_no_match(*times) or "no box reaches IoU 0.5 with an annotated person"
    return PersonMetrics(
        *metrics,
        num_persons=len(truth),
        num_detections=len(detections),
        num_keyframes=len(annotated),
        num_undetected=len(np.setdiff1d(annotated, detected)),
        problem=problem,
    )


def _coco_metrics(truth: np.ndarray, detections: np.ndarray, num_keyframes: int) -> tuple[float, ...]:
    """Return ap, ap_50, ar and recall_50.

    Args:
        truth: (G, 5) keyframe index and box.
        detections: (D, 6) keyframe index, box and score.
    """
    if not len(detections):
        return (0.0, 0.0, 0.0, 0.0)
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": i} for i in range(num_keyframes)],
        "categories": [{"id": 1, "name": "person"}],
        # Ids start at 1, because COCOeval uses 0 for no match.
        "annotations": [
            {
                "id": i,
                "image_id": int(k),
                "category_id": 1,
                "iscrowd": 0,
                "bbox": box,
                "area": box[2] * box[3],
            }
            for i, (k, box) in enumerate(zip(truth[:, 0], _corner_and_size(truth[:, 1:5])), start=1)
        ],
    }
    boxes = zip(detections[:, 0], _corner_and_size(detections[:, 1:5]), detections[:, 5])
    entries = [
        {"image_id": int(k), "category_id": 1, "bbox": box, "score": float(score)} for k, box, score in boxes
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(entries), "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [_MAX_BOXES_PER_KEYFRAME]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"]  # (thresholds, recalls, 1, 1, 1)
    recall = evaluation.eval["recall"]  # (thresholds, 1, 1, 1)
    return float(precision.mean()), float(precision[0].mean()), float(recall.mean()), float(recall[0].item())


def _corner_and_size(boxes: np.ndarray) -> list[list[float]]:
    return np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]).tolist()
