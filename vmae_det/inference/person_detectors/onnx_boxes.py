"""The format of a detector's boxes, judged by values: corners or centre and size, pixels or fractions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torchvision.ops import box_convert

from vmae_det.utils.errors import WeightsError

# No person is within so few pixels, and no box reaches so far beyond a picture of side 1.
_LARGEST_FRACTION = 1.5
# A box in pixels reaches further than this part of the picture's side; less is a cell's offset, as YOLOX has.
_SMALLEST_REACH = 1 / 20
# How far a box may reach over the border of the frame, in sides of the picture.
_OVERFLOW = 0.05
_TOLERANCE = 1e-4

Found = tuple[torch.Tensor, torch.Tensor]  # boxes (N, 4) as the file gives them, best class's scores (N,)


class Findings:
    """What has been settled about a file. A later finding that contradicts an earlier one is an error."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._settled: dict[str, Any] = {}

    def get(self, what: str) -> Any:
        """What was settled; None if nothing was."""
        return self._settled.get(what)

    def settle(self, what: str, value: Any) -> Any:
        """Settle it; WeightsError if it was settled otherwise."""
        if self._settled.setdefault(what, value) != value:
            raise WeightsError(
                f"{self.source}: its {what} were read as {self._settled[what]}, but later values are "
                f"{value}; set PERSON_DETECTOR.ONNX_LAYOUT"
            )
        return value


class BoxFormat:
    """Brings the boxes of one file to corners in pixels of the network's input.

    Args:
        findings: of the file.
        size: height and width of the network's input.
        sure: score from which on a box must be that of something in the picture.
        told: the layout is named by the config.
    """

    def __init__(self, findings: Findings, size: tuple[int, int], sure: float, told: bool) -> None:
        self.findings = findings
        self.source = findings.source
        self.size = size
        self.sure = sure
        self.told = told

    def to_pixels(
        self, layout: str, found: Sequence[Found], frames: Sequence[Sequence[float]]
    ) -> list[torch.Tensor]:
        """Boxes (N, 4) xyxy of each picture.

        Args:
            layout: of the rows.
            found: of each picture.
            frames: where in each picture the frame lies, xyxy pixels.

        Raises:
            WeightsError: the values fit no format, or two of them.
        """
        boxes = torch.cat([own for own, _ in found])
        seen = (boxes != 0).any(dim=1)
        sure = seen & (torch.cat([scores for _, scores in found]) >= self.sure)
        if not sure.any():
            return [torch.zeros_like(own) for own, _ in found]
        height, width = self.size
        unit = torch.tensor([width, height, width, height], dtype=torch.float32)
        if self._unit(boxes[sure]) == "pixels":
            boxes = boxes / unit
        inside = torch.cat([torch.tensor(area).expand(len(own), 4) for (own, _), area in zip(found, frames)])
        form = self._form(layout, boxes[seen], boxes[sure], inside[sure] / unit)
        boxes = boxes * unit
        if form == "centre and size":
            boxes = box_convert(boxes, "cxcywh", "xyxy")
        return list(boxes.split([len(own) for own, _ in found]))

    def _unit(self, boxes: torch.Tensor) -> str:
        reach = float(boxes.abs().max())
        if reach <= _LARGEST_FRACTION:
            return self.findings.settle("boxes' units", "fractions")
        if reach < min(self.size) * _SMALLEST_REACH:
            raise self._no_boxes(boxes)
        return self.findings.settle("boxes' units", "pixels")

    def _form(self, layout: str, seen: torch.Tensor, sure: torch.Tensor, inside: torch.Tensor) -> str:
        """corners or centre and size, of boxes (N, 4) in sides of the picture.

        Args:
            seen: all boxes that are there.
            sure: those that must be of something in the frame.
            inside: the frame of each of the latter.
        """
        corners = not (seen[:, 2:] < seen[:, :2] - _TOLERANCE).any()
        centre = not (seen[:, 2:] < -_TOLERANCE).any()
        settled = self.findings.get("boxes")
        if not (centre if settled == "centre and size" else corners if settled else centre or corners):
            raise self._no_boxes(sure)
        if settled:
            return settled
        if corners and centre:
            spread = box_convert(sure, "cxcywh", "xyxy")
            over = torch.cat([inside[:, :2] - spread[:, :2], spread[:, 2:] - inside[:, 2:]]).max()
            centre = bool(over <= _OVERFLOW)
        if corners and centre:
            return self.findings.settle("boxes", self._usual(layout, sure[0]))
        return self.findings.settle("boxes", "corners" if corners else "centre and size")

    def _usual(self, layout: str, box: torch.Tensor) -> str:
        """What the boxes of a layout are where their values fit both."""
        by_class = layout in ("yolov5", "yolov8", "boxes and scores")
        if not self.told and (by_class or self.findings.get("boxes' units") == "fractions"):
            raise WeightsError(
                f"{self.source}: its boxes, such as {_numbers(box)} as fractions of the picture, can be "
                "corners or centre and size; set PERSON_DETECTOR.ONNX_LAYOUT: end_to_end has corners, yolov5 "
                "and yolov8 have centre and size"
            )
        return "centre and size" if by_class else "corners"

    def _no_boxes(self, boxes: torch.Tensor) -> WeightsError:
        return WeightsError(
            f"{self.source}: its boxes, such as {_numbers(boxes[0])}, are neither corners nor centre and "
            "size, in pixels or in fractions of the picture; offsets in a grid, as YOLOX exports without "
            "--decode_in_inference, cannot be read"
        )


def _numbers(values: torch.Tensor) -> str:
    return ", ".join(f"{value:.4g}" for value in values.tolist())
