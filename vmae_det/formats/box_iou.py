"""Intersection over union (IoU) of pairs of boxes."""

from __future__ import annotations

import numpy as np


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the IoU (P,) of boxes (P, 4) and (P, 4), of which at most one is empty.

    Operations have the order of the evaluators of AVA, so that results are equal to the last bit.
    """
    sides = np.maximum(0.0, np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]))
    # mmaction2 computes in float32 up to here, and in float64 from here on.
    intersection = sides.astype(np.float64, copy=False).prod(axis=1)
    areas = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1)
    return intersection / (areas - intersection)
