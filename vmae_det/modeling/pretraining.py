"""Masked autoencoding of video: the encoder sees few cubes, a small decoder predicts the others."""

from __future__ import annotations

import torch
from torch import nn

from vmae_det.config import CfgNode
from vmae_det.modeling.backbone import LAYER_NORM_EPS, Block, init_transformer
from vmae_det.modeling.build import META_ARCHITECTURE_REGISTRY, build_backbone
from vmae_det.modeling.embedding import from_cubes, take_rows, to_cubes
from vmae_det.modeling.losses import reconstruction_loss
from vmae_det.modeling.masking import count_masked, draw_mask, running_cells, split_tokens
from vmae_det.modeling.normalization import PixelNormalization

MASK_TOKEN_STD = 0.02


class Decoder(nn.Module):
    """Transformer blocks on visible and mask tokens, then a linear map to the values of a cube."""

    def __init__(self, embed_dim: int, depth: int, num_heads: int, num_values: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)
        self.head = nn.Linear(embed_dim, num_values)

    def forward(self, x: torch.Tensor, num_predicted: int) -> torch.Tensor:
        """Tokens (B, N, C) to the values (B, num_predicted, num_values) of the last `num_predicted` ones."""
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x)
        return self.head(self.norm(last(x, num_predicted)))


