"""Parses the outputs of ONNX detectors: finds boxes, scores and classes in the layouts of many exporters."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from vmae_det.inference.person_detectors.interface import person_classes
from vmae_det.inference.person_detectors.onnx_box_format import InferredFormat, RawDetections
from vmae_det.inference.person_detectors.onnx_metadata import OnnxMetadata
from vmae_det.utils.errors import WeightsError

logger = logging.getLogger(__name__)

# The person's class in COCO's labels by their number: 80 classes, or 91 with gaps and an unused 0.
_COCO_PERSON = {80: 0, 91: 1}
_MASK_COLUMNS = 32  # mask coefficients of the YOLO models that segment
_KEYPOINT_COLUMNS = 51  # 17 keypoints of x, y and confidence
_STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32))
_LEADING_COLUMNS = {"end_to_end": 6, "yolov8": 4, "yolov5": 5}  # columns before the class scores
_MAX_LOGIT = 100.0
_COUNTS_WITH_NO_OBJECT = (2, 81, 92)  # numbers of classes that include "no object"
_MIN_NO_OBJECT_SCORE = 0.6  # the score of "no object", averaged over all rows, is at least this
_TOLERANCE = 1e-3


class OutputParser:
    """Parses the outputs of one file.

    Args:
        inferred: properties of the file.
        metadata: metadata of the file.
        layout: PERSON_DETECTOR.ONNX_LAYOUT.
        size: height and width of the network's input.
    """

    def __init__(
        self, inferred: InferredFormat, metadata: OnnxMetadata, layout: str, size: tuple[int, int]
    ) -> None:
        self.inferred = inferred
        self.source = inferred.source
        self.metadata = metadata
        self.layout = layout
        self.size = size
        self._person_ids = person_classes(metadata.names) if metadata.names else None

    def parse(self, outputs: dict[str, torch.Tensor], num_images: int) -> tuple[str, list[RawDetections]]:
        """Return the layout, and the detections in each image.

        Args:
            outputs: by name.
            num_images: number of images in the batch, without padding.

        Raises:
            WeightsError: the layout of the outputs is unknown, or ambiguous.
        """
        for name, values in outputs.items():
            if values.is_floating_point() and not torch.isfinite(values).all():
                raise WeightsError(f"{self.source}: its output '{name}' contains NaN or infinity")
        # Mask prototypes are (batch, coefficients, height, width).
        mask_columns = [values.shape[1] for values in outputs.values() if values.ndim == 4]
        flat = {name: values for name, values in outputs.items() if values.ndim < 4}
        parsed = None
        if len(flat) > 1 and self.layout == "auto":
            parsed = self._parse_several(flat, num_images)
        elif len(flat) == 1:
            (values,) = flat.values()
            if values.ndim == 2 and values.shape[1] == 7:
                parsed = "numbered", self._parse_rows_of_seven(values, num_images)
            elif values.ndim == 3 and len(values) == num_images:
                parsed = self._parse_single(values, mask_columns[0] if mask_columns else None)
        if parsed is None:
            raise self._unknown_layout(outputs)
        return parsed

    def _parse_single(
        self, values: torch.Tensor, mask_columns: int | None
    ) -> tuple[str, list[RawDetections]] | None:
        """Parse a single output (batch, boxes, columns), or (batch, columns, boxes)."""
        inferred = infer_columns(values, self.metadata, self.layout, self.size, mask_columns, self.source)
        if inferred is None:
            return None
        rows, columns = inferred
        if not rows.any():  # padding only: there are no detections, and nothing can be inferred
            return columns.layout, [_no_detections() for _ in rows]
        self.inferred.set("rows", columns.layout)
        rows = rows[..., : rows.shape[2] - columns.extra]
        if columns.layout == "end_to_end":
            return columns.layout, [
                self._from_labels(image[:, :4], image[:, 4], image[:, 5]) for image in rows
            ]
        scores = rows[..., 4:]
        if self.inferred.set("class scores", columns.scores) == "logits":
            scores = scores.sigmoid()
        if columns.layout == "yolov5":
            objectness, scores = scores[..., :1], scores[..., 1:]
            self._refuse_yolox(objectness)
            scores = objectness * scores
        is_person = self._person_mask(scores.shape[2])
        return columns.layout, [
            _from_class_scores(boxes, image_scores, is_person)
            for boxes, image_scores in zip(rows[..., :4], scores)
        ]

    def _refuse_yolox(self, objectness: torch.Tensor) -> None:
        """YOLOX and YOLOv6 both have one box per cell and an objectness; in YOLOv6 it is always 1."""
        one_per_cell = objectness.shape[1] in _grid_cells(self.size)
        if self.layout == "auto" and one_per_cell and (objectness != 1).any():
            raise WeightsError(
                f"{self.source}: its output has one box with an objectness for each cell of a grid, as that "
                "of YOLOX, which takes BGR in 0..255 and predicts offsets in its grid; YOLOX is not supported"
            )

    def _parse_several(
        self, outputs: dict[str, torch.Tensor], num_images: int
    ) -> tuple[str, list[RawDetections]] | None:
        """Parse boxes with the scores of all classes, as in DETR, or with one score and one label each."""
        box_names = [name for name, values in outputs.items() if values.ndim >= 2 and values.shape[-1] == 4]
        box_names = [name for name in box_names if "box" in name.lower()] or box_names
        if len(box_names) != 1:
            return None
        (box_name,) = box_names
        is_torchvision = outputs[box_name].ndim == 2 and num_images == 1  # no batch dimension
        if is_torchvision:
            outputs = {name: values[None] for name, values in outputs.items()}
        others = dict(outputs)
        boxes = others.pop(box_name).float()
        if boxes.ndim != 3 or len(boxes) != num_images:
            return None
        is_tensorflow = "detection_boxes" in box_name.lower()  # TensorFlow's Object Detection API
        if is_tensorflow:
            boxes = boxes[..., [1, 0, 3, 2]]  # from y1, x1, y2, x2
        per_box = {name: values for name, values in others.items() if values.shape[:2] == boxes.shape[:2]}
        counts = [others[name] for name in others if name not in per_box]
        if len(counts) > 1 or any(values.numel() != num_images for values in counts):
            return None
        if len(per_box) == 1 and not counts:
            (scores,) = per_box.values()
            return self._parse_class_scores(boxes, scores) if scores.ndim == 3 else None
        label_names = [name for name in per_box if "label" in name.lower() or "class" in name.lower()]
        if len(per_box) != 2 or len(label_names) != 1 or any(values.ndim != 2 for values in per_box.values()):
            return None
        labels = per_box.pop(label_names[0]).float()
        (scores,) = (values.float() for values in per_box.values())
        background_first = is_torchvision or is_tensorflow  # their class 0 is the background
        if is_torchvision and (labels == 0).any():
            return None
        if scores.numel() and not -1 <= float(scores.min()) <= float(scores.max()) <= 1 + _TOLERANCE:
            return None
        lengths = counts[0].reshape(-1).tolist() if counts else [boxes.shape[1]] * num_images
        images = zip(boxes, scores, labels, map(int, lengths))
        person = int(background_first)
        return "labeled", [self._from_labels(b[:n], s[:n], c[:n], person) for b, s, c, n in images]

    def _parse_class_scores(
        self, boxes: torch.Tensor, scores: torch.Tensor
    ) -> tuple[str, list[RawDetections]] | None:
        """Parse boxes (batch, N, 4) and scores (batch, N, classes), which may include "no object"."""
        kind = _score_kind(scores)
        if kind is None or not scores.is_floating_point():
            return None
        self.inferred.set("class scores", kind)
        count, named, is_logits = scores.shape[2], self.metadata.num_classes, kind == "logits"
        scores = scores.float()
        if named == count or (named is None and count not in _COUNTS_WITH_NO_OBJECT):
            scores = scores.sigmoid() if is_logits else scores
        elif named in (None, count - 1):
            scores = scores.softmax(dim=2) if is_logits else scores
            # Most rows are "no object", which is the first or the last class.
            first, last = (float(scores[..., column].mean()) for column in (0, -1))
            if max(first, last) < _MIN_NO_OBJECT_SCORE:
                return None
            position = "the first" if first > last else "the last"
            no_object = self.inferred.set("class of no object", position)
            scores = scores[..., 1:] if no_object == "the first" else scores[..., :-1]
        else:
            return None
        is_person = self._person_mask(scores.shape[2])
        return "boxes and scores", [
            _from_class_scores(image_boxes, image_scores, is_person)
            for image_boxes, image_scores in zip(boxes, scores)
        ]

    def _person_mask(self, count: int) -> torch.Tensor:
        """Return bool (count,): whether each class is a person."""
        is_person = torch.zeros(count, dtype=torch.bool)
        if self._person_ids is None:
            if count not in _COCO_PERSON:
                self._warn_once(f"class 0 of {count}")
            is_person[_COCO_PERSON.get(count, 0)] = True
        else:
            is_person[self._person_ids] = True
        return is_person

    def _from_labels(
        self, boxes: torch.Tensor, scores: torch.Tensor, classes: torch.Tensor, person: int = 0
    ) -> RawDetections:
        """Convert boxes with one class each; `person` is the person's class if the file has no names."""
        kept = scores > 0  # the other rows are padding
        boxes, scores, classes = boxes[kept], scores[kept], classes[kept].round().long()
        num_classes = self.metadata.num_classes
        if num_classes is None:
            if len(classes):
                self._warn_once(f"class {person}")
            return RawDetections(boxes, scores, classes == person)
        if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < num_classes:
            raise WeightsError(
                f"{self.source}: predicts classes {int(classes.min())} to {int(classes.max())}, but its "
                f"metadata names {num_classes}"
            )
        return RawDetections(boxes, scores, torch.isin(classes, torch.tensor(self._person_ids)))

    def _parse_rows_of_seven(self, rows: torch.Tensor, num_images: int) -> list[RawDetections]:
        """Parse rows of image, x1, y1, x2, y2, class, score, as in YOLOv7."""
        integers, scores = rows[:, [0, 5]], rows[:, 6]
        if len(rows) and (
            (integers != integers.round()).any() or integers.min() < 0 or scores.min() < 0 or scores.max() > 1
        ):
            raise WeightsError(
                f"{self.source}: its output has rows of 7, such as "
                f"{[round(x, 4) for x in rows[0].tolist()]}; expected image index, corners, class and score"
            )
        by_image = [rows[rows[:, 0] == number] for number in range(num_images)]
        return [self._from_labels(image[:, 1:5], image[:, 6], image[:, 5]) for image in by_image]

    def _warn_once(self, person: str) -> None:
        if self.inferred.get("person") is None:
            logger.warning("%s: has no class names; assuming that %s is the person", self.source, person)
        self.inferred.set("person", person)

    def _unknown_layout(self, outputs: dict[str, torch.Tensor]) -> WeightsError:
        shapes = ", ".join(f"{name} {tuple(values.shape)}" for name, values in outputs.items())
        named = self.metadata.num_classes
        return WeightsError(
            f"{self.source}: its output is {shapes}" + (f" for {named} named classes" if named else "") + "; "
            "expected (batch, boxes, 5 + classes) as in YOLOv5 and v7, (batch, 4 + classes, boxes) as in v8 "
            "and later, (batch, boxes, 6) or (boxes, 7) after NMS, or boxes with scores, or with scores and "
            f"labels; PERSON_DETECTOR.ONNX_LAYOUT is '{self.layout}'"
        )


