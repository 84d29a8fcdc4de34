"""Reads the outputs of ONNX detectors: the boxes and scores of what was found, and which of it are people."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from vmae_det.inference.person_detectors.onnx_boxes import Findings
from vmae_det.inference.person_detectors.onnx_columns import (
    COCO_PERSON,
    cells,
    judge_columns,
    kind_of_scores,
)
from vmae_det.inference.person_detectors.onnx_metadata import OnnxMetadata, person_classes
from vmae_det.utils.errors import WeightsError

logger = logging.getLogger(__name__)

_WITH_NO_OBJECT = (2, 81, 92)  # numbers of classes of which one is that of no object
_MOSTLY = 0.6  # the score of no object, averaged over all rows, is higher
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Rows:
    """What was found in one picture.

    Args:
        boxes: float32 (N, 4) as the file gives them.
        scores: (N,) of the best class.
        people: bool (N,), whether that class is a person.
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    people: torch.Tensor


class OutputReader:
    """Tells what the outputs of one file mean.

    Args:
        findings: of the file.
        metadata: of the file.
        layout: PERSON_DETECTOR.ONNX_LAYOUT.
        size: height and width of the network's input.
    """

    def __init__(
        self, findings: Findings, metadata: OnnxMetadata, layout: str, size: tuple[int, int]
    ) -> None:
        self.findings = findings
        self.source = findings.source
        self.metadata = metadata
        self.layout = layout
        self.size = size
        self._people_ids = person_classes(metadata.names) if metadata.names else None

    def read(self, outputs: dict[str, torch.Tensor], pictures: int) -> tuple[str, list[Rows]]:
        """The layout, and what was found in each picture.

        Args:
            outputs: by name.
            pictures: how many there were.

        Raises:
            WeightsError: the outputs are of no known layout, or can be of several.
        """
        for name, values in outputs.items():
            if values.is_floating_point() and not torch.isfinite(values).all():
                raise WeightsError(f"{self.source}: its output '{name}' holds NaN or infinity")
        # The prototypes of masks are (batch, coefficients, height, width).
        masks = [values.shape[1] for values in outputs.values() if values.ndim == 4]
        flat = {name: values for name, values in outputs.items() if values.ndim < 4}
        found = None
        if len(flat) > 1 and self.layout == "auto":
            found = self._several(flat, pictures)
        elif len(flat) == 1:
            (values,) = flat.values()
            if values.ndim == 2 and values.shape[1] == 7:
                found = "numbered", self._with_pictures(values, pictures)
            elif values.ndim == 3 and len(values) == pictures:
                found = self._single(values, masks[0] if masks else None)
        if found is None:
            raise self._unknown(outputs)
        return found

    def _single(self, values: torch.Tensor, masks: int | None) -> tuple[str, list[Rows]] | None:
        """Of one output (batch, boxes, columns), or the last two turned."""
        judged = judge_columns(values, self.metadata, self.layout, self.size, masks, self.source)
        if judged is None:
            return None
        rows, columns = judged
        if not rows.any():  # filled up, and nothing found: it tells nothing of the file either
            return columns.layout, [_nothing() for _ in rows]
        self.findings.settle("rows", columns.layout)
        rows = rows[..., : rows.shape[2] - columns.extra]
        if columns.layout == "end_to_end":
            return columns.layout, [self._labelled(own[:, :4], own[:, 4], own[:, 5]) for own in rows]
        scores = rows[..., 4:]
        if self.findings.settle("class scores", columns.scores) == "logits":
            scores = scores.sigmoid()
        if columns.layout == "yolov5":
            objectness, scores = scores[..., :1], scores[..., 1:]
            self._refuse_yolox(objectness)
            scores = objectness * scores
        people = self._people(scores.shape[2])
        return columns.layout, [_classified(own, score, people) for own, score in zip(rows[..., :4], scores)]

    def _refuse_yolox(self, objectness: torch.Tensor) -> None:
        """One box for each cell has an objectness in YOLOX, and in YOLOv6, where it is always 1."""
        if self.layout == "auto" and objectness.shape[1] in cells(self.size) and (objectness != 1).any():
            raise WeightsError(
                f"{self.source}: its output has one box with an objectness for each cell of a grid, as that "
                "of YOLOX, which takes BGR in 0..255 and gives offsets in its grid; YOLOX is not supported"
            )

    def _several(self, outputs: dict[str, torch.Tensor], pictures: int) -> tuple[str, list[Rows]] | None:
        """Of boxes with the scores of all classes, as DETRs have, or with a score and a label each."""
        boxes = [name for name, values in outputs.items() if values.ndim >= 2 and values.shape[-1] == 4]
        boxes = [name for name in boxes if "box" in name.lower()] or boxes
        if len(boxes) != 1:
            return None
        alone = outputs[boxes[0]].ndim == 2 and pictures == 1  # torchvision's, of its only picture
        if alone:
            outputs = {name: values[None] for name, values in outputs.items()}
        rest = dict(outputs)
        box = rest.pop(boxes[0]).float()
        if box.ndim != 3 or len(box) != pictures:
            return None
        tensorflow = "detection_boxes" in boxes[0].lower()  # TensorFlow's Object Detection API
        if tensorflow:
            box = box[..., [1, 0, 3, 2]]  # from y1, x1, y2, x2
        of_boxes = {name: values for name, values in rest.items() if values.shape[:2] == box.shape[:2]}
        counts = [rest[name] for name in rest if name not in of_boxes]
        if len(counts) > 1 or any(values.numel() != pictures for values in counts):
            return None
        if len(of_boxes) == 1 and not counts:
            (scores,) = of_boxes.values()
            return self._class_scores(box, scores) if scores.ndim == 3 else None
        labels = [name for name in of_boxes if "label" in name.lower() or "class" in name.lower()]
        if len(of_boxes) != 2 or len(labels) != 1 or any(values.ndim != 2 for values in of_boxes.values()):
            return None
        label = of_boxes.pop(labels[0]).float()
        (score,) = (values.float() for values in of_boxes.values())
        from_one = alone or tensorflow  # their class 0 is the background
        if alone and (label == 0).any():
            return None
        if score.numel() and not -1 <= float(score.min()) <= float(score.max()) <= 1 + _TOLERANCE:
            return None
        lengths = counts[0].reshape(-1).tolist() if counts else [box.shape[1]] * pictures
        parts = zip(box, score, label, map(int, lengths))
        return "labelled", [self._labelled(b[:n], s[:n], c[:n], int(from_one)) for b, s, c, n in parts]

    def _class_scores(self, boxes: torch.Tensor, scores: torch.Tensor) -> tuple[str, list[Rows]] | None:
        """Of boxes (batch, N, 4) and scores (batch, N, classes), one of which may be that of no object."""
        kind = kind_of_scores(scores)
        if kind is None or not scores.is_floating_point():
            return None
        self.findings.settle("class scores", kind)
        count, named, logits = scores.shape[2], self.metadata.classes, kind == "logits"
        scores = scores.float()
        if named == count or (named is None and count not in _WITH_NO_OBJECT):
            scores = scores.sigmoid() if logits else scores
        elif named in (None, count - 1):
            scores = scores.softmax(dim=2) if logits else scores
            # Most rows are of no object: its class is the first or the last.
            first, last = (float(scores[..., column].mean()) for column in (0, -1))
            if max(first, last) < _MOSTLY:
                return None
            empty = self.findings.settle("class of no object", "the first" if first > last else "the last")
            scores = scores[..., 1:] if empty == "the first" else scores[..., :-1]
        else:
            return None
        people = self._people(scores.shape[2])
        return "boxes and scores", [_classified(own, score, people) for own, score in zip(boxes, scores)]

    def _people(self, count: int) -> torch.Tensor:
        """bool (count,), whether each class is a person."""
        people = torch.zeros(count, dtype=torch.bool)
        if self._people_ids is None:
            if count not in COCO_PERSON:
                self._warn_once(f"class 0 of {count}")
            people[COCO_PERSON.get(count, 0)] = True
        else:
            people[self._people_ids] = True
        return people

    def _labelled(
        self, boxes: torch.Tensor, scores: torch.Tensor, classes: torch.Tensor, person: int = 0
    ) -> Rows:
        """Of boxes with one class each; `person` is that of people where the file names none."""
        kept = scores > 0  # other rows fill up
        boxes, scores, classes = boxes[kept], scores[kept], classes[kept].round().long()
        known = self.metadata.classes
        if known is None:
            if len(classes):
                self._warn_once(f"class {person}")
            return Rows(boxes, scores, classes == person)
        if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < known:
            raise WeightsError(
                f"{self.source}: gives classes {int(classes.min())} to {int(classes.max())}, but its "
                f"metadata names {known}"
            )
        return Rows(boxes, scores, torch.isin(classes, torch.tensor(self._people_ids)))

    def _with_pictures(self, rows: torch.Tensor, pictures: int) -> list[Rows]:
        """Of rows picture, x1, y1, x2, y2, class, score, as YOLOv7 writes them."""
        number, score = rows[:, [0, 5]], rows[:, 6]
        if len(rows) and (
            (number != number.round()).any() or number.min() < 0 or score.min() < 0 or score.max() > 1
        ):
            raise WeightsError(
                f"{self.source}: its output has rows of 7, such as "
                f"{[round(x, 4) for x in rows[0].tolist()]}; expected the picture's number, corners, class "
                "and score"
            )
        own = [rows[rows[:, 0] == k] for k in range(pictures)]
        return [self._labelled(part[:, 1:5], part[:, 6], part[:, 5]) for part in own]

    def _warn_once(self, what: str) -> None:
        if self.findings.get("person") is None:
            logger.warning("%s: has no class names; %s is taken as the person", self.source, what)
        self.findings.settle("person", what)

    def _unknown(self, outputs: dict[str, torch.Tensor]) -> WeightsError:
        shapes = ", ".join(f"{name} {tuple(values.shape)}" for name, values in outputs.items())
        known = self.metadata.classes
        return WeightsError(
            f"{self.source}: its output is {shapes}" + (f" for {known} named classes" if known else "") + "; "
            "expected (batch, boxes, 5 + classes) as of YOLOv5 and v7, (batch, 4 + classes, boxes) as of v8 "
            "and later, (batch, boxes, 6) or (boxes, 7) with overlaps removed, or boxes with scores, or with "
            f"scores and labels; PERSON_DETECTOR.ONNX_LAYOUT is '{self.layout}'"
        )


def _classified(boxes: torch.Tensor, scores: torch.Tensor, people: torch.Tensor) -> Rows:
    """Of boxes (N, 4) and the scores (N, classes) of all classes."""
    if not len(boxes):
        return _nothing()
    best, classes = scores.max(dim=1)
    return Rows(boxes, best, people[classes])


def _nothing() -> Rows:
    return Rows(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.bool))
