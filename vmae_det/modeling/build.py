"""Registries of models, backbones and heads, and building the model that a config describes."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from vmae_det.config import CfgNode
from vmae_det.config.size_bounds import FLOAT_BYTES, min_parameters
from vmae_det.utils.errors import ConfigError
from vmae_det.utils.memory import format_bytes, machine_memory
from vmae_det.utils.registry import Registry, lookup

logger = logging.getLogger(__name__)

META_ARCHITECTURE_REGISTRY = Registry("META_ARCHITECTURE")
BACKBONE_REGISTRY = Registry("BACKBONE")
ROI_HEAD_REGISTRY = Registry("ROI_HEAD")
PERSON_HEAD_REGISTRY = Registry("PERSON_HEAD")

PRETRAINING_TASKS = ("pretraining", "contrastive")  # their models have no classes


def model_class(cfg: CfgNode) -> Any:
    """Return the class that MODEL.META_ARCHITECTURE names.

    Its attribute `task` is the name under which its dataset class and evaluator are registered.
    """
    return lookup(META_ARCHITECTURE_REGISTRY, cfg.MODEL.META_ARCHITECTURE, "MODEL.META_ARCHITECTURE")


def build_model(cfg: CfgNode) -> nn.Module:
    """Build the model that MODEL.META_ARCHITECTURE names, on the CPU, with random weights seeded by SEED.

    Raises:
        ConfigError: the model is larger than the memory of this machine.
    """
    if torch.empty(0).device.type != "meta":
        _check_memory(cfg)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.SEED)
        model = model_class(cfg).from_config(cfg)
        if cfg.MODEL.INIT == "published":
            for module in model.modules():
                if hasattr(module, "init_as_published"):
                    module.init_as_published()
        return model


def build_backbone(cfg: CfgNode, final_norm: bool = True) -> nn.Module:
    """Build the backbone that MODEL.BACKBONE.NAME names."""
    backbone = lookup(BACKBONE_REGISTRY, cfg.MODEL.BACKBONE.NAME, "MODEL.BACKBONE.NAME")
    keep_rate = cfg.MODEL.BACKBONE.TOKEN_KEEP_RATE
    if keep_rate < 1 and not getattr(backbone, "can_drop_tokens", False):
        raise ConfigError(
            f"MODEL.BACKBONE.TOKEN_KEEP_RATE: {keep_rate}, but {cfg.MODEL.BACKBONE.NAME} cannot drop tokens; "
            "set it to 1.0"
        )
    expected = getattr(backbone, "pixel_statistics", None)
    if expected and expected != (tuple(cfg.MODEL.PIXEL_MEAN), tuple(cfg.MODEL.PIXEL_STD)):
        logger.warning(
            "MODEL.PIXEL_MEAN, MODEL.PIXEL_STD: %s, %s; the published weights of %s expect %s, %s",
            *(cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, cfg.MODEL.BACKBONE.NAME, *expected),
        )
    return backbone.from_config(cfg, final_norm=final_norm)


def _check_memory(cfg: CfgNode) -> None:
    needed, available = FLOAT_BYTES * min_parameters(cfg), machine_memory()
    if needed > available:
        raise ConfigError(
            f"MODEL.BACKBONE: EMBED_DIM and DEPTH, with those of the decoder, make weights of at least "
            f"{format_bytes(needed)}; this machine has {format_bytes(available)} of memory"
        )
