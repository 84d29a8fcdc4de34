"""Softmax attention by PyTorch's fused kernel, or by matrix multiplications (GEMM) on some CPUs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from vmae_det.utils import cpu

# Most scores in memory at a time: all of one head for 1568 tokens, 5 MB in bfloat16.
_MAX_SCORES = 1568 * 1568
_DTYPES = (torch.float32, torch.bfloat16)


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return softmax(query key^T / sqrt(C)) value: (B, heads, M, C).

    The full M x N matrix of scores of all heads is never in memory. With `cpu.use_fast_gemm`, scores and
    attention weights are rounded to the dtype of the arguments; the fused kernel keeps them in float32.

    Args:
        query: (B, heads, M, C).
        key, value: (B, heads, N, C).
    """
    use_gemm = cpu.is_fast_gemm_enabled() and query.device.type == "cpu" and query.dtype in _DTYPES
    if not use_gemm or torch.compiler.is_exporting():
        return F.scaled_dot_product_attention(query, key, value)
    result = gemm_attention(*(tensor.flatten(0, 1) for tensor in (query, key, value)))
    return result.unflatten(0, query.shape[:2])


@torch.library.custom_op("vmae_det::gemm_attention", mutates_args=())
def gemm_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Compute `attention` by matrix multiplications.

    Args:
        query: (heads, M, C).
        key, value: (heads, N, C).
    """
    result = query.new_empty(query.shape)
    for head, rows in _tiles(query, key):
        weights = _attention_weights(query[head][..., rows, :], key[head])
        torch.matmul(weights, value[head], out=result[head][..., rows, :])
    return result


@torch.library.custom_op("vmae_det::gemm_attention_backward", mutates_args=())
def _gemm_attention_backward(
    grad_output: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of query, key and value. The attention weights (M x N a head) are recomputed."""
    scale = _scale(query)
    grad_query = query.new_empty(query.shape)
    grad_key, grad_value = key.new_zeros(key.shape), value.new_zeros(value.shape)
    for head, rows in _tiles(query, key):
        query_rows, grad_rows = query[head][..., rows, :], grad_output[head][..., rows, :]
        weights = _attention_weights(query_rows, key[head])
        grad_value[head] += weights.mT @ grad_rows
        grad_scores = grad_rows @ value[head].mT
        torch.ops.aten._softmax_backward_data.out(
            grad_scores, weights, -1, weights.dtype, grad_input=grad_scores
        )
        grad_query[head][..., rows, :] = (grad_scores @ key[head]).mul_(scale)
        grad_key[head] += grad_scores.mT @ (query_rows * scale)
    return grad_query, grad_key, grad_value


def _attention_weights(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    scores = (query * _scale(query)) @ key.mT
    return torch.softmax(scores, -1, out=scores)


def _scale(query: torch.Tensor) -> float:
    return query.shape[-1] ** -0.5


def _tiles(query: torch.Tensor, key: torch.Tensor) -> Iterator[tuple[slice | int, slice]]:
    """Yield (heads, query rows) that cover everything, with at most `_MAX_SCORES` scores each.

    A tile is some rows of one head, or all rows of several small heads.
    """
    heads, rows, keys = *query.shape[:2], key.shape[1]
    heads_per_tile = max(_MAX_SCORES // (rows * keys), 1)
    tiles_per_head = -(-rows * keys // _MAX_SCORES)
    rows_per_tile = -(-rows // tiles_per_head)
    for head in range(0, heads, heads_per_tile):
        for row in range(0, rows, rows_per_tile):
            yield (
                head if heads_per_tile == 1 else slice(head, head + heads_per_tile),
                slice(row, row + rows_per_tile),
            )


@gemm_attention.register_fake
def _(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return query.new_empty(query.shape)


@_gemm_attention_backward.register_fake
def _(
    grad_output: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in (query, key, value))


def _setup_context(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return _gemm_attention_backward(grad_output.contiguous(), *ctx.saved_tensors)


gemm_attention.register_autograd(_backward, setup_context=_setup_context)
