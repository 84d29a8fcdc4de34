"""Decoded clips kept in memory, for small datasets that come back to the same clips every epoch."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import numpy as np


class ClipCache:
    """Keeps decoded frames until it is full; what comes later is decoded each time.

    Args:
        megabytes: of each loader process; 0 keeps nothing.
    """

    def __init__(self, megabytes: int) -> None:
        self.free = megabytes * 2**20
        self._clips: dict[Hashable, np.ndarray] = {}

    def get(self, key: Hashable, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """The frames under `key`, decoded if they are not there; they are shared and not to be changed."""
        frames = self._clips.get(key)
        if frames is None:
            frames = decode()
            if frames.nbytes <= self.free:
                self.free -= frames.nbytes
                self._clips[key] = frames
        return frames
