"""Who is who from one keyframe to the next."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torchvision.ops import box_iou

from vmae_det.inference.tracking import MIN_OVERLAP


class Tracker(Protocol):
    """Gives each person a number, keyframe after keyframe."""

    def update(self, boxes: np.ndarray, scores: np.ndarray, time: float) -> np.ndarray:
        """Numbers from 1 on, int64 (N,), of the people of the next keyframe.

        Args:
            boxes: (N, 4) xyxy pixels.
            scores: (N,).
            time: seconds.
        """


class OverlapTracker:
    """Links the boxes of consecutive keyframes that overlap most, greedily."""

    def __init__(self) -> None:
        self._boxes, self._ids = np.zeros((0, 4)), np.zeros(0, dtype=np.int64)
        self._count = 0

    def update(self, boxes: np.ndarray, scores: np.ndarray, time: float) -> np.ndarray:
        """As of Tracker; scores and time count for nothing."""
        ids = np.zeros(len(boxes), dtype=np.int64)
        boxes = boxes.astype(np.float64)
        overlap = box_iou(torch.as_tensor(self._boxes), torch.as_tensor(boxes)).numpy()
        while overlap.size and overlap.max() > MIN_OVERLAP:
            before, now = np.unravel_index(overlap.argmax(), overlap.shape)
            ids[now] = self._ids[before]
            overlap[before], overlap[:, now] = -1, -1
        new = ids == 0
        ids[new] = self._count + 1 + np.arange(new.sum())
        self._count += int(new.sum())
        self._boxes, self._ids = boxes, ids
        return ids
