"""Random numbers that depend only on the seeds of the samples.

A sample gets the same mask and jitter on every device, in every batch, and with any number of processes.
"""

from __future__ import annotations

import torch

_GOLDEN_GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)  # the constants of SplitMix64 as signed 64-bit numbers
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def uniform(seeds: torch.Tensor, count: int, first: torch.Tensor | None = None) -> torch.Tensor:
    """Return float32 numbers in [0, 1), shape (B, count), from int64 seeds (B,).

    SplitMix64 (Steele, Lea and Flood, 2014): the k-th number is a hash of seed + k * gamma.

    Args:
        first: int64 (B,), how many numbers of each seed to skip.
    """
    steps = torch.arange(1, count + 1, device=seeds.device, dtype=torch.int64)
    if first is not None:
        steps = first[:, None] + steps
    z = seeds[:, None] + steps * _GOLDEN_GAMMA
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    z = z ^ _shift_right(z, 31)
    return _shift_right(z, 40).to(torch.float32) * 2.0**-24


def _shift_right(z: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical shift: `>>` on int64 copies the sign bit."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
