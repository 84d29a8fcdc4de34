"""MiniAVA, the built-in dataset: generated once, cached, in exactly the formats of AVA."""

from vmae_det.mini_ava.generate import FULL, MANIFEST, TINY, MiniAvaSize, make_mini_ava

__all__ = ["FULL", "MANIFEST", "TINY", "MiniAvaSize", "make_mini_ava"]
