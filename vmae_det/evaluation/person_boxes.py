"""How well detected persons cover the annotated ones: COCO's AP and recall, and what score thresholds keep.

A person that is annotated with several actions counts once per keyframe. Keyframes are those that the ground
truth names. The measures are COCO's (https://cocodataset.org/#detection-eval), from pycocotools; those by
area are left out, for AVA's boxes are relative to the frame.
"""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tqdm import tqdm

from vmae_det.data.annotations import ActionBoxes
from vmae_det.data.person_boxes import PersonBoxes
from vmae_det.evaluation.matching import Keyframes, scored_keyframes
from vmae_det.utils.errors import DataError

SCORE_THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
# COCO's limit on the boxes of an image, best scores first.
_MAX_BOXES = 100


@dataclass(frozen=True)
class AtScore:
    """What a score threshold keeps, in `precision` and `recall` at IoU 0.5."""

    score: float
    num_boxes: int
    precision: float
    recall: float


@dataclass(frozen=True)
class PersonBoxQuality:
    """Measures of person boxes, in [0, 1].

    Args:
        ap: mean over IoUs 0.5 to 0.95.
        ap50, ap75: at one IoU.
        ar: recall with 100 boxes a keyframe, mean over IoUs 0.5 to 0.95.
        recall50: recall at IoU 0.5.
        num_keyframes, num_persons: of the ground truth.
        num_boxes, num_scored: boxes given, and those in its keyframes, at most 100 in each.
        at_scores: by rising threshold.
    """

    ap: float
    ap50: float
    ap75: float
    ar: float
    recall50: float
    num_keyframes: int
    num_persons: int
    num_boxes: int
    num_scored: int
    at_scores: tuple[AtScore, ...]

    def to_json(self) -> dict[str, Any]:
        """What json.dump takes."""
        return asdict(self)

    def table(self) -> str:
        """The measures, then a line for each score threshold."""
        measures = {
            "AP 0.5:0.95": self.ap,
            "AP 0.5": self.ap50,
            "AP 0.75": self.ap75,
            "AR 0.5:0.95": self.ar,
            "recall 0.5": self.recall50,
        }
        lines = [f"{name:12}  {100 * value:6.2f}" for name, value in measures.items()]
        lines += ["", f"{'score':>6}  {'boxes':>8}  {'a keyframe':>10}  {'precision':>9}  {'recall':>6}"]
        for row in self.at_scores:
            density = row.num_boxes / self.num_keyframes
            precision, recall = 100 * row.precision, 100 * row.recall
            lines.append(
                f"{row.score:6.2f}  {row.num_boxes:8d}  {density:10.2f}  {precision:9.2f}  {recall:6.2f}"
            )
        lines += [
            "(precision and recall at IoU 0.5)",
            f"{self.num_persons} persons in {self.num_keyframes} keyframes; "
            f"{self.num_scored} of {self.num_boxes} boxes scored, at most {_MAX_BOXES} a keyframe",
        ]
        if self.num_boxes and not self.num_scored:
            lines.append("No box lies in a keyframe that is scored: compare video ids and timestamps.")
        return "\n".join(lines)


def evaluate_person_boxes(
    ground_truth: ActionBoxes,
    person_boxes: PersonBoxes,
    excluded: Keyframes | None = None,
    progress: bool = True,
) -> PersonBoxQuality:
    """Compare person boxes with the persons of the ground truth.

    Args:
        excluded: (video id, seconds) of keyframes that do not count.

    Raises:
        DataError: the ground truth has no person in a keyframe that counts.
    """
    keyframes, keys = scored_keyframes(ground_truth, person_boxes, excluded, "challenge")
    annotated = np.isin(keys[0], keyframes) & ~np.isnan(ground_truth.boxes[:, 0])
    # Image numbers and boxes as one table, of which each row counts once.
    image = np.searchsorted(keyframes, keys[0][annotated])
    persons = np.unique(np.column_stack([image, ground_truth.boxes[annotated]]), axis=0)
    if not len(persons):
        raise DataError("no row of the ground truth counts: all are excluded or name a keyframe only")
    scored = np.isin(keys[1], keyframes)
    truth = _coco(len(keyframes), persons[:, 0], persons[:, 1:])
    found = _coco(
        len(keyframes),
        np.searchsorted(keyframes, keys[1][scored]),
        person_boxes.boxes[scored],
        person_boxes.score[scored],
    )
    evaluation = _Evaluation(truth, found, len(keyframes), progress)
    precision, recall = (evaluation.eval[name][..., 0, 0, 0] for name in ("precision", "recall"))
    score, hit = evaluation.matches_at_50()
    return PersonBoxQuality(
        ap=float(precision.mean()),
        ap50=float(precision[0].mean()),
        ap75=float(precision[5].mean()),
        ar=float(recall.mean()),
        recall50=float(recall[0]),
        num_keyframes=len(keyframes),
        num_persons=len(persons),
        num_boxes=len(person_boxes),
        num_scored=len(score),
        at_scores=tuple(
            _at_score(threshold, hit[score >= threshold], len(persons)) for threshold in SCORE_THRESHOLDS
        ),
    )


def _at_score(threshold: float, hit: np.ndarray, num_persons: int) -> AtScore:
    found = int(hit.sum())
    return AtScore(threshold, len(hit), found / max(len(hit), 1), found / num_persons)


class _Evaluation(COCOeval):
    """COCO's evaluation of one category, without its prints, and with a progress bar."""

    def __init__(self, truth: COCO, found: COCO, num_images: int, progress: bool) -> None:
        with (
            redirect_stdout(io.StringIO()),
            tqdm(total=num_images, desc="keyframes", disable=not progress) as self.bar,
        ):
            super().__init__(truth, found, "bbox")
            self.params.maxDets = [_MAX_BOXES]
            self.params.areaRng, self.params.areaRngLbl = [[0, np.inf]], ["all"]
            self.evaluate()
            self.accumulate()

    def evaluateImg(self, *args: Any) -> dict[str, Any] | None:
        self.bar.update()
        return super().evaluateImg(*args)

    def matches_at_50(self) -> tuple[np.ndarray, np.ndarray]:
        """Score (D,) and hit (D,) of each box at IoU 0.5."""
        images = [image for image in self.evalImgs if image is not None]
        score = np.concatenate([image["dtScores"] for image in images])
        hit = np.concatenate([image["dtMatches"][0] > 0 for image in images])
        return score, hit


def _coco(num_images: int, image: np.ndarray, boxes: np.ndarray, score: np.ndarray | None = None) -> COCO:
    """COCO's form of boxes (N, 4) xyxy, in memory."""
    sizes = boxes[:, 2:] - boxes[:, :2]
    columns = zip(
        image.astype(int).tolist(),
        np.column_stack([boxes[:, :2], sizes]).tolist(),
        sizes.prod(axis=1).tolist(),
        [None] * len(boxes) if score is None else score.tolist(),
    )
    coco = COCO()
    # Its ids start at 1: it takes a match with number 0 for none.
    coco.dataset = {
        "images": [{"id": i} for i in range(num_images)],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [
            {
                "id": i,
                "image_id": number,
                "category_id": 1,
                "bbox": box,
                "area": area,
                "iscrowd": 0,
                "score": score,
            }
            for i, (number, box, area, score) in enumerate(columns, start=1)
        ],
    }
    with redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco
