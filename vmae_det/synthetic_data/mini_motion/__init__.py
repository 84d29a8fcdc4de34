"""MiniMotion: classification by motion, after Something-Something V2."""

from vmae_det.synthetic_data.mini_motion.generate import (
    FULL,
    MANIFEST,
    TINY,
    MiniMotionSize,
    make_mini_motion,
)

__all__ = ["FULL", "MANIFEST", "TINY", "MiniMotionSize", "make_mini_motion"]
