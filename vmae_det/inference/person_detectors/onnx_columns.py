"""What the columns of a YOLO's or RT-DETR's only output (batch, boxes, columns) are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from vmae_det.inference.person_detectors.onnx_metadata import OnnxMetadata
from vmae_det.utils.errors import WeightsError

# The person's class in COCO's labels by their number: 80, or 91 with gaps and an unused 0.
COCO_PERSON = {80: 0, 91: 1}
_MASKS = 32  # coefficients of a mask, in the YOLOs that segment
_KEYPOINTS = 51  # 17 keypoints of x, y and confidence
_STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32))
_LEAD = {"end_to_end": 6, "yolov8": 4, "yolov5": 5}  # columns before the scores of the classes
_LARGEST_LOGIT = 100.0
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Columns:
    """One way to read the rows.

    Args:
        layout: end_to_end, yolov5 or yolov8, as PERSON_DETECTOR.ONNX_LAYOUT.
        extra: columns at the end that belong to masks or keypoints.
        scores: `numbered` for a score and a class number, else `probabilities` or `logits`.
    """

    layout: str
    extra: int
    scores: str


def cells(size: tuple[int, int]) -> set[int]:
    """How many cells the grids of a YOLO have for pictures of that height and width."""
    return {sum((size[0] // s) * (size[1] // s) for s in strides) for strides in _STRIDES}


def kind_of_scores(scores: torch.Tensor) -> str | None:
    """`probabilities` or `logits`; None: the values are no scores of classes."""
    if not scores.numel():
        return "probabilities"
    least, most = float(scores.min()), float(scores.max())
    if least >= -_TOLERANCE and most <= 1 + _TOLERANCE:
        return "probabilities"
    return "logits" if least < 0 and max(-least, most) < _LARGEST_LOGIT else None


def judge_columns(
    values: torch.Tensor,
    data: OnnxMetadata,
    layout: str,
    size: tuple[int, int],
    masks: int | None,
    source: str,
) -> tuple[torch.Tensor, Columns] | None:
    """The rows (batch, boxes, columns) and what their columns are; None: nothing known.

    Args:
        values: (batch, boxes, columns), or the last two turned.
        layout: PERSON_DETECTOR.ONNX_LAYOUT.
        size: height and width of the network's input.
        masks: coefficients of the masks, where a second output tells them.
        source: the file's name, for errors.

    Raises:
        WeightsError: the rows can be read in several ways.
    """
    turned = _is_turned(values, data, layout)
    rows = values.transpose(1, 2) if turned else values
    candidates = list(_candidates(rows, turned, data, layout, size, masks))
    fitting = [
        Columns(name, extra, kind)
        for name, extra in candidates
        if (kind := _kind(name, rows[..., : rows.shape[2] - extra]))
    ]
    for kind in ("numbered", "probabilities", "logits"):
        best = [columns for columns in fitting if columns.scores == kind]
        if len({columns.layout for columns in best}) > 1:
            raise WeightsError(
                f"{source}: its output {tuple(values.shape)} without class names can be that of YOLOv5 "
                "(5 + classes) and of v8 (4 + classes); say which by PERSON_DETECTOR.ONNX_LAYOUT"
            )
        if best:
            return rows, best[0]
    return None


def _is_turned(values: torch.Tensor, data: OnnxMetadata, layout: str) -> bool:
    """Whether (batch, a, b) is (batch, columns, boxes)."""
    _, a, b = values.shape
    if layout in ("yolov5", "end_to_end"):
        return False
    if data.names and data.task in ("", "detect"):
        widths = {6, 4 + data.classes, 5 + data.classes}
        if (a in widths) != (b in widths):
            return a in widths
    return a < b and b not in (6, 6 + _MASKS, 6 + _KEYPOINTS)


def _candidates(
    rows: torch.Tensor,
    turned: bool,
    data: OnnxMetadata,
    layout: str,
    size: tuple[int, int],
    masks: int | None,
) -> Iterator[tuple[str, int]]:
    """Layouts that rows of such a shape can have, with the columns at the end that are no classes."""
    _, boxes, columns = rows.shape
    grids = cells(size)
    one, three = boxes in grids, boxes in {3 * count for count in grids}  # boxes for each cell
    keypoints = data.keypoints or _KEYPOINTS
    unsaid = [masks, 0, keypoints] if masks else [0, _MASKS, keypoints]
    extras = {"detect": [0], "segment": [masks or _MASKS], "pose": [keypoints]}.get(data.task, unsaid)
    for extra in extras:
        for name, lead in _LEAD.items():
            classes = columns - lead - extra
            if layout not in ("auto", name) or (data.end_to_end and name != "end_to_end"):
                continue
            if name == "end_to_end":
                good = (
                    classes == 0 and not turned and (layout == name or data.end_to_end or not (one or three))
                )
            elif classes < 1 or (name == "yolov5" and turned):
                good = False
            elif data.names:
                good = classes == data.classes
            elif extra and classes not in (1, *COCO_PERSON):
                good = False
            elif three:
                good = name == "yolov5"
            else:  # 84 columns are 4 and COCO's 80 classes, 85 are 5 and these
                known = {other for other in ("yolov5", "yolov8") if columns - _LEAD[other] in COCO_PERSON}
                good = turned or bool(extra) or not known or name in known
            if good:
                yield name, extra


def _kind(layout: str, rows: torch.Tensor) -> str | None:
    """What the scores of such rows would be; None: they are not of that layout."""
    if layout != "end_to_end":
        return kind_of_scores(rows[..., 4:])
    score, number = rows[..., 4], rows[..., 5]
    if not rows.numel():
        return "numbered"
    whole = float((number - number.round()).abs().max()) < _TOLERANCE
    return "numbered" if whole and float(score.min()) >= -1 and float(score.max()) <= 1 + _TOLERANCE else None
