"""Attention weights of a backbone for visualization. The fused attention kernel does not return them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from vmae_det.modeling.backbones.blocks import Block
from vmae_det.utils.errors import ConfigError

_CHUNK = 512  # queries of one head whose attention weights are in memory at a time


@torch.no_grad()
def attention_maps(
    backbone: nn.Module, video: torch.Tensor, weights: torch.Tensor, method: str = "rollout"
) -> torch.Tensor:
    """Return the attention of weighted query tokens to each token of a clip: (R, N), rows of sum 1.

    "last" is the mean over the heads of the last block. "rollout" multiplies (I + A) / 2 of all blocks, from
    the last to the first; I represents the residual connection (Abnar and Zuidema, 2020). Attention to a
    class token is dropped at the end, and the rows are scaled to a sum of 1 again.

    Args:
        backbone: has `blocks`, modules of class `Block`.
        video: normalized float (1, 3, T, H, W).
        weights: (R, N), the weight of each query token, ordered (t, h, w); rows of sum 1.
        method: "last" or "rollout".

    Raises:
        ConfigError: the backbone drops tokens.
    """
    keep_rate = getattr(backbone, "keep_rate", 1)
    if keep_rate < 1:
        raise ConfigError(
            f"MODEL.BACKBONE.TOKEN_KEEP_RATE: {keep_rate}, but attention maps need all tokens; set it to 1.0"
        )
    inputs: list[tuple[torch.Tensor, ...]] = []  # of each block: tokens (1, N, C), and any rotation
    with _record_inputs(backbone.blocks, inputs):
        backbone(video)
    extra = getattr(backbone, "num_extra_tokens", 0)
    flow = F.pad(weights, (extra, 0))  # (R, extra + N)
    if method == "last":
        flow = _weighted_attention(backbone.blocks[-1], flow, *inputs[-1])
    else:
        for block, args in zip(reversed(backbone.blocks), reversed(inputs)):
            flow = (flow + _weighted_attention(block, flow, *args)) / 2
    flow = flow[:, extra:]
    return flow / flow.sum(dim=1, keepdim=True) if extra else flow


def box_query_weights(
    box: torch.Tensor, grid: tuple[int, int, int], patch_size: int, time_slice: int
) -> torch.Tensor:
    """Return weights (N,) of sum 1 for the tokens of one time slice, by their overlap with a box.

    Args:
        box: (4,) xyxy in pixels of the clip. It overlaps the clip.
        grid: tokens (t, h, w) of the clip.
        time_slice: index of the time slice.
    """
    overlaps = []
    for size, low, high in ((grid[1], box[1], box[3]), (grid[2], box[0], box[2])):
        edges = torch.arange(size + 1, device=box.device) * patch_size
        overlaps.append((edges[1:].minimum(high) - edges[:-1].maximum(low)).clamp(min=0))
    area = torch.outer(*overlaps)  # (h, w)
    weights = area.new_zeros(grid)
    weights[time_slice] = area / area.sum()
    return weights.flatten()


@contextmanager
def _record_inputs(blocks: nn.ModuleList, inputs: list[tuple[torch.Tensor, ...]]) -> Iterator[None]:
    """Append the arguments of each block to a list."""
    hooks = [block.register_forward_pre_hook(lambda _, args: inputs.append(args)) for block in blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _weighted_attention(
    block: Block, weights: torch.Tensor, x: torch.Tensor, rotation: torch.Tensor | None = None
) -> torch.Tensor:
    """Multiply weights (R, N) by the attention of a block on x (1, N, C), averaged over heads: (R, N)."""
    query, key, _ = block.attn.project(block.norm1(x), rotation)
    query, key = query[0].float(), key[0].float()  # (heads, N, C / heads)
    scale = query.shape[-1] ** -0.5
    used = weights.any(dim=0).nonzero()[:, 0]  # indices of the queries with weight
    result = torch.zeros_like(weights)
    for head_query, head_key in zip(query, key):
        for chunk in used.split(_CHUNK):
            head_attention = (head_query[chunk] * scale @ head_key.T).softmax(dim=1)  # (chunk, N)
            result += weights[:, chunk] @ head_attention
    return result / len(query)
