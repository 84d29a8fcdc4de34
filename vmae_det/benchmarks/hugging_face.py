"""VideoMAE in Hugging Face Transformers, for `benchmark train --against huggingface`."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from vmae_det.config import CfgNode
from vmae_det.config.cfg_node import value_of
from vmae_det.modeling import model_class
from vmae_det.modeling.backbones.blocks import LAYER_NORM_EPS
from vmae_det.modeling.build import ROI_HEAD_REGISTRY
from vmae_det.modeling.losses import box_loss
from vmae_det.modeling.masking import draw_mask
from vmae_det.modeling.normalization import PixelNormalization
from vmae_det.utils.errors import ConfigError, UserError
from vmae_det.utils.registry import lookup

# Keys whose values are fixed in this comparison, for all tasks and by task.
_FIXED_KEYS = {
    "MODEL.BACKBONE.NAME": "VideoViT",
    "MODEL.BACKBONE.CLASS_TOKEN": False,
    "MODEL.BACKBONE.POSITIONS": "flat",
    "MODEL.BACKBONE.DROP_PATH": 0.0,
    "MODEL.BACKBONE.TOKEN_KEEP_RATE": 1.0,
    "MODEL.ACTIVATION_CHECKPOINTING": False,
    "SOLVER.OPTIMIZER": "adamw",
}
_FIXED_KEYS_OF_TASK = {
    "pretraining": {
        "MODEL.MASK.TYPE": "tube",
        "MODEL.DECODER.MASK": "none",
        "MODEL.RECONSTRUCTION.NUM_FRAMES": 0,
        "MODEL.RECONSTRUCTION.LOSS": "mse",
    },
    "classification": {"MODEL.CLASSIFIER.LINEAR_PROBE": False},
    "detection": {
        "MODEL.ROI_HEAD.NAME": "MaxPoolRoIHead",
        "MODEL.ROI_HEAD.TEMPORAL_POOL": "mean",
    },
}


class _Classifier(nn.Module):
    """Transformers' classifier, from normalized clips to the loss."""

    def __init__(self, model: nn.Module, label_smoothing: float) -> None:
        super().__init__()
        self.model, self.label_smoothing = model, label_smoothing

    def forward(self, pixel_values: torch.Tensor, label: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.model(pixel_values=pixel_values).logits.float()
        return {"loss": F.cross_entropy(logits, label, label_smoothing=self.label_smoothing)}


class _Detector(nn.Module):
    """Transformers' encoder with the RoI head of the config, as one would add it by hand."""

    def __init__(
        self, encoder: nn.Module, head: nn.Module, grid: tuple[int, int, int], focal: dict[str, float]
    ) -> None:
        super().__init__()
        self.encoder, self.head, self.grid, self.focal = encoder, head, grid, focal

    def forward(
        self, pixel_values: torch.Tensor, boxes: list[torch.Tensor], labels: list[torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        tokens = self.encoder(pixel_values=pixel_values).last_hidden_state.unflatten(1, self.grid)
        logits = self.head(tokens.mean(dim=1).permute(0, 3, 1, 2), boxes)
        return {"loss": box_loss(logits, torch.cat(labels), "sum", **self.focal)}


def build_hugging_face(
    cfg: CfgNode, device: torch.device
) -> tuple[nn.Module, torch.optim.Optimizer, Callable[[dict[str, Any]], dict[str, Any]]]:
    """Build Transformers' model for the task of a config, with random weights and the sizes of the config.

    The attention is the fused one that Transformers selects, and the optimizer is fused too. Normalization
    and masking happen in the returned conversion. On a CPU it is not part of the time of a step. Boxes are
    not jittered.

    Returns:
        the model, its optimizer, and a function that converts our batches to the model's arguments.
    """
    transformers = import_transformers()
    task = model_class(cfg).task
    node = cfg.MODEL.BACKBONE
    side = cfg.INPUT.CROP_SIZE // node.PATCH_SIZE
    grid = (cfg.INPUT.NUM_FRAMES // node.TUBELET_SIZE, side, side)
    config = _model_config(cfg, transformers.VideoMAEConfig)
    if task == "pretraining":
        model = transformers.VideoMAEForPreTraining(config)
    elif task == "classification":
        config.num_labels, config.use_mean_pooling = cfg.MODEL.CLASSIFIER.NUM_CLASSES, True
        classifier = transformers.VideoMAEForVideoClassification(config)
        model = _Classifier(classifier, cfg.MODEL.CLASSIFIER.LABEL_SMOOTHING)
    else:
        head_class = lookup(ROI_HEAD_REGISTRY, cfg.MODEL.ROI_HEAD.NAME, "MODEL.ROI_HEAD.NAME")
        head = head_class.from_config(cfg, in_dim=node.EMBED_DIM, scale=1 / node.PATCH_SIZE)
        focal = {"focal_gamma": cfg.MODEL.ROI_HEAD.FOCAL_GAMMA, "focal_alpha": cfg.MODEL.ROI_HEAD.FOCAL_ALPHA}
        model = _Detector(transformers.VideoMAEModel(config), head, grid, focal)
    model = model.to(device).train()
    normalization = PixelNormalization(cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD).to(device)

    def to_inputs(batch: dict[str, Any]) -> dict[str, Any]:
        inputs = {"pixel_values": normalization(batch["video"]).transpose(1, 2).contiguous()}
        if task == "pretraining":
            mask = draw_mask(batch["seed"], grid, cfg.MODEL.MASK.TYPE, cfg.MODEL.MASK.RATIO)
            return inputs | {"bool_masked_pos": mask}
        return inputs | {name: batch[name] for name in ("label", "boxes", "labels") if name in batch}

    return model, _optimizer(cfg, model), to_inputs


def import_transformers() -> ModuleType:
    """Import Transformers; raise a UserError if it is not installed."""
    try:
        import transformers
        from transformers import VideoMAEConfig  # noqa: F401
    except ImportError:
        raise UserError(
            "--against huggingface needs transformers, which is not installed: pip install transformers"
        ) from None
    return transformers


def check_comparable(cfg: CfgNode) -> None:
    """Check that Transformers is installed and that its model can have the settings of a config.

    Raises:
        UserError: Transformers is not installed.
        ConfigError: a key has a value that its model does not support.
    """
    import_transformers()
    task = model_class(cfg).task
    if task not in _FIXED_KEYS_OF_TASK:
        raise ConfigError(f"MODEL.META_ARCHITECTURE: Hugging Face has no {cfg.MODEL.META_ARCHITECTURE}")
    keys = _FIXED_KEYS | _FIXED_KEYS_OF_TASK[task]
    for key, supported in keys.items():
        value = value_of(cfg, key)
        if value != supported:
            raise ConfigError(
                f"{key}: {value}; the comparison with Hugging Face's VideoMAE supports only {supported}"
            )


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
