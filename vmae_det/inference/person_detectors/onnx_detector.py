"""Person detectors in ONNX files, such as exported YOLO and DETR models: input, inference, NMS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torchvision.ops import nms

from vmae_det.checkpoint.locate import locate
from vmae_det.config import CfgNode
from vmae_det.inference.onnx_session import import_onnx_packages, open_session
from vmae_det.inference.person_detectors.interface import PERSON_DETECTOR_REGISTRY, PersonDetector
from vmae_det.inference.person_detectors.onnx_box_format import BoxDecoder, InferredFormat
from vmae_det.inference.person_detectors.onnx_metadata import parse_onnx_metadata
from vmae_det.inference.person_detectors.onnx_outputs import OutputParser
from vmae_det.utils.errors import ConfigError, UserError, WeightsError

_DEFAULT_SIDE = 640  # for files with dynamic height and width and no size in the metadata
_PADDING_GRAY = 114
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
_LAYOUTS_WITHOUT_NMS = ("yolov5", "yolov8")

BoxesAndScores = tuple[torch.Tensor, torch.Tensor]  # boxes xyxy (N, 4) in pixels of the input, scores (N,)


@PERSON_DETECTOR_REGISTRY.register_as("onnx")
class OnnxDetector(PersonDetector):
    """The ONNX file of PERSON_DETECTOR.WEIGHTS, which takes RGB images.

    Its input is (batch, 3, H, W) or (batch, H, W, 3), floats in [0, 1] or uint8.
    """

    def __init__(self, cfg: CfgNode, device: torch.device) -> None:
        super().__init__(cfg, device)
        self.source = cfg.PERSON_DETECTOR.WEIGHTS
        if not self.source:
            raise ConfigError("PERSON_DETECTOR.WEIGHTS: empty; the detector 'onnx' needs an ONNX file")
        self.session = _open_detector(self.source, device)
        metadata = parse_onnx_metadata(self.session.get_modelmeta().custom_metadata_map, self.source)
        inputs = self.session.get_inputs()
        # Dynamic dimensions are strings or None.
        shape = [value if isinstance(value, int) else None for value in inputs[0].shape]
        channel_axes = [axis for axis in (1, 3) if len(shape) == 4 and shape[axis] == 3]
        if len(inputs) > 1 or not channel_axes or inputs[0].type not in _TYPES:
            shapes = ", ".join(f"{entry.type} {entry.shape}" for entry in inputs)
            raise WeightsError(
                f"{self.source}: expected one input of images, (batch, 3, height, width) or (batch, "
                f"height, width, 3) of floats or uint8, got {shapes}"
            )
        self.input_name, self.input_type = inputs[0].name, _TYPES[inputs[0].type]
        self.channels_first = channel_axes[0] == 1
        self.batch_size = shape[0]
        side = cfg.PERSON_DETECTOR.SHORT_SIDE
        preferred = (side, side) if side else metadata.size or (_DEFAULT_SIDE, _DEFAULT_SIDE)
        stride = metadata.stride
        rounded = [-(-value // stride) * stride for value in preferred]
        fixed = shape[2:] if self.channels_first else shape[1:3]
        self.size = tuple(value or other for value, other in zip(fixed, rounded))  # height, width
        layout, inferred = self.node.ONNX_LAYOUT, InferredFormat(self.source)
        self.parser = OutputParser(inferred, metadata, layout, self.size)
        self.box_decoder = BoxDecoder(inferred, self.size, self.node.SCORE, layout != "auto")

    def _detect(self, frames: Sequence[np.ndarray]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        letterboxed = [_letterbox(frame, self.size) for frame in frames]
        step = self.batch_size or len(frames)
        result = []
        for start in range(0, len(frames), step):
            part = letterboxed[start : start + step]
            regions = [
                (left, top, left + frame.shape[1] * scale, top + frame.shape[0] * scale)
                for frame, (_, scale, (left, top)) in zip(frames[start:], part)
            ]
            images = np.zeros((step, *self.size, 3), dtype=np.uint8)
            images[: len(part)] = [image for image, _, _ in part]
            for (boxes, scores), (_, scale, corner) in zip(self._detect_batch(images, regions), part):
                result.append(((boxes - torch.tensor([*corner, *corner])) / scale, scores))
        return result

    def _detect_batch(
        self, images: np.ndarray, regions: Sequence[Sequence[float]]
    ) -> Iterator[BoxesAndScores]:
        """Yield the persons of each image.

        Args:
            images: uint8 (batch, H, W, 3); images beyond the length of `regions` pad the batch.
            regions: xyxy pixels of the frame within each image.
        """
        layout, detections = self.parser.parse(self._run(images, len(regions)), len(regions))
        decoded = self.box_decoder.to_pixels(layout, detections, regions)
        for boxes, raw in zip(decoded, detections):
            keep = raw.is_person & (raw.scores >= self.node.SCORE)
            boxes, scores = boxes[keep], raw.scores[keep]
            if layout in _LAYOUTS_WITHOUT_NMS:
                kept = nms(boxes, scores, self.node.NMS_IOU)
                boxes, scores = boxes[kept], scores[kept]
            yield boxes, scores

    def _run(self, images: np.ndarray, count: int) -> dict[str, torch.Tensor]:
        """Return the outputs by name; those with a batch dimension are cut to the first `count` images."""
        if self.channels_first:
            images = images.transpose(0, 3, 1, 2)
        if self.input_type is not np.uint8:
            images = (images.astype(np.float32) / 255).astype(self.input_type)
        try:
            outputs = self.session.run(None, {self.input_name: np.ascontiguousarray(images)})
        except Exception as error:  # the exceptions of onnxruntime have no common base class
            raise WeightsError(
                f"{self.source}: cannot run on {len(images)} images of {self.size[1]} x {self.size[0]}: "
                f"{' '.join(str(error).split())[:300]}"
            ) from None
        result = {}
        for entry, values in zip(self.session.get_outputs(), outputs):
            if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
                raise WeightsError(
                    f"{self.source}: its output '{entry.name}' is {entry.type}, expected numbers"
                )
            values = torch.from_numpy(values.astype(np.float32 if values.dtype.kind == "f" else np.int64))
            padded = count < len(images) == (len(values) if values.ndim else 0)
            rows_of_all_images = values.ndim == 2 and values.shape[1] == 7
            result[entry.name] = values[:count] if padded and not rows_of_all_images else values
        return result


def _open_detector(source: str, device: torch.device) -> Any:
    try:
        import_onnx_packages("onnxruntime")
    except UserError:
        raise ConfigError(
            "PERSON_DETECTOR.NAME: onnx needs onnxruntime, which is not installed: "
            "pip install 'vmae_det[onnx]'"
        ) from None
    return open_session(locate(source), device)


def _letterbox(frame: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, float, tuple[int, int]]:
    """Resize a frame (H, W, 3) to fit into `size` (height, width), and center it on gray padding.

    Returns:
        The image, the factor by which the frame was resized, and the position (x, y) of its top left corner.
    """
    height, width = frame.shape[:2]
    scale = min(size[0] / height, size[1] / width)
    resized = (max(round(width * scale), 1), max(round(height * scale), 1))
    image = np.full((*size, 3), _PADDING_GRAY, dtype=np.uint8)
    left, top = (size[1] - resized[0]) // 2, (size[0] - resized[1]) // 2
    image[top : top + resized[1], left : left + resized[0]] = cv2.resize(frame, resized)
    return image, scale, (left, top)
