"""V-JEPA 2 and 2.1 (Assran et al., 2025): vision transformers with rotary positions along three axes.

The publishers' code is https://github.com/facebookresearch/vjepa2, `src/models/` for V-JEPA 2 and
`app/vjepa_2_1/models/` for V-JEPA 2.1.
"""

from __future__ import annotations

import torch
from torch import nn

from vmae_det.modeling.backbones.base import Grid
from vmae_det.modeling.backbones.vit import VideoViT
from vmae_det.modeling.build import BACKBONE_REGISTRY
from vmae_det.utils.errors import ConfigError

_BASE = 10000.0
_SCALED_SIDE = 16  # V-JEPA 2.1 scales rows and columns to those of a grid of this side


@BACKBONE_REGISTRY.register()
class VJepa2ViT(VideoViT):
    """The encoder of V-JEPA 2: a pre-norm vision transformer without position table.

    Each block rotates pairs of channels of its queries and keys by the position of the token. The channels
    of a head are divided into time, row, column, and a rest that is not rotated: 20, 20, 20 and 4 of 64. A
    clip of any number of frames and any size has a grid of positions.

    The arguments are those of `VideoViT`. `positions` is the kind of position table of a decoder.
    """

    pixel_statistics = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # ImageNet

    def __init__(self, *, embed_dim: int, num_heads: int, **kwargs: object) -> None:
        super().__init__(embed_dim=embed_dim, num_heads=num_heads, **kwargs)
        if self.num_extra_tokens:
            raise ConfigError("MODEL.BACKBONE.CLASS_TOKEN: True, but V-JEPA has no class token")
        self.positions = None  # no table: `encode` rotates queries and keys
        self.head_dim = embed_dim // num_heads
        if self.head_dim < 6 or self.head_dim % 2:
            raise ConfigError(
                "MODEL.BACKBONE.NUM_HEADS: rotary positions need an even number of channels in each head, at "
                f"least 6, got {self.head_dim}"
            )

    def resize_table(self, table: torch.Tensor) -> torch.Tensor:
        """Raise ValueError: there is no position table to replace."""
        raise ValueError(f"{type(self).__name__} has no position table")

    def token_positions(self, grid: Grid) -> torch.Tensor:
        """Return the rotation of each token of a grid (t, h, w): (t * h * w, 2 * channels of a head).

        They are the two factors of `blocks.rotate`, in float32.
        """
        t, h, w = grid
        shapes = ((t, 1, 1, -1), (1, h, 1, -1), (1, 1, w, -1))
        parts = [self._axis_angles(size, axis).reshape(shapes[axis]) for axis, size in enumerate(grid)]
        parts = [part.expand(t, h, w, -1) for part in parts]
        rest = parts[0].new_zeros(t, h, w, self.head_dim - sum(part.shape[-1] for part in parts))
        angles = torch.cat([*parts, rest], dim=-1).flatten(0, 2)  # of each channel: (N, D)
        # The pair (a, b) becomes (a cos - b sin, b cos + a sin), with the angle of each channel.
        first, second = angles.sin().unflatten(1, (-1, 2)).unbind(-1)
        return torch.cat([angles.cos(), torch.stack([-first, second], dim=-1).flatten(1)], dim=1)

    def _axis_angles(self, size: int, axis: int) -> torch.Tensor:
        """Return the angles (size, channels) of the channels of an axis, by the position along it."""
        device = self.patch_embed.proj.weight.device
        half = self.head_dim // 3 // 2
        positions = self._axis_positions(torch.arange(size, device=device).float(), axis)
        frequencies = _BASE ** (-torch.arange(half, device=device) / half)
        return self._channel_angles(positions[:, None] * frequencies)

    def _axis_positions(self, positions: torch.Tensor, axis: int) -> torch.Tensor:
        """Return the positions (size,) along an axis, 0 for time, 1 for height, 2 for width."""
        return positions

    def _channel_angles(self, angles: torch.Tensor) -> torch.Tensor:
        """Return the angle of each channel (size, D), given that of each frequency (size, D / 2).

        The two channels of a pair have different angles. This is an error in the publishers' code, which the
        weights were trained with.
        """
        return angles.repeat(1, 2)

    def block_inputs(self, cubes: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the input of the first block (B, N, C), and the rotation of queries and keys.

        The arguments are those of `encode`.
        """
        rotation = positions.unflatten(-1, (2, -1)).movedim(-2, 0)  # (2, N, D) or (2, B, N, D)
        return self.embed(cubes), rotation

    def embed(self, cubes: torch.Tensor) -> torch.Tensor:
        """Return the input of the first block (B, N, C)."""
        return self.patch_embed(cubes)


@BACKBONE_REGISTRY.register()
class VJepa21ViT(VJepa2ViT):
    """The encoder of V-JEPA 2.1 (2026): V-JEPA 2 with other rotary positions and an embedding of "video".

    Rows and columns of any grid are scaled to 0 to 15, and both channels of a pair rotate by one angle. The
    last norm is that of the last of the four layers which the publishers trained.
    """

    def __init__(self, *, embed_dim: int, num_heads: int, **kwargs: object) -> None:
        super().__init__(embed_dim=embed_dim, num_heads=num_heads, **kwargs)
        self.video_mod_embed = nn.Parameter(torch.zeros(1, 1, embed_dim))

    def _axis_positions(self, positions: torch.Tensor, axis: int) -> torch.Tensor:
        if axis == 0:
            return positions
        return positions * (_SCALED_SIDE - 1) / positions[-1:].clamp(min=1)

    def _channel_angles(self, angles: torch.Tensor) -> torch.Tensor:
        return angles.repeat_interleave(2, dim=1)

    def embed(self, cubes: torch.Tensor) -> torch.Tensor:
        """Return the input of the first block (B, N, C)."""
        return self.patch_embed(cubes) + self.video_mod_embed

    def layer_of(self, name: str) -> int:
        """Return the layer of a parameter, given its name in this module. See `VideoViT.layer_of`."""
        return 0 if name == "video_mod_embed" else super().layer_of(name)
