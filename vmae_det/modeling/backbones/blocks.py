"""Parts of vision transformers: attention, MLP, stochastic depth, and the pre-norm block of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from vmae_det.modeling.backbones.attention import attention

LAYER_NORM_EPS = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention.

    The published models have no bias on keys. A key bias has no effect, because softmax is invariant to it.
    One bias for queries, keys and values is used.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, x: torch.Tensor, rotation: torch.Tensor | None = None, *, last: int | None = None
    ) -> torch.Tensor:
        """Map (B, N, C) to (B, N, C); with `last`, compute only the last tokens: (B, last, C).

        Args:
            rotation: rotates queries and keys (see `rotate`). Not with `last`.
        """
        if last is None:
            query, key, value = self.project(x, rotation)
        else:
            query, key, value = *self._project(x[:, -last:], 0, 1), *self._project(x, 1, 3)
        x = attention(query, key, value)  # (B, heads, N or last, C / heads)
        return self.proj(x.transpose(1, 2).flatten(2))

    def project(self, x: torch.Tensor, rotation: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        """Return the queries, keys and values of x (B, N, C): (B, heads, N, C / heads) each."""
        query, key, value = self._project(x, 0, 3)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        return query, key, value

    def _project(self, x: torch.Tensor, first: int, end: int) -> tuple[torch.Tensor, ...]:
        """Project x (B, N, C) to the slice `first`:`end` of (queries, keys, values).

        Each has shape (B, heads, N, C / heads).
        """
        if end - first == 3:
            x = self.qkv(x)
        else:
            rows = slice(first * x.shape[-1], end * x.shape[-1])
            x = F.linear(x, self.qkv.weight[rows], self.qkv.bias[rows])
        return x.unflatten(-1, (end - first, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind()


def rotate(x: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """Rotate pairs of neighboring channels of queries or keys (rotary positions, Su et al., 2021).

    It computes in float32 and returns the dtype of x.

    Args:
        x: (B, heads, N, C), C even.
        rotation: (2, N, C) or (2, B, N, C): factors of each channel, and factors of the other channel of its
            pair.
    """
    own, other = rotation.unsqueeze(-3)  # (1, N, C) or (B, 1, N, C) each
    swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(x * own, swapped.to(other.dtype), other).to(x.dtype)


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., C) to (..., C)."""
        return self.fc2(F.gelu(self.fc1(x)))


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., 2016): drop a residual branch for random clips of a batch.

    The rate is a tensor, unlike in timm. torch.compile compiles a block again for each Python number.
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob
        self.register_buffer("keep_prob", torch.tensor(1 - drop_prob), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, ...) to (B, ...): zero for dropped clips; the others are scaled to keep the mean."""
        if not self.training:
            return x
        kept = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) < self.keep_prob
        return x * (kept / self.keep_prob).to(x.dtype)


class Block(nn.Module):
    """A pre-norm transformer block with stochastic depth."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(
        self, x: torch.Tensor, rotation: torch.Tensor | None = None, *, last: int | None = None
    ) -> torch.Tensor:
        """Map (B, N, C) to (B, N, C). The arguments are those of `Attention.forward`."""
        shortcut = x if last is None else x[:, -last:]
        x = shortcut + self.drop_path(self.attn(self.norm1(x), rotation, last=last))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the transformer blocks of a model: its `Block`s, and the list `blocks` of its backbone."""
    listed = getattr(getattr(model, "backbone", None), "blocks", None)
    of_backbone = set(listed) if isinstance(listed, nn.ModuleList) else set()
    return [module for module in model.modules() if isinstance(module, Block) or module in of_backbone]


def init_transformer(module: nn.Module) -> None:
    """Initialize as the published models: Xavier uniform weights, biases 0, LayerNorm weights 1."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Conv3d):
            nn.init.xavier_uniform_(layer.weight.data.flatten(1))
            nn.init.zeros_(layer.bias)
