"""Weights of classes in the loss, for training sets in which some classes are rare (SOLVER.CLASS_BALANCE)."""

from __future__ import annotations

import numpy as np

_EXPONENTS = {"none": 0.0, "inverse_sqrt": 0.5, "inverse": 1.0}


def class_weights(counts: np.ndarray, balance: str, by_sample: bool) -> np.ndarray:
    """Return the weight of each class (C,), float64.

    Args:
        counts: training labels of each class (C,). A class without labels gets the weight 1.
        balance: value of SOLVER.CLASS_BALANCE.
        by_sample: scale the weights to a mean of 1 over the labels, as for a loss with one class per sample.
            False: over the classes that have labels, as for a loss that averages over classes.
    """
    counts = np.asarray(counts, dtype=np.float64)
    weights, present = np.ones(len(counts)), counts > 0
    weights[present] = counts[present] ** -_EXPONENTS[balance]
    if present.any():
        mean = np.average(weights[present], weights=counts[present] if by_sample else None)
        weights[present] /= mean
    return weights
