"""Features of clips: the mean token, all tokens, or the mean token of every block."""

from __future__ import annotations

import torch
from torch import nn

from vmae_det.modeling.backbones.base import mean_token
from vmae_det.modeling.classification import VideoClassifier
from vmae_det.utils.errors import ConfigError

FEATURE_KINDS = ("mean", "tokens", "blocks")


def pooled_features(model: nn.Module, video: torch.Tensor) -> torch.Tensor:
    """Return the mean token (B, C) of videos, uint8 (B, 3, T, H, W), after `fc_norm` if there is one."""
    token = mean_token(model.backbone, model.normalization(video))
    return model.fc_norm(token) if isinstance(model, VideoClassifier) else token


def video_features(model: nn.Module, video: torch.Tensor, kind: str = "mean") -> torch.Tensor:
    """Return features of videos, uint8 (B, 3, T, H, W), of any model with a backbone.

    Args:
        kind: one of FEATURE_KINDS:
            "mean": (B, C), the mean token, as of `pooled_features`. In a classifier it is the input of the
            head.
            "tokens": (B, t, h, w, C), the output of the backbone. In a classifier it has no norm.
            "blocks": (B, depth, C), the mean token of the grid after each block, without a norm.

            With token dropout, a mean is that of the tokens that are left. In "tokens", a dropped token is
            the mean over time of its cell (see `token_dropout.fill_dropped`).

    Raises:
        ConfigError: the kind is "blocks", and the backbone has no `blocks` or they have different widths.
    """
    if kind == "mean":
        return pooled_features(model, video)
    backbone = model.backbone
    if kind == "tokens":
        return backbone(model.normalization(video)).unflatten(1, backbone.grid(video))
    means: list[torch.Tensor] = []
    extra = getattr(backbone, "num_extra_tokens", 0)

    def record(_: nn.Module, __: tuple, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        tokens = output[0] if isinstance(output, tuple) else output  # (B, extra + N, C)
        means.append(tokens[:, extra:].mean(dim=1))

    hooks = [block.register_forward_hook(record) for block in blocks_of(backbone)]
    try:
        backbone(model.normalization(video))
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(means, dim=1)


def blocks_of(backbone: nn.Module) -> nn.ModuleList:
    """Return the transformer blocks of a backbone; ConfigError if it has none, or of different widths."""
    blocks, name = getattr(backbone, "blocks", None), type(backbone).__name__
    if not isinstance(blocks, nn.ModuleList):
        raise ConfigError(f"MODEL.BACKBONE.NAME: {name} has no list `blocks` of its blocks")
    if not getattr(backbone, "is_isotropic", True):
        raise ConfigError(
            f"MODEL.BACKBONE.NAME: the blocks of {name} have tokens of different widths; use the mean token "
            "or all tokens"
        )
    return blocks