def _from_class_scores(boxes: torch.Tensor, scores: torch.Tensor, is_person: torch.Tensor) -> RawDetections:
    """Convert boxes (N, 4) and the scores (N, classes) of all classes."""
    if not len(boxes):
        return _no_detections()
    best, classes = scores.max(dim=1)
    return RawDetections(boxes, best, is_person[classes])


def _no_detections() -> RawDetections:
    return RawDetections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.bool))


# ---------------------------------------------------------------- the columns of a single output


@dataclass(frozen=True)
class Columns:
    """Meaning of the columns of a single output (batch, boxes, columns).

    Args:
        layout: end_to_end, yolov5 or yolov8, as PERSON_DETECTOR.ONNX_LAYOUT.
        extra: number of columns at the end that are mask coefficients or keypoints.
        scores: `numbered` for a score and a class number, else `probabilities` or `logits`.
    """

    layout: str
    extra: int
    scores: str


def infer_columns(
    values: torch.Tensor,
    metadata: OnnxMetadata,
    layout: str,
    size: tuple[int, int],
    mask_columns: int | None,
    source: str,
) -> tuple[torch.Tensor, Columns] | None:
    """Return the rows (batch, boxes, columns) and what their columns are; None if that is unknown.

    Args:
        values: (batch, boxes, columns), or (batch, columns, boxes).
        metadata: metadata of the file.
        layout: PERSON_DETECTOR.ONNX_LAYOUT.
        size: height and width of the network's input.
        mask_columns: number of mask coefficients, if a second output has mask prototypes.
        source: name of the file, for messages.

    Raises:
        WeightsError: the layout is ambiguous.
    """
    transposed = _is_transposed(values, metadata, layout)
    rows = values.transpose(1, 2) if transposed else values
    fitting = [
        Columns(name, extra, kind)
        for name, extra in _possible_layouts(rows, transposed, metadata, layout, size, mask_columns)
        if (kind := _layout_score_kind(name, rows[..., : rows.shape[2] - extra]))
    ]
    for kind in ("numbered", "probabilities", "logits"):
        best = [columns for columns in fitting if columns.scores == kind]
        if len({columns.layout for columns in best}) > 1:
            raise WeightsError(
                f"{source}: its output {tuple(values.shape)} without class names can be that of YOLOv5 "
                "(5 + classes) or of v8 (4 + classes); set PERSON_DETECTOR.ONNX_LAYOUT"
            )
        if best:
            return rows, best[0]
    return None


