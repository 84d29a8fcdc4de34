"""How good person boxes are, whatever the persons do: COCO's average precision and recall, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from dataclasses import asdict, dataclass

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vmae_det.evaluation.matching import Keyframes
from vmae_det.evaluation.mismatch import Places, why_nothing_matches
from vmae_det.formats.ava_csv import ActionBoxes
from vmae_det.formats.box_csv import keyframe_keys
from vmae_det.formats.person_boxes import PersonBoxes
from vmae_det.utils.errors import DataError

# Of a keyframe's boxes, the best-scored ones that count: COCO's number.
_MAX_DETECTIONS = 100


@dataclass(frozen=True)
class PersonBoxScores:
    """COCO's metrics of the one category, in [0, 1].

    Args:
        ap: mean of the average precision at IoU 0.5, 0.55 .. 0.95.
        ap_50: average precision at IoU 0.5.
        ar: mean over the same thresholds of the share of persons that are found.
        recall_50: the share of persons found at IoU 0.5.
        num_persons: in the ground truth, each once per keyframe.
        num_detections: in the keyframes that the ground truth names.
        num_keyframes: with persons.
        num_undetected: those of them without any detection.
        problem: why no box finds anybody, or ''.
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
        """What json.dump takes."""
        return asdict(self)

    def table(self) -> str:
        """A line for each metric."""
        names = {
            "ap": "AP, IoU 0.5:0.95",
            "ap_50": "AP, IoU 0.5",
            "ar": "AR, IoU 0.5:0.95",
            "recall_50": "recall, IoU 0.5",
        }
        lines = [f"{title:16}  {100 * getattr(self, name):6.2f}" for name, title in names.items()]
        lines.append(f"{self.num_detections} boxes for {self.num_persons} persons")
        # pycocotools, whose numbers these are, has no other order.
        lines.append("equal scores are ordered by video id, time and the order of the file")
        if self.num_undetected:
            lines.append(
                f"{self.num_undetected} of {self.num_keyframes} annotated keyframes have no detections"
            )
        if self.problem:
            lines.append(f"No box counts: {self.problem}.")
        return "\n".join(lines)


def evaluate_person_boxes(
    ground_truth: ActionBoxes, persons: PersonBoxes, excluded: Keyframes | None = None
) -> PersonBoxScores:
    """Hold person boxes against the annotated persons, at most the 100 best-scored ones of a keyframe.

    A person has a row for each action; rows of one keyframe with one box are one person. Only keyframes that
    the ground truth names count, and of those none that is excluded.

    Raises:
        DataError: the ground truth has no box that counts.
    """
    videos = np.union1d(ground_truth.videos.astype(object), persons.videos.astype(object))
    index = {name: i for i, name in enumerate(videos)}
    left_out = [(index[video], time) for video, time in excluded or () if video in index]
    unwanted = keyframe_keys(*np.array(left_out).T) if left_out else np.zeros(0, dtype=np.int64)
    keys = []
    for source in (ground_truth, persons):
        own = np.searchsorted(videos, source.videos.astype(object))
        keys.append(keyframe_keys(own[source.video], source.timestamp))
    keyframes = np.setdiff1d(keys[0], unwanted)

    boxed = np.isin(keys[0], keyframes) & ~np.isnan(ground_truth.boxes[:, 0])
    rows = np.column_stack([np.searchsorted(keyframes, keys[0][boxed]), ground_truth.boxes[boxed]])
    truth = np.unique(rows, axis=0)
    if not len(truth):
        raise DataError("the ground truth has no box in a keyframe that counts")
    counted = np.isin(keys[1], keyframes)
    keyframe = np.searchsorted(keyframes, keys[1][counted])
    found = np.column_stack([keyframe, persons.boxes[counted], persons.score[counted]])
    metrics = _coco_metrics(truth, found, len(keyframes))
    annotated, detected = np.unique(truth[:, 0]), np.unique(found[:, 0])
    problem = ""
    if not metrics[-1]:
        places = [Places(rows.videos, rows.video, rows.timestamp) for rows in (ground_truth, persons)]
        problem = why_nothing_matches(*places) or "none reaches IoU 0.5 with an annotated person"
    return PersonBoxScores(
        *metrics,
        num_persons=len(truth),
        num_detections=len(found),
        num_keyframes=len(annotated),
        num_undetected=len(np.setdiff1d(annotated, detected)),
        problem=problem,
    )


def _coco_metrics(truth: np.ndarray, found: np.ndarray, num_keyframes: int) -> tuple[float, ...]:
    """ap, ap_50, ar, recall_50 of (G, 5) keyframe and box, and (D, 6), the score last."""
    if not len(found):
        return (0.0, 0.0, 0.0, 0.0)
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": i} for i in range(num_keyframes)],
        "categories": [{"id": 1, "name": "person"}],
        # COCOeval takes id 0 for no match.
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
    boxes = zip(found[:, 0], _corner_and_size(found[:, 1:5]), found[:, 5])
    entries = [
        {"image_id": int(k), "category_id": 1, "bbox": box, "score": float(score)} for k, box, score in boxes
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints what it does
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(entries), "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [_MAX_DETECTIONS]
        evaluation.evaluate()
        evaluation.accumulate()
    precision, recall = (
        evaluation.eval["precision"],
        evaluation.eval["recall"],
    )  # (T, R, 1, 1, 1), (T, 1, 1, 1)
    return float(precision.mean()), float(precision[0].mean()), float(recall.mean()), float(recall[0].item())


def _corner_and_size(boxes: np.ndarray) -> list[list[float]]:
    return np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]).tolist()
