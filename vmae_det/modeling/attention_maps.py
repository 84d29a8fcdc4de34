"""Where tokens look: the attention that the fused kernel works out and does not give."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from vmae_det.modeling.backbone import Block

_CHUNK = 512  # queries whose attention is held at a time, for one head


@torch.no_grad()
def attention_maps(
    backbone: nn.Module, video: torch.Tensor, weights: torch.Tensor, method: str = "rollout"
) -> torch.Tensor:
    """How much the tokens that `weights` picks attend to each token of a clip: (R, N), rows of sum 1.

    "last" is the mean over the heads of the last block. "rollout" follows it down through all blocks, each
    with the half of the residual path: products of (I + A) / 2 (Abnar and Zuidema, 2020).

    Args:
        backbone: with `blocks` of `Block`.
        video: normalised float (1, 3, T, H, W).
        weights: (R, N), of tokens ordered (t, h, w); rows of sum 1.
        method: "last" or "rollout".
    """
    inputs: list[torch.Tensor] = []
    with _keep_inputs(backbone.blocks, inputs):
        backbone(video)
    if method == "last":
        return _attend(backbone.blocks[-1], inputs[-1], weights)
    flow = weights
    for block, x in zip(reversed(backbone.blocks), reversed(inputs)):
        flow = (flow + _attend(block, x, flow)) / 2
    return flow


def box_query_weights(
    box: torch.Tensor, grid: tuple[int, int, int], patch_size: int, slice_: int
) -> torch.Tensor:
    """Weights (N,) of sum 1 of the tokens of one time slice, by the area that each shares with a box.

    Args:
        box: xyxy in pixels of the clip, (4,), with area inside of it.
        grid: tokens (t, h, w) of the clip.
        slice_: number of the time slice.
    """
    shares = []
    for size, low, high in ((grid[1], box[1], box[3]), (grid[2], box[0], box[2])):
        edges = torch.arange(size + 1, device=box.device) * patch_size
        shares.append((edges[1:].minimum(high) - edges[:-1].maximum(low)).clamp(min=0))
    area = torch.outer(*shares)
    weights = area.new_zeros(grid)
    weights[slice_] = area / area.sum()
    return weights.flatten()


@contextmanager
def _keep_inputs(blocks: nn.ModuleList, inputs: list[torch.Tensor]) -> Iterator[None]:
    """Put what each block is given into a list."""
    hooks = [block.register_forward_pre_hook(lambda _, given: inputs.append(given[0])) for block in blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _attend(block: Block, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """weights (R, N) times the attention of a block on x (1, N, C), mean over its heads: (R, N)."""
    attention = block.attn
    query, key = attention.qkv(block.norm1(x))[0].unflatten(-1, (3, attention.num_heads, -1)).unbind(1)[:2]
    query, key = query.transpose(0, 1).float(), key.transpose(0, 1).float()  # heads, N, C / heads
    scale = query.shape[-1] ** -0.5
    asking = weights.any(dim=0).nonzero()[:, 0]
    result = torch.zeros_like(weights)
    for head_query, head_key in zip(query, key):
        for some in asking.split(_CHUNK):
            look = (head_query[some] * scale @ head_key.T).softmax(dim=1)
            result += weights[:, some] @ look
    return result / attention.num_heads