def _is_transposed(values: torch.Tensor, metadata: OnnxMetadata, layout: str) -> bool:
    """Return whether (batch, a, b) is (batch, columns, boxes)."""
    _, a, b = values.shape
    if layout in ("yolov5", "end_to_end"):
        return False
    if metadata.names and metadata.task in ("", "detect"):
        widths = {6, 4 + metadata.num_classes, 5 + metadata.num_classes}
        if (a in widths) != (b in widths):
            return a in widths
    return a < b and b not in (6, 6 + _MASK_COLUMNS, 6 + _KEYPOINT_COLUMNS)


def _possible_layouts(
    rows: torch.Tensor,
    transposed: bool,
    metadata: OnnxMetadata,
    layout: str,
    size: tuple[int, int],
    mask_columns: int | None,
) -> Iterator[tuple[str, int]]:
    """Yield the layouts that rows of this shape can have, with the number of extra columns at the end."""
    _, boxes, columns = rows.shape
    cells = _grid_cells(size)
    one_per_cell, three_per_cell = boxes in cells, boxes in {3 * count for count in cells}
    keypoints = metadata.keypoints or _KEYPOINT_COLUMNS
    any_task = [mask_columns, 0, keypoints] if mask_columns else [0, _MASK_COLUMNS, keypoints]
    by_task = {"detect": [0], "segment": [mask_columns or _MASK_COLUMNS], "pose": [keypoints]}
    for extra in by_task.get(metadata.task, any_task):
        for name, leading in _LEADING_COLUMNS.items():
            classes = columns - leading - extra
            if layout not in ("auto", name) or (metadata.end_to_end and name != "end_to_end"):
                continue
            if name == "end_to_end":
                is_grid = one_per_cell or three_per_cell
                possible = (
                    classes == 0 and not transposed and (layout == name or metadata.end_to_end or not is_grid)
                )
            elif classes < 1 or (name == "yolov5" and transposed):
                possible = False
            elif metadata.names:
                possible = classes == metadata.num_classes
            elif extra and classes not in (1, *_COCO_PERSON):
                possible = False
            elif three_per_cell:
                possible = name == "yolov5"
            else:  # 84 columns are 4 + COCO's 80 classes, 85 are 5 + 80
                yolos = ("yolov5", "yolov8")
                coco = {other for other in yolos if columns - _LEADING_COLUMNS[other] in _COCO_PERSON}
                possible = transposed or bool(extra) or not coco or name in coco
            if possible:
                yield name, extra


def _grid_cells(size: tuple[int, int]) -> set[int]:
    """Return the numbers of cells that the grids of YOLO models have for images of this height and width."""
    return {sum((size[0] // s) * (size[1] // s) for s in strides) for strides in _STRIDES}


def _layout_score_kind(layout: str, rows: torch.Tensor) -> str | None:
    """Return the kind of the scores if the rows have this layout; None if they cannot have it."""
    if layout != "end_to_end":
        return _score_kind(rows[..., 4:])
    score, class_number = rows[..., 4], rows[..., 5]
    if not rows.numel():
        return "numbered"
    is_integer = float((class_number - class_number.round()).abs().max()) < _TOLERANCE
    in_range = float(score.min()) >= -1 and float(score.max()) <= 1 + _TOLERANCE
    return "numbered" if is_integer and in_range else None


def _score_kind(scores: torch.Tensor) -> str | None:
    """Return `probabilities` or `logits`; None if the values cannot be class scores."""
    if not scores.numel():
        return "probabilities"
    lowest, highest = float(scores.min()), float(scores.max())
    if lowest >= -_TOLERANCE and highest <= 1 + _TOLERANCE:
        return "probabilities"
    return "logits" if lowest < 0 and max(-lowest, highest) < _MAX_LOGIT else None
