"""VideoMAE pre-training in Hugging Face Transformers, for `benchmark train --against huggingface`."""

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

# Keys whose values are fixed in Transformers' model.
_FIXED_KEYS = {
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
    """Build Transformers' model with random weights for the sizes of a config.

    The attention is the fused one that Transformers selects, and the optimizer is fused too. Normalization
    and masking happen in the returned conversion, which is not part of the time of a step.

    Returns:
        the model, its optimizer, and a function that converts our batches to the model's arguments.
    """
    config_class, model_class = import_transformers()
    model = model_class(_model_config(cfg, config_class)).to(device).train()
    normalization = PixelNormalization(cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD).to(device)
    node = cfg.MODEL.BACKBONE
    side = cfg.INPUT.CROP_SIZE // node.PATCH_SIZE
    grid = (cfg.INPUT.NUM_FRAMES // node.TUBELET_SIZE, side, side)

    def to_inputs(batch: dict[str, torch.Tensor]) -> dict[str, Any]:
        return {
            "pixel_values": normalization(batch["video"]).transpose(1, 2).contiguous(),
            "bool_masked_pos": draw_mask(batch["seed"], grid, cfg.MODEL.MASK.TYPE, cfg.MODEL.MASK.RATIO),
        }

    return model, _optimizer(cfg, model), to_inputs


def import_transformers() -> tuple[Any, Any]:
    """Import Transformers' config and model class; raise a UserError if it is not installed."""
    try:
        from transformers import VideoMAEConfig, VideoMAEForPreTraining
    except ImportError:
        raise UserError(
            "--against huggingface needs transformers, which is not installed: pip install transformers"
        ) from None
    return VideoMAEConfig, VideoMAEForPreTraining


def check_comparable(cfg: CfgNode) -> None:
    """Check that Transformers is installed and that its model can have the settings of a config.

    Raises:
        UserError: Transformers is not installed.
        ConfigError: a key has a value that its model does not support.
    """
    import_transformers()
    for key, supported in _FIXED_KEYS.items():
        value: Any = cfg
        for name in key.split("."):
            value = value[name]
        if value != supported:
            raise ConfigError(f"{key}: {value}; Hugging Face's VideoMAE supports only {supported}")


def _model_config(cfg: CfgNode, config_class: Any) -> Any:
    backbone, decoder = cfg.MODEL.BACKBONE, cfg.MODEL.DECODER
    return config_class(
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
        use_mean_pooling=False,  # adds a LayerNorm after the encoder, as in our model
    )


def _optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Return AdamW with the weight decay of our optimizer: none for biases, norms and single tokens."""
    groups = [
        {
            "params": [p for p in model.parameters() if (p.squeeze().ndim > 1) == decays],
            "weight_decay": cfg.SOLVER.WEIGHT_DECAY if decays else 0.0,
        }
        for decays in (True, False)
    ]
    return torch.optim.AdamW(groups, lr=cfg.SOLVER.BASE_LR, betas=cfg.SOLVER.BETAS, fused=True)
