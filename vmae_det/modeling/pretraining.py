"""Masked autoencoding of video: encode few cubes of a clip, and predict the others by a small decoder."""

from __future__ import annotations

import torch
from torch import nn

from vmae_det.config import CfgNode
from vmae_det.modeling.backbones.blocks import LAYER_NORM_EPS, Block, init_transformer
from vmae_det.modeling.backbones.patch_embedding import from_cubes, take_rows, to_cubes
from vmae_det.modeling.build import META_ARCHITECTURE_REGISTRY, build_backbone
from vmae_det.modeling.losses import reconstruction_loss
from vmae_det.modeling.masking import count_masked, draw_mask, running_cells, split_tokens
from vmae_det.modeling.normalization import PixelNormalization
from vmae_det.utils.errors import ConfigError

MASK_TOKEN_STD = 0.02


class Decoder(nn.Module):
    """Transformer blocks on visible tokens and mask tokens, then a linear map to the values of a cube."""

    compile_regions = ("forward",)

    def __init__(self, embed_dim: int, depth: int, num_heads: int, num_values: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)
        self.head = nn.Linear(embed_dim, num_values)

    def forward(self, x: torch.Tensor, num_predicted: int) -> torch.Tensor:
        """Map tokens (B, N, C) to the values of the last ones: (B, num_predicted, num_values)."""
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x)
        return self.head(self.norm(last(x, last=num_predicted)))


