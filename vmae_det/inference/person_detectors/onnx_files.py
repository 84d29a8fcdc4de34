"""Person detectors in ONNX files, as the YOLOs and DETRs are exported."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torchvision.ops import nms

from vmae_det.checkpoint.locate import locate
from vmae_det.config import CfgNode
from vmae_det.inference.person_detectors.interface import PERSON_DETECTOR_REGISTRY, PersonDetector
from vmae_det.inference.person_detectors.onnx_boxes import BoxFormat, Findings
from vmae_det.inference.person_detectors.onnx_metadata import parse_onnx_metadata
from vmae_det.inference.person_detectors.onnx_outputs import OutputReader
from vmae_det.utils.errors import ConfigError, WeightsError

logger = logging.getLogger(__name__)

_SIDE = 640  # of a file that takes pictures of any size and names none
_BORDER = 114  # grey that fills what a picture leaves free
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
_OVERLAPPING = ("yolov5", "yolov8")  # layouts from which overlaps have not been removed

Decoded = tuple[torch.Tensor, torch.Tensor]  # boxes xyxy (N, 4) in pixels of the input, scores (N,)


@PERSON_DETECTOR_REGISTRY.register_as("onnx")
class OnnxDetector(PersonDetector):
    """An ONNX file, by PERSON_DETECTOR.WEIGHTS, that takes RGB pictures.

    Its input is (batch, 3, H, W) or (batch, H, W, 3), floats in [0, 1] or uint8.
    """

    def __init__(self, cfg: CfgNode, device: torch.device) -> None:
        super().__init__(cfg, device)
        self.source = cfg.PERSON_DETECTOR.WEIGHTS
        if not self.source:
            raise ConfigError("PERSON_DETECTOR.WEIGHTS: empty; the detector 'onnx' needs an ONNX file here")
        self.session = _open(self.source, device)
        metadata = parse_onnx_metadata(self.session.get_modelmeta().custom_metadata_map, self.source)
        inputs = self.session.get_inputs()
        # Dimensions that the file leaves open are names or None.
        shape = [value if isinstance(value, int) else None for value in inputs[0].shape]
        channels = [axis for axis in (1, 3) if len(shape) == 4 and shape[axis] == 3]
        if len(inputs) > 1 or not channels or inputs[0].type not in _TYPES:
            shapes = ", ".join(f"{entry.type} {entry.shape}" for entry in inputs)
            raise WeightsError(
                f"{self.source}: expected one input of pictures, (batch, 3, height, width) or (batch, "
                f"height, width, 3) of floats or uint8, got {shapes}"
            )
        self.name, self.type = inputs[0].name, _TYPES[inputs[0].type]
        self.channels_first = channels[0] == 1
        self.batch = shape[0]
        side = cfg.PERSON_DETECTOR.SHORT_SIDE
        usual = (side, side) if side else metadata.size or (_SIDE, _SIDE)
        multiple = metadata.stride
        free = [-(-value // multiple) * multiple for value in usual]
        fixed = shape[2:] if self.channels_first else shape[1:3]
        self.size = tuple(value or other for value, other in zip(fixed, free))
        layout, findings = self.node.ONNX_LAYOUT, Findings(self.source)
        self.reader = OutputReader(findings, metadata, layout, self.size)
        self.boxes = BoxFormat(findings, self.size, self.node.SCORE, layout != "auto")

    def _detect(self, frames: Sequence[np.ndarray]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        fitted = [_letterbox(frame, self.size) for frame in frames]
        step = self.batch or len(frames)
        result = []
        for first in range(0, len(frames), step):
            part = fitted[first : first + step]
            areas = [
                (left, top, left + frame.shape[1] * scale, top + frame.shape[0] * scale)
                for frame, (_, scale, (left, top)) in zip(frames[first:], part)
            ]
            pictures = np.zeros((step, *self.size, 3), dtype=np.uint8)
            pictures[: len(part)] = [picture for picture, _, _ in part]
            for (boxes, scores), (_, scale, corner) in zip(self._decode(pictures, areas), part):
                result.append(((boxes - torch.tensor([*corner, *corner])) / scale, scores))
        return result

    def _decode(self, pictures: np.ndarray, areas: Sequence[Sequence[float]]) -> Iterator[Decoded]:
        """The people of each picture.

        Args:
            pictures: uint8 (batch, H, W, 3); those beyond `areas` fill the batch.
            areas: where in each picture its frame lies, xyxy pixels.
        """
        layout, found = self.reader.read(self._run(pictures, len(areas)), len(areas))
        boxes = self.boxes.to_pixels(layout, [(rows.boxes, rows.scores) for rows in found], areas)
        for own, rows in zip(boxes, found):
            people = rows.people & (rows.scores >= self.node.SCORE)
            own, scores = own[people], rows.scores[people]
            if layout in _OVERLAPPING:
                kept = nms(own, scores, self.node.NMS_IOU)
                own, scores = own[kept], scores[kept]
            yield own, scores

    def _run(self, pictures: np.ndarray, count: int) -> dict[str, torch.Tensor]:
        """The outputs by name, of the first `count` pictures where an output tells them apart."""
        if self.channels_first:
            pictures = pictures.transpose(0, 3, 1, 2)
        if self.type is not np.uint8:
            pictures = (pictures.astype(np.float32) / 255).astype(self.type)
        try:
            outputs = self.session.run(None, {self.name: np.ascontiguousarray(pictures)})
        except Exception as error:  # onnxruntime's own kinds, which have no common base
            raise WeightsError(
                f"{self.source}: cannot take {len(pictures)} pictures of {self.size[1]} x {self.size[0]}: "
                f"{' '.join(str(error).split())[:300]}"
            ) from None
        result = {}
        for entry, values in zip(self.session.get_outputs(), outputs):
            if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
                raise WeightsError(f"{self.source}: its output '{entry.name}' is {entry.type}, not numbers")
            values = torch.from_numpy(values.astype(np.float32 if values.dtype.kind == "f" else np.int64))
            filled = count < len(pictures) == (len(values) if values.ndim else 0)
            rows_of_all = values.ndim == 2 and values.shape[1] == 7
            result[entry.name] = values[:count] if filled and not rows_of_all else values
        return result


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
