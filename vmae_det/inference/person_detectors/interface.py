"""What every person detector is, and how one is made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch

from vmae_det.config import CfgNode
from vmae_det.engine.setup import choose_device
from vmae_det.utils.errors import WeightsError
from vmae_det.utils.registry import Registry, lookup

PERSON_DETECTOR_REGISTRY = Registry("PERSON_DETECTOR")
PERSON_DETECTOR_REGISTRY.__doc__ = """
Person detectors: called with the config and a torch.device, each gives a PersonDetector.
"""

RANDOM = "random"  # PERSON_DETECTOR.WEIGHTS for a network that has learned nothing


class PersonDetector(ABC):
    """Finds the people in pictures.

    Args:
        cfg: its node PERSON_DETECTOR says what is kept of what was found.
        device: where the network runs.
    """

    def __init__(self, cfg: CfgNode, device: torch.device) -> None:
        self.node = cfg.PERSON_DETECTOR
        self.device = device

    def detect(self, frames: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """The people in each frame: boxes float32 xyxy in pixels (N, 4), scores float32 (N,), falling.

        No box reaches outside its frame, none is empty, no score is below PERSON_DETECTOR.SCORE, and there
        are no more than PERSON_DETECTOR.MAX_PEOPLE.

        Args:
            frames: uint8 RGB (H, W, 3), of any sizes.
        """
        if not len(frames):
            return []
        with torch.inference_mode():
            found = self._detect(frames)
        return [self._keep(frame, boxes, scores) for frame, (boxes, scores) in zip(frames, found)]

    @abstractmethod
    def _detect(self, frames: Sequence[np.ndarray]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Boxes (N, 4) in pixels of each frame and scores (N,) of persons, overlaps removed."""

    def _keep(
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
    """The detector that PERSON_DETECTOR.NAME names, with its weights.

    Args:
        device: None takes the one that MODEL.DEVICE asks for.

    Raises:
        ConfigError: there is none of that name, or what it needs is not installed.
        WeightsError: its weights cannot be had, or do not fit.
    """
    make = lookup(PERSON_DETECTOR_REGISTRY, cfg.PERSON_DETECTOR.NAME, "PERSON_DETECTOR.NAME")
    return make(cfg, device or choose_device(cfg))


def no_weights(name: str, where: str, reason: object) -> WeightsError:
    """The error of weights that cannot be had from the web, with what else one can do."""
    return WeightsError(
        f"the weights of the person detector {name} cannot be had from {where} "
        f"({' '.join(str(reason).split())[:200]}); give the people's boxes by --boxes FILE, or weights by "
        "PERSON_DETECTOR.WEIGHTS FILE, or take the whole frame as one person by --whole-frame"
    )


def as_tensor(frame: np.ndarray, device: torch.device) -> torch.Tensor:
    """A frame uint8 (H, W, 3) as uint8 (3, H, W) on a device."""
    return torch.from_numpy(np.ascontiguousarray(frame)).to(device).permute(2, 0, 1)
