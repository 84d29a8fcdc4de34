"""DATASETS.TRAIN_FRACTION: train on a fixed part of the videos, for studies of data efficiency."""

from __future__ import annotations

import logging

import numpy as np

logger = logging.getLogger(__name__)


def choose_videos(fraction: float, classes: np.ndarray, name: str) -> np.ndarray:
    """Return the videos to train on, as ascending indices (n,).

    From each class, the same fraction is chosen, at least one video. The choice depends only on the classes
    and their order in the dataset. A larger fraction contains all videos of a smaller one.

    Args:
        fraction: in (0, 1].
        classes: class of each video (N,); all 0 if they have none.
        name: of the dataset, for the log.
    """
    chosen = []
    for number in np.unique(classes):
        members = np.flatnonzero(classes == number)
        count = max(round(fraction * len(members)), 1)
        chosen.append(np.random.default_rng((0, int(number))).permutation(members)[:count])
    videos = np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, dtype=np.int64)
    logger.info("%s: DATASETS.TRAIN_FRACTION %g: %d of %d videos", name, fraction, len(videos), len(classes))
    return videos
