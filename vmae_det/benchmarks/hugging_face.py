"""The pre-training model of Hugging Face's `transformers`, of the size that a config describes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from vmae_det.config import CfgNode
from vmae_det.modeling.backbone import LAYER_NORM_EPS
from vmae_det.modeling.masking import draw_mask
from vmae_det.modeling.normalization import PixelNormalization
from vmae_det.utils.errors import ConfigError, UserError

# What their model does, and does not leave to choose.
_FIXED = {
    "MODEL.MASK.TYPE": "tube",
    "MODEL.DECODER.MASK": "none",
    "MODEL.RECONSTRUCTION.NUM_FRAMES": 0,
    "MODEL.RECONSTRUCTION.LOSS": "mse",
    "MODEL.BACKBONE.POSITIONS": "flat",
    "MODEL.BACKBONE.DROP_PATH": 0.0,
    "SOLVER.OPTIMIZER": "adamw",
}


def build_hugging_face(
    cfg: CfgNode, device: torch.device
) -> tuple[nn.Module, torch.optim.Optimizer, Callable[[dict[str, torch.Tensor]], dict[str, Any]]]:
    """Their model with random weights, its optimizer, and a function from our batches to its arguments.

    Their attention is the fused one that `transformers` chooses, the optimizer our own, fused too. They get
    their clips normalised and their masks drawn, which is no part of the time of their step.
    """
    config_class, model_class = import_classes()
    model = model_class(_their_config(cfg, config_class)).to(device).train()
    normalization = PixelNormalization(cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD).to(device)
    node = cfg.MODEL.BACKBONE
    side = cfg.INPUT.CROP_SIZE // node.PATCH_SIZE
    grid = (cfg.INPUT.NUM_FRAMES // node.TUBELET_SIZE, side, side)

    def inputs(batch: dict[str, torch.Tensor]) -> dict[str, Any]:
        return {
            "pixel_values": normalization(batch["video"]).transpose(1, 2).contiguous(),
            "bool_masked_pos": draw_mask(batch["seed"], grid, cfg.MODEL.MASK.TYPE, cfg.MODEL.MASK.RATIO),
        }

    return model, _optimizer(cfg, model), inputs


def import_classes() -> tuple[Any, Any]:
    """Their config and model; UserError where `transformers` is not installed."""
    try:
        from transformers import VideoMAEConfig, VideoMAEForPreTraining
    except ImportError:
        raise UserError(
            "--against huggingface needs transformers, which is not installed: pip install transformers"
        ) from None
    return VideoMAEConfig, VideoMAEForPreTraining


def check_comparable(cfg: CfgNode) -> None:
    """ConfigError where their model has no such choice, UserError where `transformers` is not installed."""
    import_classes()
    for key, wanted in _FIXED.items():
        found: Any = cfg
        for name in key.split("."):
            found = found[name]
        if found != wanted:
            raise ConfigError(f"{key}: {found}; Hugging Face's VideoMAE has {wanted} alone, so set that")


def _their_config(cfg: CfgNode, kind: Any) -> Any:
    backbone, decoder = cfg.MODEL.BACKBONE, cfg.MODEL.DECODER
    return kind(
        image_size=cfg.INPUT.CROP_SIZE,
        num_frames=cfg.INPUT.NUM_FRAMES,
        patch_size=backbone.PATCH_SIZE,
        tubelet_size=backbone.TUBELET_SIZE,
        hidden_size=backbone.EMBED_DIM,
        num_hidden_layers=backbone.DEPTH,
        num_attention_heads=backbone.NUM_HEADS,
        intermediate_size=int(backbone.EMBED_DIM * backbone.MLP_RATIO),
        decoder_hidden_size=decoder.EMBED_DIM,
        decoder_num_hidden_layers=decoder.DEPTH,
        decoder_num_attention_heads=decoder.NUM_HEADS,
        decoder_intermediate_size=4 * decoder.EMBED_DIM,
        norm_pix_loss=cfg.MODEL.RECONSTRUCTION.NORMALIZE,
        layer_norm_eps=LAYER_NORM_EPS,
        use_mean_pooling=False,  # there is then a norm after their encoder, as in ours
    )


def _optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW as ours has it: biases, norms and single tokens do not decay."""
    groups = [
        {
            "params": [p for p in model.parameters() if (p.squeeze().ndim > 1) == decays],
            "weight_decay": cfg.SOLVER.WEIGHT_DECAY if decays else 0.0,
        }
        for decays in (True, False)
    ]
    return torch.optim.AdamW(groups, lr=cfg.SOLVER.BASE_LR, betas=cfg.SOLVER.BETAS, fused=True)
