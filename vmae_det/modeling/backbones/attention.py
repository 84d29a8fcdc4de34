"""Softmax attention by PyTorch's fused kernel, or by matrix multiplications (GEMM) on some CPUs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from vmae_det.utils import cpu

# Most scores in memory at a time. On a CPU: all of one head for 1568 tokens, 5 MB in bfloat16. Elsewhere:
# 512 MB, because many small kernels are slow.
_MAX_SCORES = 1568 * 1568
_MAX_DEVICE_SCORES = 1 << 28
# Most attention weights of a block that are kept for the backward pass: 40 MB in bfloat16.
_MAX_KEPT_SCORES = 20 << 20
_DTYPES = (torch.float32, torch.bfloat16)


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return softmax(query key^T / sqrt(C)) value: (B, heads, M, C).

    The M x N matrix of all heads is not in memory, unless it is small. With `cpu.use_fast_gemm`, scores and
    attention weights are rounded to the dtype of the arguments; the fused kernel keeps them in float32.

    Args:
        query: (B, heads, M, C).
        key, value: (B, heads, N, C).
    """
    use_gemm = cpu.is_fast_gemm_enabled() and query.device.type == "cpu" and query.dtype in _DTYPES
    if not use_gemm or torch.compiler.is_exporting():
        return F.scaled_dot_product_attention(query, key, value)
    heads = [tensor.flatten(0, 1) for tensor in (query, key, value)]
    result, _ = gemm_attention(*heads, keep_weights=_keeps_weights(*heads[:2]))
    return result.unflatten(0, query.shape[:2])


def _keeps_weights(query: torch.Tensor, key: torch.Tensor) -> bool:
    """Return whether there is a backward pass, and the weights are small enough to keep them for it."""
    scores = query.shape[0] * query.shape[1] * key.shape[1]
    return torch.is_grad_enabled() and query.requires_grad and scores <= _MAX_KEPT_SCORES


