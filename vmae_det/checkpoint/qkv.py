"""Queries, keys and values: one `qkv` in our models, three parameters in some files."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from vmae_det.utils.errors import WeightsError

_PARTS = ("query", "key", "value")


def fuse_attention(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`attn.query`, `attn.key` and `attn.value` become one `attn.qkv`; keys without a bias get zeros.

    Parts that are incomplete or of unlike shapes stay as they are.
    """
    fused = dict(weights)
    for name in weights:
        for end in ("weight", "bias"):
            prefix = name.removesuffix(f"attn.query.{end}")
            if prefix == name:
                continue
            parts = [weights.get(f"{prefix}attn.{part}.{end}") for part in _PARTS]
            if end == "bias" and parts[1] is None:
                parts[1] = torch.zeros_like(parts[0])
            if any(part is None or not part.ndim or part.shape != parts[0].shape for part in parts):
                continue
            fused[f"{prefix}attn.qkv.{end}"] = torch.cat(parts)
            for part in _PARTS:
                fused.pop(f"{prefix}attn.{part}.{end}", None)
    return fused


def split_attention(
    weights: dict[str, torch.Tensor], keep: Callable[[str], bool]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors, each `attn.qkv` that is not to `keep` as its three parts.

    Raises:
        WeightsError: its length is not a multiple of three.
    """
    for name, value in weights.items():
        prefix, fused, end = name.rpartition("attn.qkv.")
        if not fused or keep(name):
            yield name, value
            continue
        if not value.ndim or len(value) % 3:
            raise WeightsError(f"{name}: expected queries, keys and values, got {tuple(value.shape)}")
        for part, rows in zip(_PARTS, value.chunk(3)):
            yield f"{prefix}attn.{part}.{end}", rows
