"""The interface of a backbone, which is all that the models of all tasks use of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from vmae_det.config import CfgNode
from vmae_det.modeling.backbones.position_embedding import flat_positions

Grid = tuple[int, int, int]  # tokens along time, height and width


class Backbone(nn.Module):
    """A network from a normalized video to a grid of tokens.

    A subclass implements `from_config`, `forward`, `num_layers` and `layer_of`. For masked
    pre-training it also implements `cubes`, `token_positions` and `encode`, and sets `is_maskable`.

    Args:
        embed_dim: channels of a token.
        tubelet_size: frames per token, the stride in time.
        patch_size: pixels per token along height and width, the stride in space.
        num_frames, crop_size: size of the training clips.

    Attributes:
        clip_grid: grid (t, h, w) of the tokens of a training clip.
        pixel_statistics: mean and standard deviation of pixels, in units of 0..255, that the published
            weights expect. Another value in the config is a warning. None if the published weights differ. A
            class attribute.
        num_extra_tokens: number of tokens before those of the grid in its blocks, such as a class token. They
            are not in the output.
        is_maskable: whether it encodes a subset of the tokens of a video. A class attribute.
        no_weight_decay: names of parameters without weight decay, besides biases, norms and single tokens. A
            class attribute.
        blocks: optional nn.ModuleList of its transformer blocks. FSDP2 shards and torch.compile compiles them
            one by one.
        can_drop_tokens: whether it has token dropout (MODEL.BACKBONE.TOKEN_KEEP_RATE). A class attribute.
        is_isotropic: whether `blocks` all return tokens of `embed_dim` channels, which the features of blocks
            need. A class attribute.
        returns_blocks: whether it has `forward_blocks`, which person heads need. A class attribute.
    """

    pixel_statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    num_extra_tokens = 0
    is_maskable = False
    can_drop_tokens = False
    no_weight_decay: tuple[str, ...] = ()
    is_isotropic = True
    returns_blocks = False

    def __init__(
        self, *, embed_dim: int, tubelet_size: int, patch_size: int, num_frames: int, crop_size: int
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.tubelet_size = tubelet_size
        self.patch_size = patch_size
        self.clip_grid = (num_frames // tubelet_size, crop_size // patch_size, crop_size // patch_size)

    @classmethod
    def from_config(cls, cfg: CfgNode, final_norm: bool = True) -> Backbone:
        """Build the backbone that MODEL.BACKBONE and INPUT describe, with or without a last norm."""
        raise NotImplementedError

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """Return the tokens (B, t * h * w, C), ordered (t, h, w), of a normalized video (B, 3, T, H, W).

        T is divisible by the tubelet size, H and W are any multiples of the patch size.
        """
        raise NotImplementedError

    def forward_blocks(
        self, video: torch.Tensor, blocks: Sequence[int], time_slice: int
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return `forward(video)`, and the tokens of a time slice after some blocks, in one pass.

        Args:
            video: normalized (B, 3, T, H, W).
            blocks: numbers of the blocks, from 1 on. They may repeat.
            time_slice: index of the time slice.

        Returns:
            The tokens (B, t * h * w, C), and for each of `blocks` (B, h * w, C), without a norm.
        """
        raise NotImplementedError

    def mean_token(self, video: torch.Tensor) -> torch.Tensor:
        """Return the mean (B, C) of the tokens of a normalized video (B, 3, T, H, W), except dropped ones."""
        return self(video).mean(dim=1)

    def num_layers(self) -> int:
        """Return the number of layers for layer-wise decay of the learning rate."""
        raise NotImplementedError

    def layer_of(self, name: str) -> int:
        """Return the layer of a parameter, given its name in this module.

        0 is the first layer, and `num_layers()` is for parameters after the last.
        """
        raise NotImplementedError

    def grid(self, video: torch.Tensor) -> Grid:
        """Return the grid of tokens (t, h, w) of a video (B, 3, T, H, W)."""
        _, _, frames, height, width = video.shape
        return frames // self.tubelet_size, height // self.patch_size, width // self.patch_size

    def fit_weights(self, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return weights from a file, under the names of this module, adapted to the size of its clips.

        A learned position table is an example: it has one row per token of a clip.
        """
        return weights

    # ---------------------------------------------------------------- masked pre-training

    def cubes(self, video: torch.Tensor) -> torch.Tensor:
        """Cut a video (B, 3, T, H, W) into the cubes of its tokens (B, N, values)."""
        raise NotImplementedError

    def token_positions(self, grid: Grid) -> torch.Tensor:
        """Return what `encode` needs to know about the position of each token of a grid: (N, values)."""
        raise NotImplementedError

    def encode(self, cubes: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return the tokens (B, N, C) of normalized cubes (B, N, values).

        Args:
            cubes: all cubes of a video or any subset. Tokens attend only to each other.
            positions: rows of `token_positions`: (N, values) or (B, N, values).
        """
        raise NotImplementedError

    def position_table(self, dim: int) -> torch.Tensor:
        """Return a table (N, dim) of the positions in `clip_grid`, which a decoder adds to its tokens."""
        return flat_positions(self.clip_grid, dim)


def mean_token(backbone: nn.Module, video: torch.Tensor) -> torch.Tensor:
    """Return `Backbone.mean_token` of a normalized video, also of a backbone of another class."""
    return backbone.mean_token(video) if isinstance(backbone, Backbone) else backbone(video).mean(dim=1)
