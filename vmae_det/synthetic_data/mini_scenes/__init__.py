"""MiniScenes: classification by appearance and motion, after Kinetics."""

from vmae_det.synthetic_data.mini_scenes.generate import (
    FULL,
    MANIFEST,
    TINY,
    MiniScenesSize,
    make_mini_scenes,
)

__all__ = ["FULL", "MANIFEST", "TINY", "MiniScenesSize", "make_mini_scenes"]
