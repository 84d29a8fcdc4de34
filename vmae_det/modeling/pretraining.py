"""Masked autoencoding of video: the encoder sees few cubes, a small decoder predicts the others."""

from __future__ import annotations

import torch
from torch import nn

from vmae_det.config import CfgNode
from vmae_det.modeling.backbone import LAYER_NORM_EPS, Block, init_transformer
from vmae_det.modeling.build import META_ARCHITECTURE_REGISTRY, build_backbone
from vmae_det.modeling.embedding import from_cubes, take_rows
from vmae_det.modeling.losses import reconstruction_loss
from vmae_det.modeling.masking import draw_mask, split_tokens
from vmae_det.modeling.normalization import PixelNormalization


class Decoder(nn.Module):
    """Transformer blocks on visible and mask tokens, then a linear map to the values of a cube."""

    def __init__(self, embed_dim: int, depth: int, num_heads: int, num_values: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)
        self.head = nn.Linear(embed_dim, num_values)

    def forward(self, x: torch.Tensor, num_predicted: int) -> torch.Tensor:
        """Tokens (B, N, C) to the values (B, num_predicted, num_values) of the last `num_predicted` ones."""
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, -num_predicted:]))


@META_ARCHITECTURE_REGISTRY.register()
class MaskedAutoencoder(nn.Module):
    """VideoMAE (Tong et al., 2022): predict the pixels of masked cubes from the visible ones."""

    task = "pretraining"

    def __init__(
        self,
        backbone: nn.Module,
        normalization: PixelNormalization,
        *,
        decoder_dim: int = 384,
        decoder_depth: int = 4,
        decoder_heads: int = 6,
        mask_type: str = "tube",
        mask_ratio: float = 0.9,
        normalize_target: bool = True,
        loss: str = "mse",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.normalization = normalization
        self.mask_type = mask_type
        self.mask_ratio = mask_ratio
        self.normalize_target = normalize_target
        self.loss = loss
        num_values = 3 * backbone.tubelet_size * backbone.patch_size**2
        self.encoder_to_decoder = nn.Linear(backbone.embed_dim, decoder_dim, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        self.register_buffer("positions", backbone.position_table(decoder_dim), persistent=False)
        self.decoder = Decoder(decoder_dim, decoder_depth, decoder_heads, num_values)
        init_transformer(self.decoder)
        nn.init.xavier_uniform_(self.encoder_to_decoder.weight)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> MaskedAutoencoder:
        """The autoencoder that MODEL describes."""
        decoder, reconstruction = cfg.MODEL.DECODER, cfg.MODEL.RECONSTRUCTION
        return cls(
            build_backbone(cfg),
            PixelNormalization(cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD),
            decoder_dim=decoder.EMBED_DIM,
            decoder_depth=decoder.DEPTH,
            decoder_heads=decoder.NUM_HEADS,
            mask_type=cfg.MODEL.MASK.TYPE,
            mask_ratio=cfg.MODEL.MASK.RATIO,
            normalize_target=reconstruction.NORMALIZE,
            loss=reconstruction.LOSS,
        )

    def forward(self, batch: dict) -> dict[str, torch.Tensor]:
        """Losses while training, else predictions, of a batch: `video` uint8 (B, 3, T, H, W), `seed` (B,).

        Predictions: `mask` bool (B, N), `reconstruction` uint8 (B, 3, T, H, W), the `loss` of each clip (B,).
        """
        video = batch["video"]
        grid = self.backbone.grid(video)
        mask = draw_mask(batch["seed"], grid, self.mask_type, self.mask_ratio)
        visible, masked = split_tokens(mask)
        # Cubes are cut and chosen as bytes; only what is needed of them becomes floats.
        cubes = self.backbone.cubes(video)
        seen = self.normalization(_by_colour(take_rows(cubes, visible)), colour_dim=3).flatten(2)
        prediction = self._predict(seen, visible, masked)
        pixels = _by_colour(take_rows(cubes, masked)) / 255
        loss = reconstruction_loss(prediction, self._target(pixels), self.loss)
        if self.training:
            return {"loss": loss.mean()}
        painted = cubes.scatter(
            1, masked[:, :, None].expand(-1, -1, cubes.shape[2]), self._paint(prediction, pixels)
        )
        reconstruction = from_cubes(painted, grid, self.backbone.tubelet_size, self.backbone.patch_size)
        return {"mask": mask, "reconstruction": reconstruction, "loss": loss}

    def reconstruct(self, video: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Prediction and target of the masked cubes, both (B, N_masked, tubelet * patch * patch * 3).

        Args:
            video: normalised float (B, 3, T, H, W).
            mask: bool (B, N), True where masked, the same number in every row.
        """
        visible, masked = split_tokens(mask)
        cubes = self.backbone.cubes(video)
        prediction = self._predict(take_rows(cubes, visible), visible, masked)
        pixels = self.normalization.inverse(_by_colour(take_rows(cubes, masked)), colour_dim=3)
        return prediction, self._target(pixels)

    def _predict(self, seen: torch.Tensor, visible: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        x = self.encoder_to_decoder(self.backbone.encode(seen, self.backbone.positions[visible]))
        positions = self.positions.to(x.dtype)
        hidden = self.mask_token.to(x.dtype) + positions[masked]
        x = torch.cat([x + positions[visible], hidden], dim=1)
        return self.decoder(x, masked.shape[1])

    @torch.no_grad()
    def _target(self, pixels: torch.Tensor) -> torch.Tensor:
        """What to predict of cubes (B, M, pixels, colour) in [0, 1], as (B, M, values)."""
        if self.normalize_target:
            mean, deviation = _cube_statistics(pixels)
            pixels = (pixels - mean) / deviation
        return pixels.flatten(2)

    @torch.no_grad()
    def _paint(self, prediction: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """Predicted cubes as uint8 (B, M, values).

        A normalised prediction says nothing of a cube's mean and deviation: those of the true `pixels`
        are used.
        """
        prediction = _by_colour(prediction.float())
        if self.normalize_target:
            mean, deviation = _cube_statistics(pixels)
            prediction = prediction * deviation + mean
        return (prediction * 255).round().clamp(0, 255).to(torch.uint8).flatten(2)


def _by_colour(cubes: torch.Tensor) -> torch.Tensor:
    """(B, M, values) as (B, M, pixels, colour)."""
    return cubes.unflatten(2, (-1, 3))


def _cube_statistics(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation over the pixels of cubes (B, M, pixels, colour), per colour channel."""
    deviation, mean = torch.std_mean(pixels, dim=2, unbiased=True, keepdim=True)
    return mean, deviation + 1e-6