@META_ARCHITECTURE_REGISTRY.register()
class MaskedAutoencoder(nn.Module):
    """VideoMAE (Tong et al., 2022): predict the pixels of masked cubes from the visible ones.

    Args:
        decoder_mask: "none" predicts all masked tokens, "running_cell" leaves some out (see `running_cells`).
        decoder_mask_ratio: fraction of the masked tokens that is left out.
        target_frames: frames that are predicted, as many by each time slice of tokens; 0: the clip's own;
            1: one frame, by the slice in the middle alone, which takes tube masks.

    Attributes:
        target_tokens: the tokens that stand for the frames to predict, all or those of a slice.
        target_tubelet: how many of these frames a token predicts.
    """

    task = "pretraining"

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
        slices, height, width = backbone.table_grid
        self.one_frame = target_frames == 1
        first, number = (slices // 2, 1) if self.one_frame else (0, slices)
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
        """Draw the mask token from a normal distribution that is cut at one deviation (VideoMAE)."""
        nn.init.trunc_normal_(self.mask_token, std=MASK_TOKEN_STD, a=-MASK_TOKEN_STD, b=MASK_TOKEN_STD)

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
            decoder_mask=decoder.MASK,
            decoder_mask_ratio=decoder.MASK_RATIO,
            mask_type=cfg.MODEL.MASK.TYPE,
            mask_ratio=cfg.MODEL.MASK.RATIO,
            target_frames=reconstruction.NUM_FRAMES,
            normalize_target=reconstruction.NORMALIZE,
            loss=reconstruction.LOSS,
        )

    def forward(self, batch: dict) -> dict[str, torch.Tensor]:
        """Losses while training, else predictions, of a batch: `video` uint8 (B, 3, T, H, W), `seed` (B,).

        Where other frames than the video's own are predicted, `target` holds them, uint8 (B, 3, T', H, W).

        Predictions: `mask` bool (B, N); `predicted`, those of its tokens that the decoder predicted;
        `reconstruction` uint8 (B, 3, T', H, W), the target with these painted; the `loss` of each clip (B,).
        """
        video = batch["video"]
        grid = self.backbone.grid(video)
        mask = draw_mask(batch["seed"], grid, self.mask_type, self.mask_ratio)
        visible, masked = split_tokens(mask, count_masked(grid, self.mask_type, self.mask_ratio))
        predicted = self._in_target(masked)
        if self.decoder_mask == "running_cell":
            predicted = running_cells(batch["seed"], predicted, grid, self.decoder_mask_ratio)
        # Cubes are cut and chosen as bytes; only what is needed of them becomes floats.
        cubes = self.backbone.cubes(video)
        seen = self.normalization(_by_colour(take_rows(cubes, visible)), colour_dim=3).flatten(2)
        prediction = self._predict(seen, visible, predicted)
        targets = self._cut_target(batch["target"]) if "target" in batch else cubes
        places = predicted - self.target_tokens.start
        pixels = _by_colour(take_rows(targets, places)) / 255
        target = self._target(pixels)
        if self.training:
            del pixels  # as large as the prediction
            return {"loss": reconstruction_loss(prediction, target, self.loss, per_clip=False)}
        painted = targets.scatter(
            1, places[:, :, None].expand(-1, -1, targets.shape[2]), self._paint(prediction, pixels)
        )
        slices = targets.shape[1] // (grid[1] * grid[2])
        return {
            "mask": mask,
            "predicted": torch.zeros_like(mask).scatter(1, predicted, True),
            "reconstruction": from_cubes(
                painted, (slices, *grid[1:]), self.target_tubelet, self.backbone.patch_size
            ),
            "loss": reconstruction_loss(prediction, target, self.loss),
        }

    def reconstruct(
        self, video: torch.Tensor, mask: torch.Tensor, target: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Prediction and target of the masked cubes, both (B, N_masked, tubelet * patch * patch * 3).

        The decoder's mask plays no part. Where one frame is predicted, the cubes are those of its time slice.

        Args:
            video: normalised float (B, 3, T, H, W).
            mask: bool (B, N), True where masked, the same number in every row.
            target: the frames to predict, where they are not the video's own: normalised float
                (B, 3, T', H, W); their `target_tubelet` takes the place of the tubelet size.
        """
        visible, masked = split_tokens(mask)
        predicted = self._in_target(masked)
        cubes = self.backbone.cubes(video)
        prediction = self._predict(take_rows(cubes, visible), visible, predicted)
        targets = cubes if target is None else self._cut_target(target)
        pixels = _by_colour(take_rows(targets, predicted - self.target_tokens.start))
        return prediction, self._target(self.normalization.inverse(pixels, colour_dim=3))

    def _in_target(self, masked: torch.Tensor) -> torch.Tensor:
        """Those of the masked tokens (B, M) that stand for frames to predict."""
        if not self.one_frame:
            return masked
        # A tube mask hides the same number in each time slice.
        slices = self.backbone.table_grid[0]
        return masked.unflatten(1, (slices, -1))[:, slices // 2]

    def _cut_target(self, target: torch.Tensor) -> torch.Tensor:
        """Frames to predict (B, 3, T', H, W) as cubes, one for each of `target_tokens`."""
        return to_cubes(target, self.target_tubelet, self.backbone.patch_size)

    def _predict(self, seen: torch.Tensor, visible: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        """Values (B, K, values) of tokens `masked` (B, K), from the cubes of tokens `visible` (B, V)."""
        x = self.encoder_to_decoder(self.backbone.encode(seen, self.backbone.positions[visible]))
        positions = self.positions.to(x.dtype)
        hidden = self.mask_token.to(x.dtype) + positions[masked]
        x = torch.cat([x + positions[visible], hidden], dim=1)
        return self.decoder(x, masked.shape[1])

    @torch.no_grad()
    def _target(self, pixels: torch.Tensor) -> torch.Tensor:
        """What to predict of cubes (B, M, pixels, colour) in [0, 1], as (B, M, values)."""
        if self.normalize_target:
            centred, _, deviation = _cube_statistics(pixels)
            pixels = centred.div_(deviation)
        return pixels.flatten(2)

    @torch.no_grad()
    def _paint(self, prediction: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """Predicted cubes as uint8 (B, M, values).

        A normalised prediction says nothing of a cube's mean and deviation: those of the true `pixels`
        are used.
        """
        prediction = _by_colour(prediction.float())
        if self.normalize_target:
            _, mean, deviation = _cube_statistics(pixels)
            prediction = prediction * deviation + mean
        return (prediction * 255).round().clamp(0, 255).to(torch.uint8).flatten(2)


def _by_colour(cubes: torch.Tensor) -> torch.Tensor:
    """(B, M, values) as (B, M, pixels, colour)."""
    return cubes.unflatten(2, (-1, 3))


def _cube_statistics(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cubes (B, M, pixels, colour) less their mean over the pixels, by colour; this mean; the deviation."""
    mean = pixels.mean(dim=2, keepdim=True)
    centred = pixels - mean
    # torch.std_mean takes three times as long on the CPU.
    deviation = torch.linalg.vector_norm(centred, dim=2, keepdim=True) / (pixels.shape[2] - 1) ** 0.5
    return centred, mean, deviation + 1e-6