def attention_received(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, first: int, end: int, factor: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `attention`, and the attention that each key receives (B, N), summed over heads and queries.

    The attention weights are formed, of some queries at a time. The second result has no gradient.

    Args:
        query, key, value: as of `attention`.
        first, end: the queries that count `factor` times in the sum.
        factor: the weight of these queries. That of the others is 1.
    """
    if torch.compiler.is_exporting():
        return _attention_received_by_head(query, key, value, first, end, factor)
    heads = (tensor.flatten(0, 1) for tensor in (query, key, value))
    result, received = gemm_attention_received(*heads, first, end, factor)
    shape = query.shape[:2]
    return result.unflatten(0, shape), received.unflatten(0, shape).sum(dim=1)


def _attention_received_by_head(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, first: int, end: int, factor: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute `attention_received` by operations that can be exported, one head at a time."""
    results, received = [], key.new_zeros(key.shape[0], key.shape[2])
    for head_query, head_key, head_value in zip(query.unbind(1), key.unbind(1), value.unbind(1)):
        weights = torch.softmax((head_query * _scale(query)) @ head_key.transpose(1, 2), -1)  # (B, M, N)
        results.append(weights @ head_value)
        received = received + weights.sum(1) + (factor - 1) * weights[:, first:end].sum(1)
    return torch.stack(results, dim=1), received


@torch.library.custom_op("vmae_det::gemm_attention", mutates_args=())
def gemm_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, keep_weights: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute `attention` by matrix multiplications.

    Args:
        query: (heads, M, C).
        key, value: (heads, N, C).
        keep_weights: keep the attention weights for the backward pass, which otherwise recomputes them.

    Returns:
        The result (heads, M, C), and the kept weights (heads, M, N), or (0, M, N). They have no gradient.
    """
    result, kept = query.new_empty(query.shape), _new_weights(query, key, keep_weights)
    for head, rows, memory in _tiles(query, key):
        memory = kept[head][..., rows, :] if keep_weights else memory
        weights = _attention_weights(query[head][..., rows, :], key[head], memory)
        torch.matmul(weights, value[head], out=result[head][..., rows, :])
    return result, kept


@torch.library.custom_op("vmae_det::gemm_attention_received", mutates_args=())
def gemm_attention_received(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, first: int, end: int, factor: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute `gemm_attention`, and the weighted sum over queries of its weights, float32 (heads, N).

    Args:
        query, key, value: as of `gemm_attention`.
        first, end, factor: as of `attention_received`.
    """
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    result = query.new_empty(query.shape)
    received = _new_received(key)
    for head, rows, memory in _tiles(query, key):
        weights = _attention_weights(query[head][..., rows, :], key[head], memory)
        torch.matmul(weights, value[head], out=result[head][..., rows, :])
        # Sums are faster than a matrix-vector multiplication.
        received[head] += weights.sum(-2)
        counted = weights[..., max(first - rows.start, 0) : max(end - rows.start, 0), :]
        received[head].add_(counted.sum(-2), alpha=factor - 1)
    return result, received


@torch.library.custom_op("vmae_det::gemm_attention_backward", mutates_args=())
def _gemm_attention_backward(
    grad_output: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, kept: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of query, key and value.

    Args:
        grad_output: (heads, M, C).
        query, key, value: as of `gemm_attention`.
        kept: attention weights (heads, M, N). If it is empty, they are recomputed.
    """
    scale = _scale(query)
    grad_query = query.new_empty(query.shape)
    grad_key, grad_value = key.new_zeros(key.shape), value.new_zeros(value.shape)
    for head, rows, memory in _tiles(query, key):
        query_rows, grad_rows = query[head][..., rows, :], grad_output[head][..., rows, :]
        if len(kept):
            weights, grad_scores = kept[head][..., rows, :], memory
        else:
            weights, grad_scores = _attention_weights(query_rows, key[head], memory), torch.empty_like(memory)
        grad_value[head] += weights.mT @ grad_rows
        torch.matmul(grad_rows, value[head].mT, out=grad_scores)
        torch.ops.aten._softmax_backward_data.out(
            grad_scores, weights, -1, weights.dtype, grad_input=grad_scores
        )
        grad_query[head][..., rows, :] = (grad_scores @ key[head]).mul_(scale)
        grad_key[head] += grad_scores.mT @ (query_rows * scale)
    return grad_query, grad_key, grad_value


def _attention_weights(query: torch.Tensor, key: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
    """Write the attention weights (..., M, N) into `memory` and return it."""
    torch.matmul(query * _scale(query), key.mT, out=memory)
    return torch.softmax(memory, -1, out=memory)


def _scale(query: torch.Tensor) -> float:
    return query.shape[-1] ** -0.5


def _tiles(query: torch.Tensor, key: torch.Tensor) -> Iterator[tuple[slice | int, slice, torch.Tensor]]:
    """Yield (heads, query rows, memory for their scores) that cover everything, of a limited size each.

    A tile is some rows of one head, or all rows of several small heads. All tiles use the same memory: new
    memory comes in pages that must be cleared.
    """
    heads, rows, keys = *query.shape[:2], key.shape[1]
    limit = _MAX_SCORES if query.device.type == "cpu" else _MAX_DEVICE_SCORES
    heads_per_tile = min(max(limit // (rows * keys), 1), heads)
    tiles_per_head = -(-rows * keys // limit)
    rows_per_tile = -(-rows // tiles_per_head)
    memory = query.new_empty(heads_per_tile, rows_per_tile, keys)
    for head in range(0, heads, heads_per_tile):
        for row in range(0, rows, rows_per_tile):
            tile = memory[: heads - head, : rows - row]
            yield (
                head if heads_per_tile == 1 else slice(head, head + heads_per_tile),
                slice(row, row + rows_per_tile),
                tile[0] if heads_per_tile == 1 else tile,
            )


def _new_weights(query: torch.Tensor, key: torch.Tensor, are_kept: bool) -> torch.Tensor:
    return query.new_empty(query.shape[0] if are_kept else 0, query.shape[1], key.shape[1])


@gemm_attention.register_fake
def _(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, keep_weights: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    return query.new_empty(query.shape), _new_weights(query, key, keep_weights)


@gemm_attention_received.register_fake
def _(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, first: int, end: int, factor: float
) -> tuple[torch.Tensor, torch.Tensor]:
    return query.new_empty(query.shape), _new_received(key)


@_gemm_attention_backward.register_fake
def _(
    grad_output: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, kept: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in (query, key, value))


def _new_received(key: torch.Tensor) -> torch.Tensor:
    """Return zeros (heads, N), in float32 if the keys (heads, N, C) have a lower precision."""
    return key.new_zeros(key.shape[:2], dtype=torch.promote_types(key.dtype, torch.float32))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:3], output[1])


def _backward(
    ctx: Any, grad_output: torch.Tensor, grad_weights: torch.Tensor | None
) -> tuple[torch.Tensor | None, ...]:
    return *_gemm_attention_backward(grad_output.contiguous(), *ctx.saved_tensors), None


def _setup_context_received(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    query, key, value = inputs[:3]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(query, key, value, _new_weights(query, key, False))


def _backward_received(
    ctx: Any, grad_output: torch.Tensor, grad_received: torch.Tensor | None
) -> tuple[torch.Tensor | None, ...]:
    return *_backward(ctx, grad_output, grad_received), None, None


gemm_attention.register_autograd(_backward, setup_context=_setup_context)
gemm_attention_received.register_autograd(_backward_received, setup_context=_setup_context_received)
