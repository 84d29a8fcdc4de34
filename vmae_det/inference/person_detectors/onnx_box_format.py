"""Infers the box format of an ONNX detector: corners or center and size, in pixels or fractions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torchvision.ops import box_convert

from vmae_det.utils.errors import WeightsError

# Boxes up to this value are fractions: no person is this small in pixels, and no box this far outside [0, 1].
_MAX_FRACTION = 1.5
# Boxes in pixels reach at least this fraction of the image's side. Smaller values are offsets in a grid cell.
_MIN_PIXEL_REACH = 1 / 20
# How far a box may extend beyond the frame, as a fraction of the image's side.
_MAX_OVERFLOW = 0.05
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class RawDetections:
    """The detections in one image, before the boxes are decoded.

    Args:
        boxes: float32 (N, 4) in the format of the file.
        scores: (N,), of the best class.
        is_person: bool (N,), whether that class is a person.
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    is_person: torch.Tensor


class InferredFormat:
    """Properties of a file that were inferred from its outputs. Later outputs must not contradict them.

    Args:
        source: name of the file, for messages.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._properties: dict[str, Any] = {}

    def get(self, name: str) -> Any:
        """Return a property; None if it has not been set."""
        return self._properties.get(name)

    def set(self, name: str, value: Any) -> Any:
        """Set a property and return it; raise a WeightsError if it has another value already."""
        if self._properties.setdefault(name, value) != value:
            raise WeightsError(
                f"{self.source}: its {name} were interpreted as {self._properties[name]}, but later values "
                f"are {value}; set PERSON_DETECTOR.ONNX_LAYOUT"
            )
        return value


class BoxDecoder:
    """Converts the boxes of one file to corners in pixels of the network's input.

    Args:
        inferred: properties of the file.
        size: height and width of the network's input.
        confident: boxes with at least this score must be on an object in the frame.
        layout_given: whether the config names the layout.
    """

    def __init__(
        self, inferred: InferredFormat, size: tuple[int, int], confident: float, layout_given: bool
    ) -> None:
        self.inferred = inferred
        self.source = inferred.source
        self.size = size
        self.confident = confident
        self.layout_given = layout_given

    def to_pixels(
        self, layout: str, detections: Sequence[RawDetections], regions: Sequence[Sequence[float]]
    ) -> list[torch.Tensor]:
        """Return the boxes (N, 4) xyxy of each image.

        Args:
            layout: layout of the outputs.
            detections: of each image.
            regions: xyxy pixels of the frame within each image.

        Raises:
            WeightsError: the values fit no format, or more than one.
        """
        boxes = torch.cat([image.boxes for image in detections])
        counts = [len(image.boxes) for image in detections]
        is_set = (boxes != 0).any(dim=1)
        confident = is_set & (torch.cat([image.scores for image in detections]) >= self.confident)
        if not confident.any():
            return [torch.zeros_like(image.boxes) for image in detections]
        height, width = self.size
        unit = torch.tensor([width, height, width, height], dtype=torch.float32)
        if self._infer_unit(boxes[confident]) == "pixels":
            boxes = boxes / unit
        frames = torch.cat([torch.tensor(region).expand(count, 4) for count, region in zip(counts, regions)])
        form = self._infer_form(layout, boxes[is_set], boxes[confident], frames[confident] / unit)
        boxes = boxes * unit
        if form == "center and size":
            boxes = box_convert(boxes, "cxcywh", "xyxy")
        return list(boxes.split(counts))

    def _infer_unit(self, boxes: torch.Tensor) -> str:
        largest = float(boxes.abs().max())
        if largest <= _MAX_FRACTION:
            return self.inferred.set("boxes' units", "fractions")
        if largest < min(self.size) * _MIN_PIXEL_REACH:
            raise self._unknown_format(boxes)
        return self.inferred.set("boxes' units", "pixels")

    def _infer_form(
        self, layout: str, boxes: torch.Tensor, confident: torch.Tensor, frames: torch.Tensor
    ) -> str:
        """Return "corners" or "center and size". All boxes are (N, 4) as fractions of the image's sides.

        Args:
            boxes: all boxes that are not padding.
            confident: those that must be on an object in the frame.
            frames: the frame within the image, for each of the latter.
        """
        can_be_corners = not (boxes[:, 2:] < boxes[:, :2] - _TOLERANCE).any()
        can_be_center = not (boxes[:, 2:] < -_TOLERANCE).any()
        known = self.inferred.get("boxes")
        possible = {"corners": can_be_corners, "center and size": can_be_center}
        if not (possible[known] if known else any(possible.values())):
            raise self._unknown_format(confident)
        if known:
            return known
        if can_be_corners and can_be_center:
            corners = box_convert(confident, "cxcywh", "xyxy")
            overflow = torch.cat([frames[:, :2] - corners[:, :2], corners[:, 2:] - frames[:, 2:]]).max()
            can_be_center = bool(overflow <= _MAX_OVERFLOW)
        if can_be_corners and can_be_center:
            return self.inferred.set("boxes", self._usual_form(layout, confident[0]))
        return self.inferred.set("boxes", "corners" if can_be_corners else "center and size")

    def _usual_form(self, layout: str, box: torch.Tensor) -> str:
        """Return the usual form of a layout, for values that fit both forms."""
        has_class_scores = layout in ("yolov5", "yolov8", "boxes and scores")
        is_ambiguous = has_class_scores or self.inferred.get("boxes' units") == "fractions"
        if not self.layout_given and is_ambiguous:
            raise WeightsError(
                f"{self.source}: its boxes, such as {_join(box)} as fractions of the image, can be corners "
                "or center and size; set PERSON_DETECTOR.ONNX_LAYOUT: end_to_end has corners, yolov5 and "
                "yolov8 have center and size"
            )
        return "center and size" if has_class_scores else "corners"

    def _unknown_format(self, boxes: torch.Tensor) -> WeightsError:
        return WeightsError(
            f"{self.source}: its boxes, such as {_join(boxes[0])}, are neither corners nor center and size, "
            "in pixels or in fractions of the image; offsets in a grid, as YOLOX exports without "
            "--decode_in_inference, are not supported"
        )


def _join(values: torch.Tensor) -> str:
    return ", ".join(f"{value:.4g}" for value in values.tolist())