@META_ARCHITECTURE_REGISTRY.register()
class MaskedAutoencoder(nn.Module):
    """VideoMAE (Tong et al., 2022): predict the pixels of masked cubes from the visible cubes.

    Args:
        decoder_mask: "none" predicts all masked tokens, "running_cell" skips some (see `running_cells`).
        decoder_mask_ratio: fraction of the masked tokens to skip.
        target_frames: number of frames to predict, divided evenly among the time slices of tokens. 0 predicts
            the frames of the clip. 1 predicts one frame from the middle time slice, and needs tube masks.

    Attributes:
        target_tokens: slice of the tokens that predict: all, or those of one time slice.
        target_tubelet: number of target frames that a token predicts.
    """

    task = "pretraining"
    compile_regions = ("_training_loss",)

    def __init__(
        self,
        backbone: nn.Module,
        normalization: PixelNormalization,
        *,
        decoder_dim: int = 384,
        decoder_depth: int = 4,
        decoder_heads: int = 6,
        decoder_mask: str = "none",
        decoder_mask_ratio: float = 0.5,
        mask_type: str = "tube",
        mask_ratio: float = 0.9,
        target_frames: int = 0,
        normalize_target: bool = True,
        loss: str = "mse",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.normalization = normalization
        self.mask_type = mask_type
        self.mask_ratio = mask_ratio
        self.decoder_mask = decoder_mask
        self.decoder_mask_ratio = decoder_mask_ratio
        self.normalize_target = normalize_target
        self.loss = loss
        slices, height, width = backbone.clip_grid
        self.single_frame = target_frames == 1
        first, number = (slices // 2, 1) if self.single_frame else (0, slices)
        self.target_tokens = slice(first * height * width, (first + number) * height * width)
        self.target_tubelet = (target_frames or slices * backbone.tubelet_size) // number
        num_values = 3 * self.target_tubelet * backbone.patch_size**2
        self.encoder_to_decoder = nn.Linear(backbone.embed_dim, decoder_dim, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        self.register_buffer("positions", backbone.position_table(decoder_dim), persistent=False)
        self.decoder = Decoder(decoder_dim, decoder_depth, decoder_heads, num_values)
        init_transformer(self.decoder)
        nn.init.xavier_uniform_(self.encoder_to_decoder.weight)
        nn.init.trunc_normal_(self.mask_token, std=MASK_TOKEN_STD)

    def init_as_published(self) -> None:
        """Draw the mask token from a normal distribution truncated at one standard deviation (VideoMAE)."""
        nn.init.trunc_normal_(self.mask_token, std=MASK_TOKEN_STD, a=-MASK_TOKEN_STD, b=MASK_TOKEN_STD)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> MaskedAutoencoder:
        """Build the autoencoder that MODEL describes."""
        decoder, reconstruction = cfg.MODEL.DECODER, cfg.MODEL.RECONSTRUCTION
        backbone = build_backbone(cfg)
        if not getattr(backbone, "is_maskable", False):
            raise ConfigError(
                f"MODEL.BACKBONE.NAME: {cfg.MODEL.BACKBONE.NAME} cannot encode a part of the tokens, which "
                "MaskedAutoencoder requires"
            )
        return cls(
            backbone,
            PixelNormalization(cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD),
            decoder_dim=decoder.EMBED_DIM,
            decoder_depth=decoder.DEPTH,
            decoder_heads=decoder.NUM_HEADS,
            decoder_mask=decoder.MASK,
            decoder_mask_ratio=decoder.MASK_RATIO,
            mask_type=cfg.MODEL.MASK.TYPE,
            mask_ratio=cfg.MODEL.MASK.RATIO,
            target_frames=reconstruction.NUM_FRAMES,
            normalize_target=reconstruction.NORMALIZE,
            loss=reconstruction.LOSS,
        )

    def forward(self, batch: dict) -> dict[str, torch.Tensor]:
        """Return the loss while training, else the reconstruction.

        Args:
            batch: `video` uint8 (B, 3, T, H, W), `seed` (B,), and `target` uint8 (B, 3, T', H, W) if the
                frames to predict are not those of the video.

        Returns:
            {"loss": scalar} while training, else `mask` bool (B, N); `predicted` bool (B, N), the masked
            tokens that the decoder predicts; `reconstruction` uint8 (B, 3, T', H, W), the target with the
            predicted cubes filled in; `loss` (B,).
        """
        video = batch["video"]
        grid = self.backbone.grid(video)  # (t, h, w)
        mask = draw_mask(batch["seed"], grid, self.mask_type, self.mask_ratio)  # (B, N)
        visible, masked = split_tokens(mask, count_masked(grid, self.mask_type, self.mask_ratio))
        predicted = self._select_target_tokens(masked)  # (B, K)
        if self.decoder_mask == "running_cell":
            predicted = running_cells(batch["seed"], predicted, grid, self.decoder_mask_ratio)
        # Cut and select cubes as bytes; convert only the selected ones to floats.
        cubes = self.backbone.cubes(video)  # uint8 (B, N, values)
        visible_cubes = self.normalization(_split_colors(take_rows(cubes, visible)), color_dim=3).flatten(2)
        prediction = self._predict(visible_cubes, visible, predicted)  # (B, K, values)
        target_cubes = self._cut_target(batch["target"]) if "target" in batch else cubes
        indices = predicted - self.target_tokens.start  # of the predicted cubes among `target_cubes`
        if self.training:
            return {"loss": self._training_loss(prediction, target_cubes, indices)}
        pixels = _select_pixels(target_cubes, indices)
        target = self._target(pixels)  # (B, K, values)
        painted = target_cubes.scatter(
            1,
            indices[:, :, None].expand(-1, -1, target_cubes.shape[2]),
            self._denormalize(prediction, pixels),
        )
        slices = target_cubes.shape[1] // (grid[1] * grid[2])
        return {
            "mask": mask,
            "predicted": torch.zeros_like(mask).scatter(1, predicted, True),
            "reconstruction": from_cubes(
                painted, (slices, *grid[1:]), self.target_tubelet, self.backbone.patch_size
            ),
            "loss": reconstruction_loss(prediction, target, self.loss),
        }

    def _training_loss(
        self, prediction: torch.Tensor, target_cubes: torch.Tensor, indices: torch.Tensor
    ) -> torch.Tensor:
        """Return the loss of the prediction (B, K, values) of the cubes `indices` (B, K): a scalar.

        Args:
            target_cubes: uint8 (B, N, values).
        """
        target = self._target(_select_pixels(target_cubes, indices))
        return reconstruction_loss(prediction, target, self.loss, per_clip=False)

    def reconstruct(
        self, video: torch.Tensor, mask: torch.Tensor, target: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return prediction and target of the masked cubes, both (B, N_masked, tubelet * patch * patch * 3).

        The decoder mask is not used. If a single frame is predicted, the cubes are those of its time slice.

        Args:
            video: normalized float (B, 3, T, H, W).
            mask: bool (B, N), True where masked. All rows mask the same number.
            target: normalized float (B, 3, T', H, W), if the frames to predict are not those of the video.
                The shape of the result then has `target_tubelet` instead of the tubelet size.
        """
        visible, masked = split_tokens(mask)
        predicted = self._select_target_tokens(masked)
        cubes = self.backbone.cubes(video)
        prediction = self._predict(take_rows(cubes, visible), visible, predicted)
        target_cubes = cubes if target is None else self._cut_target(target)
        pixels = _split_colors(take_rows(target_cubes, predicted - self.target_tokens.start))
        return prediction, self._target(self.normalization.inverse(pixels, color_dim=3))

    def _select_target_tokens(self, masked: torch.Tensor) -> torch.Tensor:
        """Select those of the masked tokens (B, M) that predict target frames."""
        if not self.single_frame:
            return masked
        # A tube mask masks the same number of tokens in each time slice.
        slices = self.backbone.clip_grid[0]
        return masked.unflatten(1, (slices, -1))[:, slices // 2]

    def _cut_target(self, target: torch.Tensor) -> torch.Tensor:
        """Cut target frames (B, 3, T', H, W) into one cube for each of `target_tokens`."""
        return to_cubes(target, self.target_tubelet, self.backbone.patch_size)

    def _predict(
        self, visible_cubes: torch.Tensor, visible: torch.Tensor, predicted: torch.Tensor
    ) -> torch.Tensor:
        """Predict the values (B, K, values) of the tokens `predicted` (B, K).

        Args:
            visible_cubes: normalized (B, V, values).
            visible: (B, V), indices of the visible tokens.
        """
        grid = self.backbone.clip_grid
        encoder_positions = self.backbone.token_positions(grid)[visible]  # (B, V, values)
        x = self.encoder_to_decoder(self.backbone.encode(visible_cubes, encoder_positions))
        positions = self.positions.to(x.dtype)
        mask_tokens = self.mask_token.to(x.dtype) + positions[predicted]  # (B, K, C)
        x = torch.cat([x + positions[visible], mask_tokens], dim=1)  # (B, V + K, C)
        return self.decoder(x, predicted.shape[1])

    @torch.no_grad()
    def _target(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the regression target (B, M, values) of cubes (B, M, pixels, 3) in [0, 1]."""
        if self.normalize_target:
            centered, _, std = _cube_statistics(pixels)
            pixels = centered.div_(std)
        return pixels.flatten(2)

    @torch.no_grad()
    def _denormalize(self, prediction: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """Return predicted cubes as uint8 (B, M, values).

        A normalized prediction does not contain the mean and standard deviation of a cube. Those of the true
        `pixels` (B, M, pixels, 3) are used.
        """
        prediction = _split_colors(prediction.float())
        if self.normalize_target:
            _, mean, std = _cube_statistics(pixels)
            prediction = prediction * std + mean
        return (prediction * 255).round().clamp(0, 255).to(torch.uint8).flatten(2)


def _split_colors(cubes: torch.Tensor) -> torch.Tensor:
    """Reshape (B, M, values) to (B, M, pixels, 3)."""
    return cubes.unflatten(2, (-1, 3))


def _select_pixels(cubes: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Select cubes `indices` (B, M) of uint8 cubes (B, N, values): floats in [0, 1], (B, M, pixels, 3)."""
    return _split_colors(take_rows(cubes, indices)) / 255


def _cube_statistics(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return cubes (B, M, pixels, 3) minus their mean per color, that mean, and the standard deviation."""
    mean = pixels.mean(dim=2, keepdim=True)
    centered = pixels - mean
    # torch.std_mean takes three times as long on the CPU.
    std = torch.linalg.vector_norm(centered, dim=2, keepdim=True) / (pixels.shape[2] - 1) ** 0.5
    return centered, mean, std + 1e-6
