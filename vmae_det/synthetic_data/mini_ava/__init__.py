"""MiniAVA: people and their actions, in AVA's formats."""

from vmae_det.synthetic_data.mini_ava.generate import FULL, MANIFEST, TINY, MiniAvaSize, make_mini_ava

__all__ = ["FULL", "MANIFEST", "TINY", "MiniAvaSize", "make_mini_ava"]
