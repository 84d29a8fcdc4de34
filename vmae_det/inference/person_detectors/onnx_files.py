"""Detectors in ONNX files whose output is laid out as that of one of the YOLOs; class 0 is the person."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torchvision.ops import box_convert, nms

from vmae_det.checkpoint.locate import locate
from vmae_det.config import CfgNode
from vmae_det.inference.person_detectors.interface import PERSON_DETECTOR_REGISTRY, PersonDetector
from vmae_det.utils.errors import ConfigError, WeightsError

logger = logging.getLogger(__name__)

_PERSON = 0  # of COCO's 80 classes
_SIDE = 640  # of a file that takes pictures of any size
_BORDER = 114  # grey that fills what a picture leaves free
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}

Decoded = tuple[torch.Tensor, torch.Tensor]  # boxes xyxy (N, 4) in pixels of the input, scores (N,)


@PERSON_DETECTOR_REGISTRY.register_as("onnx")
class OnnxDetector(PersonDetector):
    """An ONNX file, by PERSON_DETECTOR.WEIGHTS, that takes RGB in [0, 1] as (batch, 3, H, W)."""

    def __init__(self, cfg: CfgNode, device: torch.device) -> None:
        super().__init__(cfg, device)
        self.source = cfg.PERSON_DETECTOR.WEIGHTS
        if not self.source:
            raise ConfigError("PERSON_DETECTOR.WEIGHTS: empty; the detector 'onnx' needs an ONNX file here")
        self.session = _open(self.source, device)
        inputs = self.session.get_inputs()
        given = inputs[0]
        if len(inputs) > 1 or len(given.shape) != 4 or given.shape[1] != 3 or given.type not in _TYPES:
            shapes = ", ".join(f"{entry.type} {entry.shape}" for entry in inputs)
            raise WeightsError(
                f"{self.source}: expected one input of floats (batch, 3, height, width), got {shapes}"
            )
        self.name, self.type = given.name, _TYPES[given.type]
        side = cfg.PERSON_DETECTOR.SHORT_SIDE or _SIDE
        # Dimensions that the file leaves open are names or None.
        batch, _, *size = (value if isinstance(value, int) else None for value in given.shape)
        self.batch = batch
        self.size = tuple(value or side for value in size)

    def _detect(self, frames: Sequence[np.ndarray]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        fitted = [_letterbox(frame, self.size) for frame in frames]
        pictures = np.stack([picture for picture, _, _ in fitted]).transpose(0, 3, 1, 2)
        pictures = np.ascontiguousarray(pictures, dtype=np.float32) / 255
        found = [result for chunk in self._chunks(pictures) for result in chunk]
        return [
            ((boxes - torch.tensor([*corner, *corner])) / scale, scores)
            for (boxes, scores), (_, scale, corner) in zip(found, fitted)
        ]

    def _chunks(self, pictures: np.ndarray) -> Iterator[list[Decoded]]:
        """What is found in the pictures (n, 3, H, W), as many at a time as the file takes."""
        step = self.batch or len(pictures)
        for first in range(0, len(pictures), step):
            part = pictures[first : first + step]
            padded = np.zeros((step, *part.shape[1:]), dtype=self.type)
            padded[: len(part)] = part
            yield self._run(padded)[: len(part)]

    def _run(self, batch: np.ndarray) -> list[Decoded]:
        try:
            output = self.session.run(None, {self.name: batch})[0]
        except Exception as error:  # onnxruntime's own kinds, which have no common base
            raise WeightsError(
                f"{self.source}: cannot take pictures of {batch.shape[3]} x {batch.shape[2]}: "
                f"{' '.join(str(error).split())[:300]}"
            ) from None
        values = torch.from_numpy(np.asarray(output, dtype=np.float32))
        if values.ndim == 2 and values.shape[1] == 7:
            return _numbered(values, len(batch))
        if values.ndim != 3 or len(values) != len(batch):
            raise self._unknown(values)
        decode = self._decoder(values)
        return [decode(rows) for rows in values]

    def _decoder(self, values: torch.Tensor) -> Callable[[torch.Tensor], Decoded]:
        """How to read an output (batch, a, b)."""
        layout, (_, a, b) = self.node.ONNX_LAYOUT, values.shape
        if layout == "auto":
            layout = "end_to_end" if b == 6 else "yolov8" if a < b else "yolov5"
        if layout == "end_to_end" and b == 6:
            return _end_to_end
        if layout == "yolov8" and a > 4:
            return lambda rows: _suppress(rows[:4].T, rows[4 + _PERSON], self.node)
        if layout == "yolov5" and b > 5:
            return lambda rows: _suppress(rows[:, :4], rows[:, 4] * rows[:, 5 + _PERSON], self.node)
        raise self._unknown(values)

    def _unknown(self, values: torch.Tensor) -> WeightsError:
        return WeightsError(
            f"{self.source}: its first output has the shape {tuple(values.shape)}; expected (batch, boxes, "
            "5 + classes) as of YOLOv5 and v7, (batch, 4 + classes, boxes) as of v8 and later, or with "
            "overlaps removed (batch, boxes, 6) or (boxes, 7); PERSON_DETECTOR.ONNX_LAYOUT is "
            f"'{self.node.ONNX_LAYOUT}'"
        )


def _open(source: str, device: torch.device) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError(
            "PERSON_DETECTOR.NAME: onnx needs onnxruntime, which `pip install 'vmae_det[onnx]'` installs"
        ) from None
    path = locate(source)
    providers = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, "CUDAExecutionProvider")
    elif device.type == "cuda":
        logger.warning("%s: runs on the CPU; pip install onnxruntime-gpu has it run on the GPU", path)
    try:
        return onnxruntime.InferenceSession(str(path), providers=providers)
    except Exception as error:  # onnxruntime's own kinds, which have no common base
        raise WeightsError(f"{path}: not an ONNX file: {' '.join(str(error).split())[:300]}") from None


def _letterbox(frame: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, float, tuple[int, int]]:
    """The frame (H, W, 3) in the middle of a grey picture of `size` (height, width), its aspect kept.

    Returns:
        The picture, the factor by which the frame was resized, and where its left top corner is (x, y).
    """
    height, width = frame.shape[:2]
    scale = min(size[0] / height, size[1] / width)
    new = (max(round(width * scale), 1), max(round(height * scale), 1))
    picture = np.full((*size, 3), _BORDER, dtype=np.uint8)
    left, top = (size[1] - new[0]) // 2, (size[0] - new[1]) // 2
    picture[top : top + new[1], left : left + new[0]] = cv2.resize(frame, new)
    return picture, scale, (left, top)


def _suppress(boxes: torch.Tensor, scores: torch.Tensor, node: CfgNode) -> Decoded:
    """Of boxes (N, 4) as centre and size, the good ones as corners, less those that overlap a better one."""
    kept = scores >= node.SCORE
    boxes, scores = box_convert(boxes[kept], "cxcywh", "xyxy"), scores[kept]
    rows = nms(boxes, scores, node.NMS_IOU)
    return boxes[rows], scores[rows]


def _end_to_end(rows: torch.Tensor) -> Decoded:
    """Of rows x1, y1, x2, y2, score, class."""
    people = rows[rows[:, 5].round() == _PERSON]
    return people[:, :4], people[:, 4]


def _numbered(rows: torch.Tensor, pictures: int) -> list[Decoded]:
    """Of rows picture, x1, y1, x2, y2, class, score, as YOLOv7 writes them."""
    people = rows[rows[:, 5].round() == _PERSON]
    return [(own[:, 1:5], own[:, 6]) for own in (people[people[:, 0].round() == k] for k in range(pictures))]
