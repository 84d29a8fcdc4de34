"""Softmax attention: PyTorch's fused kernel, or products of matrices where a CPU does these better."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from vmae_det.utils import cpu

# Scores that are held at a time: all of one head for 1568 tokens, 5 MB in bfloat16.
_SCORES = 1568 * 1568
_TYPES = (torch.float32, torch.bfloat16)


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """softmax(query key^T / sqrt(C)) value: (B, heads, M, C), as `query`; `key`, `value` (B, heads, N, C).

    The scores of all tokens with all are never held at once. Under `cpu.use_fast_gemm` scores and weights are
    rounded to the arguments' precision; the fused kernel has them in float32.
    """
    by_products = cpu.is_fast_gemm_enabled() and query.device.type == "cpu" and query.dtype in _TYPES
    if not by_products or torch.compiler.is_exporting():
        return F.scaled_dot_product_attention(query, key, value)
    found = attend(*(tensor.flatten(0, 1) for tensor in (query, key, value)))
    return found.unflatten(0, query.shape[:2])


@torch.library.custom_op("vmae_det::attend", mutates_args=())
def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """`attention` by products of matrices: `query` (heads, M, C), `key` and `value` (heads, N, C)."""
    found = query.new_empty(query.shape)
    for head, rows in _parts(query, key):
        weights = _weights(query[head][..., rows, :], key[head])
        torch.matmul(weights, value[head], out=found[head][..., rows, :])
    return found


@torch.library.custom_op("vmae_det::attend_backward", mutates_args=())
def _attend_backward(
    gradient: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of the arguments of `attend`. The weights are worked out again: each head has M x N."""
    scale = _scale(query)
    of_query = query.new_empty(query.shape)
    of_key, of_value = key.new_zeros(key.shape), value.new_zeros(value.shape)
    for head, rows in _parts(query, key):
        some, into = query[head][..., rows, :], gradient[head][..., rows, :]
        weights = _weights(some, key[head])
        of_value[head] += weights.mT @ into
        of_scores = into @ value[head].mT
        torch.ops.aten._softmax_backward_data.out(of_scores, weights, -1, weights.dtype, grad_input=of_scores)
        of_query[head][..., rows, :] = (of_scores @ key[head]).mul_(scale)
        of_key[head] += of_scores.mT @ (some * scale)
    return of_query, of_key, of_value


def _weights(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    scores = (query * _scale(query)) @ key.mT
    return torch.softmax(scores, -1, out=scores)


def _scale(query: torch.Tensor) -> float:
    return query.shape[-1] ** -0.5


def _parts(query: torch.Tensor, key: torch.Tensor) -> Iterator[tuple[slice | int, slice]]:
    """Heads (one, or several small ones) with rows of queries, `_SCORES` scores at most; in all, all."""
    heads, rows, keys = *query.shape[:2], key.shape[1]
    together = max(_SCORES // (rows * keys), 1)
    pieces = -(-rows * keys // _SCORES)
    some = -(-rows // pieces)
    for first in range(0, heads, together):
        for row in range(0, rows, some):
            yield first if together == 1 else slice(first, first + together), slice(row, row + some)


@attend.register_fake
def _(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return query.new_empty(query.shape)


@_attend_backward.register_fake
def _(
    gradient: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in (query, key, value))


def _keep(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return _attend_backward(gradient.contiguous(), *ctx.saved_tensors)


attend.register_autograd(_backward, setup_context=_keep)
