"""The interface and the registry of person detectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from vmae_det.config import CfgNode
from vmae_det.engine.setup import setup_device
from vmae_det.formats.person_boxes import PERSON_NAMES
from vmae_det.utils.errors import WeightsError
from vmae_det.utils.registry import Registry, lookup

PERSON_DETECTOR_REGISTRY = Registry("PERSON_DETECTOR")
PERSON_DETECTOR_REGISTRY.__doc__ = """
Person detectors: called with the config and a torch.device, each returns a PersonDetector.
"""

DEFAULT_DETECTOR = "fasterrcnn_resnet50_fpn_v2"  # PERSON_DETECTOR.NAME auto
RANDOM = "random"  # PERSON_DETECTOR.WEIGHTS for randomly initialized weights


class PersonDetector(ABC):
    """Detects persons in frames.

    Args:
        cfg: config whose PERSON_DETECTOR group has the thresholds.
        device: device of the network.
    """

    def __init__(self, cfg: CfgNode, device: torch.device) -> None:
        self.node = cfg.PERSON_DETECTOR
        self.device = device

    def detect(self, frames: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Detect the persons in each frame.

        Boxes are clipped to the frame and are not empty. Scores are at least PERSON_DETECTOR.SCORE. At most
        PERSON_DETECTOR.MAX_PEOPLE boxes are returned.

        Args:
            frames: uint8 RGB (H, W, 3), of any sizes.

        Returns:
            for each frame, boxes float32 (N, 4), xyxy pixels, and scores float32 (N,), descending.
        """
        if not len(frames):
            return []
        with torch.inference_mode():
            detections = self._detect(frames)
        return [self._filter(frame, boxes, scores) for frame, (boxes, scores) in zip(frames, detections)]

    @abstractmethod
    def _detect(self, frames: Sequence[np.ndarray]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return boxes (N, 4) in pixels of each frame and scores (N,) of persons, after NMS."""

    def _filter(
        self, frame: np.ndarray, boxes: torch.Tensor, scores: torch.Tensor
    ) -> tuple[np.ndarray, np.ndarray]:
        height, width = frame.shape[:2]
        boxes = boxes.float().cpu().numpy().reshape(-1, 4)
        scores = scores.float().cpu().numpy().reshape(-1)
        boxes = np.clip(boxes, 0, np.array([width, height, width, height], dtype=np.float32))
        good = (boxes[:, 2:] > boxes[:, :2]).all(axis=1) & (scores >= self.node.SCORE)
        boxes, scores = boxes[good], scores[good]
        order = np.argsort(-scores, kind="stable")[: self.node.MAX_PEOPLE]
        return boxes[order], np.minimum(scores[order], 1.0)


def build_person_detector(cfg: CfgNode, device: torch.device | None = None) -> PersonDetector:
    """Build the detector that PERSON_DETECTOR.NAME names, with its weights. auto is torchvision's default.

    Args:
        device: None: the device that MODEL.DEVICE selects.

    Raises:
        ConfigError: there is no detector of that name, or a package that it needs is not installed.
        WeightsError: its weights are not available, or do not fit.
    """
    name = cfg.PERSON_DETECTOR.NAME
    name = DEFAULT_DETECTOR if name == "auto" else name
    build = lookup(PERSON_DETECTOR_REGISTRY, name, "PERSON_DETECTOR.NAME")
    return build(cfg, device or setup_device(cfg))


def person_classes(names: Mapping[int, str]) -> list[int]:
    """Return the ids of the classes whose name means a person."""
    return [class_id for class_id, name in names.items() if name.strip().lower() in PERSON_NAMES]


def download_error(name: str, url: str, reason: object) -> WeightsError:
    """Return the error for weights that cannot be downloaded, which lists the alternatives."""
    return WeightsError(
        f"the weights of the person detector {name} cannot be downloaded from {url} "
        f"({' '.join(str(reason).split())[:200]}); pass person boxes by --boxes FILE, or weights by "
        "PERSON_DETECTOR.WEIGHTS FILE, or use the whole frame as one person by --whole-frame, or train a "
        "person head, so that the model finds the people itself (docs/guides/one_stage.md)"
    )
