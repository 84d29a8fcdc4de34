"""MiniAVA, the built-in synthetic dataset in AVA's formats: generated on first use, then cached.

May import: utils. Everything else is standard library, NumPy, OpenCV and PyAV.
"""

from vmae_det.mini_ava.generate import FULL, MANIFEST, TINY, MiniAvaSize, make_mini_ava

__all__ = ["FULL", "MANIFEST", "TINY", "MiniAvaSize", "make_mini_ava"]
